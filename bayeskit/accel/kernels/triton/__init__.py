"""Kernels in Triton for NVIDIA GPUs: one source, started by JAX and by torch.

Importing this package registers them; Triton itself is imported at the first use. Where it is
not installed, or the array is not on such a GPU, nothing changes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from bayeskit.accel.dispatch import FastKernel, register

__all__: list[str] = []

_PACKAGES = {"jax_triton": "jax-triton", "triton": "triton"}
_INDEX_RANGE = 2**31


def _missing() -> str | None:
    absent = [name for module, name in _PACKAGES.items() if not _is_installed(module)]
    if not absent:
        return None
    return f"{' and '.join(absent)} not installed, pip install 'bayeskit[gpu]'"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _supports_scaled_cdf(log_weights: Any, num: int, bits: tuple[int, int, int]) -> bool:
    # In float64 the weights are those of the platform's own exponential function. The kernels
    # count programs in int32.
    return log_weights.dtype == "float32" and 0 < log_weights.size < _INDEX_RANGE


def _supports_ancestors(cumulative: Any, num: int) -> bool:
    rows = cumulative.size // cumulative.shape[-1]
    return num > 0 and 0 < cumulative.size + rows * num < _INDEX_RANGE


def _loader(name: str) -> Callable[[], Callable]:
    def load() -> Callable:
        from bayeskit.accel.kernels.triton import by_jax

        return getattr(by_jax, name)

    return load


_SUPPORTS: dict[str, Callable[..., bool]] = {
    "scaled_cdf": _supports_scaled_cdf,
    "offspring_to_ancestors": _supports_ancestors,
}
for _name, _supports in _SUPPORTS.items():
    register(FastKernel(_name, "triton", ("cuda",), _supports, _loader(_name), _missing))
