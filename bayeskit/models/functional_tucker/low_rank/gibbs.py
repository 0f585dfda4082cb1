"""Chains of Gibbs sweeps over a multilinear model, as one compiled program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.draws import Draws, draws_of
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.moves import TensorMoves, at_power
from bayeskit.models.functional_tucker.low_rank.posterior import (
    Prior,
    State,
    TensorPosterior,
    mode_name,
)

__all__ = ["run_gibbs", "starting_state"]


def run_gibbs(
    layout: Layout,
    prior: Prior,
    data: TensorData,
    key: Any,
    *,
    num_draws: int,
    num_warmup: int,
    num_chains: int = 4,
    thin: int = 1,
    num_slices: int = 4,
    method: str = "auto",
    start: State | None = None,
) -> Draws:
    """Return draws from the posterior of all parts.

    Parameters
    ----------
    layout : Layout
    prior : Prior
    data : TensorData
    key : JAX key
    num_draws, num_warmup : int
        Draws that are kept of each chain, and sweeps before them.
    num_chains : int
    thin : int
        Sweeps for each draw.
    num_slices : int
        Moves of the hyper-parameters of a part each time that it is drawn.
    method : {"auto", "sequential", "parallel"}
        How filters run over coordinates.
    start : dict, optional
        State that all chains start from, as of :func:`starting_state`. Default: a draw from the
        prior for each; the power of the likelihood then rises from near 0 to 1 during the first
        half of the warm-up.

    Returns
    -------
    Draws
        Of equal weight, num_chains times num_draws: chain by chain.
    """
    size = len(data.y) + sum(len(grid.x) for grid in data.grids)
    num_sweeps = num_chains * (num_warmup + num_draws * thin)
    chains = _brief_chains if size * num_sweeps < _BRIEF else _long_chains
    return chains(
        prior,
        data,
        start,
        key,
        layout=layout,
        num_draws=num_draws,
        num_warmup=num_warmup,
        num_chains=num_chains,
        thin=thin,
        num_slices=num_slices,
        method=method,
    )


def _chains(
    prior: Prior,
    data: TensorData,
    start: State | None,
    key: Any,
    *,
    layout: Layout,
    num_draws: int,
    num_warmup: int,
    num_chains: int,
    thin: int,
    num_slices: int,
    method: str,
) -> Draws:
    posterior = TensorPosterior(layout, prior, data, method)
    sweep = TensorMoves(posterior, num_slices).sweep()
    powers = _powers(num_warmup, num_draws * thin, start is None)

    def chain(key: Any) -> State:
        start_key, key = random.split(key)
        state = posterior.draw_prior(start_key) if start is None else start
        kept = jax.tree.map(
            lambda part: jnp.zeros((num_draws, *part.shape)), draws_of(posterior, state)
        )

        # The program of a sweep is large, so that there is one loop for all of them.
        def step(key: Any, carry: tuple, number: Any) -> tuple:
            state, kept = carry
            state = sweep.step(key, state, at_power(powers[number]))[0]
            # What is written during the warm-up is written over.
            place = jnp.maximum(number - (len(powers) - num_draws * thin), 0) // thin
            write = lambda all_, one: all_.at[place].set(one)
            return state, jax.tree.map(write, kept, draws_of(posterior, state))

        return random.repeat(step, key, (state, kept), len(powers))[1]

    parts = jax.vmap(chain)(jnp.stack(random.split(key, num_chains)))
    num = num_chains * num_draws
    joined = jax.tree.map(lambda part: part.reshape(num, *part.shape[2:]), parts)
    return Draws(joined, jnp.full(num, -jnp.log(float(num))))


_STATIC = (
    "layout",
    "num_draws",
    "num_warmup",
    "num_chains",
    "thin",
    "num_slices",
    "method",
)
_long_chains = quick_jit(_chains, optimised="lightly", static_argnames=_STATIC)
_brief_chains = quick_jit(_chains, optimised=False, static_argnames=_STATIC)
# Rows and coordinates times sweeps up to which the program without optimisation ends first: it
# is compiled in two thirds of the time (13 s for 19), and runs for nearly twice as long.
_BRIEF = 1_000_000


def _powers(num_warmup: int, num_kept: int, from_prior: bool) -> jax.Array:
    """Return the power of the likelihood in each sweep."""
    if not from_prior:
        return jnp.ones(num_warmup + num_kept)
    rising = jnp.minimum((jnp.arange(num_warmup) + 1.0) / max(num_warmup // 2, 1), 1.0)
    # A cube stays long where the prior still counts.
    return jnp.concatenate([rising**3, jnp.ones(num_kept)])


def starting_state(
    layout: Layout,
    prior: Prior,
    data: TensorData,
    *,
    u: Any,
    values: Any,
    core: Any = None,
    precision: Any = 1.0,
    additive_u: Any = None,
) -> State:
    """Return a state with given functions on the grids, such as the means of an approximation.

    Of the states only what the functions tell matters: the first sweep draws the others.

    Parameters
    ----------
    u : sequence of (num_free,) arrays, one for each mode
    values : sequence of (size, R) arrays, one for each mode
    core : (R_1, ..., R_K) array, optional
    precision : float
        Of the noise, where it is not known.
    additive_u : (num_free,) array, optional
        Default: zeros, the medians of the prior.
    """
    posterior = TensorPosterior(layout, prior, data)
    state: State = {}
    for k in range(layout.num_modes):
        h = posterior.chain(k, u[k]).matrix
        # The shortest states that give these values.
        gram = jnp.einsum("nrd,nsd->nrs", h, h)
        share = jnp.linalg.solve(gram, jnp.asarray(values[k])[..., None])[..., 0]
        state[mode_name(k)] = {
            "u": jnp.asarray(u[k]),
            "states": jnp.einsum("nrd,nr->nd", h, share),
        }
    rows = jnp.zeros(data.y.shape)
    if layout.has_core:
        state["core"] = jnp.asarray(core)
    if prior.additive:
        num = prior.additive.parameters.num_free
        additive_u = jnp.zeros(num) if additive_u is None else jnp.asarray(additive_u)
        state["additive"] = {"u": additive_u, "rows": rows}
    if not prior.noise.is_known:
        state["precision"] = jnp.asarray(precision, rows.dtype)
    if prior.noise.degrees is not None:
        state["weights"] = rows + 1.0
    return state
