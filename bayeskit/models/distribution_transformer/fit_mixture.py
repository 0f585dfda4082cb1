"""Stand-ins for arbitrary priors: mixtures, with how far they are from what they stand for."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from bayeskit.errors import InvalidDataError, PriorFitWarning
from bayeskit.inference import random
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.prior_laws import PriorLaw, as_prior_law
from bayeskit.models.distribution_transformer.small_matrices import whiten
from bayeskit.models.distribution_transformer.supports import Intervals, Support, as_support

__all__ = ["FittedPrior", "by_expectation_maximisation", "fit_mixture"]

_NUM_DRAWS = 2**13
# Of a covariance, as a share of the variance of the sample.
_COVARIANCE_FLOOR = 1e-4
_NUM_STARTS, _MAX_STARTS = 4, 20
_MAX_KL = 0.05
_MOST_OUTSIDE = 0.01
# Of the quantiles that stand for a family, and of the rounds that fit scales to them.
_NUM_QUANTILES, _NUM_ROUNDS = 4000, 2000


@dataclass(frozen=True)
class FittedPrior:
    r"""A prior, and the mixture that stands for it.

    Parameters
    ----------
    mixture : GaussianMixture
    law : PriorLaw
        The prior itself, in unconstrained coordinates; refinement uses it.
    kl : float
        :math:`KL(p \| q)`, the expected log ratio of prior and mixture under the prior.
    kl_se : float
        Its Monte-Carlo standard error; 0 where the two are equal.

    Examples
    --------
    >>> from scipy import stats
    >>> from bayeskit.models.distribution_transformer import fit_mixture
    >>> fitted = fit_mixture([stats.norm(1.0, 2.0), stats.norm(3.0, 0.5)], num_components=3)
    >>> fitted.is_exact, fitted.mixture.mean.tolist()
    (True, [1.0, 3.0])
    """

    mixture: GaussianMixture
    law: PriorLaw
    kl: float
    kl_se: float

    @property
    def is_exact(self) -> bool:
        """Whether the mixture is the prior."""
        return self.kl == 0.0 and self.kl_se == 0.0


def fit_mixture(
    prior: Any, num_components: int, support: Any = "real", random_state: Any = 0
) -> FittedPrior:
    r"""Return a Gaussian mixture that stands for a prior, and how far it is from it.

    Normal priors, log-normal ones of positive latents, and mixtures of them are kept as they
    are. Student-t, Cauchy and Laplace priors are scale mixtures of normals, whose scales are
    fitted to quantiles. Any other prior is drawn from, mapped by the support, and fitted by
    expectation maximisation, from up to 20 starts by k-means++.

    Parameters
    ----------
    prior : GaussianMixture, NumPyro distribution, frozen SciPy distribution, or sequence
        A sequence holds one scalar distribution for each coordinate, independent of each other.
    num_components : int
        Of the mixture, where the prior is not one already.
    support : str, tuple, list or Support
        Of the latent; as for :class:`GaussianMixture`.
    random_state : int, numpy RandomState or Generator, JAX key, or None

    Returns
    -------
    FittedPrior

    Warns
    -----
    PriorFitWarning
        If the divergence is above 0.05, or more than 1 % of the mixture lies where the prior
        has no density.

    Raises
    ------
    InvalidDataError
        If draws of the prior lie outside of the support.

    Examples
    --------
    >>> from scipy import stats
    >>> fitted = fit_mixture(stats.gamma(3.0), num_components=3, support="positive")
    >>> fitted.kl < 0.01
    True
    """
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1, got {num_components}")
    support = _support_for(prior, support)
    with precision_scope("float64"):
        law = as_prior_law(prior, support)
        if isinstance(prior, GaussianMixture):
            return FittedPrior(prior, law, 0.0, 0.0)
        exact = _exact_form(law.values, support)
        if exact is not None:
            return FittedPrior(GaussianMixture.of_arrays(exact, support), law, 0.0, 0.0)
        fit_key, test_key, start_key = random.split(as_random_key(random_state), 3)
        u, _ = _sample(law, fit_key)
        test, log_p = _sample(law, test_key)
        mixture = _scale_mixture(law.values, support, num_components)
        found = (math.inf, 0.0)
        if mixture is not None:
            found = _divergence(mixture, test, log_p)
        if found[0] > _MAX_KL:
            seed = int(random.host_generator(start_key).integers(2**31))
            for num_starts in (_NUM_STARTS, _MAX_STARTS - _NUM_STARTS):
                other = by_expectation_maximisation(u, num_components, num_starts, seed)
                kl = _divergence(other, test, log_p)
                if kl[0] < found[0]:
                    mixture, found = other, kl
                if found[0] <= _MAX_KL:
                    break
                seed += 1
    assert mixture is not None
    if found[0] > _MAX_KL:
        warnings.warn(
            f"the prior is {found[0]:.2g} nats from the mixture of {num_components} components "
            f"that stands for it (more than {_MAX_KL}): pass fit_mixture(prior, "
            f"num_components={2 * num_components}, support=...) as the prior, or refine the "
            "posterior, which uses the prior itself",
            PriorFitWarning,
            stacklevel=2,
        )
    fitted = GaussianMixture.of_arrays(mixture, support)
    with precision_scope("float64"):
        u = fitted_draws(mixture, random.split(start_key)[0])
        outside = float(np.mean(np.asarray(_log_densities(law, u)) == -np.inf))
    if outside > _MOST_OUTSIDE:
        warnings.warn(
            f"{outside:.1%} of the mixture that stands for the prior lies outside of the "
            "support of the prior, where posteriors have mass, too: refine the posterior, "
            "which uses the prior itself, or train for a latent with that support (support=)",
            PriorFitWarning,
            stacklevel=2,
        )
    return FittedPrior(fitted, law, *found)


def fitted_draws(mixture: Mixture, key: Any) -> np.ndarray:
    """Return draws (num, d) from a mixture, in unconstrained coordinates."""
    seed = int(random.host_generator(key).integers(2**31))
    return GaussianMixture.of_arrays(mixture).sample(_NUM_DRAWS, seed)


def _support_for(prior: Any, support: Any) -> Support:
    if not isinstance(support, str | list | tuple):
        return support
    if isinstance(prior, GaussianMixture):
        return as_support(support, prior.dim)
    if isinstance(prior, list | tuple):
        return as_support(support, len(prior))
    from bayeskit.models.distribution_transformer.prior_laws import numpyro_distribution

    one = numpyro_distribution(prior)
    size = math.prod((*one.batch_shape, *one.event_shape))
    return as_support(support, size - 1 if support == "simplex" else size)


def _sample(law: PriorLaw, key: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return draws (num, d) in unconstrained coordinates, and the log density there."""
    u = random.lanes(lambda k, _: law.draw(k, law.values), key, jnp.arange(_NUM_DRAWS))
    u = np.asarray(u, np.float64)
    bad = ~np.isfinite(u).all(axis=1)
    if bad.any():
        raise InvalidDataError(
            f"{bad.mean():.1%} of the draws of the prior lie outside of the support of the "
            "latent, or on its boundary: truncate the prior, or declare another support"
        )
    return u, np.asarray(_log_densities(law, u))


