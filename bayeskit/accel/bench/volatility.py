"""One step of a bootstrap filter, on plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel

__all__ = ["VolatilityStep"]


@dataclass(frozen=True)
class VolatilityStep:
    r"""Resample, move and weigh particles of the stochastic volatility model.

    .. math:: x_t = \mu + \rho (x_{t-1} - \mu) + \sigma \varepsilon_t, \qquad
        y_t \sim N(0, e^{x_t})

    Parameters
    ----------
    mu, rho, sigma : float
    y : float
        What is observed before and after the step.
    """

    mu: float = -1.0
    rho: float = 0.95
    sigma: float = 0.3
    y: float = 1.2

    def start(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Return particles of the stationary law and their log-weights, of one shape (num,)."""
        noise = np.random.default_rng(0).normal(size=num)
        state = self.mu + self.sigma / np.sqrt(1 - self.rho**2) * noise
        return state, self.weigh(state, np)

    def move(self, state, noise):
        """Return the next states."""
        return self.mu + self.rho * (state - self.mu) + self.sigma * noise

    def weigh(self, state, xp=jnp):
        """Return the log density of the observation up to a constant."""
        return -0.5 * (state + self.y**2 * xp.exp(-state))

    def ours(self, key, state, log_weights):
        """Step with the functions of this package."""
        keys = jax.random.split(key)
        index = accel.systematic(keys[0], log_weights).index
        state = accel.take_particles(state, index)
        noise = accel.random_normals(keys[1], state.shape).astype(state.dtype)
        state = self.move(state, noise)
        return state, self.weigh(state), index

    def with_ancestors(self, ancestors: Callable) -> Callable:
        """Return the step in plain JAX, with a function that draws the ancestors."""

        def step(key, state, log_weights):
            keys = jax.random.split(key)
            index = ancestors(keys[0], log_weights)
            state = state[index]
            state = self.move(state, jax.random.normal(keys[1], state.shape, state.dtype))
            return state, self.weigh(state), index

        return step
