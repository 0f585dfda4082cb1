r"""Average marginal effects, corrected by labels as the coefficients are.

With :math:`g(D; \theta)` the change of the mean outcome of a row with a variable, the average
:math:`a` solves :math:`\sum_i \tilde g_i - a = 0`, doubly robust like the moments of the model,
and
.. math:: \psi_i = \tilde g_i - a + \frac{\partial a}{\partial \theta} J^{-1} \tilde m_i

is the influence of a unit: the errors of labels, of covariates and of :math:`\theta` are all in
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.clusters import cluster_products
from bayeskit.models.dsl.design import Design
from bayeskit.models.dsl.estimation import pieces_of_split
from bayeskit.models.dsl.moments import predictors
from bayeskit.models.dsl.repeats import combine_repeats
from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.table import Table

__all__ = ["average_effects"]

# Step of central differences in standard deviations: their error is about its square.
_STEP = 1e-4


def average_effects(
    variables: Sequence[str],
    design: Design,
    table: Table,
    predictions: Mapping[str, np.ndarray],
    result: DSLResult,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return average effects, their covariance, and their labels.

    Parameters
    ----------
    variables : sequence of str
        Columns of numbers. Of those with values 0 and 1 alone the effect of 1 against 0 is
        taken, of others the derivative.
    design, table, predictions, result
        Of the fit.
    """
    data, found = result.data, result.splits
    moved = {name: _moved(name, design, table, predictions) for name in variables}
    num_outcomes = data.predicted.y.shape[-1]
    levels = design.outcome_levels
    labels = [
        name if levels is None else f"{level}: {name}"
        for name in variables
        for level in (levels or (None,))
    ]
    estimates, covariances = [], []
    for place, number in enumerate(found.numbers):
        pieces = pieces_of_split(data, found, place)
        power = float(np.mean(found.power[place]))
        averages, influences = [], []
        for name in variables:
            predicted, true, width = moved[name]
            parts = []
            for high, low in (predicted, true):
                pick = int(number) if len(high) > 1 else 0
                ends = (high[pick], low[pick])
                parts.append(_change(data.link, pieces.theta, ends, width, num_outcomes))
            average, influence = _corrected(data, parts, power, pieces.influence)
            averages.append(average)
            influences.append(influence)
        estimates.append(np.concatenate(averages))
        influence = np.concatenate(influences, axis=1)
        covariances.append(
            cluster_products(influence, influence, data.clusters) / data.num_units**2
        )
    theta, covariance = np.stack(estimates), np.stack(covariances)
    if levels is not None:
        whole = _with_reference(len(variables), num_outcomes)
        theta, covariance = theta @ whole.T, whole @ covariance @ whole.T
    return (*combine_repeats(theta, covariance), labels)


def _moved(
    name: str, design: Design, table: Table, predictions: Mapping[str, np.ndarray]
) -> tuple[tuple, tuple, float]:
    """Return the columns of x with a variable moved up and down, and by how much in all."""
    if name not in design.formula.covariate_columns:
        raise InvalidDataError(
            f"{name!r} is no covariate: there are {sorted(design.formula.covariate_columns)}"
        )
    variable = next((v for v in table.variables if v.name == name), None)
    if variable is not None and variable.levels is not None:
        raise InvalidDataError(
            f"{name!r} has classes: contrasts of its coefficients say what they change"
        )
    known = table.frame[name][table.labeled] if variable is not None else table.frame[name]
    try:
        values = known.to_numpy(float)
    except (TypeError, ValueError) as error:
        raise InvalidDataError(f"{name!r} does not hold numbers: {error}") from error
    is_binary = bool(np.isin(values, (0.0, 1.0)).all())
    step = _STEP * float(values.std() or 1.0)

    def at(labels: bool, sign: float) -> np.ndarray:
        def move(old):
            return np.full(np.shape(old), 0.5 + 0.5 * sign) if is_binary else old + sign * step

        if variable is None:
            frame = table.frame.copy()
            frame[name] = move(frame[name].to_numpy(float))
            changed = replace(table, frame=frame)
            guesses = predictions
        else:
            variables = tuple(
                replace(v, values=move(v.values)) if v is variable else v
                for v in table.variables
            )
            changed = replace(table, variables=variables)
            guesses = {**predictions, name: move(predictions[name])}
        return (design.true_rows(changed) if labels else design.rows_of(changed, guesses)).x

    width = 1.0 if is_binary else 2.0 * step
    return (at(False, 1), at(False, -1)), (at(True, 1), at(True, -1)), width


def _change(link, theta, ends, width, num_outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Return the change of the mean (rows, outcomes) and its derivative by the parameters."""
    values, slopes = [], []
    for x in ends:
        eta = predictors(theta[None], x[None], num_outcomes)
        values.append(link.mean(eta)[0])
        slope = link.slope(eta)[0]
        by_parameter = slope[:, :, :, None] * x[:, None, None, :]
        slopes.append(by_parameter.reshape(len(x), num_outcomes, -1))
    return (values[0] - values[1]) / width, (slopes[0] - slopes[1]) / width


def _corrected(data, parts, power, influence) -> tuple[np.ndarray, np.ndarray]:
    """Return the doubly robust average (outcomes) and the influence on it."""
    (guess, guess_slope), (true, true_slope) = parts
    at, n = data.labeled, data.num_units
    robust, slope = power * guess, power * guess_slope.sum(axis=0)
    if len(at):
        inverse = 1.0 / data.probability[at]
        robust[at] += inverse[:, None] * (true - power * guess[at])
        slope += np.tensordot(inverse, true_slope - power * guess_slope[at], 1)
    average = robust.mean(axis=0)
    return average, robust - average + influence @ (slope / n).T


def _with_reference(num_variables: int, num_outcomes: int) -> np.ndarray:
    """Return the matrix that adds the class of reference: all changes sum to zero."""
    one = np.concatenate([-np.ones((1, num_outcomes)), np.eye(num_outcomes)])
    return np.kron(np.eye(num_variables), one)
