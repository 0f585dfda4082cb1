"""Gaussian dynamics, and log-quadratic functions that twist them and are learned."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel import GaussianSites, kalman_update
from bayeskit.inference import random
from bayeskit.inference.algorithms.twisted import twisted_model
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.population import History

__all__ = ["GaussianDynamics", "LogQuadratic", "learned_twist"]


class LogQuadratic(NamedTuple):
    r"""Functions :math:`\log \psi_t(x) = -\tfrac12 x' A_t x + b_t' x`.

    Parameters
    ----------
    curvature : (num_steps, dim, dim) array, positive semi-definite
    slope : (num_steps, dim) array

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> psi = bi.LogQuadratic(curvature=jnp.array([[[2.0]]]), slope=jnp.array([[1.0]]))
    >>> float(psi(0, jnp.array([3.0])))
    -6.0
    """

    curvature: jax.Array
    slope: jax.Array

    def __call__(self, t: Any, x: jax.Array) -> jax.Array:
        """Return log psi at time t."""
        return self.slope[t] @ x - 0.5 * x @ self.curvature[t] @ x


@dataclass(frozen=True, eq=False)
class GaussianDynamics:
    r"""States that move by Gaussian steps: :math:`x_t \sim N(f_t(x_{t-1}), Q_t)`.

    Parameters
    ----------
    initial_mean : (dim,) array
    initial_covariance : (dim, dim) array, positive definite
    mean : callable (t, x_previous) -> (dim,) array
    covariance : callable (t) -> (dim, dim) array, positive definite
    log_potential : callable (t, x) -> () array
        Such as the log likelihood of the observation at time t.
    num_steps : int

    Examples
    --------
    Steps to :math:`x/2` with variance 1. From 2 they lead to N(1, 1), under which the mean of
    :math:`e^{-x^2/2}` has the logarithm :math:`-\tfrac14 - \tfrac12 \log 2`:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> dynamics = bi.GaussianDynamics(
    ...     initial_mean=jnp.zeros(1),
    ...     initial_covariance=jnp.eye(1),
    ...     mean=lambda t, x: 0.5 * x,
    ...     covariance=lambda t: jnp.eye(1),
    ...     log_potential=lambda t, x: -0.5 * x[0] ** 2,
    ...     num_steps=3,
    ... )
    >>> psi = bi.LogQuadratic(jnp.ones((3, 1, 1)), jnp.zeros((3, 1)))
    >>> round(float(dynamics.log_mean(psi, 1, jnp.array([2.0]))), 3)
    -0.597
    """

    initial_mean: Any
    initial_covariance: Any
    mean: Callable
    covariance: Callable
    log_potential: Callable
    num_steps: int

    @property
    def flat(self) -> LogQuadratic:
        """Twisting functions of 1, which change nothing."""
        dim = jnp.shape(self.initial_mean)[0]
        zeros = jnp.zeros((self.num_steps, dim, dim), jnp.result_type(float))
        return LogQuadratic(zeros, zeros[:, 0])

    def start(self) -> tuple[jax.Array, jax.Array]:
        """Return mean and covariance at time 0, in the precision of the program at hand."""
        dtype = jnp.result_type(float)
        initial = (self.initial_mean, self.initial_covariance)
        return jnp.asarray(initial[0], dtype), jnp.asarray(initial[1], dtype)

    def model(self) -> FeynmanKac:
        """Return the Feynman-Kac model, not twisted; always the same, as laws speak of it."""
        return self._model

    @functools.cached_property
    def _model(self) -> FeynmanKac:
        return FeynmanKac(
            initial=lambda key: _normal(key, *self.start()),
            log_g0=lambda x: self.log_potential(0, x),
            kernel=lambda key, t, x: _normal(key, self.mean(t, x), self.covariance(t)),
            log_g=lambda t, before, x: self.log_potential(t, x),
            num_steps=self.num_steps,
        )

    def log_mean(self, psi: LogQuadratic, t: Any, before: jax.Array) -> jax.Array:
        r"""Return :math:`\log M_t(\psi_t)(x_{t-1})`."""
        t = jnp.minimum(t, self.num_steps - 1)
        return _tilted(psi, t, self.mean(t, before), self.covariance(t))[2]

    def twisted(self, psi: LogQuadratic) -> FeynmanKac:
        """Return the model with its dynamics twisted by log-quadratic functions."""

        def kernel(key, t, before):
            tilted = _tilted(psi, t, self.mean(t, before), self.covariance(t))
            return _normal(key, *tilted[:2])

        return twisted_model(
            self.model(),
            log_psi=lambda t, x: psi(t, x),
            initial=lambda key: _normal(key, *_tilted(psi, 0, *self.start())[:2]),
            kernel=kernel,
            log_initial_mean=lambda: _tilted(psi, 0, *self.start())[2],
            log_kernel_mean=lambda t, before: self.log_mean(psi, t, before),
        )


def _normal(key: Any, mean: jax.Array, covariance: jax.Array) -> jax.Array:
    noise = random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.linalg.cholesky(covariance) @ noise


def _tilted(psi: LogQuadratic, t: Any, mean: jax.Array, covariance: jax.Array) -> Any:
    """Return the moments of N(mean, covariance) times psi, and the log of its integral."""
    identity = jnp.eye(mean.shape[0], dtype=mean.dtype)
    site = GaussianSites(psi.slope[t], psi.curvature[t], identity)
    return kalman_update(mean, covariance, site)


def learned_twist(
    dynamics: GaussianDynamics, psi: LogQuadratic, history: History
) -> LogQuadratic:
    r"""Return twisting functions fitted to the particles of a filter, from the end backwards.

    .. math:: \log \psi_t(x) \approx \log G_t(x) + \log M_{t+1}(\psi_{t+1})(x)

    at the particles of time t, by least squares. Curvatures are made positive semi-definite.

    Parameters
    ----------
    dynamics : GaussianDynamics
    psi : LogQuadratic
        Gives the shapes.
    history : History

    References
    ----------
    Guarniero, Johansen & Lee (2017), algorithm 4; Heng et al. (2020), algorithm 3.
    """
    last = dynamics.num_steps - 1

    def back(later, t):
        particles = history.particles[t]
        log_mean = jax.vmap(lambda x: dynamics.log_mean(later, t + 1, x))(particles)
        log_potential = jax.vmap(lambda x: dynamics.log_potential(t, x))(particles)
        values = log_potential + jnp.where(t < last, log_mean, 0.0)
        curvature, slope = _fitted(particles, values)
        now = LogQuadratic(later.curvature.at[t].set(curvature), later.slope.at[t].set(slope))
        return now, None

    times = jnp.arange(dynamics.num_steps, dtype=jnp.int32)
    return lax.scan(back, psi, times, reverse=True)[0]


def _fitted(particles: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return curvature and slope of the quadratic that fits values at particles best."""
    dim = particles.shape[1]
    centre = jnp.mean(particles, axis=0)
    scale = jnp.std(particles, axis=0) + jnp.finfo(particles.dtype).tiny
    z = (particles - centre) / scale
    rows, columns = jnp.triu_indices(dim)
    features = jnp.concatenate([jnp.ones_like(z[:, :1]), z, z[:, rows] * z[:, columns]], axis=1)
    finite = jnp.isfinite(values)
    features = jnp.where(finite[:, None], features, 0.0)
    coefficients = jnp.linalg.lstsq(features, jnp.where(finite, values, 0.0))[0]
    upper = (
        jnp.zeros((dim, dim), particles.dtype).at[rows, columns].set(coefficients[1 + dim :])
    )
    # Eigenvalues below zero would make psi grow without bound.
    eigenvalues, vectors = jnp.linalg.eigh(-(upper + upper.T))
    curvature = (vectors * jnp.maximum(eigenvalues, 0.0)) @ vectors.T
    curvature = curvature / jnp.outer(scale, scale)
    return curvature, coefficients[1 : 1 + dim] / scale + curvature @ centre
