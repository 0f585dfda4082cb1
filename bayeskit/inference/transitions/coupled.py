"""Pairs of chains that move by one kernel each, meet, and stay together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels import RandomWalk
from bayeskit.inference.kernels.base import StepInfo, Tuning
from bayeskit.inference.law import COUPLED, Measure
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions.base import Transition, together
from bayeskit.inference.transitions.combinators import indented
from bayeskit.inference.transitions.couplings import reflected_normal
from bayeskit.inference.transitions.involutive import Involutive, metropolis_hastings

__all__ = ["Pair", "coupled", "coupled_metropolis_hastings", "coupled_random_walk", "equal"]


class Pair(NamedTuple):
    """Two states, or the values of two states.

    Parameters
    ----------
    first, second : pytree
        Of the same structure.

    Examples
    --------
    Two chains that move by one noise and halve their distance at each step:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> step = lambda key, x: 0.5 * x + bi.random.normal(key)
    >>> both = bi.coupled(bi.transition(step, bi.Measure("N(0, 4/3)")))
    >>> values, _ = bi.chain(both, bi.Pair(jnp.array(0.0), jnp.array(8.0)), num_steps=3)
    >>> (values.second - values.first).round(3).tolist()
    [4.0, 2.0, 1.0]
    """

    first: Any
    second: Any


def equal(first: Any, second: Any) -> jax.Array:
    """Return whether two values are the same in every number, () bool."""
    same = jax.tree.map(lambda a, b: jnp.all(a == b), first, second)
    return functools.reduce(jnp.logical_and, jax.tree.leaves(same))


@dataclass(frozen=True, eq=False, repr=False)
class Coupled(Transition):
    """One kernel on both states of a pair, by common random numbers. See :func:`coupled`."""

    part: Transition

    how = "common random numbers"

    @property
    def name(self):
        return f"coupled({self.part.name})"

    @property
    def measure(self):
        on = self.part.measure
        return Measure(f"each of two {on}", on.time, on.owner)

    @property
    def law_kind(self):
        return COUPLED

    @property
    def derivation(self):
        return (
            f"two chains, by {self.how}; where they are equal the second copies the first:",
            *indented([self.part]),
        )

    def init(self, key, value):
        keys = random.split(key)
        return Pair(*(self.part.init(k, v) for k, v in zip(keys, value, strict=True)))

    def value(self, state):
        return Pair(*map(self.part.value, state))

    @property
    def keeps_gradient(self):
        return self.part.keeps_gradient

    def with_gradient(self, state):
        return Pair(*map(self.part.with_gradient, state))

    def without_gradient(self, state):
        return Pair(*map(self.part.without_gradient, state))

    def both(self, key: Any, state: Pair, stage: Any) -> tuple[Pair, StepInfo]:
        """Return the next states before the second copies the first, and what happened."""
        step = functools.partial(self.part.step, stage=stage)
        (first, info), (second, other) = random.common(step, key, *state)
        return Pair(first, second), together(info, other)

    def kept_together(self, met: jax.Array, moved: Pair) -> Pair:
        """Return the pair, whose second state copies the first where they had met."""
        copied = jax.tree.map(lambda a, b: jnp.where(met, a, b), *moved)
        return moved._replace(second=copied)

    def step(self, key, state, stage=None):
        met = equal(*self.value(state))
        moved, info = self.both(key, state, stage)
        return self.kept_together(met, moved), info


@dataclass(frozen=True, eq=False, repr=False)
class CoupledMetropolis(Coupled):
    """Coupled proposals and one uniform. See :func:`coupled_metropolis_hastings`."""

    part: Involutive
    propose_pair: Callable

    how = "coupled proposals, accepted by one uniform number"

    def both(self, key, state, stage):
        proposal_key, accept_key = random.split(key)
        density = self.part.density(stage)
        proposed = self.propose_pair(proposal_key, *(one.position for one in state))
        there, chances, broken = [], [], []
        for one, v in zip(state, proposed, strict=True):
            new, log_ratio, not_a_number = self.part.proposal(one, v, density)
            refused = not_a_number | jnp.isnan(log_ratio)
            there.append(new)
            broken.append(not_a_number)
            chances.append(jnp.where(refused, 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0))))
        # A uniform number below both, between the two, or above both.
        low, high = jnp.minimum(*chances), jnp.maximum(*chances)
        cell = random.categorical(accept_key, jnp.log(jnp.stack([low, high - low, 1 - high])))
        moved, infos = [], []
        for old, new, chance, fault in zip(state, there, chances, broken, strict=True):
            accepted = (cell == 0) | ((cell == 1) & (chance == high))
            moved.append(jax.tree.map(lambda a, b, y=accepted: jnp.where(y, a, b), new, old))
            infos.append(StepInfo(chance, accepted, fault, jnp.asarray(False)))
        return Pair(*moved), together(*infos)


def coupled(part: Transition) -> Transition:
    """Move both states of a pair by common random numbers (law L3c).

    Each of the two is a chain of its own; where the kernel contracts, they come closer at every
    step. Exact Gibbs draws and Hamiltonian moves are coupled in this way. Chains that only come
    close do not meet: mix with a kernel that lets them, such as :func:`coupled_random_walk`.

    Parameters
    ----------
    part : Transition

    Returns
    -------
    Transition
        On a :class:`Pair`.

    Notes
    -----
    Cost: twice that of the transition. Two states that are equal in every number stay equal.

    References
    ----------
    Heng & Jacob (2019), *Unbiased Hamiltonian Monte Carlo with couplings*.

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * x[0] ** 2)
    >>> print(bi.coupled(bi.transition(bi.HMC(), target)).explain())
    two chains, by common random numbers; where they are equal the second copies the first:
        HMC leaves π invariant
    => L3c coupled for each of two π: each of the two moves by K, πK = π, and once equal ...
    """
    return Coupled(part)


def coupled_metropolis_hastings(
    propose_pair: Callable,
    log_proposal: Callable | None,
    target: Target,
    *,
    name: str = "Metropolis-Hastings",
) -> Transition:
    """Move both states of a pair by Metropolis-Hastings with coupled proposals (law L3c).

    Parameters
    ----------
    propose_pair : callable (key, x, y) -> (x', y')
        A coupling of the proposals at two points, each with the law that it has alone:
        :func:`maximal_categorical` and :func:`reflected_normal` help to write it. At x = y
        both must be equal.
    log_proposal : callable (x, x') -> () array, or None
        As for :func:`metropolis_hastings`.
    target : Target
    name : str

    Returns
    -------
    Transition
        On a :class:`Pair`.

    References
    ----------
    Jacob, O'Leary & Atchadé (2020), *Unbiased Markov chain Monte Carlo methods with couplings*.

    Examples
    --------
    Two chains that propose the same place, and have met when both have accepted it:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> log_weights = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    >>> def propose_pair(key, x, y):
    ...     place = bi.random.categorical(key, jnp.zeros(3))
    ...     return place, place
    >>> target = Target(log_density=lambda x: log_weights[x])
    >>> pair = bi.coupled_metropolis_hastings(propose_pair, None, target)
    >>> values, _ = bi.chain(pair, bi.Pair(jnp.array(0), jnp.array(2)), num_steps=100)
    >>> int(values.first[-1] - values.second[-1])
    0
    """

    def propose(key: Any, x: Any) -> Any:
        return propose_pair(key, x, x)[0]

    part: Any = metropolis_hastings(propose, log_proposal, target, name=name)
    return CoupledMetropolis(part, propose_pair)


def coupled_random_walk(target: Target, tuning: Tuning | None = None) -> Transition:
    """Move both states of a pair by random-walk Metropolis with mirrored noise (law L3c).

    Parameters
    ----------
    target : Target on vectors
    tuning : Tuning, optional
        Step size and metric. Default: those for a standardised target.

    Returns
    -------
    Transition
        On a :class:`Pair`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    >>> pair = bi.coupled_random_walk(target)
    >>> start = bi.Pair(jnp.array([-2.0]), jnp.array([2.0]))
    >>> values, _ = bi.chain(pair, start, num_steps=200)
    >>> (values.first[-1] - values.second[-1]).tolist()
    [0.0]
    """

    def propose_pair(key: Any, x: Any, y: Any) -> tuple[Any, Any]:
        chosen = RandomWalk().default_tuning(x.size, x.dtype) if tuning is None else tuning
        return reflected_normal(key, x, y, chosen)

    return coupled_metropolis_hastings(propose_pair, None, target, name=RandomWalk.name)
