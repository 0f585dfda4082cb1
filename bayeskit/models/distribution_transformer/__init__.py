"""Amortised posteriors that take the prior as an input."""

from bayeskit.models.distribution_transformer.estimator import DistributionTransformer
from bayeskit.models.distribution_transformer.filtering import FilterResult
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.linear_gaussian import LinearGaussian
from bayeskit.models.distribution_transformer.meta_priors import GaussianMixtureMetaPrior
from bayeskit.models.distribution_transformer.numpyro_simulator import NumPyroSimulator
from bayeskit.models.distribution_transformer.parametric_priors import ParametricMetaPrior
from bayeskit.models.distribution_transformer.simulators import (
    JointSimulator,
    Simulator,
    Source,
)

__all__ = [
    "DistributionTransformer",
    "FilterResult",
    "GaussianMixture",
    "GaussianMixtureMetaPrior",
    "JointSimulator",
    "LinearGaussian",
    "NumPyroSimulator",
    "ParametricMetaPrior",
    "Simulator",
    "Source",
]
