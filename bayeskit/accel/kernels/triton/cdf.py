"""Scaled cumulative weights: reduce, then scan, in tiles.

The steps are those of :func:`bayeskit.accel.offspring.scaled_cdf`, and so are the bits: sums
are of integers, and every float64 operation is rounded once. Weights are computed anew in each
pass: they are never written.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from bayeskit.accel.kernels.triton.exponential import relative_weights
from bayeskit.accel.kernels.triton.launching import Launcher, num_tiles, tile_size

__all__ = ["scaled_cdf"]


def scaled_cdf(
    launch: Launcher,
    log_weights: Any,
    num: int,
    bits: tuple[int, int, int],
    tile: int | None = None,
) -> tuple[Any, Any]:
    """Return the scaled cumulative weights (rows, num_particles), and the maxima (rows,).

    Parameters
    ----------
    launch : Launcher
    log_weights : (rows, num_particles) float32 array
        Rows whose maximum is not finite are treated as rows of equal weights.
    num : int
        At least 1.
    bits : tuple of int
        Fractional bits of the total, of the units and of the grid.
    tile : int, optional
        Changes no bit of the result.
    """
    rows, size = log_weights.shape
    tile = tile or tile_size(size)
    tiles = num_tiles(size, tile)
    block = tile_size(tiles)
    total_bits, unit_bits, grid_bits = bits
    grid, per_tile, per_row = rows * tiles, (rows, tiles), (rows,)
    units = {"UNIT": 2.0**unit_bits, "TOTAL_STEP": 2.0**-total_bits}

    (maxima,) = launch(
        tile_maxima, grid, log_weights, size, tiles, results=[(per_tile, "float32")], TILE=tile
    )
    (maximum,) = launch(
        row_maxima, rows, maxima, tiles, results=[(per_row, "float32")], BLOCK=block
    )
    (totals,) = launch(
        tile_totals,
        grid,
        log_weights,
        maximum,
        size,
        tiles,
        results=[(per_tile, "int64")],
        TOTAL_UNIT=2.0**total_bits,
        TILE=tile,
    )
    _, total = launch(
        row_scan,
        rows,
        totals,
        tiles,
        results=[(per_tile, "int64"), (per_row, "int64")],
        BLOCK=block,
    )
    (shares,) = launch(
        tile_units,
        grid,
        log_weights,
        maximum,
        total,
        size,
        tiles,
        num,
        results=[(per_tile, "int64")],
        TILE=tile,
        **units,
    )
    before, last = launch(
        row_scan,
        rows,
        shares,
        tiles,
        results=[(per_tile, "int64"), (per_row, "int64")],
        BLOCK=block,
    )
    (cdf,) = launch(
        tile_cdf,
        grid,
        log_weights,
        maximum,
        total,
        before,
        last,
        size,
        tiles,
        num,
        results=[((rows, size), "float64")],
        GRID=2.0**grid_bits,
        TILE=tile,
        **units,
    )
    return cdf, maximum


@triton.jit
def place(size, tiles, TILE: tl.constexpr):
    """Return row and tile of this program, and where its elements lie in the row and in all."""
    program = tl.program_id(0)
    row = (program // tiles).to(tl.int64)
    tile = program % tiles
    within = tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    return row, tile, within, row * size + within


@triton.jit
def tile_maxima(log_weights, size, tiles, maxima, TILE: tl.constexpr):
    """Write the largest log-weight of each tile; NaN if there is one."""
    _, _, within, where = place(size, tiles, TILE)
    values = tl.load(log_weights + where, mask=within < size, other=-float("inf"))
    tl.store(maxima + tl.program_id(0), largest(values))


@triton.jit
def row_maxima(maxima, tiles, maximum, BLOCK: tl.constexpr):
    """Write the largest of the numbers of each row; NaN if there is one."""
    row = tl.program_id(0).to(tl.int64)
    best = tl.full((BLOCK,), -float("inf"), maxima.dtype.element_ty)
    for start in range(0, tiles, BLOCK):
        column = start + tl.arange(0, BLOCK)
        new = tl.load(maxima + row * tiles + column, mask=column < tiles, other=-float("inf"))
        best = tl.where((new > best) | (new != new), new, best)
    tl.store(maximum + row, largest(best))


@triton.jit
def largest(values):
    """Return the maximum, or NaN if there is one: the reduction alone would overlook it."""
    is_nan = values != values
    best = tl.max(tl.where(is_nan, -float("inf"), values), axis=0)
    return tl.where(tl.max(is_nan.to(tl.int32), axis=0) > 0, float("nan"), best)


@triton.jit
def tile_totals(
    log_weights, maximum, size, tiles, totals, TOTAL_UNIT: tl.constexpr, TILE: tl.constexpr
):
    """Write the sum of the weights of each tile, in units, each rounded up."""
    row, _, within, where = place(size, tiles, TILE)
    inside = within < size
    values = tl.load(log_weights + where, mask=inside, other=0.0)
    scaled = relative_weights(values, tl.load(maximum + row)) * TOTAL_UNIT
    whole = scaled.to(tl.int64)
    whole += (whole.to(tl.float64) < scaled).to(tl.int64)
    tl.store(totals + tl.program_id(0), tl.sum(tl.where(inside, whole, 0), axis=0))


@triton.jit
def row_scan(values, tiles, before, total, BLOCK: tl.constexpr):
    """Write for each number of a row the sum of those before it, and the sum of the row."""
    row = tl.program_id(0).to(tl.int64)
    carried = tl.full((), 0, tl.int64)
    for start in range(0, tiles, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < tiles
        new = tl.load(values + row * tiles + column, mask=inside, other=0)
        tl.store(
            before + row * tiles + column, carried + tl.cumsum(new, axis=0) - new, mask=inside
        )
        carried += tl.sum(new, axis=0)
    tl.store(total + row, carried)


@triton.jit
def units_of(log_weights, maximum, total, num, UNIT: tl.constexpr, TOTAL_STEP: tl.constexpr):
    """Return the weights as whole numbers of units, ``num`` times ``UNIT`` in all, about."""
    unit = num * tl.full((), UNIT, tl.float64) / (total.to(tl.float64) * TOTAL_STEP)
    return (relative_weights(log_weights, maximum) * unit).to(tl.int64)


@triton.jit
def tile_units(
    log_weights,
    maximum,
    total,
    size,
    tiles,
    num,
    shares,
    UNIT: tl.constexpr,
    TOTAL_STEP: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the sum of the units of each tile."""
    row, _, within, where = place(size, tiles, TILE)
    inside = within < size
    values = tl.load(log_weights + where, mask=inside, other=0.0)
    units = units_of(
        values, tl.load(maximum + row), tl.load(total + row), num, UNIT, TOTAL_STEP
    )
    tl.store(shares + tl.program_id(0), tl.sum(tl.where(inside, units, 0), axis=0))


@triton.jit
def tile_cdf(
    log_weights,
    maximum,
    total,
    before,
    last,
    size,
    tiles,
    num,
    cdf,
    UNIT: tl.constexpr,
    TOTAL_STEP: tl.constexpr,
    GRID: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the prefix sums of the units, scaled to end at ``num``, on the grid."""
    row, _, within, where = place(size, tiles, TILE)
    inside = within < size
    values = tl.load(log_weights + where, mask=inside, other=0.0)
    units = units_of(
        values, tl.load(maximum + row), tl.load(total + row), num, UNIT, TOTAL_STEP
    )
    cumulative = tl.load(before + tl.program_id(0)) + tl.cumsum(
        tl.where(inside, units, 0), axis=0
    )
    end = tl.load(last + row)
    as_float = num * tl.full((), 1.0, tl.float64)
    scaled = cumulative.to(tl.float64) * (as_float / end.to(tl.float64)) * GRID
    # To the nearest integer, ties to even: below 2**51 there is no room for more bits.
    shift = 4503599627370496.0  # 2**52
    scaled = ((scaled + shift) - shift) * (1 / GRID)
    scaled = tl.where((cumulative == end) | (scaled > as_float), as_float, scaled)
    tl.store(cdf + where, scaled, mask=inside)
