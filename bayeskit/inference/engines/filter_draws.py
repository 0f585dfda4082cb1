"""Draws from what the particle filter leaves: paths, or last states."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.algorithms.backward_sampling import backward_sampling, genealogy
from bayeskit.inference.population import History, Population
from bayeskit.inference.state_space_target import StateSpaceTarget

__all__ = ["draw_last_states", "draw_paths", "smoother_of"]

# In place of a time, for what is drawn after all of them.
_AFTER = 2**32 - 1


def smoother_of(engine: Any, model: Any) -> Any:
    """Return the block that draws paths, if the model has what it needs."""
    if engine.smoother == "genealogy" or (engine.smoother == "auto" and model.log_m is None):
        return genealogy(model)
    method = "mcmc" if engine.smoother == "mcmc" else "exact"
    return backward_sampling(model, engine.num_paths, method=method)


@quick_jit(static_argnames="engine")
def draw_paths(
    engine: Any,
    target: StateSpaceTarget,
    history: History,
    population: Population,
    key: Any,
) -> Any:
    """Return paths drawn from the smoothing distribution, by the engine's smoother."""
    population = population._replace(history=History(*history), lineage=None)
    draw_key, choice_key = random.split(random.fold_in(key, _AFTER))
    smoothed, _ = smoother_of(engine, target.feynman_kac()).run(draw_key, population)
    if smoothed.num_particles == engine.num_paths:
        return smoothed.particles
    chosen = random.categorical(choice_key, smoothed.log_weights, engine.num_paths)
    return jax.tree.map(lambda x: x[chosen], smoothed.particles)


def draw_last_states(population: Population, time: int, key: Any) -> Any:
    """Return independent draws of the last state, made on the host: nothing is compiled."""
    weights = np.exp(np.asarray(population.log_weights, np.float64))
    generator = random.host_generator(key, time)
    chosen = generator.choice(len(weights), len(weights), p=weights / weights.sum())
    return jax.tree.map(lambda x: np.asarray(x)[chosen], population.particles)
