"""Simulations that no network can learn from, refused before training."""

from __future__ import annotations

import warnings

import numpy as np

from bayeskit.errors import InvalidDataError, NumericalWarning
from bayeskit.models.distribution_transformer.first_sample import FirstSample

__all__ = ["check_simulations"]

# With a larger share that is not finite, nothing would be learned from the others.
_MOST_BAD = 0.5


def check_simulations(sample: FirstSample) -> None:
    """Look at data, and at their log likelihood where the truth is known.

    Raises
    ------
    InvalidDataError
        If more than half of the problems are not finite.

    Warns
    -----
    NumericalWarning
        If some are not.
    """
    num = len(sample.u)
    is_bad = np.zeros(num, bool)
    for name, rows in sample.problems.rows.items():
        there = np.asarray(sample.problems.masks[name])[..., None]
        is_bad |= (there & ~np.isfinite(rows)).any(axis=(1, 2))
    _report(
        is_bad, "the simulator draws NaN or infinite data", "Check it at draws of the prior"
    )
    if sample.log_likelihood is None:
        return
    _report(
        ~np.isfinite(sample.log_likelihood) & ~is_bad,
        "the log likelihood is not finite at the latent that made the data",
        "Simulator and log likelihood must be of the same law; check for overflow",
    )


def _report(is_bad: np.ndarray, what: str, advice: str) -> None:
    count, num = int(is_bad.sum()), len(is_bad)
    if not count:
        return
    words = f"{what} in {count} of {num} simulated problems. {advice}"
    if count > _MOST_BAD * num:
        raise InvalidDataError(words)
    warnings.warn(words, NumericalWarning, stacklevel=4)
