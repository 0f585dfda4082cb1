r"""Srinivasan sampling process: duels for the fractional offspring, one after the other.

The process walks through the particles and carries one open fraction with it. At particle i it
meets the carrier's fraction f and the particle's own, x. The two duel, so that one of them
becomes whole and the other carries what remains:

- if f + x < 1, one loses all, and i takes over with f + x with probability x / (f + x);
- else one gets an offspring, and i takes over with f + x - 1 with probability
  (1 - x) / (2 - f - x).

What remains open after i does not depend on who carries it: it is the fractional part of the
cumulative weight :math:`R_i`. So all probabilities are known beforehand and all duels are
independent. The carrier of the open fraction wins its offspring if and only if the next
take-over happens where f + x reaches 1, whence the cumulative number of offspring is
:math:`\lfloor R_i \rfloor` and that one, or not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel.offspring import offspring_to_ancestors
from bayeskit.accel.resampling.scheme import Ancestors, Scheme, draw, fraction
from bayeskit.accel.scan import running_max

__all__ = ["SSP", "Duels", "ancestors_of_duels", "duels", "ssp"]


class Duels(NamedTuple):
    """The duels of the particles 1, ..., N - 1 with the carrier before them.

    Parameters
    ----------
    open : (num_particles,) array in [0, 1)
        Fraction that is open after each particle.
    share : (num_particles,) array in [0, 1)
        Fractional part of each expected number of offspring.
    gives : (num_particles - 1,) bool array
        Whether the duel gives an offspring away.
    takes_over : (num_particles - 1,) array in [0, 1]
        Probability that the particle carries on.
    """

    open: jax.Array
    share: jax.Array
    gives: jax.Array
    takes_over: jax.Array


def duels(cdf: jax.Array) -> Duels:
    """Return the duels for one row of scaled cumulative weights, which lie on a binary grid.

    Sums and differences of their fractions are exact. To be called in a 64-bit scope.
    """
    remaining, share = fraction(cdf), fraction(jnp.diff(cdf, prepend=0.0))
    before, own = remaining[:-1], share[1:]
    total = before + own
    gives = total >= 1
    chance = jnp.where(gives, 1 - own, own)
    against = jnp.where(gives, 1 - before, before)
    both = chance + against
    takes_over = jnp.where(both > 0, chance / jnp.where(both > 0, both, 1), 0)
    return Duels(remaining, share, gives, takes_over)


def ancestors_of_duels(
    cdf: jax.Array, gives: jax.Array, takes_over: jax.Array, num: int
) -> jax.Array:
    """Return the ancestors (num,) for the outcomes of the duels (num_particles - 1,)."""
    with jax.enable_x64(True):
        # The next take-over after i is the last before i when one looks from the end.
        number = 2 * jnp.arange(1, cdf.shape[0]) + gives[::-1]
        latest = running_max(jnp.where(takes_over[::-1], number, 0))
        wins = jnp.concatenate([latest[::-1] % 2, jnp.zeros(1, latest.dtype)])
        cumulative = cdf.astype(jnp.int32) + wins.astype(jnp.int32)
    return offspring_to_ancestors(cumulative, num)


def _uniform_shape(num_particles: int, num: int) -> tuple[int, ...]:
    return (num_particles - 1,)


def _breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        return duels(cdf).takes_over[:, None]


def _ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        all_duels = duels(cdf)
        takes_over = jnp.asarray(u, jnp.float64) < all_duels.takes_over
    return ancestors_of_duels(cdf, all_duels.gives, takes_over, num)


SSP = Scheme("ssp", _uniform_shape, _breaks, _ancestors)


def ssp(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
    r"""Resample by the Srinivasan sampling process.

    Each particle has :math:`\lfloor \text{num}\, W_i \rfloor` or one more offspring, the latter
    with probability p, the fractional part: the variance is p (1 - p), as for
    :func:`systematic`. The numbers of offspring are negatively associated, which those of
    systematic resampling are not: particle filters converge whatever the order of the
    particles.

    Parameters
    ----------
    key : key
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring. Default: as many as there are particles.
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    Ancestors
        Indices are sorted.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights of a row are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        outside [0, 2**31).

    Notes
    -----
    O(N + num). The law depends on the order of the particles.

    No gradient goes through the choice of ancestors: JAX takes its derivative as zero and does
    not say so. ``log_mean`` has its own.

    References
    ----------
    Gerber, Chopin & Whiteley (2019), *Negative association, ordering and convergence of
    resampling methods*, algorithm 2. Srinivasan (2001). That duels in a fixed order have
    probabilities known beforehand: Deville & Tillé (1998), Chauvet (2012).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> ssp(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25])), 4).index.tolist()
    [0, 0, 1, 2]
    """
    return draw(SSP, key, log_weights, num, nan)
