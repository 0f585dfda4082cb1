"""Largest log-weight, sum of weights and sum of their squares, in one reading of the data.

Each tile takes its own largest log-weight for the origin. Where sums with origins m and m'
meet, the larger becomes the common one, and the other sums are multiplied by exp(-|m - m'|) and
its square: the online rule of Milakov & Gimelshein (2018). These sums are of floats, so that
their last bits depend on the tiles; no index is made of them.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from bayeskit.accel.kernels.triton.cdf import largest, place
from bayeskit.accel.kernels.triton.launching import Launcher, num_tiles, tile_size

__all__ = ["weight_sums"]


def weight_sums(
    launch: Launcher, log_weights: Any, dtype: str, tile: int | None = None
) -> tuple[Any, Any, Any]:
    """Return the maximum, the sum, and the sum of squares of each row; see the module.

    Parameters
    ----------
    launch : Launcher
    log_weights : (rows, num_particles) array
    dtype : {"float32", "float64"}
        That of the log-weights.
    tile : int, optional

    Returns
    -------
    tuple of (rows,) arrays
        The sums are float64, of weights relative to the maximum. Where the maximum is NaN or
        infinite they mean nothing.
    """
    rows, size = log_weights.shape
    tile = tile or tile_size(size)
    tiles = num_tiles(size, tile)
    parts = launch(
        tile_sums,
        rows * tiles,
        log_weights,
        size,
        tiles,
        results=[((rows, tiles), dtype), *2 * [((rows, tiles), "float64")]],
        TILE=tile,
    )
    return launch(
        row_sums,
        rows,
        *parts,
        tiles,
        results=[((rows,), dtype), *2 * [((rows,), "float64")]],
        BLOCK=tile_size(tiles),
    )


@triton.jit
def tile_sums(log_weights, size, tiles, maxima, sums, squares, TILE: tl.constexpr):
    """Write the three numbers of each tile."""
    program = tl.program_id(0)
    _, _, within, where = place(size, tiles, TILE)
    values = tl.load(log_weights + where, mask=within < size, other=-float("inf"))
    maximum = largest(values)
    weights = tl.exp(values - finite_or_zero(maximum)).to(tl.float64)
    tl.store(maxima + program, maximum)
    tl.store(sums + program, tl.sum(weights, axis=0))
    tl.store(squares + program, tl.sum(weights * weights, axis=0))


@triton.jit
def row_sums(maxima, sums, squares, tiles, maximum, total, total_squares, BLOCK: tl.constexpr):
    """Write the three numbers of each row."""
    row = tl.program_id(0).to(tl.int64)
    best = tl.full((), -float("inf"), maxima.dtype.element_ty)
    first = tl.full((), 0.0, tl.float64)
    second = tl.full((), 0.0, tl.float64)
    for start in range(0, tiles, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < tiles
        where = row * tiles + column
        new = tl.load(maxima + where, mask=inside, other=-float("inf"))
        new_best = largest(new)
        new_best = tl.where((best > new_best) | (best != best), best, new_best)
        origin = finite_or_zero(new_best)
        old = tl.exp((best - origin).to(tl.float64))
        factor = tl.exp((new - origin).to(tl.float64))
        first = first * old + tl.sum(
            tl.load(sums + where, mask=inside, other=0.0) * factor, axis=0
        )
        second = second * old * old + tl.sum(
            tl.load(squares + where, mask=inside, other=0.0) * factor * factor, axis=0
        )
        best = new_best
    tl.store(maximum + row, best)
    tl.store(total + row, first)
    tl.store(total_squares + row, second)


@triton.jit
def finite_or_zero(value):
    """Return zero in place of what no log-weight can be measured from."""
    return tl.where((value > -float("inf")) & (value < float("inf")), value, 0.0)
