"""Gibbs sampling: each part of the state moved given the current values of all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.law import INVARIANT, REVERSIBLE, Measure
from bayeskit.inference.transitions.base import (
    ACCEPTED,
    Transition,
    measure_of,
    together,
)

__all__ = ["gibbs"]

_SCANS = ("cycle", "palindrome", "random")
_ORDERS = {
    "cycle": "blocks one after another:",
    "palindrome": "blocks there and back:",
    "random": "one block, chosen at random whatever the state:",
}


@dataclass(frozen=True, eq=False, repr=False)
class Gibbs(Transition):
    """Blocks of a dictionary in turn. See :func:`gibbs`."""

    on: Measure
    blocks: tuple[tuple[str, Callable], ...]
    scan: str

    @property
    def name(self):
        return f"gibbs({', '.join(name for name, _ in self.blocks)})"

    @property
    def measure(self):
        return self.on

    @property
    def law_kind(self):
        symmetric = self.scan != "cycle" or len(self.blocks) == 1
        return REVERSIBLE if symmetric else INVARIANT

    @property
    def derivation(self):
        lines = [
            f"    {name}: keeps its conditional given all others as they are now"
            for name, _ in self.blocks
        ]
        return (_ORDERS[self.scan], *lines)

    def step(self, key, state, stage=None):
        if self.scan == "random":
            return self._one_at_random(key, state, stage)
        order = self.blocks
        if self.scan == "palindrome":
            order = (*order, *reversed(order))
        infos = []
        for block_key, (name, block) in zip(random.split(key, len(order)), order, strict=True):
            value, info = _moved(block, block_key, name, state, stage)
            # The next block sees this value, never the one before.
            state = {**state, name: value}
            infos.append(info)
        return state, together(*infos)

    def _one_at_random(self, key: Any, state: dict, stage: Any) -> tuple[Any, Any]:
        choice_key, block_key = random.split(key)
        chosen = random.categorical(choice_key, jnp.zeros(len(self.blocks)))

        def move(name: str, block: Callable) -> Callable:
            def step(key: Any, now: dict) -> tuple[dict, Any]:
                value, info = _moved(block, key, name, now, stage)
                same = jax.tree.map(
                    lambda new, old: jnp.asarray(new, jnp.result_type(old)), value, now[name]
                )
                return {**now, name: same}, info

            return step

        moves = [move(name, block) for name, block in self.blocks]
        return random.switch(chosen, moves, block_key, state)


def _moved(block: Callable, key: Any, name: str, state: dict, stage: Any) -> tuple[Any, Any]:
    init_key, step_key = random.split(key)
    conditional = block(state)
    if not isinstance(conditional, Transition):
        return conditional(step_key), ACCEPTED
    # Cached values belong to the conditional at hand, hence init at every turn.
    inner = conditional.init(init_key, state[name])
    inner, info = conditional.step(step_key, inner, stage)
    return conditional.value(inner), info


def gibbs(on: Any, *, scan: str = "cycle", **blocks: Callable) -> Transition:
    r"""Move each part of a dictionary given the *current* values of all others (law L3).

    Parameters
    ----------
    on : Target or Measure
        The joint distribution.
    scan : {"cycle", "palindrome", "random"}
        Blocks in order; in order and back, or one of them at random, which keeps reversibility.
    **blocks : callable (state) -> Transition, or callable (state) -> callable (key) -> value
        By the name of the part that it moves. It is called with the whole state and returns a
        transition that leaves the conditional of its part invariant, or a function that draws
        from the conditional exactly. Either is built anew at every turn, so that no cached
        value is stale.

    Returns
    -------
    Transition
        On the dictionary.

    Raises
    ------
    ValueError
        Without blocks, or for an unknown scan.

    References
    ----------
    Geman & Geman (1984); Tierney (1994), *Markov chains for exploring posterior distributions*.

    Examples
    --------
    A normal mean and its precision:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> joint = Target(log_density=lambda s: -0.5 * s["x"] ** 2 - 0.5 * (s["y"] - s["x"]) ** 2)
    >>> steps = bi.gibbs(
    ...     joint,
    ...     x=lambda s: lambda key: s["y"] / 2 + jnp.sqrt(0.5) * bi.random.normal(key),
    ...     y=lambda s: lambda key: s["x"] + bi.random.normal(key),
    ... )
    >>> draws, _ = bi.chain(steps, {"x": 0.0, "y": 0.0}, 100, key=0)
    >>> draws["x"].shape
    (100,)
    """
    if not blocks:
        raise ValueError("gibbs needs at least one block, given as name=function")
    if scan not in _SCANS:
        raise ValueError(f"scan must be one of {_SCANS}, got {scan!r}")
    return Gibbs(measure_of(on), tuple(blocks.items()), scan)
