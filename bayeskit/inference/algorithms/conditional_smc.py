"""Conditional SMC: a Markov step on trajectories made of a particle filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference.algorithms.backward_sampling import BackwardSampling
from bayeskit.inference.backward import Exact, Genealogy
from bayeskit.inference.blocks import Block, remember, scan, weigh
from bayeskit.inference.blocks.pinned import PinnedExtend, PinnedResample, PinnedSpawn
from bayeskit.inference.blocks.resampling import check_scheme
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.kernels.base import StepInfo
from bayeskit.inference.law import INVARIANT, REVERSIBLE
from bayeskit.inference.transitions import Transition

__all__ = ["ConditionalSMC", "conditional_smc"]


@dataclass(frozen=True, eq=False, repr=False)
class ConditionalSMC(Transition):
    """A particle filter given one of its paths. See :func:`conditional_smc`."""

    model: FeynmanKac
    num_particles: int
    backward: bool = False
    ancestor: bool = False
    scheme: str = "multinomial"

    def blocks(self, reference: Any) -> Block:
        """Return the particle filter given the reference, and the draw of one path."""
        model, given = self.model, (self.model, reference)
        first = PinnedSpawn(*given, self.num_particles) >> weigh(model.log_g0)
        step = PinnedResample(*given, self.scheme, self.ancestor) >> PinnedExtend(*given)
        filtered = first >> remember(model.num_steps)
        filtered = filtered >> scan(step >> remember(model.num_steps))
        return filtered >> BackwardSampling(
            model, Exact() if self.backward else Genealogy(), num=1
        )

    @property
    def name(self):
        options = "".join(
            f", {option}" for option in ("backward", "ancestor") if getattr(self, option)
        )
        scheme = "" if self.scheme == "multinomial" else f", {self.scheme}"
        return f"conditional_smc({self.num_particles}{options}{scheme})"

    @property
    def measure(self):
        return self.model.paths

    @property
    def law_kind(self):
        return INVARIANT if self.backward or self.ancestor else REVERSIBLE

    @property
    def derivation(self):
        lines = self.blocks(None).arrow(None).derivation
        why = (
            "the reference and all other draws have the joint law of a particle filter and one",
            "of its paths, so a path drawn anew given all particles keeps its law:",
        )
        return (*why, *("    " + line for line in lines))

    def step(self, key, state, stage=None):
        for leaf in jax.tree.leaves(state):
            if leaf.shape[:1] != (self.model.num_steps,):
                raise ValueError(
                    f"{self.name} moves trajectories whose leading axis is the "
                    f"{self.model.num_steps} times of the model, got the shape {leaf.shape}"
                )
        population, _ = self.blocks(state).run(key)
        path = jax.tree.map(lambda x, old: x[0].astype(old.dtype), population.particles, state)
        changed = [
            jnp.any((new != old).reshape(self.model.num_steps, -1), axis=1)
            for new, old in zip(jax.tree.leaves(path), jax.tree.leaves(state), strict=True)
        ]
        moved = jnp.any(jnp.stack(changed), axis=0)
        share = jnp.mean(moved, dtype=jnp.result_type(float))
        return path, StepInfo(share, jnp.any(moved), jnp.asarray(False), jnp.asarray(False))


def conditional_smc(
    model: FeynmanKac,
    num_particles: int,
    *,
    backward: bool = False,
    ancestor: bool = False,
    scheme: str = "multinomial",
) -> Transition:
    r"""Return the conditional particle filter, a Markov step on whole trajectories (law L3).

    The slot 0 holds the reference :math:`x^*_{0:T}`, and its parent at each time is its own
    past, in the weight :math:`G_t(x^*_{t-1}, x^*_t)` too. The other slots run the particle
    filter given that. A new trajectory is then drawn from all. The normalised
    :math:`\gamma_T` on paths is invariant for every number of particles from 2 on.

    Parameters
    ----------
    model : FeynmanKac
    num_particles : int
        At least 2, the reference included.
    backward : bool
        Draw the new trajectory by backward sampling instead of tracing its ancestors.
    ancestor : bool
        Draw the ancestor of the reference anew at each time, by
        :math:`W_{t-1}^i M_t(x_{t-1}^i, x^*_t)\, G_t(x_{t-1}^i, x^*_t)`. Either of the two lets
        early times move where traced ancestors coalesce, and both need ``log_m``.
    scheme : str
        Resampling; schemes other than ``"multinomial"`` in their conditional version, as
        naive pinning is wrong for them.

    Returns
    -------
    Transition
        Its states are trajectories, with a leading axis of num_steps. The acceptance in its
        info is the share of times at which the state changed. Reversible without ``backward``
        and ``ancestor``.

    Raises
    ------
    ValueError
        For fewer than two particles, or an unknown scheme; and when it runs, for a trajectory
        of another length.
    MissingDensityError
        With ``backward`` or ``ancestor`` if the model has no ``log_m``.

    Notes
    -----
    O(num_steps num_particles). The density is that of one step of a Markov chain. A model
    whose potentials look further back has to carry its past in the state; its transition then
    has no density, and only the plain version without ``backward`` and ``ancestor`` is for it.

    References
    ----------
    Andrieu, Doucet & Holenstein (2010), *Particle Markov chain Monte Carlo methods*; Whiteley
    (2010), for backward sampling; Lindsten, Jordan & Schön (2014), *Particle Gibbs with
    ancestor sampling*; Chopin & Singh (2015), for reversibility and resampling.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     log_m=lambda t, before, x: -0.5 * (x - before) ** 2,
    ...     num_steps=5,
    ... )
    >>> step = bi.conditional_smc(walk, 20, ancestor=True)
    >>> paths, info = bi.chain(step, jnp.zeros(5), 100, key=0)
    >>> paths.shape
    (100, 5)
    """
    if num_particles < 2:
        raise ValueError(
            "num_particles must be at least 2, the reference and one that may replace it, got "
            f"{num_particles!r}"
        )
    check_scheme(scheme)
    if backward or ancestor:
        model.require("log_m", "conditional SMC with backward or ancestor sampling")
    return ConditionalSMC(model, int(num_particles), backward, ancestor, scheme)
