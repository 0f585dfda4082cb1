"""Blocks that draw particles and weigh them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block, set_law
from bayeskit.inference.law import Law, Measure, Tagged, factor_arrow
from bayeskit.inference.lineage import Lineage
from bayeskit.inference.population import Population, reweigh_and_size

__all__ = ["Extend", "Spawn", "Weigh", "extend", "spawn", "weigh", "weighed"]


@dataclass(frozen=True, eq=False, repr=False)
class Spawn(Block):
    """Independent particles of equal weight. See :func:`spawn`."""

    sample: Callable
    num_particles: int
    measure: Measure
    stage: Any = None
    track_lineage: bool = False

    def __post_init__(self):
        set_law(self, self.arrow(None))

    @property
    def name(self):
        return f"spawn({self.num_particles})"

    def run(self, key, population=None):
        num = self.num_particles
        particles = random.lanes(
            lambda lane_key, _: self.sample(lane_key), key, jnp.arange(num)
        )
        log_weights = jnp.full(num, -math.log(num), jnp.result_type(float))
        particles, log_weights = accel.spread((particles, log_weights))
        zero = jnp.zeros((), log_weights.dtype)
        lineage = Lineage.founders(num) if self.track_lineage else None
        stage = jax.tree.map(_in_this_precision, self.stage)
        return Population(particles, log_weights, zero, stage, lineage, zero), {}

    def arrow(self, law):
        line = f"spawn {self.num_particles} independent draws"
        return Law(self.measure).then(self.measure, line)


def _in_this_precision(value: Any) -> jax.Array:
    # JAX remembers by identity in which precision it has seen a NumPy array, hence the copy.
    value = jnp.asarray(np.array(value) if isinstance(value, np.ndarray) else value)
    # A block may be built in single precision and run in double by the validator.
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    return value.astype(jnp.result_type(float)) if floating else value


def spawn(
    sample: Callable | Tagged,
    num_particles: int,
    measure: Measure | None = None,
    *,
    stage: Any = None,
    track_lineage: bool = False,
) -> Block:
    """Start a population of independent draws (law L1 to L2).

    Parameters
    ----------
    sample : callable (key) -> particle
    num_particles : int
        At least 1.
    measure : Measure, optional
        What ``sample`` draws from; taken from a declared function.
    stage : pytree, optional
        Where on a path the population starts.
    track_lineage : bool
        Keep who descends from whom, for the standard error of the evidence.

    Returns
    -------
    Block
        It starts from nothing.

    Raises
    ------
    ValueError
        If there is not at least one particle.

    Examples
    --------
    >>> import jax
    >>> from bayeskit import inference as bi
    >>> block = bi.spawn(lambda key: bi.random.normal(key), 4)
    >>> bi.run(block, jax.random.key(0)).log_weights.shape
    (4,)
    """
    if not isinstance(num_particles, int | np.integer) or num_particles < 1:
        raise ValueError(f"num_particles must be a whole number >= 1, got {num_particles!r}")
    if measure is None:
        if isinstance(sample, Tagged):
            measure = sample.target
        else:
            measure = Measure(getattr(sample, "__name__", "p"))
    return Spawn(sample, int(num_particles), measure, stage, track_lineage)


def weighed(population: Population, log_g: jax.Array) -> tuple[Population, dict]:
    """Return the population with weights multiplied by a potential, and what happened."""
    before = population.log_evidence
    population, size = reweigh_and_size(population, log_g)
    if population.lineage is not None:
        lineage = population.lineage.weighed(population.log_weights)
        population = population._replace(lineage=lineage)
    return population, {
        "effective_sample_size": size,
        "log_evidence_increment": population.log_evidence - before,
        "num_nan": _num_nan(log_g),
    }


def _num_nan(values: jax.Array) -> jax.Array:
    # Floats are added up in a fifth of the time of integers, exactly up to 2^24.
    exact = values.size <= 2**24
    return jnp.sum(jnp.isnan(values), dtype=values.dtype if exact else int).astype(int)


@dataclass(frozen=True, eq=False, repr=False)
class Weigh(Block):
    """Multiply weights by a potential. See :func:`weigh`."""

    log_g: Callable | Tagged

    @property
    def name(self):
        return "weigh"

    @property
    def expects(self):
        return self.log_g.source if isinstance(self.log_g, Tagged) else None

    def potential(self, population):
        """Return the potential of each particle."""
        return jax.vmap(lambda x: self.log_g(population.stage, x))(population.particles)

    def run(self, key, population=None):
        return weighed(population, self.potential(population))

    def arrow(self, law):
        return factor_arrow(self.log_g, "weigh by")(law)


def weigh(log_g: Callable | Tagged) -> Block:
    r"""Multiply each weight by :math:`g(x_i)` and move the total to the evidence (law L5).

    Parameters
    ----------
    log_g : callable (stage, particle) -> () array, real or -inf
        NaN counts as -inf and is reported in ``info["num_nan"]``.

    Returns
    -------
    Block

    Examples
    --------
    A potential that is not a number counts as zero, and the mean of all goes to the evidence:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> population = bi.Population(
    ...     jnp.array([1.0, 5.0, -1.0]), jnp.log(jnp.full(3, 1 / 3)), log_evidence=jnp.zeros(())
    ... )
    >>> population, info = bi.weigh(lambda stage, x: jnp.log(x)).run(None, population)
    >>> round(float(jnp.exp(population.log_evidence)), 4), int(info["num_nan"])
    (2.0, 1)
    """
    return Weigh(log_g)


@dataclass(frozen=True, eq=False, repr=False)
class Extend(Block):
    """Propose new particles and weigh them. See :func:`extend`."""

    kernel: Callable
    log_g: Callable | Tagged

    @property
    def name(self):
        return "extend"

    @property
    def expects(self):
        return self.log_g.source if isinstance(self.log_g, Tagged) else None

    def proposed(self, key, population):
        """Return the population with new particles, and the potential of each."""
        stage, previous = population.stage, population.particles
        particles = random.lanes(lambda k, x: self.kernel(k, stage, x), key, previous)
        log_g = jax.vmap(lambda a, b: self.log_g(stage, a, b))(previous, particles)
        return population._replace(particles=particles), log_g

    def run(self, key, population=None):
        return weighed(*self.proposed(key, population))

    def arrow(self, law):
        return factor_arrow(self.log_g, "extend by")(law)


def extend(kernel: Callable, log_g: Callable | Tagged) -> Block:
    r"""Draw :math:`x_i' \sim q(x_i, \cdot)` and weigh by the ratio of measures (law L6).

    Parameters
    ----------
    kernel : callable (key, stage, previous) -> particle
    log_g : callable (stage, previous, particle) -> () array
        Log of :math:`\gamma'(dx, dx') / (\gamma(dx)\, q(x, dx'))`.

    Returns
    -------
    Block

    Examples
    --------
    A step that doubles, weighed by where it arrives:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> block = bi.extend(lambda key, stage, x: 2 * x, lambda stage, before, x: jnp.log(x))
    >>> equal = jnp.log(jnp.array([0.5, 0.5]))
    >>> population = bi.Population(jnp.array([1.0, 3.0]), equal, log_evidence=jnp.zeros(()))
    >>> population, info = block.run(jax.random.key(0), population)
    >>> population.particles.tolist(), jnp.exp(population.log_weights).round(4).tolist()
    ([2.0, 6.0], [0.25, 0.75])
    """
    return Extend(kernel, log_g)
