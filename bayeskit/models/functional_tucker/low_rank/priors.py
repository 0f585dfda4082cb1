"""Kernels of the functions of each mode, with priors of what is left to be learned."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bayeskit.inference.gp_kernels import FreeParameters, White
from bayeskit.models.functional_tucker.additive.learning import scales_of, with_broad_defaults
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.markov_gp.settings import as_kernel

__all__ = ["kernels_of_modes", "mode_parameters"]


def kernels_of_modes(
    kernel: Any, names: Sequence[Hashable], categories: Sequence[Hashable] = ()
) -> tuple[Any, ...]:
    """Return one kernel for each mode, given one for all, a sequence, or a mapping by name.

    Values of a mode of categories are exchangeable, unless it is given a kernel of its own.

    Raises
    ------
    ValueError
        For another number of kernels than of modes, and for names that are no mode.
    """
    if isinstance(kernel, Mapping):
        unknown = [name for name in kernel if name not in names]
        if unknown:
            raise ValueError(f"kernel names the modes {unknown}; there are {list(names)}")
        default = {name: White() if name in categories else "matern32" for name in names}
        return tuple(as_kernel(kernel.get(name, default[name])) for name in names)
    if isinstance(kernel, list | tuple):
        if len(kernel) != len(names):
            raise ValueError(
                f"kernel must be one for all modes or one for each of {len(names)}, got "
                f"{len(kernel)}"
            )
        return tuple(as_kernel(one) for one in kernel)
    return tuple(as_kernel(White() if name in categories else kernel) for name in names)


def mode_parameters(
    layout: Layout, kernels: Sequence[Any], table: np.ndarray
) -> tuple[FreeParameters, ...]:
    r"""Return the hyper-parameters of the functions of each mode, with their priors.

    Each function has its own. Standard deviations are learned, with prior medians such that the
    whole has about the variance of the standardized target: in a CP model those of the first
    mode (the others are 1, since only the product counts), in a Tucker model all of them. One
    that runs towards zero switches its function off: relevance is determined automatically.
    """
    parameters = []
    for k, (rank, kernel) in enumerate(zip(layout.ranks, kernels, strict=True)):
        std = 1.0 / math.sqrt(rank)
        if k and not layout.has_core and getattr(kernel, "std", 1.0) is None:
            kernel = replace(kernel, std=1.0)
        filled = with_broad_defaults(kernel, scales_of(table[:, k], std))
        parameters.append(FreeParameters.of((filled,) * rank))
    return tuple(parameters)
