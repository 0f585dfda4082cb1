"""Densities of NumPyro distributions with their support, and of what was not observed."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random

__all__ = [
    "draw",
    "innermost",
    "is_dependent",
    "is_distribution",
    "log_density",
    "log_likelihood",
]


def is_distribution(value: Any) -> bool:
    """Return whether a value is a NumPyro distribution."""
    from numpyro.distributions import Distribution

    return isinstance(value, Distribution)


def draw(key: Any, distribution: Any) -> Any:
    """Draw once from a distribution, or from a dict of independent ones."""
    if not isinstance(distribution, dict):
        return random.sample(key, distribution)
    keys = random.split(key, len(distribution))
    pairs = zip(keys, distribution.items(), strict=True)
    return {name: random.sample(one, part) for one, (name, part) in pairs}


def log_density(distribution: Any, value: Any) -> jax.Array:
    """Return the log density at a value, -inf outside of the support.

    NumPyro leaves the support unchecked: the density of its uniform distribution is the same
    everywhere.
    """
    if isinstance(distribution, dict):
        return sum(
            (log_density(part, value[name]) for name, part in distribution.items()),
            jnp.zeros((), jnp.result_type(float)),
        )
    total = jnp.sum(distribution.log_prob(value))
    if distribution.support is None:
        return total
    return jnp.where(jnp.all(distribution.support(value)), total, -jnp.inf)


def innermost(distribution: Any) -> Any:
    """Return the distribution without the wrappers that only count axes as events."""
    while type(distribution).__name__ == "Independent":
        distribution = distribution.base_dist
    return distribution


def is_dependent(distribution: Any) -> bool:
    """Return whether coordinates depend on one another in a way that is not known here."""
    rows = innermost(distribution)
    return bool(rows.event_shape) and type(rows).__name__ != "MultivariateNormal"


def log_likelihood(distribution: Any, y: jax.Array) -> jax.Array:
    r"""Return the log density of what was seen of an observation; NaN means not seen.

    Independent coordinates that were not seen drop out, and a multivariate normal is
    marginalised. Of other families an observation counts as a whole or not at all.
    """
    rows = innermost(distribution)
    y = jnp.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.floating):
        return log_density(rows, y)
    seen = ~jnp.isnan(y)
    if type(rows).__name__ == "MultivariateNormal":
        return _marginal_normal(rows, y, seen)
    if rows.event_shape:
        axes = tuple(range(-len(rows.event_shape), 0))
        seen = jnp.all(seen, axis=axes)
        spread = seen.reshape(*seen.shape, *(1,) * len(axes))
    else:
        spread = seen
    # A value of the support, so that neither density nor gradient is NaN.
    value = jnp.where(spread, y, rows.support.feasible_like(y).astype(y.dtype))
    if rows.support.is_discrete:
        value = jnp.round(value).astype(jnp.int32)
    terms = jnp.where(rows.support(value), rows.log_prob(value), -jnp.inf)
    return jnp.sum(jnp.where(seen, terms, 0.0))


def _marginal_normal(distribution: Any, y: jax.Array, seen: jax.Array) -> jax.Array:
    """Return the log density of the seen coordinates of a multivariate normal.

    With the rows and columns of the others replaced by those of the identity, and their
    residuals by zero, they add nothing to the quadratic form nor to the determinant.
    """
    both = seen[..., :, None] & seen[..., None, :]
    identity = jnp.eye(y.shape[-1], dtype=distribution.loc.dtype)
    factor = jnp.linalg.cholesky(jnp.where(both, distribution.covariance_matrix, identity))
    residual = jnp.where(seen, y - distribution.loc, 0.0)
    solved = jax.scipy.linalg.solve_triangular(factor, residual[..., None], lower=True)
    log_root = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1))
    constant = 0.5 * math.log(2 * math.pi) * jnp.sum(seen, dtype=residual.dtype)
    return -0.5 * jnp.sum(solved**2) - jnp.sum(log_root) - constant
