"""Filter, smoother and draws in terms of means and square roots of covariances.

Covariances are never formed, so none can lose its sign, and float32 keeps the digits of
standard deviations instead of those of variances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel.time import covariance_form
from bayeskit.accel.time.associative import (
    block_of,
    blocked_associative_scan,
    by_method,
    parallel_block,
)
from bayeskit.accel.time.chain import Filtered, GaussianSites, Smoothed
from bayeskit.accel.time.factors import (
    semidefinite_cholesky,
    semidefinite_solve,
    triangle,
    triangular_solve,
)

__all__ = ["filtered", "sampled", "smoothed"]


def _with_derivatives_of(covariance_form: Callable) -> Callable:
    """Differentiate a function as its twin in covariances.

    Square roots of singular matrices have no derivative, though what is made of them has.
    """

    def decorate(root_form: Callable) -> Callable:
        def call(*arrays_and_method):
            *arrays, method = arrays_and_method

            @jax.custom_jvp
            def function(*args):
                return root_form(*args, method)

            @function.defjvp
            def derivative(primals, tangents):
                twin = lambda *args: covariance_form(*args, method)
                return function(*primals), jax.jvp(twin, primals, tangents)[1]

            return function(*arrays)

        return call

    return decorate


class _Whitened(NamedTuple):
    """Observations y = H x + N(0, root root'), tilted by exp(tilt' x + log_scale).

    Every positive function that is log-quadratic in x has this form, with no matrix inverted.
    """

    matrix: jax.Array
    values: jax.Array
    root: jax.Array
    tilt: jax.Array
    log_scale: jax.Array


def _whiten(observation) -> _Whitened:
    matrix = observation.matrix
    size, dim = matrix.shape
    if isinstance(observation, GaussianSites):
        root = semidefinite_cholesky(observation.precision)
        values = semidefinite_solve(root, observation.shift)
        # What no observation of finite precision can say; zero where the precision is regular.
        rest = jnp.where(
            jnp.diagonal(root) == 0, observation.shift - root @ values, jnp.zeros(size)
        )
        constant = 0.5 * values @ values + 0.5 * size * jnp.log(2 * jnp.pi)
        identity = jnp.eye(size, dtype=matrix.dtype)
        return _Whitened(root.T @ matrix, values, identity, matrix.T @ rest, constant)
    seen = ~jnp.isnan(observation.values)
    # A coordinate that was not seen is noise of variance 1 that was 0.
    alone = jnp.diag(jnp.where(seen, 0.0, 1.0).astype(matrix.dtype))
    noise = jnp.where(seen[:, None] & seen, observation.covariance, alone)
    return _Whitened(
        jnp.where(seen[:, None], matrix, 0.0),
        jnp.where(seen, observation.values - observation.offset, 0.0),
        semidefinite_cholesky(noise),
        jnp.zeros(dim, matrix.dtype),
        0.5 * jnp.sum(~seen) * jnp.log(2 * jnp.pi),
    )


def _roots_of(steps, observations) -> tuple[Any, Any]:
    """Return steps with roots of their covariances, and whitened observations."""
    transition, offset, noise = steps
    roots = jax.vmap(semidefinite_cholesky)(noise)
    return (transition, offset, roots), jax.vmap(_whiten)(observations)


def _predict(mean, root, step) -> tuple[jax.Array, jax.Array]:
    transition, offset, noise = step
    return transition @ mean + offset, triangle(jnp.hstack([transition @ root, noise]))


class _Conditioned(NamedTuple):
    mean: jax.Array
    root: jax.Array
    log_likelihood: jax.Array
    gain: jax.Array
    factor: jax.Array
    gradient: jax.Array


def _condition(mean, root, observation: _Whitened) -> _Conditioned:
    matrix = observation.matrix
    seen = matrix @ root
    factor = triangle(jnp.hstack([seen, observation.root]))
    # One solve for all: JAX 0.10 may hang where two calls of LAPACK on huge batches overlap.
    residual = observation.values - matrix @ mean
    white = triangular_solve(factor, jnp.column_stack([seen, residual]))
    solved = triangular_solve(factor, white, transposed=True)
    weight, white = white[:, :-1], white[:, -1]
    gain = root @ solved[:, :-1].T
    spread = triangle(jnp.hstack([root - gain @ seen, gain @ observation.root]))
    centre = mean + root @ (weight.T @ white)
    tilted = spread.T @ observation.tilt
    log_likelihood = (
        -0.5 * white @ white
        - jnp.sum(jnp.log(jnp.diagonal(factor)))
        - 0.5 * white.shape[0] * jnp.log(2 * jnp.pi)
        + observation.tilt @ centre
        + 0.5 * tilted @ tilted
        + observation.log_scale
    )
    # Of the log likelihood in the mean: the tilt passes through I - K H.
    gradient = matrix.T @ (solved[:, -1] - gain.T @ observation.tilt)
    return _Conditioned(
        centre + spread @ tilted,
        spread,
        log_likelihood,
        gain,
        factor,
        gradient + observation.tilt,
    )


class _FilteredRoots(NamedTuple):
    mean: jax.Array
    root: jax.Array
    predicted_mean: jax.Array
    predicted_root: jax.Array
    log_likelihood: jax.Array


def _filter_roots(steps, observations, method) -> _FilteredRoots:
    return by_method(method, _sequential, _parallel, steps, observations)


def _sequential(steps, observations) -> _FilteredRoots:
    def advance(moments, inputs):
        step, observation = inputs
        mean, root = moments
        predicted = _predict(mean, root, step)
        mean, root, log_likelihood, *_ = _condition(*predicted, observation)
        return (mean, root), _FilteredRoots(mean, root, *predicted, log_likelihood)

    start = jax.tree.map(lambda x: jnp.zeros_like(x[0]), steps[1:])
    return lax.scan(advance, start, (steps, observations))[1]


class _Element(NamedTuple):
    """As in the covariance form, with C = U U' and J = Z Z'."""

    A: jax.Array
    b: jax.Array
    U: jax.Array
    eta: jax.Array
    Z: jax.Array


def _element(step, observation: _Whitened) -> _Element:
    transition, offset, noise = step
    dim, size = offset.shape[0], observation.values.shape[0]
    found = _condition(offset, noise, observation)
    ahead = observation.matrix @ transition
    likelihood = triangular_solve(found.factor, ahead).T
    padded = jnp.pad(likelihood, ((0, 0), (0, max(dim - size, 0))))
    return _Element(
        transition - found.gain @ ahead,
        found.mean,
        found.root,
        transition.T @ found.gradient,
        padded if size <= dim else triangle(padded),
    )


def _combine(i: _Element, j: _Element) -> _Element:
    identity = jnp.eye(i.b.shape[0], dtype=i.b.dtype)
    # (I + C J)^-1 C = spread spread' and (I + J C)^-1 J = known known'; both factors, and both
    # results, are made by one call each.
    between = i.U.T @ j.Z
    root = _triangles([between, identity], [between.T, identity])
    solved = jax.vmap(triangular_solve)(root, jnp.stack([i.U.T, j.Z.T]))
    spread, known = solved[0].T, solved[1].T

    def passed(x):  # (I + C J)^-1 x
        return x - spread @ (spread.T @ (j.Z @ (j.Z.T @ x)))

    surprise = j.eta - j.Z @ (j.Z.T @ i.b)
    U, Z = _triangles([j.A @ spread, j.U], [i.A.T @ known, i.Z])
    return _Element(
        j.A @ passed(i.A),
        j.A @ (i.b + spread @ (spread.T @ surprise)) + j.b,
        U,
        i.A.T @ (surprise - known @ (known.T @ (i.U @ (i.U.T @ surprise)))) + i.eta,
        Z,
    )


def _triangles(*pairs: list[jax.Array]) -> jax.Array:
    return jax.vmap(triangle)(jnp.stack([jnp.hstack(pair) for pair in pairs]))


def _parallel(steps, observations) -> _FilteredRoots:
    elements = jax.vmap(_element)(steps, observations)
    block = parallel_block(elements.b.shape[0])
    products = blocked_associative_scan(_combine, elements, block)

    # The first step forgets where it comes from, so any moments may stand before time 0.
    def before(x):
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    predicted = jax.vmap(_predict)(before(products.b), before(products.U), steps)
    log_likelihood = jax.vmap(_condition)(*predicted, observations).log_likelihood
    return _FilteredRoots(products.b, products.U, *predicted, log_likelihood)


@_with_derivatives_of(covariance_form.filtered)
def filtered(steps: Any, observations: Any, method: str) -> Filtered:
    """Return the filtered laws of stacked steps."""
    mean, root, predicted_mean, predicted_root, log_likelihood = _filter_roots(
        *_roots_of(steps, observations), method
    )
    return Filtered(
        mean, _squared(root), predicted_mean, _squared(predicted_root), log_likelihood
    )


class _Backward(NamedTuple):
    """Given the next state x, a state is N(gain x + shift, root root')."""

    gain: jax.Array
    shift: jax.Array
    root: jax.Array


def _backward(steps: Any, laws: _FilteredRoots) -> _Backward:
    def one(mean, root, step, predicted_mean):
        transition, _, noise = step
        ahead = transition @ root
        factor = triangle(jnp.hstack([ahead, noise, _rounding(ahead, noise)]))
        weight = triangular_solve(factor, ahead)
        gain = root @ triangular_solve(factor, weight, transposed=True).T
        spread = triangle(jnp.hstack([root - gain @ ahead, gain @ noise]))
        return _Backward(gain, mean - gain @ predicted_mean, spread)

    earlier = (laws.mean[:-1], laws.root[:-1])
    later = jax.tree.map(lambda x: x[1:], (steps, laws.predicted_mean))
    last = _Backward(jnp.zeros_like(laws.root[0]), laws.mean[-1], laws.root[-1])
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b[None]]), jax.vmap(one)(*earlier, *later), last
    )


