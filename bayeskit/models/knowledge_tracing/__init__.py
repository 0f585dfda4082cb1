"""Knowledge tracing: what each learner knows, forgets, and is ready for."""

from bayeskit.models.knowledge_tracing.estimator import KnowledgeTracer

__all__ = ["KnowledgeTracer"]
