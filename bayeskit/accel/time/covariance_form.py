"""Filter, smoother and draws in terms of means and covariances."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel.time.associative import (
    block_of,
    blocked_associative_scan,
    by_method,
    parallel_block,
)
from bayeskit.accel.time.chain import Filtered, GaussianSites, LinearObservations, Smoothed
from bayeskit.accel.time.factors import (
    cholesky,
    cholesky_solve,
    general_inverse,
    semidefinite_cholesky,
    symmetric,
    triangular_solve,
)

__all__ = ["filtered", "kalman_predict", "kalman_update", "sampled", "smoothed"]


def kalman_predict(
    mean: jax.Array,
    covariance: jax.Array,
    transition: jax.Array,
    offset: jax.Array | None,
    noise: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the mean F m + b and the covariance F P F' + Q one step ahead.

    Parameters
    ----------
    mean : (dim,) array m
    covariance : (dim, dim) array P
    transition : (dim, dim) array F
    offset : (dim,) array b, or None for zero
    noise : (dim, dim) array Q

    Returns
    -------
    mean : (dim,) array
    covariance : (dim, dim) array

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import kalman_predict
    >>> one = jnp.eye(1)
    >>> kalman_predict(jnp.ones(1), one, 0.5 * one, jnp.zeros(1), one)
    (Array([0.5], dtype=float32), Array([[1.25]], dtype=float32))
    """
    predicted = transition @ mean if offset is None else transition @ mean + offset
    return predicted, transition @ covariance @ transition.T + noise