def _log_densities(law: PriorLaw, u: np.ndarray) -> jax.Array:
    return jax.vmap(lambda one: law.log_density(one, law.values))(jnp.asarray(u))


def _divergence(mixture: Mixture, u: np.ndarray, log_p: np.ndarray) -> tuple[float, float]:
    """Return the mean log ratio and its standard error."""
    ratio = log_p - mixture_arrays.log_density(mixture, u)
    return float(ratio.mean()), float(ratio.std() / math.sqrt(len(ratio)))


# ---------------------------------------------------------------- by formula


def _stripped(distribution: Any) -> Any:
    while type(distribution).__name__ == "Independent":
        distribution = distribution.base_dist
    return distribution


def _exact_form(distributions: tuple, support: Support) -> Mixture | None:
    """Return the mixture that a prior is, if it is one."""
    pieces = [_stripped(one) for one in distributions]
    names = {type(one).__name__ for one in pieces}
    if names == {"MixtureSameFamily"} and len(pieces) == 1:
        components = pieces[0].component_distribution
        if pieces[0].batch_shape:
            return None
        found = _normal_parts([_stripped(components)], support, not components.event_shape)
        if found is None:
            return None
        weights = np.asarray(pieces[0].mixing_distribution.probs, np.float64)
        with np.errstate(divide="ignore"):
            return Mixture(np.log(weights), *found)
    found = _normal_parts(pieces, support)
    if found is None:
        return None
    return Mixture(np.zeros(1), found[0][None], found[1][None])


