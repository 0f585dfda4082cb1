"""A move of a state where no time has passed since the row before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference.guiding import StateMove

__all__ = ["UnlessStill"]


@dataclass(frozen=True)
class UnlessStill:
    """A move that is the identity where two rows were observed at one instant.

    Whatever the transition would do with a gap of zero is not looked at: many make NaN of it.

    Parameters
    ----------
    move : StateMove
    before : pytree
        The state at the row before.
    is_still : () bool array
    """

    move: StateMove
    before: Any
    is_still: Any

    def draw(self, key: Any, drawn: Callable) -> Any:
        """Return one draw, where ``drawn(key, distribution)`` draws."""
        moved = self.move.draw(key, drawn)
        stay = lambda old, new: jnp.where(self.is_still, old.astype(new.dtype), new)
        return jax.tree.map(stay, jax.tree.map(jnp.asarray, self.before), moved)

    def log_density(self, x: Any) -> jax.Array:
        """Return the log density, of the identity by the measure that counts."""
        equal = jax.tree.map(lambda old, new: jnp.all(old == new), self.before, x)
        is_same = jnp.all(jnp.stack(jax.tree.leaves(equal)))
        log_stay = jnp.where(is_same, 0.0, -jnp.inf)
        return jnp.where(self.is_still, log_stay, self.move.log_density(x))

    def log_ratio(self, x: Any) -> jax.Array:
        """Return log m(x) - log q(x), which is 0 for the identity."""
        return jnp.where(self.is_still, 0.0, self.move.log_ratio(x))
