r"""Where the network starts: each component updated on its own, without any training.

A mixture prior :math:`\sum_i w_i N_i` has the posterior
:math:`\sum_i w_i Z_i \cdot N_i\,p(z|\cdot)/Z_i` with :math:`Z_i = \int N_i\,p(z|\cdot)`. Each
tilted component is replaced by a Gaussian: exactly where the likelihood is linear and Gaussian,
else by Newton's method and, in few dimensions, the moments of a quadrature around the mode.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.distribution_transformer.small_matrices import (
    cholesky,
    log_diagonal,
    multiply_vector,
    posterior_factor,
    solve_lower,
    solve_upper,
)

__all__ = ["Tilted", "grid", "linear_gaussian_update", "tilt"]

# Nodes an axis of the quadrature that replaces Laplace's approximation, by dimension: at most
# 64 evaluations of the likelihood.
_NUM_NODES = {1: 15, 2: 7, 3: 4}
# Points an axis, and how far they reach in standard deviations, of the grid on which parts are
# fitted to a component.
_GRIDS = {1: (41, 6.0), 2: (11, 4.5)}
_MAX_NEWTON_STEPS = 60
# Long ones too: towards a mode in the tail of an exponential, Newton's own steps are all 1.
_STEP_SIZES = (10.0, 3.0, 1.0, 0.5, 0.2, 0.05)
# Longest step of Newton's method, in standard deviations of the prior component.
_LONGEST_STEP = 10.0
# Where the log likelihood is convex a posterior variance could exceed that of the prior without
# bound; the quadrature or the network then widens it further.
_MIN_PRECISION = 0.25


class Tilted(NamedTuple):
    """One component after the data: its evidence, a Gaussian, and its density around that.

    Attributes
    ----------
    log_evidence : (...) array
    mean : (..., d) array
    factor : (..., d, d) array
    shares : (..., G) array
        Of the points of :func:`grid` around the Gaussian, adding up to 1; G is 0 where nothing
        is known beyond the Gaussian.
    """

    log_evidence: jax.Array
    mean: jax.Array
    factor: jax.Array
    shares: jax.Array


def _log_cell(d: int) -> float:
    """Return log of the volume of a cell of the grid, over that of the standard normal."""
    number, reach = _GRIDS[d]
    return d * (np.log(2 * reach / (number - 1)) - 0.5 * np.log(2 * np.pi))


@functools.cache
def grid(d: int) -> np.ndarray:
    """Return points (G, d) at equal distances; none in more than two dimensions."""
    if d not in _GRIDS:
        return np.zeros((0, d))
    number, reach = _GRIDS[d]
    return np.array(list(itertools.product(np.linspace(-reach, reach, number), repeat=d)))


def linear_gaussian_update(
    mean: jax.Array,
    factor: jax.Array,
    operator: jax.Array,
    rows: jax.Array,
    mask: jax.Array,
) -> Tilted:
    r"""Return the exact update of one component by rows of unit noise.

    .. math:: z_n = H x + e_n, \quad e_n \sim N(0, I), \qquad
              P = I + n\,G^T G,\ G = H L, \quad v = P^{-1} G^T \sum_n (z_n - H\mu)

    and the posterior has mean :math:`\mu + L v` and covariance :math:`L P^{-1} L^T`.

    Parameters
    ----------
    mean, factor : (d,) and (d, d) arrays
    operator : (m, d) array
        H, divided by the noise.
    rows : (n, m) array
        Likewise.
    mask : (n,) array of bool
    """
    weights = mask.astype(mean.dtype)
    count = weights.sum()
    g = (operator[:, :, None] * factor[None, :, :]).sum(axis=1)
    residual = jnp.where(mask[:, None], rows - multiply_vector(operator, mean), 0.0)
    total = residual.sum(axis=0)
    precision = jnp.eye(len(mean), dtype=mean.dtype) + count * (
        g[:, :, None] * g[:, None, :]
    ).sum(axis=0)
    root, half_log_det = posterior_factor(precision)
    b = (g * total[:, None]).sum(axis=0)
    v = multiply_vector(root, (root * b[:, None]).sum(axis=0))
    # As a sum of squares, since the difference of two large numbers would lose all digits.
    left = jnp.where(mask[:, None], residual - multiply_vector(g, v), 0.0)
    log_evidence = (
        -0.5 * (left**2).sum()
        - 0.5 * (v**2).sum()
        - half_log_det
        - 0.5 * count * rows.shape[-1] * np.log(2 * np.pi)
    )
    new_factor = (factor[:, :, None] * root[None, :, :]).sum(axis=1)
    nothing = jnp.zeros(0, mean.dtype)
    return Tilted(log_evidence, mean + multiply_vector(factor, v), new_factor, nothing)


def tilt(
    log_likelihood: Callable[[jax.Array], jax.Array], mean: jax.Array, factor: jax.Array
) -> Tilted:
    """Return the Gaussian of a component times a likelihood.

    Parameters
    ----------
    log_likelihood : callable (d,) -> ()
        Twice differentiable almost everywhere.
    mean, factor : (d,) and (d, d) arrays

    Notes
    -----
    Cost: up to 60 gradients and Hessians in d dimensions, and at most 185 values.
    """
    d = len(mean)

    def log_target(v: jax.Array) -> jax.Array:
        value = log_likelihood(mean + multiply_vector(factor, v)) - 0.5 * (v**2).sum()
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    v = _mode(log_target, jnp.zeros_like(mean))
    root, _ = posterior_factor(_curvature(log_target, v), _MIN_PRECISION)
    log_evidence = log_target(v) + log_diagonal(root).sum()
    if d in _NUM_NODES:
        log_evidence, v, root = _moments(log_target, v, root)
    points = jnp.asarray(grid(d), mean.dtype)
    shares = jnp.zeros(0, mean.dtype)
    if len(points):
        values = jax.vmap(lambda xi: log_target(v + multiply_vector(root, xi)))(points)
        total = jax.nn.logsumexp(values)
        shares = jnp.exp(values - total)
        log_evidence = total + _log_cell(d) + log_diagonal(root).sum()
    return Tilted(
        log_evidence,
        mean + multiply_vector(factor, v),
        (factor[:, :, None] * root[None, :, :]).sum(axis=1),
        shares,
    )


def _mode(log_target: Callable, start: jax.Array) -> jax.Array:
    """Climb by Newton's method, with steps cut where the density would fall."""
    sizes = jnp.asarray(_STEP_SIZES, start.dtype)
    tolerance = 1e-3 if start.dtype == jnp.float32 else 1e-8

    def is_moving(state: tuple) -> jax.Array:
        number, _, moved = state
        return (number < _MAX_NEWTON_STEPS) & (moved > tolerance)

    def step(state: tuple) -> tuple:
        number, v, _ = state
        gradient = jax.grad(log_target)(v)
        root = cholesky(_curvature(log_target, v), 1e-2)
        half = solve_lower(root, gradient[:, None])
        direction = solve_upper(root, half)[:, 0]
        direction = jnp.where(jnp.isfinite(direction), direction, 0.0)
        length = jnp.sqrt((direction**2).sum() + 1e-30)
        direction = direction * jnp.minimum(1.0, _LONGEST_STEP / length)
        candidates = v + sizes[:, None] * direction
        values = jax.vmap(log_target)(candidates)
        best = jnp.argmax(values)
        # Allow for rounding, else the last steps towards the mode would be refused.
        here = log_target(v)
        slack = 1e-6 * (1 + jnp.abs(here))
        is_better = values[best] >= here - slack
        new = jnp.where(is_better, candidates[best], v)
        return number + 1, new, jnp.where(is_better, length * sizes[best], 0.0)

    state = (0, start, jnp.asarray(jnp.inf, start.dtype))
    return jax.lax.while_loop(is_moving, step, state)[1]


