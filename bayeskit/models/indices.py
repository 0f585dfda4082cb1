"""Indices in new data that point past the end of what was fitted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import checkify

from bayeskit.errors import InvalidDataError
from bayeskit.interop.numpyro import NumPyroModel


def refuse_indices_beyond(
    functions: Any, data: tuple, position: jax.Array, seen: Mapping[str, Any], new: Mapping
) -> None:
    """Refuse whole numbers with which the model indexes past the end of an array.

    JAX takes the last entry instead, in silence: an unknown group would be predicted like the
    last one. Whole numbers that only count something may be larger than in the fit. So the
    model is run on one draw with its indexing checked, and only where numbers are beyond those
    of the fit.

    Raises
    ------
    InvalidDataError
        With the arguments that hold such numbers, and the array that is indexed.
    """
    beyond = {
        name: value
        for name, value in new.items()
        if np.ndim(value) and _is_whole(value) and name in seen and _is_whole(seen[name])
        if np.max(value, initial=0) > np.max(seen[name], initial=0)
        or np.min(value, initial=0) < np.min(seen[name], initial=0)
    }
    if not beyond or not isinstance(functions, NumPyroModel):
        return
    error, _ = _checked(functions)(position, *data)
    if (found := error.get()) is None:
        return
    told = "; ".join(
        f"{name} holds {np.min(value)} to {np.max(value)}, in the fit it held "
        f"{np.min(seen[name])} to {np.max(seen[name])}"
        for name, value in beyond.items()
    )
    raise InvalidDataError(
        f"the model indexes past the end of an array ({found.strip().rstrip('.')}): {told}. A "
        "group that was not fitted has no effect of its own to predict with: draw one from the "
        "prior of groups, given the draws of its scale (sample)"
    )


def _is_whole(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "iu"


@functools.lru_cache(maxsize=16)
def _checked(functions: NumPyroModel) -> Callable:
    """Return the moments with their indexing checked; compiled once for a model."""
    return jax.jit(
        checkify.checkify(functions.predictive_moments, errors=checkify.index_checks)
    )
