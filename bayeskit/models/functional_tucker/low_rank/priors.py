"""Kernels of the functions of each mode, with priors of what is left to be learned."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bayeskit.inference.gp_kernels import FreeParameters, LogNormal, Scales
from bayeskit.inference.gp_kernels.hyperparametric import is_free
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.markov_gp.settings import as_kernel

__all__ = ["kernels_of_modes", "mode_parameters"]

# Two standard deviations are a factor of 20.
SPREAD = 1.5


def kernels_of_modes(kernel: Any, names: Sequence[Hashable]) -> tuple[Any, ...]:
    """Return one kernel for each mode, given one for all, a sequence, or a mapping by name.

    Raises
    ------
    ValueError
        For another number of kernels than of modes, and for names that are no mode.
    """
    if isinstance(kernel, Mapping):
        unknown = [name for name in kernel if name not in names]
        if unknown:
            raise ValueError(f"kernel names the modes {unknown}; there are {list(names)}")
        return tuple(as_kernel(kernel.get(name, "matern32")) for name in names)
    if isinstance(kernel, list | tuple):
        if len(kernel) != len(names):
            raise ValueError(
                f"kernel must be one for all modes or one for each of {len(names)}, got "
                f"{len(kernel)}"
            )
        return tuple(as_kernel(one) for one in kernel)
    return tuple(as_kernel(kernel) for _ in names)


def mode_parameters(
    layout: Layout, kernels: Sequence[Any], table: np.ndarray
) -> tuple[FreeParameters, ...]:
    r"""Return the hyper-parameters of the functions of each mode, with their priors.

    Each function has its own. Standard deviations are learned, with prior medians such that the
    whole has about the variance of the standardized target: in a CP model those of the first
    mode (the others are 1, since only the product counts), in a Tucker model all of them. One
    that runs towards zero switches its function off: relevance is determined automatically.
    """
    first = 1.0 / math.sqrt(layout.ranks[0])
    parameters = []
    for k, (rank, kernel) in enumerate(zip(layout.ranks, kernels, strict=True)):
        std = first if k == 0 or layout.has_core else 1.0
        if layout.has_core:
            std = 1.0 / math.sqrt(rank)
        is_fixed = k > 0 and not layout.has_core
        filled = _filled(kernel, table[:, k], std, is_fixed)
        parameters.append(FreeParameters.of((filled,) * rank))
    return tuple(parameters)


def _filled(kernel: Any, column: np.ndarray, std: float, is_fixed: bool) -> Any:
    """Return a kernel with broad priors, or a standard deviation of ``std``, where it had None."""
    if is_fixed and getattr(kernel, "std", 1.0) is None:
        kernel = replace(kernel, std=std)
    distinct = np.unique(column)
    span = float(np.ptp(distinct)) if len(distinct) > 1 else 1.0
    filled = kernel.with_defaults(Scales(span, std))
    import jax

    before = jax.tree.leaves(kernel, is_leaf=is_free)
    after, structure = jax.tree.flatten(filled, is_leaf=is_free)
    broad = [
        LogNormal(new.median, SPREAD) if old is None and isinstance(new, LogNormal) else new
        for old, new in zip(before, after, strict=True)
    ]
    return jax.tree.unflatten(structure, broad)
