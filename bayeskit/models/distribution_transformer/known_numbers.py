"""Known numbers of the likelihood, such as a noise, that differ between calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["KnownNumbers"]


class KnownNumbers:
    """Names of numbers, and their ranges in training.

    Parameters
    ----------
    ranges : dict of str to (float, float), optional

    Raises
    ------
    ValueError
        For what is no finite range.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]] | None):
        self.ranges: dict[str, tuple[float, float]] = {}
        for name, given in (ranges or {}).items():
            ends = np.asarray(given)
            is_range = ends.shape == (2,) and ends.dtype.kind in "iuf"
            if not is_range or not np.isfinite(ends).all() or not ends[0] < ends[1]:
                raise ValueError(
                    f"parameters[{name!r}] must be a range (low, high) of finite numbers, got "
                    f"{given!r}"
                )
            self.ranges[name] = (float(ends[0]), float(ends[1]))

    def _is_log(self, name: str) -> bool:
        return self.ranges[name][0] > 0

    def scaled(self, values: Mapping[str, Any]) -> list[Any]:
        """Return each value on a scale on which its range is [-1, 1]."""
        columns = []
        for name, (low, high) in self.ranges.items():
            value = values[name]
            if self._is_log(name):
                value, low, high = jnp.log(value), math.log(low), math.log(high)
            columns.append((2 * value - low - high) / (high - low))
        return columns

    def of_scaled(self, vector: jax.Array) -> dict[str, jax.Array]:
        """Return the values of a vector (p,) of scaled ones."""
        result = {}
        for i, (name, (low, high)) in enumerate(self.ranges.items()):
            is_log = self._is_log(name)
            a, b = (math.log(low), math.log(high)) if is_log else (low, high)
            value = 0.5 * (a + b) + 0.5 * (b - a) * vector[i]
            result[name] = jnp.exp(value) if is_log else value
        return result
