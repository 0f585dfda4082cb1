r"""Predictive laws of the target: mixtures of normals on the transformed scale.

A component is a draw of the posterior, or the whole of it, and for Student-t noise one value of
a row's weight, whose Gamma law is summed over by the trapezoidal rule in its logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from bayeskit.models.functional_tucker.transforms import Transform
from bayeskit.models.markov_gp.mixtures import function_quantiles

__all__ = ["Predictive", "predictive"]

# Smooth and quickly falling in both directions: the rule converges exponentially.
_NUM_WEIGHTS = 40


@dataclass(frozen=True)
class Predictive:
    """A mixture of normals for each row.

    Parameters
    ----------
    log_weights : (components,) array
        They sum to one.
    mean, std : (components, rows) arrays
    transform : Transform
        From the target to the scale of the mixture.
    """

    log_weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    transform: Transform

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (rows,) of the target."""
        weights = np.exp(self.log_weights)
        first = second = np.zeros(self.mean.shape[1])
        # One component at a time: the quadrature takes 30 numbers for each of its rows.
        for weight, mean, std in zip(weights, self.mean, self.std, strict=True):
            m, s = self.transform.mean(mean, std), self.transform.std(mean, std)
            first, second = first + weight * m, second + weight * (m**2 + s**2)
        return first, np.sqrt(np.maximum(second - first**2, 0.0))

    def quantiles(self, levels: Any) -> np.ndarray:
        """Return quantiles (levels, rows) of the target."""
        weights = np.exp(self.log_weights)
        found = function_quantiles(self.mean, self.std**2, levels, weights)
        return self.transform.inverse(found)

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return the log density (rows,) of the target at y."""
        each = self.transform.log_density(y, self.mean, self.std)
        return logsumexp(each + self.log_weights[:, None], axis=0)


def predictive(
    transform: Transform,
    mean: np.ndarray,
    variance: np.ndarray,
    noise_std: np.ndarray,
    degrees: float | None,
    log_weights: np.ndarray | None = None,
) -> Predictive:
    """Return the law of new observations.

    Parameters
    ----------
    mean, variance : (draws, rows) arrays
        Of t without noise.
    noise_std : (draws,) array
    degrees : float or None
        Degrees of freedom of Student-t noise.
    log_weights : (draws,) array, optional
        Equal by default.
    """
    num = len(mean)
    given = np.full(num, -np.log(num)) if log_weights is None else log_weights
    if degrees is None:
        std = np.sqrt(variance + noise_std[:, None] ** 2)
        return Predictive(given, mean, std, transform)
    row_weights, masses = _row_weights(degrees)
    std = np.sqrt(variance[:, None] + noise_std[:, None, None] ** 2 / row_weights[:, None])
    return Predictive(
        (given[:, None] + np.log(masses)).reshape(-1),
        np.repeat(mean, len(masses), axis=0),
        std.reshape(-1, mean.shape[1]),
        transform,
    )


def _row_weights(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return values of w ~ Gamma(degrees / 2, degrees / 2), and their masses."""
    # Small weights make the tails, which are to hold ten standard deviations out.
    law = stats.gamma(0.5 * degrees, scale=2.0 / degrees)
    low, high = np.log(law.ppf(1e-14)), np.log(law.isf(1e-9))
    points = np.exp(np.linspace(low, high, _NUM_WEIGHTS))
    masses = law.pdf(points) * points
    return points, masses / masses.sum()
