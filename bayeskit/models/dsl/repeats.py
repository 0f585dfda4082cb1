r"""One estimate from several repeats of the random split.

Coordinate by coordinate the median point, with the spread between repeats in its variance:

.. math:: \hat\theta = \mathrm{med}_s\, \theta_s, \qquad
    \hat V = \mathrm{med}_s \{ V_s + (\theta_s - \hat\theta)(\theta_s - \hat\theta)^\top \}.
"""

from __future__ import annotations

import numpy as np

__all__ = ["combine_repeats", "nearest_covariance"]

_MAX_PROJECTIONS = 200
_TOLERANCE = 1e-13


def combine_repeats(theta: np.ndarray, vcov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the combined estimate (parameters) and covariance (parameters, parameters).

    Parameters
    ----------
    theta : (splits, parameters) array
    vcov : (splits, parameters, parameters) array

    References
    ----------
    Chernozhukov et al. (2018), *Double/debiased machine learning*, definition 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> theta, vcov = combine_repeats(np.array([[1.0], [1.2], [1.4]]), np.full((3, 1, 1), 0.01))
    >>> float(theta[0]), round(float(vcov[0, 0]), 3)
    (1.2, 0.05)
    """
    centre = np.median(theta, axis=0)
    away = theta - centre
    covariance = np.median(vcov + away[:, :, None] * away[:, None, :], axis=0)
    return centre, nearest_covariance(0.5 * (covariance + covariance.T))


def nearest_covariance(matrix: np.ndarray) -> np.ndarray:
    """Return the nearest positive semi-definite matrix with the same diagonal.

    A matrix that is positive semi-definite is returned as it is.

    References
    ----------
    Higham (2002), *Computing the nearest correlation matrix*, algorithm 3.3.
    """
    scale = np.sqrt(np.diag(matrix))
    if not (scale > 0).all():
        return matrix
    correlation = matrix / np.outer(scale, scale)
    if np.linalg.eigvalsh(correlation)[0] >= -_TOLERANCE:
        return matrix
    current, correction = correlation, np.zeros_like(correlation)
    for _ in range(_MAX_PROJECTIONS):
        shifted = current - correction
        values, vectors = np.linalg.eigh(shifted)
        projected = (vectors * np.maximum(values, 0.0)) @ vectors.T
        correction = projected - shifted
        current = projected.copy()
        np.fill_diagonal(current, 1.0)
        if np.abs(current - projected).max() < _TOLERANCE:
            break
    # The last projection is onto unit diagonals: scaling makes up for what rounding left.
    unit = np.sqrt(np.diag(projected))
    return projected / np.outer(unit, unit) * np.outer(scale, scale)
