"""A scalar Markov process on a grid, with several columns of data under one precision.

The process f has a state-space form; node t carries the factor
exp(eta_t f_t - Lambda_t f_t^2 / 2), for each of the columns of eta. Precision zero is no data.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["Chain", "Filtered", "filter_columns", "quadratic_form", "sample_errors", "smooth_columns"]

# The gradient keeps the states at the ends of pieces of this many nodes, and computes those
# within again.
PIECE = 128


class Chain(NamedTuple):
    """Transitions into each node, and the law of the first state."""

    transition: jax.Array  # (nodes, state, state)
    noise: jax.Array  # (nodes, state, state)
    start: jax.Array  # (state, state)
    output: jax.Array  # (state): f = output . state


class Filtered(NamedTuple):
    """Moments of states before and after the data of their node."""

    predicted_mean: jax.Array  # (nodes, state, columns)
    predicted_covariance: jax.Array  # (nodes, state, state)
    mean: jax.Array
    covariance: jax.Array


def _update(chain, mean, covariance, precision, eta):
    gain = covariance @ chain.output
    variance = chain.output @ gain
    gain = gain / (1.0 + precision * variance)
    residual = eta - precision * (chain.output @ mean)
    updated = covariance - jnp.outer(gain, precision * (covariance @ chain.output))
    return mean + jnp.outer(gain, residual), 0.5 * (updated + updated.T), variance, residual


def quadratic_form(chain: Chain, precision: jax.Array, eta: jax.Array) -> tuple:
    r"""Return eta' (K^-1 + Lambda)^-1 eta, and log det(I + K Lambda).

    Parameters
    ----------
    chain : Chain
        Its covariance over the nodes is K.
    precision : (nodes) array
    eta : (nodes, columns) array
    """

    def step(carry, inputs):
        mean, covariance = carry
        transition, noise, node_precision, node_eta = inputs
        mean = transition @ mean
        covariance = transition @ covariance @ transition.T + noise
        predicted = chain.output @ mean
        mean, covariance, variance, residual = _update(
            chain, mean, covariance, node_precision, node_eta
        )
        return (mean, covariance), (predicted, variance, residual)

    num_states = len(chain.output)
    carry = jnp.zeros((num_states, eta.shape[1])), chain.start
    inputs = (chain.transition, chain.noise, precision, eta)
    predicted, variance, residual = _scan_in_pieces(step, carry, inputs)
    spread = 1.0 + precision * variance
    cross = eta.T @ predicted
    form = (
        cross
        + cross.T
        - predicted.T @ (precision[:, None] * predicted)
        + residual.T @ ((variance / spread)[:, None] * residual)
    )
    return form, jnp.sum(jnp.log(spread))


def _scan_in_pieces(step, carry, inputs):
    num_nodes = len(inputs[0])
    if num_nodes <= PIECE:
        return lax.scan(step, carry, inputs)[1]
    extra = -num_nodes % PIECE
    pieces = jax.tree.map(
        lambda x: jnp.pad(x, ((0, extra), *[(0, 0)] * (x.ndim - 1))).reshape(
            -1, PIECE, *x.shape[1:]
        ),
        inputs,
    )
    outputs = lax.scan(jax.checkpoint(lambda c, x: lax.scan(step, c, x)), carry, pieces)[1]
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_nodes], outputs)


def filter_columns(chain: Chain, precision: jax.Array, eta: jax.Array) -> Filtered:
    """Return the moments of all states, before and after the data of each node."""

    def step(carry, inputs):
        transition, noise, node_precision, node_eta = inputs
        predicted = transition @ carry[0], transition @ carry[1] @ transition.T + noise
        carry = _update(chain, *predicted, node_precision, node_eta)[:2]
        return carry, Filtered(*predicted, *carry)

    carry = jnp.zeros((len(chain.output), eta.shape[1])), chain.start
    return lax.scan(step, carry, (chain.transition, chain.noise, precision, eta))[1]


def _smoother_gains(chain: Chain, filtered: Filtered) -> jax.Array:
    """Return C_t with E(x_t | x_{t+1}) = m_t + C_t (x_{t+1} - m-_{t+1}), for t < last."""
    cross = filtered.covariance[:-1] @ jnp.swapaxes(chain.transition[1:], 1, 2)
    # A predicted covariance may be singular where nothing moves: a pseudo-inverse is exact there.
    inverse = jnp.linalg.pinv(filtered.predicted_covariance[1:], rtol=1e-14, hermitian=True)
    return cross @ inverse


def smooth_columns(chain: Chain, filtered: Filtered) -> tuple[jax.Array, jax.Array]:
    """Return the means (nodes, columns) and variances (nodes) of f given all data."""
    gains = _smoother_gains(chain, filtered)

    def step(later, inputs):
        gain, mean, covariance, next_mean, next_covariance = inputs
        mean = mean + gain @ (later[0] - next_mean)
        covariance = covariance + gain @ (later[1] - next_covariance) @ gain.T
        return (mean, covariance), (chain.output @ mean, chain.output @ covariance @ chain.output)

    last = filtered.mean[-1], filtered.covariance[-1]
    inputs = (
        gains,
        filtered.mean[:-1],
        filtered.covariance[:-1],
        filtered.predicted_mean[1:],
        filtered.predicted_covariance[1:],
    )
    means, variances = lax.scan(step, last, inputs, reverse=True)[1]
    return (
        jnp.concatenate([means, (chain.output @ last[0])[None]]),
        jnp.concatenate([variances, (chain.output @ last[1] @ chain.output)[None]]),
    )


def sample_errors(chain: Chain, filtered: Filtered, normals: jax.Array) -> jax.Array:
    """Return draws of f - E(f | data), by backward sampling: linear in the normals.

    Parameters
    ----------
    normals : (nodes, state, draws) array
    """
    gains = _smoother_gains(chain, filtered)
    P, N = filtered.covariance[:-1], filtered.predicted_covariance[1:]
    left = P - gains @ N @ jnp.swapaxes(gains, 1, 2)
    roots = _symmetric_roots(jnp.concatenate([left, filtered.covariance[-1:]]))

    def step(later, inputs):
        gain, root, z = inputs
        state = gain @ later + root @ z
        return state, chain.output @ state

    last = roots[-1] @ normals[-1]
    values = lax.scan(step, last, (gains, roots[:-1], normals[:-1]), reverse=True)[1]
    return jnp.concatenate([values, (chain.output @ last)[None]])


def _symmetric_roots(covariance: jax.Array) -> jax.Array:
    """Return matrices whose product with their transposes are the given ones, also singular."""
    values, vectors = jnp.linalg.eigh(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
