"""A particle filter as a deterministic function of uniforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bayeskit import accel
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.population import Population, reweigh

__all__ = ["filter_from_uniforms", "num_uniforms", "spatial_order"]


def spatial_order(particles: Any) -> jax.Array:
    """Return the place (num_particles,) of each particle on a Hilbert curve.

    All coordinates count; particles of one coordinate are sorted by it.

    Raises
    ------
    ValueError
        For more than 16 coordinates, along which a curve says little.
    """
    return accel.hilbert_order(jax.vmap(lambda one: ravel_pytree(one)[0])(particles))


def num_uniforms(model: FeynmanKac, num_particles: int) -> tuple[int, int, int]:
    """Return the shape (num_steps, num_particles, 1 + uniform_dim) of what a filter consumes.

    Raises
    ------
    MissingDensityError
        If the model does not say how uniforms move its particles.
    """
    model.require("initial_from_uniforms", "a filter driven by uniforms")
    model.require("kernel_from_uniforms", "a filter driven by uniforms")
    return model.num_steps, num_particles, 1 + model.uniform_dim


def filter_from_uniforms(
    model: FeynmanKac, uniforms: jax.Array, order: Callable = spatial_order
) -> Population:
    r"""Filter with given uniforms: the first of each row chooses the ancestor, the rest move.

    Particles are sorted before each resampling, so that an ancestor, the inverse of the
    cumulative weights at a uniform, changes little with the uniform.

    Parameters
    ----------
    model : FeynmanKac with initial_from_uniforms and kernel_from_uniforms
    uniforms : (num_steps, num_particles, 1 + uniform_dim) array in (0, 1)
        The estimate is unbiased if a row of a time, picked at random, is uniform on the cube
        given the rows of earlier times. Those of time 0 choose no ancestor.
    order : callable (particles) -> (num_particles,) array

    Notes
    -----
    O(num_steps num_particles log(num_particles)).

    References
    ----------
    Gerber & Chopin (2015), *Sequential quasi-Monte Carlo*, algorithm 2.
    """
    num = uniforms.shape[1]
    equal = jnp.full(num, -math.log(num), uniforms.dtype)
    zero = jnp.zeros((), uniforms.dtype)
    initial = model.require("initial_from_uniforms", "a filter driven by uniforms")
    kernel = model.require("kernel_from_uniforms", "a filter driven by uniforms")
    particles = jax.vmap(initial)(uniforms[0, :, 1:])
    start = Population(particles, equal, zero, log_evidence_remainder=zero)
    log_g0 = jax.vmap(lambda x: model.log_g0(0, x))(particles)

    def step(population, now):
        t, points = now
        places = jnp.argsort(order(population.particles))
        cdf = accel.scaled_cdf(population.log_weights[places], num)
        chosen = accel.SCHEMES["multinomial"].ancestors(cdf, points[:, 0], num)
        before = accel.take_particles(population.particles, places[chosen])
        particles = jax.vmap(lambda x, u: kernel(t, x, u))(before, points[:, 1:])
        log_g = jax.vmap(lambda a, b: model.log_g(t, a, b))(before, particles)
        moved = population._replace(particles=particles, log_weights=equal)
        return reweigh(moved, log_g), None

    times = jnp.arange(1, model.num_steps, dtype=jnp.int32)
    return lax.scan(step, reweigh(start, log_g0), (times, uniforms[1:]))[0]
