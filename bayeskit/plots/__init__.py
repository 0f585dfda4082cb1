"""Plots of results: each returns the Axes that it drew on, or yours, and never shows them."""

from bayeskit.plots.amortised import expected_coverage, rank_distributions
from bayeskit.plots.evidence import evidence_comparison
from bayeskit.plots.forest import forest
from bayeskit.plots.functions import function_bands
from bayeskit.plots.genealogy import genealogy
from bayeskit.plots.knowledge_tracing import calibration, learner_states
from bayeskit.plots.labels import compare_coefficients, label_errors, power_curve
from bayeskit.plots.ladder import temperature_ladder
from bayeskit.plots.pair import pair
from bayeskit.plots.posterior import posterior
from bayeskit.plots.predictive import posterior_predictive
from bayeskit.plots.prerequisites import prerequisite_graph
from bayeskit.plots.smc import smc_history
from bayeskit.plots.state_space import states_over_time
from bayeskit.plots.tensors import (
    bound_over_rounds,
    core_entries,
    factor_functions,
    observed_predicted,
)
from bayeskit.plots.trace import trace, trace_rank
from bayeskit.plots.validation import validation_report

__all__ = [
    "bound_over_rounds",
    "calibration",
    "compare_coefficients",
    "core_entries",
    "evidence_comparison",
    "expected_coverage",
    "factor_functions",
    "forest",
    "function_bands",
    "genealogy",
    "label_errors",
    "learner_states",
    "observed_predicted",
    "pair",
    "posterior",
    "posterior_predictive",
    "power_curve",
    "prerequisite_graph",
    "rank_distributions",
    "smc_history",
    "states_over_time",
    "temperature_ladder",
    "trace",
    "trace_rank",
    "validation_report",
]
