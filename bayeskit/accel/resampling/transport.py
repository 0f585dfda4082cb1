r"""Entropic optimal transport: particles move in place of being chosen, differentiably.

Among the couplings P of the weights W with equal weights, the entropic one minimises

.. math:: \sum_{ij} P_{ij} |x_i - x_j|^2 / s^2
    + \varepsilon \sum_{ij} P_{ij} \log P_{ij} ,

s the spread of the particles. A new particle is the mean of the old ones under the column of P
that belongs to its slot.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from bayeskit.accel._checks import as_log_array, is_traced, refuse_bad_weights
from bayeskit.accel.weights import normalize_checked

__all__ = ["Transported", "transport"]


class Transported(NamedTuple):
    """Particles that were moved, and their weights.

    Parameters
    ----------
    particles : pytree of (num_particles, ...) arrays
    log_weights : (num_particles,) array
        Normalised, and equal in the limit of many iterations.
    ok : () bool array
        False where no weight could be used; particles then stay, with equal weights.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import accel
    >>> x, weights = jnp.array([0.0, 1.0, 4.0]), jnp.array([0.2, 0.3, 0.5])
    >>> moved = accel.transport(x, jnp.log(weights))
    >>> jnp.exp(moved.log_weights).round(2).tolist()
    [0.33, 0.33, 0.33]
    """

    particles: Any
    log_weights: jax.Array
    ok: jax.Array


def transport(
    particles: Any, log_weights: Any, epsilon: float = 0.1, num_iterations: int = 100
) -> Transported:
    r"""Move weighted particles to nearly equal weights by entropic optimal transport.

    .. math:: b_j = \sum_i P_{ij}, \qquad x'_j = \frac{1}{b_j} \sum_i P_{ij} x_i

    The last of Sinkhorn's half-steps makes the rows of P add up to the weights W. So the
    weighted mean is kept to rounding after any number of iterations,
    :math:`\sum_j b_j x'_j = \sum_i W_i x_i`, and the new weights b tend to 1/N. Means of other
    functions are not kept: particles move towards each other by what ``epsilon`` blurs.

    Parameters
    ----------
    particles : pytree of (num_particles, ...) arrays of real numbers
        The distance is Euclidean over all leaves, so that they should be of similar scale.
    log_weights : (num_particles,) array, real or -inf, any normalisation
    epsilon : float > 0
        Strength of the blur, relative to the squared spread of the particles.
    num_iterations : int >= 1
        Sinkhorn iterations, more for smaller ``epsilon``.

    Returns
    -------
    Transported
        No randomness enters. Gradients flow through the iterations.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights are -inf (inside ``jit``: ``ok`` is False).
    TypeError
        For leaves that are not real numbers: other states have no means.
    ValueError
        For shapes that do not fit, ``epsilon`` not above 0 or ``num_iterations`` below 1.

    Notes
    -----
    O(N² num_iterations) time. O(N²) memory, and num_iterations vectors more for a gradient,
    whose half-steps are computed again.

    References
    ----------
    Reich (2013), *A nonparametric ensemble transform method*. Corenflos, Thornton,
    Deligiannidis & Doucet (2021), *Differentiable particle filtering via entropy-regularized
    optimal transport*. Cuturi (2013), for the iterations.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> x, log_weights = jnp.array([0.0, 1.0, 4.0]), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    >>> moved = transport(x, log_weights)
    >>> round(float(jnp.sum(jnp.exp(moved.log_weights) * moved.particles)), 4)
    2.3
    """
    log_weights = as_log_array(log_weights, "log_weights")
    for path, leaf in jax.tree_util.tree_leaves_with_path(particles):
        name = f"particles{jax.tree_util.keystr(path)}"
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            raise TypeError(
                f"{name} has dtype {jnp.asarray(leaf).dtype}: transport takes means of "
                "particles, which only real numbers have. Choose a resampling scheme"
            )
        if log_weights.ndim != 1 or jnp.shape(leaf)[:1] != log_weights.shape:
            raise ValueError(
                f"{name} has shape {jnp.shape(leaf)}, but log_weights has {log_weights.shape}: "
                "both need one leading axis of particles"
            )
    if not is_traced(epsilon) and not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon!r}")
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, got {num_iterations!r}")
    result = _transported(particles, log_weights, epsilon, int(num_iterations))
    refuse_bad_weights(log_weights, result.ok, "log_weights")
    return result


@functools.partial(jax.jit, static_argnames="num_iterations")
def _transported(particles, log_weights, epsilon, num_iterations):
    rows = jax.vmap(lambda x: ravel_pytree(x)[0])(particles)
    _, restore = ravel_pytree(jax.tree.map(lambda x: x[0], particles))
    summary = normalize_checked(log_weights)
    # Rows that are not ok get equal weights: no NaN arises, not in gradients either.
    normalised = jnp.where(summary.ok, log_weights, 0.0)
    normalised = normalised - jnp.where(summary.ok, summary.log_sum, jnp.log(len(rows)))
    log_coupling = _log_coupling(rows, normalised, epsilon, num_iterations)
    log_columns = logsumexp(log_coupling, axis=0)
    shares = jnp.exp(log_coupling - log_columns)
    moved = jnp.where(summary.ok, shares.T @ rows, rows)
    log_columns = jnp.where(summary.ok, log_columns, normalised)
    return Transported(jax.vmap(restore)(moved), log_columns, summary.ok)


def _log_coupling(rows, log_weights, epsilon, num_iterations):
    """Return log P (num_particles, num_particles), whose rows add up to the weights."""
    num = rows.shape[0]
    weights = jnp.exp(log_weights)
    centred = rows - weights @ rows
    # Without a spread all particles are equal, and any unit will do.
    variance = jnp.sum(weights @ centred**2)
    squares = jnp.sum((rows[:, None] - rows[None]) ** 2, axis=-1)
    cost = squares / (epsilon * jnp.where(variance > 0, variance, 1.0))
    log_equal = -jnp.log(jnp.asarray(num, rows.dtype))
    # A dead particle has an empty row and must not turn differences into NaN.
    alive = log_weights > -jnp.inf
    target = jnp.where(alive, log_weights, 0.0)
    cost = jnp.where(alive[:, None], cost, jnp.inf)

    def by_rows(g):
        total = logsumexp(jnp.where(alive[:, None], g - cost, 0.0), axis=1)
        return jnp.where(alive, target - total, -jnp.inf)

    @jax.checkpoint
    def iterate(f, _):
        g = log_equal - logsumexp(f[:, None] - cost, axis=0)
        return by_rows(g), None

    start = jnp.where(alive, target, -jnp.inf)
    f, _ = lax.scan(iterate, start, length=num_iterations)
    g = log_equal - logsumexp(f[:, None] - cost, axis=0)
    return by_rows(g)[:, None] + g - cost
