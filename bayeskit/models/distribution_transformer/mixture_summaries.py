"""Moments and quantiles of mixtures, by formula."""

from __future__ import annotations

import numpy as np
from scipy import special

from bayeskit.models.distribution_transformer.mixture_arrays import Mixture, covariances
from bayeskit.models.distribution_transformer.supports import Intervals

__all__ = ["half_line_moments", "marginal_quantiles"]

# Halvings of an interval: 2^-60 of its length is rounding.
_NUM_HALVINGS = 60


def half_line_moments(mixture: Mixture, support: Intervals) -> tuple[np.ndarray, np.ndarray]:
    """Return moments where each coordinate is u or low + exp(u), by Gaussian integrals."""
    is_half = np.isfinite(support.low)
    low = np.where(is_half, support.low, 0.0)
    component_covariances = covariances(mixture)
    variances = np.diagonal(component_covariances, axis1=-2, axis2=-1)
    grown = np.exp(np.where(is_half, mixture.means + 0.5 * variances, 0.0))
    # E[u_j exp(u_i)] = E[exp(u_i)] (mu_j + cov_ij), E[exp(u_i + u_j)] the same with exp(cov).
    means = np.where(is_half, grown, mixture.means)
    factor = np.where(is_half[:, None] & is_half, np.exp(component_covariances), 1.0)
    shift = np.where(~is_half & is_half[:, None], component_covariances, 0.0)
    both_real = ~is_half[:, None] & ~is_half
    row, column = means[..., :, None], means[..., None, :]
    second = row * (column + shift) * factor
    second = second + np.swapaxes(shift, -1, -2) * column
    second = np.where(both_real, row * column + component_covariances, second)
    weights = np.exp(mixture.log_weights)
    mean = np.einsum("...k,...ki->...i", weights, means)
    cov = np.einsum("...k,...kij->...ij", weights, second)
    return mean + low, cov - mean[..., :, None] * mean[..., None, :]


def marginal_quantiles(mixture: Mixture, levels: np.ndarray) -> np.ndarray:
    """Return quantiles (num, ..., d) of each coordinate, by bisection of the distribution."""
    sd = np.sqrt(np.einsum("...kij,...kij->...ki", mixture.factors, mixture.factors))
    weights = np.exp(mixture.log_weights)
    each = mixture.means + sd * special.ndtri(levels)[..., None]
    low, high = each.min(axis=-2), each.max(axis=-2)
    for _ in range(_NUM_HALVINGS):
        middle = 0.5 * (low + high)
        z = (middle[..., None, :] - mixture.means) / sd
        below = np.einsum("...k,...ki->...i", weights, special.ndtr(z)) < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)
