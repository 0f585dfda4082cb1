"""Stochastic variational inference: Adam over batches of learners, in chunks of steps."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import NonFiniteObjectiveError
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.amortized.architecture import (
    AmortizedVariational,
    Architecture,
)
from bayeskit.models.knowledge_tracing.amortized.objective import lower_bounds, objectives
from bayeskit.models.knowledge_tracing.learning import Training, batches
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.structure import natural
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["all_parameters", "total_lower_bound", "trained"]

# Steps of one call: long enough that the host does not count, short enough to be stopped.
_CHUNK = 20
# Learners at once, and draws for each category, where the bound is evaluated in the end.
_LEARNERS = 64
_FINAL_SAMPLES = 8


class Schedule(NamedTuple):
    """Learners (steps, size), rate (steps,), and whether to step at all (steps,)."""

    chosen: Any
    rate: Any
    live: Any


def all_parameters(learned: dict, fixed: dict, scales: tuple) -> dict:
    """Return parameters of the model in natural units beside those of the networks."""
    return {
        **natural(learned["model"], fixed["model"], scales),
        **{name: value for name, value in learned.items() if name != "model"},
        **{name: value for name, value in fixed.items() if name != "model"},
    }


@quick_jit(static_argnames=("architecture", "scales", "num_samples"))
def _advanced(
    learned: dict,
    optimiser: Any,
    fixed: dict,
    trials: Trials,
    schedule: Schedule,
    key: Any,
    first: Any,
    weight_decay: Any,
    max_norm: Any,
    *,
    architecture: Architecture,
    scales: tuple,
    num_samples: int,
) -> tuple[dict, Any, jax.Array]:
    """Run a chunk of steps; return what was learned, and minus the objective of each step."""
    adam = _adam(weight_decay, max_norm)

    def loss(learned: dict, batch: Trials, key: Any) -> jax.Array:
        parameters = all_parameters(learned, fixed, scales)
        values = objectives(
            parameters, batch, key, architecture=architecture, num_samples=num_samples
        )
        if architecture.objective == "published":
            # Padding has no rows, and the published sum is a mean over learners.
            here = jnp.any(batch.real > 0, axis=1)
            return -jnp.sum(values * here) / jnp.maximum(jnp.sum(here), 1)
        answers = jnp.sum(batch.real * (batch.outcome != STUDY))
        return -_real_sum(values, batch) / jnp.maximum(answers, 1.0)

    def step(carry: Any, row: tuple) -> tuple:
        learned, optimiser = carry
        number, (chosen, rate, live) = row
        batch = jax.tree.map(lambda x: x[chosen], trials)
        value, gradient = jax.value_and_grad(loss)(learned, batch, random.fold_in(key, number))
        # A step from a value that is not finite would lose everything that was learned.
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
        updates, after = adam.update(gradient, optimiser, learned)
        moved = jax.tree.map(lambda a, b: a - rate * b, learned, updates)
        choose = lambda new, old: jnp.where(live, new, old)
        kept = jax.tree.map(choose, (moved, after), (learned, optimiser))
        return kept, value

    numbers = first + jnp.arange(schedule.rate.shape[0])
    values: jax.Array
    after, values = jax.lax.scan(step, (learned, optimiser), (numbers, tuple(schedule)))
    return *after, values


def _adam(weight_decay: Any, max_norm: Any) -> Any:
    import optax

    return optax.chain(
        optax.clip_by_global_norm(max_norm),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(),
    )


def _real_sum(values: jax.Array, trials: Trials) -> jax.Array:
    """Sum over learners; padding has no rows and counts for nothing."""
    return jnp.sum(jnp.where(jnp.any(trials.real > 0, axis=1), values, 0.0))


def trained(
    learned: dict,
    fixed: dict,
    trials: Trials,
    num_learners: int,
    *,
    engine: AmortizedVariational,
    architecture: Architecture,
    scales: tuple,
    key: Any,
    precision: str,
) -> tuple[dict, np.ndarray]:
    """Return what was learned, and minus the objective of each step, in nats an answer.

    Parameters
    ----------
    learned, fixed : dict
        ``model``: parameters of the model, on the scale on which they are learned, and in
        natural units; beside them networks and graph.
    trials : Trials
        Axes (learner, row); learners from ``num_learners`` on are padding.

    Raises
    ------
    NonFiniteObjectiveError
        Where the objective is not finite in the end.
    """
    size = min(engine.batch_size, num_learners)
    per_epoch = math.ceil(num_learners / size)
    num_steps = engine.num_epochs * per_epoch
    cast = lambda tree: jax.tree.map(lambda x: np.asarray(x, precision), tree)
    learned, fixed = cast(learned), cast(fixed)
    if not num_steps:
        return learned, np.zeros(0)
    batch_key, step_key = random.split(key)
    training = Training(num_steps, engine.batch_size, engine.learning_rate)
    chosen = batches(num_learners, trials.real.shape[0], training, batch_key)
    halvings = np.arange(num_steps) // per_epoch // engine.halving_epochs
    rate = engine.learning_rate * 0.5**halvings
    optimiser = jax.tree.map(np.asarray, _adam(0.0, 1.0).init(learned))
    history: list[np.ndarray] = []
    begun = time.monotonic()
    for first in range(0, num_steps, _CHUNK):
        # The last chunk is filled up with steps that are not taken.
        numbers = np.arange(first, first + _CHUNK)
        live = numbers < num_steps
        numbers = np.minimum(numbers, num_steps - 1)
        schedule = Schedule(
            chosen[numbers].astype(np.int32), rate[numbers].astype(precision), live
        )
        learned, optimiser, minus = _advanced(
            learned,
            optimiser,
            fixed,
            trials,
            schedule,
            step_key,
            np.int32(first),
            np.asarray(engine.weight_decay, precision),
            np.asarray(engine.max_norm, precision),
            architecture=architecture,
            scales=scales,
            num_samples=engine.num_samples,
        )
        history.append(np.asarray(minus, np.float64)[live])
        if engine.budget_s is not None and time.monotonic() - begun > engine.budget_s:
            break
    losses = np.concatenate(history)
    if not math.isfinite(float(losses[-1])):
        first = int(np.argmin(np.isfinite(losses)))
        raise NonFiniteObjectiveError(
            f"training must end with a finite objective, but it was {losses[-1]}, and first "
            f"not finite at step {first} of {num_steps}: lower "
            f"learning_rate={engine.learning_rate:g}, or check that time_unit suits the gaps "
            "between the answers"
        )
    return jax.tree.map(np.asarray, learned), losses


@quick_jit(static_argnames=("architecture", "num_samples"))
def _bounds(
    parameters: dict, trials: Trials, key: Any, *, architecture: Architecture, num_samples: int
) -> jax.Array:
    found = lower_bounds(
        parameters, trials, key, architecture=architecture, num_samples=num_samples
    )
    return jnp.where(jnp.any(trials.real > 0, axis=1), found, 0.0)


def total_lower_bound(
    parameters: dict, trials: Trials, key: Any, architecture: Architecture
) -> float:
    """Return an unbiased estimate of the bound of all learners together, in nats."""
    num, total = trials.real.shape[0], 0.0
    size = min(num, _LEARNERS)
    for number, begin in enumerate(range(0, num, size)):
        part = jax.tree.map(lambda x, b=begin: x[b : b + size], trials)
        found = _bounds(
            parameters,
            part,
            random.fold_in(key, number),
            architecture=architecture,
            num_samples=_FINAL_SAMPLES,
        )
        total += float(np.sum(np.asarray(found, np.float64)))
    return total
