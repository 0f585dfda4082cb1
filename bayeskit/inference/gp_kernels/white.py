"""The kernel of functions whose values at different coordinates have nothing in common."""

from __future__ import annotations

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
from bayeskit.inference.gp_kernels.kernel import StateSpaceKernel

__all__ = ["White"]


@dataclass(frozen=True, eq=False)
class White(StateSpaceKernel):
    r"""Independent values, one for each distinct coordinate: :math:`\sigma^2 [D = 0]`.

    Rows with equal coordinates share a value, so this is no noise of rows: it is the effect of
    a category, or of a day. Nothing is learned about coordinates without data.

    Parameters
    ----------
    std : float, LogNormal or None
        Standard deviation of the values. Default prior: LogNormal(sd of y, 1).

    Examples
    --------
    >>> kernel = White(std=2.0)
    >>> float(kernel.evaluate(1.0, 1.0)), float(kernel.evaluate(1.0, 1.5))
    (4.0, 0.0)
    """

    std: Any = hyperparameter()

    def __post_init__(self):
        checked_hyperparameter(self.std, "White(std)")

    @property
    def dim(self) -> int:
        return 1

    def drift(self) -> jax.Array:
        """Refuse: white noise is the limit of ever faster processes.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("white noise has no drift: use transition")

    def diffusion(self) -> jax.Array:
        """Refuse, as :meth:`drift` does.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("white noise has no diffusion: use process_noise")

    def observation(self, x: Any) -> jax.Array:
        return self.std * jnp.ones(1)

    def covariance_at(self, x: Any) -> jax.Array:
        return jnp.ones((1, 1))

    def transition(self, x: Any, gap: Any) -> jax.Array:
        return jnp.where(gap == 0, 1.0, 0.0).reshape(1, 1)

    def process_noise(self, x: Any, gap: Any) -> jax.Array:
        return jnp.where(gap == 0, 0.0, 1.0).reshape(1, 1)

    def evaluate(self, x1: Any, x2: Any) -> jax.Array:
        return jnp.where(x1 == x2, self.std**2, 0.0)

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        return {"std": LogNormal(scales.y, 1.0)}
