r"""The published model of three levels: traits, states and the graph.

.. math::
    s_1 \sim N(m, P), \quad s_n \sim N(H s_{n-1}, R), \qquad
    \alpha = \text{softplus}(s^{(1)}), \; \mu = s^{(2)}, \; \sigma = \text{softplus}(s^{(3)}),
    \; \gamma = \text{sigmoid}(s^{(4)}) ,

and states that revert to μ and to their prerequisites, which stand still over a gap. An edge
from i to k exists with a weight

.. math:: A_{ik} = \text{sigmoid}(u_i \cdot u_k)\,\text{sigmoid}(u_i (M - M') u_k') ,

whose first factor is symmetric and whose second says which way it points. (The published
program averaged sampled graphs, whose mean tends to A.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.knowledge_tracing.amortized.architecture import Architecture
from bayeskit.models.knowledge_tracing.structure import Parameter

__all__ = [
    "TRAITS",
    "Traits",
    "carried_variance",
    "checked_parameters",
    "edge_probabilities",
    "influence",
    "parameters_of",
    "state_step",
    "traits_of",
]

TRAITS = ("forgetting", "level", "volatility", "transfer")
# So that nothing is divided by zero (as published).
_LEAST_RATE = 1e-6
# Variance of the traits at the start (as published), and of a step of theirs.
_FIRST_VARIANCE = 0.05
_FIRST_DRIFT = 0.0025
_FIRST_PERSISTENCE = 0.999


class Traits(NamedTuple):
    """Traits in natural units, (...) each; transfer is None without a graph."""

    forgetting: Any
    level: Any
    volatility: Any
    transfer: Any


def traits_of(s: Any) -> Traits:
    """Return traits in natural units from s (..., traits)."""
    return Traits(
        jax.nn.softplus(s[..., 0]) + _LEAST_RATE,
        s[..., 1],
        jax.nn.softplus(s[..., 2]),
        jax.nn.sigmoid(s[..., 3]) if s.shape[-1] > 3 else None,
    )


def edge_probabilities(embedding: Any, direction: Any) -> jax.Array:
    """Return A (num_kc, num_kc) from embeddings (num_kc, 16) and M (16, 16)."""
    exists = jax.nn.sigmoid(embedding @ embedding.T)
    points = jax.nn.sigmoid(embedding @ (direction - direction.T) @ embedding.T)
    return exists * points * (1.0 - jnp.eye(embedding.shape[0], dtype=embedding.dtype))


def influence(parameters: dict, architecture: Architecture) -> jax.Array | None:
    """Return the scaled graph (num_kc, num_kc), or None."""
    if architecture.graph == "none":
        return None
    if architecture.graph == "given":
        return parameters["influence"]
    A = edge_probabilities(parameters["network"]["embedding"], parameters["direction"])
    if architecture.normalise == "num_kc":
        return A / architecture.num_kc
    return A / jnp.maximum(jnp.sum(A, axis=0), 1.0)


class StateStep(NamedTuple):
    """Mean and standard deviation of the states after a gap, (..., num_kc) and (..., 1)."""

    mean: Any
    sd: Any


def state_step(traits: Traits, z: Any, gap: Any, A: Any) -> StateStep:
    r"""Return the law of the states after a gap.

    Parameters
    ----------
    traits : Traits of (...) arrays
    z : (..., num_kc) array
        Before the gap.
    gap : (...) array
        At least 0; nothing happens in a gap of 0.
    A : (num_kc, num_kc) array or None
        Entry (i, k): influence of i on k.
    """
    wide: Any = jax.tree.map(lambda part: part[..., None], traits)
    alpha, level, volatility, transfer = wide
    u = alpha * gap[..., None]
    target = level if A is None else level + transfer * (z @ A)
    mean = jnp.exp(-u) * z - jnp.expm1(-u) * target
    # The root has no slope where nothing happens.
    safe = jnp.where(u > 0, u, 1.0)
    sd = volatility * jnp.sqrt(-jnp.expm1(-2.0 * safe) / (2.0 * alpha))
    return StateStep(mean, jnp.where(u > 0, sd, 0.0))


def carried_variance(traits: Traits, variance: Any, gap: Any, A: Any) -> jax.Array:
    """Return what is left of variances (..., num_kc) of independent states after a gap."""
    stay = jnp.exp(-traits.forgetting * gap)[..., None]
    if A is None:
        return stay**2 * variance
    pull = (1.0 - stay) * traits.transfer[..., None]
    own = stay * (stay + 2.0 * pull * jnp.diagonal(A)) * variance
    return own + pull**2 * (variance @ A**2)


# ---------------------------------------------------------------- what is learned


def _softplus_inverse(x: float) -> float:
    return float(x + np.log(-np.expm1(-x)))


def parameters_of(architecture: Architecture, span: float) -> dict[str, Parameter]:
    """Return the shared parameters of the model by name; priors are flat.

    Parameters
    ----------
    span : float
        Time over which a learner is seen, which sets the rate of forgetting to start from.
    """
    rate = 1.0 / span
    # States of variance 1 at rest.
    start = [_softplus_inverse(rate), 0.0, _softplus_inverse((2.0 * rate) ** 0.5), 0.0]
    num = architecture.num_traits
    flat = {"mean": 0.0, "sd": np.inf}
    full = lambda value: np.full(num, value)
    return {
        "trait_mean": Parameter(np.asarray(start[:num]), "real", **flat),
        "trait_sd": Parameter(full(_FIRST_VARIANCE**0.5), "log", **flat),
        "trait_persistence": Parameter(full(_FIRST_PERSISTENCE), "logit", **flat),
        "trait_drift_sd": Parameter(full(_FIRST_DRIFT**0.5), "log", **flat),
        "initial_mean": Parameter(np.asarray(0.0), "real", **flat),
        "initial_sd": Parameter(np.asarray(1.0), "log", **flat),
    }


def checked_parameters(fixed: dict | None, known: dict[str, Parameter]) -> dict[str, Any]:
    """Return numbers that the user fixed, by name, in natural units.

    Raises
    ------
    ValueError
        For a name that the model does not have, another shape, or numbers out of range.
    """
    found = {}
    for name, value in (fixed or {}).items():
        if name not in known:
            raise ValueError(
                f"parameters: {name!r} is not a parameter of inference='amortized', which has "
                f"{sorted(known)}"
            )
        shape, array = np.shape(known[name].start), np.asarray(value, np.float64)
        try:
            array = np.broadcast_to(array, shape).copy()
        except ValueError:
            raise ValueError(
                f"parameters[{name!r}] must have the shape {shape}, got {array.shape}"
            ) from None
        if not np.isfinite(array).all():
            raise ValueError(f"parameters[{name!r}] must be finite, got {array}")
        if name.endswith("_sd") and (array < 0).any():
            raise ValueError(f"parameters[{name!r}] must be at least 0, got {array.min():g}")
        if name == "trait_persistence" and ((array < 0) | (array > 1)).any():
            raise ValueError(f"parameters[{name!r}] must lie in [0, 1], got {array}")
        found[name] = array
    return found
