"""What all blocks share that replace weights by numbers of offspring."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.population import Population, effective_sample_size, reweigh

__all__ = ["Resampling", "offspring"]


class Resampling(Block):
    """A block that chooses ancestors, always or where weights are uneven, by weights or rates.

    A subclass is a frozen dataclass. It writes ``resampled(key, population)``, and has those of
    ``ess_below``, ``num``, ``rate`` and ``keep_gradient`` as fields that it can make use of.
    """

    ess_below: float | None = None
    num: int | None = None
    rate: Callable | None = None
    keep_gradient: bool = False

    def resampled(self, key: Any, population: Population) -> Population:
        """Return the offspring, whatever the weights are."""
        raise NotImplementedError

    def is_needed(self, population: Population) -> jax.Array:
        """Return whether the weights are uneven enough to resample."""
        if self.ess_below is None:
            return jnp.asarray(True)
        ess = effective_sample_size(population.log_weights)
        return ess < self.ess_below * population.num_particles

    @functools.cached_property
    def always(self) -> Resampling:
        """The same block without a condition."""
        block: Any = self
        return block if self.ess_below is None else replace(block, ess_below=None)

    def run(self, key, population=None):
        if self.ess_below is None:
            return self.resampled(key, population), {}
        needed = self.is_needed(population)
        return random.cond(needed, self.resampled, key, population), {"resampled": needed}

    def arrow(self, law):
        return law.then(law.measure, self.name)

    def log_rates(self, population: Population) -> jax.Array:
        """Return the log-probabilities to be chosen, normalised, without their gradient."""
        log_weights = population.log_weights
        rate = self.rate
        if rate is not None:
            log_rate = jax.vmap(lambda x: rate(population.stage, x))(population.particles)
            usable = jnp.isfinite(log_rate)
            smallest = jnp.min(jnp.where(usable, log_rate, jnp.inf))
            smallest = jnp.where(jnp.isfinite(smallest), smallest, 0.0)
            log_rate = jnp.where(usable, log_rate, smallest).astype(log_weights.dtype)
            log_weights = jax.nn.log_softmax(log_weights + log_rate)
        return lax.stop_gradient(log_weights)

    def copies(
        self,
        population: Population,
        ancestors: jax.Array,
        log_weights: jax.Array,
        lost_pairs: jax.Array | float = 0.0,
        take: Callable = accel.take_particles,
    ) -> Population:
        """Return the copies of ancestors chosen by the rates, which give the rates back.

        Parameters
        ----------
        ancestors : (num,) int array
        log_weights : (num,) array
            What the copies would weigh if the rates were the weights.
        lost_pairs
            As :meth:`Lineage.resampled` takes it.
        take : callable (particles, ancestors) -> particles
            How they are copied.
        """
        result = offspring(population, ancestors, log_weights, lost_pairs, take)
        if self.rate is None and not self.keep_gradient:
            return result
        log_ratio = population.log_weights - self.log_rates(population)
        result = reweigh(result, log_ratio[ancestors])
        if result.lineage is not None:
            result = result._replace(lineage=result.lineage.weighed(result.log_weights))
        return result

    def options(self) -> str:
        """Return the options in use, as they are printed after those of the scheme."""
        condition = "" if self.ess_below is None else f", ess<{self.ess_below:g}"
        number = "" if self.num is None else f", num={self.num}"
        rate = f", rate={getattr(self.rate, '__name__', 'rate')}" if self.rate else ""
        return condition + number + rate

    def adopted(self, **options: Any) -> Resampling:
        """Return the block with the options of an algorithm, where it has none of its own.

        Raises
        ------
        ValueError
            For an option that it cannot make use of.
        """
        new = {
            name: value
            for name, value in options.items()
            if not _is_unset(value) and _is_unset(getattr(self, name))
        }
        for name in set(new) - {field.name for field in fields(self)}:
            raise ValueError(
                f"{self.name} has no {name}, got {new[name]!r}: leave it out or set it to None"
            )
        return self.checked(replace(self, **new)) if new else self

    @staticmethod
    def checked(block: Any) -> Any:
        """Return a block whose options are possible.

        Raises
        ------
        ValueError, TypeError
            If they are not.
        """
        ess_below, num, rate = block.ess_below, block.num, block.rate
        if ess_below is not None and not 0 < ess_below <= 1:
            raise ValueError(f"ess_below must be a fraction in (0, 1], got {ess_below!r}")
        if num is not None and num < 1:
            raise ValueError(f"num must be at least 1, got {num!r}")
        if num is not None and ess_below is not None:
            raise ValueError(
                "num changes the number of particles, so ess_below cannot be given"
            )
        if rate is not None and not callable(rate):
            raise TypeError(
                f"rate must be a function log_rate(stage, particle), got {type(rate).__name__}"
            )
        return block


def _is_unset(option: Any) -> bool:
    return option is None or option is False


def offspring(
    population: Population,
    ancestors: jax.Array,
    log_weights: jax.Array,
    lost_pairs: jax.Array | float = 0.0,
    take: Callable = accel.take_particles,
) -> Population:
    """Return the copies of the ancestors with new weights, and who descends from whom."""
    lineage = population.lineage
    return population._replace(
        particles=accel.spread(take(population.particles, ancestors)),
        log_weights=log_weights,
        lineage=None if lineage is None else lineage.resampled(ancestors, lost_pairs),
        ancestors=None if population.ancestors is None else ancestors,
    )
