"""Rows in groups, padded to few sizes so that one batched program serves all groups of a size."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

__all__ = ["Block", "padded_size", "prediction_blocks", "single_rows", "training_blocks"]

MAX_CLASSES = 3


class Block(NamedTuple):
    """Groups of one padded size.

    ``rows`` (groups, size) are row numbers, the number of rows where padded; ``node`` (groups)
    is the place of the group on the level's grid, the number of nodes where padded; ``new``
    (groups, new size) are rows to predict, their number where padded.
    """

    rows: np.ndarray
    node: np.ndarray
    new: np.ndarray


def padded_size(size: int) -> int:
    """Return the size rounded up by at most an eighth, so that like sizes share a program."""
    step = 2 ** max(3, int(size).bit_length() - 4)
    return max(step, -(-size // step) * step)


def _rounded(size: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that holds the size."""
    power = 1 << max(size - 1, 0).bit_length()
    return power * 3 // 4 if 4 * size <= 3 * power and power >= 4 else power


def size_classes(sizes: np.ndarray) -> tuple[int, ...]:
    """Return at most three sizes to pad to, those with the least work for Cholesky factors."""
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


def training_blocks(group: np.ndarray, num_groups: int) -> tuple[Block, ...]:
    """Return all groups with their rows, in blocks of padded sizes.

    Parameters
    ----------
    group : (rows) array of int
        The group of each row, which is also its node.
    num_groups : int
    """
    sizes = np.bincount(group, minlength=num_groups)
    lower, blocks = 0, []
    for size in size_classes(sizes[sizes > 0]):
        chosen = np.flatnonzero((sizes > lower) & (sizes <= size))
        rows = _rows_of(group, chosen, size)
        blocks.append(_block(rows, chosen, rows, len(group), num_groups, len(group)))
        lower = size
    return tuple(blocks)


def prediction_blocks(
    group: np.ndarray, new_group: np.ndarray, num_groups: int, joint: bool
) -> tuple[Block, ...]:
    """Return the groups of new rows, each with its training rows.

    Parameters
    ----------
    group, new_group : (rows), (new rows) arrays of int
    num_groups : int
    joint : bool
        All new rows of a group stand in one block; else they are cut into blocks of four.
    """
    sizes = np.bincount(group, minlength=num_groups)
    new_sizes = np.bincount(new_group, minlength=num_groups)
    present = np.flatnonzero(new_sizes)
    classes = size_classes(np.maximum(sizes[present], 1))
    blocks, lower = [], -1
    for size in classes:
        of_size = present[(sizes[present] > lower) & (sizes[present] <= size)]
        lower = size
        if not len(of_size):
            continue
        widths = size_classes(new_sizes[of_size]) if joint else (4,)
        narrower = 0
        for width in widths:
            chosen = of_size
            if joint:
                chosen = of_size[
                    (new_sizes[of_size] > narrower) & (new_sizes[of_size] <= width)
                ]
                narrower = width
            new = _rows_of(new_group, chosen, -(-int(new_sizes[chosen].max()) // width) * width)
            # Cut into pieces, and keep those that hold a row.
            pieces = new.reshape(-1, width)
            owner = np.repeat(chosen, new.shape[1] // width)
            kept = pieces[:, 0] < len(new_group)
            pieces, owner = pieces[kept], owner[kept]
            rows = _rows_of(group, owner, size)
            blocks.append(_block(rows, owner, pieces, len(group), num_groups, len(new_group)))
    return tuple(blocks)


def single_rows(node: np.ndarray, num_nodes: int, num_rows: int) -> tuple[Block, ...]:
    """Return every row as a group of its own, where nothing but the level joins rows."""
    rows = np.arange(len(node))[:, None]
    return (_block(rows, node, rows, num_rows, num_nodes, num_rows),)


def _rows_of(group: np.ndarray, chosen: np.ndarray, size: int) -> np.ndarray:
    """Return the rows of the chosen groups (with repeats), padded by the number of rows."""
    order = np.argsort(group, kind="stable")
    sorted_group = group[order]
    start = np.searchsorted(sorted_group, chosen)
    count = np.searchsorted(sorted_group, chosen, side="right") - start
    place = np.arange(size)
    inside = place < count[:, None]
    table = order[np.minimum(start[:, None] + place, max(len(group) - 1, 0))]
    return np.where(inside, table, len(group))


def _block(
    rows: np.ndarray,
    node: np.ndarray,
    new: np.ndarray,
    num_rows: int,
    num_nodes: int,
    num_new: int,
) -> Block:
    extra = padded_size(len(rows)) - len(rows)
    return Block(
        np.pad(rows, ((0, extra), (0, 0)), constant_values=num_rows),
        np.pad(node, (0, extra), constant_values=num_nodes),
        np.pad(new, ((0, extra), (0, 0)), constant_values=num_new),
    )
