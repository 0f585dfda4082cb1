r"""Monotone transforms of the target, with exact densities, quantiles and means back.

The model is Gaussian in :math:`t = g(y)`. For an increasing g, with :math:`t \sim N(m, s^2)`,

.. math::

    p(y) = N(g(y); m, s^2) g'(y), \quad
    Q_y(p) = g^{-1}(m + s \Phi^{-1}(p)), \quad
    E y = \int g^{-1}(m + s z) N(z; 0, 1) dz,

so quantiles, the median among them, go through the inverse, and the mean does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from bayeskit.errors import InvalidDataError

__all__ = ["BoxCox", "Transform", "as_transform"]

# Exact for polynomials of degree 59: the mean of a fourth power, or of a smooth function whose
# scale is several standard deviations, to rounding.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(30)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Transform:
    """An increasing function of the target, with its inverse and the log of its derivative.

    Write ``forward``, ``inverse`` and ``log_derivative``; ``check`` says which values are
    allowed. The rest follows.
    """

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Return g(y)."""
        raise NotImplementedError

    def inverse(self, t: np.ndarray) -> np.ndarray:
        """Return the y with g(y) = t; beyond the range of g, the nearest limit of y."""
        raise NotImplementedError

    def log_derivative(self, y: np.ndarray) -> np.ndarray:
        """Return log g'(y)."""
        raise NotImplementedError

    def check(self, y: np.ndarray) -> None:
        """Refuse values that g does not take.

        Raises
        ------
        InvalidDataError
            With the first row that is bad.
        """

    def quantile(self, probability: Any, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return quantiles of y where t is normal: exact, by the inverse."""
        return self.inverse(mean + std * ndtri(probability))

    def mean(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return the mean of y where t is normal: 30-point Gauss-Hermite quadrature."""
        return self._moments(mean, std)[0]

    def std(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return the standard deviation of y where t is normal, by the same quadrature."""
        return self._moments(mean, std)[1]

    def _moments(self, mean: Any, std: Any) -> tuple[np.ndarray, np.ndarray]:
        values = self.inverse(np.asarray(mean)[..., None] + np.asarray(std)[..., None] * _NODES)
        first = values @ _WEIGHTS
        return first, np.sqrt((values - first[..., None]) ** 2 @ _WEIGHTS)

    def log_density(self, y: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return the log density of y where t is normal, Jacobian included."""
        z = (self.forward(y) - mean) / std
        return -0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi) + self.log_derivative(y)


@dataclass(frozen=True)
class Identity(Transform):
    """The target as it is."""

    def forward(self, y: Any) -> Any:
        """Return y."""
        return y

    def inverse(self, t: Any) -> Any:
        """Return t."""
        return t

    def log_derivative(self, y: Any) -> Any:
        """Return zero."""
        return np.zeros_like(np.asarray(y, float))


@dataclass(frozen=True)
class BoxCox(Transform):
    r"""The power transform of Box and Cox, :math:`g(y) = ((y + shift)^p - 1) / p`.

    Power 0 is the logarithm of y + shift. The smaller the power, the more a long tail to the
    right is drawn in. With a power in (0, 1) the
    range of g ends at -1/p, where y = -shift: mass of the normal distribution below it sits at
    y = -shift.

    Parameters
    ----------
    power : float in [0, 1)
    shift : float
        Values must be larger than minus this.

    Raises
    ------
    ValueError
        For a power outside of [0, 1), or a shift that is not finite.

    References
    ----------
    Box & Cox (1964), *An analysis of transformations*.

    Examples
    --------
    >>> BoxCox(0.5).forward(4.0)
    2.0
    >>> round(float(BoxCox(0.0).mean(0.0, 1.0)), 6)  # log-normal: exp(1/2)
    1.648721
    """

    power: float
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.power) and 0.0 <= self.power < 1.0):
            raise ValueError(
                f"power must be in [0, 1), got {self.power!r}; transform=None keeps y as it is"
            )
        if not np.isfinite(self.shift):
            raise ValueError(f"shift must be a finite number, got {self.shift!r}")

    def forward(self, y: Any) -> Any:
        """Return ((y + shift)^p - 1) / p, or its limit log(y + shift) at p = 0."""
        positive = y + self.shift
        if self.power == 0.0:
            return np.log(positive)
        return (positive**self.power - 1.0) / self.power

    def inverse(self, t: Any) -> Any:
        """Return (1 + p t)^(1/p) - shift, and -shift where 1 + p t <= 0."""
        if self.power == 0.0:
            return np.exp(t) - self.shift
        return np.maximum(1.0 + self.power * t, 0.0) ** (1.0 / self.power) - self.shift

    def log_derivative(self, y: Any) -> Any:
        """Return (p - 1) log(y + shift)."""
        return (self.power - 1.0) * np.log(y + self.shift)

    def check(self, y: np.ndarray) -> None:
        """Refuse values at or below -shift."""
        bad = ~(y + self.shift > 0)
        bad &= ~np.isnan(y)
        if bad.any():
            row = int(np.argmax(bad))
            raise InvalidDataError(
                f"y is {y[row]:g} at row {row}, but {self!r} takes values above "
                f"{0.0 - self.shift:g} only ({int(bad.sum())} of {y.size} rows): give a larger "
                "shift, or another transform"
            )


@dataclass(frozen=True)
class Standardized(Transform):
    """A transform followed by a fixed shift and scale, g(y) = (inner(y) - centre) / scale."""

    inner: Transform
    centre: float
    scale: float

    def forward(self, y: Any) -> Any:
        """Return (inner(y) - centre) / scale."""
        return (self.inner.forward(y) - self.centre) / self.scale

    def inverse(self, t: Any) -> Any:
        """Return the inverse of the inner transform at centre + scale t."""
        return self.inner.inverse(self.centre + self.scale * t)

    def log_derivative(self, y: Any) -> Any:
        """Return the log derivative of the inner transform, minus log scale."""
        return self.inner.log_derivative(y) - np.log(self.scale)


_NAMED = {None: Identity(), "standardize": Identity(), "log": BoxCox(0.0)}


def as_transform(transform: Any) -> Transform:
    """Return a transform by its name: None and "standardize" keep y, "log" takes the logarithm.

    Every model standardizes what the transform gives, so None and "standardize" are the same.

    Raises
    ------
    ValueError
        For anything else that is no Transform.
    """
    if isinstance(transform, Transform):
        return transform
    if transform is None or isinstance(transform, str):
        if transform in _NAMED:
            return _NAMED[transform]
    raise ValueError(
        "transform must be None, 'standardize', 'log' or a Transform such as BoxCox(0.25), got "
        f"{transform!r}"
    )


def standardized(transform: Transform, y: np.ndarray) -> Standardized:
    """Return the transform scaled so that the values g(y) have mean 0 and deviation 1.

    A constant y is left at scale 1.

    Raises
    ------
    InvalidDataError
        For values whose squares double precision cannot hold.
    """
    values = transform.forward(y)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale = float(np.std(values)) if values.max() > values.min() else 1.0
    if not (np.isfinite(scale) and scale > 0):
        raise InvalidDataError(
            f"y lies between {values.min():.3g} and {values.max():.3g} after its transform, so "
            "that its variance is beyond double precision: give y in another unit"
        )
    return Standardized(transform, float(np.mean(values)), scale)
