r"""What more labels would bring.

The variance falls into a part from labels and a part that more labels leave as it is. With
:math:`\rho` = labels then over labels now,

.. math:: V(\rho) = V_{\text{labels}} / \rho + (V - V_{\text{labels}}) .
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.estimation import SplitEstimates

__all__ = ["minimal_labels", "predicted_se", "target_of_test"]


def predicted_se(found: SplitEstimates, ratio: Any) -> np.ndarray:
    """Return standard errors (sizes, parameters): medians over splits.

    Parameters
    ----------
    found : SplitEstimates
    ratio : (sizes) array
        Labels then over labels now. Where a predicted variance is not positive, the standard
        error of the last size with a positive one is scaled by the root of the ratio.
    """
    ratio = np.atleast_1d(np.asarray(ratio, float))
    now = np.diagonal(found.vcov, axis1=1, axis2=2)
    labels = np.diagonal(found.label_vcov, axis1=1, axis2=2)
    order = np.argsort(ratio)
    by_split = np.empty((len(now), len(ratio), now.shape[1]))
    for s in range(len(now)):
        last_se, last_ratio = np.sqrt(now[s]), np.ones(now.shape[1])
        for i in order:
            variance = labels[s] / ratio[i] + now[s] - labels[s]
            valid = variance > 0
            scaled = last_se * np.sqrt(last_ratio / ratio[i])
            se = np.where(valid, np.sqrt(np.where(valid, variance, 1.0)), scaled)
            by_split[s, i] = se
            last_se = np.where(valid, se, last_se)
            last_ratio = np.where(valid, ratio[i], last_ratio)
    return np.median(by_split, axis=0)


def target_of_test(effect: float, power: float, level: float) -> float:
    """Return the standard error with which a two-sided test finds an effect.

    Parameters
    ----------
    effect : float
        Size of the coefficient, not 0.
    power : float in (0, 1)
        Probability of finding it.
    level : float
        Of the interval that shall not hold 0: a test at ``1 - level``.
    """
    if not effect or not np.isfinite(effect):
        raise ValueError(f"effect must be a number other than 0, got {effect!r}")
    if not 1.0 - level < power < 1.0:
        raise ValueError(f"power must lie between {1 - level:.3g} and 1, got {power!r}")
    critical = stats.norm.ppf(0.5 + 0.5 * level)

    def miss(z: float) -> float:
        return float(stats.norm.sf(critical - z) + stats.norm.cdf(-critical - z)) - power

    return abs(effect) / float(optimize.brentq(miss, 0.0, critical + 10.0))


def minimal_labels(
    found: SplitEstimates, place: int, target_se: float, num_labels: int, most: int
) -> int:
    """Return the least number of labels with which a standard error is reached.

    Parameters
    ----------
    found : SplitEstimates
    place : int
        Of the coefficient.
    target_se : float
    num_labels : int
        Labels now.
    most : int
        Number beyond which some probability would exceed 1.

    Raises
    ------
    InvalidDataError
        If even ``most`` labels do not reach it.
    """

    def se(count: int) -> float:
        return float(predicted_se(found, [count / num_labels])[0, place])

    if not target_se > 0:
        raise ValueError(f"target_se must be positive, got {target_se!r}")
    if se(most) > target_se:
        raise InvalidDataError(
            f"a standard error of {target_se:.4g} is out of reach: with {most} labels, the "
            f"most that this design allows, it is {se(most):.4g}. The rest comes from the "
            "number of units: collect more of them"
        )
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if se(middle) <= target_se else (middle + 1, high)
    return low


def sizes_or_default(sizes: Sequence[int] | None, num_labels: int, most: int) -> np.ndarray:
    """Return the numbers of labels to look at: by default 1.1, 1.2 to 2 times those now."""
    if sizes is None:
        default = np.unique(np.minimum(np.round(num_labels * np.arange(1.1, 2.05, 0.1)), most))
        return default[default > num_labels].astype(int)
    given = np.atleast_1d(np.asarray(sizes))
    if not (np.isfinite(given.astype(float)).all() and (given >= 1).all()):
        raise ValueError(f"sizes must be numbers of labels >= 1, got {sizes!r}")
    if (given > most).any():
        raise InvalidDataError(
            f"sizes go up to {int(given.max())}, but with more than {most} labels some "
            "probability of being labelled would exceed 1"
        )
    return given
