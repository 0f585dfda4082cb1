"""What is refused of known values before a scan over time; inside ``jit`` results are NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.accel._checks import is_traced
from bayeskit.accel.time.chain import GaussianChain, GaussianSites, LinearObservations
from bayeskit.errors import InvalidDataError

__all__ = ["refuse_bad_chain", "refuse_bad_observations", "refuse_not_logarithms"]


def refuse_bad_chain(chain: GaussianChain) -> None:
    """Raise InvalidDataError if a known number is not finite, or a matrix no covariance."""
    _refuse_not_finite(chain.initial_mean, "initial_mean")
    _refuse_not_finite(chain.transition, "transition")
    _refuse_not_finite(chain.offset, "offset")
    _refuse_no_covariance(chain.initial_covariance, "initial_covariance")
    _refuse_no_covariance(chain.covariance, "covariance")


def refuse_bad_observations(observations: LinearObservations | GaussianSites) -> None:
    """Raise InvalidDataError as for a chain; NaN among values means not seen."""
    _refuse_not_finite(observations.matrix, "matrix")
    if isinstance(observations, GaussianSites):
        _refuse_not_finite(observations.shift, "shift")
        _refuse_no_covariance(observations.precision, "precision")
        return
    values, noise = observations.values, observations.covariance
    _refuse_not_finite(observations.offset, "offset of observations")
    if is_traced(values):
        return
    seen = ~np.isnan(_as_numbers(values))
    _refuse_not_finite(np.where(seen, _as_numbers(values), 0.0), "values")
    if not is_traced(noise) and np.ndim(noise) == 3:
        # What noise a coordinate that was not seen would have had does not matter.
        both = seen[:, :, None] & seen[:, None, :]
        noise = np.where(both, _as_numbers(noise), 0.0)
    _refuse_no_covariance(noise, "covariance of observations")


def refuse_not_logarithms(values: Any, name: str) -> None:
    """Raise InvalidDataError if a known value is NaN or +inf."""
    if is_traced(values):
        return
    numbers = _as_numbers(values)
    _refuse_where(
        np.isnan(numbers) | np.isposinf(numbers),
        numbers,
        f"{name} must hold logarithms, finite or -inf",
    )


def _refuse_not_finite(values: Any, name: str) -> None:
    if values is None or is_traced(values):
        return
    numbers = _as_numbers(values)
    _refuse_where(~np.isfinite(numbers), numbers, f"{name} must be finite")


def _refuse_no_covariance(values: Any, name: str) -> None:
    """Look at each entry and each pair of coordinates: that finds signs and scales."""
    if is_traced(values):
        return
    _refuse_not_finite(values, name)
    matrix = _as_numbers(values)
    variances = np.diagonal(matrix, axis1=-2, axis2=-1)
    what = f"{name} must be positive semi-definite"
    _refuse_where(variances < 0, variances, f"{what}: its diagonal must not be negative")
    largest = np.sqrt(variances[..., :, None]) * np.sqrt(variances[..., None, :])
    scale = np.max(variances, axis=-1, initial=0.0)[..., None, None]
    rounding = 1e-3 * largest + 1e-6 * scale
    turned = np.swapaxes(matrix, -1, -2)
    _refuse_where(np.abs(matrix - turned) > rounding, matrix, f"{what}: it must be symmetric")
    _refuse_where(
        np.abs(matrix) > largest + rounding,
        matrix,
        f"{what}: no entry may be larger than the root of the product of its two variances",
    )


def _refuse_where(bad: np.ndarray, numbers: np.ndarray, rule: str) -> None:
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        index = place[0] if len(place) == 1 else place
        raise InvalidDataError(
            f"{rule}: got {numbers[place]:g} at index {index} ({bad.sum()} of {bad.size})"
        )


def _as_numbers(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)
