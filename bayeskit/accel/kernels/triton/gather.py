"""Copy rows to the places of their offspring."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from bayeskit.accel.kernels.triton.launching import Launcher, num_tiles, tile_size

__all__ = ["gather_rows"]


def gather_rows(
    launch: Launcher, rows: Any, ancestors: Any, dtype: str, tile: int | None = None
) -> Any:
    """Return ``rows[ancestors]``.

    Parameters
    ----------
    launch : Launcher
    rows : (num_particles, width) array, width at least 1
    ancestors : (num,) int32 array, at least one, in [0, num_particles)
    dtype : str
        That of the rows.
    tile : int, optional
        Elements that one program copies.
    """
    num, width = ancestors.shape[0], rows.shape[1]
    tile = tile or tile_size(num * width)
    (taken,) = launch(
        copy_rows,
        num_tiles(num * width, tile),
        rows,
        ancestors,
        num,
        width,
        results=[((num, width), dtype)],
        TILE=tile,
    )
    return taken


@triton.jit
def copy_rows(rows, ancestors, num, width, taken, TILE: tl.constexpr):
    """Write the elements of one tile, neighbours side by side."""
    element = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    slot = element // width
    inside = slot < num
    ancestor = tl.load(ancestors + slot, mask=inside, other=0).to(tl.int64)
    values = tl.load(rows + ancestor * width + element % width, mask=inside)
    tl.store(taken + element, values, mask=inside)
