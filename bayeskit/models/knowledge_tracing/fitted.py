"""What all parts of a fitted tracer hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.exceptions import NotFittedError

from bayeskit.models.knowledge_tracing.block_filter import Forecasts
from bayeskit.models.knowledge_tracing.columns import shown_time
from bayeskit.models.knowledge_tracing.edges import EdgePosterior
from bayeskit.models.knowledge_tracing.memory import Memory
from bayeskit.models.knowledge_tracing.moment_matching import expected_sigmoid
from bayeskit.models.knowledge_tracing.rows import Labels
from bayeskit.models.knowledge_tracing.structure import Structure

__all__ = ["FORECAST_COLUMNS", "Z95", "Fitted", "filled", "forecast_columns"]

# Half the width of a central 95 % interval, in standard deviations.
Z95 = 1.959964
FORECAST_COLUMNS = ["probability", "mean", "sd", "lower", "upper"]


class Fitted:
    """What was learned, and what is remembered of each learner."""

    time_unit: str
    precision: str
    strict: bool
    parameters_: dict[str, Any]
    _structure: Structure
    _labels: Labels
    _memory: Memory
    _parameters: dict[str, Any]
    _graph_weights: np.ndarray
    _edges: EdgePosterior | None
    # Of engines that infer learners exactly, by code.
    _mixtures: dict[int, Any]
    _evidences: dict[int, Any]

    def _check_fitted(self) -> None:
        if not hasattr(self, "_memory"):
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted: call fit(interactions) first"
            )

    def _shown_time(self, time: float) -> str:
        """Return a time as a message shows it, a date if there were dates."""
        return shown_time(time, self.time_unit, self._labels.dates)


def filled(values: np.ndarray, size: int, blank: Any) -> np.ndarray:
    """Return values with a leading axis filled up to a size."""
    full = np.empty((size, *values.shape[1:]))
    full[: len(values)], full[len(values) :] = values, blank
    return full


def forecast_columns(forecasts: Forecasts) -> np.ndarray:
    """Return probability, mean, sd and interval of each forecast, (rows, 5)."""
    mean = np.asarray(forecasts.mean, np.float64)
    variance = np.asarray(forecasts.variance, np.float64)
    sd = np.sqrt(variance)
    return np.stack(
        [
            expected_sigmoid(mean, variance),
            mean,
            sd,
            expit(mean - Z95 * sd),
            expit(mean + Z95 * sd),
        ],
        axis=-1,
    )
