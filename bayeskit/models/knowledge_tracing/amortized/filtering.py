"""What the networks believe of a learner, row by row: no gradient, the same cost each time.

A Kalman filter in which factors of the networks stand for the answers: the posterior of a row
is that of the row before, pushed through the model, times what the networks say. Given its
traits a state is Gaussian; traits are Gaussians of which a few fixed quantiles are followed.
Correlations along a graph are dropped. What is believed of a learner depends on its own rows
alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.amortized.architecture import Architecture
from bayeskit.models.knowledge_tracing.amortized.conditionals import conditional
from bayeskit.models.knowledge_tracing.amortized.generative import (
    carried_variance,
    influence,
    state_step,
    traits_of,
)
from bayeskit.models.knowledge_tracing.amortized.networks import (
    HIDDEN,
    WIDTH,
    WINDOW,
    category_logits,
    input_of,
    lstm_step,
    state_site,
    trait_site,
)
from bayeskit.models.knowledge_tracing.amortized.objective import loading_of
from bayeskit.models.knowledge_tracing.block_filter import Forecasts
from bayeskit.models.knowledge_tracing.moment_matching import tilted_moments
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["AmortizedBelief", "amortized_filter", "first_amortized_belief"]


class AmortizedBelief(NamedTuple):
    """What is believed of one learner after its last row.

    Parameters
    ----------
    hidden, cell : (32,) arrays
        Of the LSTM.
    window : (10, 16) array
        Inputs of the first rows.
    count : () int array
        Rows so far.
    elapsed, waiting : () arrays
        Time since the first row, and since the last one.
    trait_mean, trait_variance : (categories, traits) arrays
    mean, variance : (categories, draws, num_kc) arrays
        Of the states given the traits.
    """

    hidden: Any
    cell: Any
    window: Any
    count: Any
    elapsed: Any
    waiting: Any
    trait_mean: Any
    trait_variance: Any
    mean: Any
    variance: Any


def first_amortized_belief(
    parameters: dict, architecture: Architecture, num_draws: int
) -> AmortizedBelief:
    """Return what is believed of a learner without rows."""
    a, dtype = architecture, parameters["trait_mean"].dtype
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    wide = lambda x, *shape: jnp.broadcast_to(jnp.asarray(x, dtype), shape)
    C, T, K = a.num_categories, a.num_traits, a.num_kc
    return AmortizedBelief(
        zeros(HIDDEN),
        zeros(HIDDEN),
        zeros(WINDOW, WIDTH),
        jnp.zeros((), jnp.int32),
        zeros(),
        zeros(),
        wide(parameters["trait_mean"], C, T),
        wide(parameters["trait_sd"] ** 2, C, T),
        wide(parameters["initial_mean"], C, num_draws, K),
        wide(parameters["initial_sd"] ** 2, C, num_draws, K),
    )


class _Law(NamedTuple):
    """Traits (categories, traits) and states (categories, draws, num_kc): means, variances."""

    trait_mean: Any
    trait_variance: Any
    mean: Any
    variance: Any


def _states_given(
    parameters: dict, belief: AmortizedBelief, traits: Any, gap: Any, A: Any
) -> tuple[jax.Array, jax.Array]:
    """Return means and variances of the states after a gap, given draws of the traits."""
    is_first, traits = belief.count == 0, traits_of(traits)
    step = state_step(traits, belief.mean, gap, A)
    moved = carried_variance(traits, belief.variance, gap, A) + step.sd**2
    return (
        jnp.where(is_first, parameters["initial_mean"], step.mean),
        jnp.where(is_first, parameters["initial_sd"] ** 2, moved),
    )


def _pushed(parameters: dict, belief: AmortizedBelief, gap: Any, A: Any, noise: Any) -> _Law:
    """Return the law of a row before the networks have read it."""
    is_first, stay = belief.count == 0, parameters["trait_persistence"]
    mean = jnp.where(is_first, parameters["trait_mean"], stay * belief.trait_mean)
    variance = jnp.where(
        is_first,
        parameters["trait_sd"] ** 2,
        stay**2 * belief.trait_variance + parameters["trait_drift_sd"] ** 2,
    )
    traits = mean[:, None] + jnp.sqrt(variance)[:, None] * noise
    return _Law(mean, variance, *_states_given(parameters, belief, traits, gap, A))


def _mixed(log_weight: Any, mean: Any, variance: Any) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance over categories and draws, the two leading axes."""
    weight = jnp.exp(log_weight) / mean.shape[1]
    weight = weight.reshape(-1, *[1] * (mean.ndim - 1))
    centre = jnp.sum(weight * mean, axis=(0, 1))
    return centre, jnp.sum(weight * (variance + (mean - centre) ** 2), axis=(0, 1))


