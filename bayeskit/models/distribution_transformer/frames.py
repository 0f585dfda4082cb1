"""Coordinates in which problems look alike, and changes of a mixture in its own units."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.small_matrices import (
    cholesky,
    multiply,
    multiply_vector,
    solve_lower,
    whiten,
)

__all__ = ["Frame", "change", "frame_of", "in_frame"]


class Frame(NamedTuple):
    """Origin (..., d) and lower triangular scale (..., d, d) of affine coordinates."""

    origin: jax.Array
    scale: jax.Array


def frame_of(mixture: Mixture) -> Frame:
    """Return the mean of a whole mixture and the Cholesky factor of its covariance."""
    weights = jnp.exp(mixture.log_weights)
    mean = (weights[..., None] * mixture.means).sum(axis=-2)
    offset = (mixture.means - mean[..., None, :])[..., None]
    columns = jnp.concatenate([mixture.factors, offset], axis=-1)
    squares = (columns[..., :, None, :] * columns[..., None, :, :]).sum(axis=-1)
    covariance = (weights[..., None, None] * squares).sum(axis=-3)
    return Frame(mean, cholesky(covariance, floor=1e-30))


def in_frame(mixture: Mixture, frame: Frame) -> Mixture:
    """Return the mixture in coordinates x' with ``x = origin + scale x'``."""
    scale = jnp.broadcast_to(frame.scale[..., None, :, :], mixture.factors.shape)
    offset = mixture.means - frame.origin[..., None, :]
    factors = solve_lower(scale, mixture.factors)
    return Mixture(mixture.log_weights, whiten(scale, offset), factors)


def change(mixture: Mixture, by: Mixture) -> Mixture:
    r"""Return :math:`w_i e^{a_i}, \mu_i + L_i b_i, L_i E_i` for a change :math:`(a, b, E)`.

    A change is in units of each component, so whatever shifts, scales or shears the mixture
    leaves the meaning of a change as it is.
    """
    return Mixture(
        jax.nn.log_softmax(mixture.log_weights + by.log_weights, axis=-1),
        mixture.means + multiply_vector(mixture.factors, by.means),
        multiply(mixture.factors, by.factors),
    )
