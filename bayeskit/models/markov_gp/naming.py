"""Names of learned numbers in the words of kernels, not of the trees that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayeskit.inference.gp_kernels import FreeParameters, StateSpaceKernel

__all__ = ["distinct_names", "hyperparameter_names", "within_kernel"]


def hyperparameter_names(free: FreeParameters) -> tuple[str, ...]:
    """Return names such as kernel.std, and kernel.periodic.std where kernels are combined.

    Parameters
    ----------
    free : FreeParameters
        Of a dict with kernel and likelihood.
    """
    names = []
    for path in free.names:
        part, *rest = path.split(".")
        inner = rest if part != "kernel" else within_kernel(free.base[part], rest)
        if len(inner) > len(rest):
            # There is one kernel alone, whose name tells nothing.
            inner = rest
        names.append(".".join([part, *inner]))
    return tuple(distinct_names(names))


def within_kernel(kernel: Any, path: Sequence[str]) -> list[str]:
    """Return the name of the kernel that holds a number, and that of the number."""
    # Sums, products and multiples hold kernels; in a sum of sums the last summand is the right
    # one of the outermost.
    while isinstance(inner := getattr(kernel, path[0], None), StateSpaceKernel):
        kernel, path = inner, path[1:]
    return [kernel.name, *path] if hasattr(kernel, "name") else list(path)


def distinct_names(names: Sequence[str]) -> list[str]:
    """Number names that are there several times."""
    counts = {name: names.count(name) for name in names}
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(f"{name} {seen[name]}" if counts[name] > 1 else name)
    return found
