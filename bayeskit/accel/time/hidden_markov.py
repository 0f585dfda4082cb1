"""Hidden Markov models with finitely many states, in logarithms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel._checks import as_numbers, refuse_outside_unit_interval
from bayeskit.accel.time._checks import refuse_not_logarithms
from bayeskit.accel.time.associative import (
    blocked_associative_scan,
    by_method,
    check_method,
    parallel_block,
)
from bayeskit.accel.time.chain import add_up
from bayeskit.accel.time.log_semiring import inverse_cdf, log_sum, normalised, products
from bayeskit.errors import InvalidDataError

__all__ = [
    "FilteredStates",
    "HiddenMarkovModel",
    "hidden_markov_filter",
    "hidden_markov_log_evidence",
    "hidden_markov_most_likely_path",
    "hidden_markov_sample",
    "hidden_markov_smoother",
]


class HiddenMarkovModel(NamedTuple):
    r"""A Markov chain on K states, and the likelihood of what is seen in each state.

    Parameters
    ----------
    log_initial : (num_states,) array
        Logarithms of :math:`p(x_0 = i)`; -inf allowed, as everywhere here.
    log_transition : (num_steps - 1, num_states, num_states) array, or without the axis of time
        Entry [t - 1, i, j] is the logarithm of :math:`p(x_t = j \mid x_{t-1} = i)`.
    log_likelihood : (num_steps, num_states) array
        Logarithms of :math:`p(y_t \mid x_t = i)`; zeros where nothing was seen.

    Notes
    -----
    Neither the initial masses nor the rows need to add up to 1: any positive potentials do.

    Examples
    --------
    Which of two coins is thrown, the fair one or one with 9 heads in 10? Three heads are seen:

    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import HiddenMarkovModel, hidden_markov_smoother
    >>> stay = jnp.array([[0.9, 0.1], [0.1, 0.9]])
    >>> heads = jnp.tile(jnp.array([0.5, 0.9]), (3, 1))
    >>> model = HiddenMarkovModel(*map(jnp.log, (jnp.array([0.5, 0.5]), stay, heads)))
    >>> jnp.exp(hidden_markov_smoother(model)).round(2).tolist()
    [[0.2, 0.8], [0.18, 0.82], [0.2, 0.8]]
    """

    log_initial: Any
    log_transition: Any
    log_likelihood: Any


class FilteredStates(NamedTuple):
    """The law of each state given what was seen up to its time.

    Parameters
    ----------
    log_probability : (num_steps, num_states) array
        All -inf from the time on at which no path is possible.
    log_likelihood : (num_steps,) array
        Of what is seen at time t given what was seen before.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import HiddenMarkovModel, hidden_markov_filter
    >>> stay = jnp.array([[0.9, 0.1], [0.1, 0.9]])
    >>> heads = jnp.tile(jnp.array([0.5, 0.9]), (3, 1))
    >>> model = HiddenMarkovModel(*map(jnp.log, (jnp.array([0.5, 0.5]), stay, heads)))
    >>> result = hidden_markov_filter(model)
    >>> jnp.exp(result.log_likelihood).round(2).tolist()
    [0.7, 0.75, 0.78]
    >>> round(float(jnp.exp(result.log_evidence)), 2)
    0.41
    """

    log_probability: jax.Array
    log_likelihood: jax.Array

    @property
    def log_evidence(self) -> jax.Array:
        """Log likelihood of all that is seen."""
        return add_up(self.log_likelihood)


def hidden_markov_filter(model: HiddenMarkovModel, *, method: str = "auto") -> FilteredStates:
    r"""Return the law of each state given the past (forward algorithm).

    .. math:: \alpha_t(j) = p(y_t \mid j) \sum_i \alpha_{t-1}(i)\, p(x_t = j \mid i),
        \qquad p(x_t = j \mid y_{0:t}) \propto \alpha_t(j)

    Parameters
    ----------
    model : HiddenMarkovModel
    method : {"auto", "sequential", "parallel"}
        ``"auto"`` is decided when the program is lowered for a platform: sequential on a CPU,
        a scan over matrices of logarithms elsewhere.

    Returns
    -------
    FilteredStates

    Raises
    ------
    InvalidDataError
        For shapes that do not fit, and outside of ``jit`` for NaN and +inf; the message names
        the field and the place.

    Notes
    -----
    O(num_steps K²), O(num_steps K³) in parallel. Inside ``jit``, NaN and +inf make the result
    NaN.

    References
    ----------
    Rabiner (1989); Hassan, Särkkä & García-Fernández (2021), *Temporal parallelization of
    inference in hidden Markov models*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import HiddenMarkovModel, hidden_markov_filter
    >>> stay = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> seen = jnp.log(jnp.array([[0.5, 0.1], [0.5, 0.1], [0.1, 0.7]]))
    >>> model = HiddenMarkovModel(jnp.log(jnp.array([0.5, 0.5])), stay, seen)
    >>> jnp.exp(hidden_markov_filter(model).log_probability[:, 1]).round(2).tolist()
    [0.17, 0.05, 0.53]
    """
    check_method(method)
    return _filtered(_stacked(model), method)


def hidden_markov_log_evidence(model: HiddenMarkovModel, *, method: str = "auto") -> jax.Array:
    """Return the log evidence of a hidden Markov model, differentiable.

    Parameters
    ----------
    model : HiddenMarkovModel
    method : {"auto", "sequential", "parallel"}
        See :func:`hidden_markov_filter`.

    Returns
    -------
    () array

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import HiddenMarkovModel, hidden_markov_log_evidence
    >>> stay = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> seen = jnp.log(jnp.array([[0.5, 0.1], [0.5, 0.1], [0.1, 0.7]]))
    >>> model = HiddenMarkovModel(jnp.log(jnp.array([0.5, 0.5])), stay, seen)
    >>> round(float(hidden_markov_log_evidence(model)), 3)
    -3.791
    """
    check_method(method)
    return _log_evidence(_stacked(model), method)


def hidden_markov_smoother(model: HiddenMarkovModel, *, method: str = "auto") -> jax.Array:
    r"""Return the law of each state given everything seen (forward-backward algorithm).

    .. math:: p(x_t = i \mid y_{0:T-1}) \propto \alpha_t(i)\, \beta_t(i), \qquad
        \beta_t(i) = \sum_j p(x_{t+1} = j \mid i)\, p(y_{t+1} \mid j)\, \beta_{t+1}(j)

    Parameters
    ----------
    model : HiddenMarkovModel
    method : {"auto", "sequential", "parallel"}
        See :func:`hidden_markov_filter`.

    Returns
    -------
    (num_steps, num_states) array of log probabilities

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import HiddenMarkovModel, hidden_markov_smoother
    >>> stay = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> seen = jnp.log(jnp.array([[0.5, 0.1], [0.5, 0.1], [0.1, 0.7]]))
    >>> model = HiddenMarkovModel(jnp.log(jnp.array([0.5, 0.5])), stay, seen)
    >>> jnp.exp(hidden_markov_smoother(model)[:, 1]).round(2).tolist()
    [0.14, 0.17, 0.53]
    """
    check_method(method)
    return _smoothed(_stacked(model), method)


def hidden_markov_sample(
    model: HiddenMarkovModel, uniforms: Any, *, method: str = "auto"
) -> jax.Array:
    r"""Return paths drawn given everything seen: filter forward, sample backward.

    .. math:: p(x_t = i \mid x_{t+1} = j, y_{0:t}) \propto
        \alpha_t(i)\, p(x_{t+1} = j \mid i)

    Parameters
    ----------
    model : HiddenMarkovModel
    uniforms : (..., num_steps) array in [0, 1)
        Independent uniforms; each state is their inverse distribution function.
    method : {"auto", "sequential", "parallel"}
        See :func:`hidden_markov_filter`.

    Returns
    -------
    (..., num_steps) int32 array

    Raises
    ------
    InvalidDataError
        For uniforms of another shape.

    Notes
    -----
    A state of probability zero is never drawn, unless no path is possible: where the evidence
    is zero, paths mean nothing. In parallel, each time becomes a map from the
    next state to this one, and maps are composed.

    References
    ----------
    Chib (1996); Scott (2002).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import HiddenMarkovModel, hidden_markov_sample
    >>> stay = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> seen = jnp.log(jnp.array([[0.5, 0.1], [0.5, 0.1], [0.1, 0.7]]))
    >>> model = HiddenMarkovModel(jnp.log(jnp.array([0.5, 0.5])), stay, seen)
    >>> hidden_markov_sample(model, jnp.array([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9]])).tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    check_method(method)
    model = _stacked(model)
    num_steps = model.log_likelihood.shape[0]
    draw = f"jax.random.uniform(key, ({num_steps},))"
    uniforms = as_numbers(uniforms, "uniforms", draw=draw)
    refuse_outside_unit_interval(uniforms, "uniforms", InvalidDataError)
    uniforms = uniforms.astype(model.log_likelihood.dtype)
    if uniforms.shape[-1:] != (num_steps,):
        raise InvalidDataError(
            f"uniforms must have the shape (..., {num_steps}), got {uniforms.shape}"
        )
    paths = _sampled(model, uniforms.reshape(-1, num_steps), method)
    return paths.reshape(uniforms.shape)


