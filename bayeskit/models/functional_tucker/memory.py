"""What a fit needs in memory, before anything is compiled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.markov_gp.rows import padded_size

__all__ = ["check_memory"]

# Arrays of covariances of all states of a mode: transitions, their noise, and predicted,
# filtered, smoothed and backward laws, with their derivatives.
_NUM_OF_STATES = 12
# The precision of the core, its factor and its covariance, and one to work on.
_NUM_OF_CORE = 4
_BYTES = 8


def check_memory(layout: Layout, kernels: Sequence[Any], table: np.ndarray) -> None:
    """Refuse ranks whose covariances do not fit.

    Parameters
    ----------
    layout : Layout
    kernels : sequence of kernels, one for each mode
    table : (rows, modes) array

    Raises
    ------
    ValueError
        With the size that is needed, and the size that there is.
    """
    if not layout.ranks:
        return
    # Whole numbers of Python: ranks may be of any size.
    core = _NUM_OF_CORE * _BYTES * layout.core_size**2
    states = max(
        padded_size(len(np.unique(column))) * (rank * int(kernel.dim)) ** 2
        for column, rank, kernel in zip(table.T, layout.ranks, kernels, strict=True)
    )
    chain = _NUM_OF_STATES * _BYTES * states
    memory = _machine_memory()
    if memory is None or core + chain <= memory // 2:
        return
    ranks = layout.ranks if layout.has_core else layout.ranks[0]
    name = "ranks" if layout.has_core else "rank"
    what = "functions of a mode, whose joint covariances need"
    if core > chain:
        what = f"a core of {layout.core_size:,} entries, whose covariance needs"
    instead = ", or FunctionalCP, which has no core" if layout.has_core else ""
    raise ValueError(
        f"{name}={ranks} make {what} {_gigabytes(core + chain)} GB, but this machine has "
        f"{_gigabytes(memory)} GB: take smaller ranks{instead}"
    )


def _machine_memory() -> int | None:
    """Return the bytes of memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _gigabytes(size: int) -> str:
    return f"{size / 10**9:.3g}"
