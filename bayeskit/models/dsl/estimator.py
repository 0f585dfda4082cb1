"""Design-based supervised learning as an estimator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError

from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.dsl.arrays import as_tuning, check_outcomes, link_named
from bayeskit.models.dsl.clusters import codes_of
from bayeskit.models.dsl.crossfit import (
    check_folds,
    cross_fit,
    given_predictions,
    prediction_errors,
    surrogate_values,
)
from bayeskit.models.dsl.design import Design, ParsedFormula, parsed
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.estimation import estimate
from bayeskit.models.dsl.folds import fold_numbers
from bayeskit.models.dsl.inference import DSLInference
from bayeskit.models.dsl.moments import predictors
from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.rows_of_arrays import formula_of_arrays, frame_of_arrays, new_frame
from bayeskit.models.dsl.sampling import labeling_probabilities
from bayeskit.models.dsl.table import (
    PredictedVariable,
    Table,
    as_predicted,
    checked_table,
    column_of,
)

__all__ = ["DSLRegressor"]

METHODS = ("dsl", "gold", "semi_supervised", "surrogate")


class DSLRegressor(DSLInference, RegressorMixin, BaseEstimator):
    r"""Regression on labels that a model predicted, repaired by a few true ones (DSL).

    Some variables of a regression are known for a random sample of rows only; elsewhere there
    are surrogates, such as labels of a language model, with errors of any kind. With
    predictions :math:`\hat D_i` of a learner that has not seen row i, probabilities
    :math:`\pi_i` of being labelled and :math:`R_i = 1` in labelled rows, the coefficients solve

    .. math:: \sum_i \Big[ m(\hat D_i; \theta) + \frac{R_i}{\pi_i}
        \{ m(D_i; \theta) - m(\hat D_i; \theta) \} \Big] = 0 .

    They are consistent, and intervals valid, however bad surrogates and learner are; good
    ones make the intervals short. All that is assumed is that :math:`\pi_i > 0` are known.

    Parameters
    ----------
    model : {"linear", "logit", "poisson", "multinomial", "mean", "iv"}
    formula : str, optional
        Such as ``"y ~ x1 + C(state)"``; ``"y ~ x + w | z + w"`` with instruments. Without it
        ``fit`` takes X and y.
    predicted : dict, sequence of str, or str
        Variables that are known for labelled rows only, outcome or covariates, with the columns
        that predict each: ``{"y": "y_model"}``. NaN where there is no label. Text and
        categories are classes, whose probabilities are predicted.
    features : sequence of str, optional
        More columns that predict.
    learner : "forest", "linear", "identity", or scikit-learn estimator
        Fitted to all surrogates and features, labels of the other folds only. ``"identity"``
        takes surrogates as they are. An estimator is given a DataFrame.
    cv : int, splitter, or (repeats, rows) array
        Folds, or the fold of each row.
    n_repeats : int
        Repeats of the random split in folds, whose estimates are combined by their medians.
    cluster : column name, (rows) array, or list of two
        Rows that belong together, in folds and variances.
    sample_prob : column name or (rows) array, optional
        Probabilities of being labelled. Default: equal.
    normalize : {"mean", "none", "strata"}
        Scale ``sample_prob`` to the mean n_R/n; take it as it is; or take n_Rh/n_h within
        ``strata``, for labels drawn in blocks of fixed size.
    strata : column name or (rows) array, optional
        Default: the distinct values of ``sample_prob``.
    labeled : column name or (rows) array of bool, optional
        Default: rows in which no predicted variable is NaN.
    fixed_effects : column name, or list of two
        Of linear models: groups with an intercept each.
    instruments : str, optional
        Formula of all instruments, exogenous covariates included.
    power_tuning : False, "trace", "per_coef", number, or callable
        Weight lambda of predictions, 1 if False. ``"trace"`` and ``"per_coef"`` choose it for
        the least variance; a callable is given the matrices of its linear and quadratic part.
    method : {"dsl", "gold", "semi_supervised", "surrogate"}
        For comparison: labelled rows alone, predictions alone, surrogates alone. The last two
        have no valid intervals.
    missing : {"drop", "raise"}
        What to do with rows in which an observed variable is missing.
    random_state : int, numpy random state, JAX key, or None
        Of folds and learners.

    Attributes
    ----------
    coef_, se_, pvalues_ : (parameters) array
        Two-sided p-values.
    vcov_ : (parameters, parameters) array
    terms_ : list of str
    split_coef_, split_se_ : (repeats, parameters) array
    predictions_ : dict of (repeats, rows) array
    prediction_errors_ : dict of dict
        Cross-fitted RMSE, and accuracy of classes, by variable.
    lambda_ : (repeats, 1 or parameters) array
    pi_ : (rows) array
    folds_ : (repeats, rows) array or None
    n_units_, n_labeled_, n_dropped_ : int
    result_ : DSLResult
    timing_ : dict of float
        Seconds that learners and the solver took.

    Notes
    -----
    Cost: ``cv * n_repeats`` fits of the learner a variable, then O(repeats rows parameters^2)
    a Newton step for all repeats at once. Nothing is compiled.

    References
    ----------
    Egami, Hinck, Stewart & Wei (2023), *Using imperfect surrogates for downstream inference:
    design-based supervised learning for social science applications of large language models*;
    Angelopoulos, Duchi & Zrnic (2023), *PPI++: efficient prediction-powered inference*;
    Chernozhukov et al. (2018), *Double/debiased machine learning*.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> import bayeskit as bk
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=2000)
    >>> y = 1.0 + 2.0 * x + rng.normal(size=2000)
    >>> table = pd.DataFrame({"x": x, "y": y, "guess": 0.5 * y + rng.normal(size=2000)})
    >>> table.loc[rng.random(2000) > 0.2, "y"] = np.nan
    >>> model = bk.DSLRegressor(
    ...     formula="y ~ x", predicted={"y": "guess"}, features=["x"], learner="linear"
    ... ).fit(table)
    >>> bool(np.all(np.abs(model.coef_ - [1.0, 2.0]) < 4 * model.se_))
    True
    """

    def __init__(
        self,
        model: str = "linear",
        formula: str | None = None,
        predicted: Any = None,
        *,
        features: Sequence[str] | None = None,
        learner: Any = "forest",
        cv: Any = 5,
        n_repeats: int = 10,
        cluster: Any = None,
        sample_prob: Any = None,
        normalize: str = "mean",
        strata: Any = None,
        labeled: Any = None,
        fixed_effects: Any = None,
        instruments: str | None = None,
        power_tuning: bool | float | str | Callable | None = False,
        method: str = "dsl",
        missing: str = "drop",
        random_state: Any = 0,
    ):
        self.model = model
        self.formula = formula
        self.predicted = predicted
        self.features = features
        self.learner = learner
        self.cv = cv
        self.n_repeats = n_repeats
        self.cluster = cluster
        self.sample_prob = sample_prob
        self.normalize = normalize
        self.strata = strata
        self.labeled = labeled
        self.fixed_effects = fixed_effects
        self.instruments = instruments
        self.power_tuning = power_tuning
        self.method = method
        self.missing = missing
        self.random_state = random_state

    # ------------------------------------------------------------ fitting

    def fit(
        self, X: Any, y: Any = None, *, surrogates: Any = None, predictions: Any = None
    ) -> DSLRegressor:
        """Predict the labels, correct the predictions, and solve.

        Parameters
        ----------
        X : DataFrame with all columns of the formula; without a formula (rows, columns) array
            An intercept is added to arrays.
        y : (rows) array, without a formula
            NaN in rows without a label.
        surrogates : (rows) or (rows, columns) array, without a formula
            What predicts y.
        predictions : dict of (rows) or (repeats, rows) array, optional
            Cross-fitted predictions by variable, instead of a learner's; with a last axis of
            classes for classes.

        Returns
        -------
        self

        Raises
        ------
        InvalidDataError
            For columns that are absent, labels or probabilities that cannot be used, folds
            without labels, collinear columns, and moments without a root. Names and rows are
            in the message.

        Warns
        -----
        BayeskitWarning
            For rows that are left out, labels that are not used, and designs that leave little
            to learn from.
        """
        clock = [time.perf_counter()]
        link = link_named(self.model)
        tuning = as_tuning(self.power_tuning)
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        generator = self._generator()
        frame, formula, predicted = self._inputs(X, y, surrogates)
        table, columns = self._table(frame, formula, predicted, predictions is not None)
        self._columns = columns
        probability = labeling_probabilities(
            columns["sample_prob"],
            table.labeled,
            normalize=self.normalize,
            strata=columns["strata"],
        )
        self.folds_ = None
        found = self._predictions(table, predictions, generator)
        clock.append(time.perf_counter())
        design, data = self._moment_data(table, formula, found, probability, link)
        splits = estimate(data, names=design.terms, **self._tuning(tuning))
        clock.append(time.perf_counter())
        self._design, self._table_ = design, table
        self.predictions_ = found
        self.prediction_errors_ = (
            prediction_errors(table, found) if self.method != "gold" else {}
        )
        self._store(DSLResult(self._terms(design), splits, data))
        self.pi_ = probability
        self.n_dropped_ = len(table.kept) - len(table.labeled)
        self.timing_ = {"learn_s": clock[1] - clock[0], "solve_s": clock[2] - clock[1]}
        return self

    def _generator(self) -> np.random.Generator:
        from bayeskit.inference import random
        from bayeskit.models.base import as_random_key

        return random.host_generator(as_random_key(self.random_state))

    def _inputs(self, X: Any, y: Any, surrogates: Any) -> tuple[Any, ParsedFormula, dict]:
        """Return the frame, the formula and the predicted variables."""
        if self.formula is None:
            if self.predicted is not None:
                raise InvalidDataError(
                    "predicted names columns of a formula: give formula=, or surrogates= to fit"
                )
            frame, names, predicted = frame_of_arrays(X, y, surrogates)
            self.n_features_in_ = len(names)
            return frame, parsed(formula_of_arrays(names), self.instruments), predicted
        if y is not None or surrogates is not None:
            raise InvalidDataError(
                "with a formula, fit takes one DataFrame with all columns, the outcome included"
            )
        if not hasattr(X, "columns"):
            raise InvalidDataError(
                f"with a formula, fit takes a DataFrame, got {type(X).__name__}"
            )
        formula = self.formula
        if self.model == "mean" and "~" not in formula:
            formula = f"{formula} ~ 1"
        found = parsed(formula, self.instruments)
        if (found.instruments is not None) != (self.model == "iv"):
            raise InvalidDataError(
                "instruments are for model='iv', and model='iv' needs them: 'y ~ x + w | z + w'"
            )
        return X, found, as_predicted(self.predicted)

    def _table(
        self, frame: Any, formula: ParsedFormula, predicted: dict, has_predictions: bool
    ) -> tuple[Table, dict[str, Any]]:
        """Return the checked table, and the columns that go with its rows."""
        used = formula.outcome_columns | formula.covariate_columns
        for name in predicted:
            if name in frame.columns and name not in used:
                raise InvalidDataError(
                    f"predicted variable {name!r} is not in the formula {formula.text!r}"
                )
        columns = {
            name: column_of(frame, getattr(self, name), name)
            for name in ("sample_prob", "strata", "labeled")
        }
        ways = {
            name: [column_of(frame, part, name) for part in _ways(getattr(self, name), frame)]
            for name in ("cluster", "fixed_effects")
        }
        if ways["fixed_effects"] and not link_named(self.model).is_linear:
            raise InvalidDataError(
                f"fixed_effects are for linear models, got model={self.model!r}: for others put "
                "C(group) in the formula"
            )
        others = {f"{name}": a for name, several in ways.items() for a in several}
        others |= {name: columns[name] for name in ("sample_prob", "strata", "labeled")}
        table = checked_table(
            frame,
            predicted=predicted,
            features=self._feature_names(),
            observed=sorted(used - set(predicted)),
            labeled=columns.pop("labeled"),
            must_learn=not has_predictions and self.method in ("dsl", "semi_supervised"),
            missing=self.missing,
            classes=sorted(formula.outcome_columns) if self.model == "multinomial" else (),
            others=others,
        )
        kept = table.kept
        found: dict[str, Any] = {
            name: None if array is None else array[kept] for name, array in columns.items()
        }
        found |= {
            name: tuple(codes_of(array[kept])[0] for array in several)
            for name, several in ways.items()
        }
        if found["fixed_effects"]:
            table, found = _without_singletons(table, found)
        return table, found

    def _feature_names(self) -> list[str]:
        if self.features is None:
            return []
        return [self.features] if isinstance(self.features, str) else list(self.features)

    def _predictions(
        self, table: Table, given: Any, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Return predictions of all variables, by the method."""
        if given is not None:
            return given_predictions(table, given)
        if self.method == "surrogate" or (
            isinstance(self.learner, str) and self.learner == "identity"
        ):
            return surrogate_values(table)
        has_features = bool(self._feature_names()) or any(v.surrogates for v in table.variables)
        if self.method == "gold" or not has_features:
            # Where labels count alone, any value will do in the place of predictions.
            return {v.name: _overall_mean(v, table.labeled)[None] for v in table.variables}
        if not isinstance(self.n_repeats, int | np.integer) or self.n_repeats < 1:
            raise ValueError(f"n_repeats must be a whole number >= 1, got {self.n_repeats!r}")
        clusters = self._columns["cluster"]
        cv = self.cv
        if not isinstance(cv, int | np.integer) and not hasattr(cv, "split"):
            cv = np.atleast_2d(np.asarray(cv))
            if cv.ndim == 2 and cv.shape[1] == len(table.kept):
                cv = cv[:, table.kept]
        self.folds_ = fold_numbers(
            cv, self.n_repeats, table.labeled, clusters[0] if clusters else None, generator
        )
        check_folds(self.folds_, table.labeled)
        seed = int(generator.integers(2**31 - 1))
        return cross_fit(table, self._feature_names(), self.folds_, self.learner, seed)

    def _moment_data(
        self,
        table: Table,
        formula: ParsedFormula,
        predictions: dict,
        probability: Any,
        link: Any,
    ) -> tuple[Design, MomentData]:
        """Return the design and what the moments are made of, by the method."""
        design = Design.learn(
            formula,
            table,
            predictions,
            outcome_levels=self._outcome_levels(table, formula),
            drop_intercept=bool(self._columns["fixed_effects"]),
        )
        if self.model == "mean" and design.terms != ["Intercept"]:
            raise InvalidDataError(
                f"model='mean' has no covariates, but the formula has {design.terms}: write "
                "'y ~ 1', or take model='linear'"
            )
        true = design.true_rows(table)
        check_outcomes(self.model, true.y, str(formula.outcome))
        num = true.x.shape[-1]
        if not num:
            raise InvalidDataError(f"the formula {formula.text!r} has no terms")
        if true.z.shape[-1] < num:
            raise InvalidDataError(
                f"{true.z.shape[-1]} instruments are too few for {num} columns: give as many at "
                "least, exogenous covariates included"
            )
        if int(table.labeled.sum()) < num + 1:
            raise InvalidDataError(
                f"{int(table.labeled.sum())} labelled rows are too few for {num} coefficients: "
                f"at least {num + 1} are needed, and many more for intervals to hold"
            )
        strata = None
        if self.normalize == "strata":
            strata = codes_of(
                self._columns["sample_prob"]
                if self._columns["strata"] is None
                else self._columns["strata"]
            )[0]
        data = MomentData(
            link,
            design.rows_of(table, predictions),
            true,
            np.flatnonzero(table.labeled),
            probability,
            clusters=self._columns["cluster"],
            strata=strata,
            effects=self._columns["fixed_effects"],
            has_instruments=self.model == "iv",
        )
        if self.method in ("surrogate", "semi_supervised"):
            data = data.without_labels(data.predicted)
        return design, data

    def _outcome_levels(self, table: Table, formula: ParsedFormula) -> tuple | None:
        if self.model != "multinomial":
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

    def _tuning(self, tuning: dict[str, Any]) -> dict[str, Any]:
        if self.method == "gold":
            return {"power": 0.0}
        return {} if self.method in ("surrogate", "semi_supervised") else tuning

    def _terms(self, design: Design) -> tuple[str, ...]:
        if design.outcome_levels is None:
            return tuple(design.terms)
        return tuple(f"{v}: {t}" for v in design.outcome_levels[1:] for t in design.terms)

    def _store(self, result: DSLResult) -> None:
        self.result_ = result
        self.terms_ = list(result.terms)
        self.coef_, self.se_, self.vcov_ = result.coef, result.se, result.vcov
        self.pvalues_ = result.pvalues
        self.split_coef_ = result.splits.theta
        self.split_se_ = np.sqrt(np.diagonal(result.splits.vcov, axis1=1, axis2=2))
        self.lambda_ = result.splits.power
        self.n_units_ = result.data.num_units
        self.n_labeled_ = int(self._table_.labeled.sum())

    # ------------------------------------------------------------ predictions

    def predict(self, X: Any) -> np.ndarray:
        """Return the mean of the outcome (rows) at given covariates, without fixed effects.

        Of classes, their probabilities (rows, classes).

        Parameters
        ----------
        X : DataFrame with the covariates of the formula; without a formula (rows, columns)
        """
        self._check_fitted()
        frame = X if self.formula is not None else new_frame(X, self)
        x = self._design.covariates(frame)
        link, outcomes = self.result_.data.link, self.result_.data.predicted.y.shape[-1]
        mean = link.mean(predictors(self.coef_[None], x[None], outcomes))[0]
        if self.model != "multinomial":
            return mean[:, 0]
        return np.concatenate([1.0 - mean.sum(axis=1, keepdims=True), mean], axis=1)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("this DSLRegressor is not fitted: call fit first")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")


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


