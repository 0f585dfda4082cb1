"""Priors of all kinds as one thing: a density and draws in unconstrained coordinates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.supports import Support

__all__ = ["PriorLaw", "as_prior_law", "numpyro_distribution"]


class PriorLaw(NamedTuple):
    """A prior in the coordinates u of a support, as functions of arrays.

    Parameters
    ----------
    log_density : callable (u, values) -> () array
        Normalised, at one u (d,).
    draw : callable (key, values) -> (d,) array
    values : pytree of arrays
        Parameters. Priors that differ in them alone share compiled programs.
    """

    log_density: Callable
    draw: Callable
    values: Any


def _log_mixture(u: jax.Array, mixture: Mixture) -> jax.Array:
    return mixture_arrays.log_density(mixture, u)


def mixture_law(mixture: Mixture) -> PriorLaw:
    """Return the law of a single mixture in its own coordinates."""
    return PriorLaw(_log_mixture, mixture_arrays.draw, mixture)


@dataclass(frozen=True)
class _LogDistribution:
    """The density of u that NumPyro distributions of x give."""

    support: Support

    def __call__(self, u: jax.Array, distributions: tuple) -> jax.Array:
        x = self.support.constrain(u)
        pieces = [x] if len(distributions) == 1 else [x[i] for i in range(x.shape[-1])]
        total = self.support.log_det(u)
        for piece, one in zip(pieces, distributions, strict=True):
            value = piece[0] if not one.event_shape and jnp.ndim(piece) else piece
            total = total + _log_probability(one, value)
        return total


def _log_probability(distribution: Any, x: jax.Array) -> jax.Array:
    """Return the log density at x, which is -inf outside of the support.

    NumPyro's own is that of a formula there, and finite for many families.
    """
    inside = jnp.all(distribution.support(x))
    # The formula is evaluated inside only: a NaN would reach the gradient through the choice.
    safe = jnp.where(inside, x, distribution.support.feasible_like(x))
    return jnp.where(inside, jnp.sum(distribution.log_prob(safe)), -jnp.inf)


@dataclass(frozen=True)
class _DrawDistribution:
    """Draws of u from NumPyro distributions of x."""

    support: Support

    def __call__(self, key: Any, distributions: tuple) -> jax.Array:
        keys = random.split(key, len(distributions))
        pieces = [
            jnp.atleast_1d(random.sample(k, d))
            for k, d in zip(keys, distributions, strict=True)
        ]
        return self.support.unconstrain(jnp.concatenate(pieces).astype(float))


def as_prior_law(prior: Any, support: Support) -> PriorLaw:
    """Return the law of a prior that a user gives.

    Parameters
    ----------
    prior : GaussianMixture, NumPyro distribution, frozen SciPy distribution, or sequence
        A sequence holds one scalar distribution for each coordinate, independent of each other.

    Raises
    ------
    TypeError, InvalidDataError
        For anything else; for a dimension or a support that does not fit.
    """
    if isinstance(prior, GaussianMixture):
        if prior.batch_shape:
            raise InvalidDataError(
                f"prior is a batch of shape {prior.batch_shape}: a single one is needed here"
            )
        if prior.dim != support.dim:
            raise InvalidDataError(
                f"prior has dimension {prior.dim}, but the latent has {support.dim}"
            )
        if prior.support != support:
            raise InvalidDataError(
                f"prior has support {prior.support.spec!r}, but the latent has "
                f"{support.spec!r}: give GaussianMixture(..., support={support.spec!r})"
            )
        return mixture_law(prior.mixture)
    given = list(prior) if isinstance(prior, list | tuple) else [prior]
    distributions = tuple(numpyro_distribution(one) for one in given)
    for one in distributions:
        if one.support is not None and one.support.is_discrete:
            raise InvalidDataError(
                f"prior {type(one).__name__} is a distribution of whole numbers, but the "
                "latent is continuous: give a distribution with a density"
            )
    size = support.constrained_dim
    if len(distributions) == 1 and not distributions[0].event_shape:
        (one,) = distributions
        if one.batch_shape:
            distributions = (one.to_event(len(one.batch_shape)),)
    sizes = [int(np.prod(one.event_shape, dtype=int)) for one in distributions]
    if sum(sizes) != size or (len(sizes) > 1 and max(sizes) > 1):
        raise InvalidDataError(
            f"prior has {sum(sizes)} coordinates in {len(sizes)} distributions, but the latent "
            f"has {size}: give one distribution of that size, or a list of {size} scalar ones"
        )
    return PriorLaw(_LogDistribution(support), _DrawDistribution(support), distributions)


def numpyro_distribution(distribution: Any) -> Any:
    """Return the NumPyro distribution that a frozen SciPy one is, or the NumPyro one itself.

    Raises
    ------
    TypeError
        For anything else, with the names of the families that are known.
    """
    from numpyro.distributions import Distribution

    if isinstance(distribution, Distribution):
        return distribution
    name = getattr(getattr(distribution, "dist", None), "name", None)
    if name is None and type(distribution).__name__ == "multivariate_normal_frozen":
        import numpyro.distributions as dist

        return dist.MultivariateNormal(distribution.mean, distribution.cov)
    families = _scipy_families()
    if name not in families:
        found = f"scipy.stats.{name}" if name else type(distribution).__name__
        if isinstance(distribution, type) or hasattr(distribution, "freeze"):
            named = getattr(distribution, "__name__", getattr(distribution, "name", found))
            raise TypeError(
                f"prior is the family {named!r} without parameters: call it with them, as in "
                "scipy.stats.norm(0.0, 1.0)"
            )
        raise TypeError(
            f"prior must be a GaussianMixture, a NumPyro distribution, one of scipy.stats "
            f"({', '.join(sorted(families))}, multivariate_normal), or a list of them, got "
            f"{found}. Any density can be given as a NumPyro distribution of your own"
        )
    shapes, loc, scale = distribution.dist._parse_args(*distribution.args, **distribution.kwds)
    return families[name](*map(float, shapes), loc=float(loc), scale=float(scale))


@functools.cache
def _scipy_families() -> dict[str, Callable]:
    """Return NumPyro's forms of SciPy's families, by name."""
    import numpyro.distributions as dist

    def moved(base: Any, loc: float, scale: float) -> Any:
        if (loc, scale) == (0.0, 1.0):
            return base
        transform = dist.transforms.AffineTransform(loc, scale, domain=base.support)
        return dist.TransformedDistribution(base, transform)

    return {
        "norm": lambda loc, scale: dist.Normal(loc, scale),
        "t": lambda nu, loc, scale: dist.StudentT(nu, loc, scale),
        "cauchy": lambda loc, scale: dist.Cauchy(loc, scale),
        "laplace": lambda loc, scale: dist.Laplace(loc, scale),
        "logistic": lambda loc, scale: dist.Logistic(loc, scale),
        "uniform": lambda loc, scale: dist.Uniform(loc, loc + scale),
        "lognorm": lambda s, loc, scale: moved(dist.LogNormal(np.log(scale), s), loc, 1.0),
        "expon": lambda loc, scale: moved(dist.Exponential(1.0 / scale), loc, 1.0),
        "halfnorm": lambda loc, scale: moved(dist.HalfNormal(scale), loc, 1.0),
        "gamma": lambda a, loc, scale: moved(dist.Gamma(a, 1.0 / scale), loc, 1.0),
        "invgamma": lambda a, loc, scale: moved(dist.InverseGamma(a, scale), loc, 1.0),
        "beta": lambda a, b, loc, scale: moved(dist.Beta(a, b), loc, scale),
        "chi2": lambda nu, loc, scale: moved(dist.Gamma(0.5 * nu, 0.5 / scale), loc, 1.0),
        "gumbel_r": lambda loc, scale: dist.Gumbel(loc, scale),
        "halfcauchy": lambda loc, scale: moved(dist.HalfCauchy(scale), loc, 1.0),
        "loguniform": lambda a, b, loc, scale: moved(
            dist.LogUniform(a * scale, b * scale), loc, 1.0
        ),
        "truncnorm": lambda a, b, loc, scale: dist.TruncatedNormal(
            loc, scale, low=loc + a * scale, high=loc + b * scale
        ),
        "weibull_min": lambda c, loc, scale: moved(dist.Weibull(scale, c), loc, 1.0),
    }
