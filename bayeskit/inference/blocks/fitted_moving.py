"""Move particles by a proposal that is fitted to them, or was fitted in a pilot run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.adaptation import covariance_factor, weighted_moments
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.moving import move
from bayeskit.inference.law import CONSISTENT
from bayeskit.inference.transitions.base import Transition
from bayeskit.inference.transitions.proposals import Proposal

__all__ = ["FittedMove", "FittedProposal", "MovePlan", "fitted_random_walk"]


@dataclass(frozen=True, eq=False)
class FittedProposal:
    r"""A proposal :math:`q_c(x, dx')` whose constants c are fitted to weighted particles.

    Parameters
    ----------
    fit : callable (positions, log_weights) -> constants
        Positions have a leading axis of particles.
    propose : callable (constants) -> Proposal
        With a ``log_density`` unless q is symmetric.
    name : str

    Notes
    -----
    A move with it is consistent (law L10): what is moved has chosen how. With the constants of
    another run, as a :class:`MovePlan` holds them, it keeps its target exactly.

    References
    ----------
    Chopin (2002), *A sequential particle filter method for static models*.

    Examples
    --------
    An independent proposal with the mean and the spread of the particles:

    >>> import jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from bayeskit import inference as bi
    >>> def fit(x, log_weights):
    ...     mean = jnp.exp(log_weights) @ x
    ...     return mean, jnp.sqrt(jnp.exp(log_weights) @ (x - mean) ** 2)
    >>> proposal = bi.FittedProposal(
    ...     fit,
    ...     lambda c: bi.Proposal(
    ...         lambda key, x: c[0] + c[1] * bi.random.normal(key),
    ...         lambda x, new: norm.logpdf(new, *c),
    ...     ),
    ... )
    """

    fit: Callable
    propose: Callable
    name: str = "proposal"


class MovePlan(NamedTuple):
    """When a pilot run moved its particles, and by which constants.

    Parameters
    ----------
    moved : (num_steps,) bool array
    constants : pytree with leading axis num_steps

    Examples
    --------
    A pilot run that moved at the second time alone, by steps of 0.4:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> plan = bi.MovePlan(jnp.array([False, True]), constants=jnp.array([1.0, 0.4]))
    >>> now = plan.at(1)
    >>> bool(now.moved), round(float(now.constants), 4)
    (True, 0.4)
    """

    moved: Any
    constants: Any

    def at(self, stage: Any) -> MovePlan:
        """Return what is planned for one time."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[stage], self)


def fitted_random_walk() -> FittedProposal:
    r"""Return the random walk with :math:`2.56^2 / d` times the covariance of the particles.

    Returns
    -------
    FittedProposal

    References
    ----------
    Sherlock, Thiery, Roberts & Rosenthal (2015), *On the efficiency of pseudo-marginal random
    walk Metropolis algorithms*: efficient where the likelihood is estimated.

    Examples
    --------
    Two particles at -1 and 1 have variance 1, so the step is 2.56 in one dimension:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> proposal = bi.fitted_random_walk()
    >>> constants = proposal.fit(jnp.array([[-1.0], [1.0]]), jnp.log(jnp.array([0.5, 0.5])))
    >>> constants.round(4).tolist()
    [[2.56]]
    """

    def fit(positions, log_weights):
        _, covariance = weighted_moments(positions, log_weights)
        num = jnp.asarray(positions.shape[0], positions.dtype)
        return 2.56 / math.sqrt(positions.shape[1]) * covariance_factor(covariance, num)

    def propose(factor):
        walk = lambda key, x: x + factor @ random.normal(key, x.shape, x.dtype)
        return Proposal(walk, name="random walk")

    return FittedProposal(fit, propose, "random walk")


@dataclass(frozen=True, eq=False, repr=False)
class FittedMove(Block):
    """Move particles that are :class:`MarginalState` by a fitted proposal.

    Law: L10; with a plan that of the move, since nothing then looks at the particles.

    Parameters
    ----------
    transition : callable (Proposal) -> Transition
    proposal : FittedProposal
    plan : MovePlan, optional
        Its constants in the place of those that the particles would give.
    """

    transition: Callable[[Proposal], Transition]
    proposal: FittedProposal
    plan: MovePlan | None = None

    def _block(self, proposal: Proposal) -> Block:
        return move(self.transition(proposal), repeats=1)

    def _example(self) -> Block:
        # Names and laws do not look at what is drawn.
        return self._block(Proposal(lambda key, x: x, name=self.proposal.name))

    @property
    def name(self):
        how = "fitted to the population" if self.plan is None else "as planned by a pilot run"
        return f"{self._example().name}, {how}"

    @property
    def expects(self):
        return self._example().expects

    def run(self, key, population=None):
        if self.plan is None:
            positions = population.particles.parameters
            constants = self.proposal.fit(positions, population.log_weights)
        else:
            constants = self.plan.at(population.stage).constants
        population, info = self._block(self.proposal.propose(constants)).run(key, population)
        return population, {**info, "constants": constants}

    def arrow(self, law):
        moved = self._example().arrow(law)
        kind = CONSISTENT if self.plan is None else moved.kind
        return law.then(moved.measure, self.name, kind)
