"""Pareto-smoothed importance weights."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logsumexp

__all__ = ["generalized_pareto_fit", "pareto_smoothed", "reliable_khat"]

# Fewer exceedances say nothing about a tail.
_MIN_TAIL = 5
# Weights whose logarithms differ by no more have no tail.
_EQUAL = 1e-9


def reliable_khat(num: int) -> float:
    """Return the largest k-hat at which the smoothed weights of ``num`` draws can be trusted.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao & Gabry (2024), *Pareto smoothed importance sampling*.
    """
    return min(1.0 - 1.0 / math.log10(num), 0.7)


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    r"""Return normalised log-weights with a smoothed tail, and its shape k-hat.

    The :math:`M = \min(0.2\,S, 3 \sqrt S)` largest weights are replaced by the expected order
    statistics of the generalised Pareto distribution that fits them, and none is left above
    the largest one. Moments of the weights above the order 1 / k-hat are infinite.

    Parameters
    ----------
    log_weights : (S,) array, real or -inf

    Returns
    -------
    log_weights : (S,) array, whose logsumexp is 0
    khat : float
        -inf where all weights are equal; inf where too few are positive to say.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao & Gabry (2024), *Pareto smoothed importance sampling*.

    Examples
    --------
    >>> import numpy as np
    >>> heavy = np.random.default_rng(0).pareto(1.0, size=4000) + 1.0
    >>> _, khat = pareto_smoothed(np.log(heavy))
    >>> 0.7 < khat < 1.3
    True
    """
    num = len(log_weights)
    logs = log_weights - log_weights.max()
    if logs.min() > -_EQUAL:
        return logs - logsumexp(logs), -math.inf
    num_tail = math.ceil(min(0.2 * num, 3.0 * math.sqrt(num)))
    order = np.argsort(logs, kind="stable")
    # Relative to a cut of zero all weights would be tail.
    cut = max(logs[order[-num_tail - 1]], math.log(np.finfo(float).tiny))
    tail = order[-num_tail:][logs[order[-num_tail:]] > cut]
    if len(tail) < _MIN_TAIL:
        return logs - logsumexp(logs), math.inf
    exceedances = np.exp(logs[tail]) - math.exp(cut)
    khat, scale = generalized_pareto_fit(exceedances)
    if math.isfinite(khat) and scale > 0:
        levels = (np.arange(len(tail)) + 0.5) / len(tail)
        if abs(khat) < np.finfo(float).eps:
            expected = -scale * np.log1p(-levels)
        else:
            # Of a shape that is far too heavy some are infinite, and cut off below.
            with np.errstate(over="ignore"):
                expected = scale * np.expm1(-khat * np.log1p(-levels)) / khat
        logs = logs.copy()
        logs[tail] = np.minimum(np.log(expected + math.exp(cut)), 0.0)
    return logs - logsumexp(logs), khat


def generalized_pareto_fit(exceedances: np.ndarray) -> tuple[float, float]:
    r"""Return shape k and scale of a generalised Pareto distribution.

    The profile likelihood of :math:`b = -k / \sigma` is averaged over a grid of quantiles of a
    weak prior, and k is drawn towards 0.5 with the weight of ten exceedances.

    Parameters
    ----------
    exceedances : (num,) array, positive, ascending

    References
    ----------
    Zhang & Stephens (2009), *A new and efficient estimation method for the generalized Pareto
    distribution*; Vehtari et al. (2024), appendix C for the prior of k.
    """
    num = len(exceedances)
    num_grid = 30 + int(math.sqrt(num))
    quartile = exceedances[int(num / 4 + 0.5) - 1]
    # Quantiles of the prior, a generalised Pareto distribution of a third of the quartile.
    places = 1.0 - np.sqrt(num_grid / (np.arange(num_grid) + 0.5))
    grid = places / (3.0 * quartile) + 1.0 / exceedances[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        shapes = np.log1p(-grid[:, None] * exceedances).mean(axis=1)
        profile = num * (np.log(-grid / shapes) - shapes - 1.0)
    usable = np.isfinite(profile)
    if not usable.any():
        return math.inf, math.nan
    weights = np.exp(profile[usable] - logsumexp(profile[usable]))
    b = float(weights @ grid[usable])
    k = float(np.log1p(-b * exceedances).mean())
    return (num * k + 10.0 * 0.5) / (num + 10.0), -k / b
