"""The calibration of a trained estimator, from fresh simulations."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.distribution_transformer.against_refined import (
    NUM_PAIRS,
    NUM_PROPOSALS,
    ExactPosteriors,
)
from bayeskit.models.distribution_transformer.calibration import (
    CalibrationReport,
    calibration_report,
)
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.task import Problems, Task

__all__ = ["SimulatedProblems", "guesses_of", "report_on", "simulated_problems"]


class SimulatedProblems(NamedTuple):
    """Problems whose answers are known.

    Attributes
    ----------
    problems : Problems
    latents : (num, d) array
        That made the data, in unconstrained coordinates.
    references : (num, d) array
        Other draws from the priors.
    features : (num, f) array
        Of the priors.
    """

    problems: Problems
    latents: Any
    references: Any
    features: Any


@functools.partial(quick_jit, static_argnums=(0, 1), optimised=False)
def simulated_problems(task: Task, num: int, key: jax.Array) -> SimulatedProblems:
    """Return fresh problems, as training draws them."""
    of_problems, of_references = jax.random.split(key)
    problems, latents = task.draw(of_problems, num)
    references = task.meta_prior.draw_latent(of_references, problems.prior)
    features = task.meta_prior.features(problems.prior)
    return SimulatedProblems(problems, latents, references, features)


@functools.partial(quick_jit, static_argnums=0, optimised=False)
def _log_densities(task: Task, problems: Problems, u: jax.Array) -> jax.Array:
    """Return log prior and log likelihood of latents (L, num, d) of each problem."""

    def each(problem: Problems, one: jax.Array) -> jax.Array:
        prior = task.meta_prior.log_density(problem.prior, one)
        return jnp.stack([prior, task.log_likelihood(problem, one)])

    return jax.lax.map(lambda row: jax.vmap(each)(problems, row), u)


@functools.partial(quick_jit, static_argnums=(0, 1), optimised=False)
def _prior_draws(task: Task, num: int, prior: Any, key: jax.Array) -> jax.Array:
    """Return independent draws (num, batch, d)."""
    draw = lambda own: task.meta_prior.draw_latent(own, prior)
    return jax.lax.map(draw, jax.random.split(key, num))


@dataclass(frozen=True)
class _LogDensities:
    """Log prior and log likelihood (L, num) at latents (L, num, d), by calls of one size."""

    task: Task
    problems: Problems

    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = NUM_PAIRS * (NUM_PROPOSALS + 2)
        parts = []
        for first in range(0, len(u), size):
            part = u[first : first + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            found = np.asarray(_log_densities(self.task, self.problems, jnp.asarray(full)))
            parts.append(found[: len(part)])
        both = np.concatenate(parts)
        return both[..., 0], both[..., 1]


def guesses_of(simulated: SimulatedProblems, others: SimulatedProblems) -> np.ndarray:
    """Return guesses (num, d) of latents, by trees grown on other simulated problems.

    A posterior that does not use the data is a law of the truth as good as any by ranks that
    do not use them either. Trees see the features of the prior, and the number, means and
    spreads of the rows of each source.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(50, min_samples_leaf=5, random_state=0)
    latents = np.asarray(others.latents)
    trees.fit(_summaries(others), latents if latents.shape[1] > 1 else latents[:, 0])
    return trees.predict(_summaries(simulated)).reshape(np.shape(simulated.latents))


def _summaries(simulated: SimulatedProblems) -> np.ndarray:
    columns = [np.asarray(simulated.features), np.asarray(simulated.problems.vector)]
    for name, found in simulated.problems.rows.items():
        rows = np.asarray(found, np.float64)
        there = np.asarray(simulated.problems.masks[name])[..., None]
        count = np.maximum(there.sum(axis=1), 1)
        mean = np.where(there, rows, 0.0).sum(axis=1) / count
        square = np.where(there, (rows - mean[:, None]) ** 2, 0.0).sum(axis=1) / count
        columns += [there.sum(axis=1), mean, np.sqrt(square)]
    # Trees only ask what is larger, and take numbers of single precision.
    return np.clip(np.concatenate(columns, axis=1), -1e30, 1e30)


def report_on(
    task: Task,
    simulated: SimulatedProblems,
    others: SimulatedProblems,
    posteriors: Mixture,
    *,
    num_draws: int,
    alpha: float,
    random_state: Any,
) -> CalibrationReport:
    """Return the calibration of posteriors of simulated problems.

    ``others`` are problems simulated independently, from which guesses are learned.
    """
    problems = simulated.problems
    exact, of_ranks = None, random_state
    if task.simulator.has_log_likelihood:
        of_ranks, of_prior = random.split(random_state)
        count = NUM_PAIRS * NUM_PROPOSALS
        draws = np.asarray(_prior_draws(task, count, problems.prior, of_prior))
        exact = ExactPosteriors(_LogDensities(task, problems), draws)
    names = task.meta_prior.feature_names()
    features = dict(zip(names, np.asarray(simulated.features).T, strict=True))
    for name, mask in problems.masks.items():
        features[f"number of observations of {name!r}"] = np.asarray(mask).sum(axis=1)
    return calibration_report(
        np.asarray(simulated.latents),
        posteriors,
        np.asarray(simulated.references),
        guesses=guesses_of(simulated, others),
        exact=exact,
        features=features,
        num_draws=num_draws,
        alpha=alpha,
        random_state=of_ranks,
    )
