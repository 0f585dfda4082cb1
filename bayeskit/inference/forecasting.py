"""Predictive draws of states and observations beyond the data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import GivenModel

__all__ = ["simulate_on"]


@quick_jit(static_argnames=("model", "num_steps"))
def simulate_on(
    model: Any,
    theta: jax.Array,
    states: Any,
    rows: Rows,
    first: Any,
    num_steps: int,
    key: Any,
) -> tuple[Any, Any]:
    r"""Draw :math:`x_{t+1}, y_{t+1}, \dots` on from a state for each draw of the parameters.

    Parameters
    ----------
    model : StateSpaceModel or GivenModel
    theta : (draw, dim) array
    states : pytree with leading axis draw
        At the time before ``first``.
    rows : Rows
        Controls and times to come; without y.
    first : int
        The first time to come.
    num_steps : int
    key : JAX key

    Returns
    -------
    states, observations : pytrees with leading axes (draw, num_steps)
        Observations are None for a Feynman-Kac model, which does not say how data arise.
    """
    times = first + jnp.arange(num_steps, dtype=jnp.int32)

    def path(path_key, one):
        parameters, start = one
        feynman_kac = model.feynman_kac(parameters, rows, first, num_steps)

        def step(step_key, x, t):
            state_key, y_key = random.split(step_key)
            x = feynman_kac.kernel(state_key, t, x)
            if isinstance(model, GivenModel):
                return x, (x, None)
            row = jax.tree.map(lambda a: a[t - first], rows)
            return x, (x, model.draw_observation(y_key, parameters, row, t, x))

        return random.scan(step, path_key, start, times)[1]

    return random.lanes(path, key, (theta, states))
