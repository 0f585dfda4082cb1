r"""Mean functions of the models: what is expected of y given the linear predictors.

Each is written for arrays of any library that follows the array standard, so that point
estimates (NumPy) and posterior draws (JAX) share one definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["LINKS", "Link"]

# exp of anything beyond overflows in double precision.
_MAX_LOG_MEAN = 700.0


class Link(NamedTuple):
    r"""A mean :math:`\mu(\eta)` and its derivative.

    Parameters
    ----------
    name : str
    mean : callable (..., outcomes) -> (..., outcomes)
    slope : callable (..., outcomes) -> (..., outcomes, outcomes)
        :math:`\partial \mu_l / \partial \eta_k`.
    is_linear : bool
        Whether one Newton step from anywhere is the solution.
    """

    name: str
    mean: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    is_linear: bool = False


def _namespace(array: Any) -> Any:
    return array.__array_namespace__()


def _identity_slope(eta: Any) -> Any:
    xp = _namespace(eta)
    return xp.ones_like(eta)[..., None]


def _expit(eta: Any) -> Any:
    # Exact at both ends, and no overflow anywhere.
    return 0.5 + 0.5 * _namespace(eta).tanh(0.5 * eta)


def _expit_slope(eta: Any) -> Any:
    return (0.25 - 0.25 * _namespace(eta).tanh(0.5 * eta) ** 2)[..., None]


def _exp(eta: Any) -> Any:
    xp = _namespace(eta)
    return xp.exp(xp.clip(eta, -_MAX_LOG_MEAN, _MAX_LOG_MEAN))


def _softmax(eta: Any) -> Any:
    """Return the probabilities of all classes but the first, whose predictor is 0."""
    xp = _namespace(eta)
    top = xp.maximum(xp.max(eta, axis=-1, keepdims=True), xp.zeros_like(eta[..., :1]))
    odds = xp.exp(eta - top)
    return odds / (xp.exp(-top) + xp.sum(odds, axis=-1, keepdims=True))


def _softmax_slope(eta: Any) -> Any:
    xp = _namespace(eta)
    p = _softmax(eta)
    diagonal = p[..., None] * xp.eye(eta.shape[-1], dtype=eta.dtype)
    return diagonal - p[..., None] * p[..., None, :]


def _identity(eta: Any) -> Any:
    return eta


def _exp_slope(eta: Any) -> Any:
    return _exp(eta)[..., None]


LINKS = {
    "linear": Link("linear", _identity, _identity_slope, is_linear=True),
    "logit": Link("logit", _expit, _expit_slope),
    "poisson": Link("poisson", _exp, _exp_slope),
    "multinomial": Link("multinomial", _softmax, _softmax_slope),
}
