"""Arguments of a state-space fit as rows, checked at the door."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.inference.state_space import Rows
from bayeskit.models.base import checked_array, checked_lengths, real_numbers

__all__ = ["checked_call", "floats_in_precision", "increasing_times", "rows_of_call", "y_alone"]

# What becomes of several rows of one time.
_DUPLICATES = ("error", "mean", "keep")


def y_alone(X: Any, y: Any) -> tuple[Any, Any]:
    """Return X and y, where a single argument is y."""
    return (None, X) if y is None and X is not None else (X, y)


def checked_call(
    X: Any, y: Any, times: Any, is_given: bool, duplicates: str = "error"
) -> dict[str, np.ndarray]:
    """Return what was given as arrays by name, checked, with one row an instant if averaged."""
    if duplicates not in _DUPLICATES:
        raise ValueError(f"duplicates must be one of {_DUPLICATES}, got {duplicates!r}")
    X, y = y_alone(X, y)
    if y is None and not is_given:
        raise InvalidDataError("y is missing: fit(y), or fit(X, y) with controls X")
    call = {}
    for name, value in (("X", X), ("y", y), ("times", times)):
        if value is None:
            continue
        array = checked_array(real_numbers(value, name), name, allow_nan=name == "y")
        call[name] = np.atleast_1d(array)
    checked_lengths(call)
    if "times" in call:
        if "y" in call and len(call["times"]) != len(call["y"]):
            raise InvalidDataError(
                f"times and y must have the same number of rows, got {len(call['times'])} and "
                f"{len(call['y'])}"
            )
        increasing_times(call["times"], duplicates)
        if duplicates == "mean":
            return _means_of_instants(call)
    return call


def increasing_times(times: np.ndarray, duplicates: str = "error") -> np.ndarray:
    """Return times that increase, or refuse them."""
    steps = np.diff(times)
    if times.ndim != 1 or np.any(steps < 0):
        place = int(np.argmax(np.ravel(steps < 0))) + 1
        raise InvalidDataError(
            f"times must be one increasing column, but those of rows {place - 1} and {place} "
            "are not in order: sort the rows"
        )
    if duplicates == "error" and np.any(steps == 0):
        place = int(np.argmax(steps == 0)) + 1
        raise InvalidDataError(
            f"times repeat, first at rows {place - 1} and {place}, both {times[place]:g} "
            f"({int(np.sum(steps == 0))} times): pass duplicates='keep' if each row was "
            "observed, or duplicates='mean' for one row with their mean"
        )
    return times


def _means_of_instants(call: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return one row for each time, with means of what was seen."""
    times, place = np.unique(call["times"], return_inverse=True)
    if len(times) == len(place):
        return call

    def mean(values: np.ndarray) -> np.ndarray:
        seen = ~np.isnan(values.astype(float))
        total, count = np.zeros((2, len(times), *values.shape[1:]))
        np.add.at(total, place, np.where(seen, values, 0.0))
        np.add.at(count, place, seen)
        # Where nothing was seen there is no mean.
        return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)

    return {name: times if name == "times" else mean(v) for name, v in call.items()}


def rows_of_call(
    call: dict[str, np.ndarray],
    precision: str,
    before: dict | None = None,
    duplicates: str = "error",
) -> Rows:
    """Return the data of a model in its precision; ``before`` holds earlier rows."""
    dt = None
    if "times" in call:
        times = call["times"]
        if before:
            dt = _differences_from(before["times"][-1], times, duplicates)
        else:
            dt = np.diff(times, prepend=times[:1])
    parts = (call.get("y"), call.get("X"), dt)
    return Rows(*(None if v is None else floats_in_precision(v, precision) for v in parts))


def _differences_from(last: float, times: np.ndarray, duplicates: str) -> np.ndarray:
    if times[0] < last or (times[0] == last and duplicates != "keep"):
        raise InvalidDataError(
            f"times must go on after {last}, the last that the filter has seen, got {times[0]}"
        )
    return np.diff(times, prepend=last)


def floats_in_precision(array: np.ndarray, precision: str) -> np.ndarray:
    """Return numbers as floats of a precision, anything else as it is."""
    return array.astype(precision) if array.dtype.kind in "biuf" else array
