"""Laws of priors that are Gaussian mixtures: what a network is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.frames import frame_of, in_frame
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.small_matrices import (
    log_diagonal,
    posterior_factor,
)

__all__ = ["GaussianMixtureMetaPrior"]


@dataclass(frozen=True)
class GaussianMixtureMetaPrior:
    r"""A law of Gaussian-mixture priors.

    .. math:: w \sim \mathrm{Dirichlet}(c), \qquad \mu_i \sim N(0, m^2 I), \qquad
              \Sigma_i = D_i C_i D_i

    with log-normal scales D and random correlations C, or with Wishart precisions. All are
    around 0, with scales around 1: a latent of another size, such as a weight of 500 g, is one
    of these in units of its own, ``500 + 50 * x`` in the simulator.

    Parameters
    ----------
    dim : int
        Dimension of the latent, in unconstrained coordinates.
    num_components : int or (int, int)
        A pair draws the number anew for each prior, both ends included.
    concentration : float
        c; 1 is uniform over all weights.
    mean_scale : float
        m.
    covariance : {"log_normal", "wishart"}
        ``"wishart"``: precisions are Wishart with ``dim + 1`` degrees of freedom, plus 0.01 I.
    log_scale_sd : float
        Standard deviation of the log of scales, whose median is 1.
    scale_bounds : (float, float)
        Scales are drawn anew within these bounds.
    sharp_share : float
        Share of priors that are shrunk as a whole, towards a point, by a factor
        between ``sharpest`` and 1.
    sharpest : float

    Raises
    ------
    ValueError
        For ranges that are empty or counts below 1.

    Examples
    --------
    >>> import jax
    >>> meta_prior = GaussianMixtureMetaPrior(dim=2, num_components=(1, 3))
    >>> with jax.enable_x64(False):
    ...     prior = meta_prior.draw(jax.random.key(0), 5)
    >>> prior.means.shape
    (5, 3, 2)
    """

    dim: int = 1
    num_components: int | tuple[int, int] = 2
    concentration: float = 1.0
    mean_scale: float = 1.0
    covariance: str = "log_normal"
    log_scale_sd: float = 0.5
    scale_bounds: tuple[float, float] = (0.1, 10.0)
    sharp_share: float = 0.1
    sharpest: float = 0.05

    # Embedding: each component is a token of its own.
    is_mixture = True
    num_parameters = 0

    def __post_init__(self):
        numbers = (self.concentration, self.mean_scale, self.log_scale_sd)
        share = self.sharp_share
        for is_so, words in (
            (_is_count(self.dim), "dim must be a whole number >= 1"),
            (
                _is_count(self.num_components)
                or _is_pair(self.num_components, _is_count, equal=True),
                "num_components must be a whole number >= 1, or two of them in order",
            ),
            (
                self.covariance in ("log_normal", "wishart"),
                "covariance must be 'log_normal' or 'wishart'",
            ),
            (
                all(map(_is_positive, numbers)),
                "concentration, mean_scale and log_scale_sd must be positive",
            ),
            (
                _is_pair(self.scale_bounds, _is_positive)
                and self.scale_bounds[0] < 1 < self.scale_bounds[1],
                "scale_bounds must be two positive numbers, one on each side of 1",
            ),
            (
                share == 0 or (_is_positive(share) and share <= 1),
                "sharp_share must be in [0, 1]",
            ),
            (_is_positive(self.sharpest) and self.sharpest <= 1, "sharpest must be in (0, 1]"),
        ):
            if not is_so:
                raise ValueError(f"GaussianMixtureMetaPrior: {words}, got {self}")

    @property
    def component_range(self) -> tuple[int, int]:
        """Smallest and largest number of components."""
        number = self.num_components
        low, high = (number, number) if isinstance(number, int | np.integer) else number
        return int(low), int(high)

    # ------------------------------------------------------------ draws

    def draw(self, key: jax.Array, batch: int) -> Mixture:
        """Return ``batch`` priors; components that a prior lacks have log weight -inf."""
        low, k = self.component_range
        keys = jax.random.split(key, 6)
        dtype = jnp.zeros(()).dtype
        if self.concentration == 1.0:
            log_gamma = jnp.log(jax.random.exponential(keys[0], (batch, k), dtype))
        else:
            log_gamma = jax.random.loggamma(
                keys[0], jnp.full((batch, k), self.concentration, dtype)
            )
        count = jax.random.randint(keys[1], (batch, 1), low, k + 1)
        is_present = jnp.arange(k) < count
        log_weights = jax.nn.log_softmax(jnp.where(is_present, log_gamma, -jnp.inf), axis=-1)
        means = self.mean_scale * jax.random.normal(keys[2], (batch, k, self.dim), dtype)
        draw_factors = self._wishart if self.covariance == "wishart" else self._log_normal
        factors = draw_factors(keys[3], (batch, k))
        shrink, centre = self._sharp(keys[4], keys[5], batch)
        means = shrink[:, None, None] * means + centre[:, None, :]
        factors = shrink[:, None, None, None] * factors
        identity = jnp.eye(self.dim, dtype=dtype)
        return Mixture(
            log_weights,
            jnp.where(is_present[..., None], means, 0.0),
            jnp.where(is_present[..., None, None], factors, identity),
        )

    def _sharp(self, key: jax.Array, of_centre: jax.Array, batch: int) -> tuple:
        of_share, of_size = jax.random.split(key)
        is_sharp = jax.random.uniform(of_share, (batch,)) < self.sharp_share
        size = jnp.exp(math.log(self.sharpest) * jax.random.uniform(of_size, (batch,)))
        shrink = jnp.where(is_sharp, size, 1.0)
        centre = self.mean_scale * jax.random.normal(of_centre, (batch, self.dim))
        return shrink, jnp.where(is_sharp, 1.0 - shrink, 0.0)[:, None] * centre

    def _log_normal(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        of_scale, of_row = jax.random.split(key)
        d = self.dim
        low, high = (math.log(b) / self.log_scale_sd for b in self.scale_bounds)
        z = jax.random.truncated_normal(of_scale, low, high, (*shape, d))
        # Rows of unit length below the diagonal give a correlation matrix; the larger first
        # entry of the last one keeps most correlations away from the ends.
        rows = jnp.tril(jax.random.normal(of_row, (*shape, d, d)))
        diagonal = jnp.arange(d)
        rows = rows.at[..., diagonal, diagonal].set(
            jnp.sqrt(rows[..., diagonal, diagonal] ** 2 + 1.0)
        )
        rows = rows / jnp.sqrt((rows**2).sum(axis=-1, keepdims=True))
        return jnp.exp(self.log_scale_sd * z)[..., None] * rows

    def _wishart(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        d = self.dim
        normals = jax.random.normal(key, (*shape, d, d + 1))
        precision = (normals[..., :, None, :] * normals[..., None, :, :]).sum(axis=-1)
        return posterior_factor(precision + 0.01 * jnp.eye(d, dtype=precision.dtype))[0]

    @staticmethod
    def draw_latent(key: jax.Array, prior: Mixture) -> jax.Array:
        """Return one latent (batch, d) from each prior."""
        return mixture_arrays.draw(key, prior)

    # ------------------------------------------------------------ what the network is given

    @staticmethod
    def as_mixture(prior: Mixture) -> Mixture:
        """Return the prior itself."""
        return prior

    @staticmethod
    def parameter_vector(prior: Mixture) -> jax.Array:
        """Return nothing: all that there is to know stands in the components."""
        return jnp.zeros((*prior.log_weights.shape[:-1], 0), prior.means.dtype)

    @staticmethod
    def log_density(prior: Mixture, u: jax.Array) -> jax.Array:
        """Return the log density of u (..., d)."""
        return mixture_arrays.log_density(prior, u)

    # ------------------------------------------------------------ the range of training

    def feature_names(self) -> list[str]:
        """Return the names of :meth:`features`."""
        names = [f"mean of the prior, coordinate {i}" for i in range(self.dim)]
        names += [
            f"log standard deviation of the prior, coordinate {i}" for i in range(self.dim)
        ]
        return [*names, "log of the smallest scale of a component, relative to the prior"]

    @staticmethod
    def features(prior: Mixture) -> jax.Array:
        """Return the numbers (..., f) whose range in training is remembered."""
        frame = frame_of(prior)
        within = log_diagonal(in_frame(prior, frame).factors).min(axis=-1)
        within = jnp.where(prior.log_weights > math.log(1e-3), within, jnp.inf)
        log_sd = 0.5 * jnp.log((frame.scale**2).sum(axis=-1))
        return jnp.concatenate(
            [frame.origin, log_sd, within.min(axis=-1, keepdims=True)], axis=-1
        )

    # ------------------------------------------------------------ the user's priors

    def checked(self, prior: Any) -> tuple[Mixture, bool]:
        """Return a user's prior as arrays (batch, ...), and whether it was a batch.

        Raises
        ------
        InvalidDataError
            For a mixture of another dimension.
        TypeError
            For anything but a Gaussian mixture.
        """
        if not isinstance(prior, GaussianMixture):
            raise TypeError(
                f"prior must be a GaussianMixture, got {type(prior).__name__}: "
                "fit_mixture makes one of another law, and states its error"
            )
        if prior.dim != self.dim:
            raise InvalidDataError(
                f"prior has dimension {prior.dim}, but training was in dimension {self.dim}"
            )
        if len(prior.batch_shape) > 1:
            raise InvalidDataError(
                f"prior must be one mixture or a batch with one axis, got batch shape "
                f"{prior.batch_shape}"
            )
        mixture = prior.mixture
        if not prior.batch_shape:
            mixture = Mixture(*(np.asarray(leaf)[None] for leaf in mixture))
        return mixture, bool(prior.batch_shape)

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        fields = self.__dataclass_fields__
        values = {name: getattr(self, name) for name in fields}
        return {name: np.asarray(value).tolist() for name, value in values.items()}


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 1)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 < value < math.inf)


def _is_pair(value: Any, is_one: Callable, equal: bool = False) -> bool:
    """Return whether a value is a pair in order, both of a kind."""
    if not (isinstance(value, tuple | list) and len(value) == 2 and all(map(is_one, value))):
        return False
    return value[0] < value[1] or (equal and value[0] == value[1])
