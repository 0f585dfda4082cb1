"""Gaussian mixtures as users meet them: priors that they give and posteriors that they get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from bayeskit.errors import InvalidDataError
from bayeskit.inference.random import host_generator
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.distribution_transformer.mixture_arrays import (
    Mixture,
    covariances,
    log_density,
    moments,
    triangle,
)
from bayeskit.models.distribution_transformer.mixture_checks import (
    check_factors,
    check_shapes,
    check_weights,
    checked_cholesky,
    checked_points,
    finite_array,
)
from bayeskit.models.distribution_transformer.mixture_summaries import (
    half_line_moments,
    marginal_quantiles,
)
from bayeskit.models.distribution_transformer.supports import Intervals, as_support

__all__ = ["GaussianMixture"]

# Of a Sobol sequence, for moments that have no closed form.
_NUM_QUASI_DRAWS = 2**13


class GaussianMixture:
    r"""A Gaussian mixture, or a batch of them, possibly warped onto a constrained space.

    .. math:: q(u) = \sum_{i=1}^k w_i\, N(u; \mu_i, \Sigma_i), \qquad x = f(u),

    where f is the identity unless a support is given: with ``support="positive"`` the mixture
    is that of log x.

    Parameters
    ----------
    weights : (..., k) array
        Not negative, with sum 1.
    means : (..., k, d) array
        For d = 1, (..., k) as well.
    covariances : (..., k, d, d) array, optional
        Symmetric, positive definite. For d = 1, (..., k) as well: variances.
    factors : (..., k, d, d) array, optional
        Lower triangular L with :math:`\Sigma = L L^\top`, instead of covariances.
    support : str, tuple or list
        "real", "positive", "unit", ("interval", low, high), "simplex", "correlation", or a list
        with one of the first four for each coordinate.

    Attributes
    ----------
    weights, means, covariances, factors : arrays as above, of u
    dim, num_components : int
    batch_shape : tuple of int

    Raises
    ------
    InvalidDataError
        For weights that are negative or do not sum to 1; for a covariance that is not symmetric
        or not positive definite, with the index of its component; for shapes that do not fit.

    Notes
    -----
    On the host, in double precision. Means and quantiles are exact where each coordinate has an
    interval of its own, covariances on the real and on half lines; elsewhere they are computed
    from 8192 quasi-random draws.

    Examples
    --------
    >>> from bayeskit.models import GaussianMixture
    >>> prior = GaussianMixture([0.3, 0.7], [-1.0, 2.0], [0.25, 1.0])
    >>> prior.mean
    array([1.1])
    >>> prior.log_prob([[0.0], [2.0]]).round(4)
    array([-2.6566, -1.2756])
    >>> prior.quantile(0.5).round(3)
    array([1.434])
    """

    def __init__(
        self,
        weights: Any,
        means: Any,
        covariances: Any = None,
        *,
        factors: Any = None,
        support: Any = "real",
    ):
        weights, means = finite_array("weights", weights), finite_array("means", means)
        if (covariances is None) == (factors is None):
            raise InvalidDataError(
                "give either covariances or factors, of all components, and not both"
            )
        name = "covariances" if factors is None else "factors"
        matrices = finite_array(name, covariances if factors is None else factors)
        if weights.ndim == 0:
            raise InvalidDataError("weights must have an axis of components, got a number")
        if means.ndim == weights.ndim:
            means = means[..., None]
        if matrices.ndim == weights.ndim:
            matrices = matrices[..., None, None]
        check_shapes(weights, means, matrices, name)
        check_weights(weights)
        if factors is None:
            matrices = checked_cholesky(matrices)
        else:
            check_factors(matrices)
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)
        log_weights = log_weights - special.logsumexp(log_weights, axis=-1, keepdims=True)
        self._set(Mixture(log_weights, means, matrices), as_support(support, means.shape[-1]))

    def _set(self, mixture: Mixture, support: Any) -> None:
        self.mixture, self.support = mixture, support

    @classmethod
    def of_arrays(cls, mixture: Mixture, support: Any = "real") -> GaussianMixture:
        """Return the mixture of arrays that are known to be right, such as a network's."""
        self = object.__new__(cls)
        arrays = Mixture(*(np.asarray(leaf, np.float64) for leaf in mixture))
        total = special.logsumexp(arrays.log_weights, axis=-1, keepdims=True)
        arrays = arrays._replace(log_weights=arrays.log_weights - total)
        self._set(arrays, as_support(support, arrays.means.shape[-1]))
        return self

    # ------------------------------------------------------------ parts

    @property
    def weights(self) -> np.ndarray:
        """Weights (..., k)."""
        return np.exp(self.mixture.log_weights)

    @property
    def means(self) -> np.ndarray:
        """Means (..., k, d) of the components, in unconstrained coordinates."""
        return self.mixture.means

    @property
    def factors(self) -> np.ndarray:
        """Lower triangular factors (..., k, d, d) of the covariances of the components."""
        return self.mixture.factors

    @property
    def covariances(self) -> np.ndarray:
        """Covariances (..., k, d, d) of the components, in unconstrained coordinates."""
        return covariances(self.mixture)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch; () for a single mixture."""
        return self.mixture.log_weights.shape[:-1]

    @property
    def num_components(self) -> int:
        """Number of components k."""
        return self.mixture.log_weights.shape[-1]

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates d."""
        return self.mixture.means.shape[-1]

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("a single mixture has no length")
        return self.batch_shape[0]

    def __getitem__(self, index: Any) -> GaussianMixture:
        if not self.batch_shape:
            raise TypeError("a single mixture cannot be indexed; marginal(i) takes coordinates")
        parts = Mixture(*(leaf[index] for leaf in self.mixture))
        return GaussianMixture.of_arrays(parts, self.support)

    def __repr__(self) -> str:
        batch = f", batch_shape={self.batch_shape}" if self.batch_shape else ""
        support = "" if self._is_real else f", support={self.support.spec!r}"
        return (
            f"GaussianMixture(num_components={self.num_components}, dim={self.dim}"
            f"{batch}{support})"
        )

    @property
    def _is_real(self) -> bool:
        return isinstance(self.support, Intervals) and self.support.is_real

    # ------------------------------------------------------------ draws and densities

    def sample(self, num: int = 1, random_state: Any = None) -> np.ndarray:
        """Return independent draws (num, ..., d) in the coordinates of the latent.

        Parameters
        ----------
        num : int
        random_state : int, numpy RandomState or Generator, JAX key, or None
        """
        if not isinstance(num, int | np.integer) or num < 0:
            raise ValueError(f"num must be a whole number >= 0, got {num!r}")
        generator = host_generator(as_random_key(random_state))
        shape = (num, *self.batch_shape)
        cdf = np.cumsum(self.weights, axis=-1)
        u = generator.random((*shape, 1)) * cdf[..., -1:]
        component = np.sum(cdf <= u, axis=-1)
        return self._constrained(
            self._placed(component, generator.normal(size=(*shape, self.dim)))
        )

    def _placed(self, component: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return normal noise (num, ..., d) moved to the components (num, ...)."""
        means = np.broadcast_to(self.means, (len(noise), *self.means.shape))
        mean = np.take_along_axis(means, component[..., None, None], axis=-2)[..., 0, :]
        if not self.batch_shape:
            factor = self.factors[component]
        else:
            factors = np.broadcast_to(self.factors, (len(noise), *self.factors.shape))
            index = component[..., None, None, None]
            factor = np.take_along_axis(factors, index, axis=-3)[..., 0, :, :]
        return mean + np.einsum("...ij,...j->...i", factor, noise)

    def log_prob(self, x: Any) -> np.ndarray:
        """Return log densities at points (..., d) that broadcast against the batch.

        Points (num, d) of a single mixture give (num,); of B mixtures, (num, B, d) give
        (num, B). Outside the support the density is 0.
        """
        x = checked_points(x, self.support.constrained_dim)
        if self._is_real:
            return log_density(self.mixture, x)
        with precision_scope("float64"):
            inside = np.asarray(self.support.contains(x))
            u = np.asarray(self.support.unconstrain(x))
            u = np.where(inside[..., None], u, 0.0)
            log_det = np.asarray(self.support.log_det(u))
        return np.where(inside, log_density(self.mixture, u) - log_det, -np.inf)

    def _constrained(self, u: np.ndarray) -> np.ndarray:
        with precision_scope("float64"):
            return np.asarray(self.support.constrain(u))

    # ------------------------------------------------------------ summaries

    @property
    def mean(self) -> np.ndarray:
        """Mean (..., d) of the latent."""
        if self._is_real:
            return moments(self.mixture)[0]
        return self._warped_moments()[0]

    @property
    def cov(self) -> np.ndarray:
        """Covariance (..., d, d) of the latent."""
        if self._is_real:
            return moments(self.mixture)[1]
        return self._warped_moments()[1]

    @property
    def std(self) -> np.ndarray:
        """Standard deviations (..., d) of the latent."""
        return np.sqrt(np.diagonal(self.cov, axis1=-2, axis2=-1))

    def _warped_moments(self) -> tuple[np.ndarray, np.ndarray]:
        support = self.support
        if isinstance(support, Intervals) and not np.isfinite(support.high).any():
            return half_line_moments(self.mixture, support)
        x = self._quasi_draws()
        mean = x.mean(axis=0)
        deviations = x - mean
        return mean, np.einsum("n...i,n...j->...ij", deviations, deviations) / len(x)

    def _quasi_draws(self) -> np.ndarray:
        """Return draws (num, ..., d) of a scrambled Sobol sequence, always the same."""
        from scipy.stats import qmc

        points = qmc.Sobol(self.dim + 1, seed=0).random(_NUM_QUASI_DRAWS)
        points = np.clip(points, 1e-12, 1.0 - 1e-12)
        shape = (len(points), *(1,) * len(self.batch_shape))
        cdf = np.cumsum(self.weights, axis=-1)
        u = points[:, 0].reshape(*shape, 1) * cdf[..., -1:]
        noise = special.ndtri(points[:, 1:]).reshape(*shape, self.dim)
        noise = np.broadcast_to(noise, (len(points), *self.batch_shape, self.dim))
        return self._constrained(self._placed(np.sum(cdf <= u, axis=-1), noise))

    def quantile(self, q: Any) -> np.ndarray:
        """Return quantiles of each coordinate of the latent.

        Parameters
        ----------
        q : float or (num,) array in (0, 1)

        Returns
        -------
        (..., d) or (num, ..., d) array
        """
        levels = np.asarray(q, np.float64)
        if levels.ndim > 1 or not np.all((levels > 0) & (levels < 1)):
            raise InvalidDataError(
                f"q must be one or several probabilities in (0, 1), got {q!r}"
            )
        if not isinstance(self.support, Intervals):
            return np.quantile(self._quasi_draws(), levels, axis=0)
        wanted = np.atleast_1d(levels).reshape(-1, *(1,) * (len(self.batch_shape) + 1))
        quantiles = self._constrained(marginal_quantiles(self.mixture, wanted))
        return quantiles if levels.ndim else quantiles[0]

    def marginal(self, coordinates: int | Sequence[int]) -> GaussianMixture:
        """Return the law of one coordinate, or of several in the order given.

        Raises
        ------
        ValueError
            On a simplex and for correlations, whose marginals are no mixtures.
        """
        if not isinstance(self.support, Intervals):
            raise ValueError(
                f"the marginals of a mixture with support {self.support.spec!r} are no "
                "mixtures: use sample or quantile"
            )
        chosen = [coordinates] if isinstance(coordinates, int | np.integer) else coordinates
        if not all(
            isinstance(i, int | np.integer) and -self.dim <= i < self.dim for i in chosen
        ):
            raise InvalidDataError(
                f"coordinates must be among 0 to {self.dim - 1}, got {coordinates!r}"
            )
        index = np.arange(self.dim)[list(chosen)]
        factors = triangle(self.factors[..., index, :])
        parts = Mixture(self.mixture.log_weights, self.means[..., index], factors)
        return GaussianMixture.of_arrays(parts, self.support.at(index.tolist()))

    def to_arviz(self, num_draws: int = 4000, random_state: Any = 0) -> Any:
        """Return an ArviZ object with independent draws of ``x`` in four chains.

        A batch becomes further axes of ``x``.
        """
        from bayeskit.interop.arviz import to_arviz

        draws = self.sample(4 * -(-num_draws // 4), random_state)
        return to_arviz({"posterior": {"x": draws.reshape(4, -1, *draws.shape[1:])}})
