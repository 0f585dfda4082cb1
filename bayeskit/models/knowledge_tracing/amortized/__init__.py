"""The published arm of knowledge tracing: networks that say what is believed of a learner."""

from bayeskit.models.knowledge_tracing.amortized.architecture import AmortizedVariational

__all__ = ["AmortizedVariational"]
