"""What independent laws of the parts say of functions and rows at any coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.functional_tucker.low_rank.beliefs import Beliefs
from bayeskit.models.functional_tucker.low_rank.chains import compiled_posterior, draw_mode
from bayeskit.models.functional_tucker.low_rank.conditionals import row_moments
from bayeskit.models.functional_tucker.low_rank.contractions import (
    CoreMoments,
    expected_value,
    moments_of,
)
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.new_coordinates import join_grid, sites_on
from bayeskit.models.functional_tucker.low_rank.search import Problem
from bayeskit.models.markov_gp.rows import padded_size

__all__ = ["factor_moments", "product_draws", "product_moments"]


@quick_jit(static_argnames="layout")
def _product_moments(layout, core, factors, places):
    return row_moments(layout, core, factors, places)


@quick_jit(static_argnames="method")
def _paths(u, free, grid, sites, normals, method):
    return draw_mode(free.fill(u), grid, sites, normals, method)[0]


@quick_jit(static_argnames="layout")
def _products(layout, core, functions, places):
    def one(inputs):
        core, functions = inputs
        at_rows = [moments_of(f).at(place) for f, place in zip(functions, places, strict=True)]
        return expected_value(
            layout, None if core is None else CoreMoments(core, None), at_rows
        )

    return jax.lax.map(one, (core, functions))


def factor_moments(
    problem: Problem,
    data: TensorData,
    beliefs: Beliefs,
    u: Sequence[Any],
    mode: int,
    column: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return means (points, R) and covariances (points, R, R) of the functions of a mode."""
    joined = join_grid(data.grids[mode], column)
    sites = sites_on(joined, beliefs.sites[mode])
    kernels = problem.parameters[mode].fill(u[mode])
    law = compiled_posterior(kernels, joined.grid, sites, problem.method)
    return np.asarray(law.mean)[joined.new], np.asarray(law.covariance)[joined.new]


def product_moments(
    problem: Problem, data: TensorData, beliefs: Beliefs, u: Sequence[Any], table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance (new rows,) of the product at a table of coordinates."""
    if not problem.layout.ranks:
        return np.zeros(len(table)), np.zeros(len(table))
    factors, places = [], []
    for mode, column in enumerate(table.T):
        joined = join_grid(data.grids[mode], column)
        sites = sites_on(joined, beliefs.sites[mode])
        kernels = problem.parameters[mode].fill(u[mode])
        law = compiled_posterior(kernels, joined.grid, sites, problem.method)
        factors.append(moments_of(law.mean, law.covariance))
        places.append(_padded(joined.new))
    moments = _product_moments(problem.layout, beliefs.core_moments, factors, tuple(places))
    mean, variance = (np.asarray(part)[: len(table)] for part in moments)
    return mean, variance


def product_draws(
    problem: Problem,
    data: TensorData,
    beliefs: Beliefs,
    u: Sequence[Any],
    table: np.ndarray,
    num_draws: int,
    key: Any,
) -> np.ndarray:
    """Return joint draws (num_draws, new rows) of the product."""
    if not problem.layout.ranks:
        return np.zeros((num_draws, len(table)))
    *keys, core_key = random.split(key, problem.layout.num_modes + 1)
    functions, places = [], []
    for mode, (column, mode_key) in enumerate(zip(table.T, keys, strict=True)):
        free = problem.parameters[mode]
        joined = join_grid(data.grids[mode], column)
        shape = num_draws, len(joined.grid.x), sum(kernel.dim for kernel in free.base)
        normals = random.normal(mode_key, shape, np.float64)
        sites = sites_on(joined, beliefs.sites[mode])
        functions.append(_paths(u[mode], free, joined.grid, sites, normals, problem.method))
        places.append(_padded(joined.new))
    core = None
    if beliefs.core is not None:
        normals = random.normal(core_key, (num_draws, problem.layout.core_size), np.float64)
        core = beliefs.core.draws(normals)
    drawn = _products(problem.layout, core, functions, tuple(places))
    return np.asarray(drawn)[:, : len(table)]


def _padded(place: np.ndarray) -> np.ndarray:
    return np.pad(place, (0, padded_size(len(place)) - len(place)))
