"""Names of learned numbers, as users read them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from bayeskit.models.functional_tucker.terms import term_label
from bayeskit.models.markov_gp.naming import distinct_names, within_kernel

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
            names.append(".".join([term_label(term), *within_kernel(term.kernel, rest[1:])]))
        else:
            names.append("noise_std")
    return distinct_names(names)


def factor_names(paths: Sequence[str], kernels: Sequence[Any], mode: Hashable) -> list[str]:
    """Return names such as factor(day)[0].matern32.lengthscale for the functions of a mode."""
    names = []
    for path in paths:
        function, *rest = path.split(".")
        inner = within_kernel(kernels[int(function)], rest)
        names.append(".".join([f"factor({mode})[{function}]", *inner]))
    return distinct_names(names)
