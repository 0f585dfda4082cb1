"""R-hat and effective sample sizes, many parameters at a time.

ArviZ has them too, and the tests hold these against it. But to import ArviZ, and what it
compiles, takes two CPU seconds, as long as a whole fit, and it goes through parameters one by
one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

__all__ = ["effective_sizes", "rank_normalized_r_hats"]

# Values that are worked on at once, so that memory stays bounded.
_MAX_VALUES = 2**21
# Fewer draws a chain say nothing.
_MIN_DRAWS = 4
_TAILS = (0.05, 0.95)


def effective_sizes(draws: np.ndarray, method: str = "mean") -> np.ndarray:
    r"""Return effective sample sizes (...) of draws (chain, draw, ...).

    Chains are split in halves, and autocorrelations :math:`\rho_t` of all of them together are
    summed by Geyer's initial monotone sequence,

    .. math:: n / \tau, \qquad \tau = -1 + 2 \sum_k (\rho_{2k} + \rho_{2k+1}) .

    Parameters
    ----------
    draws : (chain, draw, ...) array
    method : {"mean", "bulk", "tail"}
        Of the draws themselves; of their normal scores; the smaller one of the indicators of
        both 5 % tails.

    Returns
    -------
    (...) array
        NaN for fewer than 4 draws or values that are not finite. What does not vary counts with
        all of its draws.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), *Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC*.

    Examples
    --------
    >>> import numpy as np
    >>> draws = np.random.default_rng(0).normal(size=(4, 500, 2))
    >>> bool(np.all(effective_sizes(draws, "bulk") > 1500))
    True
    """
    return _by_parameter({"mean": _mean, "bulk": _bulk, "tail": _tail}[method], draws)


def rank_normalized_r_hats(draws: np.ndarray) -> np.ndarray:
    r"""Return the rank-normalised split R-hat (...) of draws (chain, draw, ...).

    The larger one of that of the normal scores, and that of the normal scores of distances from
    the median; each is the square root of the variance of all draws over the mean variance
    within half chains.

    Parameters
    ----------
    draws : (chain, draw, ...) array

    Returns
    -------
    (...) array
        NaN for a single chain, fewer than 4 draws, or values that are not finite.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
    """
    if draws.shape[0] < 2:
        return np.full(draws.shape[2:], np.nan)
    return _by_parameter(_r_hat, draws)


def _by_parameter(function: Callable, draws: np.ndarray) -> np.ndarray:
    """Return a function of (chain, draw, num) arrays for all finite parameters."""
    flat = np.asarray(draws, float).reshape(*draws.shape[:2], -1)
    found = np.full(flat.shape[2], np.nan)
    usable = np.flatnonzero(np.isfinite(flat).all(axis=(0, 1)))
    if draws.shape[1] < _MIN_DRAWS:
        usable = usable[:0]
    num_parts = -(-usable.size * flat.shape[0] * flat.shape[1] // _MAX_VALUES)
    for part in np.array_split(usable, max(num_parts, 1)):
        if part.size:
            found[part] = function(flat[:, :, part])
    return found.reshape(draws.shape[2:])


def _mean(draws: np.ndarray) -> np.ndarray:
    return _size(_halves(draws))


def _bulk(draws: np.ndarray) -> np.ndarray:
    return _size(_normal_scores(_halves(draws)))


def _tail(draws: np.ndarray) -> np.ndarray:
    ends = np.quantile(draws, _TAILS, axis=(0, 1))
    return np.minimum(*(_size(_halves(1.0 * (draws <= end))) for end in ends))


def _r_hat(draws: np.ndarray) -> np.ndarray:
    halves = _halves(draws)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    ratios = []
    for scores in map(_normal_scores, (halves, folded)):
        num = scores.shape[1]
        within = scores.var(axis=1, ddof=1).mean(axis=0)
        between = scores.mean(axis=1).var(axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.sqrt(between / within + (num - 1) / num))
    return np.maximum(*ratios)


def _halves(draws: np.ndarray) -> np.ndarray:
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_scores(draws: np.ndarray) -> np.ndarray:
    """Return normal quantiles of the ranks of draws (chain, draw, num), Blom's (r - 3/8)."""
    flat = draws.reshape(-1, draws.shape[2])
    ranks = np.empty(flat.shape)
    for i, column in enumerate(flat.T):
        _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
        # Equal draws share the mean of their ranks.
        ranks[:, i] = (np.cumsum(counts) - 0.5 * (counts - 1))[place]
    return ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(draws.shape)


def _size(draws: np.ndarray) -> np.ndarray:
    """Return the effective sizes (num,) of chains (chain, draw, num) taken together."""
    num_chains, num = draws.shape[:2]
    total = num_chains * num
    covariance = _autocovariance(draws).mean(axis=1)
    within = covariance[0] * num / (num - 1)
    variance = covariance[0]
    if num_chains > 1:
        variance = variance + draws.mean(axis=1).var(axis=0, ddof=1)
    varies = np.ptp(draws, axis=(0, 1)) > np.finfo(float).resolution
    rho = 1.0 - (within - covariance) / np.where(varies, variance, 1.0)
    rho[0] = 1.0
    num_pairs = num // 2
    even, odd = rho[0 : 2 * num_pairs : 2], rho[1 : 2 * num_pairs : 2]
    pairs = even + odd
    # The sum ends before the first pair that is not positive, or at the last lags.
    stops = pairs <= 0
    stops[max(0, (num - 3) // 2)] = True
    end = np.argmax(stops, axis=0)
    before = np.arange(num_pairs)[:, None] < end
    monotone = np.minimum.accumulate(np.where(before, pairs, np.inf), axis=0)
    # Of the pair at the end the first counts, if it is positive or the pair is.
    even, pair = (np.take_along_axis(x, end[None], axis=0)[0] for x in (even, pairs))
    last = np.where(pair >= 0, even, np.maximum(even, 0.0))
    time = -1.0 + 2.0 * np.where(before, monotone, 0.0).sum(axis=0) + last
    # Antithetic chains are worth more draws than there are, up to a bound.
    return np.where(varies, total / np.maximum(time, 1.0 / np.log10(total)), total)


def _autocovariance(draws: np.ndarray) -> np.ndarray:
    """Return autocovariances (lag, chain, num) of each chain, by the fast transform."""
    num = draws.shape[1]
    centred = np.moveaxis(draws - draws.mean(axis=1, keepdims=True), 1, -1)
    # Twice the length, or the ends would meet.
    power = np.abs(np.fft.rfft(centred, 2 * num, axis=-1)) ** 2
    return np.moveaxis(np.fft.irfft(power, 2 * num, axis=-1)[..., :num] / num, -1, 0)
