"""Chains side by side: independent moves of several states at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.errors import LawMismatch
from bayeskit.inference import random
from bayeskit.inference.law import INVARIANT, REVERSIBLE, Measure, origin
from bayeskit.inference.transitions.base import Transition, together, weakest
from bayeskit.inference.transitions.combinators import indented, need_parts

__all__ = ["Replicas", "product", "rung_measures", "slot"]


class Replicas(NamedTuple):
    """States of chains that run side by side, and where each of them started.

    Parameters
    ----------
    states : pytree with leading axis num
    origin : (num,) int32
        The place at which the state that is now here started; it travels with its state when
        states are exchanged, so that round trips can be counted.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_likelihood=lambda x: -((x[0] - 5) ** 2),
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> walk = bi.transition(bi.RandomWalk(), bi.TemperedPath(target))
    >>> moves = bi.product(walk, bi.rungs([0.0, 0.3, 1.0]))
    >>> replicas = moves.init(jax.random.key(0), jnp.zeros((3, 1)))
    >>> replicas.origin.tolist(), replicas.states.components[0].tolist()
    ([0, 1, 2], [0.0, -25.0])
    """

    states: Any
    origin: jax.Array


@dataclass(frozen=True, eq=False, repr=False)
class Product(Transition):
    """Transitions of any kind, each on its own part of a tuple. See :func:`product`."""

    parts: tuple[Transition, ...]

    @property
    def name(self):
        return f"product({', '.join(part.name for part in self.parts)})"

    @functools.cached_property
    def measure(self):
        return Measure.product([part.measure for part in self.parts])

    @property
    def law_kind(self):
        kinds = [part.law_kind for part in self.parts]
        stays = all(kind is REVERSIBLE for kind in kinds)
        return weakest(kinds, REVERSIBLE if stays else INVARIANT)

    @property
    def derivation(self):
        return ("independently, each on its own part of the state:", *indented(self.parts))

    def init(self, key, value):
        keys = random.split(key, len(self.parts))
        triples = zip(self.parts, keys, value, strict=True)
        return tuple(part.init(part_key, one) for part, part_key, one in triples)

    def value(self, state):
        return tuple(part.value(one) for part, one in zip(self.parts, state, strict=True))

    def step(self, key, state, stage=None):
        keys = random.split(key, len(self.parts))
        triples = zip(self.parts, keys, state, strict=True)
        moved = [part.step(part_key, one, stage) for part, part_key, one in triples]
        states, infos = zip(*moved, strict=True)
        return tuple(states), together(*infos)


@dataclass(frozen=True, eq=False, repr=False)
class Ladder(Transition):
    """One transition at every stage of a ladder, in lanes. See :func:`product`."""

    part: Transition
    stages: Any

    @property
    def name(self):
        return f"product({self.part.name} on {self.num} rungs)"

    @property
    def num(self) -> int:
        """Number of chains."""
        return jax.tree.leaves(self.stages)[0].shape[0]

    @functools.cached_property
    def measure(self):
        return Measure.product(rung_measures(self.part.measure, self.num))

    @property
    def law_kind(self):
        return self.part.law_kind

    @property
    def derivation(self):
        line = f"independently on each of {self.num} rungs of {self.part.measure.name}:"
        return (line, *indented([self.part]))

    def init(self, key, value):
        states = random.lanes(self.part.init, key, value)
        return Replicas(states, jnp.arange(self.num, dtype=jnp.int32))

    def value(self, state):
        return jax.vmap(self.part.value)(state.states)

    def step(self, key, state, stage=None):
        """Return the next states, and an info with one entry a rung."""
        # NumPy arrays take the precision of the program that runs them.
        stages = jax.tree.map(jnp.asarray, self.stages)
        states, infos = random.lanes(self.part.step, key, state.states, stages)
        return state._replace(states=states), infos


@dataclass(frozen=True, eq=False, repr=False)
class Slot(Transition):
    """A transition of one of several chains. See :func:`slot`."""

    part: Transition
    place: int
    on: Measure

    @property
    def name(self):
        return f"{self.part.name} in place {self.place}"

    @property
    def measure(self):
        return self.on

    @property
    def law_kind(self):
        return self.part.law_kind

    @property
    def derivation(self):
        return (f"in place {self.place}, the others as they are:", *indented([self.part]))

    def step(self, key, state, stage=None):
        if not isinstance(state, Replicas):
            chains = list(state)
            chains[self.place], info = self.part.step(key, chains[self.place], stage)
            return tuple(chains), info
        here = jax.tree.map(lambda leaf: leaf[self.place], state.states)
        moved, info = self.part.step(key, here, stage)
        states = jax.tree.map(
            lambda leaf, new: leaf.at[self.place].set(jnp.asarray(new, leaf.dtype)),
            state.states,
            moved,
        )
        return state._replace(states=states), info


def rung_measures(path: Measure, num: int) -> list[Measure]:
    """Return the measures of the rungs of a ladder on a path."""
    return [path.at(f"rung {number}") for number in range(num)]


def product(parts: Sequence[Transition] | Transition, stages: Any = None) -> Transition:
    r"""Move several chains side by side and independently.

    If each :math:`K_i` leaves :math:`\pi_i` invariant, the product leaves
    :math:`\pi_1 \otimes \dots \otimes \pi_n` invariant, and is reversible if all parts are.

    Parameters
    ----------
    parts : sequence of Transition, or one Transition
        Of a sequence the state is a tuple. One transition on a path is applied at every rung of
        a ladder; its states are :class:`Replicas`, stacked along a leading axis, and all rungs
        move in one batch.
    stages : TemperingStage with leading axis num
        The rungs, as from :func:`rungs`, for one transition.

    Returns
    -------
    Transition
        On a tuple of states, one for each chain; on a ladder on :class:`Replicas`.

    Raises
    ------
    ValueError
        Without parts.
    TypeError
        For anything but transitions, or for stages with a sequence or without one.

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> first = Target(log_density=lambda x: -0.5 * x[0] ** 2, name="π")
    >>> second = Target(log_density=lambda x: -2.0 * x[0] ** 2, name="ρ")
    >>> both = bi.product([bi.transition(bi.HMC(), target) for target in (first, second)])
    >>> print(both.explain())
    independently, each on its own part of the state:
        HMC leaves π invariant
        HMC leaves ρ invariant
    => L3r reversible for π ⊗ ρ: ...
    """
    if isinstance(parts, Transition):
        if stages is None:
            raise TypeError(
                "product of one transition needs stages=, the rungs of its path: "
                "rungs(ladder). For a product of several, pass them as a list"
            )
        return Ladder(parts, stages)
    if stages is not None:
        raise TypeError("stages= is for one transition at every rung; a list has its own")
    need_parts(parts, "product")
    return Product(tuple(parts))


def slot(part: Transition, place: int, whole: Transition) -> Transition:
    """Move one of the chains of a product and leave the others as they are.

    Parameters
    ----------
    part : Transition
        It must leave invariant what stands in that place.
    place : int
    whole : Transition
        The product, as from :func:`product`.

    Returns
    -------
    Transition
        On the states of all chains, as the product has them.

    Raises
    ------
    LawMismatch
        If ``part`` leaves something else invariant than what stands in that place.

    Examples
    --------
    An exact draw from the prior, for the lowest of three rungs:

    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_likelihood=lambda x: -((x[0] - 5) ** 2),
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> path = bi.TemperedPath(target)
    >>> moves = bi.product(bi.transition(bi.RandomWalk(), path), bi.rungs([0.0, 0.3, 1.0]))
    >>> lowest = path.measure.at("rung 0")
    >>> draw = bi.transition(lambda key, state: path.initial(key), lowest, name="prior draw")
    >>> print(bi.slot(draw, 0, moves).explain())
    in place 0, the others as they are:
        prior draw leaves π_λ[rung 0] invariant
    => L3 invariant for π_λ[rung 0] ⊗ π_λ[rung 1] ⊗ π_λ[rung 2]: π K = π
    """
    stands_for = whole.measure.parts[place]
    if part.measure != stands_for:
        raise LawMismatch(
            f"slot: {part.name} leaves {part.measure} invariant, but place {place} stands for "
            f"{origin(part.measure, stands_for)}"
        )
    return Slot(part, place, whole.measure)
