"""From the arguments of ``fit`` to the moments: columns, predictions, rows."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.dsl.arrays import check_outcomes, link_named
from bayeskit.models.dsl.clusters import codes_of
from bayeskit.models.dsl.design import Design, ParsedFormula
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.fixed_effects import singletons
from bayeskit.models.dsl.table import PredictedVariable, Table, checked_table, column_of

__all__ = ["Columns", "checked_columns", "moment_data"]


class Columns(NamedTuple):
    """What goes with the rows of a table.

    Parameters
    ----------
    sample_prob, strata : (rows) array or None
    cluster, fixed_effects : tuple of (rows) int arrays
    """

    sample_prob: np.ndarray | None
    strata: np.ndarray | None
    cluster: tuple[np.ndarray, ...]
    fixed_effects: tuple[np.ndarray, ...]


def checked_columns(
    estimator: Any, frame: Any, formula: ParsedFormula, predicted: dict, has_predictions: bool
) -> tuple[Table, Columns]:
    """Return the checked table, and the columns that go with its rows."""
    used = formula.outcome_columns | formula.covariate_columns
    for name in predicted:
        if name in frame.columns and name not in used:
            raise InvalidDataError(
                f"predicted variable {name!r} is not in the formula {formula.text!r}"
            )
    columns = {
        name: column_of(frame, getattr(estimator, name), name)
        for name in ("sample_prob", "strata", "labeled")
    }
    ways = {
        name: [column_of(frame, part, name) for part in _ways(getattr(estimator, name), frame)]
        for name in ("cluster", "fixed_effects")
    }
    if ways["fixed_effects"] and not link_named(estimator.model).is_linear:
        raise InvalidDataError(
            f"fixed_effects are for linear models, got model={estimator.model!r}: for others "
            "put C(group) in the formula"
        )
    others = {
        name if len(several) == 1 else f"{name}[{i}]": array
        for name, several in ways.items()
        for i, array in enumerate(several)
    }
    others |= {name: columns[name] for name in ("sample_prob", "strata", "labeled")}
    table = checked_table(
        frame,
        predicted=predicted,
        features=estimator._feature_names(),
        observed=sorted(used - set(predicted)),
        labeled=columns.pop("labeled"),
        must_learn=not has_predictions and estimator.method in ("dsl", "semi_supervised"),
        missing=estimator.missing,
        classes=_classes(estimator, formula, predicted),
        others=others,
    )
    kept = table.kept
    codes = {
        name: tuple(codes_of(np.asarray(array)[kept])[0] for array in several)
        for name, several in ways.items()
    }
    probability, strata = (
        None if a is None else a[kept] for a in (columns["sample_prob"], columns["strata"])
    )
    found = Columns(probability, strata, codes["cluster"], codes["fixed_effects"])
    return _without_singletons(table, found) if found.fixed_effects else (table, found)


def _classes(estimator: Any, formula: ParsedFormula, predicted: dict) -> list[str]:
    """Return predicted variables that are classes even where they are numbers."""
    named = [
        name for name in predicted if re.search(rf"\bC\(\s*`?{re.escape(name)}\b", formula.text)
    ]
    return [*named, *(formula.outcome_columns if estimator.model == "multinomial" else ())]


def _ways(value: Any, frame: Any) -> list[Any]:
    """Return one or two columns as a list."""
    if value is None:
        return []
    if isinstance(value, str) or (np.ndim(value) == 1 and len(value) == len(frame)):
        return [value]
    several = list(value)
    if len(several) > 2:
        raise InvalidDataError(f"at most two columns can be given, got {len(several)}")
    return several


def _without_singletons(table: Table, columns: Columns) -> tuple[Table, Columns]:
    """Leave out rows that are the only one of a fixed effect: it explains them wholly."""
    alone = singletons(columns.fixed_effects)
    if not alone.any():
        return table, columns
    warnings.warn(
        f"{int(alone.sum())} rows are the only one of a fixed effect and were dropped: they "
        "say nothing of the coefficients",
        BayeskitWarning,
        stacklevel=4,
    )
    kept = ~alone
    everywhere = table.kept.copy()
    everywhere[np.flatnonzero(table.kept)[alone]] = False
    variables = tuple(
        PredictedVariable(v.name, v.surrogates, v.values[kept], v.levels)
        for v in table.variables
    )
    probability, strata = (None if a is None else a[kept] for a in columns[:2])
    cluster, effects = (tuple(codes_of(c[kept])[0] for c in several) for several in columns[2:])
    smaller = replace(
        table,
        frame=table.frame.loc[kept],
        kept=everywhere,
        labeled=table.labeled[kept],
        variables=variables,
    )
    return smaller, Columns(probability, strata, cluster, effects)


def moment_data(
    estimator: Any,
    table: Table,
    columns: Columns,
    formula: ParsedFormula,
    predictions: dict,
    probability: Any,
    link: Any,
) -> tuple[Design, MomentData]:
    """Return the design and what the moments are made of, by the method."""
    for variable in table.variables:
        is_outcome = variable.name in formula.outcome_columns
        if is_outcome and variable.levels is not None and estimator.model != "multinomial":
            raise InvalidDataError(
                f"the labels of {variable.name!r} are classes such as {variable.levels[0]!r}: "
                f"recode them as numbers for model={estimator.model!r}, or take "
                "model='multinomial'"
            )
    design = Design.learn(
        formula,
        table,
        predictions,
        outcome_levels=_outcome_levels(estimator, table, formula),
        drop_intercept=bool(columns.fixed_effects),
    )
    if estimator.model == "mean" and design.terms != ["Intercept"]:
        raise InvalidDataError(
            f"model='mean' has no covariates, but the formula has {design.terms}: write "
            "'y ~ 1', or take model='linear'"
        )
    true = design.true_rows(table)
    check_outcomes(estimator.model, true.y, str(formula.outcome))
    num = true.x.shape[-1]
    if not num:
        raise InvalidDataError(f"the formula {formula.text!r} has no terms")
    if true.z.shape[-1] < num:
        raise InvalidDataError(
            f"{true.z.shape[-1]} instruments are too few for {num} columns: give as many "
            "at least, exogenous covariates included"
        )
    if int(table.labeled.sum()) < num + 1:
        raise InvalidDataError(
            f"{int(table.labeled.sum())} labelled rows are too few for {num} coefficients: "
            f"at least {num + 1} are needed, and many more for intervals to hold (n_samples = "
            f"{len(table.labeled)})"
        )
    strata = None
    if estimator.normalize == "strata":
        strata = codes_of(columns.sample_prob if columns.strata is None else columns.strata)[0]
    data = MomentData(
        link,
        design.rows_of(table, predictions),
        true,
        np.flatnonzero(table.labeled),
        probability,
        clusters=columns.cluster,
        strata=strata,
        effects=columns.fixed_effects,
        has_instruments=estimator.model == "iv",
    )
    if estimator.method in ("surrogate", "semi_supervised"):
        data = data.without_labels(data.predicted)
    return design, data


def _outcome_levels(estimator: Any, table: Table, formula: ParsedFormula) -> tuple | None:
    if estimator.model != "multinomial":
        return None
    names = formula.outcome_columns
    (name,) = names if len(names) == 1 else (None,)
    if name is None or [str(t) for t in formula.outcome] != [name]:
        raise InvalidDataError(
            "the outcome of model='multinomial' must be a column of classes, got "
            f"{formula.outcome}"
        )
    for variable in table.variables:
        if variable.name == name:
            return variable.levels
    column = table.frame[name]
    levels = column.cat.categories if hasattr(column, "cat") else sorted(column.unique())
    return tuple(levels)
