"""From terms and a table of coordinates to the arrays of one joint Gaussian block."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.inference.gp_kernels import White
from bayeskit.models.functional_tucker.additive.groups import (
    Block,
    Fill,
    padded_size,
    prediction_blocks,
    single_rows,
    training_blocks,
)
from bayeskit.models.functional_tucker.additive.knots import (
    Interpolation,
    choose_knots,
    interpolate,
)
from bayeskit.models.functional_tucker.additive.plan import (
    Plan,
    WeightBlock,
    knot_kernel,
    make_plan,
)
from bayeskit.models.functional_tucker.terms import GroupMeanEffect, MainEffect, WithinGroup

__all__ = [
    "AdditiveDesign",
    "Arrays",
    "NewArrays",
    "additive_design",
    "column_of",
    "function_design",
    "new_design",
]

# A Cholesky factor of this size takes seconds, and each evidence takes one for each such group.
MAX_GROUP = 4000


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

    constant: np.ndarray  # (new rows): 1 where the constant is part of the row
    on_level: np.ndarray  # (new rows): 1 where the level is
    mask: tuple[float, ...]  # for each block of weights: 1 where it is part of the rows
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
) -> AdditiveDesign:
    """Bind terms to training rows.

    Parameters
    ----------
    terms : sequence of MainEffect, GroupMeanEffect, WithinGroup
        Each with a kernel.
    table : (rows, modes) array
    names : sequence of names of the modes
        Default: their positions.
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
        nodes, first, group = np.unique(table[:, mode], return_index=True, return_inverse=True)
    if plan.within is not None:
        _check_group_sizes(terms[plan.within], np.bincount(group))
    num_rows, num_nodes = padded_size(len(table)), padded_size(len(nodes))
    knots, columns, is_grid = [], [], []
    for block in plan.weights:
        term = terms[block.term]
        values = _column(term, means.get(block.term), names, table)
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
    return AdditiveDesign(tuple(terms), names, table, mode, plan, means, tuple(is_grid), arrays)


def new_design(
    design: AdditiveDesign, table: np.ndarray, context: str = "given", joint: bool = False
) -> NewArrays:
    """Return the arrays of rows to predict.

    Parameters
    ----------
    design : AdditiveDesign
    table : (new rows, modes) array
    context : {"given", "training"}
        Whether the mean over a group without training rows is that over all rows to predict, or
        each of its rows stands for itself.
    joint : bool
        Whether rows will be drawn together; moments of single rows need less.
    """
    values = [column_of(design, block.term, table, context) for block in design.plan.weights]
    mode = design.level_mode
    new = _new_arrays(design, values, None if mode is None else table[:, mode], len(table))
    if design.plan.within is None:
        return new
    num_new = len(new.new_node)
    place = np.unique(design.table[:, mode], return_inverse=True)[1]
    fill = Fill(design.num_padded, len(new.nodes), num_new)
    group = new.training_place[place]
    return new._replace(
        coordinates=_coordinates(design.plan, design.terms, design.names, table, num_new),
        blocks=prediction_blocks(group, new.new_node[: len(table)], fill, joint),
    )


def function_design(design: AdditiveDesign, term: int, grid: np.ndarray) -> NewArrays:
    """Return the arrays of one term's function alone, at values of its column."""
    plan = design.plan
    is_level = any(i == term for i, _ in plan.level)
    new = _new_arrays(
        design, [grid] * len(plan.weights), grid if is_level else np.zeros(0), len(grid)
    )
    own = [block.term == term for block in plan.weights]
    return new._replace(
        constant=np.zeros_like(new.constant),
        on_level=new.on_level * is_level,
        mask=tuple(float(keep) for keep in own),
    )


def _new_arrays(design: AdditiveDesign, values: Any, level: Any, num: int) -> NewArrays:
    """Return new rows without what joins them to rows of their groups.

    ``values`` are those of the column of each block of weights, ``level`` those of the mode
    that groups, or None where there is none.
    """
    num_new = padded_size(num)
    columns, uncovered, index = [], [], []
    for block, value, knots, grid in zip(
        design.plan.weights, values, design.arrays.knots, design.is_grid, strict=True
    ):
        found = Interpolation(value, np.zeros(0), np.full(num, -1))
        if block.part is None:
            found = interpolate(value, knots, grid)
        extra = padded_size(len(found.uncovered)) - len(found.uncovered)
        columns.append(_pad_rows(found.matrix, num_new))
        index.append(np.pad(found.place, (0, num_new - num), constant_values=-1))
        uncovered.append(
            np.pad(found.uncovered, (0, extra), mode="edge")
            if len(found.uncovered)
            else found.uncovered
        )
    mode = design.level_mode
    old = np.zeros(1) if mode is None else design.table[:, mode]
    new = np.zeros(0) if level is None else level
    nodes = np.unique(np.concatenate([old, new]))
    num_nodes = padded_size(len(nodes))
    padded_nodes = np.pad(nodes, (0, num_nodes - len(nodes)), mode="edge")
    place = np.searchsorted(nodes, np.unique(old))
    return NewArrays(
        constant=np.ones(num_new),
        on_level=np.ones(num_new),
        mask=(1.0,) * len(columns),
        columns=tuple(columns),
        uncovered=tuple(uncovered),
        uncovered_index=tuple(index),
        coordinates=(),
        nodes=padded_nodes,
        gaps=np.diff(padded_nodes),
        training_place=np.pad(
            place, (0, len(design.arrays.nodes) - len(place)), constant_values=num_nodes
        ),
        new_node=_pad_rows(np.searchsorted(nodes, new), num_new),
        blocks=(),
    )


def column_of(
    design: AdditiveDesign, term: int, table: np.ndarray, context: str = "given"
) -> np.ndarray:
    """Return what a term is a function of, at rows of a table."""
    item, means = design.terms[term], design.means.get(term)
    return _column(item, means, design.names, table, context)


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


def _check_group_sizes(term: WithinGroup, sizes: np.ndarray) -> None:
    largest = int(sizes.max())
    if largest > MAX_GROUP:
        raise InvalidDataError(
            f"WithinGroup({term.by}): the largest group has {largest} rows, which needs a "
            f"matrix of {8e-9 * largest**2:.1f} GB; at most {MAX_GROUP} rows are taken. Group "
            "by a mode with more values"
        )


def _group_means(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups, index = np.unique(group, return_inverse=True)
    return groups, np.bincount(index, values) / np.bincount(index)


def _column(
    term: Any, means: Any, names: Any, table: np.ndarray, context: str = "given"
) -> np.ndarray:
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
