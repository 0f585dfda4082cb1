"""Weighted draws from the posterior of a multilinear model, and what they predict."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.functional_tucker.additive.design import AdditiveDesign, new_design
from bayeskit.models.functional_tucker.low_rank.additive_part import resized
from bayeskit.models.functional_tucker.low_rank.bridges import draw_between, moments_between
from bayeskit.models.functional_tucker.low_rank.conditionals import row_moments
from bayeskit.models.functional_tucker.low_rank.contractions import moments_of
from bayeskit.models.functional_tucker.low_rank.data import TensorData, tensor_data
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.posterior import (
    Prior,
    State,
    TensorPosterior,
    mode_name,
    product_of,
)

__all__ = ["Draws", "draws_of", "functions_at", "predictive", "sample_rows", "term_moments"]


class Draws(NamedTuple):
    """Draws of all parts.

    Parameters
    ----------
    parts : dict of arrays with leading axis draws
        As the states of :class:`TensorPosterior`, without the rows of additive terms, and
        without the weights of rows where predictions do not need them.
    log_weights : (draws,) array, normalised
    """

    parts: State
    log_weights: Any


def draws_of(posterior: TensorPosterior, state: State) -> State:
    """Return what is kept of a state."""
    kept = {name: part for name, part in state.items() if name not in ("additive", "weights")}
    if posterior.prior.additive:
        kept["additive"] = {"u": state["additive"]["u"]}
        # Terms are predicted given the rows, with the precision of each.
        if "weights" in state:
            kept["weights"] = state["weights"]
    return kept


def predictive(
    layout: Layout,
    prior: Prior,
    data: TensorData,
    draws: Draws,
    table: np.ndarray,
    design: AdditiveDesign | None = None,
    context: str = "given",
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (draws, rows) of rows without noise, one by one, given a draw.

    What a draw leaves open is integrated out: functions between the coordinates that were
    seen, and the additive terms given what the product leaves of the data.

    Parameters
    ----------
    layout, prior, data
        What the draws were made with.
    draws : Draws
    table : (rows, modes) array
        Any coordinates.
    design : AdditiveDesign, optional
        Of the additive terms, where there are any.
    context : {"given", "training"}
        As for :func:`~bayeskit.models.functional_tucker.additive.new_design`.

    Notes
    -----
    Over all draws the mean is the weighted mean of the means, and the variance the weighted
    mean of variances plus the variance of the means.
    """
    new = _new_rows(data, table)
    terms = None if design is None else new_design(design, np.asarray(table, float), context)
    found = _predictive(prior, data, draws.parts, new, terms, layout=layout)
    return tuple(np.asarray(part)[:, : len(table)] for part in found)  # type: ignore[return-value]


def sample_rows(
    layout: Layout,
    prior: Prior,
    data: TensorData,
    draws: Draws,
    table: np.ndarray,
    key: Any,
    design: AdditiveDesign | None = None,
    context: str = "given",
) -> np.ndarray:
    """Return joint draws (draws, rows) of rows without noise: one for each draw of the parts.

    Parameters
    ----------
    layout, prior, data, draws, table, design, context
        As for :func:`predictive`.
    key : JAX key
    """
    new = _new_rows(data, table)
    table = np.asarray(table, float)
    terms = None if design is None else new_design(design, table, context, joint=True)
    found = _samples(prior, data, draws.parts, new, terms, key, layout=layout)
    return np.asarray(found)[:, : len(table)]


