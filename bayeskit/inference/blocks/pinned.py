"""The blocks of a particle filter whose slot 0 holds a given trajectory, the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block, set_law
from bayeskit.inference.blocks.conditional_resampling import conditional_ancestors
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.law import INVARIANT, Law, factor_arrow
from bayeskit.inference.population import Population, reweigh

__all__ = ["PinnedExtend", "PinnedResample", "PinnedSpawn"]


@dataclass(frozen=True, eq=False, repr=False)
class _Pinned(Block):
    """What the blocks share: the model, and the reference with a leading axis of times."""

    model: FeynmanKac
    reference: Any

    def _pin(self, time: Any, others: Any) -> Any:
        """Put the reference into the slot 0, before the others."""
        return jax.tree.map(
            lambda x, rest: jnp.concatenate([x[time][None].astype(rest.dtype), rest]),
            self.reference,
            others,
        )


@dataclass(frozen=True, eq=False, repr=False)
class PinnedSpawn(_Pinned):
    """The start of the reference, and independent draws."""

    num_particles: int

    def __post_init__(self):
        set_law(self, self.arrow(None))

    @property
    def name(self):
        return f"pinned spawn({self.num_particles})"

    def run(self, key, population=None):
        others = random.lanes(
            lambda k, _: self.model.initial(k), key, jnp.arange(self.num_particles - 1)
        )
        num, dtype = self.num_particles, jnp.result_type(float)
        zero = jnp.zeros((), dtype)
        log_weights = jnp.full(num, -math.log(num), dtype)
        return Population(self._pin(0, others), log_weights, zero), {}

    def arrow(self, law):
        measure = self.model.initial.target
        line = f"the reference and {self.num_particles - 1} independent draws"
        return Law(measure, INVARIANT).then(measure, line)


@dataclass(frozen=True, eq=False, repr=False)
class PinnedResample(_Pinned):
    """Ancestors of the other slots given the ancestor of the slot 0.

    That is the slot 0, or with ``ancestor`` a draw from
    :math:`W_{t-1}^i M_t(x_{t-1}^i, x_t^*) G_t(x_{t-1}^i, x_t^*)`: the reference is given
    another past.
    """

    scheme: str
    ancestor: bool

    @property
    def name(self):
        drawn = ", ancestor drawn" if self.ancestor else ""
        return f"conditional resampling ({self.scheme}{drawn})"

    def run(self, key, population=None):
        own_key, others_key = random.split(key)
        log_weights, num = population.log_weights, population.num_particles
        own = jnp.zeros((), jnp.int32)
        if self.ancestor:
            own = random.categorical(own_key, log_weights + self._log_steps(population))
        ancestors = self._ancestors(others_key, log_weights, own)
        return population._replace(
            particles=accel.take_particles(population.particles, ancestors),
            log_weights=jnp.full(num, -math.log(num), log_weights.dtype),
            ancestors=ancestors,
        ), {}

    def _ancestors(self, key: Any, log_weights: jax.Array, own: jax.Array) -> jax.Array:
        num = log_weights.shape[0]
        if self.scheme == "multinomial":
            # The condition changes nothing for the others, whatever their order.
            others = random.categorical(key, log_weights, num - 1)
            return jnp.concatenate([own[None], others])
        return conditional_ancestors(key, log_weights, self.scheme, num, 0, own)

    def _log_steps(self, population: Population) -> jax.Array:
        time = population.stage
        state = jax.tree.map(lambda x: x[time], self.reference)
        return jax.vmap(lambda before: self.model.log_step(time, before, state))(
            population.particles
        )

    def arrow(self, law):
        return law.then(law.measure, self.name)


@dataclass(frozen=True, eq=False, repr=False)
class PinnedExtend(_Pinned):
    """The next state of the reference, and draws for the others; each weighs by its parent."""

    @property
    def name(self):
        return "pinned extend"

    @property
    def log_g(self):
        """The potential, which declares what the step connects."""
        return self.model.log_g

    def run(self, key, population=None):
        time, before = population.stage, population.particles
        drawn = random.lanes(
            lambda k, x: self.model.kernel(k, time, x),
            key,
            jax.tree.map(lambda x: x[1:], before),
        )
        after = self._pin(time, drawn)
        log_g = jax.vmap(lambda a, b: self.model.log_g(time, a, b))(before, after)
        return reweigh(population._replace(particles=after), log_g), {}

    def arrow(self, law):
        return factor_arrow(self.model.log_g, "pinned extend by")(law)
