"""The calibration of a trained estimator, from fresh simulations."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.distribution_transformer.calibration import (
    CalibrationReport,
    calibration_report,
)
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.task import Problems, Task

__all__ = ["SimulatedProblems", "report_on", "simulated_problems"]


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
def _log_likelihoods(task: Task, problems: Problems, u: jax.Array) -> jax.Array:
    """Return those of latents (L, num, d) under the data of each problem."""
    each = jax.vmap(task.log_likelihood)
    return jax.lax.map(lambda row: each(problems, row), u)


def report_on(
    task: Task,
    simulated: SimulatedProblems,
    posteriors: Mixture,
    *,
    num_draws: int,
    alpha: float,
    random_state: Any,
) -> CalibrationReport:
    """Return the calibration of posteriors of simulated problems."""
    problems = simulated.problems
    log_likelihood = None
    if task.simulator.has_log_likelihood:

        def log_likelihood(u: np.ndarray) -> np.ndarray:
            return np.asarray(_log_likelihoods(task, problems, jnp.asarray(u)))

    names = task.meta_prior.feature_names()
    features = dict(zip(names, np.asarray(simulated.features).T, strict=True))
    for name, mask in problems.masks.items():
        features[f"number of observations of {name!r}"] = np.asarray(mask).sum(axis=1)
    return calibration_report(
        np.asarray(simulated.latents),
        posteriors,
        np.asarray(simulated.references),
        log_likelihood=log_likelihood,
        features=features,
        num_draws=num_draws,
        alpha=alpha,
        random_state=random_state,
    )
