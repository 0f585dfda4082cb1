"""How a move kernel is tuned to a population, before it moves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference.kernels.base import Tuning
from bayeskit.inference.population import Population, effective_sample_size

__all__ = [
    "adapted_repeats",
    "adapted_tuning",
    "covariance_factor",
    "initial_tuning",
    "weighted_moments",
]

# Above this dimension the metric is diagonal: a covariance needs more particles than that.
MAX_DENSE_DIM = 200


def weighted_moments(
    positions: jax.Array, log_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the weighted mean (dim,) and covariance (dim, dim) of positions (num, dim)."""
    if not jnp.issubdtype(positions.dtype, jnp.floating):
        positions = positions.astype(float)
    positions, log_weights = accel.gathered((positions, log_weights))
    weights = jnp.exp(log_weights).astype(positions.dtype)
    mean = weights @ positions
    centred = positions - mean
    return mean, (weights[:, None] * centred).T @ centred


def covariance_factor(covariance: jax.Array, effective_size: jax.Array) -> jax.Array:
    r"""Return a lower triangular L with L L' close to a covariance, robustly.

    The correlation matrix is shrunk towards the identity by :math:`5/(n + 5)`, n the
    effective number of draws it was estimated from. Where it still has no Cholesky factor,
    or the coordinate does not vary, the diagonal is used.
    """
    variance = jnp.diagonal(covariance)
    scale = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    shrinkage = 5.0 / (effective_size + 5.0)
    correlation = covariance / jnp.outer(scale, scale)
    identity = jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    shrunk = (1.0 - shrinkage) * correlation + shrinkage * identity
    factor = scale[:, None] * jnp.linalg.cholesky(shrunk)
    return jnp.where(jnp.all(jnp.isfinite(factor)), factor, jnp.diag(scale))


def adapted_tuning(
    kernel: Any, population: Population, tuning: Tuning, acceptance: jax.Array | float
) -> Tuning:
    """Return the tuning for the next moves.

    The metric is fitted to the weighted population. The log step size moves by the distance
    of the last acceptance from the kernel's target. NaN leaves it alone: the acceptance before
    any move, or the target of a kernel whose acceptance says little about its step.
    """
    # Particles of some paths are positions without cached values.
    positions = getattr(population.particles, "position", population.particles)
    mean, covariance = weighted_moments(positions, population.log_weights)
    if tuning.factor.ndim == 2:
        effective_size = effective_sample_size(population.log_weights)
        factor = covariance_factor(covariance, effective_size.astype(covariance.dtype))
    else:
        variance = jnp.diagonal(covariance)
        factor = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    surprise = acceptance - kernel.target_acceptance
    surprise = jnp.where(jnp.isnan(surprise), 0.0, surprise)
    step_size = tuning.step_size * jnp.exp(surprise).astype(tuning.step_size.dtype)
    # Kernels of users may know no largest step.
    step_size = jnp.minimum(step_size, getattr(kernel, "max_step_size", jnp.inf))
    return tuning._replace(step_size=step_size, mean=mean, factor=factor)


def initial_tuning(kernel: Any, dim: int) -> Tuning:
    """Return the tuning that adaptation starts from: dense up to ``MAX_DENSE_DIM``."""
    tuning = kernel.default_tuning(dim)
    if dim > MAX_DENSE_DIM:
        return tuning
    return tuning._replace(factor=np.eye(dim, dtype=tuning.factor.dtype))


def adapted_repeats(
    repeats: jax.Array | int, correlation: jax.Array | float, wanted: float, most: int
) -> jax.Array:
    """Return how many kernel steps bring the correlation to what is wanted.

    If r steps leave a correlation c, then k steps leave about c^(k/r).
    """
    seen = jnp.clip(correlation, 1e-3, 0.999)
    needed = jnp.ceil(repeats * jnp.log(wanted) / jnp.log(seen))
    needed = jnp.where(jnp.isnan(correlation), repeats, needed)
    # At most double: one noisy estimate must not make the next stage sixty times dearer.
    return jnp.clip(needed, 1, jnp.minimum(2 * repeats, most)).astype(jnp.int32)
