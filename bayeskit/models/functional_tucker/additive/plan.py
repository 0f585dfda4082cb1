"""Which part of which term is inferred how.

Every term becomes one of three things:

- *weights*: a function given by its values on knots, or by finitely many features (periodic
  and linear kernels);
- *level*: a function of the mode that groups, a Markov process over its distinct values;
- *within*: a process of its own within every group.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference.gp_kernels import Constant, Linear, Periodic, Product, Scaled, Sum
from bayeskit.models.functional_tucker.terms import GroupMeanEffect, MainEffect, WithinGroup

__all__ = ["Plan", "WeightBlock", "features", "knot_kernel", "make_plan", "part_of"]


class WeightBlock(NamedTuple):
    """A function with finitely many weights.

    ``part`` is the summand of the term's kernel that is made of features; None stands for all
    other summands together, whose function is given on knots. A function of the mode that
    groups, or of a mean over its groups, has a value for each node of the level, any other one
    for each row.
    """

    term: int
    part: int | None
    on_nodes: bool


class Plan(NamedTuple):
    """The static part of a design: weights on nodes first, then those on rows."""

    weights: tuple[WeightBlock, ...]
    level: tuple[tuple[int, int], ...]
    within: int | None

    @property
    def on_nodes(self) -> tuple[WeightBlock, ...]:
        """The blocks with a value for each node."""
        return tuple(block for block in self.weights if block.on_nodes)

    @property
    def on_rows(self) -> tuple[WeightBlock, ...]:
        """The blocks with a value for each row."""
        return tuple(block for block in self.weights if not block.on_nodes)


def make_plan(terms: Sequence[Any], level_mode: Hashable | None) -> Plan:
    """Return the plan of terms, given the mode whose values are the nodes of the level."""
    weights: list[WeightBlock] = []
    level: list[tuple[int, int]] = []
    within = None
    for i, term in enumerate(terms):
        if isinstance(term, WithinGroup):
            within = i
            continue
        is_level = isinstance(term, MainEffect) and term.mode == level_mode
        on_nodes = is_level or (isinstance(term, GroupMeanEffect) and term.by == level_mode)
        has_knots = False
        for j, part in enumerate(term.kernel.terms):
            if _has_features(part):
                weights.append(WeightBlock(i, j, on_nodes))
            elif is_level:
                level.append((i, j))
            else:
                has_knots = True
        if has_knots:
            weights.append(WeightBlock(i, None, on_nodes))
    weights.sort(key=lambda block: not block.on_nodes)
    return Plan(tuple(weights), tuple(level), within)


def _has_features(kernel: Any) -> bool:
    """Return whether all functions of a kernel lie in a space of few dimensions."""
    if isinstance(kernel, Product | Sum):
        return _has_features(kernel.left) and _has_features(kernel.right)
    if isinstance(kernel, Scaled):
        return _has_features(kernel.kernel)
    return isinstance(kernel, Constant | Linear | Periodic)


def part_of(kernels: Any, block: WeightBlock) -> Any:
    """Return the kernel of a block of weights."""
    kernel = kernels[block.term]
    return knot_kernel(kernel) if block.part is None else kernel.terms[block.part]


def knot_kernel(kernel: Any) -> Any:
    """Return the sum of the summands that are not made of features."""
    first, *others = (part for part in kernel.terms if not _has_features(part))
    return sum(others, start=first)


def features(kernel: Any, x: jax.Array) -> jax.Array:
    """Return the features (n, dim) of a kernel without process noise.

    The function is f(x) = H(x) A(0, x) s(0): linear in a state of covariance P = R R', and the
    features are those of R^{-1} s(0).
    """
    zero = jnp.zeros((), x.dtype)
    root = jnp.linalg.cholesky(kernel.covariance_at(zero))
    return jax.vmap(lambda at: kernel.observation(at) @ kernel.transition(zero, at))(x) @ root
