"""Smoothed laws and exact draws of linear Gaussian chains, from the end backwards."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from bayeskit.accel.time.associative import block_of, blocked_associative_scan
from bayeskit.accel.time.chain import (
    GaussianChain,
    GaussianSites,
    LinearObservations,
    stacked,
)
from bayeskit.accel.time.kalman import Filtered, add_up, kalman_filter
from bayeskit.accel.time.semidefinite import semidefinite_cholesky
from bayeskit.errors import InvalidDataError

__all__ = ["Smoothed", "kalman_sample", "kalman_smoother"]


class Smoothed(NamedTuple):
    """The law of each state given everything seen.

    Parameters
    ----------
    mean : (num_steps, dim) array
    covariance : (num_steps, dim, dim) array
    lag_one_covariance : (num_steps - 1, dim, dim) array
        Entry t is the covariance of state t + 1 (rows) with state t (columns).
    log_evidence : () array
    """

    mean: jax.Array
    covariance: jax.Array
    lag_one_covariance: jax.Array
    log_evidence: jax.Array


class _Backward(NamedTuple):
    """Given the next state x, a state is N(gain x + shift, covariance); no next at the end."""

    gain: jax.Array
    shift: jax.Array
    covariance: jax.Array


def kalman_smoother(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    *,
    method: str = "auto",
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
        See :func:`kalman_filter`.

    Returns
    -------
    Smoothed

    Notes
    -----
    O(num_steps dim³). The covariance is summed from positive semi-definite terms, so that it
    stays one. A singular predicted covariance is raised by rounding errors of its size.

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
    filtered, backward = _filter_and_backward(chain, observations, method)
    products = blocked_associative_scan(
        _combine, backward, block_of(method, backward.shift.shape[0]), reverse=True
    )
    lag_one = products.covariance[1:] @ jnp.swapaxes(backward.gain[:-1], 1, 2)
    return Smoothed(
        products.shift, products.covariance, lag_one, add_up(filtered.log_likelihood)
    )


def kalman_sample(
    chain: GaussianChain,
    observations: LinearObservations | GaussianSites,
    normals: Any,
    *,
    method: str = "auto",
) -> jax.Array:
    r"""Return draws of all states given all observations: filter forward, sample backward.

    .. math:: x_t \mid x_{t+1} \sim N\bigl(m_t + E_t (x_{t+1} - m^-_{t+1}),\;
        P_t - E_t P^-_{t+1} E_t'\bigr)

    Parameters
    ----------
    chain : GaussianChain
    observations : LinearObservations or GaussianSites
    normals : (..., num_steps, dim) array
        Independent standard normals; the draws are linear in them. Zeros give the smoothed
        means.
    method : {"auto", "sequential", "parallel"}
        See :func:`kalman_filter`.

    Returns
    -------
    (..., num_steps, dim) array
        A path for each path of normals. The filter runs once for all.

    References
    ----------
    Carter & Kohn (1994); Frühwirth-Schnatter (1994).
    """
    _, backward = _filter_and_backward(chain, observations, method)
    num_steps, dim = backward.shift.shape
    normals = jnp.asarray(normals).astype(backward.shift.dtype)
    if normals.shape[-2:] != (num_steps, dim):
        raise InvalidDataError(
            f"normals must have the shape (..., {num_steps}, {dim}), got {normals.shape}"
        )
    roots = jax.vmap(semidefinite_cholesky)(backward.covariance)
    block = block_of(method, num_steps)

    def path(noise):
        shift = backward.shift + jnp.einsum("tij,tj->ti", roots, noise)
        return blocked_associative_scan(_follow, (backward.gain, shift), block, reverse=True)[1]

    paths = jax.vmap(path)(normals.reshape(-1, num_steps, dim))
    return paths.reshape(normals.shape)


def _filter_and_backward(chain, observations, method) -> tuple[Filtered, _Backward]:
    filtered = kalman_filter(chain, observations, method=method)
    steps, _ = stacked(chain, observations)
    later = jax.tree.map(lambda x: x[1:], (*steps, *filtered[2:4]))
    earlier = jax.tree.map(lambda x: x[:-1], filtered[:2])
    backward = jax.vmap(_backward)(earlier, later)
    last = _Backward(jnp.zeros_like(filtered.covariance[0]), *(x[-1] for x in filtered[:2]))
    return filtered, jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), backward, last)


def _backward(filtered, later) -> _Backward:
    mean, covariance = filtered
    transition, _, noise, predicted_mean, predicted_covariance = later
    gain = cho_solve(
        (
            jnp.linalg.cholesky(_raised(predicted_covariance, covariance, transition, noise)),
            True,
        ),
        transition @ covariance,
    ).T
    keep = jnp.eye(mean.shape[0], dtype=mean.dtype) - gain @ transition
    spread = keep @ covariance @ keep.T + gain @ noise @ gain.T
    return _Backward(gain, mean - gain @ predicted_mean, 0.5 * (spread + spread.T))


def _raised(predicted, covariance, transition, noise):
    """Return F P F' + Q, raised by the rounding errors that it may have, hence definite."""
    roots = jnp.sqrt(jnp.abs(jnp.diagonal(covariance)))
    scale = (jnp.abs(transition) @ roots) ** 2 + jnp.abs(jnp.diagonal(noise))
    information = jnp.finfo(predicted.dtype)
    # Rounding in dim-fold sums and in the factorisation: dim + 1 ulp each.
    size = 2 * (predicted.shape[0] + 1) * float(information.eps)
    raise_by = jax.lax.stop_gradient(size * scale + float(information.tiny))
    return predicted + jnp.diag(raise_by)


def _combine(earlier: _Backward, later: _Backward) -> _Backward:
    spread = earlier.gain @ later.covariance @ earlier.gain.T
    return _Backward(
        earlier.gain @ later.gain,
        earlier.gain @ later.shift + earlier.shift,
        0.5 * (spread + spread.T) + earlier.covariance,
    )


def _follow(earlier, later):
    return earlier[0] @ later[0], earlier[0] @ later[1] + earlier[1]
