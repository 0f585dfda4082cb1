"""Compiled programs that answer calls of a trained network."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.first_sample import predictive_units
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.network import Network
from bayeskit.models.distribution_transformer.objective import may_change, posterior_of
from bayeskit.models.distribution_transformer.task import Problems, Start, Task
from bayeskit.models.distribution_transformer.tokens import Scaling, of_problems

__all__ = ["Answer", "FilterStep", "Motion", "amortised", "answer", "features_of", "filtered"]


class Answer(NamedTuple):
    """Posteriors of a batch.

    Attributes
    ----------
    mixture : Mixture
    log_evidence : (batch,) array
        Exact for linear Gaussian data and mixture priors, else an approximation.
    features, units
        What alarms look at.
    """

    mixture: Mixture
    log_evidence: jax.Array
    features: jax.Array
    units: dict[str, jax.Array]


def amortised(
    task: Task, network: Network, weights: Any, scaling: Scaling, problems: Problems
) -> tuple[Mixture, Start]:
    """Return posteriors of a batch and what they started from."""
    if task.kind == "exact":
        start = task.start(problems)
        return start.base, start
    start = task.start(problems, scaling.linear)
    tokens = of_problems(task, problems, start, scaling)
    mixture = posterior_of(network, weights, tokens, start.base, may_change(task, start))
    return mixture, start


@functools.partial(quick_jit, static_argnums=(0, 1))
def answer(
    task: Task, network: Network, weights: Any, scaling: Scaling, problems: Problems
) -> Answer:
    """Return posteriors, and what tells whether the network may be trusted with them."""
    mixture, start = amortised(task, network, weights, scaling, problems)
    features = task.meta_prior.features(problems.prior)
    return Answer(mixture, start.log_evidence, features, predictive_units(task, problems))


class Motion(NamedTuple):
    """``x_t = A x_{t-1} + c + G e`` with standard normal e."""

    matrix: jax.Array
    offset: jax.Array
    noise_factor: jax.Array


class FilterStep(NamedTuple):
    """What a filter keeps of each time: after the data, and before them."""

    posterior: Mixture
    predicted: Mixture
    log_evidence: jax.Array


@functools.partial(quick_jit, static_argnums=(0, 1))
def filtered(
    task: Task,
    network: Network,
    weights: Any,
    scaling: Scaling,
    initial: Mixture,
    motion: Motion,
    series: tuple[dict, dict],
    vector: jax.Array,
) -> FilterStep:
    """Return posteriors (time, batch, ...) given the data up to each time.

    Parameters
    ----------
    initial : Mixture
        Of the state before the first motion, (batch, ...).
    series : (rows, masks)
        Each with axes (time, batch, n, ...).
    vector : (batch, p) array
    """

    def step(state: Mixture, data: tuple[dict, dict]) -> tuple[Mixture, FilterStep]:
        predicted = mixture_arrays.linear_prediction(state, *motion)
        # A component that is absent keeps the arrays that mark it as such.
        is_present = state.log_weights > -jnp.inf
        predicted = Mixture(
            predicted.log_weights,
            jnp.where(is_present[..., None], predicted.means, state.means),
            jnp.where(is_present[..., None, None], predicted.factors, state.factors),
        )
        problems = Problems(predicted, *data, vector)
        mixture, start = amortised(task, network, weights, scaling, problems)
        evidence = jnp.where(start.has_data, start.log_evidence, 0.0)
        return mixture, FilterStep(mixture, predicted, evidence)

    return jax.lax.scan(step, initial, series)[1]


@functools.partial(quick_jit, static_argnums=0, optimised=False)
def features_of(
    task: Task, predicted: Mixture, rows: dict, vector: jax.Array
) -> tuple[jax.Array, dict]:
    """Return what alarms look at, for all times and problems of a filter."""

    def one(prior: Mixture, data: dict) -> tuple[jax.Array, dict]:
        problems = Problems(prior, data, {}, vector)
        return task.meta_prior.features(prior), predictive_units(task, problems)

    return jax.vmap(one)(predicted, rows)
