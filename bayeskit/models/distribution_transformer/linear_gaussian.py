"""Linear observations with normal noise, for which everything is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.distribution_transformer.known_numbers import KnownNumbers
from bayeskit.models.distribution_transformer.simulators import (
    BaseSimulator,
    _row_range,
)
from bayeskit.models.distribution_transformer.small_matrices import (
    cholesky,
    log_diagonal,
    multiply_vector,
    solve_lower,
)

__all__ = ["LinearGaussian"]


class LinearGaussian(BaseSimulator):
    r"""Observations :math:`z = H x + e` with :math:`e \sim N(0, R)`, independent of each other.

    With priors that are Gaussian mixtures the posterior is one too, and the untrained network
    already returns it to rounding.

    Parameters
    ----------
    matrix : (m, d) array, or callable of parameters
        H.
    noise_covariance : (m, m) array, or callable of parameters
        R, positive definite.
    num_observations : int or (int, int)
        Of the same latent.
    parameters : dict of str to (float, float), optional
        Ranges of known numbers; ``matrix`` and ``noise_covariance`` may then be JAX functions
        of a dict of them.

    Raises
    ------
    ValueError
        If matrix and noise_covariance do not fit.

    Examples
    --------
    >>> LinearGaussian([[1.0]], [[0.5]], num_observations=(1, 10)).row_sizes(1)
    {'z': 1}
    """

    has_log_likelihood = True

    def __init__(
        self,
        matrix: Any,
        noise_covariance: Any,
        *,
        num_observations: int | tuple[int, int] = 1,
        parameters: Mapping[str, tuple[float, float]] | None = None,
    ):
        self.parameters = KnownNumbers(parameters)
        self.matrix = _array_or_function("matrix", matrix, self.parameters)
        self.noise_covariance = _array_or_function(
            "noise_covariance", noise_covariance, self.parameters
        )
        self.num_observations = {"z": _row_range(num_observations, "z")}
        if isinstance(self.noise_covariance, np.ndarray):
            _check_noise(self.noise_covariance)
            m = len(self.noise_covariance)
            if isinstance(self.matrix, np.ndarray) and len(self.matrix) != m:
                raise ValueError(
                    f"matrix has {len(self.matrix)} rows and noise_covariance {m}: both are "
                    "the size of one observation"
                )

    def _identity(self) -> tuple:
        parts = tuple(
            (part.shape, part.tobytes()) if isinstance(part, np.ndarray) else part
            for part in (self.matrix, self.noise_covariance)
        )
        numbers = tuple(self.num_observations["z"])
        return (*parts, numbers, tuple(self.parameters.ranges.items()))

    def linear_part(self, vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return H and the lower Cholesky factor of R."""
        values = self.parameters.of_scaled(vector)
        parts = [
            jnp.asarray(part(values) if callable(part) else part, vector.dtype)
            for part in (self.matrix, self.noise_covariance)
        ]
        return parts[0], cholesky(parts[1])

    def row_sizes(self, dim: int) -> dict[str, int]:
        """Return the size of an observation.

        Raises
        ------
        ValueError
            If the matrix has other columns than the latent has coordinates.
        """
        vector = jnp.zeros(len(self.parameters.ranges))
        matrix, noise = jax.eval_shape(self.linear_part, vector)
        wanted = (len(noise), dim)
        if matrix.shape != wanted:
            raise ValueError(
                f"matrix must have shape {wanted}, by the rows of noise_covariance and the "
                f"coordinates of the latent; got {matrix.shape}"
            )
        return {"z": len(noise)}

    def simulate_rows(self, key: jax.Array, x: jax.Array, vector: jax.Array) -> dict:
        """Return the largest data set of one problem."""
        matrix, factor = self.linear_part(vector)
        shape = (self.num_observations["z"][1], len(matrix))
        noise = jax.random.normal(key, shape, x.dtype)
        return {"z": multiply_vector(matrix, x) + multiply_vector(factor, noise)}

    def log_likelihood_rows(
        self, rows: dict, masks: dict, x: jax.Array, vector: jax.Array
    ) -> jax.Array:
        """Return the log density of the rows that are there."""
        matrix, factor = self.linear_part(vector)
        offset = rows["z"] - multiply_vector(matrix, x)
        white = solve_lower(factor, offset.T)
        constant = log_diagonal(factor).sum() + 0.5 * len(matrix) * math.log(2 * math.pi)
        values = -0.5 * (white**2).sum(axis=0) - constant
        return jnp.where(masks["z"], values, 0.0).sum()

    def plain(self) -> dict[str, Any] | None:
        """Return the settings as plain values; None where functions are among them."""
        if callable(self.matrix) or callable(self.noise_covariance):
            return None
        return {
            "matrix": self.matrix.tolist(),
            "noise_covariance": self.noise_covariance.tolist(),
            "num_observations": list(self.num_observations["z"]),
            "parameters": {name: list(ends) for name, ends in self.parameters.ranges.items()},
        }


def _array_or_function(
    name: str, value: Any, parameters: KnownNumbers
) -> Callable | np.ndarray:
    if callable(value):
        if not parameters.ranges:
            raise ValueError(f"{name} is a function, but there are no parameters")
        return value
    array = np.atleast_2d(np.asarray(value, np.float64))
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a finite matrix, got shape {array.shape}")
    return array


def _check_noise(covariance: np.ndarray) -> None:
    is_square = covariance.shape[0] == covariance.shape[1]
    if not is_square or not np.allclose(covariance, covariance.T, rtol=1e-8):
        raise ValueError("noise_covariance must be symmetric")
    if np.linalg.eigvalsh(covariance).min() <= 0:
        raise ValueError("noise_covariance must be positive definite")
