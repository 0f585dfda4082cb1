"""Resampling in C++, called by XLA on a CPU: the same bits, in less than half of the time.

The kernels are compiled for the processor of the machine, once, by
:func:`build_cpu_kernels` into a folder of the user's, and used from then on. Nothing is
compiled at import, and without a compiler everything runs as XLA programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from bayeskit.accel.dispatch import FastKernel, register
from bayeskit.accel.kernels.cpu.library import build_cpu_kernels, missing

__all__ = ["build_cpu_kernels"]


def _load(name: str) -> Callable[[], Callable]:
    def load():
        from bayeskit.accel.kernels.cpu import calls

        return getattr(calls, name)

    return load


def _single_precision(log_weights: Any, **static: Any) -> bool:
    # The exponential function of doubles is that of the platform.
    return log_weights.dtype == jnp.float32


def _not_empty(*arrays: Any, **static: Any) -> bool:
    return all(array.size > 0 for array in arrays)


for _name, _supports in {
    "scaled_cdf": _single_precision,
    "cdf_of_weights": _not_empty,
    "ancestors_at_levels": _not_empty,
    "offspring_to_ancestors": _not_empty,
}.items():
    register(FastKernel(_name, "ffi", ("cpu",), _supports, _load(_name), missing))
