"""SMC²: a population of parameters, each with a particle filter of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

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
    scan,
    spawn,
    weigh,
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
    "exchange_filters",
    "moving",
    "parameters_with_filters",
    "rejuvenation",
    "smc2",
    "where_uneven",
]


def smc2(
    prior: Target,
    model: Callable,
    num_parameters: int,
    num_particles: int | Mapping[int, int],
    proposal: Proposal | FittedProposal,
    *,
    ess_below: float | None = 0.5,
    num_moves: int = 1,
    move_always: bool = False,
    scheme: str = "systematic",
    plan: MovePlan | None = None,
) -> Block:
    r"""Return SMC²: parameters weighed by the evidence that their own filters gain.

    Where parameters have become uneven they are resampled with their filters and moved by
    particle marginal Metropolis-Hastings on the data so far.

    Parameters
    ----------
    prior : Target with log_density and sample_prior
    model : callable (parameters) -> FeynmanKac
    num_parameters : int
    num_particles : int, or dict of time to int
        Hidden states for each parameter. With a dict, such as ``{0: 50, 100: 200}``, all
        filters are exchanged for larger ones before these times; parameters are weighed by
        the ratio of the estimates.
    proposal : Proposal or FittedProposal
        Of the moves of parameters. One that is fitted to them makes the law L10.
    ess_below : float in (0, 1], or None
        Resample parameters where their effective sample size is below this fraction; None: at
        every time.
    num_moves : int
        Steps of each move.
    move_always : bool
        Move at every time, whether parameters were resampled or not. The evidence is then
        unbiased (law L2). By default they move where they were resampled: the decision looks
        at the particles that it moves, so the law is L10.
    scheme : str
        Resampling scheme of both levels.
    plan : MovePlan, optional
        When to resample and move, and the constants of a fitted proposal, as a pilot run chose
        them: the evidence is then unbiased (law L2).

    Returns
    -------
    Block
        Particles are :class:`MarginalState`: parameters, log estimate, inner population.

    Raises
    ------
    TypeError
        For a prior that cannot be drawn from, or that comes with a likelihood.
    ValueError
        If the times of a dict do not start with 0 or go beyond the last.

    Notes
    -----
    A move at time t filters the data up to t again: O(t num_parameters num_particles). With
    moves where they are needed the whole is between O(T) and O(T²) of these.

    References
    ----------
    Chopin, Jacob & Papaspiliopoulos (2013), *SMC²: an efficient algorithm for sequential
    analysis of state space models*.
    """

    def round_of(extended, num):
        walk = lambda q: rejuvenation(extended, prior, model, num, q, scheme)
        moves = moving(walk, proposal, num_moves, plan)
        step = extend(extended.kernel, extended.log_g)
        if plan is None and (move_always or ess_below is None):
            return step >> resample(scheme, ess_below) >> moves
        return step >> where_uneven(resample(scheme) >> moves, num_parameters, ess_below, plan)

    sizes = {0: num_particles} if isinstance(num_particles, int) else dict(num_particles)
    now = parameters_with_filters(prior, model, sizes.get(0, 1), scheme)
    times = (*sorted(sizes), now.num_steps)
    if times[0] != 0 or times[-2] >= now.num_steps:
        raise ValueError(
            f"num_particles: the times of {sizes} must start with 0 and stay below the number "
            f"of observations, {now.num_steps}"
        )
    whole = spawn(now.initial, num_parameters) >> weigh(now.log_g0)
    for begin, end in itertools.pairwise(times):
        if begin:
            before, now = now, parameters_with_filters(prior, model, sizes[begin], scheme)
            whole = whole >> exchange_filters(before, now, model, sizes[begin], begin, scheme)
        whole = whole >> scan(round_of(now, sizes[begin]), range(max(begin, 1), end))
    return whole


def moving(
    walk: Callable, proposal: Proposal | FittedProposal, num_moves: int, plan: MovePlan | None
) -> Block:
    """Return the moves of parameters, where ``walk(proposal)`` is one step of them."""
    steps = lambda q: repeat(walk(q), num_moves)
    if isinstance(proposal, FittedProposal):
        return FittedMove(steps, proposal, plan)
    return move(steps(proposal), repeats=1)


def where_uneven(body: Block, num: int, ess_below: Any, plan: MovePlan | None) -> Block:
    """Run a block where weights of ``num`` particles are uneven, or where a plan says so."""
    if plan is not None:
        return when(lambda stage: plan.at(stage).moved, body, by_stage=True)
    is_uneven = lambda now: effective_sample_size(now.log_weights) < ess_below * num
    return when(is_uneven, body)


def parameters_with_filters(
    prior: Target, model: Callable, num_particles: int, scheme: str = "systematic"
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
    scheme: str = "systematic",
) -> Transition:
    """Return particle marginal Metropolis-Hastings on the data up to the time at hand."""
    estimator = _filter_up_to(model, num_particles, extended.num_steps, scheme)
    return PseudoMarginal(proposal, prior, estimator, extended.measure.at("t"))


def exchange_filters(
    before: FeynmanKac,
    after: FeynmanKac,
    model: Callable,
    num_particles: int,
    time: int,
    scheme: str = "systematic",
) -> Block:
    r"""Give every parameter a new filter of the data before a time (law L6).

    The weight is the ratio of the new estimate to the old, which is thereby replaced.
    """
    estimator = _filter_up_to(model, num_particles, before.num_steps, scheme)

    def kernel(key, stage, state):
        return MarginalState(state.parameters, *estimator(state.parameters, time - 1)(key))

    def log_ratio(stage, old, new):
        return evidence_gained(old.log_estimate, new.log_estimate)

    title = f"filters of {num_particles} over those before"
    return extend(
        kernel, Tagged(log_ratio, before.measure.at("T"), after.measure.at("0"), title)
    )


def _filter_up_to(model: Callable, num_particles: int, num_steps: int, scheme: str) -> Callable:
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
