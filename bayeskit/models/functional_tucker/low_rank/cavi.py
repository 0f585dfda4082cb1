r"""Coordinate ascent on the evidence lower bound (CAVI) of a multilinear model.

The posterior is approached by independent laws of the functions of each mode, the core, the
precision of the noise, and the weights of rows. Each update is exact given the others, so that

.. math:: \mathrm{ELBO} = E[\log p(y \mid u, g, \tau)] - \sum \mathrm{KL}(q \,\|\, p)
    \le \log p(y)

never falls. Sources: Fang et al. (2024), whose conditional expectation propagation has the
same fixed points where the core's uncertainty is kept; Bishop (2006), chapter 10.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.models.functional_tucker.low_rank.balancing import balanced
from bayeskit.models.functional_tucker.low_rank.beliefs import Beliefs, Model
from bayeskit.models.functional_tucker.low_rank.chains import (
    ModePosterior,
    ModeSites,
    mode_posterior,
)
from bayeskit.models.functional_tucker.low_rank.conditionals import (
    CorePosterior,
    core_posterior,
    mode_sites,
    row_moments,
)
from bayeskit.models.functional_tucker.low_rank.contractions import (
    pack,
)
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.noise import (
    Gamma,
    noise_posterior,
    weight_posterior,
)

__all__ = ["elbo", "epochs", "update_core", "update_mode", "update_noise"]


def update_mode(
    layout: Layout, model: Model, data: TensorData, beliefs: Beliefs, mode: int, method: str
) -> Beliefs:
    """Return the beliefs with the law of the functions of one mode given all others."""
    sites = mode_sites(
        layout,
        beliefs.core_moments,
        beliefs.factors,
        data,
        data.y,
        beliefs.row_precision(data.weight),
        mode,
    )
    law = mode_posterior(model.kernels[mode], data.grids[mode], sites, method)
    return beliefs._replace(
        modes=_with(beliefs.modes, mode, law), sites=_with(beliefs.sites, mode, sites)
    )


def update_core(layout: Layout, model: Model, data: TensorData, beliefs: Beliefs) -> Beliefs:
    """Return the beliefs with the law of the core given all others."""
    precision = beliefs.row_precision(data.weight)
    core = core_posterior(
        layout, beliefs.factors, data, data.y, precision, model.core_precision
    )
    return beliefs._replace(core=core)


def update_noise(model: Model, data: TensorData, beliefs: Beliefs, squares: Any) -> Beliefs:
    """Return the beliefs with the laws of precision and weights, given squared errors."""
    prior = model.noise
    if not prior.is_known:
        weights = data.weight * (1.0 if beliefs.weights is None else beliefs.weights.mean)
        law = noise_posterior(prior, jnp.sum(data.weight), jnp.sum(weights * squares))
        beliefs = beliefs._replace(precision=law)
    if prior.degrees is not None:
        law = weight_posterior(prior.degrees, beliefs.noise_precision, squares)
        beliefs = beliefs._replace(weights=law)
    return beliefs


def _squares(layout: Layout, data: TensorData, beliefs: Beliefs) -> jax.Array:
    """Return the expected squared errors of rows."""
    mean, variance = row_moments(layout, beliefs.core_moments, beliefs.factors, data.places)
    return (data.y - mean) ** 2 + variance + data.spread


def elbo(
    layout: Layout, model: Model, data: TensorData, beliefs: Beliefs, squares: Any = None
) -> jax.Array:
    """Return the evidence lower bound.

    Parameters
    ----------
    squares : (rows,) array, optional
        Expected squared errors, where they are known already.
    """
    if squares is None:
        squares = _squares(layout, data, beliefs)
    precision = beliefs.precision
    is_known = model.noise.is_known
    mean_log = jnp.log(precision) if is_known else precision.mean_log
    if beliefs.weights is not None:
        mean_log = mean_log + beliefs.weights.mean_log
    normal = mean_log - jnp.log(2.0 * jnp.pi) - beliefs.row_precision(1.0) * squares
    bound = 0.5 * jnp.sum(data.weight * normal)
    for law, sites in zip(beliefs.modes, beliefs.sites, strict=True):
        bound = bound - _mode_divergence(law, sites)
    if beliefs.core is not None:
        bound = bound - _core_divergence(beliefs.core, model.core_precision)
    if not is_known:
        bound = bound - precision.divergence(model.noise.precision)
    if beliefs.weights is not None:
        half = 0.5 * model.noise.degrees
        bound = bound - jnp.sum(data.weight * beliefs.weights.divergence(Gamma(half, half)))
    return bound


def _mode_divergence(law: ModePosterior, sites: ModeSites) -> jax.Array:
    """Return the divergence of prior times sites from the prior."""
    second = law.covariance + law.mean[:, :, None] * law.mean[:, None, :]
    twice_off_diagonal = 2.0 * second - second * jnp.eye(second.shape[-1])
    expected = jnp.sum(sites.shift * law.mean)
    expected = expected - 0.5 * jnp.sum(sites.precision * pack(twice_off_diagonal))
    return expected - law.log_evidence


def _core_divergence(core: CorePosterior, prior_precision: Any) -> jax.Array:
    size = core.precision_factor.shape[0]
    log_determinant = 2.0 * jnp.sum(jnp.log(jnp.diagonal(core.precision_factor)))
    square = jnp.trace(core.covariance) + jnp.sum(core.mean**2)
    scale = jnp.log(prior_precision) - log_determinant
    return 0.5 * (prior_precision * square - size - scale)


def epochs(
    layout: Layout,
    model: Model,
    data: TensorData,
    beliefs: Beliefs,
    num: int,
    method: str = "auto",
    noise_from: Any = 0,
) -> tuple[Beliefs, jax.Array]:
    """Update every part in turn, again and again.

    Parameters
    ----------
    num : int
    noise_from : int
        Precision and weights stay where they are before this epoch.

    Returns
    -------
    beliefs : Beliefs
    bounds : (num,) array
        The evidence lower bound after each epoch.
    """

    def one(now: Beliefs, epoch: Any) -> tuple[Beliefs, jax.Array]:
        if layout.num_modes + layout.has_core > 1:
            now = balanced(layout, model.core_precision, data, now)
        for mode in range(layout.num_modes):
            now = update_mode(layout, model, data, now, mode, method)
        if layout.has_core:
            now = update_core(layout, model, data, now)
        squares = _squares(layout, data, now)
        learned = update_noise(model, data, now, squares)
        is_learned = epoch >= noise_from
        now = jax.tree.map(lambda new, old: jnp.where(is_learned, new, old), learned, now)
        return now, elbo(layout, model, data, now, squares)

    return lax.scan(one, beliefs, jnp.arange(num))


def _with(parts: tuple, place: int, part: Any) -> tuple:
    return (*parts[:place], part, *parts[place + 1 :])
