r"""What a Gaussian process must give to be filtered: a linear stochastic differential equation.

A kernel of this room is the covariance function of :math:`f(x) = H(x)\,s(x)`, where the state
:math:`s` solves :math:`\mathrm{d}s = F s\,\mathrm{d}x + L\,\mathrm{d}W` with white noise of
spectral density q. Between two coordinates at a distance D the state moves as

.. math:: s(x + D) = A(D)\,s(x) + w, \qquad A(D) = e^{F D}, \quad w \sim N(0, Q(D)).

States are scaled to variances of about one, so that condition numbers depend neither on length
scales nor on units; the standard deviation of the function stands in H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference.gp_kernels.hyperparametric import Hyperparametric

__all__ = ["StateSpaceKernel", "unit"]


@dataclass(frozen=True, eq=False)
class StateSpaceKernel(Hyperparametric):
    r"""A covariance function with a state-space form; the base of all others.

    Hyper-parameters are fields: a number is fixed, a :class:`LogNormal` is learned with this
    prior, and None is learned with a prior that follows from the data. A kernel is a pytree
    whose leaves are its hyper-parameters, so that ``jax.vmap`` maps over many kernels of one
    form. The methods that compute need numbers.

    ``k1 + k2``, ``k1 * k2`` and ``2.0 * k1`` are kernels, too.

    Examples
    --------
    The covariance at a distance of 1, by way of the states and by its own formula:

    >>> from bayeskit.inference.gp_kernels import Matern32
    >>> kernel = Matern32(std=2.0, lengthscale=1.0)
    >>> h, a = kernel.observation(0.0), kernel.transition(0.0, 1.0)
    >>> round(float(h @ a @ kernel.covariance_at(0.0) @ h), 3)
    1.933
    >>> round(float(kernel.evaluate(0.0, 1.0)), 3)
    1.933
    """

    #: Whether the covariance depends on the distance of two coordinates alone.
    is_stationary = True

    # ------------------------------------------------------------ what a kernel states

    @property
    def dim(self) -> int:
        """Number of states."""
        raise NotImplementedError

    def drift(self) -> jax.Array:
        """Return F, (dim, dim)."""
        raise NotImplementedError

    def diffusion(self) -> jax.Array:
        r"""Return :math:`L q L^\top`, (dim, dim)."""
        raise NotImplementedError

    def observation(self, x: Any) -> jax.Array:
        """Return H at a coordinate, (dim,)."""
        raise NotImplementedError

    def covariance_at(self, x: Any) -> jax.Array:
        """Return the prior covariance of the state at a coordinate, (dim, dim)."""
        raise NotImplementedError

    def transition(self, x: Any, gap: Any) -> jax.Array:
        """Return A from ``x`` to ``x + gap``, (dim, dim)."""
        raise NotImplementedError

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        """Return Q from ``x`` to ``x + gap``, (dim, dim), to full precision at small gaps."""
        raise NotImplementedError

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        """Return the covariance of f at two coordinates, by its own formula."""
        raise NotImplementedError

    # ------------------------------------------------------------ what follows

    @property
    def terms(self) -> tuple[StateSpaceKernel, ...]:
        """The summands of a sum, else the kernel itself."""
        return (self,)

    @property
    def name(self) -> str:
        """How the kernel is called in results."""
        return type(self).__name__.lower()

    def __add__(self, other: StateSpaceKernel) -> StateSpaceKernel:
        from bayeskit.inference.gp_kernels.composite import Sum

        return Sum(self, other) if isinstance(other, StateSpaceKernel) else NotImplemented

    def __mul__(self, other: Any) -> StateSpaceKernel:
        from bayeskit.inference.gp_kernels.composite import Product, Scaled

        if isinstance(other, StateSpaceKernel):
            return Product(self, other)
        return Scaled(self, other)

    __rmul__ = __mul__


def unit(index: int, dim: int) -> jax.Array:
    """Return a unit vector (dim,) of the default float."""
    return jnp.eye(dim)[index]
