"""The scale that observations suggest, for default priors."""

from __future__ import annotations

import warnings

import numpy as np

from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.inference.gp_kernels.hyperparametric import is_free
from bayeskit.models.markov_gp.likelihoods import ROUNDING, Likelihood

__all__ = ["checked_scale"]

# Squares of observations, and sums of many, are to be numbers.
_LARGEST = 1e140


def checked_scale(likelihood: Likelihood, y: np.ndarray) -> float:
    """Return the scale that observations suggest.

    Raises
    ------
    InvalidDataError
        If their variance is beyond double precision.

    Warns
    -----
    ConvergenceWarning
        If noise is to be learned from a constant.
    """
    span, largest = float(np.max(y)) / 2 - float(np.min(y)) / 2, float(np.max(np.abs(y)))
    if likelihood.takes_noise and (largest > _LARGEST or 0 < span < 1 / _LARGEST):
        raise InvalidDataError(
            f"y lies between {np.min(y):.3g} and {np.max(y):.3g}, so that its variance is "
            "beyond double precision: give y in another unit"
        )
    is_constant = len(y) > 1 and span <= ROUNDING * largest
    if is_constant and is_free(getattr(likelihood, "noise", 0.0)):
        warnings.warn(
            f"y is {y[0]:g} in all rows, which tells neither the noise nor the scale of the "
            "function: the learned noise runs to zero, and so do the standard deviations of "
            "predictions. Give numbers for noise and for the kernel's std",
            ConvergenceWarning,
            stacklevel=3,
        )
    return likelihood.scale(y)
