"""Checks of the mixtures that users give."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError

__all__ = [
    "check_factors",
    "check_shapes",
    "check_weights",
    "checked_cholesky",
    "checked_points",
    "finite_array",
]

_WEIGHT_TOLERANCE = 1e-6
# Relative to the diagonal.
_SYMMETRY_TOLERANCE = 1e-8


def finite_array(name: str, value: Any) -> np.ndarray:
    """Return numbers as a new array of doubles, or say where one is not finite."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidDataError(f"{name} must be an array of numbers: {error}") from error
    bad = ~np.isfinite(array)
    if bad.any():
        place = tuple(map(int, np.argwhere(bad)[0]))
        where = f" at index {place}" if place else ""
        raise InvalidDataError(f"{name} has {array[place]}{where}")
    return array


def check_shapes(
    weights: np.ndarray, means: np.ndarray, matrices: np.ndarray, name: str
) -> None:
    """Refuse weights, means and matrices whose shapes do not belong together."""
    expected_means = (*weights.shape, means.shape[-1])
    if means.shape != expected_means or means.shape[-1] == 0:
        raise InvalidDataError(
            f"means must have shape (..., k, d) with the weights' (..., k) = {weights.shape}, "
            f"got {means.shape}"
        )
    if matrices.shape != (*means.shape, means.shape[-1]):
        raise InvalidDataError(
            f"{name} must have shape {(*means.shape, means.shape[-1])}, got {matrices.shape}"
        )


def _place(bad: Any) -> str:
    *batch, component = map(int, np.argwhere(bad)[0])
    where = f" of mixture {tuple(batch)}" if batch else ""
    return f"component {component}{where}"


def check_weights(weights: np.ndarray) -> None:
    """Refuse weights that are negative or do not sum to one, and no weights at all."""
    if not weights.size:
        raise InvalidDataError(f"weights must not be empty, got shape {weights.shape}")
    negative = weights < 0
    if negative.any():
        raise InvalidDataError(
            f"weights must not be negative, got {weights[negative][0]:g} for {_place(negative)}"
        )
    sums = weights.sum(axis=-1)
    wrong = np.abs(sums - 1.0) > _WEIGHT_TOLERANCE
    if wrong.any():
        raise InvalidDataError(
            f"weights must sum to 1 within {_WEIGHT_TOLERANCE:g}, got the sum "
            f"{np.ravel(sums)[np.ravel(wrong)][0]:.8g}: divide them by it"
        )


def checked_cholesky(matrices: np.ndarray) -> np.ndarray:
    """Return the factors of covariances that are symmetric and positive definite."""
    transposed = np.swapaxes(matrices, -1, -2)
    diagonal = np.abs(np.diagonal(matrices, axis1=-2, axis2=-1)).max(axis=-1)
    asymmetric = np.abs(matrices - transposed).max(axis=(-2, -1)) > (
        _SYMMETRY_TOLERANCE * diagonal
    )
    if asymmetric.any():
        raise InvalidDataError(f"the covariance of {_place(asymmetric)} is not symmetric")
    matrices = 0.5 * (matrices + transposed)
    # Without the units of the coordinates, whose scales may differ by many orders.
    scale = np.sqrt(np.maximum(np.diagonal(matrices, axis1=-2, axis2=-1), 0.0))
    safe = np.where(scale > 0, scale, 1.0)
    correlation = matrices / (safe[..., :, None] * safe[..., None, :])
    smallest = np.linalg.eigvalsh(correlation)[..., 0]
    indefinite = (smallest <= 4 * matrices.shape[-1] * np.finfo(float).eps) | (
        (scale <= 0).any(axis=-1)
    )
    if indefinite.any():
        raise InvalidDataError(
            f"the covariance of {_place(indefinite)} is not positive definite: with variances "
            f"scaled to 1 its smallest eigenvalue is {smallest[indefinite][0]:.3g}"
        )
    return np.linalg.cholesky(correlation) * safe[..., :, None]


def check_factors(factors: np.ndarray) -> None:
    """Refuse factors that are not lower triangular with a positive diagonal."""
    upper = np.triu(np.abs(factors), 1).max(axis=(-2, -1)) > 0
    if upper.any():
        raise InvalidDataError(f"the factor of {_place(upper)} is not lower triangular")
    negative = (np.diagonal(factors, axis1=-2, axis2=-1) <= 0).any(axis=-1)
    if negative.any():
        raise InvalidDataError(
            f"the factor of {_place(negative)} has a diagonal entry that is not positive"
        )


def checked_points(x: Any, dim: int) -> np.ndarray:
    """Return points (..., d) of the latent.

    Raises
    ------
    InvalidDataError
        For text and NaN, and for another number of coordinates in the last axis.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "iufb":
        raise InvalidDataError(f"x must hold real numbers, got {x.dtype}")
    if np.isnan(x).any():
        place = tuple(int(i) for i in np.argwhere(np.isnan(x))[0])
        raise InvalidDataError(f"x contains nan at index {place}: a density needs a point")
    if x.ndim == 0 or x.shape[-1] != dim:
        hint = ": write x[:, None] for points of one coordinate" if dim == 1 and x.ndim else ""
        raise InvalidDataError(
            f"x must have {dim} coordinates in its last axis, got shape {x.shape}{hint}"
        )
    return x.astype(np.float64)
