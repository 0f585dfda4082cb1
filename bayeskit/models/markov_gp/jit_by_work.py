"""Programs that are compiled in the time that their use is worth."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.gp_kernels import FreeParameters

__all__ = ["jit_by_work"]

# Coordinates that are filtered or smoothed in all: below, less is gained by optimised programs
# than it takes to optimise them.
_FEW = 20_000
# Calls of a search for the maximum, and steps of a search for sites.
_USUAL_CALLS, _USUAL_STEPS = 15, 20


def jit_by_work(
    function: Callable | None = None, *, is_search: bool = False, **options: Any
) -> Any:
    """Return a program that is compiled in the time that its use is worth.

    Parameters
    ----------
    function : callable (u, free, data, ...)
    is_search : bool
        Whether it is called many times, and finds sites each time.
    """
    if function is None:
        return functools.partial(jit_by_work, is_search=is_search, **options)
    whole = quick_jit(function, **options)
    plain = quick_jit(function, optimised=False, **options)

    @functools.wraps(function)
    def call(u: Any, free: FreeParameters, data: Any, *args: Any, **keywords: Any) -> Any:
        work = data.grid.x.shape[0] * (u.shape[0] if np.ndim(u) == 2 else 1)
        if is_search:
            steps = 1 if free.base["likelihood"].is_exact else _USUAL_STEPS
            work *= _USUAL_CALLS * steps
        return (plain if work < _FEW else whole)(u, free, data, *args, **keywords)

    return call
