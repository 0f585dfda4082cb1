"""The functional layer: arrays and predictions in, estimates out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.clusters import codes_of
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.estimation import estimate
from bayeskit.models.dsl.links import LINKS
from bayeskit.models.dsl.moments import Rows
from bayeskit.models.dsl.power_tuning import check_power_tuning
from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.sampling import labeling_probabilities

__all__ = ["as_tuning", "check_outcomes", "dsl_fit", "link_named"]

MODELS = ("mean", "linear", "logit", "poisson", "multinomial", "iv")


def link_named(model: str) -> Any:
    """Return the link of a model by its name.

    Raises
    ------
    ValueError
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {MODELS}, got {model!r}")
    return LINKS["linear" if model in ("mean", "iv") else model]


def as_tuning(power_tuning: Any) -> dict[str, Any]:
    """Return the arguments of :func:`~bayeskit.models.dsl.estimation.estimate`."""
    if power_tuning is True:
        return {"tuning": "trace"}
    if power_tuning is False or power_tuning is None:
        return {}
    check_power_tuning(power_tuning)
    if isinstance(power_tuning, str) or callable(power_tuning):
        return {"tuning": power_tuning}
    return {"power": float(power_tuning)}


def check_outcomes(model: str, y: np.ndarray, name: str = "y") -> None:
    """Refuse labelled outcomes (rows, outcomes) that the model is not for.

    Raises
    ------
    InvalidDataError
    """
    if model == "logit" and not np.isin(y, (0.0, 1.0)).all():
        bad = y[~np.isin(y, (0.0, 1.0))].ravel()[0]
        raise InvalidDataError(
            f"model='logit' needs labels 0 and 1 of {name!r}, found {bad:g}: recode them, or "
            "take model='linear'"
        )
    if model == "poisson" and (y < 0).any():
        raise InvalidDataError(
            f"model='poisson' needs labels >= 0 of {name!r}, found {y.min():g}"
        )


