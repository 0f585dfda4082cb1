"""One transition after another, chosen at random, or again and again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.law import INVARIANT, REVERSIBLE, LawKind
from bayeskit.inference.transitions.base import (
    Transition,
    common_measure,
    summed_up,
    together,
    weakest,
)

__all__ = ["cycle", "indented", "mixture", "need_parts", "palindrome", "repeat"]


def indented(parts: Sequence[Transition]) -> tuple[str, ...]:
    """Return the derivations of parts, set off below that of the whole."""
    return tuple("    " + line for part in parts for line in part.derivation)


@dataclass(frozen=True, eq=False, repr=False)
class _Composed(Transition):
    """Transitions that share a state and what they leave invariant."""

    parts: tuple[Transition, ...]

    def __post_init__(self):
        common_measure(self.parts, self.name)

    @property
    def measure(self):
        return self.parts[0].measure

    def init(self, key, value):
        return self._plainest.init(key, value)

    def value(self, state):
        return self._plainest.value(state)

    @property
    def _plainest(self) -> Transition:
        """The part whose states all parts can be given: one without gradients, if any is."""
        return next((part for part in self.parts if not part.keeps_gradient), self.parts[0])

    @property
    def keeps_gradient(self):
        return self._plainest.keeps_gradient

    def with_gradient(self, state):
        return self.parts[0].with_gradient(state)

    def without_gradient(self, state):
        return self.parts[0].without_gradient(state)

    def _stepped(self, part: Transition, stage: Any, key: Any, state: Any) -> tuple[Any, Any]:
        """Apply a part; where the others keep no gradient it gets one of its own."""
        if self.keeps_gradient or not part.keeps_gradient:
            return part.step(key, state, stage)
        state, info = part.step(key, part.with_gradient(state), stage)
        return part.without_gradient(state), info

    def _names(self):
        return ", ".join(part.name for part in self.parts)


@dataclass(frozen=True, eq=False, repr=False)
class Cycle(_Composed):
    """Transitions in a fixed order. See :func:`cycle` and :func:`palindrome`."""

    is_palindrome: bool = False

    @property
    def name(self):
        return f"{'palindrome' if self.is_palindrome else 'cycle'}({self._names()})"

    @property
    def law_kind(self):
        kinds = [part.law_kind for part in self.parts]
        symmetric = self.is_palindrome or len(kinds) == 1
        stays = symmetric and all(kind is REVERSIBLE for kind in kinds)
        return weakest(kinds, REVERSIBLE if stays else INVARIANT)

    @property
    def derivation(self):
        order = "there and back" if self.is_palindrome else "one after another"
        return (f"{order}, each of which keeps the measure:", *indented(self.parts))

    @property
    def _order(self) -> tuple[Transition, ...]:
        return (*self.parts, *reversed(self.parts)) if self.is_palindrome else self.parts

    def each(self, key: Any, state: Any, stage: Any = None) -> tuple[Any, tuple]:
        """Return the next state and the info of every part, in the order of the parts."""
        infos = []
        for part_key, part in zip(
            random.split(key, len(self._order)), self._order, strict=True
        ):
            state, info = self._stepped(part, stage, part_key, state)
            infos.append(info)
        return state, tuple(infos)

    def step(self, key, state, stage=None):
        state, infos = self.each(key, state, stage)
        return state, together(*infos)


def cycle(*parts: Transition) -> Transition:
    """Apply transitions one after another (law L3).

    A cycle of reversible transitions is not reversible in general; :func:`palindrome` and
    :func:`mixture` are. Beside parts without gradients, one that follows them computes its
    own at each turn.

    Parameters
    ----------
    *parts : Transition
        The first one is applied first.

    Returns
    -------
    Transition

    Raises
    ------
    ValueError
        Without parts.
    TypeError
        For anything but transitions.
    LawMismatch
        If the parts leave different measures invariant.

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * x[0] ** 2)
    >>> walk, hmc = bi.transition(bi.RandomWalk(), target), bi.transition(bi.HMC(), target)
    >>> print(bi.cycle(walk, hmc).explain())
    one after another, each of which keeps the measure:
        random-walk Metropolis leaves π invariant
        HMC leaves π invariant
    => L3 invariant for π: π K = π
    """
    need_parts(parts, "cycle")
    return Cycle(tuple(parts))


def palindrome(*parts: Transition) -> Transition:
    """Apply transitions in order and then in reverse order (reversible if the parts are).

    Parameters
    ----------
    *parts : Transition

    Returns
    -------
    Transition

    Raises
    ------
    ValueError, TypeError, LawMismatch
        As :func:`cycle`.

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * x[0] ** 2)
    >>> walk, hmc = bi.transition(bi.RandomWalk(), target), bi.transition(bi.HMC(), target)
    >>> str(bi.cycle(walk, hmc).law.kind), str(bi.palindrome(walk, hmc).law.kind)
    ('L3 invariant', 'L3r reversible')
    """
    need_parts(parts, "palindrome")
    return Cycle(tuple(parts), is_palindrome=True)


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(_Composed):
    """One of several transitions at random. See :func:`mixture`."""

    probabilities: tuple[float, ...] | Callable = ()
    untouched: Callable | None = None

    @property
    def name(self):
        return f"mixture({self._names()})"

    @property
    def law_kind(self):
        kinds = [part.law_kind for part in self.parts]
        stays = all(kind is REVERSIBLE for kind in kinds)
        return weakest(kinds, REVERSIBLE if stays else INVARIANT)

    @property
    def derivation(self):
        if callable(self.probabilities):
            line = (
                "one of these with probabilities that look at a part which none of them moves:"
            )
        else:
            share = ", ".join(f"{p:g}" for p in self.probabilities)
            line = f"one of these with fixed probabilities {share}, whatever the state:"
        return (line, *indented(self.parts))

    def _log_probabilities(self, state: Any) -> jax.Array:
        if callable(self.probabilities) and self.untouched is not None:
            return jnp.log(self.probabilities(self.untouched(self.value(state))))
        return jnp.log(jnp.asarray(self.probabilities))

    def step(self, key, state, stage=None):
        choice_key, part_key = random.split(key)
        chosen = random.categorical(choice_key, self._log_probabilities(state))
        steps = [functools.partial(self._stepped, part, stage) for part in self.parts]
        return random.switch(chosen, steps, part_key, state)


def mixture(
    parts: Sequence[Transition],
    probabilities: Sequence[float] | Callable | None = None,
    *,
    untouched: Callable | None = None,
) -> Transition:
    """Apply one of several transitions, chosen at random (keeps reversibility).

    The probabilities are fixed, or depend on a part of the value that no transition changes: a
    choice that looked at what they change would bias the result.

    Parameters
    ----------
    parts : sequence of Transition
    probabilities : sequence of float, or callable (part of the value) -> (num,) array
        Default: equal.
    untouched : callable (value) -> part of the value
        What a function of probabilities is shown, and which no transition may change.

    Returns
    -------
    Transition

    Raises
    ------
    ValueError
        Without parts, or if the probabilities are not as many, negative, or do not add up to 1.
    TypeError
        For a function of probabilities without ``untouched``, or the other way round; for
        anything but transitions.
    LawMismatch
        If the parts leave different measures invariant.

    Notes
    -----
    Only the chosen part is computed. Where many states move side by side, as inside a
    population, all parts are computed and one result is selected for each.

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * x[0] ** 2)
    >>> walk, hmc = bi.transition(bi.RandomWalk(), target), bi.transition(bi.HMC(), target)
    >>> print(bi.mixture([walk, hmc], [0.8, 0.2]).explain())
    one of these with fixed probabilities 0.8, 0.2, whatever the state:
        random-walk Metropolis leaves π invariant
        HMC leaves π invariant
    => L3r reversible for π: π(dx) K(x, dx') is symmetric in x and x'
    """
    need_parts(parts, "mixture")
    if callable(probabilities) != (untouched is not None):
        raise TypeError(
            "probabilities as a function and untouched= belong together: say which part of the "
            "value the choice looks at, and that no transition changes it"
        )
    if callable(probabilities):
        return Mixture(tuple(parts), probabilities, untouched)
    num = len(parts)
    chances = np.full(num, 1 / num) if probabilities is None else np.asarray(probabilities)
    if chances.shape != (num,) or np.any(chances < 0) or abs(chances.sum() - 1) > 1e-6:
        raise ValueError(
            f"probabilities must be {num} numbers >= 0 that add up to 1, got {probabilities!r}"
        )
    return Mixture(tuple(parts), tuple(float(p) for p in chances / chances.sum()))


@dataclass(frozen=True, eq=False, repr=False)
class Repeat(_Composed):
    """A transition several times. See :func:`repeat`."""

    num: int = 1

    @property
    def name(self):
        return f"{self.num} × {self.parts[0].name}"

    @property
    def law_kind(self) -> LawKind:
        return self.parts[0].law_kind

    @property
    def derivation(self):
        return (f"{self.num} times:", *indented(self.parts))

    def step(self, key, state, stage=None):
        def one(step_key, now, _):
            return self.parts[0].step(step_key, now, stage)

        state, infos = random.scan(one, key, state, jnp.arange(self.num))
        return state, summed_up(infos)


def repeat(part: Transition, num: int) -> Transition:
    """Apply a transition ``num`` times as one step: thinning (keeps the law).

    Parameters
    ----------
    part : Transition
    num : int
        At least 1.

    Returns
    -------
    Transition

    Raises
    ------
    ValueError
        If ``num`` is not at least 1.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> turn = bi.transition(lambda key, x: (x + 1) % 7, bi.Measure("uniform"), name="turn")
    >>> thinned = bi.repeat(turn, 2)
    >>> thinned.name, bi.chain(thinned, jnp.array(0), 4)[0].tolist()
    ('2 × turn', [2, 4, 6, 1])
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num!r}")
    return part if num == 1 else Repeat((part,), int(num))


def need_parts(parts: Any, what: str) -> None:
    """Refuse anything but transitions, and no parts at all."""
    if not len(parts):
        raise ValueError(f"{what} needs at least one transition")
    for part in parts:
        if not isinstance(part, Transition):
            raise TypeError(
                f"{what} combines transitions, got {type(part).__name__}: bind a kernel or "
                "function first, with transition(kernel, target)"
            )
