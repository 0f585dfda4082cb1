"""The normal prior that elliptical slices and Crank-Nicolson proposals are built on."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference.kernels.base import Kernel, check_density
from bayeskit.inference.measure import Density, PointState

__all__ = ["NormalPrior", "NormalPriorKernel"]


class NormalPrior:
    r"""The normal distribution :math:`N(m, \Sigma)`, as a setting of a kernel.

    Parameters
    ----------
    mean : (dim,) array
    scale : (dim,) array, optional
        Standard deviations of independent coordinates.
    covariance : (dim, dim) array, optional
        Give either this or ``scale``.

    Raises
    ------
    ValueError
        For numbers that are not finite, shapes that do not fit, or a covariance that is not
        symmetric and positive definite.

    Notes
    -----
    Equal numbers are equal priors, so that kernels built from them share compiled programs.

    Examples
    --------
    >>> from bayeskit.inference import NormalPrior
    >>> NormalPrior([0.0, 1.0], scale=[1.0, 2.0])
    NormalPrior(2 independent coordinates)
    """

    def __init__(self, mean: Any, *, scale: Any = None, covariance: Any = None):
        if (scale is None) == (covariance is None):
            raise TypeError("give either scale= or covariance=")
        self.mean = np.array(mean, np.float64)
        if self.mean.ndim != 1 or not np.isfinite(self.mean).all():
            raise ValueError(
                f"mean must be a vector of finite numbers, got shape {self.mean.shape}"
                + (f": {self.mean}" if self.mean.ndim == 1 else "")
            )
        dim = len(self.mean)
        self.factor: np.ndarray
        if covariance is None:
            self.factor = np.array(scale, np.float64)
            if self.factor.shape != (dim,) or not (self.factor > 0).all():
                raise ValueError(
                    f"scale must hold {dim} positive standard deviations, got {self.factor}"
                )
        else:
            matrix = np.array(covariance, np.float64)
            if matrix.shape != (dim, dim) or not np.allclose(matrix, matrix.T):
                raise ValueError(
                    f"covariance must be symmetric of shape {(dim, dim)}, "
                    f"got shape {matrix.shape}"
                )
            try:
                self.factor = np.linalg.cholesky(matrix)
            except np.linalg.LinAlgError:
                least = np.linalg.eigvalsh(matrix).min() if np.isfinite(matrix).all() else None
                raise ValueError(
                    f"covariance must be positive definite, its least eigenvalue is {least}: "
                    "add a small multiple of the identity"
                ) from None
        self.mean.flags.writeable = self.factor.flags.writeable = False

    def scaled(self, z: jax.Array) -> jax.Array:
        """Return L z in the precision of z, where L L' is the covariance."""
        factor = jnp.asarray(self.factor, z.dtype)
        return factor * z if factor.ndim == 1 else factor @ z

    def scaled_transposed(self, z: jax.Array) -> jax.Array:
        """Return L' z in the precision of z."""
        factor = jnp.asarray(self.factor, z.dtype)
        return factor * z if factor.ndim == 1 else factor.T @ z

    @functools.cached_property
    def _identity(self) -> tuple:
        return self.factor.ndim, self.mean.tobytes(), self.factor.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NormalPrior) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        kind = "independent" if self.factor.ndim == 1 else "correlated"
        return f"NormalPrior({len(self.mean)} {kind} coordinates)"


class NormalPriorKernel(Kernel):
    """What kernels with a field ``prior``, a :class:`NormalPrior`, share."""

    prior: NormalPrior

    def init(self, position: jax.Array, density: Density) -> PointState:
        """Return the state at a position; a gradient is that relative to the prior.

        Raises
        ------
        TypeError
            If the target has no prior of its own, or one of another dimension.
        """
        check_density(self, position, density)
        if not density.target.has_prior:
            raise TypeError(
                f"{self.name} needs the likelihood apart from the prior, but the target "
                f"{density.target.name} is given as a log_density alone: give "
                "Target(log_prior=..., log_likelihood=...)"
            )
        if position.shape != self.prior.mean.shape:
            raise TypeError(
                f"{self.name} has a prior of {len(self.prior.mean)} dimensions, got a position "
                f"of shape {position.shape}"
            )
        if self.needs_gradient:
            relative = self.relative(density)
            return PointState(position, *relative.components_and_gradient(position))
        return PointState(position, density.components(position))

    def relative(self, density: Density) -> Density:
        """Return the log density with one prior less, which is all that is left to look at.

        At inverse temperature c that is c times the log likelihood.
        """
        one_prior = jnp.array([1.0, 0.0], density.coefficients.dtype)
        return density._replace(coefficients=density.coefficients - one_prior)
