"""From formulas and tables to rows of the moments."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.moments import Rows
from bayeskit.models.dsl.table import Table

__all__ = ["Design", "ParsedFormula", "parsed"]


@dataclass(frozen=True, eq=False)
class ParsedFormula:
    """The parts of a formula ``outcome ~ terms`` or ``outcome ~ terms | instruments``.

    Parameters
    ----------
    text : str
    outcome : formulaic formula
    terms : formulaic formula
    instruments : formulaic formula or None
    """

    text: str
    outcome: Any
    terms: Any
    instruments: Any

    @property
    def outcome_columns(self) -> set[str]:
        """Columns that the outcome is made of."""
        return {str(name) for name in self.outcome.required_variables}

    @property
    def covariate_columns(self) -> set[str]:
        """Columns that the terms and the instruments are made of."""
        parts = [self.terms] if self.instruments is None else [self.terms, self.instruments]
        return {str(name) for part in parts for name in part.required_variables}


def parsed(formula: str, instruments: str | None = None) -> ParsedFormula:
    """Return the parts of a formula.

    Raises
    ------
    InvalidDataError
        For text that is no formula with one outcome.
    """
    import formulaic

    if not isinstance(formula, str) or "~" not in formula:
        raise InvalidDataError(f"formula must be text such as 'y ~ x1 + x2', got {formula!r}")
    try:
        both = formulaic.Formula(formula)
        outcome, terms = both.lhs, both.rhs
        if isinstance(terms, tuple):
            if len(terms) != 2 or instruments is not None:
                raise InvalidDataError(
                    "instruments are given once: 'y ~ x + w | z + w', or instruments='z + w'"
                )
            terms, second = terms
        else:
            second = None if instruments is None else formulaic.Formula(instruments)
    except formulaic.errors.FormulaicError as error:
        raise InvalidDataError(f"formula {formula!r} cannot be read: {error}") from error
    if not hasattr(outcome, "required_variables") or len(outcome) != 1:
        raise InvalidDataError(f"formula {formula!r} must have one outcome left of '~'")
    return ParsedFormula(formula, outcome, terms, second)


@dataclass(frozen=True, eq=False)
class Design:
    """How a table becomes rows: matrices of the terms, the instruments and the outcome.

    Parameters
    ----------
    formula : ParsedFormula
    outcome_levels : tuple or None
        Classes of the outcome of a multinomial model.
    outcome_spec, term_spec, instrument_spec : formulaic model specs
    dropped : tuple of str
        Columns left out, such as an intercept beside fixed effects.
    """

    formula: ParsedFormula
    outcome_levels: tuple | None
    outcome_spec: Any
    term_spec: Any
    instrument_spec: Any
    dropped: tuple[str, ...]

    @classmethod
    def learn(
        cls,
        formula: ParsedFormula,
        table: Table,
        predictions: Mapping[str, np.ndarray],
        *,
        outcome_levels: tuple | None,
        drop_intercept: bool,
    ) -> Design:
        """Return the design of a table: levels of categories, centres of transformations.

        They are learned from labels where there are any, and from mean predictions elsewhere.
        """
        frame = table.frame.copy()
        for variable in table.variables:
            mean = predictions[variable.name].mean(axis=0)
            if variable.levels is None:
                frame[variable.name] = np.where(table.labeled, variable.values, mean)
            else:
                best = np.where(table.labeled, variable.values, mean.argmax(axis=-1))
                frame[variable.name] = _as_categories(variable.levels, best.astype(int))
        specs = []
        for part in (formula.terms, formula.instruments):
            matrix = None if part is None else _matrix(part, frame)
            specs.append(None if matrix is None else matrix.model_spec)
            _check_row_by_row(matrix, frame)
        outcome_spec = None
        if outcome_levels is None:
            matrix = _matrix(formula.outcome, frame)
            _check_row_by_row(matrix, frame)
            if matrix.shape[1] != 1:
                raise InvalidDataError(
                    f"the outcome of {formula.text!r} makes {matrix.shape[1]} columns: it must "
                    "be numbers. For classes take model='multinomial'"
                )
            outcome_spec = matrix.model_spec
        dropped = ("Intercept",) if drop_intercept else ()
        return cls(formula, outcome_levels, outcome_spec, specs[0], specs[1], dropped)

    @property
    def terms(self) -> list[str]:
        """Names of the columns."""
        return [c for c in self.term_spec.column_names if c not in self.dropped]

    @property
    def categories(self) -> dict[str, tuple]:
        """Columns that the terms take as categories, with the levels of each."""
        spec = self.term_spec
        return {
            str(name): tuple(contrasts.levels)
            for factor, contrasts in spec.factor_contrasts.items()
            for name in spec.factor_variables[factor]
        }

    def covariates(self, frame: Any, spec: Any = None) -> np.ndarray:
        """Return the columns (rows, columns) of the terms, or of another spec."""
        spec = self.term_spec if spec is None else spec
        matrix = _matrix(spec, frame)
        names = [str(c) for c in spec.column_names]
        kept = [i for i, name in enumerate(names) if name not in self.dropped]
        values = np.asarray(matrix, float)[:, kept]
        _check_finite(values, [names[i] for i in kept], self.formula.text)
        return values

    def rows_of(self, table: Table, predictions: Mapping[str, np.ndarray]) -> Rows:
        """Return all rows with predictions in place of labels (splits or 1, rows, ...)."""
        x = self._mixed(table, predictions, self.term_spec)
        z = x
        if self.instrument_spec is not None:
            z = self._mixed(table, predictions, self.instrument_spec)
        return Rows(x, z, self._outcome(table, predictions))

    def true_rows(self, table: Table) -> Rows:
        """Return the labelled rows (1, labelled, ...) with their labels."""
        own = {}
        for variable in table.variables:
            values = variable.values
            if variable.levels is not None:
                values = np.eye(len(variable.levels))[values.astype(int)]
            own[variable.name] = values[None]
        labeled = table.labeled
        part = replace(table, frame=table.frame.loc[labeled], labeled=labeled[labeled])
        return self.rows_of(part, {name: values[:, labeled] for name, values in own.items()})

    def _outcome(self, table: Table, predictions: Mapping[str, np.ndarray]) -> np.ndarray:
        if self.outcome_levels is not None:
            (name,) = self.formula.outcome_columns
            if name in predictions:
                return predictions[name][..., 1:]
            column = table.frame[name]
            levels = self.outcome_levels
            return np.stack([(column == v).to_numpy(float) for v in levels[1:]], axis=1)[None]
        (text,) = (str(term) for term in self.formula.outcome)
        if text in predictions:
            return predictions[text][..., None]
        return self._mixed(table, predictions, self.outcome_spec)

    def _mixed(
        self, table: Table, predictions: Mapping[str, np.ndarray], spec: Any
    ) -> np.ndarray:
        """Return columns (splits or 1, rows, columns) at the predictions.

        Numbers are put in the place of labels, and the formula is evaluated there. Of classes
        it is evaluated at each, and the columns are averaged with their probabilities.
        """
        needed = {str(name) for name in spec.required_variables}
        used = [v for v in table.variables if v.name in needed]
        splits = max([len(predictions[v.name]) for v in used], default=1)
        frame = table.frame[[c for c in table.frame.columns if c in needed]]
        n = len(frame)
        if splits > 1:
            frame = frame.iloc[np.tile(np.arange(n), splits)]
        frame = frame.reset_index(drop=True)
        numbers, classes = [v for v in used if v.levels is None], [v for v in used if v.levels]
        for variable in numbers:
            values = np.broadcast_to(predictions[variable.name], (splits, n))
            frame[variable.name] = values.ravel()
        total: Any = 0.0
        for codes in itertools.product(*(range(len(v.levels or ())) for v in classes)):
            share: Any = 1.0
            for variable, code in zip(classes, codes, strict=True):
                p = predictions[variable.name][..., code]
                share = share * np.broadcast_to(p, (splits, n))
                constant = np.full(len(frame), code)
                frame[variable.name] = _as_categories(variable.levels, constant)
            columns = self.covariates(frame, spec).reshape(splits, n, -1)
            total = total + (columns if not classes else share[..., None] * columns)
        return total


def _as_categories(levels: Any, codes: np.ndarray) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, categories=list(levels))


def _matrix(part: Any, frame: Any) -> Any:
    """Return the model matrix of a formula or of a spec, rows with NaN included."""
    import formulaic

    options = {} if isinstance(part, formulaic.ModelSpec) else {"output": "pandas"}
    try:
        # What is undefined comes out as NaN and is reported by its row. Unknown categories
        # would come out as the category of reference.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error", formulaic.errors.DataMismatchWarning)
            return part.get_model_matrix(frame, context={}, na_action="ignore", **options)
    except formulaic.errors.DataMismatchWarning as error:
        raise InvalidDataError(
            f"a column holds categories that the fit has not seen: {str(error).split('. ')[0]}"
        ) from error
    except formulaic.errors.FormulaicError as error:
        raise InvalidDataError(f"the formula cannot be evaluated: {error}") from error


def _check_row_by_row(matrix: Any, frame: Any) -> None:
    """Refuse columns that mix rows: of labelled rows and of all they would not be the same."""
    if matrix is None:
        return
    part = slice(None, None, 2)
    whole = np.asarray(matrix, float)
    alone = np.asarray(_matrix(matrix.model_spec, frame.iloc[part]), float)
    size = np.nanmax(np.abs(whole), axis=0, initial=0.0)
    same = np.isclose(whole[part], alone, rtol=0.0, atol=1e-9 * size, equal_nan=True)
    if not same.all():
        place = int(np.argmin(same.all(axis=0)))
        raise InvalidDataError(
            f"{str(matrix.model_spec.column_names[place])!r} is computed from several rows at "
            "once, and would not be the same for labelled rows and for all: make it a column "
            "of the data, or use center(), scale() and the like, which remember the data"
        )


def _check_finite(values: np.ndarray, names: list[str], formula: str) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InvalidDataError(
            f"{names[column]!r} in {formula!r} is not finite in {int(bad.any(axis=1).sum())} "
            f"rows, the first is row {row}: a transformation is not defined there, for labels "
            "or for predictions of them"
        )
