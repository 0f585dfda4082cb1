r"""Matern kernels of smoothness 1/2, 3/2 and 5/2.

With :math:`\lambda = \sqrt{2\nu}/\ell`, derivative j of the function is divided by
:math:`\lambda^j \sigma`, and time is counted as :math:`t = \lambda D`. The process noise is
:math:`q \int_0^t \phi(s) \phi(s)^\top \mathrm{d}s` with the last column :math:`\phi` of
:math:`A(s)`. Its entries are written with the tails

.. math:: T_a(x) = e^{-x} \sum_{k \ge a} x^k / k!, \qquad x = 2t,

and with terms that vanish at x = 0 as the entry does, so that no digits cancel at small gaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference.gp_kernels.hyperparametric import (
    LogNormal,
    Scales,
    checked_hyperparameter,
    hyperparameter,
)
from bayeskit.inference.gp_kernels.kernel import StateSpaceKernel, unit

__all__ = ["Matern12", "Matern32", "Matern52", "exponential_tail"]

# Beyond exp(-745) nothing is left in double precision, and powers of t would overflow.
_LONGEST = 800.0
# Up to here the tail is summed from its first term; beyond, 1 minus the head loses no digits.
_SERIES_END = 2.0
_NUM_TERMS = 24  # 2^24 / 29! * 5! < 1e-20


def exponential_tail(order: int, x: jax.Array) -> jax.Array:
    r"""Return :math:`T_a(x) = e^{-x} \sum_{k \ge a} x^k / k!` to full relative precision.

    Parameters
    ----------
    order : int
        The order a.
    x : array
        At least 0.
    """
    small = jnp.minimum(x, _SERIES_END)
    series = jnp.zeros_like(x)
    for k in reversed(range(_NUM_TERMS)):
        series = series * small + math.factorial(order) / math.factorial(order + k)
    tail = jnp.exp(-small) * small**order * series / math.factorial(order)
    head = sum(x**k / math.factorial(k) for k in range(order))
    return jnp.where(x <= _SERIES_END, tail, 1.0 - jnp.exp(-x) * head)


def symmetric(entries: list[list[Any]]) -> jax.Array:
    """Return the symmetric matrix of the given lower rows."""
    dim = len(entries)
    rows = [[entries[max(i, j)][min(i, j)] for j in range(dim)] for i in range(dim)]
    return jnp.stack([jnp.stack(row) for row in rows])


@dataclass(frozen=True, eq=False)
class _Matern(StateSpaceKernel):
    std: Any = hyperparameter()
    lengthscale: Any = hyperparameter()

    def __post_init__(self):
        checked_hyperparameter(self.std, f"{type(self).__name__}(std)")
        checked_hyperparameter(self.lengthscale, f"{type(self).__name__}(lengthscale)")

    @property
    def rate(self) -> Any:
        """The rate lambda, one over the scale of the states."""
        return math.sqrt(2 * self.dim - 1) / self.lengthscale

    def observation(self, x: Any) -> jax.Array:
        return self.std * unit(0, self.dim)

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        # A fifth of the span, within a factor of 7 with two thirds of the probability.
        return {
            "std": LogNormal(scales.y, 1.0),
            "lengthscale": LogNormal(0.2 * scales.x, 1.0),
        }

    def _time(self, gap: Any) -> jax.Array:
        return jnp.minimum(self.rate * gap, _LONGEST)


@dataclass(frozen=True, eq=False)
class Matern12(_Matern):
    r"""Ornstein-Uhlenbeck process, continuous and rough: :math:`\sigma^2 e^{-D/\ell}`.

    Parameters
    ----------
    std : float, LogNormal or None
        Standard deviation of the function. Default prior: LogNormal(sd of y, 1).
    lengthscale : float, LogNormal or None
        In units of the coordinate. Default prior: LogNormal(a fifth of the span, 1).

    Examples
    --------
    >>> import numpy as np
    >>> kernel = Matern12(std=2.0, lengthscale=1.0)
    >>> float(np.round(kernel.evaluate(0.0, 1.0), 3))
    1.472
    """

    @property
    def dim(self) -> int:
        return 1

    def drift(self) -> jax.Array:
        return jnp.reshape(-self.rate, (1, 1))

    def diffusion(self) -> jax.Array:
        return jnp.reshape(2.0 * self.rate, (1, 1))

    def covariance_at(self, x: Any) -> jax.Array:
        return jnp.ones((1, 1))

    def transition(self, x: Any, gap: Any) -> jax.Array:
        return jnp.exp(-self._time(gap)).reshape(1, 1)

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        return -jnp.expm1(-2.0 * self._time(gap)).reshape(1, 1)

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        return self.std**2 * jnp.exp(-self._time(jnp.abs(x1 - x2)))


@dataclass(frozen=True, eq=False)
class Matern32(_Matern):
    r"""Functions that are differentiable once: :math:`\sigma^2 (1 + t) e^{-t}`.

    Here :math:`t = \sqrt{3} D / \ell`.

    Parameters
    ----------
    std, lengthscale
        As for :class:`Matern12`.

    Examples
    --------
    >>> Matern32(std=1.0, lengthscale=1.0).dim
    2
    """

    @property
    def dim(self) -> int:
        return 2

    def drift(self) -> jax.Array:
        return self.rate * jnp.array([[0.0, 1.0], [-1.0, -2.0]])

    def diffusion(self) -> jax.Array:
        return self.rate * jnp.array([[0.0, 0.0], [0.0, 4.0]])

    def covariance_at(self, x: Any) -> jax.Array:
        return jnp.eye(2)

    def transition(self, x: Any, gap: Any) -> jax.Array:
        t = self._time(gap)
        rows = [jnp.stack([1.0 + t, t]), jnp.stack([-t, 1.0 - t])]
        return jnp.exp(-t) * jnp.stack(rows)

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        x2 = 2.0 * self._time(gap)
        e, tail = jnp.exp(-x2), exponential_tail(3, x2)
        return symmetric([[tail], [0.5 * x2**2 * e, tail + 2.0 * x2 * e]])

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        t = self._time(jnp.abs(x1 - x2))
        return self.std**2 * (1.0 + t) * jnp.exp(-t)


@dataclass(frozen=True, eq=False)
class Matern52(_Matern):
    r"""Functions that are differentiable twice: :math:`\sigma^2 (1 + t + t^2/3) e^{-t}`.

    Here :math:`t = \sqrt{5} D / \ell`.

    Parameters
    ----------
    std, lengthscale
        As for :class:`Matern12`.

    Examples
    --------
    >>> Matern52(std=1.0, lengthscale=1.0).dim
    3
    """

    @property
    def dim(self) -> int:
        return 3

    def drift(self) -> jax.Array:
        return self.rate * jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, -3.0, -3.0]])

    def diffusion(self) -> jax.Array:
        return self.rate * jnp.diag(jnp.array([0.0, 0.0, 16.0 / 3.0]))

    def covariance_at(self, x: Any) -> jax.Array:
        third = 1.0 / 3.0
        return jnp.array([[1.0, 0.0, -third], [0.0, third, 0.0], [-third, 0.0, 1.0]])

    def transition(self, x: Any, gap: Any) -> jax.Array:
        t = self._time(gap)
        h = 0.5 * t**2
        rows = [
            [1.0 + t + h, t + 2.0 * h, h],
            [-h, 1.0 + t - 2.0 * h, t - h],
            [h - t, 2.0 * h - 3.0 * t, 1.0 - 2.0 * t + h],
        ]
        return jnp.exp(-t) * jnp.stack([jnp.stack(row) for row in rows])

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        y = 2.0 * self._time(gap)
        e, tail = jnp.exp(-y), exponential_tail(5, y)
        return symmetric(
            [
                [tail],
                [e * y**4 / 24, tail / 3 + e * y**3 * (2 / 9 - y / 36)],
                [
                    e * y**3 * (1 / 9 - y / 18) - tail / 3,
                    e * y**2 * (2 / 3 - y / 3 + y**2 / 24),
                    tail + e * y * (8 / 3 - 4 / 3 * y + 2 / 3 * y**2),
                ],
            ]
        )

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        t = self._time(jnp.abs(x1 - x2))
        return self.std**2 * (1.0 + t + t**2 / 3.0) * jnp.exp(-t)
