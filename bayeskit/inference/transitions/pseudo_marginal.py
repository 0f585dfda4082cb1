"""Metropolis-Hastings with an unbiased estimate of the likelihood in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from bayeskit.inference import random
from bayeskit.inference.estimates import law_of_estimate
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.law import REVERSIBLE, Measure
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions.base import Transition, weakest
from bayeskit.inference.transitions.proposals import Proposal

__all__ = ["MarginalState", "PseudoMarginal", "check_pseudo_marginal", "pseudo_marginal"]


class MarginalState(NamedTuple):
    """Parameters together with an estimate of their likelihood.

    Parameters
    ----------
    parameters : pytree
    log_estimate : () array
        It belongs to the parameters as long as they stay, and is never computed anew.
    sample : pytree
        What was drawn with the estimate, such as a path of hidden states.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> prior = bi.Target(log_density=lambda m: -0.5 * m**2)
    >>> def estimator(mean):
    ...     return lambda key: (-0.5 * (1.0 - mean) ** 2, "no sample")
    >>> walk = bi.pseudo_marginal(bi.random_walk(1.0), prior, estimator)
    >>> state = walk.init(jax.random.key(0), jnp.array(3.0))
    >>> float(state.parameters), float(state.log_estimate), float(walk.log_density(state))
    (3.0, -2.0, -6.5)
    """

    parameters: Any
    log_estimate: jax.Array
    sample: Any


@dataclass(frozen=True, eq=False, repr=False)
class PseudoMarginal(Transition):
    """Metropolis-Hastings by estimates. See :func:`pseudo_marginal`."""

    proposal: Proposal
    prior: Target
    estimator: Callable
    on: Measure

    @property
    def name(self):
        return f"pseudo-marginal {self.proposal.name}"

    @property
    def measure(self):
        return self.on

    @property
    def law_kind(self):
        return weakest([law_of_estimate(self.estimator, self.prior)[0]], REVERSIBLE)

    @property
    def derivation(self):
        _, lines = law_of_estimate(self.estimator, self.prior)
        return (
            "estimate of the likelihood, at given parameters:",
            *("    " + line for line in lines),
            "Metropolis-Hastings on (parameters, estimate, sample); what is current is kept",
        )

    def init(self, key, value):
        """Return the state at parameters; a state is returned as it is."""
        if isinstance(value, MarginalState):
            return value
        return self.state_at(key, value, None)

    def position(self, state):
        return state.parameters

    def state_at(self, key: Any, parameters: Any, stage: Any) -> MarginalState:
        """Return parameters with a fresh estimate of their likelihood."""
        log_estimate, sample = self.estimator(parameters, stage)(key)
        return MarginalState(parameters, log_estimate, sample)

    def proposed(self, key: Any, parameters: Any, state: Any, stage: Any) -> MarginalState:
        """Return the state that is proposed at new parameters."""
        return self.state_at(key, parameters, stage)

    def log_density(self, state: MarginalState) -> jax.Array:
        """Return log of prior times estimate."""
        return self.prior.density()(state.parameters) + state.log_estimate

    def step(self, key, state, stage=None):
        proposal_key, estimate_key, accept_key = random.split(key, 3)
        parameters = self.proposal.draw(proposal_key, state.parameters)
        new: Any = self.proposed(estimate_key, parameters, state, stage)
        log_ratio = (
            self.log_density(new)
            - self.log_density(state)
            + self.proposal.log_ratio(state.parameters, parameters)
        )
        unusable = not_usable(self.log_density(new)[None])
        return metropolis(accept_key, state, new, log_ratio, unusable)


def pseudo_marginal(proposal: Proposal, prior: Target, estimator: Callable) -> Transition:
    r"""Return Metropolis-Hastings with an unbiased estimate in place of the likelihood.

    With an estimate :math:`\hat Z(\theta, u)`, u all the random numbers it was made of, the
    step leaves

    .. math:: p(\theta)\, P_\theta(du)\, \hat Z(\theta, u)

    invariant, whose marginal in :math:`\theta` is the posterior for any number of particles.
    The log acceptance ratio is that of :math:`p(\theta) \hat Z(\theta, u) q(\theta, \theta')`.

    Parameters
    ----------
    proposal : Proposal
        Such as :func:`random_walk`.
    prior : Target
        Density of the parameters, and of all that is known without estimating.
    estimator : callable (parameters) -> callable (key) -> (log estimate, sample)
        The estimate must have the likelihood as its mean, as :func:`choose` makes it.

    Returns
    -------
    Transition
        Its states are :class:`MarginalState`; a chain starts from parameters, and returns
        states.

    Notes
    -----
    One estimate a step. A state keeps its estimate: computing that of the current parameters
    anew, however tempting after a lucky one, changes the target. For the same reason the step
    must not stand in a Gibbs sampler beside blocks that change what is estimated.

    References
    ----------
    Andrieu & Roberts (2009), *The pseudo-marginal approach for efficient Monte Carlo
    computations*.

    Examples
    --------
    A likelihood that is a mean over a hidden z, estimated by importance sampling:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> prior = bi.Target(
    ...     log_density=lambda m: -0.5 * m**2, sample_prior=lambda key: bi.random.normal(key)
    ... )
    >>> def estimator(mean):
    ...     draws = bi.spawn(lambda key: mean + bi.random.normal(key), 20)
    ...     return bi.choose(draws >> bi.weigh(lambda stage, z: -0.5 * (1.0 - z) ** 2))
    >>> walk = bi.pseudo_marginal(bi.random_walk(1.0), prior, estimator)
    >>> draws, info = bi.chain(walk, jnp.zeros(()), 100, key=0)
    >>> draws.parameters.shape, draws.sample.shape
    ((100,), (100,))
    """
    check_pseudo_marginal(proposal, prior, estimator)
    measure = Measure(f"{prior.name}·Ẑ", owner=estimator)
    return PseudoMarginal(proposal, prior, lambda theta, _: estimator(theta), measure)


def check_pseudo_marginal(proposal: Any, prior: Any, estimator: Any) -> None:
    """Refuse what no pseudo-marginal step can be made of."""
    if not isinstance(proposal, Proposal):
        raise TypeError(
            f"proposal must be a Proposal, such as random_walk(scale), got "
            f"{type(proposal).__name__}"
        )
    if not isinstance(prior, Target):
        raise TypeError(f"prior must be a Target(log_density=...), got {type(prior).__name__}")
    if not callable(estimator):
        raise TypeError(f"estimator must be a function of parameters, got {estimator!r}")
