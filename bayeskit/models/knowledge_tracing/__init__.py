"""Knowledge tracing: what each learner knows, forgets, and is ready for."""

from bayeskit.models.knowledge_tracing.amortized import AmortizedVariational
from bayeskit.models.knowledge_tracing.estimator import KnowledgeTracer
from bayeskit.models.knowledge_tracing.learner_engines import LearnerGibbs, LearnerSMC2

__all__ = ["AmortizedVariational", "KnowledgeTracer", "LearnerGibbs", "LearnerSMC2"]
