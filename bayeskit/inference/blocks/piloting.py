"""Learn from pilot runs, then freeze what was learned and run once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block, set_law

__all__ = ["Piloted", "piloted"]


@dataclass(frozen=True, eq=False, repr=False)
class Piloted(Block):
    """A block whose constants are learned by runs before. See :func:`piloted`."""

    build: Callable
    learn: Callable
    start: Any
    num_rounds: int
    title: str

    def __post_init__(self):
        set_law(self, self.arrow(None))

    @property
    def name(self):
        return self.title

    def learned(self, key: Any) -> Any:
        """Return what the pilot runs learned."""

        def one(round_key, constants, _):
            population, _ = self.build(constants, True).run(round_key)
            return self.learn(constants, population), None

        return random.scan(one, key, self.start, jnp.arange(self.num_rounds))[0]

    def run(self, key, population=None):
        learn_key, run_key = random.split(key)
        # The last run has random numbers of its own: what was learned is fixed by then.
        return self.build(self.learned(learn_key), False).run(run_key)

    def arrow(self, law):
        frozen: Any = self.build(self.start, False).law
        first = f"constants learned by {self.num_rounds} pilot runs, then frozen:"
        return frozen._replace(derivation=(first, *("    " + d for d in frozen.derivation)))


def piloted(
    build: Callable, learn: Callable, start: Any, num_rounds: int, name: str = "piloted"
) -> Block:
    """Run with constants that pilot runs have learned (keeps the law of what it runs).

    Parameters
    ----------
    build : callable (constants, is_pilot) -> Block
        A block that starts from nothing, of the same law whatever the constants.
    learn : callable (constants, population) -> constants
        What a pilot run says about them.
    start : pytree
        The constants of the first pilot run.
    num_rounds : int
        Pilot runs.
    name : str
    """
    return Piloted(build, learn, start, num_rounds, name)
