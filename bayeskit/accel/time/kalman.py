"""Kalman filters, smoothers, evidence and exact draws of linear Gaussian chains."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel._checks import as_numbers
from bayeskit.accel.time import covariance_form, square_root_form
from bayeskit.accel.time._checks import refuse_bad_chain, refuse_bad_observations
from bayeskit.accel.time.associative import check_method
from bayeskit.accel.time.chain import (
    Filtered,
    GaussianChain,
    GaussianSites,
    LinearObservations,
    Smoothed,
    stacked,
)
from bayeskit.errors import InvalidDataError

__all__ = ["FORMS", "kalman_filter", "kalman_log_evidence", "kalman_sample", "kalman_smoother"]

FORMS = ("auto", "covariance", "square_root")


def kalman_filter(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    *,
    method: str = "auto",
    form: str = "auto",
) -> Filtered:
    r"""Return the law of each state of a linear Gaussian chain given the past.

    .. math:: m^-_t = F_t m_{t-1} + b_t, \quad P^-_t = F_t P_{t-1} F_t' + Q_t, \qquad
        p(x_t \mid y_{0:t}) = N(m_t, P_t)

    Parameters
    ----------
    chain : GaussianChain
    observations : LinearObservations or GaussianSites
    method : {"auto", "sequential", "parallel"}
        ``"auto"`` is decided when the program is lowered for a platform: sequential on a CPU,
        a scan over associative elements elsewhere.
    form : {"auto", "covariance", "square_root"}
        Whether covariances or their square roots are carried along. ``"auto"`` takes square
        roots in float32, where covariances may lose all their digits.

    Returns
    -------
    Filtered

    Raises
    ------
    InvalidDataError
        For shapes that do not fit, and outside of ``jit`` for numbers that are not finite and
        matrices that are no covariances; the message names the field and the place.
    TypeError
        For observations of another type.
    ValueError
        For an unknown method or form.

    Notes
    -----
    O(num_steps dim³). Inside ``jit``, NaN, infinite and negative variances make the result NaN.
    So does an observation that has no density: of a variance of zero, given those before it.

    The parallel method does several times the arithmetic, in :math:`O(\log T)` steps one after
    another. It is meant for accelerators: on a CPU, JAX 0.10 may wait for ever where two calls
    of LAPACK on batches of several hundred thousand matrices overlap, as they do in a smoother
    of a million steps. Square roots are differentiated as covariances. Batches of chains, such
    as particles, go through ``jax.vmap``.

    References
    ----------
    Kalman (1960); Särkkä & García-Fernández (2021), *Temporal parallelization of Bayesian
    smoothers*; Yaghoobi, Corenflos, Hassan & Särkkä (2022), *Parallel square-root statistical
    linear regression for inference in nonlinear state space models*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, LinearObservations, kalman_filter
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> seen = LinearObservations(jnp.array([[2.0], [jnp.nan], [3.0]]), one, one)
    >>> kalman_filter(walk, seen).mean[:, 0].tolist()
    [1.0, 1.0, 2.429]
    """
    steps, seen, rules = _prepared(chain, observations, method, form)
    return _filtered(steps, seen, rules, method)


def kalman_log_evidence(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    *,
    method: str = "auto",
    form: str = "auto",
) -> jax.Array:
    r"""Return the log evidence of what is observed of a linear Gaussian chain.

    .. math:: \log p(y_{0:T-1}) \quad\text{or}\quad
        \log \mathrm{E} \prod_t g_t(x_t) \text{ for GaussianSites}

    Parameters
    ----------
    chain : GaussianChain
    observations : LinearObservations or GaussianSites
    method : {"auto", "sequential", "parallel"}
    form : {"auto", "covariance", "square_root"}
        See :func:`kalman_filter`.

    Returns
    -------
    () array

    Notes
    -----
    Differentiable in every argument. For sites that stand for N normal observations of
    precision τ, add :math:`\tfrac{N}{2} \log\frac{\tau}{2\pi} - \tfrac{\tau}{2} \sum y^2`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, LinearObservations, kalman_log_evidence
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> seen = LinearObservations(jnp.array([[2.0], [jnp.nan], [3.0]]), one, one)
    >>> round(float(kalman_log_evidence(walk, seen)), 3)
    -4.382
    """
    steps, seen, rules = _prepared(chain, observations, method, form)
    return _log_evidence(steps, seen, rules, method)


def kalman_smoother(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    *,
    method: str = "auto",
    form: str = "auto",
) -> Smoothed:
    r"""Return the law of each state given all observations (Rauch, Tung & Striebel).

    .. math:: E_t = P_t F_{t+1}' (P^-_{t+1})^{-1}, \qquad
        m^s_t = m_t + E_t (m^s_{t+1} - m^-_{t+1}), \qquad
        P^s_t = P_t + E_t (P^s_{t+1} - P^-_{t+1}) E_t'

    Parameters
    ----------
    chain : GaussianChain
    observations : LinearObservations or GaussianSites
    method : {"auto", "sequential", "parallel"}
    form : {"auto", "covariance", "square_root"}
        See :func:`kalman_filter`.

    Returns
    -------
    Smoothed

    Notes
    -----
    O(num_steps dim³). Leave ``method`` at ``"auto"`` on a CPU: :func:`kalman_filter` says where
    the parallel one may wait for ever. The covariance is a sum of positive semi-definite terms,
    so that it stays one. A predicted covariance may be singular: it is raised by rounding
    errors of its size.

    References
    ----------
    Rauch, Tung & Striebel (1965); Särkkä & García-Fernández (2021).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, GaussianSites, kalman_smoother
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> precision = jnp.array([1.0, 0.0, 1.0])[:, None, None]
    >>> known = GaussianSites(jnp.array([[2.0], [0.0], [3.0]]), precision)
    >>> kalman_smoother(walk, known).mean[:, 0].tolist()
    [1.286, 1.857, 2.429]
    """
    steps, seen, rules = _prepared(chain, observations, method, form)
    return _smoothed(steps, seen, rules, method)


def kalman_sample(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    normals: Any,
    *,
    method: str = "auto",
    form: str = "auto",
) -> jax.Array:
    r"""Return draws of all states given all observations: filter forward, sample backward.

    .. math:: x_t \mid x_{t+1}, y_{0:t} \sim N\bigl(m_t + E_t (x_{t+1} - m^-_{t+1}),\;
        P_t - E_t P^-_{t+1} E_t'\bigr)

    Parameters
    ----------
    chain : GaussianChain
    observations : LinearObservations or GaussianSites
    normals : (..., num_steps, dim) array
        Independent standard normals; the draws are linear in them. Zeros give the smoothed
        means.
    method : {"auto", "sequential", "parallel"}
    form : {"auto", "covariance", "square_root"}
        See :func:`kalman_filter`.

    Returns
    -------
    (..., num_steps, dim) array
        A path for each path of normals. The filter runs once for all.

    Raises
    ------
    InvalidDataError
        For normals of another shape.

    References
    ----------
    Carter & Kohn (1994); Frühwirth-Schnatter (1994).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, LinearObservations, kalman_sample
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> seen = LinearObservations(jnp.array([[2.0], [jnp.nan], [3.0]]), one, one)
    >>> kalman_sample(walk, seen, jnp.zeros((3, 1)))[:, 0].tolist()
    [1.286, 1.857, 2.429]
    """
    steps, seen, rules = _prepared(chain, observations, method, form)
    means = steps[1]
    draw = f"jax.random.normal(key, {means.shape})"
    noise = as_numbers(normals, "normals", draw=draw).astype(means.dtype)
    if noise.shape[-2:] != means.shape:
        raise InvalidDataError(
            f"normals must have the shape (..., {means.shape[0]}, {means.shape[1]}), got "
            f"{noise.shape}"
        )
    paths = _sampled(steps, seen, noise.reshape(-1, *means.shape), rules, method)
    return paths.reshape(noise.shape)


# Called outside of jit, a scan of a new function would be compiled at every call.
_compiled = functools.partial(jax.jit, static_argnames=("rules", "method"))


@_compiled
def _filtered(steps, seen, rules, method):
    return rules.filtered(steps, seen, method)


@_compiled
def _log_evidence(steps, seen, rules, method):
    return rules.filtered(steps, seen, method).log_evidence


@_compiled
def _smoothed(steps, seen, rules, method):
    return rules.smoothed(steps, seen, method)


@_compiled
def _sampled(steps, seen, normals, rules, method):
    return rules.sampled(steps, seen, normals, method)


def _prepared(chain, observations, method: str, form: str) -> tuple[Any, Any, ModuleType]:
    """Return stacked arrays, and the module with the rules of the form."""
    check_method(method)
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    steps, seen = stacked(chain, observations)
    refuse_bad_chain(chain)
    refuse_bad_observations(observations)
    if form == "auto":
        form = "square_root" if steps[1].dtype == jnp.float32 else "covariance"
    return steps, seen, square_root_form if form == "square_root" else covariance_form
