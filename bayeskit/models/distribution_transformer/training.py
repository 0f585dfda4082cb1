"""Training on fresh simulations: one compiled program for a chunk of steps."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import NumericalWarning
from bayeskit.inference.progress import ProgressLine
from bayeskit.models.distribution_transformer.first_sample import SAMPLE_SIZE, FirstSample
from bayeskit.models.distribution_transformer.network import Network, Widths
from bayeskit.models.distribution_transformer.objective import (
    Batch,
    batch_of,
    draw_batch,
    loss_and_gradient,
    mean_loss,
)
from bayeskit.models.distribution_transformer.task import Task
from bayeskit.models.distribution_transformer.tokens import Scaling, scaling_of

__all__ = ["Plan", "Progress", "State", "initial_state", "train"]

CHUNK = 50
# Weighted draws of each problem whose loss is followed through all of training.
_DRAWS_EVALUATED = 64
# Of progress, in which the step size grows to its largest.
_WARM_UP = 0.05
_LARGEST_GRADIENT = 1.0
# Training ends where this share of a chunk of steps had to be skipped.
_MOST_SKIPPED = 0.2


@dataclass(frozen=True)
class Plan:
    """What a compiled step depends on."""

    task: Task
    network: Network
    batch_size: int
    num_draws: int


class State(NamedTuple):
    """Weights and the averages of Adam."""

    weights: Any
    optimiser: Any


@dataclass
class Progress:
    """Where training stands, on the host.

    Attributes
    ----------
    step : int
    seconds : float
        Spent on steps, without compiling.
    best_loss : float
        Smallest loss on the problems that are followed, and the weights that gave it.
    history : list of dict
    """

    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_weights: Any = None
    since_best: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def _optimiser() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(_LARGEST_GRADIENT), optax.scale_by_adam())


def initial_state(plan: Plan, key: jax.Array, sample: FirstSample) -> tuple[State, Scaling]:
    """Return weights before training, and what standardises the tokens."""
    components, context, rows = sample.raw
    scaling = scaling_of(context, rows, sample.problems.masks)
    # Rows are seen twice: as they are, and on a scale where large ones come closer.
    widths = Widths(
        components.shape[-1], context.shape[-1], {n: 2 * a.shape[-1] for n, a in rows.items()}
    )
    seed = [int(word) for word in np.ravel(jax.random.key_data(key))]
    weights = plan.network.initial(np.random.default_rng(seed), widths)
    zeros = jax.tree.map(np.zeros_like, weights)
    clip, adam = _optimiser().init(weights)
    return State(weights, (clip, adam._replace(mu=zeros, nu=zeros))), scaling


@functools.partial(quick_jit, static_argnums=0)
def _chunk(
    plan: Plan,
    state: State,
    scaling: Scaling,
    key: jax.Array,
    first: jax.Array,
    rates: jax.Array,
    num_steps: jax.Array,
) -> tuple[State, jax.Array, jax.Array]:
    """Run some steps; return losses, and which steps were skipped because of NaN."""
    optimiser = _optimiser()

    def step(i: jax.Array, carry: tuple) -> tuple:
        state, losses, skipped = carry
        own = jax.random.fold_in(key, first + i)
        batch = draw_batch(plan.task, own, plan.batch_size, plan.num_draws, scaling)
        loss, gradient = loss_and_gradient(plan.network, state.weights, batch)
        is_fine = jnp.isfinite(loss) & _is_finite(gradient)
        updates, moments = optimiser.update(gradient, state.optimiser)
        new = State(
            jax.tree.map(lambda w, u: w - rates[i] * u, state.weights, updates), moments
        )
        state = jax.tree.map(lambda a, b: jnp.where(is_fine, a, b), new, state)
        return state, losses.at[i].set(loss), skipped.at[i].set(~is_fine)

    start = (state, jnp.zeros(CHUNK), jnp.zeros(CHUNK, bool))
    return jax.lax.fori_loop(0, num_steps, step, start)


def _is_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


@functools.partial(quick_jit, static_argnums=0, optimised=False)
def _evaluation_batch(
    plan: Plan, key: jax.Array, sample: FirstSample, scaling: Scaling
) -> Batch:
    num_draws = _DRAWS_EVALUATED if plan.num_draws else 0
    return batch_of(plan.task, key, sample.problems, sample.u, sample.start, num_draws, scaling)


@functools.partial(quick_jit, static_argnums=0)
def _evaluate(plan: Plan, weights: Any, batch: Batch) -> jax.Array:
    return mean_loss(plan.network, weights, batch)


def _rate(progress: float, largest: float) -> float:
    """Return the step size: up to the largest in a straight line, down to zero by a cosine."""
    if progress < _WARM_UP:
        return largest * progress / _WARM_UP
    return 0.5 * largest * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def train(
    plan: Plan,
    state: State,
    scaling: Scaling,
    key: jax.Array,
    sample: FirstSample,
    progress: Progress,
    *,
    lr: float,
    max_steps: int | None,
    budget_seconds: float | None,
    patience: int | None,
    line: ProgressLine,
    save: Callable[[State, Progress], None] | None = None,
) -> State:
    """Train until the steps, the time or the patience are used up.

    ``progress`` is updated in place, so that it is up to date where training is interrupted.

    Parameters
    ----------
    plan, state, scaling
    sample : FirstSample
        Its first problems are those whose loss is followed.
    key : JAX key
        Step i uses ``fold_in(key, i)``: chunks and interruptions change no number.
    lr : float
        Largest step size.
    max_steps, budget_seconds, patience
        At least one of the first two. ``patience``: evaluations without a better loss.
    line : ProgressLine
    save : callable, optional
        Called after each chunk.
    """
    of_steps, of_evaluation = jax.random.split(key)
    batch = _evaluation_batch(plan, of_evaluation, sample.head(SAMPLE_SIZE), scaling)
    rates = jnp.zeros(CHUNK)
    if max_steps != 0:
        # Compiles, and computes nothing.
        jax.block_until_ready(_chunk(plan, state, scaling, of_steps, 0, rates, 0))
    if not progress.history:
        _record(plan, state, batch, progress, math.nan)
    skipped_at: list[int] = []
    while True:
        fraction = _fraction(progress, max_steps, budget_seconds)
        if fraction >= 1 or (patience is not None and progress.since_best >= patience):
            break
        if progress.best_loss == math.inf and progress.step:
            break
        start = time.monotonic()
        number = CHUNK if max_steps is None else min(CHUNK, max_steps - progress.step)
        if max_steps is not None:
            each_step = [(progress.step + i + 1) / max_steps for i in range(number)]
            ahead = [max(p, fraction) for p in each_step]
        else:
            ahead = [fraction] * number
        each = [_rate(min(p, 1.0), lr) for p in ahead]
        rates = jnp.asarray(each + [0.0] * (CHUNK - number))
        state, losses, skipped = _chunk(
            plan, state, scaling, of_steps, progress.step, rates, number
        )
        was_skipped = np.asarray(skipped)[:number]
        skipped_at += [progress.step + int(i) for i in np.flatnonzero(was_skipped)]
        progress.step += number
        fine = np.asarray(losses)[:number][~was_skipped]
        progress.seconds += time.monotonic() - start
        loss = float(fine.mean()) if len(fine) else math.nan
        _record(plan, state, batch, progress, loss, int(was_skipped.sum()))
        if save is not None:
            save(state, progress)
        first = progress.history[0]["evaluated_loss"]
        line.show(
            f"step {progress.step}, loss {progress.history[-1]['evaluated_loss']:.4f} "
            f"(untrained {first:.4f})"
        )
        if was_skipped.mean() > _MOST_SKIPPED:
            break
    if skipped_at:
        warnings.warn(
            f"the loss was not finite at {len(skipped_at)} of {progress.step} steps, first at "
            f"step {skipped_at[0]}; those steps were left out and the last good weights kept. "
            "Look for a simulator or a log likelihood that gives NaN, or priors without bounds",
            NumericalWarning,
            stacklevel=3,
        )
    return state


def _fraction(progress: Progress, max_steps: int | None, budget: float | None) -> float:
    """Return how much of what was allowed is used up."""
    steps = progress.step / max_steps if max_steps else (0.0 if max_steps is None else 1.0)
    seconds = progress.seconds / budget if budget else 0.0
    return max(steps, seconds)


def _record(
    plan: Plan, state: State, batch: Batch, progress: Progress, loss: float, skipped: int = 0
) -> None:
    evaluated = float(_evaluate(plan, state.weights, batch))
    if evaluated < progress.best_loss:
        progress.best_loss, progress.since_best = evaluated, 0
        progress.best_weights = jax.tree.map(np.asarray, state.weights)
    else:
        progress.since_best += 1
    progress.history.append(
        {
            "step": progress.step,
            "seconds": progress.seconds,
            "loss": loss,
            "evaluated_loss": evaluated,
            "skipped": skipped,
        }
    )