def _without_singletons(table: Table, columns: dict[str, Any]) -> tuple[Table, dict[str, Any]]:
    """Leave out rows that are the only one of a fixed effect: it explains them wholly."""
    import warnings

    from bayeskit.models.dsl.fixed_effects import singletons

    alone = singletons(columns["fixed_effects"])
    if not alone.any():
        return table, columns
    warnings.warn(
        f"{int(alone.sum())} rows are the only one of a fixed effect and were dropped: they say "
        "nothing of the coefficients",
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
    found: dict[str, Any] = {}
    for name, value in columns.items():
        if isinstance(value, tuple):
            found[name] = tuple(codes_of(codes[kept])[0] for codes in value)
        else:
            found[name] = None if value is None else value[kept]
    smaller = replace(
        table,
        frame=table.frame.loc[kept],
        kept=everywhere,
        labeled=table.labeled[kept],
        variables=variables,
    )
    return smaller, found


def _overall_mean(variable: PredictedVariable, labeled: np.ndarray) -> np.ndarray:
    """Return the mean label, or the shares of the classes, for each row."""
    known = variable.values[labeled]
    if variable.levels is None:
        return np.full(len(labeled), known.mean())
    shares = np.bincount(known.astype(int), minlength=len(variable.levels)) / len(known)
    return np.tile(shares, (len(labeled), 1))
