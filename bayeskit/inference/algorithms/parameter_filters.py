"""Parameters with a particle filter each: how they grow, move and get larger filters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.algorithms.islands import evidence_gained, island_model
from bayeskit.inference.blocks import (
    Block,
    FittedMove,
    FittedProposal,
    MovePlan,
    extend,
    move,
    resample,
    when,
)
from bayeskit.inference.estimates import example_of
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.law import Tagged
from bayeskit.inference.measure import Target
from bayeskit.inference.population import effective_sample_size, total_log_evidence
from bayeskit.inference.transitions.base import Transition
from bayeskit.inference.transitions.combinators import repeat
from bayeskit.inference.transitions.proposals import Proposal
from bayeskit.inference.transitions.pseudo_marginal import MarginalState, PseudoMarginal

__all__ = [
    "Epoch",
    "exchange_filters",
    "filters_by_time",
    "moving",
    "parameters_with_filters",
    "rejuvenation",
    "renewal",
]


class Epoch(NamedTuple):
    """A stretch of time in which all filters have one size.

    Parameters
    ----------
    model : FeynmanKac
        On parameters with filters of this size.
    num_particles : int
    begin, end : int
        The times ``begin .. end - 1``.
    """

    model: FeynmanKac
    num_particles: int
    begin: int
    end: int

    @property
    def steps(self) -> range:
        """The times to step to; the first filters begin at time 0 by themselves."""
        return range(max(self.begin, 1), self.end)


def filters_by_time(
    prior: Target, model: Callable, num_particles: int | Mapping[int, int], scheme: str | Block
) -> list[Epoch]:
    """Return parameters with filters of the sizes asked for, one epoch after another.

    Raises
    ------
    ValueError
        If the times do not start with 0 or go beyond the last.
    """
    sizes = {0: num_particles} if isinstance(num_particles, int) else dict(num_particles)
    models = {
        time: parameters_with_filters(prior, model, size, scheme)
        for time, size in sorted(sizes.items())
    }
    num_steps = example_of(prior, model).num_steps
    times = (*models, num_steps)
    if times[0] != 0 or times[-2] >= num_steps:
        raise ValueError(
            f"num_particles: the times of {sizes} must start with 0 and stay below the number "
            f"of observations, {num_steps}"
        )
    pairs = itertools.pairwise(times)
    return [Epoch(models[begin], sizes[begin], begin, end) for begin, end in pairs]


def moving(
    walk: Callable, proposal: Proposal | FittedProposal, num_moves: int, plan: MovePlan | None
) -> Block:
    """Return the moves of parameters, where ``walk(proposal)`` is one step of them."""
    steps = lambda q: repeat(walk(q), num_moves)
    if isinstance(proposal, FittedProposal):
        return FittedMove(steps, proposal, plan)
    return move(steps(proposal), repeats=1)


def renewal(
    moves: Block,
    scheme: str | Block,
    ess_below: float | None,
    move_always: bool,
    plan: MovePlan | None,
) -> Block:
    """Resample uneven parameters, and move them there, always, or as planned."""
    if plan is not None:
        return when(
            lambda stage: plan.at(stage).moved, resample(scheme) >> moves, by_stage=True
        )
    if move_always or ess_below is None:
        return resample(scheme, ess_below) >> moves

    def is_uneven(population):
        size = effective_sample_size(population.log_weights)
        return size < ess_below * population.num_particles

    return when(is_uneven, resample(scheme) >> moves)


def parameters_with_filters(
    prior: Target, model: Callable, num_particles: int, scheme: str | Block = "systematic"
) -> FeynmanKac:
    r"""Return the Feynman-Kac model on parameters with filters, as :func:`smc2` filters it.

    It stands for :math:`p(\theta)\, P_\theta(du_{0:t})\, \hat Z_t(\theta, u_{0:t})`, with
    u the random numbers of the filter, whose marginal is the posterior given the data so far.
    """
    if not isinstance(prior, Target) or prior.sample_prior is None or prior.has_prior:
        raise TypeError(
            "smc2 starts from draws of the prior and gets the likelihood from the model: give "
            "prior=Target(log_density=..., sample_prior=...)"
        )

    def islands(parameters):
        return island_model(model(parameters), num_particles, scheme=scheme)

    def initial(key):
        prior_key, filter_key = random.split(key)
        parameters = prior.draw_prior(prior_key)
        population = islands(parameters).initial(filter_key)
        return MarginalState(parameters, total_log_evidence(population), population)

    def kernel(key, t, state):
        population = islands(state.parameters).kernel(key, t, state.sample)
        return MarginalState(state.parameters, total_log_evidence(population), population)

    return FeynmanKac(
        initial=initial,
        log_g0=lambda state: state.log_estimate,
        kernel=kernel,
        log_g=lambda t, old, new: evidence_gained(old.log_estimate, new.log_estimate),
        num_steps=example_of(prior, model).num_steps,
        name=f"{prior.name}·Ẑ",
    )


def rejuvenation(
    extended: FeynmanKac,
    prior: Target,
    model: Callable,
    num_particles: int,
    proposal: Proposal,
    scheme: str | Block = "systematic",
) -> Transition:
    """Return particle marginal Metropolis-Hastings on the data up to the time at hand."""
    estimator = _filter_up_to(model, num_particles, extended.num_steps, scheme)
    return PseudoMarginal(proposal, prior, estimator, extended.measure.at("t"))


def exchange_filters(
    before: Epoch, now: Epoch, model: Callable, scheme: str | Block = "systematic"
) -> Block:
    r"""Give every parameter a new filter of the data before a time (law L6).

    The weight is the ratio of the new estimate to the old, which is thereby replaced.
    """
    old_model, new_model = before.model, now.model
    estimator = _filter_up_to(model, now.num_particles, old_model.num_steps, scheme)

    def kernel(key, stage, state):
        return MarginalState(state.parameters, *estimator(state.parameters, now.begin - 1)(key))

    def log_ratio(stage, old, new):
        return evidence_gained(old.log_estimate, new.log_estimate)

    title = f"filters of {now.num_particles} over those before"
    source, target = old_model.measure.at("T"), new_model.measure.at("0")
    return extend(kernel, Tagged(log_ratio, source, target, title))


def _filter_up_to(
    model: Callable, num_particles: int, num_steps: int, scheme: str | Block
) -> Callable:
    """Return ``estimator(parameters, time)`` of the data up to a time, which may be traced."""
    later = jnp.arange(1, num_steps, dtype=jnp.int32)

    def estimator(parameters, time):
        islands = island_model(model(parameters), num_particles, scheme=scheme)

        def estimate(key):
            # A new filter starts at time 0 and runs up to the present, not beyond.
            first_key, later_key = random.split(key)

            def one(step_key, population, t):
                move_on = lambda k, now: islands.kernel(k, t, now)
                return random.cond(t <= time, move_on, step_key, population), None

            population = islands.initial(first_key)
            if num_steps > 1:
                population, _ = random.scan(one, later_key, population, later)
            return total_log_evidence(population), population

        return estimate

    return estimator
