r"""How much weight predictions get: :math:`\lambda` of least variance (PPI++).

As a function of :math:`\lambda` the covariance is
:math:`V_0 - \lambda V_1 + \lambda^2 V_2` with

.. math:: V_1 = A T_2 A^\top / n, \quad V_2 = A T_1 A^\top / n, \quad A = J^{-1},

    T_1 = \frac1n \sum_i (1/\pi_i - 1)\, \hat m_i \hat m_i^\top, \quad
    T_2 = \frac1n \sum_i R_i (1/\pi_i^2 - 1/\pi_i)
        (\hat m_i m_i^\top + m_i \hat m_i^\top),

so that :math:`\lambda^* = \mathrm{tr}\, V_1 / (2\, \mathrm{tr}\, V_2)`, clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bayeskit.models.dsl.clusters import cluster_products
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.sandwich import UnitMoments

__all__ = ["best_power", "check_power_tuning", "quadratic_parts"]


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
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return :math:`V_1` and :math:`V_2`, from moments at :math:`\lambda = 1`.

    With clusters the expectations are replaced by products of the sums over clusters.
    """
    n, at = data.num_units, data.labeled
    inverse = 1.0 / data.probability
    predicted, true = moments.predicted, moments.true
    if data.clusters:
        labels = np.zeros_like(predicted)
        labels[at] = inverse[at][:, None] * true
        share = np.zeros(n)
        share[at] = inverse[at]
        rest = (1.0 - share)[:, None] * predicted
        square = cluster_products(rest, rest, data.clusters) / n
        half = -cluster_products(labels, rest, data.clusters) / n
    else:
        square = (predicted * (inverse - 1.0)[:, None]).T @ predicted / n
        factor = (inverse[at] ** 2 - inverse[at])[:, None]
        half = (factor * predicted[at]).T @ true / n
    return bread @ (half + half.T) @ bread.T / n, bread @ square @ bread.T / n


def best_power(
    rule: str | Callable, linear: np.ndarray, quadratic: np.ndarray, chosen: slice | np.ndarray
) -> np.ndarray:
    r"""Return :math:`\lambda`: one number, or one a parameter for the rule "per_coef".

    Parameters
    ----------
    rule : "trace", "per_coef", or callable (linear, quadratic) -> number
    linear, quadratic : (parameters, parameters) array
        :math:`V_1` and :math:`V_2`.
    chosen : index
        Parameters of interest, whose variances the trace sums up.
    """
    first, second = np.diag(linear), np.diag(quadratic)
    if callable(rule):
        return np.clip(np.atleast_1d(np.asarray(rule(linear, quadratic), float)), 0.0, 1.0)
    if rule == "trace":
        first, second = first[chosen].sum(keepdims=True), second[chosen].sum(keepdims=True)
    safe = np.where(second > 0, second, 1.0)
    return np.where(second > 0, np.clip(first / (2.0 * safe), 0.0, 1.0), 1.0)
