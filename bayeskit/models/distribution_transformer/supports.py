"""Maps between the space where mixtures are Gaussian and that of constrained latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.distribution_transformer.small_matrices import numpy_of

__all__ = ["Correlation", "Intervals", "Simplex", "Support", "as_support"]

_NAMES = '"real", "positive", "unit", ("interval", low, high), "simplex", "correlation"'


class Support(Protocol):
    r"""A smooth bijection :math:`x = x(u)` from :math:`R^d` onto where the latent lives.

    A density of u becomes one of x by
    :math:`\log q(x) = \log q_u(u) - \log |\det \partial x / \partial u|`.
    """

    @property
    def dim(self) -> int:
        """Number of coordinates of u."""

    @property
    def constrained_dim(self) -> int:
        """Number of coordinates of x."""

    @property
    def spec(self) -> Any:
        """What :func:`as_support` makes this support of, in plain values."""

    def constrain(self, u: Any) -> Any:
        """Return x (..., constrained_dim) of u (..., dim)."""

    def unconstrain(self, x: Any) -> Any:
        """Return u of x."""

    def log_det(self, u: Any) -> Any:
        """Return the log absolute determinant (...) of the Jacobian of x at u."""

    def contains(self, x: Any) -> Any:
        """Return whether points lie inside, (...) bool."""


@dataclass(frozen=True)
class Intervals:
    """Each coordinate in an interval of its own, with one or both ends possibly infinite.

    The map is the identity on the real line, exp on half lines, and the scaled logistic
    function on bounded intervals.

    Parameters
    ----------
    low, high : tuples of float
        One entry for each coordinate. -inf and inf: the real line; finite and inf: a half line.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self):
        for i, (a, b) in enumerate(zip(self.low, self.high, strict=True)):
            if not a < b or (b < math.inf and a == -math.inf):
                raise ValueError(
                    f"support: coordinate {i} has the interval ({a:g}, {b:g}); the lower end "
                    "must be below the upper one, and finite where that is"
                )

    @property
    def dim(self) -> int:
        """Number of coordinates, the same on both sides."""
        return len(self.low)

    @property
    def constrained_dim(self) -> int:
        """Number of coordinates, the same on both sides."""
        return len(self.low)

    @property
    def spec(self) -> Any:
        """One entry for each coordinate."""
        return [_interval_spec(a, b) for a, b in zip(self.low, self.high, strict=True)]

    @property
    def is_real(self) -> bool:
        """Whether the map is the identity."""
        return all(a == -math.inf for a in self.low)

    def at(self, coordinates: Sequence[int]) -> Intervals:
        """Return the support of some of the coordinates."""
        low = tuple(self.low[i] for i in coordinates)
        return Intervals(low, tuple(self.high[i] for i in coordinates))

    def _kinds(self, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return masks of half lines and bounded intervals, lower ends and widths."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        is_half = np.isfinite(low) & ~np.isfinite(high)
        is_bounded = np.isfinite(low) & np.isfinite(high)
        width = np.where(is_bounded, high - low, 1.0)
        return is_half, is_bounded, np.where(np.isfinite(low), low, 0.0).astype(dtype), width

    def constrain(self, u: Any) -> Any:
        """Return x of u."""
        xp, dtype = numpy_of(u), u.dtype
        is_half, is_bounded, low, width = self._kinds(dtype)
        # What is not selected must not overflow, or gradients would be NaN.
        half = xp.exp(xp.where(is_half, u, 0.0))
        bounded = width.astype(dtype) * _logistic(xp.where(is_bounded, u, 0.0))
        return xp.where(is_half, low + half, xp.where(is_bounded, low + bounded, u))

    def unconstrain(self, x: Any) -> Any:
        """Return u of x; NaN or infinite outside."""
        xp, dtype = numpy_of(x), x.dtype
        is_half, is_bounded, low, width = self._kinds(dtype)
        above = xp.where(is_half | is_bounded, x - low, 1.0)
        below = xp.where(is_bounded, low + width.astype(dtype) - x, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            u = xp.log(above) - xp.log(below)
        return xp.where(is_half | is_bounded, u, x)

    def log_det(self, u: Any) -> Any:
        """Return the log determinant of the Jacobian."""
        xp, dtype = numpy_of(u), u.dtype
        is_half, is_bounded, _, width = self._kinds(dtype)
        v = xp.where(is_bounded, u, 0.0)
        # d/du of the logistic function, in a form that does not underflow.
        bounded = np.log(width).astype(dtype) - xp.logaddexp(0.0, v) - xp.logaddexp(0.0, -v)
        terms = xp.where(is_half, u, xp.where(is_bounded, bounded, 0.0))
        return xp.sum(terms, axis=-1).astype(dtype)

    def contains(self, x: Any) -> Any:
        """Return whether all coordinates lie inside."""
        xp = numpy_of(x)
        return xp.all((x > np.asarray(self.low)) & (x < np.asarray(self.high)), axis=-1)


def _logistic(v: Any) -> Any:
    """Return the logistic function, kept off 0 and 1, which no finite argument reaches."""
    if isinstance(v, np.ndarray):
        from scipy.special import expit

        value, info = expit(v), np.finfo(v.dtype)
        return np.clip(value, info.tiny, 1.0 - info.epsneg)
    info = jnp.finfo(v.dtype)
    return jnp.clip(jax.nn.sigmoid(v), info.tiny, 1.0 - float(info.epsneg))


def _interval_spec(low: float, high: float) -> Any:
    names = {(-math.inf, math.inf): "real", (0.0, math.inf): "positive", (0.0, 1.0): "unit"}
    return names.get((low, high), ("interval", low, high))


@dataclass(frozen=True)
class Simplex:
    """Probabilities that sum to one, by stick-breaking; one more than there are coordinates.

    The Jacobian is that of all probabilities but the last, which the others determine.

    Parameters
    ----------
    dim : int
        Number of unconstrained coordinates.
    """

    dim: int

    @property
    def constrained_dim(self) -> int:
        """Number of probabilities."""
        return self.dim + 1

    @property
    def spec(self) -> str:
        """The name."""
        return "simplex"

    @property
    def _transform(self) -> Any:
        from numpyro.distributions.transforms import StickBreakingTransform

        return StickBreakingTransform()

    def constrain(self, u: Any) -> Any:
        """Return probabilities (..., dim + 1)."""
        return self._transform(u)

    def unconstrain(self, x: Any) -> Any:
        """Return u of probabilities."""
        return self._transform.inv(x)

    def log_det(self, u: Any) -> Any:
        """Return the log determinant of the Jacobian."""
        return self._transform.log_abs_det_jacobian(u, self._transform(u))

    def contains(self, x: Any) -> Any:
        """Return whether all are positive and sum to one, to single precision."""
        xp = numpy_of(x)
        total = xp.sum(x, axis=-1)
        return xp.all(x > 0, axis=-1) & (xp.abs(total - 1.0) < 1e-5)


@dataclass(frozen=True)
class Correlation:
    """The entries below the diagonal of a correlation matrix, row by row, by tanh.

    Partial correlations are tanh of u; with two variables x = tanh u.

    Parameters
    ----------
    dim : int
        p (p - 1) / 2 for p variables.
    """

    dim: int

    def __post_init__(self):
        if self.size * (self.size - 1) // 2 != self.dim:
            raise ValueError(
                f'support "correlation" needs p (p - 1) / 2 coordinates for p variables: 1, 3, '
                f"6, 10, ..., got {self.dim}"
            )

    @property
    def size(self) -> int:
        """Number of variables."""
        return (1 + math.isqrt(1 + 8 * self.dim)) // 2

    @property
    def constrained_dim(self) -> int:
        """The same as ``dim``."""
        return self.dim

    @property
    def spec(self) -> str:
        """The name."""
        return "correlation"

    @property
    def _transforms(self) -> tuple[Any, Any]:
        from numpyro.distributions.transforms import (
            CorrCholeskyTransform,
            CorrMatrixCholeskyTransform,
        )

        return CorrCholeskyTransform(), CorrMatrixCholeskyTransform()

    def matrix(self, x: Any) -> Any:
        """Return correlation matrices (..., p, p)."""
        rows, columns = np.tril_indices(self.size, -1)
        blank = jnp.zeros((*x.shape[:-1], self.size, self.size), x.dtype)
        lower = blank.at[..., rows, columns].set(x)
        return lower + jnp.swapaxes(lower, -1, -2) + jnp.eye(self.size, dtype=x.dtype)

    def constrain(self, u: Any) -> Any:
        """Return the correlations."""
        factor = self._transforms[0](u)
        rows, columns = np.tril_indices(self.size, -1)
        return (factor @ jnp.swapaxes(factor, -1, -2))[..., rows, columns]

    def unconstrain(self, x: Any) -> Any:
        """Return u of correlations."""
        return self._transforms[0].inv(jnp.linalg.cholesky(self.matrix(x)))

    def log_det(self, u: Any) -> Any:
        """Return the log determinant of the Jacobian."""
        to_factor, of_matrix = self._transforms
        factor = to_factor(u)
        matrix = factor @ jnp.swapaxes(factor, -1, -2)
        return to_factor.log_abs_det_jacobian(u, factor) - of_matrix.log_abs_det_jacobian(
            matrix, factor
        )

    def contains(self, x: Any) -> Any:
        """Return whether the matrix is positive definite."""
        return numpy_of(x).asarray(jnp.all(jnp.isfinite(self.unconstrain(x)), axis=-1))


def as_support(spec: Any, dim: int) -> Support:
    """Return the support that a user describes.

    Parameters
    ----------
    spec : str, tuple, list or Support
        "real", "positive", "unit", ("interval", low, high), "simplex", "correlation", or a list
        with one of the first four for each coordinate.
    dim : int
        Number of unconstrained coordinates.

    Raises
    ------
    ValueError
        For an unknown name, or a list of another length.

    Examples
    --------
    >>> import numpy as np
    >>> positive_and_real = as_support(["positive", "real"], 2)
    >>> positive_and_real.constrain(np.array([0.0, -1.0]))
    array([ 1., -1.])
    """
    if isinstance(spec, Intervals | Simplex | Correlation):
        if spec.dim != dim:
            raise ValueError(f"support has {spec.dim} coordinates, expected {dim}")
        return spec
    if spec == "simplex":
        return Simplex(dim)
    if spec == "correlation":
        return Correlation(dim)
    is_one = isinstance(spec, str) or (len(spec) == 3 and spec[0] == "interval")
    entries = [spec] * dim if is_one else list(spec)
    if len(entries) != dim:
        raise ValueError(f"support has {len(entries)} entries for a latent of dimension {dim}")
    ends = [_ends(entry) for entry in entries]
    return Intervals(tuple(a for a, _ in ends), tuple(b for _, b in ends))


def _ends(entry: Any) -> tuple[float, float]:
    named = {"real": (-math.inf, math.inf), "positive": (0.0, math.inf), "unit": (0.0, 1.0)}
    if isinstance(entry, str) and entry in named:
        return named[entry]
    if not isinstance(entry, str) and len(entry) == 3 and entry[0] == "interval":
        return float(entry[1]), float(entry[2])
    raise ValueError(f"support must be one of {_NAMES}, or a list of them, got {entry!r}")
