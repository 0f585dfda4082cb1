"""The population: weighted particles whose scale cannot be lost."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit import accel
from bayeskit.inference.lineage import Lineage

__all__ = ["History", "Population", "effective_sample_size", "reweigh", "total_log_evidence"]

# From this many particles on, storing the exponentials pays for the loop that it takes.
_MANY = 4000


class History(NamedTuple):
    """Populations of all times, on request.

    Parameters
    ----------
    particles : pytree with leading axes (num_steps, num_particles)
    log_weights : (num_steps, num_particles) array
        Normalised at each time, as they were after weighing.
    ancestors : (num_steps, num_particles) int32 array
        ``ancestors[t, i]`` is the place at time t - 1 of what particle i of time t descends
        from; at time 0 its own place.

    Examples
    --------
    >>> import jax
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=5,
    ... )
    >>> block = bi.particle_filter(walk, 100, history=True)
    >>> population, _ = jax.eval_shape(block.run, jax.random.key(0))
    >>> population.particles.shape, population.history.particles.shape
    ((100,), (5, 100))
    """

    particles: Any
    log_weights: jax.Array
    ancestors: jax.Array


class Population(NamedTuple):
    r"""Weighted particles that stand for an unnormalised measure.

    .. math::
        e^{\text{log\_evidence}} \sum_i e^{\text{log\_weights}_i} \, \delta_{x_i},
        \qquad \sum_i e^{\text{log\_weights}_i} = 1 .

    Parameters
    ----------
    particles : pytree with leading axis num_particles
    log_weights : (num_particles,) array
        Normalised. Only :func:`reweigh` and resampling change them.
    log_evidence : () array
        Logarithm of the total mass. -inf if every particle has weight zero. A sum of 100 000
        float32 increments does not drift: it is rounded once.
    stage : pytree
        Where on its path the population stands: a time, or temperatures and what was tuned.
    lineage : Lineage, optional
        Labels of the independent groups that particles descend from. The spread between
        groups gives the standard error of the evidence from a single run.
    log_evidence_remainder : () array
        What rounding took from ``log_evidence``: less than half of its last digit.
    ancestors : (num_particles,) int32 array, optional
        Which particle of the time before each one descends from; kept where the population
        has a history.
    history : History, optional
        Populations of all times, written by :func:`~bayeskit.inference.remember`; on the way of
        :func:`~bayeskit.inference.persist`, the ladder so far.

    Examples
    --------
    Three particles that stand for a measure of mass 3:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> population = bi.Population(
    ...     particles=jnp.array([1.0, 2.0, 4.0]),
    ...     log_weights=jnp.log(jnp.array([0.5, 0.25, 0.25])),
    ...     log_evidence=jnp.log(3.0),
    ... )
    >>> round(float(population.expectation(lambda x: x)), 4), population.num_particles
    (2.0, 3)
    """

    particles: Any
    log_weights: jax.Array
    log_evidence: jax.Array
    stage: Any = None
    lineage: Lineage | None = None
    log_evidence_remainder: Any = 0.0
    ancestors: Any = None
    history: Any = None

    @property
    def num_particles(self) -> int:
        """Number of particles."""
        return self.log_weights.shape[-1]

    def expectation(self, f) -> Any:
        """Return the weighted mean of ``f(particle)``, leaf by leaf."""
        values = jax.vmap(f)(self.particles)
        weights = jnp.exp(self.log_weights)
        return jax.tree.map(lambda v: jnp.tensordot(weights, v, axes=1), values)


def reweigh(population: Population, log_potential: jax.Array) -> Population:
    """Multiply each weight by ``exp(log_potential)`` and move the total to the evidence.

    This is the only function that changes weights, and it changes the scale with them. If
    every weight becomes zero, the evidence is -inf and the weights are equal: no NaN.
    A potential of NaN counts as weight zero.

    Parameters
    ----------
    population : Population
    log_potential : (num_particles,) array, real or -inf

    Returns
    -------
    Population

    Examples
    --------
    The potentials 1 and 3 of two particles of equal weight; their mean goes to the evidence:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> equal = jnp.log(jnp.array([0.5, 0.5]))
    >>> population = bi.Population(jnp.array([7.0, 8.0]), equal, log_evidence=jnp.zeros(()))
    >>> population = bi.reweigh(population, jnp.log(jnp.array([1.0, 3.0])))
    >>> jnp.exp(population.log_weights).round(4).tolist()
    [0.25, 0.75]
    >>> round(float(jnp.exp(population.log_evidence)), 4)
    2.0
    """
    return reweigh_and_size(population, log_potential)[0]


def reweigh_and_size(
    population: Population, log_potential: jax.Array
) -> tuple[Population, jax.Array]:
    """Return :func:`reweigh` and the effective sample size of its result."""
    potential = jnp.where(jnp.isnan(log_potential), -jnp.inf, log_potential)
    # Relative to the largest, or a potential of -1e8 would round the weights away.
    counts = population.log_weights > -jnp.inf
    shift = _finite(jnp.max(jnp.where(counts, potential, -jnp.inf)))
    log_weights = population.log_weights + jnp.where(counts, potential - shift, 0.0)
    most = _finite(jnp.max(log_weights))
    # Two sums read the exponentials.
    many = population.num_particles >= _MANY
    exp = functools.partial(accel.stored, jnp.exp) if many else jnp.exp
    weights = exp(log_weights - most)
    total = accel.total(weights)
    increment = most + jnp.log(total)
    alive = jnp.isfinite(increment)
    equal = -jnp.log(jnp.asarray(population.num_particles, log_weights.dtype))
    log_weights = jnp.where(alive, log_weights - jnp.where(alive, increment, 0.0), equal)
    size = jnp.where(alive, total**2 / accel.total(weights**2), population.num_particles)
    log_evidence, remainder = population.log_evidence, population.log_evidence_remainder
    for part in (shift, increment):
        log_evidence, error = _two_sum(log_evidence, part)
        remainder = remainder + jnp.where(jnp.isfinite(error), error, 0.0)
    # So that the evidence by itself is the sum, rounded once.
    log_evidence, error = _two_sum(log_evidence, remainder)
    remainder = jnp.where(jnp.isfinite(error), error, 0.0)
    population = population._replace(
        log_weights=log_weights,
        log_evidence=log_evidence,
        log_evidence_remainder=remainder,
    )
    return population, size


def _finite(largest: jax.Array) -> jax.Array:
    return lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return ``a + b`` rounded and the exact rounding error (Knuth 1969, section 4.2.2)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def total_log_evidence(population: Population) -> jax.Array:
    """Return the log evidence with what rounding took from it, where that can be held."""
    return population.log_evidence + population.log_evidence_remainder


def effective_sample_size(log_weights: jax.Array) -> jax.Array:
    r"""Return :math:`1 / \sum_i W_i^2` of normalised log-weights, between 1 and their number.

    Parameters
    ----------
    log_weights : (num_particles,) array
        Normalised: the exponentials add up to 1.

    Returns
    -------
    () array in [1, num_particles]

    References
    ----------
    Kong, Liu & Wong (1994).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> round(float(bi.effective_sample_size(jnp.log(jnp.array([0.5, 0.5, 0.0])))), 3)
    2.0
    """
    # At least 1 / N, so that nothing is gained by dividing by the largest.
    return 1.0 / accel.total(jnp.exp(2.0 * log_weights))
