"""The parameters that learners share, by the gradient of the evidence of batches of them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import NonFiniteObjectiveError
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.block_filter import filtered, initial_belief, steps_of
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.structure import Structure, log_prior, natural
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["Training", "learned", "log_evidences"]


class Training(NamedTuple):
    """How parameters are learned.

    Parameters
    ----------
    num_steps : int
        Steps of Adam.
    batch_size : int
        Learners of each step.
    learning_rate : float
        Of the first step; it falls to 3 % along a cosine.
    """

    num_steps: int = 120
    batch_size: int = 64
    learning_rate: float = 0.08


def batches(num_learners: int, num_padded: int, training: Training, key: Any) -> np.ndarray:
    """Return the learners of each step, (num_steps, size): all are met equally often.

    Few learners are all taken at every step, with the padding, so that one more compiles
    nothing new.
    """
    size = training.batch_size
    if num_padded <= size:
        return np.tile(np.arange(num_padded), (training.num_steps, 1))
    size = min(size, num_learners)
    generator = random.host_generator(key)
    needed = training.num_steps * size
    epochs = [generator.permutation(num_learners) for _ in range(-(-needed // num_learners))]
    return np.concatenate(epochs)[:needed].reshape(training.num_steps, size)


def log_evidences(parameters: dict, trials: Trials, structure: Structure) -> jax.Array:
    """Return the log evidence of each learner, (learners,)."""
    belief = initial_belief(parameters, structure)
    steps = steps_of(parameters, trials, structure)

    def one(trials, steps):
        _, forecasts, _ = filtered(belief, trials, steps)
        return jnp.sum(forecasts.log_density)

    return jax.vmap(one)(trials, steps)


@quick_jit(static_argnames=("structure", "scales", "num_steps", "evidences"))
def _descended(
    u: dict,
    fixed: dict,
    trials: Trials,
    chosen: Any,
    priors: dict,
    share: Any,
    size: Any,
    learning_rate: Any,
    *,
    structure: Structure,
    scales: tuple,
    num_steps: int,
    evidences: Any,
) -> tuple[dict, jax.Array]:
    """Run Adam over all batches; return the last u and the objective at each step."""
    import optax

    schedule = optax.cosine_decay_schedule(1.0, num_steps, 0.03)
    adam = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(1.0), optax.scale_by_schedule(schedule)
    )

    def objective(u, batch):
        parameters = natural(u, fixed, scales)
        total = jnp.sum(evidences(parameters, batch, structure))
        return -(total + share * log_prior(u, priors)) / size

    def step(carry, rows):
        u, state = carry
        batch = jax.tree.map(lambda x: x[rows], trials)
        value, gradient = jax.value_and_grad(objective)(u, batch)
        # A step from a value that is not finite would lose everything that was learned.
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
        updates, state = adam.update(gradient, state, u)
        u = jax.tree.map(lambda a, b: a + learning_rate * b, u, updates)
        return (u, state), value

    (u, _), history = jax.lax.scan(step, (u, adam.init(u)), chosen)
    return u, history


def learned(
    u: dict[str, np.ndarray],
    fixed: dict[str, np.ndarray],
    trials: Trials,
    num_learners: int,
    priors: dict,
    *,
    structure: Structure,
    scales: tuple,
    training: Training,
    key: Any,
    precision: str,
    evidences: Any = log_evidences,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what was learned, and the objective of each step in nats an answer.

    Parameters
    ----------
    u : dict
        Where to start.
    fixed : dict
        What is not learned, in natural units.
    trials : Trials
        Axes (learner, row); learners from ``num_learners`` on are padding.
    priors : dict
        Mean and precision of each of u.
    evidences : callable (parameters, trials, structure) -> (learners,)

    Raises
    ------
    NonFiniteObjectiveError
        Where the evidence is not finite in the end.
    """
    if not u or not training.num_steps:
        return u, np.zeros(0)
    cast = functools.partial(jax.tree.map, lambda x: np.asarray(x, precision))
    chosen = batches(num_learners, trials.real.shape[0], training, key)
    answers = float(np.sum(np.asarray(trials.outcome) != STUDY)) / num_learners
    size = min(chosen.shape[1], num_learners)
    u, history = _descended(
        cast(u),
        cast(fixed),
        trials,
        chosen.astype(np.int32),
        cast({name: priors[name] for name in u}),
        np.asarray(size / num_learners, precision),
        np.asarray(size * max(answers, 1.0), precision),
        np.asarray(training.learning_rate, precision),
        structure=structure,
        scales=scales,
        num_steps=training.num_steps,
        evidences=evidences,
    )
    history = np.asarray(history, np.float64)
    if not math.isfinite(float(history[-1])):
        first = int(np.argmin(np.isfinite(history)))
        raise NonFiniteObjectiveError(
            f"training must end with a finite evidence, but it was {history[-1]}, and first "
            f"not finite at step {first} of {training.num_steps}: lower "
            f"learning_rate={training.learning_rate:g}, or fix some parameters"
        )
    return jax.tree.map(lambda x: np.asarray(x, np.float64), u), history
