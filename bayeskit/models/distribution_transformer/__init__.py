"""Amortised posteriors that take the prior as an input."""

from bayeskit.models.distribution_transformer.calibration import CalibrationReport
from bayeskit.models.distribution_transformer.estimator import DistributionTransformer
from bayeskit.models.distribution_transformer.filtering import FilterResult
from bayeskit.models.distribution_transformer.fit_mixture import FittedPrior, fit_mixture
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.guided_filter import RefinedFilterResult
from bayeskit.models.distribution_transformer.linear_gaussian import LinearGaussian
from bayeskit.models.distribution_transformer.meta_priors import GaussianMixtureMetaPrior
from bayeskit.models.distribution_transformer.numpyro_simulator import NumPyroSimulator
from bayeskit.models.distribution_transformer.parametric_priors import ParametricMetaPrior
from bayeskit.models.distribution_transformer.refine import RefinedBatch, RefinedPosterior
from bayeskit.models.distribution_transformer.simulators import (
    JointSimulator,
    Simulator,
    Source,
)
from bayeskit.models.distribution_transformer.surprise import PredictiveCheck

__all__ = [
    "CalibrationReport",
    "DistributionTransformer",
    "FilterResult",
    "FittedPrior",
    "GaussianMixture",
    "GaussianMixtureMetaPrior",
    "JointSimulator",
    "LinearGaussian",
    "NumPyroSimulator",
    "ParametricMetaPrior",
    "PredictiveCheck",
    "RefinedBatch",
    "RefinedFilterResult",
    "RefinedPosterior",
    "Simulator",
    "Source",
    "fit_mixture",
]