def _normal_parts(
    pieces: list, support: Support, are_scalars: bool = False
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return means and factors of distributions that are normal in the coordinates u.

    With ``are_scalars`` the axis of a batch is that of components, not of coordinates.
    """
    if not isinstance(support, Intervals):
        return None
    if len(pieces) == 1 and type(pieces[0]).__name__ == "MultivariateNormal":
        if not support.is_real:
            return None
        one = pieces[0]
        mean = np.broadcast_to(one.loc, (*one.batch_shape, *one.event_shape))
        factor = np.broadcast_to(one.scale_tril, (*mean.shape, mean.shape[-1]))
        return np.asarray(mean, np.float64), np.asarray(factor, np.float64)
    names = np.repeat([type(one).__name__ for one in pieces], support.dim // len(pieces))
    ends = zip(support.low, support.high, strict=True)
    wanted = {(-math.inf, math.inf): "Normal", (0.0, math.inf): "LogNormal"}
    if list(names) != [wanted.get(pair) for pair in ends]:
        return None
    means = np.concatenate([_column(one.loc, one.batch_shape) for one in pieces], axis=-1)
    scales = np.concatenate([_column(one.scale, one.batch_shape) for one in pieces], axis=-1)
    if are_scalars:
        means, scales = means[..., None], scales[..., None]
    return means, scales[..., None] * np.eye(support.dim)


def _column(values: Any, batch_shape: tuple) -> np.ndarray:
    array = np.broadcast_to(np.asarray(values, np.float64), batch_shape)
    return array if array.ndim else array[None]


def _scale_mixture(distributions: tuple, support: Support, k: int) -> Mixture | None:
    """Return a mixture of one centre for a prior that is a scale mixture of normals."""
    one = _stripped(distributions[0])
    name, d = type(one).__name__, support.dim
    if len(distributions) > 1 or not getattr(support, "is_real", False):
        return None
    levels = (np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES
    if name == "MultivariateStudentT":
        squares = d * stats.f(d, float(one.df)).ppf(levels)
        mean, factor = np.asarray(one.loc), np.asarray(one.scale_tril)
    elif name in ("StudentT", "Cauchy", "Laplace") and d == 1:
        shapes = (float(np.ravel(one.df)[0]),) if name == "StudentT" else ()
        family = {"StudentT": stats.t, "Cauchy": stats.cauchy, "Laplace": stats.laplace}[name]
        squares = family(*shapes).ppf(0.5 + 0.5 * levels) ** 2
        mean, factor = np.ravel(one.loc), np.reshape(one.scale, (1, 1))
    else:
        return None
    weights, variances = _fitted_scales(squares, d, k)
    means = np.broadcast_to(mean, (k, d)).astype(np.float64)
    factors = np.sqrt(variances)[:, None, None] * np.asarray(factor, np.float64)
    return Mixture(np.log(weights), means, factors)


def _fitted_scales(squares: np.ndarray, dim: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and variances of normals with centre 0, given squared distances from it.

    Expectation maximisation: the largest likelihood at quantiles is the smallest divergence.
    """
    variances = np.quantile(squares, (np.arange(k) + 0.5) / k) / dim + np.finfo(float).tiny
    weights = np.full(k, 1.0 / k)
    for _ in range(_NUM_ROUNDS):
        logs = np.log(weights) - 0.5 * dim * np.log(variances)
        shares = special.softmax(logs - 0.5 * squares[:, None] / variances, axis=1)
        total = shares.sum(axis=0)
        weights, before = total / len(squares), variances
        variances = (shares.T @ squares) / (dim * total)
        if np.abs(variances / before - 1.0).max() < 1e-8:
            break
    return weights, variances


# ---------------------------------------------------------------- by draws


def by_expectation_maximisation(u: np.ndarray, k: int, num_starts: int, seed: int) -> Mixture:
    """Return the mixture of largest likelihood at draws (num, d), over several starts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as ExpectationMaximisation

    centre = u.mean(axis=0)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(u.T)))
    z = whiten(factor, u - centre)
    engine = ExpectationMaximisation(
        k,
        init_params="k-means++",
        n_init=num_starts,
        reg_covar=_COVARIANCE_FLOOR,
        max_iter=300,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # What counts is the divergence, which is reported.
        warnings.simplefilter("ignore", ConvergenceWarning)
        engine.fit(z)
    with np.errstate(divide="ignore"):
        standard = Mixture(
            np.log(engine.weights_), engine.means_, np.linalg.cholesky(engine.covariances_)
        )
    return mixture_arrays.triangular_image(standard, factor, centre)