def _absorbed(
    parameters: dict,
    belief: AmortizedBelief,
    prior: _Law,
    row: tuple,
    A: Any,
    noise: Any,
    architecture: Architecture,
) -> AmortizedBelief:
    """Condition on what the networks say after one more row."""
    loading, outcome, gap, elapsed = row
    network = parameters["network"]
    x = input_of(network, loading, outcome, elapsed)
    hidden, cell = lstm_step(network, belief.hidden, belief.cell, x)
    enters = (jnp.arange(WINDOW) == belief.count)[:, None]
    window = jnp.where(enters, x, belief.window)
    state = state_site(network, hidden)
    trait = trait_site(network, x, jnp.eye(architecture.num_categories, dtype=x.dtype))
    if architecture.objective == "published":
        # Rows are independent given what the networks have read.
        wide = lambda part: jnp.broadcast_to(part, prior.mean.shape)
        after = _Law(*trait, wide(state.mean), wide(state.variance))
    else:
        q = conditional(prior.trait_mean, jnp.sqrt(prior.trait_variance), trait)
        traits = q.mean[:, None] + q.sd[:, None] * noise
        mean, variance = _states_given(parameters, belief, traits, gap, A)
        q_z = conditional(mean, jnp.sqrt(variance), state)
        after = _Law(q.mean, q.sd**2, q_z.mean, q_z.sd**2)
    return AmortizedBelief(
        hidden, cell, window, belief.count + 1, elapsed, jnp.zeros_like(elapsed), *after
    )


def _filtered(
    parameters: dict,
    belief: AmortizedBelief,
    trials: Trials,
    key: Any,
    architecture: Architecture,
    states: bool,
) -> tuple[AmortizedBelief, Any]:
    """Follow one learner; return the forecast of each row, or the states after it."""
    A = influence(parameters, architecture)
    shape = (*belief.mean.shape[:2], architecture.num_traits)
    noise = random.normal(key, shape, belief.mean.dtype)

    def one(belief: AmortizedBelief, trial: Trials) -> tuple:
        loading = loading_of(trial.kc, trial.weight, architecture.num_kc)
        # A look changes nothing: time goes on until the next row.
        acts = jnp.any(loading > 0)
        gap, elapsed = belief.waiting + trial.row_gap, belief.elapsed + trial.row_gap
        prior = _pushed(parameters, belief, gap, A, noise)
        log_weight = jax.nn.log_softmax(category_logits(parameters["network"], belief.window))
        mean, variance = _mixed(
            log_weight,
            jnp.sum(loading * prior.mean, axis=-1),
            jnp.sum(loading**2 * prior.variance, axis=-1),
        )
        row = (loading, trial.outcome, gap, elapsed)
        after = _absorbed(parameters, belief, prior, row, A, noise, architecture)
        idle = belief._replace(elapsed=elapsed, waiting=gap)
        now = jax.tree.map(lambda new, old: jnp.where(acts, new, old), after, idle)
        if states:
            log_weight = jax.nn.log_softmax(category_logits(parameters["network"], now.window))
            shown = (
                jnp.where(acts, now.mean, prior.mean),
                jnp.where(acts, now.variance, prior.variance),
            )
            return now, _mixed(log_weight, *shown)
        safe = jnp.where(acts, variance, 1.0)
        log_density, mean_after, variance_after = tilted_moments(trial.outcome, mean, safe)
        answered = acts & (trial.outcome != STUDY)
        return now, Forecasts(
            jnp.where(answered, log_density, 0.0), mean, variance, mean_after, variance_after
        )

    return jax.lax.scan(one, belief, trials)


@quick_jit(static_argnames=("architecture", "states"))
def amortized_filter(
    parameters: dict,
    beliefs: AmortizedBelief,
    trials: Trials,
    key: Any,
    *,
    architecture: Architecture,
    states: bool = False,
) -> tuple[AmortizedBelief, Any]:
    """Return beliefs after the rows of many learners, and the forecast of each row.

    Parameters
    ----------
    states : bool
        Return mean and variance of all states after each row instead of the forecast before it,
        (learners, rows, num_kc) each.
    """
    one = lambda belief, trials: _filtered(
        parameters, belief, trials, key, architecture, states
    )
    return jax.vmap(one)(beliefs, trials)
