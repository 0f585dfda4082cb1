"""Amortised posteriors corrected to exactness, with a verdict on how good they were."""

from bayeskit.models.distribution_transformer.refine.ladder import METHODS, refine
from bayeskit.models.distribution_transformer.refine.posterior import (
    RefinedBatch,
    RefinedPosterior,
)
from bayeskit.models.distribution_transformer.refine.problem import Refinement

__all__ = ["METHODS", "RefinedBatch", "RefinedPosterior", "Refinement", "refine"]
