"""Exchange of states between neighbouring rungs of a ladder."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.kernels.base import StepInfo
from bayeskit.inference.law import SWAPS, Measure
from bayeskit.inference.measure import TemperedPath
from bayeskit.inference.transitions.base import ACCEPTED, Transition
from bayeskit.inference.transitions.product import Replicas, rung_measures

__all__ = ["exchange"]

_FIRST = {"even": 0, "odd": 1}


@dataclass(frozen=True, eq=False, repr=False)
class Exchange(Transition):
    """Swaps between neighbours. See :func:`exchange`."""

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


def exchange(path: TemperedPath, stages: Any, pairs: str) -> Transition:
    r"""Swap the states of neighbouring rungs (law L11).

    Rungs i and j = i + 1 are swapped with probability :math:`\min(1, r)`,

    .. math:: \log r = (\lambda_i - \lambda_j)\,(\ell(x_j) - \ell(x_i)),

    where ℓ is the *untempered* log-likelihood, which every state caches. The state of
    :func:`product` travels whole: positions, cached values and origin.

    Parameters
    ----------
    path : TemperedPath
    stages : TemperingStage with leading axis num
        The rungs, as from :meth:`TemperedPath.rungs`.
    pairs : {"even", "odd"}
        Swap rungs (0, 1), (2, 3), ... or (1, 2), (3, 4), ...: all of them at once.

    Raises
    ------
    TypeError
        Without a tempered path.
    ValueError
        For other pairs.

    Notes
    -----
    No density is evaluated. An even exchange is reversible, and so is an odd one; one after
    the other they are not, and carry states through the ladder in time proportional to its
    length instead of its square.

    References
    ----------
    Geyer (1991); Okabe et al. (2001); Syed et al. (2022), *Non-reversible parallel tempering*.
    """
    if not isinstance(path, TemperedPath):
        raise TypeError(
            f"exchange needs the TemperedPath that its rungs stand on, got "
            f"{type(path).__name__}"
        )
    if pairs not in _FIRST:
        raise ValueError(f"pairs must be one of {sorted(_FIRST)}, got {pairs!r}")
    return Exchange(path, stages, pairs)
