"""Jumps between models of different dimension, as an involution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.maps import Involution
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions.base import Transition
from bayeskit.inference.transitions.involutive import involutive

__all__ = ["birth_death", "first_coordinates", "reversible_jump", "walk_within"]


def first_coordinates(model: Any, num: int) -> jax.Array:
    """Return which of ``num`` coordinates a model uses, (num,) bool: the first ``model``."""
    return jnp.arange(num) < model


def birth_death(num_models: int, birth: float = 0.5) -> np.ndarray:
    """Return jump probabilities (num_models, num_models) to the next larger or smaller model.

    At both ends the one jump that there is has probability 1.

    Parameters
    ----------
    num_models : int
    birth : float in (0, 1)
        Probability of the larger model, where there are both.

    Returns
    -------
    (num_models, num_models) array
        Rows add up to 1.

    Raises
    ------
    ValueError
        For fewer than two models, or another probability.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> bi.birth_death(3).tolist()
    [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    """
    if num_models < 2 or not 0 < birth < 1:
        raise ValueError(
            f"birth_death needs at least 2 models and a probability in (0, 1), got "
            f"num_models={num_models!r}, birth={birth!r}"
        )
    inner = birth * np.eye(num_models, k=1) + (1 - birth) * np.eye(num_models, k=-1)
    return inner / inner.sum(axis=1, keepdims=True)


def reversible_jump(
    target: Target,
    jumps: Any,
    sample_new: Callable,
    log_new: Callable,
    *,
    active: Callable = first_coordinates,
    involution: Callable | Involution | None = None,
    name: str = "reversible jump",
) -> Transition:
    r"""Jump between models by an involution that matches their dimensions (law L3).

    The state is a pair (k, x): the number of the model, and as many coordinates as the largest
    model has, 0 where they are not in use. From k the model k' is proposed with probability
    :math:`j(k, k')`, and a value u for each coordinate that k' has beside those of k, of
    density g. The involution exchanges k with k', and x with u where a coordinate comes or
    goes. For a jump to a larger model the acceptance ratio is

    .. math:: \frac{\gamma(k', x')\, j(k', k)}{\gamma(k, x)\, j(k, k')\, g(u)}\,|\det D\phi|.

    Parameters
    ----------
    target : Target
        On pairs (k, x).
    jumps : (num_models, num_models) array
        Jump probabilities j; rows add up to 1. :func:`birth_death` makes them for nested
        models.
    sample_new : callable (key, new, x) -> (num,) array
        A proposal for every coordinate; those that ``new`` adds are used.
    log_new : callable (new, x, u) -> (num,) array
        Log density of each proposal, given the coordinates x before the jump.
    active : callable (model, num) -> (num,) bool array
        Which of ``num`` coordinates a model uses. Default: the first ``model`` of them.
    involution : callable (((k, x), (new, u))) -> pair, or Involution, optional
        Another match of the dimensions, such as a split. Default: the exchange, whose Jacobian
        is 1; of a function it is found by automatic differentiation.
    name : str

    Returns
    -------
    Transition

    Raises
    ------
    ValueError
        If the jump probabilities are no square of rows that add up to 1, or go one way only.

    References
    ----------
    Green (1995), *Reversible jump Markov chain Monte Carlo computation and Bayesian model
    determination*.

    Examples
    --------
    A model without a coordinate, and one of three times its probability with a normal one. What
    is proposed from its own prior cancels, and the odds of the models are left:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> log_weights = jnp.log(jnp.array([0.25, 0.75]))
    >>> target = Target(
    ...     log_density=lambda z: log_weights[z[0]] + z[0] * norm.logpdf(z[1][0])
    ... )
    >>> jump = bi.reversible_jump(
    ...     target,
    ...     bi.birth_death(2),
    ...     sample_new=lambda key, new, x: bi.random.normal(key, (1,)),
    ...     log_new=lambda new, x, u: norm.logpdf(u),
    ... )
    >>> state = jump.init(None, (jnp.array(1), jnp.array([0.8])))
    >>> _, info = jump.step(jax.random.key(0), state)
    >>> round(float(info.acceptance), 4)
    0.3333
    """
    table = np.asarray(jumps, float)
    square = table.ndim == 2 and table.shape[0] == table.shape[1]
    if not square or np.any(table < 0) or np.any(np.abs(table.sum(axis=1) - 1) > 1e-6):
        raise ValueError(
            f"jumps must be a square table of probabilities whose rows add up to 1, got "
            f"{table.tolist()}"
        )
    if np.any((table > 0) != (table.T > 0)):
        k, new = np.argwhere((table > 0) != (table.T > 0))[0]
        raise ValueError(
            f"jumps: models {k} and {new} are joined one way only, so that no jump between "
            "them can be accepted: give the way back a probability too"
        )
    with np.errstate(divide="ignore"):
        log_jumps = np.log(table)

    def log_jump(k: Any) -> jax.Array:
        return jnp.asarray(log_jumps, jnp.result_type(float))[k]

    def changes(k: Any, new: Any, num: int) -> tuple[jax.Array, jax.Array]:
        before, after = active(k, num), active(new, num)
        return after & ~before, after != before

    def sample_auxiliary(key: Any, state: Any) -> Any:
        model_key, value_key = random.split(key)
        k, x = state
        new = random.categorical(model_key, log_jump(k))
        born, _ = changes(k, new, len(x))
        return new, jnp.where(born, sample_new(value_key, new, x), 0).astype(x.dtype)

    def log_auxiliary(state: Any, auxiliary: Any) -> jax.Array:
        (k, x), (new, u) = state, auxiliary
        born, _ = changes(k, new, len(x))
        return log_jump(k)[new] + jnp.sum(jnp.where(born, log_new(new, x, u), 0))

    def matched(z: Any) -> Any:
        (k, x), (new, u) = z
        _, changed = changes(k, new, len(x))
        return (new, jnp.where(changed, u, x)), (k, jnp.where(changed, x, u))

    match = Involution(matched) if involution is None else involution
    return involutive(sample_auxiliary, log_auxiliary, match, target, name=name)


def walk_within(
    target: Target, step_size: float = 1.0, *, active: Callable = first_coordinates
) -> Transition:
    """Move the coordinates in use by a random walk and keep the model (law L3).

    Parameters
    ----------
    target : Target
        On pairs (k, x), as for :func:`reversible_jump`.
    step_size : float
    active : callable (model, num) -> (num,) bool array

    Returns
    -------
    Transition

    Examples
    --------
    In the model with one coordinate the others stay 0:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda z: 0.0 * z[1][0])
    >>> walk = bi.walk_within(target)
    >>> state = walk.init(None, (jnp.array(1), jnp.array([0.8, 0.0, 0.0])))
    >>> (model, x), *_ = walk.step(jax.random.key(0), state)[0]
    >>> int(model), x[1:].tolist()
    (1, [0.0, 0.0])
    """

    def step(z: Any) -> Any:
        (k, x), noise = z
        return (k, x + step_size * jnp.where(active(k, len(x)), noise, 0)), -noise

    return involutive(
        lambda key, state: random.normal(key, state[1].shape, state[1].dtype),
        lambda state, noise: -0.5 * jnp.sum(noise**2),
        Involution(step),
        target,
        name="random walk within the model",
    )
