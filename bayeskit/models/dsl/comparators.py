"""What else could be done with the same data, for comparison."""

from __future__ import annotations

import warnings
from typing import Any

from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.dsl.crossfit import surrogate_values
from bayeskit.models.dsl.doubly_robust import MomentData
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
        _add(found, "gold", data, names, power=0.0)
        if estimator.folds_ is not None:
            _add(found, "semi_supervised", data.without_labels(data.predicted), names)
    try:
        surrogates = surrogate_values(estimator._table_)
    except InvalidDataError:
        return found
    rows = estimator._design.rows_of(estimator._table_, surrogates)
    _add(found, "surrogate", data.without_labels(rows), names)
    return found


def _add(found: dict, method: str, data: MomentData, names: Any, power: float = 1.0) -> None:
    """Add a comparison, or say why it cannot be made: the others stand nevertheless."""
    try:
        found[method] = estimate(data, power=power, names=names)
    except InvalidDataError as error:
        warnings.warn(f"{method!r} is left out: {error}", BayeskitWarning, stacklevel=4)
