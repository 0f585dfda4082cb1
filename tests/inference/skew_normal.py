"""A normal prior and a probit likelihood: the posterior is skewed, and its draws are exact."""

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import Target
from bayeskit.inference import NormalPrior, random
from tests.inference.finite_models import log_table

__all__ = ["LINE_PRIOR", "LINE_TARGET", "PRIOR", "TARGET", "skew_normal"]


def skew_normal(prior, slope):
    r"""The target :math:`N(x; m, LL')\,\Phi(s \cdot L^{-1}(x - m))`, of evidence 1/2."""
    factor, slope = prior.factor, np.asarray(slope)
    inverse = np.linalg.inv(factor)
    log_norm = np.log(np.diag(factor)).sum() + 0.5 * len(slope) * np.log(2 * np.pi)

    def standard(x):
        return log_table(inverse) @ (x - log_table(prior.mean))

    def sample_prior(key):
        z = random.normal(key, prior.mean.shape)
        return log_table(prior.mean) + log_table(factor) @ z

    def sample(key):
        prior_key, noise_key = random.split(key)
        z = random.normal(prior_key, prior.mean.shape)
        # By symmetry z is kept where noise lies below the slope, and reflected elsewhere.
        z = jnp.where(random.normal(noise_key) < log_table(slope) @ z, z, -z)
        return log_table(prior.mean) + log_table(factor) @ z

    return Target(
        log_prior=lambda x: -0.5 * jnp.sum(standard(x) ** 2) - log_norm,
        log_likelihood=lambda x: jax.scipy.stats.norm.logcdf(log_table(slope) @ standard(x)),
        sample_prior=sample_prior,
        sample_exact=sample,
        name="skew normal",
    )


PRIOR = NormalPrior([1.0, -0.5], covariance=[[0.64, 0.5], [0.5, 2.25]])
TARGET = skew_normal(PRIOR, [2.0, -1.5])
LINE_PRIOR = NormalPrior([1.0], covariance=[[0.64]])
LINE_TARGET = skew_normal(LINE_PRIOR, [2.0])
