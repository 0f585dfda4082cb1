"""Whether draws come from a density of which only the score is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.validation.same_law import median_distance, pairwise_distances

__all__ = ["SteinTest", "stein_test"]

# The Stein kernel of all pairs takes 8 bytes each.
_MAX_DRAWS = 10_000


class SteinTest(NamedTuple):
    """The result of :func:`stein_test`.

    Parameters
    ----------
    discrepancy : float
        Squared kernel Stein discrepancy, at least 0 and 0 only for the right density.
    p_value : float in (0, 1]
        Asymptotic.
    width : float
        Length scale of the kernel.
    num_bootstrap : int

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit.validation import stein_test
    >>> x = np.random.default_rng(0).normal(size=(500, 2))
    >>> right, wide = stein_test(x, -x), stein_test(2.0 * x, -2.0 * x)
    >>> [(round(test.discrepancy, 2), round(test.width, 1)) for test in (right, wide)]
    [(0.01, 1.6), (0.32, 3.2)]
    """

    discrepancy: float
    p_value: float
    width: float
    num_bootstrap: int


def stein_test(
    draws: Any, score: Callable | Any, *, num_bootstrap: int = 999, key: Any = 0
) -> SteinTest:
    r"""Test whether draws come from the density with a given score.

    With the score :math:`s(x) = \nabla \log \pi(x)` and the inverse multiquadric kernel
    :math:`k(x, y) = (1 + |x - y|^2 / h^2)^{-1/2}`,

    .. math::
        u(x, y) = k\, s(x) \cdot s(y) + s(x) \cdot \nabla_y k + s(y) \cdot \nabla_x k
        + \nabla_x \cdot \nabla_y k, \qquad
        D = \frac{1}{n^2} \sum_{ij} u(x_i, x_j) .

    u has mean zero under π whatever the normalising constant. The null distribution of D is
    imitated by random signs, :math:`D^* = n^{-2} \sum_{ij} \epsilon_i \epsilon_j u(x_i, x_j)`.

    Parameters
    ----------
    draws : (n,) or (n, dim) array
    score : callable (x) -> (dim,) array, or (n, dim) array
        Gradient of the log density at one point, as by ``jax.grad(log_density)``; or its
        values at the draws.
    num_bootstrap : int
        Number of sign vectors. The p-value is at least 1 / (num_bootstrap + 1).
    key : int or JAX key

    Returns
    -------
    SteinTest

    Raises
    ------
    ValueError
        For shapes that do not agree, draws or scores that are not finite, fewer than two or
        more than 10 000 draws.

    Notes
    -----
    The p-value is asymptotic: its false-alarm rate tends to the nominal one as n grows, with
    no bound at a given n. The signs are independent, so the draws have to be independent as
    well: thin those of a Markov chain to near-independence first, or the test alarms too often.
    The test sees shape and not the weights of modes that lie far apart, as their weights do not
    change the score. The width h is the median distance. O(n^2 (dim + num_bootstrap)).

    References
    ----------
    Chwialkowski, Strathmann & Gretton (2016); Liu, Lee & Jordan (2016). Gorham & Mackey (2017),
    why this kernel and not a Gaussian one.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 2))
    >>> stein_test(x, lambda x: -x).p_value > 0.01
    True
    >>> stein_test(1.3 * x, lambda x: -x).p_value
    0.001
    """
    x = np.asarray(draws, float)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or not 2 <= len(x) <= _MAX_DRAWS:
        raise ValueError(
            f"draws must be an array (n, dim) with 2 to {_MAX_DRAWS} rows, got shape "
            f"{x.shape}: of more draws take every so many"
        )
    if num_bootstrap < 1:
        raise ValueError(f"num_bootstrap must be at least 1, got {num_bootstrap!r}")
    _refuse_not_finite(x, "draws")
    with jax.enable_x64(True):
        if callable(score):
            # At draws without an axis of coordinates the score takes a number.
            rows = x[:, 0] if np.ndim(draws) == 1 else x
            values = np.asarray(jax.vmap(score)(rows), float).reshape(len(x), -1)
        else:
            values = np.asarray(score, float).reshape(len(x), -1)
        if values.shape != x.shape:
            raise ValueError(
                f"the score has shape {values.shape} at draws of shape {x.shape}: it must have "
                "one entry for each coordinate"
            )
        _refuse_not_finite(values, "the score")
        discrepancies, width = _discrepancies(accel.as_key(key), x, values, num_bootstrap)
    observed, *imitated = np.asarray(discrepancies)
    p_value = (1 + int(np.sum(imitated >= observed))) / (1 + num_bootstrap)
    return SteinTest(float(observed), p_value, float(width), num_bootstrap)


def _refuse_not_finite(values: np.ndarray, what: str) -> None:
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{what} is not finite for {np.sum(~finite)} of {len(values)} draws, first for "
            f"number {int(np.argmin(finite))}"
        )


@functools.partial(jax.jit, static_argnames="num_bootstrap")
def _discrepancies(key, x, score, num_bootstrap) -> tuple[jax.Array, jax.Array]:
    """Return the discrepancy of the draws and then those with random signs, and the width."""
    num, dim = x.shape
    distances = pairwise_distances(x)
    width = median_distance(distances)
    squared = (distances / width) ** 2
    base = 1.0 + squared
    kernel = base**-0.5
    # (s(y) - s(x)) . (x - y) for all pairs, from inner products.
    inner = score @ x.T
    own = jnp.diagonal(inner)
    cross = inner + inner.T - own[:, None] - own
    first = -(kernel / base) * (cross - dim) / width**2
    second = -3.0 * kernel / base**2 * squared / width**2
    stein = kernel * (score @ score.T) + first + second
    signs = jnp.where(random.uniform(key, (num_bootstrap, num)) < 0.5, -1.0, 1.0)
    signs = jnp.concatenate([jnp.ones((1, num)), signs])
    return jnp.sum((signs @ stein) * signs, axis=1) / num**2, width
