"""Kernels of constants, of lines, and of integrated Wiener processes."""

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

__all__ = ["Constant", "IntegratedWiener", "Linear"]


@dataclass(frozen=True, eq=False)
class _Fixed(StateSpaceKernel):
    """One state that never moves."""

    std: Any = hyperparameter()

    def __post_init__(self):
        checked_hyperparameter(self.std, f"{type(self).__name__}(std)")

    @property
    def dim(self) -> int:
        return 1

    def drift(self) -> jax.Array:
        return jnp.zeros((1, 1))

    def diffusion(self) -> jax.Array:
        return jnp.zeros((1, 1))

    def covariance_at(self, x: Any) -> jax.Array:
        return jnp.ones((1, 1))

    def transition(self, x: Any, gap: Any) -> jax.Array:
        return jnp.ones((1, 1))

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        return jnp.zeros((1, 1))


@dataclass(frozen=True, eq=False)
class Constant(_Fixed):
    r"""An unknown level: :math:`\sigma^2`.

    Parameters
    ----------
    std : float, LogNormal or None
        Standard deviation of the level. Default prior: LogNormal(sd of y, 1).

    Examples
    --------
    >>> float(Constant(std=2.0).evaluate(0.0, 7.0))
    4.0
    """

    def observation(self, x: Any) -> jax.Array:
        return jnp.reshape(self.std, (1,)) * jnp.ones(1)

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        return self.std**2 + 0.0 * (x1 - x2)

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {"std": LogNormal(scales.y, 1.0)}


@dataclass(frozen=True, eq=False)
class Linear(_Fixed):
    r"""A line through zero at its centre: :math:`\sigma^2 (x - c)(x' - c)`.

    The state is the slope, and H is :math:`\sigma (x - c)`.

    Parameters
    ----------
    std : float, LogNormal or None
        Standard deviation of the slope. Default prior: LogNormal(sd of y over the span, 1).
    centre : float
        The coordinate c. Add a :class:`Constant` for a line with an intercept.

    Examples
    --------
    >>> float(Linear(std=1.0, centre=1.0).evaluate(2.0, 4.0))
    3.0
    """

    is_stationary = False

    centre: float = 0.0

    def observation(self, x: Any) -> jax.Array:
        return jnp.reshape(self.std * (x - self.centre), (1,))

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        return self.std**2 * (x1 - self.centre) * (x2 - self.centre)

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {"std": LogNormal(scales.y / scales.x, 1.0)}


