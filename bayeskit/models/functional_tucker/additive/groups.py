"""Rows in groups, padded to few sizes, so that one program serves all groups of a size."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

__all__ = [
    "Block",
    "Fill",
    "padded_size",
    "prediction_blocks",
    "single_rows",
    "training_blocks",
]

MAX_CLASSES = 2
# Rows of a group whose moments are wanted one by one are taken in pieces of this size.
PIECE = 4


class Block(NamedTuple):
    """Groups of one padded size.

    ``rows`` (groups, size) are row numbers, ``node`` (groups) is the place of the group on the
    level's grid, ``new`` (groups, new size) are rows to predict; padded by a :class:`Fill`.
    """

    rows: np.ndarray
    node: np.ndarray
    new: np.ndarray


class Fill(NamedTuple):
    """Numbers of rows, nodes and new rows after padding: what stands for none of them."""

    rows: int
    nodes: int
    new: int


def padded_size(size: int) -> int:
    """Return the size rounded up by at most an eighth, so that like sizes share a program."""
    step = 2 ** max(3, int(size).bit_length() - 4)
    return max(step, -(-size // step) * step)


def _rounded(size: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that holds the size."""
    power = 1 << max(size - 1, 0).bit_length()
    return power * 3 // 4 if 4 * size <= 3 * power and power >= 4 else power


def size_classes(sizes: np.ndarray) -> tuple[int, ...]:
    """Return the few sizes to pad to that make the least work for Cholesky factors."""
    rounded = np.array([_rounded(int(size)) for size in sizes])
    distinct = np.unique(rounded)

    def work(classes: tuple[int, ...]) -> float:
        padded = np.array(classes)[np.searchsorted(classes, rounded)].astype(float)
        return float(np.sum(padded**3 + 50.0 * padded**2))

    return min(
        (
            (*(int(size) for size in lower), int(distinct[-1]))
            for number in range(min(MAX_CLASSES, len(distinct)))
            for lower in combinations(distinct[:-1], number)
        ),
        key=work,
    )


def _in_classes(sizes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return each class with the places of the sizes that it holds; sizes of 0 go with 1."""
    lower, found = -1, []
    for size in size_classes(np.maximum(sizes, 1)):
        found.append((size, np.flatnonzero((sizes > lower) & (sizes <= size))))
        lower = size
    return found


def single_rows(node: np.ndarray, fill: Fill) -> tuple[Block, ...]:
    """Return every row as a group of its own, where nothing but the level joins rows."""
    rows = np.arange(len(node))[:, None]
    return (_padded(rows, node, rows, fill),)


def training_blocks(group: np.ndarray, fill: Fill) -> tuple[Block, ...]:
    """Return all groups with their rows; the group of each row (rows) is also its node."""
    sizes = np.bincount(group)
    present = np.flatnonzero(sizes)
    blocks = []
    for size, places in _in_classes(sizes[present]):
        chosen = present[places]
        rows = _rows_of(group, chosen, size, fill.rows)
        blocks.append(_padded(rows, chosen, rows, fill))
    return tuple(blocks)


def prediction_blocks(
    group: np.ndarray, new_group: np.ndarray, fill: Fill, joint: bool
) -> tuple[Block, ...]:
    """Return the groups of new rows, each with its training rows.

    Parameters
    ----------
    group, new_group : (rows), (new rows) arrays of int
    fill : Fill
    joint : bool
        All new rows of a group stand in one row of a block; else they are cut into pieces.
    """
    new_sizes = np.bincount(new_group)
    sizes = np.bincount(group, minlength=len(new_sizes))
    present = np.flatnonzero(new_sizes)
    blocks = []
    for size, places in _in_classes(sizes[present]):
        groups = present[places]
        if not len(groups):
            continue
        widths = _in_classes(new_sizes[groups]) if joint else [(PIECE, np.arange(len(groups)))]
        for width, inner in widths:
            chosen = groups[inner]
            if not len(chosen):
                continue
            num_pieces = -(-int(new_sizes[chosen].max()) // width)
            new = _rows_of(new_group, chosen, num_pieces * width, fill.new)
            pieces, owner = new.reshape(-1, width), np.repeat(chosen, num_pieces)
            is_used = pieces[:, 0] < fill.new
            pieces, owner = pieces[is_used], owner[is_used]
            blocks.append(_padded(_rows_of(group, owner, size, fill.rows), owner, pieces, fill))
    return tuple(blocks)


def _rows_of(group: np.ndarray, chosen: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Return the rows of the chosen groups, one group a row."""
    order = np.argsort(group, kind="stable")
    in_order = group[order]
    start = np.searchsorted(in_order, chosen)
    count = np.searchsorted(in_order, chosen, side="right") - start
    place = np.arange(size)
    table = order[np.minimum(start[:, None] + place, len(group) - 1)]
    return np.where(place < count[:, None], table, fill)


def _padded(rows: np.ndarray, node: np.ndarray, new: np.ndarray, fill: Fill) -> Block:
    extra = padded_size(len(rows)) - len(rows)
    return Block(
        np.pad(rows, ((0, extra), (0, 0)), constant_values=fill.rows),
        np.pad(node, (0, extra), constant_values=fill.nodes),
        np.pad(new, ((0, extra), (0, 0)), constant_values=fill.new),
    )