def _rounding(ahead, noise):
    """Return deviations of the size of rounding errors, which make a root regular."""
    scale = jnp.sum(jnp.abs(ahead), axis=1) + jnp.sum(jnp.abs(noise), axis=1)
    information = jnp.finfo(ahead.dtype)
    return jnp.diag(float(information.eps) * scale + float(information.tiny) ** 0.5)


def _chained(earlier: _Backward, later: _Backward) -> _Backward:
    return _Backward(
        earlier.gain @ later.gain,
        earlier.gain @ later.shift + earlier.shift,
        triangle(jnp.hstack([earlier.gain @ later.root, earlier.root])),
    )


@_with_derivatives_of(covariance_form.smoothed)
def smoothed(steps: Any, observations: Any, method: str) -> Smoothed:
    """Return the smoothed laws of stacked steps."""
    steps, observations = _roots_of(steps, observations)
    laws = _filter_roots(steps, observations, method)
    backward = _backward(steps, laws)
    block = block_of(method, backward.shift.shape[0])
    products = blocked_associative_scan(_chained, backward, block, reverse=True)
    covariance = _squared(products.root)
    lag_one = covariance[1:] @ jnp.swapaxes(backward.gain[:-1], 1, 2)
    return Smoothed(products.shift, covariance, lag_one, laws.log_likelihood)


@_with_derivatives_of(covariance_form.sampled)
def sampled(steps: Any, observations: Any, normals: jax.Array, method: str) -> jax.Array:
    """Return paths drawn by (num_paths, num_steps, dim) normals."""
    steps, observations = _roots_of(steps, observations)
    backward = _backward(steps, _filter_roots(steps, observations, method))
    return covariance_form.drawn(*backward, normals, method)


def _squared(root: jax.Array) -> jax.Array:
    return root @ jnp.swapaxes(root, -1, -2)
