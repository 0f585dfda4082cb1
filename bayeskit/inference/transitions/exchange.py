"""Exchange of states between neighbouring chains."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.kernels.base import StepInfo, metropolis, not_usable
from bayeskit.inference.law import SWAPS, Measure
from bayeskit.inference.measure import PointState, Target, TemperedPath
from bayeskit.inference.transitions.base import ACCEPTED, Transition, together
from bayeskit.inference.transitions.product import Replicas, rung_measures

__all__ = ["exchange"]

_FIRST = {"even": 0, "odd": 1}


@dataclass(frozen=True, eq=False, repr=False)
class Exchange(Transition):
    """Swaps between neighbours on a ladder. See :func:`exchange`."""

    path: TemperedPath
    stages: Any
    pairs: str

    @property
    def name(self):
        return f"exchange({self.pairs})"

    @property
    def num(self) -> int:
        """Number of rungs."""
        return self.stages.current.shape[0]

    @functools.cached_property
    def measure(self):
        return Measure.product(rung_measures(self.path.measure, self.num))

    @property
    def law_kind(self):
        return SWAPS

    @property
    def derivation(self):
        return (
            f"{self.name} swaps the states of rungs i, i + 1 for {self.pairs} i, by the",
            "    untempered log-likelihoods: log r = (λ_i - λ_j) (l(x_j) - l(x_i))",
        )

    def value(self, state):
        return state.states.position

    def log_ratio(self, log_likelihood: jax.Array, lower: Any) -> jax.Array:
        """Return the log acceptance ratios of swapping each of ``lower`` with the next."""
        upper = lower + 1
        temperature = jnp.asarray(self.stages.current, log_likelihood.dtype)
        gap = temperature[lower] - temperature[upper]
        return gap * (log_likelihood[upper] - log_likelihood[lower])

    def reordered(self, state: Replicas, order: jax.Array) -> Replicas:
        """Return the states in another order, with all that belongs to them."""
        return jax.tree.map(lambda leaf: leaf[order], state)

    def step(self, key, state, stage=None):
        lower = np.arange(_FIRST[self.pairs], self.num - 1, 2)
        if not len(lower):
            return state, ACCEPTED
        log_ratio = self.log_ratio(state.states.components[..., 1], lower)
        swapped = random.accept(key, log_ratio)
        there = swapped.astype(jnp.int32)
        order = jnp.arange(self.num, dtype=jnp.int32).at[lower].add(there)
        order = order.at[lower + 1].add(-there)
        broken = jnp.isnan(log_ratio)
        acceptance = jnp.where(broken, 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
        info = StepInfo(acceptance, swapped, broken, jnp.zeros_like(broken))
        return self.reordered(state, order), info


@dataclass(frozen=True, eq=False, repr=False)
class CrossExchange(Transition):
    """Swaps between neighbours that have any targets. See :func:`exchange`."""

    targets: tuple[Target, ...]
    pairs: str

    @property
    def name(self):
        return f"exchange({self.pairs})"

    @functools.cached_property
    def measure(self):
        return Measure.product([target.measure for target in self.targets])

    @property
    def law_kind(self):
        return SWAPS

    @property
    def derivation(self):
        return (
            f"{self.name} swaps the states of targets i, i + 1 for {self.pairs} i:",
            "    log r = log γ_i(x_j) + log γ_j(x_i) - log γ_i(x_i) - log γ_j(x_j)",
        )

    def swap(
        self, key: Any, pair: tuple[PointState, ...], targets: tuple[Target, ...]
    ) -> tuple[Any, StepInfo]:
        """Swap the positions of two states, each with the values of its own target."""
        there = tuple(
            _at(target, other.position, keeps_gradient=not isinstance(old.gradient, tuple))
            for target, old, other in zip(targets, pair, reversed(pair), strict=True)
        )
        log_ratio, broken = jnp.zeros(()), jnp.asarray(False)
        for target, old, new in zip(targets, pair, there, strict=True):
            density = target.density()
            log_ratio += density.combine(new.components) - density.combine(old.components)
            broken |= not_usable(new.components)
        both: Any = pair
        swapped: Any = there
        return metropolis(key, both, swapped, log_ratio, broken)

    def step(self, key, state, stage=None):
        lower = range(_FIRST[self.pairs], len(self.targets) - 1, 2)
        if not len(lower):
            return state, ACCEPTED
        states, infos = list(state), []
        for i, pair_key in zip(lower, random.split(key, len(lower)), strict=True):
            both = slice(i, i + 2)
            states[both], info = self.swap(pair_key, tuple(states[both]), self.targets[both])
            infos.append(info)
        return tuple(states), together(*infos)


def _at(target: Target, position: Any, keeps_gradient: bool) -> PointState:
    if keeps_gradient:
        return PointState(position, *target.density().components_and_gradient(position))
    return PointState(position, target.components(position))


def exchange(on: TemperedPath | Sequence[Target], pairs: str, stages: Any = None) -> Transition:
    r"""Swap the states of neighbouring chains (law L11).

    On a ladder, rungs i and j = i + 1 are swapped with probability :math:`\min(1, r)`,

    .. math:: \log r = (\lambda_i - \lambda_j)\,(\ell(x_j) - \ell(x_i)),

    where ℓ is the *untempered* log-likelihood, which every state caches. The state of
    :func:`product` travels whole: positions, cached values and origin. Between chains that have
    any targets,

    .. math:: \log r = \log\gamma_i(x_j) + \log\gamma_j(x_i) - \log\gamma_i(x_i)
              - \log\gamma_j(x_j).

    Parameters
    ----------
    on : TemperedPath, or sequence of Target
        The path of the ladder, or the targets of a product of chains on one space.
    pairs : {"even", "odd"}
        Swap chains (0, 1), (2, 3), ... or (1, 2), (3, 4), ...: all of them at once.
    stages : TemperingStage with leading axis num
        For a path: its rungs, as from :func:`rungs`.

    Returns
    -------
    Transition
        On a tuple of states, one for each chain; on a ladder on :class:`Replicas`.

    Raises
    ------
    TypeError
        For anything but a path with its rungs, or at least two targets without.
    ValueError
        For other pairs.

    Notes
    -----
    On a ladder no density is evaluated; between targets, each density once a chain. An even
    exchange is reversible, and so is an odd one; one after the other they are not, and carry
    states through the ladder in time proportional to its length instead of its square.

    References
    ----------
    Geyer (1991); Okabe et al. (2001); Syed et al. (2022), *Non-reversible parallel tempering*.

    Examples
    --------
    The state on the first rung has the higher likelihood, so it surely moves up:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_likelihood=lambda x: -((x[0] - 5) ** 2),
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> path, stages = bi.TemperedPath(target), bi.rungs([0.0, 1.0])
    >>> moves = bi.product(bi.transition(bi.RandomWalk(), path), stages)
    >>> state = moves.init(jax.random.key(0), jnp.array([[5.0], [0.0]]))
    >>> state, _ = bi.exchange(path, "even", stages).step(jax.random.key(1), state)
    >>> state.states.position.tolist(), state.origin.tolist()
    ([[0.0], [5.0]], [1, 0])
    """
    if pairs not in _FIRST:
        raise ValueError(f"pairs must be one of {sorted(_FIRST)}, got {pairs!r}")
    if isinstance(on, TemperedPath) and stages is not None:
        return Exchange(on, stages, pairs)
    targets = tuple(on) if isinstance(on, Sequence) else ()
    several = len(targets) >= 2 and all(isinstance(target, Target) for target in targets)
    if not several or stages is not None:
        raise TypeError(
            "exchange needs a TemperedPath with stages=, its rungs, or a list of at least two "
            f"targets without; got {type(on).__name__}"
        )
    return CrossExchange(targets, pairs)
