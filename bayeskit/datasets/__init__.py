"""Loaders: files of others as tables that the estimators take. Nothing is downloaded."""

from bayeskit.datasets.knowledge_tracing import (
    presentation_pauses,
    presentation_times,
    read_assistments,
    read_datashop,
    read_interactions,
    read_junyi,
    read_junyi_graph,
    read_pykt,
)

__all__ = [
    "presentation_pauses",
    "presentation_times",
    "read_assistments",
    "read_datashop",
    "read_interactions",
    "read_junyi",
    "read_junyi_graph",
    "read_pykt",
]
