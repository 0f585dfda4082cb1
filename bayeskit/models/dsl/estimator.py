"""Design-based supervised learning as an estimator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError

from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.models.base import as_random_key
from bayeskit.models.dsl.arrays import as_tuning, link_named
from bayeskit.models.dsl.crossfit import prediction_errors
from bayeskit.models.dsl.design import Design, ParsedFormula, parsed
from bayeskit.models.dsl.estimation import estimate
from bayeskit.models.dsl.inference import DSLInference
from bayeskit.models.dsl.moments import predictors
from bayeskit.models.dsl.predicting import check_prediction, predictions_of
from bayeskit.models.dsl.preparation import checked_columns, moment_data
from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.rows_of_arrays import formula_of_arrays, frame_of_arrays, new_frame
from bayeskit.models.dsl.sampling import labeling_probabilities
from bayeskit.models.dsl.table import as_predicted
from bayeskit.models.tables import as_frame

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
        that predict each: ``{"y": "y_model"}``. NaN where there is no label. Text,
        categories, and what the formula has as ``C(...)`` are classes, whose probabilities are
        predicted.
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
        the least variance, 0 where it is not two standard errors above 0; a callable is given
        the matrices of its linear and quadratic part.
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

    feature_names_in_: np.ndarray

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
        surrogates : (rows) or (rows, columns) array, or mapping, without a formula
            What predicts y. A mapping has surrogates by ``"y"`` and by columns of X, which
            then hold NaN where there is no label.
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
        check_prediction(self)
        generator = self._generator()
        frame, formula, predicted = self._inputs(X, y, surrogates)
        table, columns = checked_columns(
            self, frame, formula, predicted, predictions is not None
        )
        probability = labeling_probabilities(
            columns.sample_prob,
            table.labeled,
            normalize=self.normalize,
            strata=columns.strata,
        )
        found, self.folds_ = predictions_of(self, table, columns, predictions, generator)
        clock.append(time.perf_counter())
        design, data = moment_data(self, table, columns, formula, found, probability, link)
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
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            if hasattr(X, "columns") and all(isinstance(name, str) for name in X.columns):
                self.feature_names_in_ = np.asarray(X.columns, dtype=object)
            return frame, self._parsed(formula_of_arrays(names)), predicted
        if y is not None or surrogates is not None:
            raise InvalidDataError(
                "with a formula, fit takes one DataFrame with all columns, the outcome included"
            )
        X = as_frame(X, mappings=True)
        if not hasattr(X, "columns"):
            raise InvalidDataError(
                f"with a formula, fit takes a DataFrame, got {type(X).__name__}"
            )
        formula = self.formula
        if self.model == "mean" and "~" not in formula:
            formula = f"{formula} ~ 1"
        return X, self._parsed(formula), as_predicted(self.predicted)

    def _parsed(self, formula: str) -> ParsedFormula:
        found = parsed(formula, self.instruments)
        if (found.instruments is not None) != (self.model == "iv"):
            raise InvalidDataError(
                "instruments are for model='iv', and model='iv' needs them: 'y ~ x + w | z + w'"
            )
        return found

    def _feature_names(self) -> list[str]:
        if self.features is None:
            return []
        return [self.features] if isinstance(self.features, str) else list(self.features)

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
        frame = as_frame(X, mappings=True) if self.formula is not None else new_frame(X, self)
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
