"""What else could be done with the same data, for comparison."""

from __future__ import annotations

from typing import Any

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.crossfit import surrogate_values
from bayeskit.models.dsl.estimation import SplitEstimates, estimate

__all__ = ["comparators"]


def comparators(estimator: Any) -> dict[str, SplitEstimates]:
    """Return estimates by method: those fitted, labels alone, predictions, surrogates alone.

    Surrogates are left out where a variable has none on its own scale.
    """
    result = estimator.result_
    data, names = result.data, estimator._design.terms
    found = {estimator.method: result.splits}
    if len(data.labeled):
        found["gold"] = estimate(data, power=0.0, names=names)
        alone = data.without_labels(data.predicted)
        if estimator.folds_ is not None:
            found["semi_supervised"] = estimate(alone, names=names)
    try:
        surrogates = surrogate_values(estimator._table_)
    except InvalidDataError:
        return found
    rows = estimator._design.rows_of(estimator._table_, surrogates)
    found["surrogate"] = estimate(data.without_labels(rows), names=names)
    return found
