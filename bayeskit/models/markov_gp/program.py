r"""The compiled programs of a Markov Gaussian process: sites, evidence, moments, draws.

Each observation is a site :math:`t_n(f) = \exp(\eta_n f - \Lambda_n f^2/2)`; sites of one
coordinate add up, so that repeats are merged exactly. Normal observations have the sites
:math:`\Lambda = 1/\sigma^2, \eta = y/\sigma^2`. For others the sites are those of the normal
approximation with the largest lower bound of the evidence,

.. math:: \log Z + \sum_n E[\log p(y_n \mid f)] - E[\log t_n(f)] ,

found by natural-gradient steps (Khan & Lin 2017); none is accepted that lowers the bound.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit.accel import (
    Filtered,
    GaussianSites,
    kalman_filter,
    kalman_log_evidence,
    kalman_sample,
    kalman_smoother,
)
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.gp_kernels import FreeParameters, FunctionChain, chain_of
from bayeskit.models.markov_gp.jit_by_work import jit_by_work
from bayeskit.models.markov_gp.rows import Grid, Rows

__all__ = [
    "Data",
    "SiteFit",
    "Sites",
    "function_draws",
    "function_moments",
    "log_evidence",
    "objective",
    "site_fit",
    "sites_of_draws",
    "value_and_sites",
]

_MAX_SITE_STEPS = 200


class Data(NamedTuple):
    """Rows on a grid, and the constant that the process varies about."""

    rows: Rows
    grid: Grid
    offset: Any


class Sites(NamedTuple):
    """Precision and information of the rows, (rows,) each."""

    precision: Any
    information: Any


def _on_grid(sites: Sites, data: Data) -> tuple[jax.Array, jax.Array]:
    """Return the sums of sites at each coordinate, (size, 1, 1) and (size, 1)."""
    size = data.grid.x.shape[0]
    add = functools.partial(jax.ops.segment_sum, segment_ids=data.rows.place, num_segments=size)
    return add(sites.precision)[:, None, None], add(sites.information)[:, None]


def _normal_sites(model: dict, data: Data) -> Sites:
    rows = data.rows
    precision = rows.weight / (model["likelihood"].noise ** 2 + rows.variance)
    return Sites(precision, precision * (rows.y - data.offset))


def _chain(model: dict, data: Data, sites: Sites) -> tuple[FunctionChain, GaussianSites]:
    """Return the chain of the function, and what is known of it at each coordinate."""
    chain = chain_of(model["kernel"], *data.grid)
    precision, information = _on_grid(sites, data)
    return chain, GaussianSites(information, precision, chain.matrix)


def _moments_of(matrix: jax.Array, mean: jax.Array, covariance: jax.Array) -> tuple:
    """Return mean and variance of the function (num,) from those of states."""
    h = matrix[:, 0]
    variance = jnp.einsum("nd,nde,ne->n", h, covariance, h)
    return jnp.einsum("nd,nd->n", h, mean), jnp.maximum(variance, 0.0)


def _predicted(chain: FunctionChain, filtered: Filtered) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance of the function before its own observation."""
    return _moments_of(chain.matrix, filtered.predicted_mean, filtered.predicted_covariance)


def _exact_evidence(model: dict, data: Data, method: str) -> jax.Array:
    """Return the log evidence of normal observations.

    Observations of one coordinate are their weighted mean and the squares about it, so that no
    large numbers cancel where the noise is small.
    """
    rows = data.rows
    sites = _normal_sites(model, data)
    chain, known = _chain(model, data, sites)
    precision, information = known.precision[:, 0, 0], known.shift[:, 0]
    average = information / jnp.where(precision > 0, precision, 1.0)
    within = jnp.sum(sites.precision * (rows.y - data.offset - average[rows.place]) ** 2)
    ones = jnp.where(rows.weight > 0, sites.precision, 2.0 * jnp.pi)
    constant = 0.5 * jnp.sum(jnp.log(ones / (2.0 * jnp.pi))) - 0.5 * within
    filtered = kalman_filter(chain.states, known, method=method)
    mean, variance = _predicted(chain, filtered)
    total = 1.0 + precision * variance
    terms = jnp.log(total) + precision * (average - mean) ** 2 / total
    return constant - 0.5 * jnp.sum(terms)


