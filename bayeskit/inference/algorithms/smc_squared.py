"""SMC²: a population of parameters, each with a particle filter of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from bayeskit.inference.algorithms.parameter_filters import (
    Epoch,
    exchange_filters,
    filters_by_time,
    moving,
    rejuvenation,
    renewal,
)
from bayeskit.inference.blocks import (
    Block,
    FittedProposal,
    MovePlan,
    extend,
    scan,
    spawn,
    weigh,
)
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions.proposals import Proposal

__all__ = ["smc2"]


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
    scheme: str | Block = "systematic",
    plan: MovePlan | None = None,
    track_lineage: bool = False,
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
    scheme : str, or block that resamples
        Resampling scheme of both levels.
    plan : MovePlan, optional
        When to resample and move, and the constants of a fitted proposal, as a pilot run chose
        them: the evidence is then unbiased (law L2).
    track_lineage : bool
        Keep which parameters descend from which, for the standard error of the evidence.

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

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> prior = bi.Target(
    ...     log_density=lambda decay: -0.5 * decay**2,
    ...     sample_prior=lambda key: bi.random.normal(key),
    ... )
    >>> def model(decay):
    ...     return bi.FeynmanKac(
    ...         initial=lambda key: bi.random.normal(key),
    ...         log_g0=lambda x: -0.5 * x**2,
    ...         kernel=lambda key, t, x: decay * x + bi.random.normal(key),
    ...         log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...         num_steps=3,
    ...     )
    >>> block = bi.smc2(prior, model, 20, 10, bi.random_walk(0.5))
    >>> exact = bi.smc2(prior, model, 20, 10, bi.random_walk(0.5), move_always=True)
    >>> str(block.law.kind), str(exact.law.kind)
    ('L10 consistent', 'L2 properly weighted')
    """
    epochs = filters_by_time(prior, model, num_particles, scheme)

    def onward(now: Epoch) -> Block:
        walk = lambda q: rejuvenation(now.model, prior, model, now.num_particles, q, scheme)
        moves = moving(walk, proposal, num_moves, plan)
        renewed = renewal(moves, scheme, ess_below, move_always, plan)
        return scan(extend(now.model.kernel, now.model.log_g) >> renewed, now.steps)

    first = epochs[0].model
    start = spawn(first.initial, num_parameters, track_lineage=track_lineage)
    whole = start >> weigh(first.log_g0) >> onward(epochs[0])
    for before, now in itertools.pairwise(epochs):
        whole = whole >> exchange_filters(before, now, model, scheme) >> onward(now)
    return whole
