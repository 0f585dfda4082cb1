"""What the network sees of a problem, in coordinates in which problems look alike."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.distribution_transformer.frames import frame_of, in_frame
from bayeskit.models.distribution_transformer.linearisation import Linearisation
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.small_matrices import (
    log_diagonal,
    multiply,
    solve_lower,
    whiten,
)
from bayeskit.models.distribution_transformer.task import Problems, Start, Task

__all__ = ["Scaling", "Tokens", "of_problems", "raw_numbers", "scaling_of"]

# Weights below this are as good as none.
_MIN_LOG_WEIGHT = math.log(1e-8)
# Standardised numbers are cut off here.
_LARGEST = 5.0


class Tokens(NamedTuple):
    """Numbers that the network embeds.

    Attributes
    ----------
    components : (batch, k, f) array
    is_present : (batch, k) array of bool
    context : (batch, c) array
    rows : dict of str to (batch, n, r) arrays
    masks : dict of str to (batch, n) arrays of bool
    """

    components: jax.Array
    is_present: jax.Array
    context: jax.Array
    rows: dict[str, jax.Array]
    masks: dict[str, jax.Array]


class Scaling(NamedTuple):
    """What was learned from the first simulations.

    Attributes
    ----------
    context, rows
        Means and standard deviations of the context, and of the rows by source.
    linear : dict of str to Summary, or None
        What posteriors start from, where nothing better is known.
    """

    context: tuple[jax.Array, jax.Array]
    rows: dict[str, tuple[jax.Array, jax.Array]]
    linear: Linearisation | None = None


def _triangle_entries(factor: jax.Array) -> jax.Array:
    """Return log diagonal and entries below it (..., d (d + 1) / 2) of Cholesky factors."""
    d = factor.shape[-1]
    row, column = jnp.tril_indices(d, -1)
    return jnp.concatenate([log_diagonal(factor), factor[..., row, column]], axis=-1)


def _component_numbers(mixture: Mixture) -> jax.Array:
    log_weights = jnp.maximum(mixture.log_weights, _MIN_LOG_WEIGHT)
    # All within a few units, so that no first layer has to learn the scale.
    parts = [0.25 * log_weights[..., None], mixture.means, _triangle_entries(mixture.factors)]
    return jnp.clip(jnp.concatenate(parts, axis=-1), -20.0, 20.0)


def raw_numbers(
    task: Task, problems: Problems, start: Start
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Return components, context and rows before they are standardised."""
    before = frame_of(start.prior)
    components = []
    if task.meta_prior.is_mixture:
        numbers = _component_numbers(in_frame(start.prior, before))
        if task.splits:
            numbers = jnp.take_along_axis(numbers, start.parents[..., None], axis=-2)
        components.append(numbers)
    after = before
    if task.kind != "prior" or task.splits:
        after = frame_of(start.base)
        components.append(_component_numbers(in_frame(start.base, after)))
        components.append(0.5 * jnp.clip(start.residuals, -6.0, 4.0))
    moved = whiten(before.scale, after.origin - before.origin)
    shrunk = _triangle_entries(solve_lower(before.scale, after.scale))
    context = [moved, shrunk, problems.vector, task.meta_prior.parameter_vector(problems.prior)]
    context += [
        jnp.log1p(mask.sum(axis=-1, keepdims=True).astype(moved.dtype))
        for mask in problems.masks.values()
    ]
    if task.is_linear:
        # Shifts and scales of latent and data are undone: what is left is H in those units.
        rows = jax.vmap(task.white_rows)(problems, before.origin)
        context.append(
            jax.vmap(lambda v, s: _operator(task, v, s))(problems.vector, before.scale)
        )
    else:
        rows = problems.rows
        context += [before.origin, _triangle_entries(before.scale)]
    return jnp.concatenate(components, axis=-1), jnp.concatenate(context, axis=-1), rows


def _operator(task: Task, vector: jax.Array, scale: jax.Array) -> jax.Array:
    found = task.simulator.linear_part(vector)
    assert found is not None
    matrix, noise = (part.astype(scale.dtype) for part in found)
    return jnp.arcsinh(jnp.ravel(multiply(solve_lower(noise, matrix), scale)))


def scaling_of(
    context: np.ndarray,
    rows: dict[str, np.ndarray],
    masks: dict[str, np.ndarray],
    linear: Linearisation | None,
) -> Scaling:
    """Return what standardises raw numbers like these."""
    by_rows = {}
    for name, values in rows.items():
        kept = values[masks[name]]
        by_rows[name] = _centre_and_scale(kept if len(kept) else values[:, 0])
    return Scaling(_centre_and_scale(context), by_rows, linear)


def _centre_and_scale(values: np.ndarray) -> Any:
    # A number that never changes in training stands for itself.
    sd = values.std(axis=0)
    return values.mean(axis=0), np.where(sd > 1e-6, sd, 1.0).astype(values.dtype)


def of_problems(task: Task, problems: Problems, start: Start, scaling: Scaling) -> Tokens:
    """Return the numbers for a batch of problems."""
    components, context, rows = raw_numbers(task, problems, start)
    mean, sd = scaling.context
    tokens = {}
    for name, values in rows.items():
        centre, scale = scaling.rows[name]
        z = (values - centre) / scale
        z = jnp.concatenate([jnp.clip(z, -_LARGEST, _LARGEST), jnp.arcsinh(z)], axis=-1)
        tokens[name] = jnp.where(problems.masks[name][..., None], z, 0.0)
    return Tokens(
        components,
        start.base.log_weights > -jnp.inf,
        jnp.clip((context - mean) / sd, -_LARGEST, _LARGEST),
        tokens,
        problems.masks,
    )
