"""Gaussian-process regression in linear time by a state-space model."""

from bayeskit.models.markov_gp.estimator import MarkovGPRegressor

__all__ = ["MarkovGPRegressor"]
