"""From terms and a table of coordinates to the arrays of one joint Gaussian block.

Every term becomes one of three things:

- *weights*: a function of one column, given by its values on knots, or by finitely many
  features (periodic kernels);
- *level*: a function of the mode that groups, a Markov process over its distinct values;
- *within*: a process of its own within every group.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from bayeskit.models.functional_tucker.additive.groups import (
    Block,
    padded_size,
    prediction_blocks,
    single_rows,
    training_blocks,
)
from bayeskit.models.functional_tucker.additive.kernels import summands
from bayeskit.models.functional_tucker.additive.knots import choose_knots, interpolate
from bayeskit.models.functional_tucker.terms import GroupMeanEffect, MainEffect, WithinGroup

__all__ = ["AdditiveDesign", "Arrays", "NewArrays", "Plan", "additive_design", "new_design"]


class Plan(NamedTuple):
    """What is inferred how: the static part of a design.

    ``knots`` and ``features`` are (term, summand of its kernel) of weights; the summands at
    knots of one term act together, so their summand is None. ``level`` are those of the Markov
    process, ``within`` is the term of the process within groups, or None.
    """

    knots: tuple[int, ...]
    features: tuple[tuple[int, int], ...]
    level: tuple[tuple[int, int], ...]
    within: int | None


class Arrays(NamedTuple):
    """The arrays of a design at training rows, rows padded with zeros."""

    knots: tuple[jax.Array, ...]
    columns: jax.Array  # (rows, weights)
    coordinates: tuple[jax.Array, ...]  # of the modes of the process within groups: (rows + 1)
    nodes: jax.Array  # (nodes) of the level, padded by its last
    blocks: tuple[Block, ...]


class NewArrays(NamedTuple):
    """The arrays of rows to predict."""

    columns: jax.Array  # (new rows, weights), zero where not covered
    uncovered: tuple[jax.Array, ...]  # for each term on knots: (num_uncovered) coordinates
    uncovered_index: tuple[jax.Array, ...]  # (new rows), -1 where covered
    coordinates: tuple[jax.Array, ...]
    nodes: jax.Array  # of the level: training and new, sorted
    training_node: jax.Array  # (training nodes): their places on the grid above
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class AdditiveDesign:
    """Terms bound to training rows: the arrays, and what later rows need to join them."""

    terms: tuple[Any, ...]
    names: tuple[Hashable, ...]
    context: str
    plan: Plan
    arrays: Arrays
    num_rows: int
    level_mode: int | None
    centres: np.ndarray
    table: np.ndarray
    means: dict[int, tuple[np.ndarray, np.ndarray]]  # term -> groups, means at training
    is_grid: tuple[bool, ...]

    def pad(self, values: Any) -> np.ndarray:
        """Return values of rows followed by zeros, as many rows as the arrays have."""
        values = np.asarray(values, float)
        return np.pad(values, (0, len(self.arrays.columns) - len(values)))


def additive_design(
    terms: Sequence[Any],
    table: np.ndarray,
    names: Sequence[Hashable] | None = None,
    context: str = "given",
) -> AdditiveDesign:
    """Bind terms to training rows.

    Parameters
    ----------
    terms : sequence of MainEffect, GroupMeanEffect, WithinGroup, with kernels
    table : (rows, modes) array
    names : sequence of names of the modes, default: their positions
    context : {"given", "training"}
        Whether the means of groups without training rows are those of all rows to predict, or
        of each row by itself.
    """
    names = tuple(range(table.shape[1])) if names is None else tuple(names)
    centres = table.mean(axis=0)
    table = table - centres
    level_mode = _level_mode(terms, names, table)
    knots, features, level, within = [], [], [], None
    for i, term in enumerate(terms):
        if isinstance(term, WithinGroup):
            within = i
            continue
        on_level = isinstance(term, MainEffect) and names.index(term.mode) == level_mode
        at_knots = False
        for j, part in enumerate(summands(term.kernel)):
            if hasattr(part, "features"):
                features.append((i, j))
            elif on_level:
                level.append((i, j))
            else:
                at_knots = True
        if at_knots:
            knots.append(i)
    plan = Plan(tuple(knots), tuple(features), tuple(level), within)

    means: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for i, term in enumerate(terms):
        if isinstance(term, GroupMeanEffect):
            means[i] = _group_means(
                table[:, names.index(term.by)], table[:, names.index(term.mode)]
            )
    design = AdditiveDesign(
        terms=tuple(terms),
        names=names,
        context=context,
        plan=plan,
        arrays=None,  # type: ignore[arg-type]
        num_rows=len(table),
        level_mode=level_mode,
        centres=centres,
        table=table,
        means=means,
        is_grid=(),
    )
    return _with_arrays(design)


def _level_mode(terms: Sequence[Any], names: Sequence[Hashable], table: Any) -> int | None:
    for kind in (WithinGroup, GroupMeanEffect):
        for term in terms:
            if isinstance(term, kind):
                return names.index(term.by)
    modes = [names.index(term.mode) for term in terms]
    if not modes:
        return None
    return max(modes, key=lambda mode: len(np.unique(table[:, mode])))


def _group_means(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups, index = np.unique(group, return_inverse=True)
    return groups, np.bincount(index, values) / np.bincount(index)


def _column(design: AdditiveDesign, term: int, table: np.ndarray) -> np.ndarray:
    """Return what a term is a function of, at rows of a table."""
    item, names = design.terms[term], design.names
    values = table[:, names.index(item.mode)]
    if isinstance(item, MainEffect):
        return values
    group = table[:, names.index(item.by)]
    known, means = design.means[term]
    place = np.minimum(np.searchsorted(known, group), len(known) - 1)
    seen = known[place] == group
    column = np.where(seen, means[place], values)
    if design.context == "given" and not seen.all():
        groups, given = _group_means(group[~seen], values[~seen])
        column[~seen] = given[np.searchsorted(groups, group[~seen])]
    return column


def _has_white(kernel: Any) -> bool:
    return any(type(leaf).__name__ == "White" for leaf in summands(kernel))


def _features(design: AdditiveDesign, table: np.ndarray) -> list[np.ndarray]:
    found = []
    for i, j in design.plan.features:
        part = summands(design.terms[i].kernel)[j]
        found.append(np.asarray(part.features(_column(design, i, table))))
    return found


def _with_arrays(design: AdditiveDesign) -> AdditiveDesign:
    table, plan = design.table, design.plan
    knots, columns, is_grid = [], [np.ones((len(table), 1))], []
    for i in plan.knots:
        values, term = _column(design, i, table), design.terms[i]
        chosen = choose_knots(values, term.num_knots, _has_white(term.kernel))
        is_grid.append(len(chosen) < len(np.unique(values)))
        knots.append(chosen)
        columns.append(interpolate(values, chosen, is_grid[-1]).matrix)
    columns += _features(design, table)
    num_rows = padded_size(len(table))
    if design.level_mode is None:
        nodes, group = np.zeros(1), np.zeros(len(table), int)
    else:
        nodes, group = np.unique(table[:, design.level_mode], return_inverse=True)
    num_nodes = padded_size(len(nodes))
    if plan.within is None:
        blocks = single_rows(group, num_nodes, num_rows)
    else:
        blocks = training_blocks(group, len(nodes))
        blocks = tuple(
            Block(_repoint(b.rows, len(table), num_rows), _repoint(b.node, len(nodes), num_nodes), _repoint(b.new, len(table), num_rows))
            for b in blocks
        )
    arrays = Arrays(
        knots=tuple(knots),
        columns=np.pad(np.hstack(columns), ((0, num_rows - len(table)), (0, 0))),
        coordinates=_coordinates(design, table, num_rows),
        nodes=np.pad(nodes, (0, num_nodes - len(nodes)), mode="edge"),
        blocks=blocks,
    )
    return _replace(design, arrays=arrays, is_grid=tuple(is_grid))


def _replace(design: AdditiveDesign, **changes: Any) -> AdditiveDesign:
    from dataclasses import replace

    return replace(design, **changes)


def _repoint(index: np.ndarray, old: int, new: int) -> np.ndarray:
    return np.where(index == old, new, index)


def _coordinates(design: AdditiveDesign, table: np.ndarray, num_rows: int) -> tuple:
    if design.plan.within is None:
        return ()
    return tuple(
        np.pad(table[:, design.names.index(mode)], (0, num_rows + 1 - len(table)))
        for mode in design.terms[design.plan.within].kernel.modes
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
    table = table - design.centres
    columns, uncovered, index = [np.ones((len(table), 1))], [], []
    for i, knots, grid in zip(
        design.plan.knots, design.arrays.knots, design.is_grid, strict=True
    ):
        found = interpolate(_column(design, i, table), knots, grid)
        columns.append(found.matrix)
        uncovered.append(found.uncovered)
        index.append(found.index)
    columns += _features(design, table)
    num_rows, num_new = len(design.arrays.columns), padded_size(len(table))
    if design.level_mode is None:
        nodes = np.zeros(1)
        group, new_group = np.zeros(design.num_rows, int), np.zeros(len(table), int)
        training_node = np.zeros(1, int)
    else:
        old = design.table[:, design.level_mode]
        nodes = np.unique(np.concatenate([old, table[:, design.level_mode]]))
        group = np.searchsorted(nodes, old)
        new_group = np.searchsorted(nodes, table[:, design.level_mode])
        training_node = np.unique(group)
    num_nodes = padded_size(len(nodes))
    if design.plan.within is None:
        rows = np.full((len(table), 1), num_rows)
        new = np.arange(len(table))[:, None]
        extra = num_new - len(table)
        blocks: tuple[Block, ...] = (
            Block(
                np.pad(rows, ((0, extra), (0, 0)), constant_values=num_rows),
                np.pad(new_group, (0, extra), constant_values=num_nodes),
                np.pad(new, ((0, extra), (0, 0)), constant_values=num_new),
            ),
        )
    else:
        blocks = tuple(
            Block(
                _repoint(b.rows, design.num_rows, num_rows),
                _repoint(b.node, len(nodes), num_nodes),
                _repoint(b.new, len(table), num_new),
            )
            for b in prediction_blocks(group, new_group, len(nodes), joint)
        )
    return NewArrays(
        columns=np.pad(np.hstack(columns), ((0, num_new - len(table)), (0, 0))),
        uncovered=tuple(
            np.pad(u, (0, padded_size(len(u)) - len(u)), mode="edge") if len(u) else u
            for u in uncovered
        ),
        uncovered_index=tuple(
            np.pad(i, (0, num_new - len(i)), constant_values=-1) for i in index
        ),
        coordinates=_coordinates(design, table, num_new),
        nodes=np.pad(nodes, (0, num_nodes - len(nodes)), mode="edge"),
        training_node=np.pad(
            training_node,
            (0, len(design.arrays.nodes) - len(training_node)),
            constant_values=num_nodes,
        ),
        blocks=blocks,
    )
