r"""How much weight predictions get: :math:`\lambda` of least variance (PPI++).

As a function of :math:`\lambda` the covariance is
:math:`V_0 - \lambda V_1 + \lambda^2 V_2` with

.. math:: V_1 = A T_2 A^\top / n, \quad V_2 = A T_1 A^\top / n, \quad A = J^{-1},

    T_1 = \frac1n \sum_i (1/\pi_i - 1)\, \hat m_i \hat m_i^\top, \quad
    T_2 = \frac1n \sum_i R_i (1/\pi_i^2 - 1/\pi_i)
        (\hat m_i m_i^\top + m_i \hat m_i^\top),

so that :math:`\lambda^* = \mathrm{tr}\, V_1 / (2\, \mathrm{tr}\, V_2)`, clipped to [0, 1].

It is a ratio of sums over units, :math:`\sum_i a_i / 2 \sum_i b_i`, whose standard error is
:math:`\{\sum_i (a_i/2 - \lambda^* b_i)^2\}^{1/2} / \sum_i b_i`. Where it is less than two of
them above 0, labels stand alone: the noise of a small lambda costs more than it gains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bayeskit.models.dsl.clusters import cluster_products, group_sums
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.sandwich import UnitMoments

__all__ = ["QuadraticParts", "best_power", "check_power_tuning", "quadratic_parts"]

# Standard errors above 0 from which on predictions are used at all.
_LEAST_SIGNAL = 2.0


class QuadraticParts(NamedTuple):
    r"""The variance as a function of :math:`\lambda`, and what its parts are sums of.

    Parameters
    ----------
    linear, quadratic : (parameters, parameters) array
        :math:`V_1` and :math:`V_2`.
    linear_units, quadratic_units : (units or clusters, parameters) array
        Contributions to their diagonals.
    """

    linear: np.ndarray
    quadratic: np.ndarray
    linear_units: np.ndarray
    quadratic_units: np.ndarray


def check_power_tuning(value: object) -> None:
    """Refuse what names no rule.

    Raises
    ------
    ValueError
    """
    if isinstance(value, str) and value in ("trace", "per_coef"):
        return
    number = isinstance(value, int | float) and 0.0 <= float(value) <= 1.0
    if not (value is None or number or callable(value)):
        raise ValueError(
            "power_tuning must be False, 'trace', 'per_coef', a number lambda in [0, 1] or a "
            f"function (linear, quadratic) -> lambda, got {value!r}"
        )


def quadratic_parts(
    data: MomentData, moments: UnitMoments, bread: np.ndarray
) -> QuadraticParts:
    r"""Return :math:`V_1` and :math:`V_2`, from moments at :math:`\lambda = 1`.

    With clusters the expectations are replaced by products of the sums over clusters; of two
    ways the one with fewer clusters gives the contributions.
    """
    n, at = data.num_units, data.labeled
    inverse = 1.0 / data.probability
    guess, truth = moments.predicted @ bread.T / n, moments.true @ bread.T / n
    if data.clusters:
        labels, share = np.zeros_like(guess), np.zeros(n)
        labels[at] = inverse[at][:, None] * truth
        share[at] = inverse[at]
        rest = (1.0 - share)[:, None] * guess
        square = cluster_products(rest, rest, data.clusters)
        half = -cluster_products(labels, rest, data.clusters)
        codes = min(data.clusters, key=np.max)
        labels, rest = (group_sums(a, codes, int(codes.max()) + 1) for a in (labels, rest))
        by_unit = (-2.0 * labels * rest, rest**2)
    else:
        rest = (inverse - 1.0)[:, None] * guess
        square = rest.T @ guess
        half = (inverse[at][:, None] * rest[at]).T @ truth
        product = np.zeros_like(guess)
        product[at] = 2.0 * inverse[at][:, None] * rest[at] * truth
        by_unit = (product, rest * guess)
    return QuadraticParts(half + half.T, square, *by_unit)


def best_power(
    rule: str | Callable, parts: QuadraticParts, chosen: slice | np.ndarray
) -> np.ndarray:
    r"""Return :math:`\lambda`: one number, or one a parameter for the rule "per_coef".

    Parameters
    ----------
    rule : "trace", "per_coef", or callable (linear, quadratic) -> number
    parts : QuadraticParts
    chosen : index
        Parameters of interest, whose variances the trace sums up.
    """
    if callable(rule):
        found = np.asarray(rule(parts.linear, parts.quadratic), float)
        return np.clip(np.atleast_1d(found), 0.0, 1.0)
    first, second = np.diag(parts.linear), np.diag(parts.quadratic)
    a, b = parts.linear_units, parts.quadratic_units
    if rule == "trace":
        first, second = first[chosen].sum(keepdims=True), second[chosen].sum(keepdims=True)
        a, b = (u[:, chosen].sum(axis=1, keepdims=True) for u in (a, b))
    safe = np.where(second > 0, second, 1.0)
    best = first / (2.0 * safe)
    error = np.sqrt(np.sum((a / 2.0 - best * b) ** 2, axis=0)) / safe
    best = np.where(best >= _LEAST_SIGNAL * error, np.clip(best, 0.0, 1.0), 0.0)
    return np.where(second > 0, best, 1.0)
