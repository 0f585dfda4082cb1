"""What an answer is expected to tell of the states behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import entr, expit

from bayeskit.models.knowledge_tracing.moment_matching import expected_sigmoid

__all__ = ["expected_information"]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _entropy(p: np.ndarray) -> np.ndarray:
    return entr(p) + entr(1.0 - p)


def expected_information(mean: Any, variance: Any) -> np.ndarray:
    r"""Return the mutual information of :math:`\eta \sim N(m, v)` and its answer, in nats.

    Parameters
    ----------
    mean, variance : arrays of one shape

    Examples
    --------
    Where nothing is uncertain there is nothing to learn, however open the answer:

    >>> expected_information([0.0, 0.0], [0.0, 1.0]).round(4).tolist()
    [0.0, 0.0937...]
    """
    mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    eta = mean[..., None] + np.sqrt(variance)[..., None] * _NODES
    within = _entropy(expit(eta)) @ _WEIGHTS
    return np.maximum(_entropy(expected_sigmoid(mean, variance)) - within, 0.0)
