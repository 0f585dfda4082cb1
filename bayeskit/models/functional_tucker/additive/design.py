"""From terms and a table of coordinates to the arrays of one joint Gaussian block."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bayeskit.inference.gp_kernels import White
from bayeskit.models.functional_tucker.additive.groups import (
    Block,
    Fill,
    padded_size,
    prediction_blocks,
    single_rows,
    training_blocks,
)
from bayeskit.models.functional_tucker.additive.knots import choose_knots, interpolate
from bayeskit.models.functional_tucker.additive.plan import (
    Plan,
    WeightBlock,
    knot_kernel,
    make_plan,
)
from bayeskit.models.functional_tucker.terms import GroupMeanEffect, MainEffect, WithinGroup

__all__ = ["AdditiveDesign", "Arrays", "NewArrays", "additive_design", "new_design"]


class Arrays(NamedTuple):
    """The arrays of a design at training rows, padded: rows by zeros, nodes by their last.

    A value of a block of weights is a matrix (rows or nodes, knots) that interpolates, or the
    coordinates (rows or nodes) that features are functions of.
    """

    knots: tuple[np.ndarray, ...]  # for each block of weights, empty for features
    node_columns: tuple[np.ndarray, ...]
    row_columns: tuple[np.ndarray, ...]
    coordinates: tuple[np.ndarray, ...]  # of the process within groups, a mode each: (rows + 1)
    nodes: np.ndarray
    gaps: np.ndarray
    blocks: tuple[Block, ...]


class NewArrays(NamedTuple):
    """The arrays of rows to predict, padded."""

    columns: tuple[np.ndarray, ...]  # for each block of weights, rows zero where not covered
    uncovered: tuple[np.ndarray, ...]  # for each block: coordinates that no knot covers
    uncovered_index: tuple[np.ndarray, ...]  # (new rows), -1 where covered
    coordinates: tuple[np.ndarray, ...]
    nodes: np.ndarray  # of the level: training and new, sorted
    gaps: np.ndarray
    training_place: np.ndarray  # (training nodes): where they stand on this grid
    new_node: np.ndarray  # (new rows)
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class AdditiveDesign:
    """Terms bound to training rows: the arrays, and what later rows need to join them.

    Parameters
    ----------
    terms : tuple of terms, each with a kernel
    names : tuple of the names of the modes
    table : (rows, modes) array
    context : {"given", "training"}
    level_mode : int or None
        The mode whose distinct values are the nodes of the level.
    plan : Plan
    means : dict
        For each term that needs them: groups, and their means over training rows.
    is_grid : tuple of bool
        For each block of weights: whether its knots are a grid, not the distinct values.
    arrays : Arrays
    """

    terms: tuple[Any, ...]
    names: tuple[Hashable, ...]
    table: np.ndarray
    context: str
    level_mode: int | None
    plan: Plan
    means: dict[int, tuple[np.ndarray, np.ndarray]]
    is_grid: tuple[bool, ...]
    arrays: Arrays

    @property
    def num_rows(self) -> int:
        """Number of training rows, without padding."""
        return len(self.table)

    @property
    def num_padded(self) -> int:
        """Number of rows that padded arrays have."""
        return padded_size(len(self.table))

    def pad(self, values: Any) -> np.ndarray:
        """Return values of rows, followed by zeros."""
        values = np.asarray(values, float)
        return np.pad(values, (0, self.num_padded - len(values)))


def additive_design(
    terms: Sequence[Any],
    table: np.ndarray,
    names: Sequence[Hashable] | None = None,
    context: str = "given",
) -> AdditiveDesign:
    """Bind terms to training rows.

    Parameters
    ----------
    terms : sequence of MainEffect, GroupMeanEffect, WithinGroup
        Each with a kernel.
    table : (rows, modes) array
    names : sequence of names of the modes
        Default: their positions.
    context : {"given", "training"}
        Whether the mean over a group without training rows is that over all rows to predict, or
        each of its rows stands for itself.
    """
    names = tuple(range(table.shape[1])) if names is None else tuple(names)
    mode = _level_mode(terms, names, table)
    plan = make_plan(terms, None if mode is None else names[mode])
    means = {
        i: _group_means(_mode(term.by, names, table), _mode(term.mode, names, table))
        for i, term in enumerate(terms)
        if isinstance(term, GroupMeanEffect)
    }
    if mode is None:
        nodes, first, group = np.zeros(1), np.zeros(1, int), np.zeros(len(table), int)
    else:
        nodes, first, group = np.unique(
            table[:, mode], return_index=True, return_inverse=True
        )
    num_rows, num_nodes = padded_size(len(table)), padded_size(len(nodes))
    knots, columns, is_grid = [], [], []
    for block in plan.weights:
        term = terms[block.term]
        values = _column(term, means.get(block.term), names, table, context)
        chosen, column, grid = _block_columns(term, block, values)
        column = column[first] if block.on_nodes else column
        columns.append(_pad_rows(column, num_nodes if block.on_nodes else num_rows))
        knots.append(chosen)
        is_grid.append(grid)
    fill = Fill(num_rows, num_nodes, num_rows)
    make_blocks = single_rows if plan.within is None else training_blocks
    num_on_nodes = len(plan.on_nodes)
    padded_nodes = np.pad(nodes, (0, num_nodes - len(nodes)), mode="edge")
    arrays = Arrays(
        knots=tuple(knots),
        node_columns=tuple(columns[:num_on_nodes]),
        row_columns=tuple(columns[num_on_nodes:]),
        coordinates=_coordinates(plan, terms, names, table, num_rows),
        nodes=padded_nodes,
        gaps=np.diff(padded_nodes),
        blocks=make_blocks(group, fill),
    )
    return AdditiveDesign(
        tuple(terms), names, table, context, mode, plan, means, tuple(is_grid), arrays
    )


def new_design(design: AdditiveDesign, table: np.ndarray, joint: bool = False) -> NewArrays:
    """Return the arrays of rows to predict.

    Parameters
    ----------
    design : AdditiveDesign
    table : (new rows, modes) array
    joint : bool
        Whether rows will be drawn together; moments of single rows need less.
    """
    num_new = padded_size(len(table))
    columns, uncovered, index = [], [], []
    for block, knots, grid in zip(
        design.plan.weights, design.arrays.knots, design.is_grid, strict=True
    ):
        term = design.terms[block.term]
        values = _column(
            term, design.means.get(block.term), design.names, table, design.context
        )
        if block.part is None:
            found = interpolate(values, knots, grid)
            columns.append(_pad_rows(found.matrix, num_new))
            num = len(found.uncovered)
            edge = padded_size(num) - num if num else 0
            uncovered.append(np.pad(found.uncovered, (0, edge), mode="edge") if num else found.uncovered)
            index.append(np.pad(found.index, (0, num_new - len(table)), constant_values=-1))
        else:
            columns.append(_pad_rows(values, num_new))
            uncovered.append(np.zeros(0))
            index.append(np.full(num_new, -1))
    if design.level_mode is None:
        nodes, group = np.zeros(1), np.zeros(design.num_rows, int)
        new_group = np.zeros(len(table), int)
    else:
        old, new = design.table[:, design.level_mode], table[:, design.level_mode]
        nodes = np.unique(np.concatenate([old, new]))
        group, new_group = np.searchsorted(nodes, old), np.searchsorted(nodes, new)
    num_nodes = padded_size(len(nodes))
    fill = Fill(design.num_padded, num_nodes, num_new)
    place = np.unique(group)
    padded_nodes = np.pad(nodes, (0, num_nodes - len(nodes)), mode="edge")
    return NewArrays(
        columns=tuple(columns),
        uncovered=tuple(uncovered),
        uncovered_index=tuple(index),
        coordinates=_coordinates(design.plan, design.terms, design.names, table, num_new),
        nodes=padded_nodes,
        gaps=np.diff(padded_nodes),
        training_place=np.pad(
            place, (0, len(design.arrays.nodes) - len(place)), constant_values=num_nodes
        ),
        new_node=np.pad(new_group, (0, num_new - len(table))),
        blocks=()
        if design.plan.within is None
        else prediction_blocks(group, new_group, fill, joint),
    )


def _mode(name: Hashable, names: Sequence[Hashable], table: np.ndarray) -> np.ndarray:
    return table[:, names.index(name)]


def _level_mode(terms: Sequence[Any], names: Sequence[Hashable], table: Any) -> int | None:
    """Return the mode that groups; where none does, the main effect with most values."""
    for kind in (WithinGroup, GroupMeanEffect):
        for term in terms:
            if isinstance(term, kind):
                return names.index(term.by)
    modes = [names.index(term.mode) for term in terms]
    return max(modes, key=lambda mode: len(np.unique(table[:, mode])), default=None)


def _group_means(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups, index = np.unique(group, return_inverse=True)
    return groups, np.bincount(index, values) / np.bincount(index)


def _column(term: Any, means: Any, names: Any, table: np.ndarray, context: str) -> np.ndarray:
    """Return what a term is a function of, at rows of a table."""
    values = _mode(term.mode, names, table)
    if isinstance(term, MainEffect):
        return values
    group = _mode(term.by, names, table)
    known, mean = means
    place = np.minimum(np.searchsorted(known, group), len(known) - 1)
    is_seen = known[place] == group
    column = np.where(is_seen, mean[place], values)
    if context == "given" and not is_seen.all():
        groups, given = _group_means(group[~is_seen], values[~is_seen])
        column[~is_seen] = given[np.searchsorted(groups, group[~is_seen])]
    return column


def _block_columns(term: Any, block: WeightBlock, values: np.ndarray) -> tuple:
    """Return knots, columns, and whether the knots are a grid."""
    if block.part is not None:
        return np.zeros(0), values, False
    is_white = any(isinstance(part, White) for part in knot_kernel(term.kernel).terms)
    knots = choose_knots(values, term.num_knots, is_white)
    is_grid = not np.isin(values, knots).all()
    return knots, interpolate(values, knots, is_grid).matrix, is_grid


def _pad_rows(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1))


def _coordinates(plan: Plan, terms: Any, names: Any, table: np.ndarray, size: int) -> tuple:
    if plan.within is None:
        return ()
    modes = terms[plan.within].kernel.modes
    return tuple(_pad_rows(_mode(mode, names, table), size + 1) for mode in modes)
