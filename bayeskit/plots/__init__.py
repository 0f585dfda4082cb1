"""Plots of results: each takes ``ax``, returns the Axes that it drew on, and never shows it."""

from bayeskit.plots.forest import forest
from bayeskit.plots.functions import function_bands
from bayeskit.plots.knowledge_tracing import (
    calibration,
    learner_states,
    prerequisite_graph,
)
from bayeskit.plots.smc import smc_history
from bayeskit.plots.state_space import states_over_time
from bayeskit.plots.trace import trace_rank
from bayeskit.plots.validation import validation_report

__all__ = [
    "calibration",
    "forest",
    "function_bands",
    "learner_states",
    "prerequisite_graph",
    "smc_history",
    "states_over_time",
    "trace_rank",
    "validation_report",
]