def dsl_fit(
    y: Any,
    X: Any,
    y_hat: Any = None,
    X_hat: Any = None,
    labeled: Any = None,
    pi: Any = None,
    *,
    model: str = "linear",
    Z: Any = None,
    Z_hat: Any = None,
    cluster: Any = None,
    strata: Any = None,
    fixed_effects: Any = None,
    power_tuning: bool | float | str | Callable = False,
    terms: Sequence[str] | None = None,
) -> DSLResult:
    r"""Estimate a regression from labels and predictions that are there already.

    Solves :math:`\sum_i \tilde m_i(\theta) = 0` with :math:`\tilde m_i = m(\hat D_i) +
    (R_i / \pi_i) \{ m(D_i) - m(\hat D_i) \}`.

    Parameters
    ----------
    y : (n) array, or (n, classes) of indicators for "multinomial"
        Values in rows that are not labelled are not looked at.
    X : (n, p) array
        The design as it is: a column of ones is the intercept.
    y_hat : (n) or (repeats, n) array, with a last axis of classes for "multinomial"
        Cross-fitted predictions. Default: y is known for all rows.
    X_hat : (n, p) or (repeats, n, p) array
        Default: X is known for all rows.
    labeled : (n) array of bool
        Default: rows in which neither y nor X is NaN.
    pi : (n) array in (0, 1]
        Probabilities of being labelled, taken as they are. Default: n_R/n.
    model : {"linear", "mean", "logit", "poisson", "multinomial", "iv"}
        The first class of "multinomial" is the reference.
    Z, Z_hat : arrays like X, at least as many columns
        Instruments, for "iv".
    cluster : (n) array, or (n, ways)
    strata : (n) array
        Strata in which labels of a fixed number were drawn.
    fixed_effects : (n) array, or (n, 2)
    power_tuning : bool, "trace", "per_coef", number in [0, 1], or callable
    terms : sequence of str
        Names of the columns of X. Default: x0, x1, ...

    Returns
    -------
    DSLResult

    Raises
    ------
    InvalidDataError

    Notes
    -----
    Cost: O(repeats n p^2) a Newton step; some 3 to 6 steps.

    References
    ----------
    Egami, Hinck, Stewart & Wei (2023), *Using imperfect surrogates for downstream inference*.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([1.0, 3.0, np.nan, np.nan])
    >>> guess = np.array([1.0, 2.0, 2.0, 3.0])
    >>> dsl_fit(y, np.ones((4, 1)), guess).coef
    array([2.5])
    """
    link = link_named(model)
    if model == "iv" and Z is None:
        raise InvalidDataError("model='iv' needs instruments Z")
    if fixed_effects is not None and not link.is_linear:
        raise InvalidDataError("fixed_effects are for linear models")
    y, X = np.asarray(y, float), np.asarray(X, float)
    if X.ndim != 2 or len(y) != len(X):
        raise InvalidDataError(
            f"X must have shape (n, p) and y n rows, got {X.shape} and {y.shape}"
        )
    n = len(X)
    if model == "iv":
        Z = np.asarray(Z, float)
    else:
        Z, Z_hat = X, X_hat
    if Z.shape[0] != n or Z.shape[1] < X.shape[1]:
        raise InvalidDataError(
            f"Z must have {n} rows and at least {X.shape[1]} columns, got {Z.shape}"
        )
    y_hat = y if y_hat is None else np.asarray(y_hat, float)
    y, y_hat = _outcomes(y, n, model)[0], _outcomes(y_hat, n, model)
    labeled = _labeled(labeled, (y, X, Z), n)
    true = Rows(*(a[None, labeled] for a in (X, Z, y)))
    for values, name in zip(true, ("X", "Z", "y"), strict=True):
        _check_finite(values, f"{name} in labelled rows")
    check_outcomes(model, true.y)
    predicted = Rows(
        _predictions(X if X_hat is None else X_hat, X.shape, "X_hat"),
        _predictions(Z if Z_hat is None else Z_hat, Z.shape, "Z_hat"),
        y_hat,
    )
    _check_finite(predicted.y, "y_hat, by default y,")
    num_parameters = predicted.num_parameters
    if labeled.sum() < X.shape[1] + 1:
        raise InvalidDataError(
            f"{int(labeled.sum())} labelled rows are too few for {X.shape[1]} columns: at "
            f"least {X.shape[1] + 1} are needed"
        )
    probability = labeling_probabilities(
        None if pi is None else np.asarray(pi, float), labeled, normalize="none"
    )
    data = MomentData(
        link,
        predicted,
        true,
        np.flatnonzero(labeled),
        probability,
        clusters=_ways(cluster, n, "cluster"),
        strata=None if strata is None else codes_of(strata)[0],
        effects=_ways(fixed_effects, n, "fixed_effects"),
        has_instruments=model == "iv",
    )
    names = [f"x{j}" for j in range(X.shape[1])] if terms is None else list(terms)
    splits = estimate(data, names=names, **as_tuning(power_tuning))
    if num_parameters > len(names):
        outcomes = range(1, num_parameters // len(names) + 1)
        names = [f"{k}: {name}" for k in outcomes for name in names]
    return DSLResult(tuple(names), splits, data)


def _labeled(given: Any, arrays: tuple[np.ndarray, ...], n: int) -> np.ndarray:
    if given is None:
        known = [~np.isnan(a.reshape(n, -1)).any(axis=1) for a in arrays]
        labeled = np.logical_and.reduce(known)
    else:
        labeled = np.asarray(given).astype(bool)
        if labeled.shape != (n,):
            raise InvalidDataError(f"labeled must have shape ({n},), got {labeled.shape}")
    if not labeled.any():
        raise InvalidDataError("no row is labelled")
    return labeled


def _outcomes(y: np.ndarray, n: int, model: str) -> np.ndarray:
    """Return outcomes (repeats, n, outcomes); the first of several classes is the reference."""
    is_one = model != "multinomial"
    if y.ndim not in (1, 2) + (() if is_one else (3,)) or (y.ndim == 1 and not is_one):
        raise InvalidDataError(f"y and y_hat must have {n} rows, got shape {y.shape}")
    y = y[..., None] if is_one else y[..., 1:]
    y = y[None] if y.ndim == 2 else y
    if y.shape[1] != n:
        raise InvalidDataError(f"y and y_hat must have {n} rows, got shape {y.shape}")
    return y


def _predictions(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(values, float)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1:] != shape:
        raise InvalidDataError(
            f"{name} must have shape {shape} or (repeats, *{shape}), got {np.shape(values)}"
        )
    _check_finite(array, name if name.endswith("hat") else f"{name}, which has no {name}_hat,")
    return array


def _check_finite(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][1])
        raise InvalidDataError(f"{name} is not finite in row {row}")


def _ways(values: Any, n: int, name: str) -> tuple[np.ndarray, ...]:
    if values is None:
        return ()
    array = np.asarray(values)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != n or array.shape[1] > 2:
        raise InvalidDataError(f"{name} must have {n} rows and one or two columns")
    return tuple(codes_of(column)[0] for column in array.T)
