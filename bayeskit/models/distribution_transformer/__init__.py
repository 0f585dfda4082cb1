"""Amortised posteriors that take the prior as an input."""

from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture

__all__ = ["GaussianMixture"]
