"""Kalman filters and the evidence of linear Gaussian chains, in time order and in parallel."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, lu_factor, lu_solve, solve_triangular

from bayeskit.accel.time.associative import block_of, blocked_associative_scan, by_method
from bayeskit.accel.time.chain import (
    GaussianChain,
    GaussianSites,
    LinearObservations,
    stacked,
)

__all__ = [
    "Filtered",
    "add_up",
    "kalman_filter",
    "kalman_log_evidence",
    "kalman_predict",
    "kalman_update",
]


class Filtered(NamedTuple):
    """The law of each state given what was seen up to its time, and before it.

    Parameters
    ----------
    mean : (num_steps, dim) array
        Given observations 0, ..., t.
    covariance : (num_steps, dim, dim) array
    predicted_mean : (num_steps, dim) array
        Given observations 0, ..., t - 1.
    predicted_covariance : (num_steps, dim, dim) array
    log_likelihood : (num_steps,) array
        Of observation t given those before.
    """

    mean: jax.Array
    covariance: jax.Array
    predicted_mean: jax.Array
    predicted_covariance: jax.Array
    log_likelihood: jax.Array

    @property
    def log_evidence(self) -> jax.Array:
        """Log likelihood of all observations."""
        return add_up(self.log_likelihood)


def kalman_filter(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    *,
    method: str = "auto",
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

    Returns
    -------
    Filtered

    Raises
    ------
    InvalidDataError
        For shapes that do not fit; the message names the field.
    TypeError
        For observations of another type.

    Notes
    -----
    O(num_steps dim³). The parallel form does about ten times the arithmetic in
    :math:`O(\log T)` steps one after another. Batches go through ``jax.vmap``.

    References
    ----------
    Kalman (1960); Särkkä & García-Fernández (2021), *Temporal parallelization of Bayesian
    smoothers*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, LinearObservations, kalman_filter
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> seen = LinearObservations(jnp.array([[2.0], [jnp.nan], [3.0]]), one, one)
    >>> kalman_filter(walk, seen).mean[:, 0].round(3)
    Array([1.   , 1.   , 2.429], dtype=float32)
    """
    steps, seen = stacked(chain, observations)
    return by_method(method, _sequential, _parallel, steps, seen)


def kalman_log_evidence(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    *,
    method: str = "auto",
) -> jax.Array:
    r"""Return the log evidence of what is observed of a linear Gaussian chain.

    .. math:: \log p(y_{0:T-1}) \quad\text{or}\quad
        \log \mathrm{E} \prod_t g_t(x_t) \text{ for GaussianSites}

    Parameters
    ----------
    chain : GaussianChain
    observations : LinearObservations or GaussianSites
    method : {"auto", "sequential", "parallel"}
        See :func:`kalman_filter`.

    Returns
    -------
    () array

    Notes
    -----
    Differentiable in every argument. For sites that stand for N normal observations of
    precision τ, add :math:`\tfrac{N}{2} \log\frac{\tau}{2\pi} - \tfrac{\tau}{2} \sum y^2`.
    """
    return kalman_filter(chain, observations, method=method).log_evidence


