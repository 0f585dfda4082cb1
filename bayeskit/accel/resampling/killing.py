"""Killing: particles stay where they are unless they are light, and then copy another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.resampling.scheme import Ancestors, Scheme, draw, inner
from bayeskit.accel.resampling.search import count_at_most, spread

__all__ = ["KILLING", "killing", "survival"]


def survival(cdf: jax.Array) -> jax.Array:
    """Return the probabilities to be kept, W over its maximum. For a 64-bit scope."""
    weights = jnp.diff(cdf, prepend=0.0)
    return weights / jnp.max(weights)


def _uniform_shape(num_particles: int, num: int) -> tuple[int, ...]:
    return (num,)


def _breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        kept = survival(cdf)[:, None]
        return jnp.concatenate([kept, kept + (1 - kept) * (inner(cdf) / num)], axis=1)


def _ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        # What is left of the uniform of a killed particle is uniform again.
        u, kept = jnp.asarray(u, jnp.float64), survival(cdf)
        left = jnp.where(u < kept, 0.0, (u - kept) / jnp.where(kept < 1, 1 - kept, 1.0))
        drawn = count_at_most(cdf, spread(left, jnp.float64(num)), num)
        return jnp.where(u < kept, jnp.arange(num, dtype=jnp.int32), drawn)


KILLING = Scheme(
    "killing",
    _uniform_shape,
    _breaks,
    _ancestors,
    is_sorted=False,
    inverts_cdf=True,
    keeps_number=True,
)


def killing(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
    r"""Resample by keeping each particle in its slot, or replacing it by an independent draw.

    Particle i is kept with probability :math:`p_i = W_i / \max_j W_j`. Otherwise its slot goes
    to a particle drawn with probabilities W. With equal weights nothing changes at all. The
    variance of the number of offspring is

    .. math:: \sum_s K_{si} (1 - K_{si}), \qquad
        K_{si} = p_s 1\{s = i\} + (1 - p_s) W_i .

    Parameters
    ----------
    key : key
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring, which must be the number of particles.
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    Ancestors
        Indices are independent, those of kept particles in their own slots.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights of a row are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or another
        number of offspring.

    Notes
    -----
    O(N log k), as :func:`multinomial`.

    No gradient goes through the choice of ancestors: JAX takes its derivative as zero and does
    not say so. ``log_mean`` has its own.

    References
    ----------
    Del Moral (2004), *Feynman-Kac formulae*, section 2.5. Chopin, Singh, Soto & Vihola (2022),
    *On resampling schemes for particle filters with weakly informative observations*.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> killing(jax.random.key(0), jnp.zeros(3)).index.tolist()
    [0, 1, 2]
    """
    return draw(KILLING, key, log_weights, num, nan)
