r"""What training maximises: a lower bound of the log evidence, or the published weighted sum.

With traits s, states z, the category c of the learner, and q of the networks,

.. math::
    \log p(y) \ge E_q\Bigl[\sum_n \log p(y_n \mid z_n)
        - KL\bigl(q(z_n \mid z_{n-1}) \,\|\, p(z_n \mid z_{n-1}, s_n)\bigr)
        - KL\bigl(q(s_n \mid s_{n-1}) \,\|\, p(s_n \mid s_{n-1})\bigr)\Bigr]
        - KL\bigl(q(c) \,\|\, \text{uniform}\bigr) .

q is the model with the answers replaced by normal factors of the networks, so that a row is
told by all rows of the learner. Divergences are exact given what was drawn for the row before,
and categories are summed over. (The model has no categories: a uniform one that nothing depends
on changes no evidence.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.amortized.architecture import Architecture
from bayeskit.models.knowledge_tracing.amortized.conditionals import conditional, messages
from bayeskit.models.knowledge_tracing.amortized.generative import (
    influence,
    state_step,
    traits_of,
)
from bayeskit.models.knowledge_tracing.amortized.networks import (
    HIDDEN,
    WINDOW,
    Site,
    category_logits,
    input_of,
    lstm_step,
    state_site,
    trait_site,
)
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["lower_bounds", "objectives", "published_objectives", "recognised"]

# Weights of the published sum: of the first row, of entropies, of the categories.
_FIRST_ROW = 1e-4
_ENTROPY = 0.1
_CATEGORIES = 10.0
# A gap of zero would make the published density of the next state infinite.
_LEAST_VARIANCE = 1e-6


class Recognised(NamedTuple):
    """What the networks say of learners (batch), row by row (rows).

    Parameters
    ----------
    loading : (batch, rows, num_kc) array
    real : (batch, rows) array
        1 for a row, 0 for padding.
    answered : (batch, rows) array
    x : (batch, rows, 16) array
    state : Site of (batch, rows, num_kc)
    category : (batch, categories) array
        Logits.
    """

    loading: Any
    real: Any
    answered: Any
    x: Any
    state: Site
    category: Any


def loading_of(kc: Any, weight: Any, num_kc: int) -> jax.Array:
    """Return which components (..., num_kc) a row (..., kcs) is about."""
    one_hot = kc[..., None] == jnp.arange(num_kc)
    return jnp.sum(one_hot * weight[..., None], axis=-2)


def recognised(parameters: dict, trials: Trials, architecture: Architecture) -> Recognised:
    """Read the rows of learners, each from its first."""
    network = parameters["network"]
    loading = loading_of(trials.kc, trials.weight, architecture.num_kc)
    real, batch = trials.real, trials.real.shape[0]
    x = input_of(network, loading, trials.outcome, jnp.cumsum(trials.row_gap, axis=1))
    x = x * real[..., None]

    def one(carry: tuple, x: jax.Array) -> tuple:
        hidden, cell = lstm_step(network, carry[0], carry[1], x)
        return (hidden, cell), hidden

    blank = jnp.zeros((batch, HIDDEN), x.dtype)
    hidden: jax.Array
    _, hidden = jax.lax.scan(one, (blank, blank), jnp.swapaxes(x, 0, 1))
    state = state_site(network, jnp.swapaxes(hidden, 0, 1))
    window = x[:, :WINDOW]
    window = jnp.pad(window, ((0, 0), (0, WINDOW - window.shape[1]), (0, 0)))
    answered = real * (trials.outcome != STUDY)
    return Recognised(loading, real, answered, x, state, category_logits(network, window))


def lower_bounds(
    parameters: dict,
    trials: Trials,
    key: Any,
    *,
    architecture: Architecture,
    num_samples: int,
) -> jax.Array:
    """Return an unbiased estimate of the bound of each learner, (batch,), in nats.

    Parameters
    ----------
    parameters : dict
        Natural parameters of the model, ``network``, and what the graph needs.
    trials : Trials
        With axes (batch, rows); rows of padding come last.
    num_samples : int
        For each category.
    """
    a = architecture
    seen = recognised(parameters, trials, a)
    trait_key, state_key = random.split(key)
    rows_first = lambda part: jnp.swapaxes(part, 0, 1)
    real = rows_first(seen.real)[..., None, None]
    # (rows, batch, categories, samples)
    s, lost = _drawn_traits(parameters, seen, trait_key, a, num_samples)
    z, lost_states = _drawn_states(
        parameters, seen, s, rows_first(trials.row_gap)[..., None, None], state_key, a
    )
    logit = jnp.sum(rows_first(seen.loading)[:, :, None, None] * z, axis=-1)
    fits = _log_likelihood(rows_first(trials.outcome)[..., None, None], logit)
    answered = rows_first(seen.answered)[..., None, None]
    total = jnp.sum(answered * fits - real * (lost + lost_states), axis=0)
    log_q = jax.nn.log_softmax(seen.category)
    inside = jnp.mean(total, axis=-1) - log_q - math.log(a.num_categories)
    return jnp.sum(jnp.exp(log_q) * inside, axis=-1)


def _drawn_traits(
    parameters: dict, seen: Recognised, key: Any, a: Architecture, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """Return draws (rows, batch, categories, samples, traits), and divergences of all."""
    x = jnp.swapaxes(seen.x, 0, 1)
    dtype, (num_rows, batch, _) = x.dtype, x.shape
    categories = jnp.eye(a.num_categories, dtype=dtype)
    site = trait_site(parameters["network"], x[:, :, None], categories)
    first_mean, first_sd = parameters["trait_mean"], parameters["trait_sd"]
    stay, drift = parameters["trait_persistence"], parameters["trait_drift_sd"]
    wide = jnp.ones((num_rows, 1, 1, 1), dtype)
    told = messages(
        site,
        jnp.swapaxes(seen.real, 0, 1)[..., None, None],
        stay * wide,
        0.0 * wide,
        drift**2 * wide,
    )

    def one(s: jax.Array, row: tuple) -> tuple:
        number, told = row
        mean = jnp.where(number == 0, first_mean, stay * s)
        sd = jnp.where(number == 0, first_sd, drift)
        q = conditional(mean, sd, Site(*(part[:, :, None] for part in told)))
        s = q.mean + q.sd * random.normal(random.fold_in(key, number), s.shape, dtype)
        return s, (s, jnp.sum(q.divergence, axis=-1))

    start = jnp.zeros((batch, a.num_categories, num_samples, a.num_traits), dtype)
    return jax.lax.scan(one, start, (jnp.arange(num_rows), told))[1]


def _drawn_states(
    parameters: dict, seen: Recognised, s: Any, gap: Any, key: Any, a: Architecture
) -> tuple[jax.Array, jax.Array]:
    """Return draws (rows, batch, categories, samples, num_kc), and divergences of all."""
    A, traits = influence(parameters, a), traits_of(s)
    num_rows, dtype = s.shape[0], s.dtype
    site = Site(*(jnp.swapaxes(part, 0, 1)[:, :, None, None] for part in seen.state))
    # Later rows speak to each component by itself; forwards, prerequisites pull.
    alone = state_step(traits, jnp.zeros((*s.shape[:-1], 1), dtype), gap, None)
    told = messages(
        site,
        jnp.swapaxes(seen.real, 0, 1)[..., None, None, None],
        jnp.exp(-traits.forgetting * gap)[..., None],
        alone.mean,
        alone.sd**2,
    )

    def one(z: jax.Array, row: tuple) -> tuple:
        number, traits, gap, told = row
        step = state_step(traits, z, gap, A)
        mean = jnp.where(number == 0, parameters["initial_mean"], step.mean)
        sd = jnp.where(number == 0, parameters["initial_sd"], step.sd)
        q = conditional(mean, sd, told)
        z = q.mean + q.sd * random.normal(random.fold_in(key, number), z.shape, dtype)
        return z, (z, jnp.sum(q.divergence, axis=-1))

    start = jnp.zeros((*s.shape[1:-1], a.num_kc), dtype)
    return jax.lax.scan(one, start, (jnp.arange(num_rows), traits, gap, told))[1]


def published_objectives(
    parameters: dict,
    trials: Trials,
    key: Any,
    *,
    architecture: Architecture,
    num_samples: int,
) -> jax.Array:
    """Return the published weighted sum of each learner, (batch,): no bound of anything."""
    a, A = architecture, influence(parameters, architecture)
    seen = recognised(parameters, trials, a)
    batch, num_rows = seen.real.shape
    dtype, num = seen.x.dtype, num_samples * a.num_categories
    category_key, trait_key, state_key = random.split(key, 3)
    uniform = random.uniform(category_key, (num, batch, a.num_categories), dtype)
    gumbel = -jnp.log(-jnp.log(jnp.clip(uniform, 1e-12, 1.0 - 1e-7)))
    category = jax.nn.softmax(seen.category + gumbel)
    trait = trait_site(parameters["network"], seen.x, category[:, :, None, :])
    shape = (num, batch, num_rows)
    noise = random.normal(trait_key, (*shape, a.num_traits), dtype)
    s = trait.mean + jnp.sqrt(trait.variance) * noise
    noise = random.normal(state_key, (*shape, a.num_kc), dtype)
    z = seen.state.mean + jnp.sqrt(seen.state.variance) * noise

    is_first = (jnp.arange(num_rows) == 0)[:, None]
    before = _shifted(trait.mean)
    mean = jnp.where(
        is_first, parameters["trait_mean"], parameters["trait_persistence"] * before
    )
    sd = jnp.where(is_first, parameters["trait_sd"], parameters["trait_drift_sd"])
    log_p = jnp.sum(_log_normal(s, mean, jnp.maximum(sd**2, _LEAST_VARIANCE)), axis=-1)
    step = state_step(traits_of(trait.mean), _shifted(seen.state.mean), trials.row_gap, A)
    mean = jnp.where(is_first, parameters["initial_mean"], step.mean)
    variance = jnp.where(is_first, parameters["initial_sd"] ** 2, step.sd**2)
    variance = jnp.maximum(variance, _LEAST_VARIANCE)
    log_p += jnp.sum(_log_normal(z, mean, variance), axis=-1)
    logit = jnp.sum(seen.loading * z, axis=-1)
    log_p += seen.answered * _log_likelihood(trials.outcome, logit)

    count = jnp.maximum(jnp.sum(seen.real, axis=1), 1.0)
    weight = seen.real * jnp.where(jnp.arange(num_rows) == 0, _FIRST_ROW, 1.0)
    entropy = 0.5 * jnp.sum(jnp.log(trait.variance), axis=-1).mean(axis=0)
    entropy += 0.5 * jnp.sum(jnp.log(seen.state.variance), axis=-1)
    entropy += 0.5 * math.log(2.0 * math.pi * math.e) * (a.num_traits + a.num_kc)
    log_q = jax.nn.log_softmax(seen.category)
    divergence = jnp.sum(jnp.exp(log_q) * (log_q + math.log(a.num_categories)), axis=-1)
    fits = jnp.sum(weight * jnp.mean(log_p, axis=0), axis=1) / (3.0 * count)
    entropies = jnp.sum(seen.real * entropy, axis=1) / count
    return fits + _ENTROPY * entropies - _CATEGORIES * divergence


def objectives(
    parameters: dict,
    trials: Trials,
    key: Any,
    *,
    architecture: Architecture,
    num_samples: int,
) -> jax.Array:
    """Return what the architecture's objective is for each learner, (batch,)."""
    chosen = lower_bounds if architecture.objective == "elbo" else published_objectives
    return chosen(parameters, trials, key, architecture=architecture, num_samples=num_samples)


def _log_likelihood(outcome: Any, logit: Any) -> jax.Array:
    return jax.nn.log_sigmoid((2.0 * (outcome == 1) - 1.0) * logit)


def _log_normal(x: Any, mean: Any, variance: Any) -> jax.Array:
    return -0.5 * (jnp.log(2.0 * math.pi * variance) + (x - mean) ** 2 / variance)


def _shifted(means: jax.Array) -> jax.Array:
    """Return what stood one row before, along the rows."""
    return jnp.concatenate([means[..., :1, :], means[..., :-1, :]], axis=-2)
