"""Parametric families of priors of one number, on the real line after a change of variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, digamma, gammaln, polygamma

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """A family of laws of u, where the latent is x = x(u).

    Attributes
    ----------
    name : str
    parameters : dict of str to {"real", "positive"}
        Names and ranges of the parameters.
    support : str
        Of x: ``"real"``, ``"positive"`` (u = log x) or ``"unit"`` (u = logit x).
    log_density : callable (u, *parameters) -> log density of u
    moments : callable (*parameters) -> mean and variance of u
    draw : callable (key, shape, dtype, *parameters) -> u
    """

    name: str
    parameters: dict[str, str]
    support: str
    log_density: Callable
    moments: Callable
    draw: Callable


def _normal_log_density(u: jax.Array, loc: jax.Array, scale: jax.Array) -> jax.Array:
    return -0.5 * ((u - loc) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


def _normal_draw(key, shape, dtype, loc, scale):
    return loc + scale * jax.random.normal(key, shape, dtype)


def _gamma_log_density(u: jax.Array, concentration: jax.Array, rate: jax.Array) -> jax.Array:
    a = concentration
    return a * jnp.log(rate) - gammaln(a) + a * u - rate * jnp.exp(u)


def _inverse_gamma_log_density(
    u: jax.Array, concentration: jax.Array, rate: jax.Array
) -> jax.Array:
    # Not the one above at -u: XLA of JAX 0.12 loses that sign in some programs on CPUs.
    a = concentration
    return a * jnp.log(rate) - gammaln(a) - a * u - rate * jnp.exp(-u)


def _gamma_draw(key, shape, dtype, concentration, rate):
    # Of the logarithm, which is there even where the number itself would be zero.
    a = jnp.broadcast_to(concentration, shape).astype(dtype)
    return jax.random.loggamma(key, a) - jnp.log(rate)


def _beta_log_density(u: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return -a * jnp.logaddexp(0.0, -u) - b * jnp.logaddexp(0.0, u) - betaln(a, b)


def _beta_draw(key, shape, dtype, a, b):
    of_a, of_b = jax.random.split(key)
    first = jax.random.loggamma(of_a, jnp.broadcast_to(a, shape).astype(dtype))
    return first - jax.random.loggamma(of_b, jnp.broadcast_to(b, shape).astype(dtype))


def _trigamma(a: jax.Array) -> jax.Array:
    return polygamma(1, a)


_GAMMA = {"concentration": "positive", "rate": "positive"}
_NORMAL = {"loc": "real", "scale": "positive"}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "normal",
            _NORMAL,
            "real",
            _normal_log_density,
            lambda loc, scale: (loc, scale**2),
            _normal_draw,
        ),
        Family(
            "log_normal",
            _NORMAL,
            "positive",
            _normal_log_density,
            lambda loc, scale: (loc, scale**2),
            _normal_draw,
        ),
        Family(
            "gamma",
            _GAMMA,
            "positive",
            _gamma_log_density,
            lambda a, b: (digamma(a) - jnp.log(b), _trigamma(a)),
            _gamma_draw,
        ),
        Family(
            "inverse_gamma",
            _GAMMA,
            "positive",
            _inverse_gamma_log_density,
            lambda a, b: (jnp.log(b) - digamma(a), _trigamma(a)),
            lambda *arguments: -_gamma_draw(*arguments),
        ),
        Family(
            "beta",
            {"concentration1": "positive", "concentration0": "positive"},
            "unit",
            _beta_log_density,
            lambda a, b: (digamma(a) - digamma(b), _trigamma(a) + _trigamma(b)),
            _beta_draw,
        ),
    )
}
