"""Estimators with scikit-learn's manners."""

from bayeskit.models.bayesian import BayesianModel
from bayeskit.models.distribution_transformer import DistributionTransformer, GaussianMixture
from bayeskit.models.dsl import DSLRegressor
from bayeskit.models.functional_tucker import FunctionalCP, FunctionalTucker
from bayeskit.models.knowledge_tracing import KnowledgeTracer
from bayeskit.models.many_fits import ManyFits, fit_many
from bayeskit.models.markov_gp import MarkovGPRegressor
from bayeskit.models.state_space import Forecast, StateSpaceEstimator

__all__ = [
    "BayesianModel",
    "DSLRegressor",
    "DistributionTransformer",
    "Forecast",
    "FunctionalCP",
    "FunctionalTucker",
    "GaussianMixture",
    "KnowledgeTracer",
    "ManyFits",
    "MarkovGPRegressor",
    "StateSpaceEstimator",
    "fit_many",
]