def functions_at(
    layout: Layout, prior: Prior, data: TensorData, draws: Draws, mode: int, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (draws, points, R) of the functions of a mode, given a draw.

    Parameters
    ----------
    layout, prior, data, draws
        As for :func:`predictive`.
    mode : int
    x : (points,) array
    """
    return _functions(prior, data, draws.parts, np.asarray(x, float), layout=layout, mode=mode)


def term_moments(
    layout: Layout, prior: Prior, data: TensorData, draws: Draws, new: Any, share: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (draws, padded points) of what terms say, given a draw.

    Parameters
    ----------
    layout, prior, data, draws
        As for :func:`predictive`.
    new : NewArrays
        Points of the function of one term, or rows.
    share : (padded points) array, optional
        Less the mean of points with these shares.
    """
    found = _term_moments(prior, data, draws.parts, new, share, layout=layout)
    return np.asarray(found[0]), np.asarray(found[1])


def _new_rows(data: TensorData, table: np.ndarray) -> TensorData:
    table = np.asarray(table, float)
    return tensor_data(table, np.full(len(table), np.nan), str(data.y.dtype))


@quick_jit(static_argnames="layout")
def _predictive(
    prior: Prior, data: TensorData, parts: State, new: Any, terms: Any, *, layout: Layout
) -> tuple[jax.Array, jax.Array]:
    posterior = TensorPosterior(layout, prior, data)

    def one(state: State) -> tuple[jax.Array, jax.Array]:
        factors = []
        for k, grid in enumerate(new.grids):
            mean, variance = _moments(posterior, state, k, grid.x)
            factors.append(moments_of(mean, variance[..., None] * jnp.eye(layout.ranks[k])))
        core, nothing = posterior.core(state), jnp.zeros_like(new.y)
        mean, variance = row_moments(layout, core, factors, new.places)
        mean, variance = mean + nothing, variance + nothing
        if prior.additive:
            given = _given_product(posterior, state)
            more = prior.additive.moments(state["additive"]["u"], *given, terms)
            num = new.y.shape[0]
            mean, variance = mean + resized(more[0], num), variance + resized(more[1], num)
        return mean, variance

    return lax.map(one, parts)


@quick_jit(static_argnames="layout")
def _samples(
    prior: Prior,
    data: TensorData,
    parts: State,
    new: Any,
    terms: Any,
    key: Any,
    *,
    layout: Layout,
) -> jax.Array:
    posterior = TensorPosterior(layout, prior, data)

    def one(inputs: Any) -> jax.Array:
        key, state = inputs
        *keys, additive_key = random.split(key, layout.num_modes + 1)
        functions = []
        for k, (mode_key, grid) in enumerate(zip(keys, new.grids, strict=True)):
            part = state[mode_name(k)]
            num, rank = len(grid.x), layout.ranks[k]
            z = random.normal(mode_key, (num, rank, 2, part["states"].shape[-1] // rank))
            kernels = posterior.kernels(k, part["u"])
            at = data.grids[k].x, part["states"], jnp.asarray(grid.x)
            functions.append(draw_between(kernels, *at, z))
        rows = jnp.zeros_like(new.y)
        if layout.ranks:
            rows = product_of(layout, state.get("core"), functions, new.places)
        if prior.additive:
            given = _given_product(posterior, state)
            u = state["additive"]["u"]
            more = prior.additive.draw(additive_key, u, *given, terms)
            rows = rows + resized(more, rows.shape[0])
        return rows

    num = jax.tree.leaves(parts)[0].shape[0]
    return lax.map(one, (jnp.stack(random.split(key, num)), parts))


@quick_jit(static_argnames=("layout", "mode"))
def _functions(
    prior: Prior, data: TensorData, parts: State, x: Any, *, layout: Layout, mode: int
) -> tuple[jax.Array, jax.Array]:
    posterior = TensorPosterior(layout, prior, data)
    return lax.map(lambda state: _moments(posterior, state, mode, jnp.asarray(x)), parts)


@quick_jit(static_argnames="layout")
def _term_moments(
    prior: Prior, data: TensorData, parts: State, new: Any, share: Any, *, layout: Layout
) -> tuple[jax.Array, jax.Array]:
    posterior = TensorPosterior(layout, prior, data)
    additive = prior.additive
    assert additive is not None

    def one(state: State) -> tuple[jax.Array, jax.Array]:
        given = _given_product(posterior, state)
        return additive.moments(state["additive"]["u"], *given, new, share)

    return lax.map(one, parts)


def _moments(posterior: TensorPosterior, state: State, mode: int, x: Any) -> tuple:
    part = state[mode_name(mode)]
    kernels = posterior.kernels(mode, part["u"])
    grid_x = jnp.asarray(posterior.data.grids[mode].x)
    return moments_between(kernels, grid_x, part["states"], jnp.asarray(x))


def _given_product(posterior: TensorPosterior, state: State) -> tuple[jax.Array, jax.Array]:
    """Return what the product leaves of the data, and the precision of each row."""
    return posterior.data.y - posterior.product(state), posterior.row_precision(state)
