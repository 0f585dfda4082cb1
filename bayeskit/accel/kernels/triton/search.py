"""From cumulative offspring to ancestors by a load-balancing search.

Particles and offspring, N + n in all, are merged in one order: particle i stands before
offspring m if its cumulative number is at most m. Each program takes an equal part of the
merged list, whose ends two bisections find, and bisects among the particles of its part. So the
work is the same whether all particles have one child or one has all.

References
----------
Green, McColl & Bader (2012), "GPU merge path".
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from bayeskit.accel.kernels.triton.launching import Launcher, num_tiles, tile_size

__all__ = ["offspring_to_ancestors"]


def offspring_to_ancestors(
    launch: Launcher, cumulative: Any, num: int, tile: int | None = None
) -> Any:
    """Return the ancestors (rows, num) of (rows, num_particles) int32 cumulative offspring.

    Parameters
    ----------
    launch : Launcher
    cumulative : (rows, num_particles) int32 array
        Each row is non-decreasing and ends with ``num``.
    num : int
        At least 1.
    tile : int, optional
        Changes no result.
    """
    rows, size = cumulative.shape
    tile = tile or tile_size(size + num)
    parts = num_tiles(size + num, tile)
    (ancestors,) = launch(
        merge_search,
        rows * parts,
        cumulative,
        size,
        num,
        parts,
        results=[((rows, num), "int32")],
        TILE=tile,
        # Bisection of an interval of TILE + 1 places, and of any.
        STEPS=tile.bit_length() + 1,
        ALL_STEPS=size.bit_length() + 1,
    )
    return ancestors


@triton.jit
def merge_search(
    cumulative,
    size,
    num,
    parts,
    ancestors,
    TILE: tl.constexpr,
    STEPS: tl.constexpr,
    ALL_STEPS: tl.constexpr,
):
    """Write the ancestors of the offspring in one part of the merged list."""
    program = tl.program_id(0)
    row = (program // parts).to(tl.int64)
    start = (program % parts).to(tl.int64) * TILE
    end = tl.minimum(start + TILE, tl.full((), 0, tl.int64) + size + num)
    cumulative += row * size
    first_particle = particles_before(cumulative, start, size, num, ALL_STEPS)
    last_particle = particles_before(cumulative, end, size, num, ALL_STEPS)
    offspring = start - first_particle + tl.arange(0, TILE)
    inside = offspring < end - last_particle
    low = first_particle + tl.zeros((TILE,), tl.int64)
    high = last_particle + tl.zeros((TILE,), tl.int64)
    for _ in range(STEPS):
        middle = (low + high) >> 1
        is_open = inside & (low < high)
        level = tl.load(cumulative + middle, mask=is_open, other=0)
        low = tl.where(is_open & (level <= offspring), middle + 1, low)
        high = tl.where(is_open & (level > offspring), middle, high)
    tl.store(ancestors + row * num + offspring, low.to(tl.int32), mask=inside)


@triton.jit
def particles_before(cumulative, position, size, num, ALL_STEPS: tl.constexpr):
    """Return how many of the first ``position`` items of the merged list are particles."""
    low = tl.maximum(position - num, 0)
    high = tl.minimum(position, size)
    for _ in range(ALL_STEPS):
        middle = (low + high) >> 1
        is_open = low < high
        level = tl.load(cumulative + middle, mask=is_open, other=0)
        is_before = level + middle < position
        low = tl.where(is_open & is_before, middle + 1, low)
        high = tl.where(is_open & (level + middle >= position), middle, high)
    return low
