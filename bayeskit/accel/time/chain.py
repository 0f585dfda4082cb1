"""Linear Gaussian chains, what is observed of them, and the laws of their states."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.errors import InvalidDataError

__all__ = ["Filtered", "GaussianChain", "GaussianSites", "LinearObservations", "Smoothed"]


class GaussianChain(NamedTuple):
    r"""A linear Gaussian Markov chain.

    .. math:: x_0 \sim N(m_0, P_0), \qquad x_t = F_t x_{t-1} + b_t + N(0, Q_t), \quad t \ge 1

    Parameters
    ----------
    initial_mean : (dim,) array
    initial_covariance : (dim, dim) array, positive semi-definite
    transition : (num_steps - 1, dim, dim) array, or (dim, dim) if constant
        Entry t - 1 leads from time t - 1 to time t.
    covariance : (num_steps - 1, dim, dim) array, or (dim, dim), positive semi-definite
        Of the noise of each step.
    offset : (num_steps - 1, dim) array, or (dim,), optional
        Zero by default.

    Examples
    --------
    A stationary autoregression:

    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain
    >>> chain = GaussianChain(
    ...     jnp.zeros(1), jnp.eye(1), 0.8 * jnp.eye(1), 0.36 * jnp.eye(1)
    ... )
    """

    initial_mean: Any
    initial_covariance: Any
    transition: Any
    covariance: Any
    offset: Any = None


class LinearObservations(NamedTuple):
    r"""Observations that are linear in the state, with Gaussian noise.

    .. math:: y_t = H_t x_t + c_t + N(0, R_t)

    Parameters
    ----------
    values : (num_steps, num_observed) array
        NaN means not seen, coordinate by coordinate.
    matrix : (num_steps, num_observed, dim) array, or (num_observed, dim) if constant
    covariance : (num_steps, num_observed, num_observed) array, or without the axis of time
        May be arbitrarily close to singular.
    offset : (num_steps, num_observed) array, or (num_observed,), optional
        Zero by default.

    Examples
    --------
    Twice the state and 1 more, almost without noise, seen at two of three times:

    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, LinearObservations, kalman_filter
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> values = jnp.array([[5.0], [jnp.nan], [7.0]])
    >>> seen = LinearObservations(values, 2 * one, 1e-6 * one, jnp.ones(1))
    >>> kalman_filter(walk, seen).mean[:, 0].round(3).tolist()
    [2.0, 2.0, 3.0]
    """

    values: Any
    matrix: Any
    covariance: Any
    offset: Any = None


class GaussianSites(NamedTuple):
    r"""What is known of each state, as natural parameters of :math:`u_t = H_t x_t`.

    .. math:: g_t(x_t) = \exp\bigl(\eta_t' u_t - \tfrac12 u_t' \Lambda_t u_t\bigr)

    The precision is never inverted: zero says that nothing is known at that time, and any
    positive semi-definite matrix is allowed. Observations :math:`y = u + N(0, R)` are
    :math:`\Lambda = R^{-1}`, :math:`\eta = R^{-1} y`, up to a constant factor; observations of
    the same u add up.

    Parameters
    ----------
    shift : (num_steps, num_observed) array η
    precision : (num_steps, num_observed, num_observed) array Λ, or without the axis of time
    matrix : (num_steps, num_observed, dim) array H, or (num_observed, dim), optional
        The identity by default: u is the state.

    Examples
    --------
    Known to be about 2, with precision 1, at the first of three times; the prior is N(0, 1):

    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, GaussianSites, kalman_smoother
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> precision = jnp.array([1.0, 0.0, 0.0])[:, None, None]
    >>> known = GaussianSites(jnp.array([[2.0], [0.0], [0.0]]), precision)
    >>> result = kalman_smoother(walk, known)
    >>> result.mean[:, 0].tolist(), result.covariance[:, 0, 0].tolist()
    ([1.0, 1.0, 1.0], [0.5, 1.5, 2.5])
    """

    shift: Any
    precision: Any
    matrix: Any = None


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

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, LinearObservations, kalman_filter
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> seen = LinearObservations(jnp.array([[2.0], [jnp.nan], [3.0]]), one, one)
    >>> result = kalman_filter(walk, seen)
    >>> result.predicted_covariance[:, 0, 0].tolist(), result.covariance[:, 0, 0].tolist()
    ([1.0, 1.5, 2.5], [0.5, 1.5, 0.7143])
    >>> result.log_likelihood.round(3).tolist()
    [-2.266, 0.0, -2.117]
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


class Smoothed(NamedTuple):
    """The law of each state, and of each pair of neighbours, given everything seen.

    Parameters
    ----------
    mean : (num_steps, dim) array
    covariance : (num_steps, dim, dim) array
    lag_one_covariance : (num_steps - 1, dim, dim) array
        Entry t is the covariance of state t + 1 (rows) with state t (columns).
    log_likelihood : (num_steps,) array
        Of observation t given those before.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianChain, LinearObservations, kalman_smoother
    >>> one = jnp.eye(1)
    >>> walk = GaussianChain(jnp.zeros(1), one, one, one)
    >>> seen = LinearObservations(jnp.array([[2.0], [jnp.nan], [3.0]]), one, one)
    >>> result = kalman_smoother(walk, seen)
    >>> result.mean[:, 0].round(3).tolist()
    [1.286, 1.857, 2.429]
    >>> result.lag_one_covariance[:, 0, 0].round(3).tolist()
    [0.286, 0.429]
    """

    mean: jax.Array
    covariance: jax.Array
    lag_one_covariance: jax.Array
    log_likelihood: jax.Array

    @property
    def log_evidence(self) -> jax.Array:
        """Log likelihood of all observations."""
        return add_up(self.log_likelihood)


def add_up(values: jax.Array) -> jax.Array:
    """Return the sums along the last axis, in two stages so that float32 does not drift."""
    *shape, num = values.shape
    length = max(int(num**0.5), 1)
    padded = jnp.pad(values, [(0, 0)] * len(shape) + [(0, -num % length)])
    return jnp.sum(jnp.sum(padded.reshape(*shape, -1, length), axis=-1), axis=-1)


def stacked_chain(chain: GaussianChain, num_steps: int, dtype: Any) -> tuple[jax.Array, ...]:
    """Return F (num_steps, dim, dim), b and Q of a chain that starts before time 0.

    Its first step forgets where it comes from: F = 0, b the initial mean, Q the initial
    covariance. Time 0 is then no special case.
    """
    mean = _array(chain.initial_mean, dtype)
    dim = _dim_of(chain)
    first = _covariances(chain.initial_covariance, dtype)
    start = _at_each_step(first, "initial_covariance", 1, (dim, dim), dtype)
    steps = num_steps - 1
    transition = _at_each_step(chain.transition, "transition", steps, (dim, dim), dtype)
    noise = _covariances(chain.covariance, dtype)
    covariance = _at_each_step(noise, "covariance", steps, (dim, dim), dtype)
    zero = jnp.zeros(dim, dtype)
    offset = _at_each_step(_given(chain.offset, zero), "offset", steps, (dim,), dtype)
    return (
        jnp.concatenate([jnp.zeros((1, dim, dim), dtype), transition]),
        jnp.concatenate([mean[None], offset]),
        jnp.concatenate([start, covariance]),
    )


def stacked_observations(
    observations: LinearObservations | GaussianSites, dim: int, dtype: Any
) -> LinearObservations | GaussianSites:
    """Return the same with every field an array with the axis of time."""
    if isinstance(observations, GaussianSites):
        shift = _series(observations.shift, "shift", dtype)
        num_steps, size = shift.shape
        identity = jnp.eye(size, dtype=dtype)
        matrix = _given(observations.matrix, identity)
        return GaussianSites(
            shift,
            _at_each_step(observations.precision, "precision", num_steps, (size, size), dtype),
            _at_each_step(matrix, "matrix", num_steps, (size, dim), dtype),
        )
    values = _series(observations.values, "values", dtype)
    num_steps, size = values.shape
    offset = _given(observations.offset, jnp.zeros(size, dtype))
    noise = _at_each_step(
        _covariances(observations.covariance, dtype),
        "covariance of observations",
        num_steps,
        (size, size),
        dtype,
    )
    return LinearObservations(
        values,
        _at_each_step(observations.matrix, "matrix", num_steps, (size, dim), dtype),
        noise,
        _at_each_step(offset, "offset of observations", num_steps, (size,), dtype),
    )


def stacked(
    chain: GaussianChain, observations: LinearObservations | GaussianSites
) -> tuple[tuple[jax.Array, ...], LinearObservations | GaussianSites]:
    """Return chain and observations with every field an array with the axis of time."""
    if not isinstance(observations, LinearObservations | GaussianSites):
        raise TypeError(
            "observations must be LinearObservations or GaussianSites, got "
            f"{type(observations).__name__}"
        )
    if not isinstance(chain, GaussianChain):
        raise TypeError(f"chain must be a GaussianChain, got {type(chain).__name__}")
    leaves = map(jnp.asarray, jax.tree.leaves((chain, observations)))
    dtype = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"chain and observations must be real, got dtype {dtype}")
    seen = stacked_observations(observations, _dim_of(chain), dtype)
    return stacked_chain(chain, seen[0].shape[0], dtype), seen


def _dim_of(chain: GaussianChain) -> int:
    shape = jnp.shape(chain.initial_mean)
    if len(shape) != 1 or shape[0] == 0:
        raise InvalidDataError(f"initial_mean must have the shape (dim,), got {shape}")
    return shape[0]


def _given(value: Any, default: jax.Array) -> Any:
    return default if value is None else value


def _array(value: Any, dtype: Any) -> jax.Array:
    return jnp.asarray(value).astype(dtype)


def _covariances(value: Any, dtype: Any) -> jax.Array:
    """Return an array that is NaN where a variance is negative: no form may overlook it."""
    array = _array(value, dtype)
    if array.ndim < 2:
        return array
    variances = jnp.diagonal(array, axis1=-2, axis2=-1)
    is_negative = jnp.any(variances < 0, axis=-1)[..., None, None]
    return jnp.where(is_negative, jnp.nan, array)


def _series(value: Any, name: str, dtype: Any) -> jax.Array:
    array = _array(value, dtype)
    if array.ndim != 2 or 0 in array.shape:
        raise InvalidDataError(
            f"{name} must have the shape (num_steps, num_observed), with a step and a "
            f"coordinate at least, got {array.shape}"
        )
    return array


def _at_each_step(
    value: Any, name: str, num_steps: int, shape: tuple[int, ...], dtype: Any
) -> jax.Array:
    array = _array(value, dtype)
    if array.shape not in (shape, (num_steps, *shape)):
        raise InvalidDataError(
            f"{name} must have the shape {shape} or {(num_steps, *shape)}, got {array.shape}"
        )
    return jnp.broadcast_to(array, (num_steps, *shape))
