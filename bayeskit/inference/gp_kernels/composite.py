"""Kernels made of kernels: sums, products, multiples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference.gp_kernels.hyperparametric import (
    LogNormal,
    Scales,
    checked_hyperparameter,
    hyperparameter,
)
from bayeskit.inference.gp_kernels.kernel import StateSpaceKernel

__all__ = ["Product", "Scaled", "Sum"]


@dataclass(frozen=True, eq=False)
class _Pair(StateSpaceKernel):
    left: StateSpaceKernel
    right: StateSpaceKernel

    def __post_init__(self):
        for side in (self.left, self.right):
            if not isinstance(side, StateSpaceKernel) and type(side) is not object:
                raise TypeError(f"{type(self).__name__} is made of kernels, got {side!r}")

    @property
    def is_stationary(self) -> bool:  # type: ignore[override]
        """Whether both parts are."""
        return self.left.is_stationary and self.right.is_stationary

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True, eq=False)
class Sum(_Pair):
    r"""Sum of independent functions: :math:`k_1 + k_2`; states stand one below the other.

    Parameters
    ----------
    left, right : StateSpaceKernel

    Examples
    --------
    Variances and states add up:

    >>> from bayeskit.inference.gp_kernels import Matern12, Matern32
    >>> kernel = Matern12(std=1.0, lengthscale=2.0) + Matern32(std=2.0, lengthscale=1.0)
    >>> kernel.name, kernel.dim, float(kernel.evaluate(0.5, 0.5))
    ('matern12 + matern32', 3, 5.0)
    """

    @property
    def dim(self) -> int:
        return self.left.dim + self.right.dim

    @property
    def terms(self) -> tuple[StateSpaceKernel, ...]:
        return (*self.left.terms, *self.right.terms)

    @property
    def name(self) -> str:
        return f"{self.left.name} + {self.right.name}"

    def _blocks(self, method: str, *arguments: Any) -> jax.Array:
        blocks = (getattr(side, method)(*arguments) for side in (self.left, self.right))
        return jax.scipy.linalg.block_diag(*blocks)

    def drift(self) -> jax.Array:
        return self._blocks("drift")

    def diffusion(self) -> jax.Array:
        return self._blocks("diffusion")

    def observation(self, x: Any) -> jax.Array:
        return jnp.concatenate([self.left.observation(x), self.right.observation(x)])

    def covariance_at(self, x: Any) -> jax.Array:
        return self._blocks("covariance_at", x)

    def transition(self, x: Any, gap: Any) -> jax.Array:
        return self._blocks("transition", x, gap)

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        return self._blocks("process_noise", x, gap)

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        return self.left.evaluate(x1, x2) + self.right.evaluate(x1, x2)


@dataclass(frozen=True, eq=False)
class Product(_Pair):
    r"""Product of covariances: :math:`k_1 k_2`; the states are Kronecker products.

    With :math:`M_i = A_i P_i A_i^\top`, the process noise is
    :math:`Q_1 \otimes M_2 + M_1 \otimes Q_2 + Q_1 \otimes Q_2`: no difference is taken.

    The standard deviation of the second factor, if it is None, is 1: only the product of both
    is known.

    Parameters
    ----------
    left, right : StateSpaceKernel

    Examples
    --------
    Variances and numbers of states are multiplied:

    >>> from bayeskit.inference.gp_kernels import Matern32
    >>> kernel = Matern32(std=2.0, lengthscale=1.0) * Matern32(std=3.0, lengthscale=5.0)
    >>> kernel.name, kernel.dim, float(kernel.evaluate(0.5, 0.5))
    ('matern32 * matern32', 4, 36.0)
    """

    @property
    def dim(self) -> int:
        return self.left.dim * self.right.dim

    @property
    def name(self) -> str:
        return f"{self.left.name} * {self.right.name}"

    def with_defaults(self, scales: Scales) -> StateSpaceKernel:
        right = self.right
        if getattr(right, "std", 1.0) is None:
            right = replace(right, std=1.0)  # type: ignore[call-arg]
        left = self.left.with_defaults(scales)
        return Product(left, right.with_defaults(scales._replace(y=1.0)))

    def drift(self) -> jax.Array:
        one, two = jnp.eye(self.left.dim), jnp.eye(self.right.dim)
        return jnp.kron(self.left.drift(), two) + jnp.kron(one, self.right.drift())

    def diffusion(self) -> jax.Array:
        """Return the diffusion of two stationary factors.

        Raises
        ------
        NotImplementedError
            If a factor is not stationary: the diffusion then depends on the coordinate.
        """
        if not self.is_stationary:
            raise NotImplementedError(
                "the diffusion depends on the coordinate: use process_noise"
            )
        left, right = self.left.covariance_at(0.0), self.right.covariance_at(0.0)
        return jnp.kron(self.left.diffusion(), right) + jnp.kron(left, self.right.diffusion())

    def observation(self, x: Any) -> jax.Array:
        return jnp.kron(self.left.observation(x), self.right.observation(x))

    def covariance_at(self, x: Any) -> jax.Array:
        return jnp.kron(self.left.covariance_at(x), self.right.covariance_at(x))

    def transition(self, x: Any, gap: Any) -> jax.Array:
        return jnp.kron(self.left.transition(x, gap), self.right.transition(x, gap))

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        q, moved = [], []
        for side in (self.left, self.right):
            a = side.transition(x, gap)
            q.append(side.process_noise(x, gap))
            moved.append(a @ side.covariance_at(x) @ a.T)
        return jnp.kron(q[0], moved[1]) + jnp.kron(moved[0], q[1]) + jnp.kron(q[0], q[1])

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        return self.left.evaluate(x1, x2) * self.right.evaluate(x1, x2)


@dataclass(frozen=True, eq=False)
class Scaled(StateSpaceKernel):
    r"""A multiple of a kernel: :math:`c\,k`, which multiplies standard deviations by the root.

    Parameters
    ----------
    kernel : StateSpaceKernel
    factor : float, LogNormal or None
        Default prior: LogNormal(1, 1).

    Examples
    --------
    >>> from bayeskit.inference.gp_kernels import Matern32
    >>> kernel = 3.0 * Matern32(std=2.0, lengthscale=1.0)
    >>> kernel.factor, float(kernel.evaluate(0.5, 0.5))
    (3.0, 12.0)
    """

    kernel: StateSpaceKernel
    factor: Any = hyperparameter()

    def __post_init__(self):
        checked_hyperparameter(self.factor, "the factor of a kernel")

    @property
    def is_stationary(self) -> bool:  # type: ignore[override]
        """Whether the kernel is."""
        return self.kernel.is_stationary

    @property
    def dim(self) -> int:
        return self.kernel.dim

    @property
    def name(self) -> str:
        return self.kernel.name

    def drift(self) -> jax.Array:
        return self.kernel.drift()

    def diffusion(self) -> jax.Array:
        return self.kernel.diffusion()

    def observation(self, x: Any) -> jax.Array:
        return jnp.sqrt(self.factor) * self.kernel.observation(x)

    def covariance_at(self, x: Any) -> jax.Array:
        return self.kernel.covariance_at(x)

    def transition(self, x: Any, gap: Any) -> jax.Array:
        return self.kernel.transition(x, gap)

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        return self.kernel.process_noise(x, gap)

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        return self.factor * self.kernel.evaluate(x1, x2)

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {"factor": LogNormal(1.0, 1.0)}
