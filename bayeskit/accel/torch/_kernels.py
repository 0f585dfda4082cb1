"""Whether a tensor is handled by the Triton kernels or by plain torch operations."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch

from bayeskit.accel.dispatch import wanted_backend
from bayeskit.errors import BayeskitWarning, MissingDependencyError

__all__ = ["by_kernel_or_plain"]

# Kernels that did not compile here: each is reported once.
_broken: set[str] = set()


def by_kernel_or_plain(
    name: str, kernel: Callable, plain: Callable, tensor: torch.Tensor
) -> Any:
    """Return ``kernel(tensor)`` on a GPU if it can run there, else ``plain(tensor)``.

    Both give the same indices. ``kernel`` imports Triton when it is called.
    """
    wanted = wanted_backend()
    if wanted not in ("auto", "triton") or not _is_on_gpu(tensor):
        return plain(tensor)
    if importlib.util.find_spec("triton") is None:
        if wanted == "triton":
            raise MissingDependencyError(
                "the backend 'triton' was asked for, but triton is not installed: "
                "pip install triton, or choose 'auto'"
            )
        return plain(tensor)
    if wanted == "triton":
        return kernel(tensor)
    if name in _broken:
        return plain(tensor)
    try:
        return kernel(tensor)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        _broken.add(name)
        warnings.warn(
            f"the Triton kernel of {name} does not run on {tensor.device}, plain torch "
            f"operations are used instead: {type(error).__name__}: {error}. "
            "Indices are the same",
            BayeskitWarning,
            stacklevel=2,
        )
        return plain(tensor)


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    # The kernels count elements in int32.
    return tensor.is_cuda and 0 < tensor.numel() < 2**31
