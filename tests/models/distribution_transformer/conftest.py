"""Small trained estimators that the tests of this folder share."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bayeskit as bk
from bayeskit.models.distribution_transformer import (
    GaussianMixtureMetaPrior,
    LinearGaussian,
    ParametricMetaPrior,
    Simulator,
)

SMALL = {
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "d_hidden": 16,
    "batch_size": 64,
    "budget_seconds": None,
    "max_steps": 60,
    "lr": 3e-3,
    "progress": False,
    "random_state": 0,
}
META_PRIOR = GaussianMixtureMetaPrior(dim=1, num_components=(1, 3))
LINEAR = LinearGaussian(1.0, 1.0, num_observations=(1, 4))


def normal_scale(key, x):
    return jnp.sqrt(x[0]) * jax.random.normal(key)


def normal_scale_density(z, x):
    return -0.5 * z[0] ** 2 / x[0] - 0.5 * jnp.log(2 * jnp.pi * x[0])


VARIANCE = Simulator(normal_scale, normal_scale_density)
INVERSE_GAMMA = ParametricMetaPrior(
    "inverse_gamma",
    concentration=dist.InverseGamma(4.0, 6.0),
    rate=dist.InverseGamma(4.0, 6.0),
)


@pytest.fixture(scope="session")
def learned():
    """Linear data without the warm start: everything that it knows, the network has learned."""
    return bk.DistributionTransformer(LINEAR, META_PRIOR, warm_start=False, **SMALL).fit()


@pytest.fixture(scope="session")
def exact():
    """Linear data with the warm start."""
    return bk.DistributionTransformer(LINEAR, META_PRIOR, random_state=0).fit()


@pytest.fixture(scope="session")
def variance():
    """A variance with inverse-gamma priors."""
    return bk.DistributionTransformer(VARIANCE, INVERSE_GAMMA, **SMALL).fit()


@pytest.fixture
def prior():
    return bk.GaussianMixture([0.2, 0.5, 0.3], [-1.0, 0.5, 2.0], [0.5, 1.0, 0.25])