def kalman_update(
    mean: jax.Array, covariance: jax.Array, observation: LinearObservations | GaussianSites
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Return mean, covariance and log likelihood after what is observed of one state.

    Parameters
    ----------
    mean : (dim,) array
    covariance : (dim, dim) array
    observation : LinearObservations or GaussianSites
        Of one time: no field has the axis of time. An ``offset`` of None is zero, the
        ``matrix`` of a site of None is the identity.

    Returns
    -------
    mean : (dim,) array
    covariance : (dim, dim) array
    log_likelihood : () array

    Notes
    -----
    With :math:`\ell(\mu) = \log \int N(u; \mu, V) g(u)\, du` at :math:`\mu = H m`,
    :math:`V = H P H'`, let s be its gradient and M minus its Hessian: the new mean is
    :math:`m + P H' s`, and :math:`W = I - P H' M H` takes the covariance to
    :math:`W P W' + P H' N H P`, with N the part of M that the noise makes.
    Both terms are positive semi-definite in any precision (Joseph's form).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import GaussianSites, kalman_update
    >>> one = jnp.eye(1)
    >>> mean, covariance, log_likelihood = kalman_update(
    ...     jnp.zeros(1), one, GaussianSites(jnp.ones(1), one, one)
    ... )
    >>> mean, covariance
    (Array([0.5], dtype=float32), Array([[0.5]], dtype=float32))
    """
    if isinstance(observation, GaussianSites):
        if observation.matrix is None:
            identity = jnp.eye(mean.shape[0], dtype=mean.dtype)
            observation = observation._replace(matrix=identity)
    elif observation.offset is None:
        observation = observation._replace(offset=jnp.zeros_like(observation.values))
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
    respond = _respond_to_site if isinstance(observation, GaussianSites) else _respond
    response = respond(observation, matrix @ mean, matrix @ cross)
    keep = jnp.eye(mean.shape[0], dtype=mean.dtype) - cross @ response.curvature @ matrix
    spread = keep @ covariance @ keep.T + cross @ response.noise @ cross.T
    return mean + cross @ response.gradient, symmetric(spread), response


def _respond(observation: LinearObservations, mean, covariance) -> _Response:
    values, _, noise, offset = observation
    seen = ~jnp.isnan(values)
    both = seen[:, None] & seen
    residual = jnp.where(seen, values - offset - mean, 0.0)
    # A coordinate that was not seen is as if pure noise of variance 1 equalled its mean.
    spread = jnp.where(both, covariance + noise, jnp.diag(jnp.where(seen, 0.0, 1.0)))
    factor = cholesky(spread)
    # One solve for all: JAX 0.10 may hang where two calls of LAPACK on huge batches overlap.
    identity = jnp.eye(mean.shape[0], dtype=mean.dtype)
    solved = triangular_solve(factor, jnp.column_stack([identity, residual]))
    root, white = solved[:, :-1], solved[:, -1]
    log_root = jnp.sum(jnp.log(jnp.diagonal(factor)))
    constant = 0.5 * jnp.sum(seen) * jnp.log(2 * jnp.pi)
    curvature = jnp.where(both, root.T @ root, 0.0)
    return _Response(
        -0.5 * white @ white - log_root - constant,
        root.T @ white,
        curvature,
        curvature @ jnp.where(both, noise, 0.0) @ curvature,
    )


def _respond_to_site(site: GaussianSites, mean, covariance) -> _Response:
    shift, precision, _ = site
    identity = jnp.eye(mean.shape[0], dtype=mean.dtype)
    solved, log_determinant = general_inverse(identity + precision @ covariance)
    residual = shift - precision @ mean
    # Covariances do not touch the shifts, so that many shifts share them under vmap.
    gradient = solved @ residual
    # In terms of the residual no large terms cancel but those of the definition.
    log_likelihood = (
        shift @ mean
        - 0.5 * mean @ precision @ mean
        + 0.5 * residual @ covariance @ gradient
        # The eigenvalues of I + Λ V are at least 1, so its determinant is positive.
        - 0.5 * log_determinant
    )
    curvature = symmetric(solved @ precision)
    return _Response(log_likelihood, gradient, curvature, solved @ precision @ solved.T)


def filtered(steps: Any, observations: Any, method: str) -> Filtered:
    """Return the filtered laws of stacked steps."""
    return by_method(method, _sequential, _parallel, steps, observations)


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
    return _Element(
        transition - noise @ matrix.T @ response.curvature @ ahead,
        mean,
        covariance,
        ahead.T @ response.gradient,
        ahead.T @ response.curvature @ ahead,
    )


def _combine(i: _Element, j: _Element) -> _Element:
    identity = jnp.eye(i.b.shape[0], dtype=i.b.dtype)
    inverse, _ = general_inverse(identity + i.C @ j.J)
    passed = inverse @ i.A
    returned = inverse.T @ (j.eta - j.J @ i.b)
    return _Element(
        j.A @ passed,
        j.A @ (inverse @ (i.b + i.C @ j.eta)) + j.b,
        symmetric(j.A @ (inverse @ i.C) @ j.A.T) + j.C,
        i.A.T @ returned + i.eta,
        symmetric(i.A.T @ j.J @ passed) + i.J,
    )


def _parallel(steps, observations) -> Filtered:
    elements = jax.vmap(_element)(steps, observations)
    block = parallel_block(elements.b.shape[0])
    products = blocked_associative_scan(_combine, elements, block)
    mean, covariance = products.b, products.C

    # The first step forgets where it comes from, so any moments may stand before time 0.
    def before(x):
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    predicted = jax.vmap(kalman_predict)(before(mean), before(covariance), *steps)
    log_likelihood = jax.vmap(kalman_update)(*predicted, observations)[2]
    return Filtered(mean, covariance, *predicted, log_likelihood)


class _Backward(NamedTuple):
    """Given the next state x, a state is N(gain x + shift, covariance); no next at the end."""

    gain: jax.Array
    shift: jax.Array
    covariance: jax.Array


def _backward(steps: Any, laws: Filtered) -> _Backward:
    def one(mean, covariance, step, predicted_mean, predicted_covariance):
        transition, _, noise = step
        raised = predicted_covariance + _rounding(covariance, transition, noise)
        gain = cholesky_solve(cholesky(raised), transition @ covariance).T
        keep = jnp.eye(mean.shape[0], dtype=mean.dtype) - gain @ transition
        spread = keep @ covariance @ keep.T + gain @ noise @ gain.T
        return _Backward(gain, mean - gain @ predicted_mean, symmetric(spread))

    earlier = (laws.mean[:-1], laws.covariance[:-1])
    later = jax.tree.map(lambda x: x[1:], (steps, *laws[2:4]))
    last = _Backward(jnp.zeros_like(laws.covariance[0]), laws.mean[-1], laws.covariance[-1])
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b[None]]), jax.vmap(one)(*earlier, *later), last
    )


def _rounding(covariance, transition, noise):
    """Return the rounding errors that F P F' + Q may have: added to it, it is definite."""
    deviation = jnp.sqrt(jnp.abs(jnp.diagonal(covariance)))
    scale = (jnp.abs(transition) @ deviation) ** 2 + jnp.abs(jnp.diagonal(noise))
    information = jnp.finfo(covariance.dtype)
    # Sums of dim terms and the factorisation: at most dim + 1 ulp each.
    size = 2 * (covariance.shape[0] + 1) * float(information.eps)
    return jnp.diag(lax.stop_gradient(size * scale + float(information.tiny)))


def _chained(earlier: _Backward, later: _Backward) -> _Backward:
    spread = earlier.gain @ later.covariance @ earlier.gain.T
    return _Backward(
        earlier.gain @ later.gain,
        earlier.gain @ later.shift + earlier.shift,
        symmetric(spread) + earlier.covariance,
    )


def smoothed(steps: Any, observations: Any, method: str) -> Smoothed:
    """Return the smoothed laws of stacked steps."""
    laws = filtered(steps, observations, method)
    backward = _backward(steps, laws)
    block = block_of(method, backward.shift.shape[0])
    products = blocked_associative_scan(_chained, backward, block, reverse=True)
    lag_one = products.covariance[1:] @ jnp.swapaxes(backward.gain[:-1], 1, 2)
    return Smoothed(products.shift, products.covariance, lag_one, laws.log_likelihood)


def sampled(steps: Any, observations: Any, normals: jax.Array, method: str) -> jax.Array:
    """Return paths drawn by (num_paths, num_steps, dim) normals."""
    backward = _backward(steps, filtered(steps, observations, method))
    roots = jax.vmap(semidefinite_cholesky)(backward.covariance)
    return drawn(backward.gain, backward.shift, roots, normals, method)


def drawn(gain, shift, root, normals, method: str) -> jax.Array:
    """Return x_t = gain_t x_{t+1} + shift_t + root_t z_t for each path of normals."""
    block = block_of(method, shift.shape[0])

    def follow(earlier, later):
        return earlier[0] @ later[0], earlier[0] @ later[1] + earlier[1]

    def path(noise):
        moved = shift + jnp.einsum("tij,tj->ti", root, noise)
        return blocked_associative_scan(follow, (gain, moved), block, reverse=True)[1]

    return jax.vmap(path)(normals)
