"""Names of learned numbers, as users read them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from bayeskit.models.functional_tucker.terms import term_label

__all__ = ["factor_names", "place_of_mode", "term_names"]


def place_of_mode(names: Sequence[Hashable], mode: Any) -> int:
    """Return the position of a mode that is given by its name or position.

    Raises
    ------
    ValueError
        If there is no such mode.
    """
    if mode in names:
        return list(names).index(mode)
    if isinstance(mode, int | np.integer) and 0 <= mode < len(names):
        return int(mode)
    raise ValueError(f"there is no mode {mode!r}; there are {list(names)}")


def term_names(paths: Sequence[str], terms: Sequence[Any]) -> list[str]:
    """Return names such as MainEffect(day).matern32.std for paths of learned numbers."""
    names = []
    for path in paths:
        first, *rest = path.split(".")
        if first == "kernels":
            term = terms[int(rest[0])]
            names.append(".".join([term_label(term), *_within_kernel(term.kernel, rest[1:])]))
        else:
            names.append("noise_std")
    return _distinct(names)


def factor_names(paths: Sequence[str], kernels: Sequence[Any], mode: Hashable) -> list[str]:
    """Return names such as factor(day)[0].matern32.lengthscale for the functions of a mode."""
    names = []
    for path in paths:
        function, *rest = path.split(".")
        inner = _within_kernel(kernels[int(function)], rest)
        names.append(".".join([f"factor({mode})[{function}]", *inner]))
    return _distinct(names)


def _within_kernel(kernel: Any, path: list[str]) -> list[str]:
    """Return the name of the kernel that holds a number, and that of the number."""
    # In a sum of sums the last summand is the right one of the outermost.
    while path and path[0] in ("left", "right") and hasattr(kernel, path[0]):
        kernel, path = getattr(kernel, path[0]), path[1:]
    return [kernel.name, *path] if hasattr(kernel, "name") else path


def _distinct(names: list[str]) -> list[str]:
    """Number names that are there several times."""
    counts = {name: names.count(name) for name in names}
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(f"{name} {seen[name]}" if counts[name] > 1 else name)
    return found
