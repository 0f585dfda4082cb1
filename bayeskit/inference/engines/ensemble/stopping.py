"""When enough draws are there: effective sample sizes that cost less than the draws."""

from __future__ import annotations

import numpy as np

__all__ = ["quick_effective_sizes", "worst_effective_size"]


def quick_effective_sizes(series: np.ndarray) -> np.ndarray:
    r"""Return effective sample sizes (...) of series (chain, draw, ...).

    Geyer's initial monotone sequence on all chains, with autocovariances lag by lag until the
    slowest coordinate has decayed: chains that mix in a few iterations need a few lags only.
    Chains are not split and ranks are not taken; this decides when to look with ArviZ.
    """
    num_chains, num, *_ = series.shape
    centred = series - series.mean(axis=1, keepdims=True)

    def covariance(lag: int) -> np.ndarray:
        return (centred[:, : num - lag] * centred[:, lag:]).sum(axis=1).mean(axis=0) / num

    within = covariance(0) * num / (num - 1)
    between = series.mean(axis=1).var(axis=0, ddof=1) if num_chains > 1 else 0.0
    total = within * (num - 1) / num + between
    varies = total > 0
    total = np.where(varies, total, 1.0)

    def correlation(lag: int) -> np.ndarray:
        return 1.0 - (within - covariance(lag) * num / (num - 1)) / total

    time = np.full(total.shape, -1.0)
    previous = np.full(total.shape, np.inf)
    alive = np.ones(total.shape, bool)
    for lag in range(0, num - 1, 2):
        even = 1.0 if lag == 0 else correlation(lag)
        pair = np.minimum(even + correlation(lag + 1), previous)
        alive &= pair > 0
        if not alive.any():
            break
        time += np.where(alive, 2.0 * pair, 0.0)
        previous = pair
    size = num_chains * num
    # Antithetic chains may be worth more draws than there are, up to a bound as in ArviZ.
    sizes = size / np.maximum(time, 1.0 / np.log10(size))
    return np.where(varies, sizes, 0.0)


def worst_effective_size(positions: np.ndarray) -> float:
    """Return the least effective size of means, squares and tails of (chain, draw, dim).

    Means alone flatter: trajectories that turn too far are antithetic in the means and slow in
    the squares.
    """
    flat = positions.reshape(-1, positions.shape[-1])
    low, high = np.quantile(flat, [0.05, 0.95], axis=0)
    deviation = positions - flat.mean(axis=0)
    features = [positions, deviation**2, 1.0 * (positions <= low), 1.0 * (positions <= high)]
    return float(min(quick_effective_sizes(feature).min() for feature in features))
