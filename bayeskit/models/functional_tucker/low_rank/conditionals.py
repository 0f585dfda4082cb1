r"""Conditionals of the parts of a multilinear model given moments of all others.

With moments of independent factors these are the steps of coordinate ascent; with moments of
known values they are the exact conditionals that Gibbs sampling draws from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from bayeskit.models.functional_tucker.low_rank.chains import ModeSites
from bayeskit.models.functional_tucker.low_rank.contractions import (
    CoreMoments,
    Moments,
    core_sums,
    expected_square,
    expected_value,
    map_over_chunks,
    mode_design,
    sum_over_chunks,
    unpacked_core,
)
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.layout import Layout

__all__ = [
    "CorePosterior",
    "core_posterior",
    "mode_sites",
    "row_moments",
]


class CorePosterior(NamedTuple):
    """Mean (R_1, ..., R_K), and the lower Cholesky factor of the precision (size, size)."""

    mean: Any
    precision_factor: Any

    @property
    def covariance(self) -> jax.Array:
        """The covariance (size, size)."""
        size = self.precision_factor.shape[0]
        return jsl.cho_solve((self.precision_factor, True), jnp.eye(size))

    def draws(self, normals: Any) -> jax.Array:
        """Return draws (num, R_1, ..., R_K) made of standard normals (num, size)."""
        factor = jnp.asarray(self.precision_factor)
        spread = jsl.solve_triangular(factor, normals.T, lower=True, trans=1).T
        return self.mean + spread.reshape(-1, *self.mean.shape)


def mode_sites(
    layout: Layout,
    core: CoreMoments | None,
    factors: Sequence[Moments],
    data: TensorData,
    target: Any,
    precision: Any,
    mode: int,
) -> ModeSites:
    """Return what the rows say of the functions of one mode.

    Parameters
    ----------
    factors : sequence of Moments, of all modes on their grids
    target : (rows,) array
        What the product is to explain.
    precision : (rows,) array
        Of the rows, zero where there is no observation.
    mode : int
    """
    size = data.grids[mode].x.shape[0]

    def sums(rows: Any) -> ModeSites:
        places, t, tau = rows
        at_rows = [factor.at(place) for factor, place in zip(factors, places, strict=True)]
        design = mode_design(layout, core, at_rows, mode)
        values = jnp.concatenate(
            [(tau * t)[:, None] * design.mean, tau[:, None] * design.second], axis=1
        )
        total = jax.ops.segment_sum(values, places[mode], num_segments=size)
        rank = layout.ranks[mode]
        return ModeSites(total[:, :rank], total[:, rank:])

    return sum_over_chunks(sums, (data.places, target, precision), layout.widest)


def core_posterior(
    layout: Layout,
    factors: Sequence[Moments],
    data: TensorData,
    target: Any,
    precision: Any,
    prior_precision: Any,
) -> CorePosterior:
    """Return the law of the core, whose entries are normal around 0 under the prior.

    Parameters
    ----------
    factors, target, precision
        As for :func:`mode_sites`.
    prior_precision : float
    """

    def sums(rows: Any) -> Any:
        places, t, tau = rows
        at_rows = [factor.at(place) for factor, place in zip(factors, places, strict=True)]
        return core_sums(layout, at_rows, tau, t)

    packed, shift = sum_over_chunks(sums, (data.places, target, precision), layout.widest)
    full = unpacked_core(packed, layout.ranks) + prior_precision * jnp.eye(layout.core_size)
    factor = jnp.linalg.cholesky(full)
    return CorePosterior(jsl.cho_solve((factor, True), shift).reshape(layout.ranks), factor)


def row_moments(
    layout: Layout, core: CoreMoments | None, factors: Sequence[Moments], places: Sequence[Any]
) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance (rows,) of the product at rows, from moments on grids.

    Without modes there is no product, and both are zero.
    """
    if not layout.ranks:
        return jnp.zeros(()), jnp.zeros(())

    def moments(places: Any) -> tuple[jax.Array, jax.Array]:
        at_rows = [factor.at(place) for factor, place in zip(factors, places, strict=True)]
        mean = expected_value(layout, core, at_rows)
        square = expected_square(layout, core, at_rows)
        return mean, jnp.maximum(square - mean**2, 0.0)

    return map_over_chunks(moments, tuple(places), layout.widest)
