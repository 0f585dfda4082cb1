"""Simulated answers of learners from the published model itself, and not from networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.amortized.architecture import Architecture
from bayeskit.models.knowledge_tracing.amortized.generative import (
    TRAITS,
    influence,
    state_step,
    traits_of,
)
from bayeskit.models.knowledge_tracing.amortized.memory import AmortizedMemory
from bayeskit.models.knowledge_tracing.amortized.objective import loading_of
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.simulation import Simulated
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["simulated_learners", "simulator_of"]


def _one(key: Any, trials: Trials, parameters: dict, architecture: Architecture) -> Simulated:
    A = influence(parameters, architecture)
    dtype = trials.row_gap.dtype
    num_rows = trials.real.shape[0]

    def one(row_key: Any, carry: tuple, row: tuple) -> tuple:
        s, z = carry
        number, trial = row
        trait_key, state_key, answer_key = random.split(row_key, 3)
        is_first = number == 0
        mean = jnp.where(
            is_first, parameters["trait_mean"], parameters["trait_persistence"] * s
        )
        sd = jnp.where(is_first, parameters["trait_sd"], parameters["trait_drift_sd"])
        s = mean + sd * random.normal(trait_key, s.shape, dtype)
        traits = traits_of(s)
        step = state_step(traits, z, trial.row_gap, A)
        mean = jnp.where(is_first, parameters["initial_mean"], step.mean)
        sd = jnp.where(is_first, parameters["initial_sd"], step.sd)
        z = mean + sd * random.normal(state_key, z.shape, dtype)
        logit = jnp.sum(loading_of(trial.kc, trial.weight, architecture.num_kc) * z)
        right = random.accept(answer_key, jax.nn.log_sigmoid(logit)).astype(jnp.int32)
        outcome = jnp.where(trial.outcome == STUDY, STUDY, right)
        shown = jnp.stack([part for part in traits if part is not None])
        return (s, z), Simulated(outcome, logit, shown)

    start = (jnp.zeros(architecture.num_traits, dtype), jnp.zeros(architecture.num_kc, dtype))
    return random.scan(one, key, start, (jnp.arange(num_rows), trials))[1]


@quick_jit(static_argnames="architecture")
def simulated_learners(
    key: Any, trials: Trials, parameters: dict, *, architecture: Architecture
) -> Simulated:
    """Return answers, logits and traits (traits,) of each row of many learners."""
    keys = jax.random.split(key, trials.real.shape[0])
    return jax.vmap(lambda k, t: _one(k, t, parameters, architecture))(keys, trials)


def simulator_of(memory: Any) -> dict[str, Any]:
    """Return what the simulation of a table needs to know of this model; nothing of others."""
    if not isinstance(memory, AmortizedMemory):
        return {}
    a = memory.architecture
    draw = lambda *given: simulated_learners(*given, architecture=a)
    return {"draw": draw, "shown": TRAITS[: a.num_traits]}
