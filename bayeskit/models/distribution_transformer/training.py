"""Training on fresh simulations: one compiled program for a chunk of steps."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.checkpoint import array_fingerprint, code_fingerprint
from bayeskit.inference.long_run import LongRun
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
from bayeskit.models.distribution_transformer.training_progress import (
    HISTORY,
    Progress,
    Training,
    kept,
    restored,
    warn_of_skipped,
)

__all__ = ["Plan", "State", "initial_state", "train"]

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


def _optimiser() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(_LARGEST_GRADIENT), optax.scale_by_adam())


def initial_state(plan: Plan, key: jax.Array, sample: FirstSample) -> tuple[State, Scaling]:
    """Return weights before training, and what standardises the tokens."""
    components, context, rows = sample.raw
    scaling = scaling_of(context, rows, sample.problems.masks, sample.linear)
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
    training: Training,
    line: ProgressLine,
    identity: Mapping[str, str],
) -> tuple[State, Progress, bool]:
    """Train until the steps, the time or the patience are used up.

    Parameters
    ----------
    plan, state, scaling
    key : JAX key
        Step i uses ``fold_in(key, i)``: pieces and interruptions change no number.
    sample : FirstSample
        Its first problems are those whose loss is followed.
    training : Training
    line : ProgressLine
    identity : dict of str
        What else must be the same for a checkpoint to be used.

    Returns
    -------
    state : State
    progress : Progress
    is_interrupted : bool
        Whether a signal or the time limit came first.

    Warns
    -----
    InterruptedRunWarning, NumericalWarning
    """
    of_steps, of_evaluation = jax.random.split(key)

    def fingerprint() -> dict[str, str]:
        draw = lambda k: draw_batch(plan.task, k, plan.batch_size, plan.num_draws, scaling)
        return {**identity, "key": array_fingerprint(key), "model": code_fingerprint(draw, key)}

    progress = Progress()
    now = lambda: kept(state, progress)
    with LongRun(training, fingerprint) as run:
        saved = run.resumed("training", now)
        if saved is not None:
            state, progress = saved["state"], restored(saved)
        batch = _evaluation_batch(plan, of_evaluation, sample.head(SAMPLE_SIZE), scaling)
        if not _is_over(progress, training):
            # Compiles, and computes nothing.
            rates = jnp.zeros(CHUNK)
            jax.block_until_ready(_chunk(plan, state, scaling, of_steps, 0, rates, 0))
        if not len(progress.history):
            _record(plan, state, batch, progress)
        while not run.stopped and not _is_over(progress, training):
            used_up = training.used_up(progress.step, progress.seconds)
            left = CHUNK - len(progress.chunk)
            if training.max_steps is not None:
                left = min(left, training.max_steps - progress.step)
            number = run.piece(left, CHUNK)
            rates = jnp.asarray(_rates(training, progress.step, used_up, number))
            start = time.monotonic()
            state, losses, skipped = _chunk(
                plan, state, scaling, of_steps, progress.step, rates, number
            )
            made = np.stack([np.asarray(losses), np.asarray(skipped)], axis=1)[:number]
            progress.seconds += time.monotonic() - start
            if progress.first_skipped < 0 and made[:, 1].any():
                progress.first_skipped = progress.step + int(made[:, 1].argmax())
            progress.step += number
            progress.chunk = np.concatenate([progress.chunk, made])
            if number == left or training.used_up(progress.step, progress.seconds) >= 1:
                _record(plan, state, batch, progress)
            run.reached("training", now)
            line.show(
                f"{training.progress_in_words(progress.step, progress.seconds)}, loss "
                f"{progress.history[-1, 3]:.4f} (untrained {progress.start_loss:.4f})"
            )
        if run.stopped:
            run.warn_partial(training.progress_in_words(progress.step, progress.seconds))
    warn_of_skipped(progress)
    return state, progress, bool(run.stopped)


def _rates(training: Training, step: int, used_up: float, number: int) -> np.ndarray:
    """Return the step sizes (CHUNK,) of the next steps."""
    ahead = np.full(number, used_up)
    if training.max_steps is not None:
        ahead = np.maximum(ahead, (step + 1 + np.arange(number)) / training.max_steps)
    rates = np.zeros(CHUNK)
    rates[:number] = [_rate(min(float(p), 1.0), training.lr) for p in ahead]
    return rates


def _is_over(progress: Progress, training: Training) -> bool:
    """Say whether there is nothing to do, or no sense in doing more."""
    if training.used_up(progress.step, progress.seconds) >= 1:
        return True
    if training.patience is not None and progress.since_best >= training.patience:
        return True
    if progress.step and progress.best_loss == math.inf:
        return True
    skipped = progress.history[-1:, HISTORY.index("skipped")]
    return bool((skipped > _MOST_SKIPPED * CHUNK).any())


def _record(plan: Plan, state: State, batch: Batch, progress: Progress) -> None:
    """Follow the loss, keep the best weights, and begin the next chunk."""
    evaluated = float(_evaluate(plan, state.weights, batch))
    if evaluated < progress.best_loss:
        progress.best_loss, progress.since_best = evaluated, 0
        progress.best_weights = jax.tree.map(np.asarray, state.weights)
    else:
        progress.since_best += 1
    losses, skipped = progress.chunk.T
    fine = losses[skipped == 0]
    loss = fine.mean() if len(fine) else math.nan
    row = [progress.step, progress.seconds, loss, evaluated, skipped.sum()]
    progress.history = np.concatenate([progress.history, [row]])
    progress.chunk = progress.chunk[:0]
