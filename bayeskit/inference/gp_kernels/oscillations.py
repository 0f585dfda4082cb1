"""Kernels of functions that oscillate: periodic, damped, and periodic with a drifting form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference.gp_kernels.hyperparametric import (
    LogNormal,
    Scales,
    checked_hyperparameter,
    hyperparameter,
)
from bayeskit.inference.gp_kernels.kernel import StateSpaceKernel, unit
from bayeskit.inference.gp_kernels.matern import Matern32

__all__ = ["SHO", "Periodic", "QuasiPeriodic"]

# Terms of the continued fraction of Bessel functions beyond the last harmonic. Ratios are below
# z / (2 j), so that 60 are more than enough for length scales down to 0.15.
_MORE_TERMS = 60
# Gauss-Legendre nodes of the process noise at small gaps: exact to rounding for gaps of one.
_NODES, _NODE_WEIGHTS = (np.asarray(v) for v in np.polynomial.legendre.leggauss(12))
# exp(-800) is zero in double precision.
_LONGEST = 800.0
# Below this square of an argument cosh and sinh are summed from six terms: the next is 1e-17.
_SMALL_SQUARE = 0.03


@dataclass(frozen=True, eq=False)
class Periodic(StateSpaceKernel):
    r"""Functions that repeat: :math:`\sigma^2 \exp(-2 \sin^2(\pi D / p) / \ell^2)`, truncated.

    The kernel is :math:`\sigma^2 \sum_j q_j \cos(2 \pi j D / p)` with
    :math:`q_0 = e^{-z} I_0(z)`, :math:`q_j = 2 e^{-z} I_j(z)` and :math:`z = \ell^{-2}`. The
    harmonics 0 to J are kept; each is a resonator with two states. What is left out is at most
    :math:`\sigma^2 \sum_{j > J} q_j`, at any distance: see :meth:`truncation_error`.

    Parameters
    ----------
    std : float, LogNormal or None
        Standard deviation of the function. Default prior: LogNormal(sd of y, 1).
    period : float or LogNormal
        In units of the coordinate.
    lengthscale : float, LogNormal or None
        Without unit: 2 is nearly a sine, 0.5 has details of a tenth of the period. Default
        prior: LogNormal(1, 0.5).
    num_harmonics : int
        J, so that there are 2J + 1 states.

    Raises
    ------
    ValueError
        If num_harmonics is no whole number of at least 1.

    References
    ----------
    Solin & Sarkka (2014), *Explicit link between periodic covariance functions and state space
    models*.

    Examples
    --------
    >>> Periodic(std=1.0, period=1.0, lengthscale=1.0).dim
    13
    """

    std: Any = hyperparameter()
    period: Any = hyperparameter()
    lengthscale: Any = hyperparameter()
    num_harmonics: int = 6

    def __post_init__(self):
        for name in ("std", "period", "lengthscale"):
            checked_hyperparameter(getattr(self, name), f"Periodic({name})")
        if not isinstance(self.num_harmonics, int) or self.num_harmonics < 1:
            raise ValueError(
                f"num_harmonics must be a whole number >= 1, got {self.num_harmonics!r}"
            )

    @property
    def dim(self) -> int:
        return 2 * self.num_harmonics + 1

    def weights(self) -> jax.Array:
        """Return the shares q of the harmonics 0 to J in the variance, (J + 1,)."""
        ratios, rest = _bessel_ratios(self.lengthscale**-2, self.num_harmonics)
        relative = jnp.concatenate([jnp.ones(1), 2.0 * jnp.cumprod(ratios)])
        return relative / (jnp.sum(relative) + rest)

    def truncation_error(self) -> jax.Array:
        """Return a bound of what the left-out harmonics add to the covariance."""
        ratios, rest = _bessel_ratios(self.lengthscale**-2, self.num_harmonics)
        return self.std**2 * rest / (1.0 + 2.0 * jnp.sum(jnp.cumprod(ratios)) + rest)

    def drift(self) -> jax.Array:
        turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
        return jax.scipy.linalg.block_diag(
            jnp.zeros((1, 1)), *(w * turn for w in self._frequencies())
        )

    def diffusion(self) -> jax.Array:
        return jnp.zeros((self.dim, self.dim))

    def observation(self, x: Any) -> jax.Array:
        # The first state of each resonator; the other one is its quadrature.
        amplitudes = self.std * jnp.sqrt(self.weights())
        pairs = jnp.stack([amplitudes[1:], jnp.zeros(self.num_harmonics)], axis=1)
        return jnp.concatenate([amplitudes[:1], pairs.reshape(-1)])

    def covariance_at(self, x: Any) -> jax.Array:
        return jnp.eye(self.dim)

    def transition(self, x: Any, gap: Any) -> jax.Array:
        turns = gap / self.period
        # Whole turns are dropped before they are multiplied: large gaps keep their digits.
        angle = 2.0 * jnp.pi * (turns - jnp.floor(turns))
        angles = angle * np.arange(1, self.num_harmonics + 1)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        blocks = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
        return jax.scipy.linalg.block_diag(jnp.ones((1, 1)), *blocks)

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        return jnp.zeros((self.dim, self.dim))

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        harmonics = np.arange(self.num_harmonics + 1)
        angles = 2.0 * jnp.pi * harmonics * jnp.abs(x1 - x2) / self.period
        return self.std**2 * jnp.sum(self.weights() * jnp.cos(angles))

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {"std": LogNormal(scales.y, 1.0), "lengthscale": LogNormal(1.0, 0.5)}

    def _frequencies(self) -> list[Any]:
        return [2.0 * math.pi * j / self.period for j in range(1, self.num_harmonics + 1)]


def _bessel_ratios(z: Any, num: int) -> tuple[jax.Array, jax.Array]:
    r"""Return :math:`I_j(z)/I_{j-1}(z)` for j = 1 to num, and :math:`2\sum_{j>num} I_j/I_0`.

    By the continued fraction :math:`r_j = 1 / (2j/z + r_{j+1})`, which is stable downwards.
    """
    total = num + _MORE_TERMS

    def step(ratio, j):
        ratio = 1.0 / (2.0 * j / z + ratio)
        return ratio, ratio

    orders = jnp.arange(total, 0, -1, dtype=jnp.result_type(float))
    ratios = jax.lax.scan(step, jnp.zeros_like(orders[0] * z), orders)[1][::-1]
    return ratios[:num], 2.0 * jnp.sum(jnp.cumprod(ratios)[num:])


@dataclass(frozen=True, eq=False)
class SHO(StateSpaceKernel):
    r"""Damped oscillator that white noise drives.

    With :math:`t = 2\pi D/p`, :math:`b = 1/(2Q)` and :math:`\mu^2 = b^2 - 1`,

    .. math:: k(D) = \sigma^2 e^{-b t} \Bigl(\cosh \mu t + b \, \frac{\sinh \mu t}{\mu}\Bigr),

    where an imaginary :math:`\mu` makes cosines of it. Above a quality of 1/2 the function
    oscillates; at 1/2 it is a Matern 3/2.

    Parameters
    ----------
    std : float, LogNormal or None
        Standard deviation of the function. Default prior: LogNormal(sd of y, 1).
    period : float or LogNormal
        Of the oscillator without damping, in units of the coordinate.
    quality : float, LogNormal or None
        Q: an oscillation rings on for about Q periods. Default prior: LogNormal(1, 1).

    References
    ----------
    Foreman-Mackey, Agol, Ambikasaran & Angus (2017), *Fast and scalable Gaussian process
    modeling with applications to astronomical time series*.

    Examples
    --------
    >>> SHO(std=1.0, period=1.0, quality=4.0).dim
    2
    """

    std: Any = hyperparameter()
    period: Any = hyperparameter()
    quality: Any = hyperparameter()

    def __post_init__(self):
        for name in ("std", "period", "quality"):
            checked_hyperparameter(getattr(self, name), f"SHO({name})")

    @property
    def dim(self) -> int:
        return 2

    def drift(self) -> jax.Array:
        damping = 1.0 / self.quality
        rows = [jnp.stack([0.0 * damping, 1.0]), jnp.stack([-1.0, -damping])]
        return 2.0 * jnp.pi / self.period * jnp.stack(rows)

    def diffusion(self) -> jax.Array:
        q = 4.0 * jnp.pi / (self.period * self.quality)
        return q * jnp.diag(jnp.array([0.0, 1.0]))

    def observation(self, x: Any) -> jax.Array:
        return self.std * unit(0, 2)

    def covariance_at(self, x: Any) -> jax.Array:
        return jnp.eye(2)

    def transition(self, x: Any, gap: Any) -> jax.Array:
        b = 0.5 / self.quality
        cosh, sinh = _damped_waves(b, 2.0 * jnp.pi * gap / self.period)
        rows = [jnp.stack([cosh + b * sinh, sinh]), jnp.stack([-sinh, cosh - b * sinh])]
        return jnp.stack(rows)

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        b = 0.5 / self.quality
        t = 2.0 * jnp.pi * gap / self.period
        # Up to here the integrand is nearly a polynomial, and positive weights of quadrature
        # keep all digits; beyond, the difference below loses few.
        longest = 1.0 / jnp.maximum(1.0, 2.0 * b)
        half = 0.5 * jnp.minimum(t, longest)
        cosh, sinh = _damped_waves(b, half * (1.0 + _NODES))
        column = jnp.stack([sinh, cosh - b * sinh])
        small = 4.0 * b * half * (column * _NODE_WEIGHTS) @ column.T
        a = self.transition(x, gap)
        return jnp.where(t <= longest, small, jnp.eye(2) - a @ a.T)

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        b = 0.5 / self.quality
        cosh, sinh = _damped_waves(b, 2.0 * jnp.pi * jnp.abs(x1 - x2) / self.period)
        return self.std**2 * (cosh + b * sinh)

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {"std": LogNormal(scales.y, 1.0), "quality": LogNormal(1.0, 1.0)}


def _damped_waves(b: Any, t: Any) -> tuple[jax.Array, jax.Array]:
    r"""Return :math:`e^{-bt} \cosh \mu t` and :math:`e^{-bt} \sinh(\mu t)/\mu`.

    Here :math:`\mu^2 = b^2 - 1`, and nothing jumps at b = 1.
    """
    square = (b - 1.0) * (b + 1.0)
    # Whatever the regime, exp(-800) is zero, and before that t overflows nothing.
    slow = jnp.where(square > 0, 1.0 / (b + jnp.sqrt(jnp.maximum(square, 0.0) + 1e-300)), b)
    t = jnp.minimum(t, _LONGEST / slow)
    z = square * t**2
    is_series = jnp.abs(z) < _SMALL_SQUARE
    z_small = jnp.where(is_series, z, 0.0)
    series = [sum(z_small**k / math.factorial(2 * k + odd) for k in range(7)) for odd in (0, 1)]
    decay = jnp.exp(-b * t)
    # A fixed value where a branch is not taken keeps its gradient finite.
    mu = jnp.sqrt(jnp.where(is_series | (square <= 0), 1.0, square))
    fast, gentle = jnp.exp(-(b + mu) * t), jnp.exp(-t / (b + mu))
    over = 0.5 * (gentle + fast), 0.5 * (gentle - fast) / mu
    omega = jnp.sqrt(jnp.where(is_series | (square >= 0), 1.0, -square))
    under = decay * jnp.cos(omega * t), decay * jnp.sin(omega * t) / omega
    cosh, sinh = (
        jnp.where(is_series, near, jnp.where(square > 0, above, below))
        for near, above, below in zip(
            (decay * series[0], decay * t * series[1]), over, under, strict=True
        )
    )
    return cosh, sinh


def QuasiPeriodic(
    std: Any = None,
    period: Any = None,
    lengthscale: Any = None,
    decay: Any = None,
    num_harmonics: int = 6,
) -> StateSpaceKernel:
    """Return a periodic kernel whose form drifts: Periodic times Matern 3/2.

    Parameters
    ----------
    std, period, lengthscale, num_harmonics
        As for :class:`Periodic`.
    decay : float, LogNormal or None
        Distance over which the form changes: the length scale of the Matern kernel.

    Returns
    -------
    StateSpaceKernel

    Examples
    --------
    >>> QuasiPeriodic(std=1.0, period=1.0, lengthscale=1.0, decay=9.0).dim
    26
    """
    shape = Periodic(1.0, period, lengthscale, num_harmonics)
    return Matern32(std, decay) * shape
