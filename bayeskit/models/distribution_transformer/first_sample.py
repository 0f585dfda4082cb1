"""Simulations that are looked at before training: ranges, scales, and widths of tokens."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.distribution_transformer.frames import frame_of
from bayeskit.models.distribution_transformer.task import Problems, Task
from bayeskit.models.distribution_transformer.tokens import raw_numbers

__all__ = ["SAMPLE_SIZE", "FirstSample", "first_sample", "predictive_units"]

# Problems of one call of the compiled program, and calls.
SAMPLE_SIZE = 1024
_NUM_CALLS = 4
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
    """

    problems: Any
    u: Any
    start: Any
    raw: Any
    units: Any
    log_likelihood: Any

    def head(self, num: int) -> FirstSample:
        """Return the first problems."""
        return jax.tree.map(lambda leaf: leaf[:num], self)


def first_sample(task: Task, key: jax.Array) -> tuple[FirstSample, np.ndarray]:
    """Return 4096 problems, and the features of 20 480 priors."""
    of_problems, of_priors = jax.random.split(key)
    parts = [
        jax.tree.map(np.asarray, _simulated(task, part))
        for part in jax.random.split(of_problems, _NUM_CALLS)
    ]
    sample = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    features = [
        np.asarray(_features(task, part))
        for part in jax.random.split(of_priors, _NUM_PRIOR_CALLS)
    ]
    return sample, np.concatenate(features)


# Both run a few times only, so that compiling them is what counts.
@functools.partial(quick_jit, static_argnums=0, optimised=False)
def _simulated(task: Task, key: jax.Array) -> FirstSample:
    problems, u = task.draw(key, SAMPLE_SIZE)
    start = task.start(problems)
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
