"""Transitions: Markov steps on states of any structure, and how they combine.

A :class:`~bayeskit.inference.Kernel` moves one vector for whatever density it is handed. A
transition is bound to what it leaves invariant, and its state may be anything: a point with
its cached values, a trajectory, parameters together with an estimate of their likelihood, or a
product of chains. Transitions are what Markov chain algorithms are composed of, and ``move``
applies them inside a population.
"""

from bayeskit.inference.transitions.base import Transition, chain, transition
from bayeskit.inference.transitions.combinators import cycle, mixture, palindrome, repeat
from bayeskit.inference.transitions.correlated import (
    Auxiliary,
    correlated_pseudo_marginal,
    crank_nicolson,
)
from bayeskit.inference.transitions.coupled import (
    Pair,
    coupled,
    coupled_metropolis_hastings,
    coupled_random_walk,
)
from bayeskit.inference.transitions.couplings import maximal_categorical, reflected_normal
from bayeskit.inference.transitions.exchange import exchange
from bayeskit.inference.transitions.gibbs import gibbs
from bayeskit.inference.transitions.involutive import involutive, metropolis_hastings
from bayeskit.inference.transitions.product import Replicas, product, slot
from bayeskit.inference.transitions.proposals import Proposal, random_walk
from bayeskit.inference.transitions.pseudo_marginal import MarginalState, pseudo_marginal
from bayeskit.inference.transitions.reversible_jump import (
    birth_death,
    reversible_jump,
    walk_within,
)
from bayeskit.inference.transitions.stochastic_langevin import sgld

__all__ = [
    "Auxiliary",
    "MarginalState",
    "Pair",
    "Proposal",
    "Replicas",
    "Transition",
    "birth_death",
    "chain",
    "correlated_pseudo_marginal",
    "coupled",
    "coupled_metropolis_hastings",
    "coupled_random_walk",
    "crank_nicolson",
    "cycle",
    "exchange",
    "gibbs",
    "involutive",
    "maximal_categorical",
    "metropolis_hastings",
    "mixture",
    "palindrome",
    "product",
    "pseudo_marginal",
    "random_walk",
    "reflected_normal",
    "repeat",
    "reversible_jump",
    "sgld",
    "slot",
    "transition",
    "walk_within",
]
