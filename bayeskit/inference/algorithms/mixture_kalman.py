"""Rao-Blackwellised filters: regimes are sampled, Gaussian states are integrated out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel import LinearObservations, kalman_predict, kalman_update
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["KalmanParticle", "LinearGaussian", "mixture_kalman_model"]


class LinearGaussian(NamedTuple):
    r"""A linear Gaussian step and observation.

    .. math:: x_t = F x_{t-1} + b + N(0, Q), \qquad y_t = H x_t + c + N(0, R)

    Parameters
    ----------
    transition : (dim, dim) array F
    offset : (dim,) array b
    covariance : (dim, dim) array Q
    observation : (num_observed, dim) array H
    observation_offset : (num_observed,) array c
    observation_covariance : (num_observed, num_observed) array R

    Examples
    --------
    A level that keeps 0.9 of itself, and readings that are 2 too high; the second is missing:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> one, zero, two = jnp.eye(1), jnp.zeros(1), jnp.full(1, 2.0)
    >>> level = bi.LinearGaussian(0.9 * one, zero, 0.1 * one, one, two, one)
    >>> model = bi.mixture_kalman_model(
    ...     initial_regime=lambda key: 0,
    ...     regime_kernel=lambda key, t, regime: 0,
    ...     system=lambda t, regime: level,
    ...     mean=zero,
    ...     covariance=one,
    ...     observations=jnp.array([[3.0], [jnp.nan]]),
    ... )
    >>> first = model.initial(jax.random.key(0))
    >>> second = model.kernel(jax.random.key(0), 1, first)
    >>> first.mean.round(4).tolist(), second.mean.round(4).tolist()
    ([0.5], [0.45])
    """

    transition: Any
    offset: Any
    covariance: Any
    observation: Any
    observation_offset: Any
    observation_covariance: Any


class KalmanParticle(NamedTuple):
    """A regime, and the Gaussian law of the state given all regimes and data so far.

    Parameters
    ----------
    regime : pytree
    mean : (dim,) array
    covariance : (dim, dim) array
    log_likelihood : () array
        Of the last observation given those before and the regimes.

    Examples
    --------
    A state N(0, 1), of which 2 was seen with noise of variance 1:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> one, zero = jnp.eye(1), jnp.zeros(1)
    >>> model = bi.mixture_kalman_model(
    ...     initial_regime=lambda key: 0,
    ...     regime_kernel=lambda key, t, regime: 0,
    ...     system=lambda t, regime: bi.LinearGaussian(one, zero, one, one, zero, one),
    ...     mean=zero,
    ...     covariance=one,
    ...     observations=jnp.array([[2.0]]),
    ... )
    >>> particle = model.initial(jax.random.key(0))
    >>> particle.mean.round(4).tolist(), particle.covariance.round(4).tolist()
    ([1.0], [[0.5]])
    """

    regime: Any
    mean: jax.Array
    covariance: jax.Array
    log_likelihood: jax.Array


def mixture_kalman_model(
    *,
    initial_regime: Callable,
    regime_kernel: Callable,
    system: Callable,
    mean: Any,
    covariance: Any,
    observations: Any,
    name: str = "γ",
) -> FeynmanKac:
    r"""Return the model of a Rao-Blackwellised filter (mixture Kalman filter).

    Given its regimes a conditionally linear Gaussian model is solved by the Kalman filter, so
    particles carry a regime with the mean and covariance that follow from its past, and weigh
    by :math:`p(y_t \mid y_{0:t-1}, r_{0:t})`. The variance that sampling the Gaussian state
    would add is gone.

    Parameters
    ----------
    initial_regime : callable (key) -> regime
    regime_kernel : callable (key, t, regime_previous) -> regime
        Regimes may be any pytree, discrete or not.
    system : callable (t, regime) -> LinearGaussian
        At t = 0 its transition is not used.
    mean, covariance : (dim,) and (dim, dim) arrays
        Of the state at time 0.
    observations : (num_steps, num_observed) array
        NaN means not seen, coordinate by coordinate.
    name : str

    Returns
    -------
    FeynmanKac
        Its particles are :class:`KalmanParticle`. Without ``log_m``: given the past of its
        regimes alone, the next one and its moments have no density.

    Raises
    ------
    ValueError
        If the observations are no matrix.

    Notes
    -----
    O(dim³) a particle and time.

    References
    ----------
    Chen & Liu (2000), *Mixture Kalman filters*; Doucet, de Freitas, Murphy & Russell (2000).

    Examples
    --------
    A random walk whose steps are small or large:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> one, zero = jnp.ones((1, 1)), jnp.zeros(1)
    >>> rare = lambda key: bi.random.accept(key, jnp.log(0.1)).astype(int)
    >>> model = bi.mixture_kalman_model(
    ...     initial_regime=rare,
    ...     regime_kernel=lambda key, t, r: rare(key),
    ...     system=lambda t, r: bi.LinearGaussian(
    ...         one, zero, jnp.where(r == 1, 9.0, 0.1) * one, one, zero, one
    ...     ),
    ...     mean=zero,
    ...     covariance=one,
    ...     observations=jnp.array([[0.3], [jnp.nan], [4.0]]),
    ... )
    >>> bi.run(bi.particle_filter(model, 50), key=0).expectation(lambda p: p.mean).shape
    (1,)
    """
    if jnp.ndim(observations) != 2:
        raise ValueError(
            "observations must have the shape (num_steps, num_observed), got "
            f"{jnp.shape(observations)}"
        )

    def updated(t, regime, step, mean, covariance):
        y = LinearObservations(
            jnp.asarray(observations)[t],
            step.observation,
            step.observation_covariance,
            step.observation_offset,
        )
        return KalmanParticle(regime, *kalman_update(mean, covariance, y))

    def initial(key):
        regime = initial_regime(key)
        start = (jnp.asarray(mean), jnp.asarray(covariance))
        return updated(0, regime, system(0, regime), *start)

    def kernel(key, t, before):
        regime = regime_kernel(key, t, before.regime)
        step = system(t, regime)
        moments = (before.mean, before.covariance)
        predicted = kalman_predict(*moments, step.transition, step.offset, step.covariance)
        return updated(t, regime, step, *predicted)

    return FeynmanKac(
        initial=initial,
        log_g0=lambda x: x.log_likelihood,
        kernel=kernel,
        log_g=lambda t, before, x: x.log_likelihood,
        num_steps=jnp.shape(observations)[0],
        name=name,
    )
