r"""The recognition networks: what they read of a row, and what they say of a learner.

A row is an embedding of its components beside its answer and its time, :math:`x_n`. Of these

.. math::
    q(c) = \text{softmax} f_c(x_1, \dots, x_{10}), \qquad
    s_n \mid c:\; f_s(x_n, c), \qquad
    z_n:\; f_z(\text{LSTM}(x_1, \dots, x_n)) ,

where f are small networks, c is the category of the learner, and each f of s and z gives means
and variances, of all traits and of all components.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.knowledge_tracing.amortized.architecture import Architecture
from bayeskit.models.knowledge_tracing.rows import STUDY

__all__ = [
    "WIDTH",
    "WINDOW",
    "Site",
    "category_logits",
    "initial_network",
    "input_of",
    "lstm_step",
    "state_site",
    "trait_site",
]

# As published: numbers of an input, rows that the category is told from, cells of the LSTM.
WIDTH = 16
WINDOW = 10
HIDDEN = 32
_MAX_LOG_VARIANCE = 10.0
_SLOPE = 0.2
# Sites that say little to start with, so that training starts from the prior.
_FIRST_LOG_VARIANCE = 3.0


class Site(NamedTuple):
    """A Gaussian factor for each trait or component: mean and variance."""

    mean: Any
    variance: Any


def initial_network(generator: np.random.Generator, architecture: Architecture) -> dict:
    """Return the weights at the start: embeddings N(0, 1), layers uniform by their inputs."""
    a = architecture
    sizes = {
        "input": (2 * WIDTH, WIDTH, WIDTH),
        "category": (WINDOW * WIDTH, 64, 64, a.num_categories),
        "trait": (WIDTH + a.num_categories, 64, WIDTH, 2 * a.num_traits),
        "state": (HIDDEN, WIDTH, WIDTH, 2 * a.num_kc),
        "lstm": (WIDTH + HIDDEN, 4 * HIDDEN),
    }
    found: dict[str, Any] = {"embedding": generator.standard_normal((a.num_kc, WIDTH))}
    for name, widths in sizes.items():
        found[name] = [
            _layer(generator, inside, outside) for inside, outside in itertools.pairwise(widths)
        ]
    found["state"][-1]["bias"][a.num_kc :] += _FIRST_LOG_VARIANCE
    found["trait"][-1]["bias"][a.num_traits :] += _FIRST_LOG_VARIANCE
    return found


def _layer(generator: np.random.Generator, inside: int, outside: int) -> dict:
    bound = inside**-0.5
    return {
        "weight": generator.uniform(-bound, bound, (inside, outside)),
        "bias": generator.uniform(-bound, bound, outside),
    }


def _through(layers: list, x: jax.Array) -> jax.Array:
    for number, layer in enumerate(layers):
        x = x @ layer["weight"] + layer["bias"]
        if number < len(layers) - 1:
            x = jax.nn.leaky_relu(x, _SLOPE)
    return x


def input_of(network: dict, loading: Any, outcome: Any, elapsed: Any) -> jax.Array:
    """Return what the networks are told of a row, (..., 16).

    Parameters
    ----------
    loading : (..., num_kc) array
        1 for the components of the row.
    outcome : (...) int array
        A row that was only studied is half correct.
    elapsed : (...) array
        Time since the first row of the learner.
    """
    answer = jnp.where(outcome == STUDY, 0.5, outcome).astype(elapsed.dtype)
    rate = 10_000.0 ** (-jnp.arange(0, WIDTH, 2, dtype=elapsed.dtype) / WIDTH)
    angle = elapsed[..., None] * rate
    encoded = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    x = jnp.concatenate([loading @ network["embedding"], answer[..., None] + encoded], axis=-1)
    return _through(network["input"], x)


def lstm_step(network: dict, hidden: Any, cell: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    """Return hidden values and cells after one more row."""
    layer = network["lstm"][0]
    gates = jnp.concatenate([x, hidden], axis=-1) @ layer["weight"] + layer["bias"]
    enter, keep, new, leave = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


def state_site(network: dict, hidden: Any) -> Site:
    """Return what the rows so far say of each component, (..., num_kc)."""
    mean, log_variance = jnp.split(_through(network["state"], hidden), 2, axis=-1)
    return Site(mean, jnp.exp(jnp.minimum(log_variance, _MAX_LOG_VARIANCE)))


def trait_site(network: dict, x: Any, category: Any) -> Site:
    """Return what one row says of the traits, (..., traits), given the category."""
    lead = jnp.broadcast_shapes(x.shape[:-1], category.shape[:-1])
    wide = [jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in (x, category)]
    both = jnp.concatenate(wide, axis=-1)
    mean, raw = jnp.split(_through(network["trait"], both), 2, axis=-1)
    return Site(mean, jax.nn.softplus(raw))


def category_logits(network: dict, window: Any) -> jax.Array:
    """Return logits of the categories from the first inputs (..., 10, 16)."""
    flat = window.reshape(*window.shape[:-2], WINDOW * WIDTH)
    return _through(network["category"], flat)
