"""What the particle filter reports of each time: moments, quantiles, evidence."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.inference.engines.base import as_named_states
from bayeskit.inference.population import History, Population, total_log_evidence

__all__ = ["described_time", "flat_history"]

# Steps by which a quantile is found up to a millionth of the range of the particles.
_HALVINGS = 20


def described_time(engine: Any, population: Population, info: dict) -> dict[str, Any]:
    """Return what is reported of one time."""
    weights = jnp.exp(population.log_weights)
    moments = jax.tree.map(functools.partial(_moments, weights), population.particles)
    pick = lambda i: jax.tree.map(lambda _, m: m[i], population.particles, moments)
    out = {
        "effective_sample_size": info["effective_sample_size"],
        "log_evidence_increment": info["log_evidence_increment"],
        "log_evidence": total_log_evidence(population),
        "resampled": info["resampled"],
        "num_nan": info["num_nan"],
        "filter_mean": pick(0),
        "filter_sd": pick(1),
    }
    if engine.quantiles:
        levels = jnp.asarray(engine.quantiles, weights.dtype)
        out["filter_quantiles"] = jax.tree.map(
            lambda x: _quantiles(x, weights, levels), population.particles
        )
    if engine.num_paths:
        out["population"] = History(
            population.particles, population.log_weights, population.ancestors
        )
    return out


def _moments(weights: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x.astype(weights.dtype)
    mean = jnp.tensordot(weights, x, axes=1)
    variance = jnp.tensordot(weights, (x - mean) ** 2, axes=1)
    return mean, jnp.sqrt(variance)


def _quantiles(x: jax.Array, weights: jax.Array, levels: jax.Array) -> jax.Array:
    """Return weighted quantiles (level, ...): the least value with so much weight up to it.

    By halving the range, since sorting takes several times as long as a whole step of a filter.
    """
    flat = x.reshape(len(x), -1).T.astype(weights.dtype)

    def one(values):
        low, high = jnp.min(values) - 1.0, jnp.max(values)

        def halve(_, ends):
            low, high = ends
            middle = low + (high - low) / 2
            up_to = jnp.sum(jnp.where(values <= middle[:, None], weights, 0.0), axis=1)
            enough = up_to >= levels
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        ends = (jnp.full(levels.shape, low), jnp.full(levels.shape, high))
        low, _ = lax.fori_loop(0, _HALVINGS, halve, ends)
        return jnp.min(jnp.where(values > low[:, None], values, high), axis=1)

    found = one(flat[0])[None] if len(flat) == 1 else lax.map(one, flat)
    return found.T.reshape(len(levels), *x.shape[1:])


def flat_history(history: dict[str, Any]) -> dict[str, Any]:
    """Return a history with an entry for each variable, such as ``filter_mean/x``."""
    flat: dict[str, Any] = {}
    for name, values in history.items():
        if name.startswith("filter_") and "/" not in name:
            flat |= {f"{name}/{k}": v for k, v in as_named_states(values).items()}
        else:
            flat[name] = values
    return flat
