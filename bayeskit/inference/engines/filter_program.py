"""The compiled program of the particle filter: one time, and the loop over times."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.blocks import resample, spawn
from bayeskit.inference.blocks.weighting import Extend, Weigh, weighed
from bayeskit.inference.engines.filter_summaries import described_time
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.population import Population
from bayeskit.inference.state_space import Rows
from bayeskit.inference.windowed_lineage import WindowedLineage, in_precision_of_weights

__all__ = ["CHUNK", "FilterState", "advance_rows", "blank_state"]

# Rows that one call of the compiled program takes at most. Fewer run through the same program,
# which is why the size of a piece changes no number.
CHUNK = 64


class FilterState(NamedTuple):
    """Where a filter stands between two rows.

    Parameters
    ----------
    key : key
        Time t draws from ``fold_in(key, t)``.
    time : () int32 array
        Of the row to come.
    population : Population
        The filter at the time before.
    """

    key: Any
    time: Any
    population: Population

    def on_host(self) -> FilterState:
        """Return the same state in NumPy arrays, which keep their precision in files."""
        return FilterState(self.key, *accel.on_host(self[1:]))


def blank_state(engine: Any, model: Any, rows: Rows, key: Any) -> FilterState:
    """Return the state before any row; its population is empty and has the right shapes."""

    def first(rows, key):
        return _weighed(*_founded(engine, model.feynman_kac(None, rows, 0), key)[:2])[0]

    shapes = jax.eval_shape(first, rows, key)
    population = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    return FilterState(key, np.zeros((), np.int32), population)


def _founded(engine: Any, feynman_kac: FeynmanKac, key: Any) -> tuple[Any, ...]:
    """Return the population of time 0, its potential, and that it is not resampled."""
    population, _ = spawn(feynman_kac.initial, engine.num_particles).run(key)
    population = population._replace(
        stage=jnp.zeros((), jnp.int32),
        lineage=WindowedLineage.founders(engine.num_particles),
        ancestors=jnp.arange(engine.num_particles, dtype=jnp.int32),
    )
    log_g = Weigh(feynman_kac.log_g0).potential(population)
    return in_precision_of_weights(population), log_g, jnp.zeros((), bool)


def _stepped(
    engine: Any, feynman_kac: FeynmanKac, key: Any, population: Population
) -> tuple[Any, ...]:
    """Return the population of the next time, its potential, and whether it is resampled."""
    choice_key, move_key = random.split(key)
    own_place = jnp.arange(engine.num_particles, dtype=jnp.int32)
    choose = resample(engine.scheme, engine.ess_below)
    population, info = choose.run(choice_key, population._replace(ancestors=own_place))
    move = Extend(feynman_kac.kernel, feynman_kac.log_g)
    population, log_g = move.proposed(move_key, population)
    resampled = jnp.asarray(info.get("resampled", True))
    return in_precision_of_weights(population), log_g, resampled


def _weighed(population: Population, log_g: jax.Array) -> tuple[Population, dict]:
    population, info = weighed(population, log_g)
    return in_precision_of_weights(population), info


@quick_jit(static_argnames=("engine", "model"))
def advance_rows(
    engine: Any, model: Any, rows: Rows, size: Any, state: FilterState
) -> tuple[FilterState, dict]:
    """Run over the first ``size`` of the rows.

    One program for the first time and for all others, and for pieces of every size: the same
    instructions give the same bits. Both kinds of time are weighed by the same instructions,
    since a second copy would take a quarter more to compile.
    """
    feynman_kac = model.feynman_kac(None, rows, state.time)

    def one(number, population):
        time = state.time + number
        key = random.fold_in(state.key, time)
        population, log_g, resampled = lax.cond(
            time == 0,
            lambda population: _founded(engine, feynman_kac, key),
            lambda population: _stepped(engine, feynman_kac, key, population),
            population._replace(stage=time),
        )
        population, info = _weighed(population, log_g)
        return population, {**info, "resampled": resampled}

    # Under jit, so that it is traced once for the shapes and for the loop.
    @functools.partial(jax.jit, inline=True)
    def described(number, population):
        population, info = one(number, population)
        return population, described_time(engine, population, info)

    shapes = jax.eval_shape(described, jnp.zeros((), jnp.int32), state.population)[1]
    blank = jax.tree.map(lambda s: jnp.zeros((CHUNK, *s.shape), s.dtype), shapes)

    def body(number, carry):
        population, all_ = carry
        population, now = described(number, population)
        return population, jax.tree.map(lambda a, n: a.at[number].set(n), all_, now)

    population, history = lax.fori_loop(0, size, body, (state.population, blank))
    return FilterState(state.key, state.time + size, population), history