def _curvature(log_target: Callable, v: jax.Array) -> jax.Array:
    """Return minus the Hessian, and the identity where it is not finite."""
    hessian = -jax.hessian(log_target)(v)
    hessian = 0.5 * (hessian + hessian.T)
    identity = jnp.eye(len(v), dtype=v.dtype)
    return jnp.where(jnp.isfinite(hessian).all(), hessian, identity)


def _moments(log_target: Callable, v: jax.Array, root: jax.Array) -> tuple:
    """Return log evidence, mean and factor by Gauss-Hermite quadrature around the mode."""
    nodes, log_node_weights = (jnp.asarray(a, v.dtype) for a in _quadrature(len(v)))
    for _ in range(2):
        around, scale = v, root
        values = jax.vmap(lambda xi: log_target(around + multiply_vector(scale, xi)))(nodes)  # noqa: B023
        log_terms = values + 0.5 * (nodes**2).sum(axis=-1) + log_node_weights
        total = jax.nn.logsumexp(log_terms)
        shares = jnp.exp(log_terms - total)
        mean = (shares[:, None] * nodes).sum(axis=0)
        centred = nodes - mean
        covariance = (shares[:, None, None] * centred[:, :, None] * centred[:, None, :]).sum(0)
        spread = cholesky(covariance, floor=1e-2)
        log_evidence = total + log_diagonal(scale).sum()
        v = around + multiply_vector(scale, mean)
        root = (scale[:, :, None] * spread[None, :, :]).sum(axis=1)
    return log_evidence, v, root


@functools.cache
def _quadrature(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes (points, d) and log weights of a product rule for the standard normal."""
    x, w = np.polynomial.hermite_e.hermegauss(_NUM_NODES[d])
    nodes = np.array(list(itertools.product(x, repeat=d)))
    weights = np.array([np.prod(c) for c in itertools.product(w / w.sum(), repeat=d)])
    return nodes, np.log(weights)
