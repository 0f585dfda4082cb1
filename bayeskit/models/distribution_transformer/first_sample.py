"""Simulations that are looked at before training: ranges, scales, and widths of tokens."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.distribution_transformer.frames import frame_of
from bayeskit.models.distribution_transformer.linearisation import (
    Linearisation,
    linearisations,
    nothing,
)
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture, log_density
from bayeskit.models.distribution_transformer.task import Problems, Task
from bayeskit.models.distribution_transformer.tokens import raw_numbers

__all__ = ["SAMPLE_SIZE", "FirstSample", "first_sample", "predictive_units"]

# Problems of one call of the compiled program, and calls.
SAMPLE_SIZE = 1024
_NUM_CALLS = 4
# Calls whose problems a linearisation is made from: regressions with errors of 0.8 %.
_NUM_CALLS_TO_LINEARISE = 16
# Of a start, in nats; less may be rounding.
_LEAST_GAIN = 1e-4
# Priors are quicker to draw: their range is that of 20 480.
_NUM_PRIOR_CALLS = 20


class FirstSample(NamedTuple):
    """Problems, how they start, and the raw numbers of their tokens, on the host.

    Attributes
    ----------
    problems : Problems
    u : (num, d) array
        The latents that made the data.
    start : Start
    raw : tuple
        Of :func:`raw_numbers`.
    units : dict of str to arrays
        Of :func:`predictive_units`.
    log_likelihood : (num,) array or None
        Of the data at the latents that made them.
    linear : dict of str to Summary, or None
        The linearisation that they start from.
    """

    problems: Any
    u: Any
    start: Any
    raw: Any
    units: Any
    log_likelihood: Any
    linear: Any = None

    def head(self, num: int) -> FirstSample:
        """Return the first problems."""
        few = jax.tree.map(lambda leaf: leaf[:num], self._replace(linear=None))
        return few._replace(linear=self.linear)


def first_sample(task: Task, key: jax.Array) -> tuple[Task, FirstSample, np.ndarray]:
    """Return the task with its start, 4096 problems, and the features of 20 480 priors."""
    of_problems, of_priors = jax.random.split(key)
    task, sample = _with_start(task, of_problems)
    features = [
        np.asarray(_features(task, part))
        for part in jax.random.split(of_priors, _NUM_PRIOR_CALLS)
    ]
    return task, sample, np.concatenate(features)


def _with_start(task: Task, key: jax.Array) -> tuple[Task, FirstSample]:
    """Return the task, linearised if nothing better is known and that is better than nothing.

    Linearisations are made from other problems than those on which they are compared. One is
    taken if it is better than the prior and all simpler ones, by more than three standard
    errors.
    """
    sample = None
    if task.kind != "prior" or not task.warm_start:
        sample = _sampled(task, key)
        if task.kind != "tilted" or not task.meta_prior.is_mixture or _is_useful(sample):
            return task, sample
    linearised = dataclasses.replace(task, linearises=True)
    sizes = task.simulator.row_sizes(task.support.constrained_dim)
    start = nothing(sizes, task.dim)
    best = before = _sampled(linearised, key, start)
    more = _sampled(linearised, jax.random.fold_in(key, 1), start, _NUM_CALLS_TO_LINEARISE)
    for found in linearisations(more.problems.rows, more.problems.masks, more.u):
        trial = _sampled(linearised, key, found)
        if _is_better(_losses(trial), _losses(best)):
            best = trial
    if best is not before:
        return linearised, best
    return task, sample if sample is not None else _sampled(task, key)


def _is_useful(sample: FirstSample) -> bool:
    """Say whether the start is better than the prior."""
    return _is_better(_losses(sample), -log_density(Mixture(*sample.start.prior), sample.u))


def _losses(sample: FirstSample) -> np.ndarray:
    return -log_density(Mixture(*sample.start.base), sample.u)


def _is_better(losses: np.ndarray, than: np.ndarray) -> bool:
    """Say whether the mean of paired losses is smaller by three standard errors."""
    is_known = np.isfinite(than)
    gain = (than - losses)[is_known]
    if not np.isfinite(gain).all() or not len(gain):
        return False
    return bool(gain.mean() > _LEAST_GAIN + 3 * gain.std() / np.sqrt(len(gain)))


def _sampled(
    task: Task, key: jax.Array, linear: Linearisation | None = None, num: int = _NUM_CALLS
) -> FirstSample:
    """Return problems of several calls, on the host."""
    parts = [
        jax.tree.map(np.asarray, _simulated(task, part, linear))
        for part in jax.random.split(key, num)
    ]
    sample = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return sample._replace(linear=linear)


# Both run a few times only, so that compiling them is what counts.
@functools.partial(quick_jit, static_argnums=0, optimised=False)
def _simulated(task: Task, key: jax.Array, linear: Linearisation | None) -> FirstSample:
    problems, u = task.draw(key, SAMPLE_SIZE)
    start = task.start(problems, linear)
    raw = raw_numbers(task, problems, start)
    log_likelihood = None
    if task.simulator.has_log_likelihood:
        log_likelihood = jax.vmap(task.log_likelihood)(problems, u)
    units = predictive_units(task, problems)
    return FirstSample(problems, u, start, raw, units, log_likelihood)


@functools.partial(quick_jit, static_argnums=0, optimised=False)
def _features(task: Task, key: jax.Array) -> jax.Array:
    return task.meta_prior.features(task.meta_prior.draw(key, SAMPLE_SIZE))


def predictive_units(task: Task, problems: Problems) -> dict[str, jax.Array]:
    """Return rows in the units in which their range is remembered."""
    if not task.is_linear:
        return problems.rows

    def one(problem: Problems) -> dict[str, jax.Array]:
        frame = frame_of(task.meta_prior.as_mixture(problem.prior))
        matrix, noise = (
            part.astype(frame.origin.dtype)
            for part in task.simulator.linear_part(problem.vector)  # type: ignore[union-attr]
        )
        spread = matrix @ frame.scale
        variance = (spread**2).sum(axis=-1) + (noise**2).sum(axis=-1)
        return {
            name: (values - matrix @ frame.origin) / jnp.sqrt(variance)
            for name, values in problem.rows.items()
        }

    return jax.vmap(one)(problems)