def hidden_markov_most_likely_path(
    model: HiddenMarkovModel, *, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    r"""Return the path of largest posterior probability (Viterbi), and its log probability.

    .. math:: \operatorname{argmax}_{x_{0:T-1}} p(x_{0:T-1}, y_{0:T-1})

    Parameters
    ----------
    model : HiddenMarkovModel
    method : {"auto", "sequential", "parallel"}
        See :func:`hidden_markov_filter`.

    Returns
    -------
    path : (num_steps,) int32 array
        Of several such paths, the one that is least in its last state, then in the one before.
    log_probability : () array
        Jointly with what was seen; -inf if no path is possible: it then means nothing.

    References
    ----------
    Viterbi (1967).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import HiddenMarkovModel, hidden_markov_most_likely_path
    >>> stay = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> seen = jnp.log(jnp.array([[0.5, 0.1], [0.5, 0.1], [0.1, 0.7]]))
    >>> model = HiddenMarkovModel(jnp.log(jnp.array([0.5, 0.5])), stay, seen)
    >>> path, log_probability = hidden_markov_most_likely_path(model)
    >>> path.tolist(), round(float(jnp.exp(log_probability)), 4)
    ([0, 0, 0], 0.0101)
    """
    check_method(method)
    return _most_likely_path(_stacked(model), method)


# Called outside of jit, a scan of a new function would be compiled at every call.
_compiled = functools.partial(jax.jit, static_argnames="method")


@_compiled
def _filtered(model, method):
    return FilteredStates(*_forward(model, method, log_sum))


@_compiled
def _log_evidence(model, method):
    return add_up(_forward(model, method, log_sum)[1])


@_compiled
def _smoothed(model, method):
    both = _forward(model, method, log_sum)[0] + _backward(model, method)
    return jax.vmap(lambda law: normalised(law, log_sum)[0])(both)


@_compiled
def _sampled(model, uniforms, method):
    forward, _ = _forward(model, method, log_sum)

    def path(u):
        return _trace_back(forward, model.log_transition, u, inverse_cdf, method)

    return jax.vmap(path)(uniforms)


@_compiled
def _most_likely_path(model, method):
    best, gained = _forward(model, method, jnp.max)

    def choose(log_masses, _):
        return jnp.argmax(log_masses).astype(jnp.int32)

    return _trace_back(best, model.log_transition, gained, choose, method), add_up(gained)


def _forward(model: HiddenMarkovModel, method: str, add: Callable) -> tuple:
    """Return the forward recursion, with sums or with maxima, and the scale of each step."""

    def one(before, log_transition, log_likelihood):
        return normalised(add(before[:, None] + log_transition, 0) + log_likelihood, add)

    def sequential(model):
        def advance(before, inputs):
            now, scale = one(before, *inputs)
            return now, (now, scale)

        first = normalised(model.log_initial + model.log_likelihood[0], add)
        rest = lax.scan(advance, first[0], (model.log_transition, model.log_likelihood[1:]))[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

    def parallel(model):
        first = model.log_initial + model.log_likelihood[0]
        matrices = model.log_transition + model.log_likelihood[1:, None, :]
        # Every row of the first matrix is the initial law: it forgets where it comes from.
        start = jnp.broadcast_to(first, (1, first.shape[0], first.shape[0]))
        all_products = products(jnp.concatenate([start, matrices]), add, reverse=False)[:, 0]
        laws, _ = jax.vmap(lambda law: normalised(law, add))(all_products)
        rest = jax.vmap(one)(laws[:-1], model.log_transition, model.log_likelihood[1:])
        first = normalised(first, add)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

    return by_method(method, sequential, parallel, model)


def _backward(model: HiddenMarkovModel, method: str) -> jax.Array:
    """Return the likelihood of what is seen later, given each state, up to a scale."""

    def sequential(model):
        def advance(after, inputs):
            log_transition, log_likelihood = inputs
            now = log_sum(log_transition + (log_likelihood + after), 1)
            now, _ = normalised(now, log_sum)
            return now, now

        last = jnp.zeros_like(model.log_initial)
        inputs = (model.log_transition, model.log_likelihood[1:])
        return jnp.concatenate([lax.scan(advance, last, inputs, reverse=True)[1], last[None]])

    def parallel(model):
        matrices = model.log_transition + model.log_likelihood[1:, None, :]
        # Every column of the last matrix is one: nothing is seen after the end.
        end = jnp.zeros((1, *model.log_transition.shape[1:]), matrices.dtype)
        return products(jnp.concatenate([matrices, end]), log_sum, reverse=True)[:, :, 0]

    return by_method(method, sequential, parallel, model)


def _trace_back(forward, log_transition, inputs, choose: Callable, method: str) -> jax.Array:
    """Return the path that ``choose`` takes from the end backwards.

    ``choose`` gets the log masses of the states at one time, given the next, and the input of
    that time. In parallel it is asked for every next state.
    """
    # The last state has no next: as if all were equally likely to follow it.
    end = jnp.zeros((1, *log_transition.shape[1:]), log_transition.dtype)
    after = jnp.concatenate([log_transition, end])

    def sequential(forward, after, inputs):
        def step(following, now):
            law, log_transition, given = now
            state = choose(law + log_transition[:, following], given)
            return state, state

        return lax.scan(step, jnp.int32(0), (forward, after, inputs), reverse=True)[1]

    def parallel(forward, after, inputs):
        masses = forward[:, :, None] + after
        maps = jax.vmap(jax.vmap(choose, (1, None)))(masses, inputs)
        block = parallel_block(maps.shape[0])
        return blocked_associative_scan(lambda f, g: f[g], maps, block, reverse=True)[:, 0]

    return by_method(method, sequential, parallel, forward, after, inputs)


def _stacked(model: HiddenMarkovModel) -> HiddenMarkovModel:
    """Return the model as arrays of one dtype, with the axis of time, or refuse it."""
    if not isinstance(model, HiddenMarkovModel):
        raise TypeError(f"model must be a HiddenMarkovModel, got {type(model).__name__}")
    arrays = HiddenMarkovModel(*map(jnp.asarray, model))
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    likelihood = arrays.log_likelihood
    if likelihood.ndim != 2 or 0 in likelihood.shape:
        raise InvalidDataError(
            "log_likelihood must have the shape (num_steps, num_states) with a step and a "
            f"state at least, got {likelihood.shape}"
        )
    num_steps, num_states = likelihood.shape
    square = (num_states, num_states)
    allowed = {
        "log_initial": [(num_states,)],
        "log_transition": [square, (num_steps - 1, *square)],
    }
    for name, shapes in allowed.items():
        found = getattr(arrays, name).shape
        if found not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise InvalidDataError(f"{name} must have the shape {wanted}, got {found}")
    for name, array in zip(HiddenMarkovModel._fields, arrays, strict=True):
        refuse_not_logarithms(array, name)
    transition = jnp.broadcast_to(arrays.log_transition, (num_steps - 1, *square))
    return HiddenMarkovModel(
        arrays.log_initial.astype(dtype), transition.astype(dtype), likelihood.astype(dtype)
    )