def _expected(model: dict, data: Data, mean: jax.Array, variance: jax.Array) -> tuple:
    """Return g of each row, and its derivatives by mean and variance."""
    rows = data.rows
    m, v = mean[rows.place], variance[rows.place]
    one = model["likelihood"].expected_log_density
    each = jax.vmap(jax.value_and_grad(one, argnums=(1, 2)))
    value, (by_mean, by_variance) = each(rows.y, m + data.offset, v, rows.variance)
    return value, by_mean, by_variance, m, v


def _log_sites(sites: Sites, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """Return the sum of the expected log sites, for moments at the rows."""
    return jnp.sum(sites.information * mean - 0.5 * sites.precision * (mean**2 + variance))


def _bound(model: dict, data: Data, sites: Sites, method: str) -> tuple:
    """Return the lower bound, the sites that its natural gradient asks for, and moments."""
    rows = data.rows
    chain, known = _chain(model, data, sites)
    smoothed = kalman_smoother(chain.states, known, method=method)
    mean, variance = _moments_of(chain.matrix, smoothed.mean, smoothed.covariance)
    value, by_mean, by_variance, m, v = _expected(model, data, mean, variance)
    bound = smoothed.log_evidence + jnp.sum(rows.weight * value) - _log_sites(sites, m, v)
    wanted = -2.0 * by_variance
    target = Sites(rows.weight * wanted, rows.weight * (by_mean + wanted * m))
    return bound, target, mean, variance


def _bound_at(model: dict, data: Data, found: SiteFit, method: str) -> jax.Array:
    r"""Return the lower bound at the best sites, with the gradient that it has there.

    The posterior is q, and moves with the hyper-parameters. But its moments enter the bound
    through :math:`E_q[\log p(y_n \mid f) - \log t_n(f)]`, whose derivatives by them are zero at
    the best sites. What is left is the evidence of the sites, which needs a filter alone, and
    the likelihood's own parameters.
    """
    rows = data.rows
    chain, known = _chain(model, data, found.sites)
    m, v = found.mean[rows.place], found.variance[rows.place]
    one = model["likelihood"].expected_log_density
    value = jax.vmap(one)(rows.y, m + data.offset, v, rows.variance)
    log_sites = _log_sites(found.sites, m, v)
    evidence = kalman_log_evidence(chain.states, known, method=method)
    return evidence + jnp.sum(rows.weight * value) - log_sites


class SiteFit(NamedTuple):
    """The best sites, moments of the function on the grid, and how far these still moved."""

    sites: Sites
    mean: jax.Array
    variance: jax.Array
    change: jax.Array


class _Search(NamedTuple):
    sites: Sites
    bound: jax.Array
    target: Sites
    mean: jax.Array
    variance: jax.Array
    step: jax.Array
    change: jax.Array
    steps: jax.Array


def site_fit(model: dict, data: Data, start: Sites, method: str) -> SiteFit:
    """Return the best sites from a start."""
    dtype = data.rows.y.dtype
    # About the square root of the rounding error: what a bound can tell.
    slack, tolerance = (1e-9, 1e-9) if dtype == jnp.float64 else (1e-4, 1e-4)

    def is_open(search):
        # The first turn only finds where the start leads.
        moving = (search.change > tolerance) | (search.steps < 2)
        return moving & (search.step > 1e-4) & (search.steps < _MAX_SITE_STEPS)

    def advance(search):
        mixed = jax.tree.map(
            lambda old, new: (1.0 - search.step) * old + search.step * new,
            search.sites,
            search.target,
        )
        bound, target, mean, variance = _bound(model, data, mixed, method)
        accepted = bound >= search.bound - slack * (1.0 + jnp.abs(search.bound))
        scale = 1.0 + jnp.max(jnp.abs(search.mean))
        change = jnp.max(jnp.abs(mean - search.mean)) / (search.step * scale)
        step = jnp.where(accepted, jnp.minimum(1.0, 1.5 * search.step), 0.5 * search.step)
        new = _Search(mixed, bound, target, mean, variance, step, change, search.steps + 1)
        old = search._replace(step=step, steps=search.steps + 1)
        return jax.tree.map(functools.partial(jnp.where, accepted), new, old)

    first = _Search(
        start,
        jnp.asarray(-jnp.inf, dtype),
        start,
        jnp.zeros_like(data.grid.x),
        # Where no bound is a number, that at the end shall be none.
        jnp.full_like(data.grid.x, jnp.nan),
        jnp.asarray(0.5, dtype),
        jnp.asarray(jnp.inf, dtype),
        jnp.zeros((), jnp.int32),
    )
    last = lax.while_loop(is_open, advance, first)
    return SiteFit(last.sites, last.mean, last.variance, last.change)


def value_and_sites(u, free: FreeParameters, data: Data, start: Sites, method: str) -> tuple:
    """Return log evidence, or its bound, the sites of it, and how far these still moved."""
    model = free.fill(u)
    if model["likelihood"].is_exact:
        exact = _exact_evidence(model, data, method)
        return exact, (_normal_sites(model, data), jnp.zeros_like(exact))
    found = lax.stop_gradient(site_fit(*lax.stop_gradient((model, data, start)), method))
    return _bound_at(model, data, found, method), (found.sites, found.change)


@jit_by_work(static_argnames="method", is_search=True)
def objective(u, free: FreeParameters, data: Data, start: Sites, method: str) -> tuple:
    """Return log evidence, its gradient by u, the sites, and how far these still moved."""
    (value, (sites, change)), gradient = jax.value_and_grad(value_and_sites, has_aux=True)(
        u, free, data, start, method
    )
    return value, gradient, sites, change


@jit_by_work(static_argnames="method")
def log_evidence(u, free: FreeParameters, data: Data, start: Sites, method: str) -> tuple:
    """Return what :func:`objective` does, without a gradient."""
    value, (sites, change) = value_and_sites(u, free, data, start, method)
    return value, jnp.zeros_like(u), sites, change


@jit_by_work(static_argnames=("method", "by_term"))
def function_moments(
    u, free: FreeParameters, data: Data, sites: Sites, method: str, by_term: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance of the function without offset on the grid.

    Parameters
    ----------
    u : (draws, num_free) array
    sites : Sites of (draws, rows) arrays
    by_term : bool
        For each summand of the kernel.

    Returns
    -------
    mean, variance : (draws, size) or (draws, terms, size) arrays
    """

    def one(inputs):
        u, sites = inputs
        model = free.fill(u)
        chain, known = _chain(model, data, sites)
        smoothed = kalman_smoother(chain.states, known, method=method)
        h = chain.matrix[:, 0]
        if by_term:
            sizes = [term.dim for term in model["kernel"].terms]
            owner = np.repeat(np.arange(len(sizes)), sizes)
            h = h * (owner == np.arange(len(sizes))[:, None])[:, None, :]
        variance = jnp.einsum("...nd,nde,...ne->...n", h, smoothed.covariance, h)
        return jnp.einsum("...nd,nd->...n", h, smoothed.mean), jnp.maximum(variance, 0.0)

    return lax.map(one, (u, sites))


@jit_by_work(static_argnames="method")
def function_draws(
    u,
    free: FreeParameters,
    data: Data,
    sites: Sites,
    normals: jax.Array,
    method: str,
) -> jax.Array:
    """Return joint draws of the function without offset on the grid, (draws, paths, size).

    Parameters
    ----------
    u : (draws, num_free) array
    sites : Sites of (draws, rows) arrays
    normals : (draws, paths, size, dim) array
    """

    def one(inputs):
        u, sites, normals = inputs
        chain, known = _chain(free.fill(u), data, sites)
        paths = kalman_sample(chain.states, known, normals, method=method)
        return jnp.einsum("nd,pnd->pn", chain.matrix[:, 0], paths)

    return lax.map(one, (u, sites, normals))


@quick_jit(static_argnames="method")
def sites_of_draws(u, free: FreeParameters, data: Data, start: Sites, method: str) -> Sites:
    """Return the sites for each of several hyper-parameters u (draws, num_free)."""

    def one(u):
        model = free.fill(u)
        if model["likelihood"].is_exact:
            return _normal_sites(model, data)
        return site_fit(model, data, start, method).sites

    return lax.map(one, u)
