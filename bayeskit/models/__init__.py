"""Estimators with scikit-learn's manners."""

from bayeskit.models.bayesian import BayesianModel

__all__ = ["BayesianModel"]