@dataclass(frozen=True, eq=False)
class IntegratedWiener(StateSpaceKernel):
    r"""A Wiener process, integrated so many times, on both sides of its origin.

    At the origin o the function and its derivatives are independent,
    :math:`f^{(j)}(o) \sim N(0, \sigma_0^2 / \ell^{2j})`; from there independent processes run
    to the right and to the left. With one integral and without start the kernel is
    :math:`\sigma^2 \ell^{-3} (3 u v - u^2) u / 2` for distances :math:`u \le v` from the origin
    on one side, so that :math:`\sigma` is the standard deviation at distance :math:`\ell`.

    Parameters
    ----------
    std : float, LogNormal or None
        What the process adds to the standard deviation at a distance of ``lengthscale`` from
        the origin. Default prior: LogNormal(sd of y, 1).
    start : float, LogNormal or None
        The standard deviation at the origin. Default prior: LogNormal(sd of y, 1).
    lengthscale : float
        The unit of distance, chosen and not learned. None: the span of the coordinates.
    origin : float
    num_integrals : int
        0 is a Wiener process, 1 the model of cubic smoothing splines.

    Raises
    ------
    ValueError
        If num_integrals is not 0, 1 or 2.

    References
    ----------
    Wahba (1978), *Improper priors, spline smoothing and the problem of guarding against model
    errors in regression*.

    Examples
    --------
    >>> kernel = IntegratedWiener(std=1.0, start=0.5, lengthscale=1.0)
    >>> float(kernel.evaluate(1.0, 1.0))  # start, slope at the start, and process
    1.5
    """

    is_stationary = False

    std: Any = hyperparameter()
    start: Any = hyperparameter()
    lengthscale: Any = hyperparameter()
    origin: float = 0.0
    num_integrals: int = 1

    def __post_init__(self):
        for name in ("std", "start", "lengthscale"):
            checked_hyperparameter(getattr(self, name), f"IntegratedWiener({name})")
        if self.num_integrals not in (0, 1, 2):
            raise ValueError(f"num_integrals must be 0, 1 or 2, got {self.num_integrals!r}")

    @property
    def dim(self) -> int:
        return self.num_integrals + 1

    @property
    def _intensity(self) -> float:
        """Q for which the variance of the value after one unit is one."""
        k = self.num_integrals
        return (2 * k + 1) * math.factorial(k) ** 2

    def drift(self) -> jax.Array:
        return jnp.eye(self.dim, k=1) / self.lengthscale

    def diffusion(self) -> jax.Array:
        last = jnp.diag(unit(self.dim - 1, self.dim))
        return self._intensity / self.lengthscale * last

    def observation(self, x: Any) -> jax.Array:
        return self.std * unit(0, self.dim)

    def covariance_at(self, x: Any) -> jax.Array:
        offset = (x - self.origin) / self.lengthscale
        flow = self._flow(offset)
        start = (self.start / self.std) ** 2
        return start * flow @ flow.T + self._noise(offset)

    def transition(self, x: Any, gap: Any) -> jax.Array:
        return self._step(x, gap)[0]

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        return self._step(x, gap)[1]

    def _flow(self, t: Any) -> jax.Array:
        """Return exp of the nilpotent drift times t."""
        powers = [jnp.asarray(t) ** k / math.factorial(k) for k in range(self.dim)]
        return sum(p * jnp.eye(self.dim, k=k) for k, p in enumerate(powers))  # type: ignore

    def _noise(self, t: Any) -> jax.Array:
        """Return the noise after a way t, to the left where it is negative."""
        k = np.arange(self.dim)[::-1]
        powers = k[:, None] + k[None, :] + 1
        factorials = np.array([math.factorial(i) for i in k])
        scale = self._intensity / (powers * factorials[:, None] * factorials[None, :])
        # Derivatives of odd order change sign with the direction.
        sign = jnp.where(jnp.asarray(t) < 0, -1.0, 1.0) ** (powers - 1)
        return scale * sign * jnp.abs(t) ** powers

    def _step(self, x: Any, gap: Any) -> tuple[jax.Array, jax.Array]:
        """Return A and Q of a gap that may lie left of the origin, right of it, or astride."""
        begin = (x - self.origin) / self.lengthscale
        end = (x + gap - self.origin) / self.lengthscale
        a_left, q_left = self._towards_origin(jnp.minimum(begin, 0.0), jnp.minimum(end, 0.0))
        onwards = jnp.maximum(end, 0.0) - jnp.maximum(begin, 0.0)
        a_right, q_right = self._flow(onwards), self._noise(onwards)
        return a_right @ a_left, a_right @ q_left @ a_right.T + q_right

    def _towards_origin(self, begin: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
        r"""Return A and Q between two places left of the origin, by Bayes' rule.

        The process is given from right to left: :math:`s_1 = B s_2 + w, w \sim N(0, R)`.
        """
        back, noise = self._flow(begin - end), self._noise(begin - end)
        start = (self.start / self.std) ** 2
        flow = self._flow(end)
        at_end = start * flow @ flow.T + self._noise(end)
        at_begin = back @ at_end @ back.T + noise
        gain = jnp.linalg.solve(at_begin, back @ at_end).T
        rest = jnp.eye(self.dim) - gain @ back
        return gain, rest @ at_end @ rest.T + gain @ noise @ gain.T

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        u = (x1 - self.origin) / self.lengthscale
        v = (x2 - self.origin) / self.lengthscale
        start = sum(
            (u * v) ** k / math.factorial(k) ** 2 for k in range(self.num_integrals + 1)
        )
        near = jnp.minimum(jnp.abs(u), jnp.abs(v))
        far = jnp.maximum(jnp.abs(u), jnp.abs(v))
        process = {
            0: near,
            1: near**2 * (3.0 * far - near) / 2.0,
            2: near**3 * (10.0 * far**2 - 5.0 * far * near + near**2) / 6.0,
        }[self.num_integrals]
        return self.start**2 * start + self.std**2 * jnp.where(u * v > 0, process, 0.0)

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {
            "std": LogNormal(scales.y, 1.0),
            "start": LogNormal(scales.y, 1.0),
            "lengthscale": float(scales.x),
        }
