r"""The functions of components over draws that agree about neither order, signs nor scales.

A CP model is the same for any order of its components, and for functions of one mode multiplied
by what those of another are divided by. Each draw is brought into one form: components in the
order in which they are most like those of a reference, functions of all modes but the first
with a mean square of one over the rows, and with the sign of the reference's.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.functional_tucker.low_rank.draws import functions_at
from bayeskit.models.functional_tucker.low_rank.posterior import TensorPosterior
from bayeskit.models.functional_tucker.sampled import Sampled

__all__ = ["Matching", "factor_moments_of_draws", "matched"]

# Rows that components are compared at: enough to tell them apart.
_MAX_ROWS = 500
# Rounds of taking the mean of matched draws for the reference.
_NUM_ROUNDS = 2


class Matching(NamedTuple):
    """What brings draws into one form.

    Parameters
    ----------
    order : (draws, R) int array
        Of the components of a draw, in the order of the reference.
    scales : tuple of (draws, R) arrays, one for each mode
        That functions in this order are multiplied by; their product over modes is one.
    """

    order: np.ndarray
    scales: tuple[np.ndarray, ...]


def factor_moments_of_draws(
    sampled: Sampled, mode: int, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations (points, R) of functions of a mode over draws."""
    layout, prior, data = sampled.problem.layout, sampled.prior, sampled.data
    values = [
        np.asarray(part) for part in _values(prior, data, sampled.parts.parts, layout=layout)
    ]
    rows = np.flatnonzero(np.asarray(data.weight))
    rows = rows[:: -(-len(rows) // _MAX_ROWS)]
    at_rows = [f[:, place[rows]] for f, place in zip(values, data.places, strict=True)]
    weights = np.exp(sampled.log_weights)
    matching = matched(at_rows, weights)
    mean, variance = functions_at(layout, prior, data, sampled.parts, mode, x)
    scale = matching.scales[mode][:, None]
    order = matching.order[:, None]
    mean = np.take_along_axis(np.asarray(mean), order, 2) * scale
    variance = np.take_along_axis(np.asarray(variance), order, 2) * scale**2
    centre = np.einsum("d,dpr->pr", weights, mean)
    spread = np.einsum("d,dpr->pr", weights, variance + (mean - centre) ** 2)
    return centre, np.sqrt(spread)


@quick_jit(static_argnames="layout")
def _values(prior: Any, data: Any, parts: Any, *, layout: Any) -> Any:
    """Return the functions of each mode on its grid, (draws, size, R)."""
    posterior = TensorPosterior(layout, prior, data)
    one = lambda state: tuple(posterior.values(state, k) for k in range(layout.num_modes))
    return jax.lax.map(one, parts)


def matched(values: list[np.ndarray], weights: np.ndarray) -> Matching:
    """Return what brings draws of functions into one form.

    Parameters
    ----------
    values : list of (draws, rows, R) arrays, one for each mode
    weights : (draws,) array
        They sum to one. The draw with the largest is the first reference.
    """
    sizes = [np.sqrt(np.mean(f**2, axis=1)) for f in values]
    sizes = [np.where(size > 0, size, 1.0) for size in sizes]
    values = [values[0] * np.prod(sizes[1:], axis=0)[:, None]] + [
        f / size[:, None] for f, size in zip(values[1:], sizes[1:], strict=True)
    ]
    products = functools.reduce(np.multiply, values)
    best = int(np.argmax(weights))
    reference, signs_of = products[best], [f[best] for f in values]
    for _ in range(_NUM_ROUNDS):
        order = np.stack([_order(reference, one) for one in products])
        take = lambda part, order=order: np.take_along_axis(part, order[:, None], 2)
        signs = [
            np.where(np.einsum("dnr,nr->dr", take(f), known) < 0, -1.0, 1.0)
            for f, known in zip(values[1:], signs_of[1:], strict=True)
        ]
        # The first mode takes the signs of the others: products stay as they are.
        signs = [np.prod(signs, axis=0) if signs else np.ones(order.shape), *signs]
        reference = np.einsum("d,dnr->nr", weights, take(products))
        signs_of = [
            np.einsum("d,dnr->nr", weights, take(f) * sign[:, None])
            for f, sign in zip(values, signs, strict=True)
        ]
    factors = [np.prod(sizes[1:], axis=0), *(1.0 / size for size in sizes[1:])]
    scales = tuple(
        np.take_along_axis(factor, order, 1) * sign
        for factor, sign in zip(factors, signs, strict=True)
    )
    return Matching(order, scales)


def _order(reference: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Return which component of a draw (rows, R) stands for each of the reference."""
    distance = np.mean((reference[:, :, None] - products[:, None, :]) ** 2, axis=0)
    return linear_sum_assignment(distance)[1]