def kalman_predict(
    mean: jax.Array,
    covariance: jax.Array,
    transition: jax.Array,
    offset: jax.Array,
    noise: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the mean F m + b and the covariance F P F' + Q one step ahead.

    Parameters
    ----------
    mean : (dim,) array m
    covariance : (dim, dim) array P
    transition : (dim, dim) array F
    offset : (dim,) array b
    noise : (dim, dim) array Q
    """
    return transition @ mean + offset, transition @ covariance @ transition.T + noise


def kalman_update(
    mean: jax.Array, covariance: jax.Array, observation: LinearObservations | GaussianSites
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Return mean, covariance and log likelihood after what is observed of one state.

    Parameters
    ----------
    mean : (dim,) array
    covariance : (dim, dim) array
    observation : LinearObservations or GaussianSites
        Of one time, every field given, without the axis of time.

    Notes
    -----
    With :math:`\ell(\mu) = \log \int N(u; \mu, V) g(u)\, du` at :math:`\mu = H m`,
    :math:`V = H P H'`, let s be its gradient and M minus its Hessian: the new mean is
    :math:`m + P H' s`, and :math:`W = I - P H' M H` takes the covariance to
    :math:`W P W' + P H' N H P`, with N the part of M that the noise makes.
    Both terms are positive semi-definite in any precision (Joseph's form).
    """
    mean, covariance, response = _condition(mean, covariance, observation)
    return mean, covariance, response.log_likelihood


class _Response(NamedTuple):
    """What one observation says of u ~ N(mean, V): value, gradient and curvature of its log.

    ``noise`` is M R M, the part of M = M V M + M R M that is not due to V.
    """

    log_likelihood: jax.Array
    gradient: jax.Array
    curvature: jax.Array
    noise: jax.Array


def _condition(mean, covariance, observation):
    matrix = observation.matrix
    cross = covariance @ matrix.T
    response = _respond(observation, matrix @ mean, matrix @ cross)
    keep = jnp.eye(mean.shape[0], dtype=mean.dtype) - cross @ response.curvature @ matrix
    spread = keep @ covariance @ keep.T + cross @ response.noise @ cross.T
    return mean + cross @ response.gradient, _symmetric(spread), response


def _respond(observation, mean, covariance) -> _Response:
    if isinstance(observation, GaussianSites):
        return _respond_to_site(observation, mean, covariance)
    values, _, noise, offset = observation
    seen = ~jnp.isnan(values)
    both = seen[:, None] & seen
    residual = jnp.where(seen, values - offset - mean, 0.0)
    # A coordinate that was not seen is as if pure noise of variance 1 equalled its mean.
    spread = jnp.where(both, covariance + noise, jnp.diag(jnp.where(seen, 0.0, 1.0)))
    factor = jnp.linalg.cholesky(spread)
    inverse = cho_solve((factor, True), jnp.eye(mean.shape[0], dtype=mean.dtype))
    gradient = cho_solve((factor, True), residual)
    white = solve_triangular(factor, residual, lower=True)
    log_root = jnp.sum(jnp.log(jnp.diagonal(factor)))
    constant = 0.5 * jnp.sum(seen) * jnp.log(2 * jnp.pi)
    log_likelihood = -0.5 * white @ white - log_root - constant
    curvature = jnp.where(both, inverse, 0.0)
    noise = curvature @ jnp.where(both, noise, 0.0) @ curvature
    return _Response(log_likelihood, gradient, curvature, noise)


def _respond_to_site(site: GaussianSites, mean, covariance) -> _Response:
    shift, precision, _ = site
    identity = jnp.eye(mean.shape[0], dtype=mean.dtype)
    factor = lu_factor(identity + precision @ covariance)
    solved = lu_solve(factor, identity)
    residual = shift - precision @ mean
    gradient = lu_solve(factor, residual)
    curvature = _symmetric(solved @ precision)
    # The eigenvalues of I + Λ V are at least 1, so its determinant is positive.
    log_determinant = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factor[0]))))
    # In terms of the residual no large terms cancel but those of the definition.
    log_likelihood = (
        shift @ mean
        - 0.5 * mean @ precision @ mean
        + 0.5 * residual @ covariance @ gradient
        - 0.5 * log_determinant
    )
    return _Response(log_likelihood, gradient, curvature, solved @ precision @ solved.T)


def _symmetric(matrix: jax.Array) -> jax.Array:
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


def _sequential(steps, observations) -> Filtered:
    def advance(moments, inputs):
        step, observation = inputs
        predicted = kalman_predict(*moments, *step)
        mean, covariance, log_likelihood = kalman_update(*predicted, observation)
        return (mean, covariance), Filtered(mean, covariance, *predicted, log_likelihood)

    start = jax.tree.map(lambda x: jnp.zeros_like(x[0]), steps[1:])
    return lax.scan(advance, start, (steps, observations))[1]


class _Element(NamedTuple):
    """The law of a state and the likelihood of a stretch, given the state before it.

    Given x before, the state is N(A x + b, C) after the observations of the stretch, whose
    likelihood is exp(eta' x - x' J x / 2) up to a constant.
    """

    A: jax.Array
    b: jax.Array
    C: jax.Array
    eta: jax.Array
    J: jax.Array


def _element(step, observation) -> _Element:
    transition, offset, noise = step
    matrix = observation.matrix
    mean, covariance, response = _condition(offset, noise, observation)
    ahead = matrix @ transition
    keep = transition - noise @ matrix.T @ response.curvature @ ahead
    return _Element(
        keep,
        mean,
        covariance,
        ahead.T @ response.gradient,
        ahead.T @ response.curvature @ ahead,
    )


def _combine(i: _Element, j: _Element) -> _Element:
    identity = jnp.eye(i.b.shape[0], dtype=i.b.dtype)
    factor = lu_factor(identity + i.C @ j.J)
    passed = lu_solve(factor, i.A)
    returned = lu_solve(factor, j.eta - j.J @ i.b, trans=1)
    return _Element(
        j.A @ passed,
        j.A @ lu_solve(factor, i.b + i.C @ j.eta) + j.b,
        _symmetric(j.A @ lu_solve(factor, i.C) @ j.A.T) + j.C,
        i.A.T @ returned + i.eta,
        _symmetric(i.A.T @ j.J @ passed) + i.J,
    )


def _parallel(steps, observations) -> Filtered:
    elements = jax.vmap(_element)(steps, observations)
    block = block_of("parallel", elements.b.shape[0])
    products = blocked_associative_scan(_combine, elements, block)
    mean, covariance = products.b, products.C

    # The first step forgets where it comes from, so any moments may stand before time 0.
    def before(x):
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    predicted = jax.vmap(kalman_predict)(before(mean), before(covariance), *steps)
    log_likelihood = jax.vmap(kalman_update)(*predicted, observations)[2]
    return Filtered(mean, covariance, *predicted, log_likelihood)


def add_up(values: Any) -> jax.Array:
    """Return the sum of a series, in two stages so that float32 does not drift."""
    (num,) = values.shape
    length = max(int(num**0.5), 1)
    padded = jnp.pad(values, (0, -num % length))
    return jnp.sum(jnp.sum(padded.reshape(-1, length), axis=1))
