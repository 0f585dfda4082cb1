"""Design-based supervised learning (DSL): regressions on labels that a model predicted."""

from bayeskit.models.dsl.allocation import allocate_labels
from bayeskit.models.dsl.arrays import dsl_fit
from bayeskit.models.dsl.estimator import DSLRegressor
from bayeskit.models.dsl.hierarchical import hierarchical_posterior
from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.sampling import stratified_probabilities, unit_probabilities

__all__ = [
    "DSLRegressor",
    "DSLResult",
    "allocate_labels",
    "dsl_fit",
    "hierarchical_posterior",
    "stratified_probabilities",
    "unit_probabilities",
]
