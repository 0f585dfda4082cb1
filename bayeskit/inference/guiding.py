"""Moves of a state-space model that may look at the observation, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.observing import log_density

__all__ = ["StateMove", "fully_seen", "without_gaps"]


@dataclass(frozen=True)
class StateMove:
    r"""One move of a state: by the model, or by a proposal where the observation was seen.

    .. math:: q = \begin{cases} \text{proposed} & \text{if all of } y_t \text{ was seen} \\
        m & \text{else} \end{cases}

    Parameters
    ----------
    model : Distribution, or dict of them
        m.
    proposed : Distribution or dict of them, or None
        None: there is no proposal, so q = m everywhere.
    is_seen : () bool array
    """

    model: Any
    proposed: Any
    is_seen: Any

    def draw(self, key: Any, drawn: Callable) -> Any:
        """Return one draw from q, where ``drawn(key, distribution)`` draws."""
        if self.proposed is None:
            return drawn(key, self.model)
        branches = [lambda k, _, d=d: drawn(k, d) for d in (self.model, self.proposed)]
        return random.switch(jnp.asarray(self.is_seen, jnp.int32), branches, key, ())

    def log_density(self, x: Any) -> jax.Array:
        """Return log q(x)."""
        log_m = log_density(self.model, x)
        if self.proposed is None:
            return log_m
        return jnp.where(self.is_seen, log_density(self.proposed, x), log_m)

    def log_ratio(self, x: Any) -> jax.Array | float:
        """Return log m(x) - log q(x), which makes up for the proposal; -inf if one is zero."""
        if self.proposed is None:
            return 0.0
        log_m, log_q = log_density(self.model, x), log_density(self.proposed, x)
        is_zero = (log_m == -jnp.inf) | (log_q == -jnp.inf)
        return jnp.where(self.is_seen, jnp.where(is_zero, -jnp.inf, log_m - log_q), 0.0)


def fully_seen(y: Any) -> Any:
    """Return for each row (num_steps, ...) whether all of it was seen, (num_steps,)."""
    xp = _numpy_of(y)
    return ~xp.any(xp.isnan(y).reshape(len(y), -1), axis=1)


def without_gaps(y: Any) -> Any:
    """Return observations with a row that was seen in the place of each that was not.

    A proposal is asked for every row, and its answer used where all was seen: elsewhere it must
    not make NaN of a gradient.
    """
    xp, seen = _numpy_of(y), fully_seen(y)
    mask = seen.reshape(-1, *(1,) * (y.ndim - 1))
    return xp.where(mask, y, xp.nan_to_num(y[xp.argmax(seen)]))


def _numpy_of(y: Any) -> Any:
    # Arrays of the host stay there, and take the precision of the program that runs.
    return np if isinstance(y, np.ndarray) else jnp
