r"""How an observation arises from the function, one row at a time.

All inference needs of a likelihood is its expected log density under a normal function value,

.. math:: g(m, v) = E\bigl[\log p(y \mid f)\bigr], \quad f \sim N(m, v),

since the best normal approximation has sites of precision :math:`-2\,\partial g/\partial v` and
information :math:`\partial g/\partial m` plus precision times m (Opper & Archambeau 2009).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from scipy import stats
from scipy.special import expit

from bayeskit.errors import InvalidDataError
from bayeskit.inference.gp_kernels import LogNormal, Scales
from bayeskit.inference.gp_kernels.hyperparametric import (
    Hyperparametric,
    checked_hyperparameter,
    hyperparameter,
)

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Likelihood",
    "Normal",
    "Poisson",
    "StudentT",
    "nodes",
]

_NUM_NODES = 32
# Of the largest observation: what counts as no spread.
ROUNDING = 1e-12


def nodes() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of Gauss-Hermite quadrature under a standard normal law."""
    x, w = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    return x, w / math.sqrt(2.0 * math.pi)


@dataclass(frozen=True, eq=False)
class Likelihood(Hyperparametric):
    """Base of likelihoods; ``variance`` is that of a row's own noise, where it has one."""

    #: Whether the posterior is normal, and the evidence exact.
    is_exact: ClassVar[bool] = False
    #: Whether observations are whole numbers.
    is_discrete: ClassVar[bool] = False
    #: What the mean of an observation is called.
    rate_name: ClassVar[str] = "function"
    #: Whether rows may have a noise of their own.
    takes_noise: ClassVar[bool] = False

    def expected_log_density(self, y: Any, m: Any, v: Any, variance: Any) -> jax.Array:
        """Return g, or a lower bound of it."""
        raise NotImplementedError

    def check(self, y: np.ndarray) -> None:
        """Refuse values that cannot be observed; NaN is passed over."""

    def offset(self, y: np.ndarray) -> float:
        """Return the function value that explains the data best if it is constant."""
        raise NotImplementedError

    def scale(self, y: np.ndarray) -> float:
        """Return the standard deviation of function values that the data suggest."""
        raise NotImplementedError

    # On the host, for predictions: arrays of NumPy.

    def moments(self, m: Any, v: Any, variance: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of a new observation."""
        raise NotImplementedError

    def rate(self, f: Any) -> Any:
        """Return the mean of an observation given function values; it rises with them."""
        return f

    def rate_moments(self, m: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the rate."""
        return m, v

    def draw(self, generator: np.random.Generator, f: np.ndarray) -> np.ndarray:
        """Return new observations for function values."""
        raise NotImplementedError

    def cdf(self, y: Any, f: Any) -> np.ndarray:
        """Return the distribution function of an observation, given function values."""
        raise NotImplementedError

    def log_density(self, y: Any, f: Any, variance: Any = 0.0) -> np.ndarray:
        """Return the log density of observations, given function values."""
        raise NotImplementedError


class _Continuous(Likelihood):
    takes_noise: ClassVar[bool] = True

    def offset(self, y: np.ndarray) -> float:
        return float(np.mean(y))

    def scale(self, y: np.ndarray) -> float:
        spread = float(np.std(y))
        # A constant has no scale of its own; rounding of its mean is none either.
        return spread if spread > ROUNDING * np.max(np.abs(y)) else 1.0

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        # Between 1.5 % and all but the largest share of the spread, with two standard
        # deviations of the prior either way.
        return {"noise": LogNormal(0.3 * scales.y, 1.5)}


@dataclass(frozen=True, eq=False)
class Normal(_Continuous):
    r"""Normal noise: :math:`y \sim N(f, \sigma^2 + s^2)`, with s given for each row or 0.

    Parameters
    ----------
    noise : float, LogNormal or None
        Standard deviation of the noise. Default prior: LogNormal(0.3 sd of y, 1.5). 0 leaves
        the noise that is given for each row.
    """

    is_exact: ClassVar[bool] = True

    noise: Any = hyperparameter()

    def __post_init__(self):
        if not (isinstance(self.noise, int | float) and self.noise == 0):
            checked_hyperparameter(self.noise, "noise")

    def expected_log_density(self, y, m, v, variance):
        total = self.noise**2 + variance
        return -0.5 * (jnp.log(2.0 * jnp.pi * total) + ((y - m) ** 2 + v) / total)

    def moments(self, m, v, variance=0.0):
        return m, v + float(self.noise) ** 2 + variance

    def draw(self, generator, f):
        return f + float(self.noise) * generator.standard_normal(np.shape(f))

    def cdf(self, y, f):
        return stats.norm.cdf(y, f, float(self.noise))

    def log_density(self, y, f, variance=0.0):
        return stats.norm.logpdf(y, f, np.sqrt(float(self.noise) ** 2 + variance))


@dataclass(frozen=True, eq=False)
class StudentT(_Continuous):
    r"""Noise with outliers: :math:`y \sim t_\nu(f, \sigma^2)`.

    The bound on g is that of a scale mixture of normals, :math:`\log t_\nu` at the expected
    square :math:`(y - m)^2 + v`.

    Parameters
    ----------
    noise : float, LogNormal or None
        Scale of the noise. Default prior: LogNormal(0.3 sd of y, 1.5).
    degrees_of_freedom : float, LogNormal or None
        Default: 4.
    """

    noise: Any = hyperparameter()
    degrees_of_freedom: Any = hyperparameter(4.0)

    def __post_init__(self):
        checked_hyperparameter(self.noise, "noise")
        checked_hyperparameter(self.degrees_of_freedom, "degrees_of_freedom")

    def default_priors(self, scales):
        return {**super().default_priors(scales), "degrees_of_freedom": LogNormal(4.0, 0.5)}

    def expected_log_density(self, y, m, v, variance):
        nu = self.degrees_of_freedom
        total = self.noise**2 + variance
        square = ((y - m) ** 2 + v) / total
        half = 0.5 * (nu + 1.0)
        return (
            gammaln(half)
            - gammaln(0.5 * nu)
            - 0.5 * jnp.log(nu * jnp.pi * total)
            - half * jnp.log1p(square / nu)
        )

    def moments(self, m, v, variance=0.0):
        nu = float(self.degrees_of_freedom)
        spread = (float(self.noise) ** 2 + variance) * nu / (nu - 2.0) if nu > 2 else np.inf
        return m, v + spread

    def draw(self, generator, f):
        noise = generator.standard_t(float(self.degrees_of_freedom), np.shape(f))
        return f + float(self.noise) * noise

    def cdf(self, y, f):
        return stats.t.cdf(y, float(self.degrees_of_freedom), f, float(self.noise))

    def log_density(self, y, f, variance=0.0):
        scale = np.sqrt(float(self.noise) ** 2 + variance)
        return stats.t.logpdf(y, float(self.degrees_of_freedom), f, scale)


@dataclass(frozen=True, eq=False)
class Poisson(Likelihood):
    r"""Counts: :math:`y \sim \mathrm{Poisson}(e^f)`."""

    is_discrete: ClassVar[bool] = True
    rate_name: ClassVar[str] = "rate"

    def default_priors(self, scales):
        return {}

    def expected_log_density(self, y, m, v, variance):
        return y * m - jnp.exp(m + 0.5 * v) - gammaln(y + 1.0)

    def check(self, y):
        seen = ~np.isnan(y)
        bad = seen & ((y < 0) | (y != np.floor(y)))
        if bad.any():
            row = int(np.argmax(bad))
            raise InvalidDataError(
                "likelihood='poisson' needs counts 0, 1, 2, ... in y, got "
                f"{y[row]:g} at row {row}"
            )

    def offset(self, y):
        return float(np.log(np.mean(y) + 0.5 / len(y)))

    def scale(self, y):
        return max(float(np.std(np.log(y + 0.5))), 0.1)

    def moments(self, m, v, variance=0.0):
        mean, spread = self.rate_moments(m, v)
        return mean, mean + spread

    def rate(self, f):
        return np.exp(f)

    def rate_moments(self, m, v):
        mean = np.exp(m + 0.5 * v)
        return mean, mean**2 * np.expm1(v)

    def draw(self, generator, f):
        return generator.poisson(np.exp(f)).astype(float)

    def cdf(self, y, f):
        return stats.poisson.cdf(y, np.exp(f))

    def log_density(self, y, f, variance=0.0):
        return stats.poisson.logpmf(y, np.exp(f))


@dataclass(frozen=True, eq=False)
class Bernoulli(Likelihood):
    r"""Yes or no: :math:`y \sim \mathrm{Bernoulli}(1 / (1 + e^{-f}))`."""

    is_discrete: ClassVar[bool] = True
    rate_name: ClassVar[str] = "probability of 1"

    def default_priors(self, scales):
        return {}

    def expected_log_density(self, y, m, v, variance):
        x, w = nodes()
        f = m + jnp.sqrt(v) * x
        return -jnp.sum(w * jax.nn.softplus((1.0 - 2.0 * y) * f))

    def check(self, y):
        bad = ~np.isnan(y) & (y != 0) & (y != 1)
        if bad.any():
            row = int(np.argmax(bad))
            raise InvalidDataError(
                f"likelihood='bernoulli' needs 0 and 1 in y, got {y[row]:g} at row {row}"
            )

    def offset(self, y):
        share = (np.sum(y) + 0.5) / (len(y) + 1.0)
        return float(np.log(share / (1.0 - share)))

    def scale(self, y):
        # Two standard deviations take the odds from 1 to 20.
        return 1.5

    def moments(self, m, v, variance=0.0):
        mean, _ = self.rate_moments(m, v)
        return mean, mean * (1.0 - mean)

    def rate(self, f):
        return expit(f)

    def rate_moments(self, m, v):
        x, w = nodes()
        rate = self.rate(np.asarray(m)[..., None] + np.sqrt(np.asarray(v))[..., None] * x)
        mean = rate @ w
        return mean, (rate - mean[..., None]) ** 2 @ w

    def draw(self, generator, f):
        return (generator.random(np.shape(f)) < 1.0 / (1.0 + np.exp(-f))).astype(float)

    def cdf(self, y, f):
        below = 1.0 / (1.0 + np.exp(f))
        return np.where(np.asarray(y) < 0, 0.0, np.where(np.asarray(y) < 1, below, 1.0))

    def log_density(self, y, f, variance=0.0):
        return -np.logaddexp(0.0, (1.0 - 2.0 * np.asarray(y)) * f)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "normal": Normal,
    "student_t": StudentT,
    "poisson": Poisson,
    "bernoulli": Bernoulli,
}
