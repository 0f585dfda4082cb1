r"""Bayesian generalised linear models with scaled predictors: logistic, linear, Poisson.

Every predictor is centred and divided by twice its standard deviation, so that a step of one
goes from a low to a high value of it and one prior suits all of them. With the scaled
predictors :math:`x_i`, the intercept :math:`\alpha` and the coefficients :math:`\beta`,

.. math:: \eta_i = \alpha + x_i^\top \beta.

References
----------
Gelman (2008), *Scaling regression inputs by dividing by two standard deviations*;
Gelman, Jakulin, Pittau & Su (2008), *A weakly informative default prior distribution for
logistic and other regression models*; Chopin & Ridgway (2017), *Leave Pima Indians alone*.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bayeskit.errors import InvalidDataError, NumericalWarning
from bayeskit.inference import random
from bayeskit.models.bayesian import BayesianModel

__all__ = [
    "FAMILIES",
    "Design",
    "Family",
    "design_matrix",
    "family_named",
    "linear",
    "logistic",
    "on_original_scale",
    "poisson",
    "regression_model",
    "response",
]

# Beyond this condition number of the scaled predictors half of all digits are lost.
_MAX_CONDITION = 1e8
# Whole numbers up to here are exact in double precision.
_LARGEST_WHOLE = 2**53
# exp of anything beyond is 0 or infinite in double precision.
_MAX_LOG_RATE = 700.0


# ---------------------------------------------------------------- models


def logistic(X: Any, y: Any = None) -> None:
    r"""Model outcomes 0 and 1: :math:`y_i \sim \mathrm{Bernoulli}(1 / (1 + e^{-\eta_i}))`.

    Priors: :math:`\alpha \sim N(0, 20^2)` and :math:`\beta_j \sim N(0, 5^2)`. A coefficient of
    5 turns odds of 1 to 12 into odds of 12 to 1 between a low and a high value of a
    predictor, so the priors leave room for strong effects, yet stay proper where two classes
    can be separated perfectly.

    Parameters
    ----------
    X : (rows, columns) array, scaled by :func:`design_matrix`
    y : (rows) array of 0 and 1, or None to predict
    """
    eta = _linear_predictor(X, dist.Normal(0.0, 20.0), 5.0)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)


def linear(X: Any, y: Any = None) -> None:
    r"""Model real numbers: :math:`y_i \sim N(\eta_i, \sigma^2)`.

    Priors, with the mean :math:`m` and the standard deviation :math:`s` of the data y:
    :math:`\alpha \sim N(m, (20 s)^2)`, :math:`\beta_j \sim N(0, (5 s)^2)` and
    :math:`\sigma \sim \mathrm{HalfNormal}(s)`. The noise is hardly larger than the spread of
    y, and a single predictor that explains y fully has a coefficient of :math:`2 s`. So the
    evidence does not depend on the unit of y but for the factor that a density must have.
    Where y is constant, or None, :math:`s` is 1.

    Parameters
    ----------
    X : (rows, columns) array, scaled by :func:`design_matrix`
    y : (rows) array, or None to predict

    Notes
    -----
    The priors look at the data once, at their location and scale. Predictions for new rows
    do not depend on the priors, only on the posterior draws.
    """
    centre, scale = _location_and_scale(y)
    noise = numpyro.sample("noise", dist.HalfNormal(scale))
    eta = _linear_predictor(X, dist.Normal(centre, 20.0 * scale), 5.0 * scale)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(eta, noise), obs=y)


def poisson(X: Any, y: Any = None) -> None:
    r"""Model counts: :math:`y_i \sim \mathrm{Poisson}(e^{\eta_i})`.

    Priors: :math:`\alpha \sim N(0, 5^2)` and :math:`\beta_j \sim N(0, 2.5^2)`. Since
    predictors are centred, :math:`e^\alpha` is a typical count: within two standard
    deviations between one count in 22 000 rows and 22 000 counts a row. One prior standard
    deviation of a coefficient multiplies the rate by 12 between a low and a high value of a
    predictor, two by 148. Wider priors would put much of their mass on rates that no table
    of counts can hold, and be paid for in the evidence.

    Parameters
    ----------
    X : (rows, columns) array, scaled by :func:`design_matrix`
    y : (rows) array of whole numbers >= 0, or None to predict
    """
    eta = _linear_predictor(X, dist.Normal(0.0, 5.0), 2.5)
    # A rate of exactly 0 or infinity would turn a far-off prior draw into NaN.
    rate = jnp.exp(jnp.clip(eta, -_MAX_LOG_RATE, _MAX_LOG_RATE))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", _Poisson(rate), obs=y)


class _Poisson(dist.Poisson):
    """A Poisson distribution that can be drawn from with a key of any generator."""

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        # jax.random.poisson takes keys of one generator only.
        return super().sample(random.threefry(key), sample_shape)


def _linear_predictor(X: Any, intercept: dist.Distribution, coefficient_sd: Any) -> jax.Array:
    alpha = numpyro.sample("intercept", intercept)
    prior = dist.Normal(0.0, coefficient_sd).expand([X.shape[1]]).to_event(1)
    return alpha + jnp.asarray(X) @ numpyro.sample("coefficients", prior)


def _location_and_scale(y: Any) -> tuple[Any, Any]:
    if y is None:
        return 0.0, 1.0
    centre = jnp.mean(y)
    largest = jnp.max(jnp.abs(y - centre))
    constant = jnp.max(y) == jnp.min(y)
    # Squares of deviations in their own unit neither overflow nor vanish.
    unit = jnp.where(constant, 1.0, largest)
    scale = unit * jnp.sqrt(jnp.mean(((y - centre) / unit) ** 2))
    return centre, jnp.where(constant, 1.0, scale)


# ---------------------------------------------------------------- data


@dataclass(frozen=True, eq=False)
class Design:
    """Scaled predictors and how they came about.

    Parameters
    ----------
    values : (rows, columns) array
        Each column has mean 0 and population standard deviation 0.5.
    names : tuple of str
    centre : (columns) array
        Means of the original columns.
    scale : (columns) array
        Twice their population standard deviations: ``values = (original - centre) / scale``.
    """

    values: np.ndarray
    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray

    def apply(self, table: Any) -> np.ndarray:
        """Return the columns of another table on the scale of this one, for predictions."""
        return (_numeric_columns(table, self.names) - self.centre) / self.scale


def design_matrix(table: Any, names: Sequence[str] | None = None) -> Design:
    """Scale columns of a table to mean 0 and standard deviation 0.5.

    Parameters
    ----------
    table : DataFrame, mapping of columns, or (rows, columns) array
    names : sequence of str, optional
        Columns to take, in this order; names of all columns if the table is an array.
        Default: all.

    Returns
    -------
    Design

    Raises
    ------
    InvalidDataError
        For fewer than 2 rows; for columns that are missing, named twice, not numeric,
        constant, or hold NaN or infinities, with the column and the first bad row.

    Warns
    -----
    NumericalWarning
        If columns are so nearly collinear that only the prior tells their coefficients apart.

    Notes
    -----
    Rows are counted from 0.

    Examples
    --------
    >>> design = design_matrix({"dose": [1.0, 3.0, 1.0, 3.0], "age": [40, 40, 60, 60]})
    >>> design.values.tolist()
    [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    """
    frame = _as_frame(table, names)
    names = tuple(map(str, frame.columns)) if names is None else tuple(names)
    original = _numeric_columns(frame, names)
    if len(original) < 2:
        raise InvalidDataError(
            f"the table has {len(original)} rows: at least 2 are needed to scale predictors"
        )
    for name, column in zip(names, original.T, strict=True):
        if column.min() == column.max():
            raise InvalidDataError(
                f"column {name!r} is constant: it cannot be told from the intercept. "
                "Leave it out"
            )
    with np.errstate(over="ignore", invalid="ignore"):
        # In units of a power of two, which rounds nothing: the sum of large numbers overflows.
        unit = np.exp2(np.frexp(np.abs(original).max(axis=0))[1] - 1)
        centre = unit * (original / unit).mean(axis=0)
        deviations = original - centre
        largest = np.abs(deviations).max(axis=0)
        # Squares of deviations in their own unit neither overflow nor vanish.
        scale = 2.0 * largest * np.sqrt(np.mean((deviations / largest) ** 2, axis=0))
        values = deviations / scale
    usable = np.isfinite(values).all(axis=0) & np.isfinite(scale)
    if not usable.all():
        raise InvalidDataError(
            f"column {names[int(np.argmin(usable))]!r} is too large to be scaled in double "
            "precision: rescale it, for example by another unit"
        )
    condition = np.linalg.cond(values)
    if not condition <= _MAX_CONDITION:
        warnings.warn(
            f"the predictors are collinear (condition number {condition:.1e}): only the prior "
            "tells their coefficients apart. Leave out columns that repeat others",
            NumericalWarning,
            stacklevel=2,
        )
    return Design(values, names, centre, scale)


def _as_frame(table: Any, names: Sequence[str] | None) -> Any:
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, Mapping):
        return pd.DataFrame({name: np.asarray(column) for name, column in table.items()})
    _refuse_sparse(table, "the table")
    array = np.asarray(table)
    if array.ndim != 2:
        raise InvalidDataError(
            f"the table must have rows and columns, got an array of shape {array.shape}"
        )
    if names is None:
        names = [f"x{i}" for i in range(array.shape[1])]
    if len(names) != array.shape[1]:
        raise InvalidDataError(
            f"{len(names)} names were given for {array.shape[1]} columns of the array"
        )
    return pd.DataFrame(array, columns=list(names))


def _refuse_sparse(values: Any, what: str) -> None:
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise InvalidDataError(f"{what} is sparse: convert it with its method toarray()")


def _numeric_columns(table: Any, names: Sequence[str]) -> np.ndarray:
    frame = _as_frame(table, names)
    if not names:
        raise InvalidDataError("there are no predictors: name at least one column")
    for i, name in enumerate(names):
        if name not in frame.columns:
            known = ", ".join(map(repr, frame.columns[:20]))
            raise InvalidDataError(f"there is no column {name!r}: the table has {known}")
        if name in names[:i]:
            raise InvalidDataError(f"column {name!r} was named twice: name it once")
    return np.stack([_numbers(frame[name], f"column {name!r}") for name in names], axis=1)


def _numbers(column: Any, what: str) -> np.ndarray:
    """Return a column as finite float64 numbers, or refuse it with the first bad row."""
    import pandas as pd

    column = pd.Series(column).reset_index(drop=True)
    types = pd.api.types
    is_real = types.is_numeric_dtype(column.dtype)
    if types.is_complex_dtype(column.dtype):
        raise InvalidDataError(
            f"{what} holds complex numbers (dtype {column.dtype}): give real and imaginary "
            "parts as columns"
        )
    if not is_real and not column.isna().all():
        row = int(np.argmax([not _is_number(value) for value in column]))
        found = "" if _is_number(column[row]) else f", first at row {row}"
        raise InvalidDataError(
            f"{what} is not numeric (dtype {column.dtype}{found}): encode text, dates and "
            "categories as numbers first"
        )
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(np.argmax(bad))
        value = "NaN" if np.isnan(numbers[row]) else str(numbers[row])
        raise InvalidDataError(
            f"{what} contains {value} at row {row} ({int(bad.sum())} of {len(numbers)} values "
            "are not finite): drop or impute those rows"
        )
    if types.is_integer_dtype(column.dtype):
        bad = np.abs(numbers) > _LARGEST_WHOLE
        if bad.any():
            raise InvalidDataError(
                f"{what} holds a whole number beyond 2^53 at row {int(np.argmax(bad))}, which "
                "has no exact floating-point number: subtract an offset or rescale first"
            )
    return numbers


def _is_number(value: Any) -> bool:
    """Tell whether a cell is a number, be it written as text."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def response(values: Any, family: Family | str, name: str = "y") -> np.ndarray:
    """Return a column as the response of a family, checked.

    Parameters
    ----------
    values : (rows) array or Series
    family : Family or str
    name : str
        Name of the column in messages.

    Returns
    -------
    (rows) float64 array

    Raises
    ------
    InvalidDataError
        For values that are no finite numbers, or that the family cannot produce.
    """
    family = family_named(family) if isinstance(family, str) else family
    _refuse_sparse(values, f"column {name!r}")
    if values is None:
        raise InvalidDataError(f"column {name!r} is missing: give one response for each row")
    if np.ndim(values) != 1:
        raise InvalidDataError(
            f"column {name!r} must have one axis, got an array of shape {np.shape(values)}"
        )
    numbers = _numbers(values, f"column {name!r}")
    if not len(numbers):
        raise InvalidDataError(f"column {name!r} has no rows: at least 2 are needed")
    family.check(numbers, name)
    return numbers


def _check_classes(y: np.ndarray, name: str) -> None:
    bad = (y != 0) & (y != 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidDataError(
            f"column {name!r} must hold 0 and 1 for family 'logistic', got {y[row]:g} at row "
            f"{row}: encode the two classes as 0 and 1"
        )
    if y.min() == y.max():
        raise InvalidDataError(
            f"column {name!r} holds one class only ({y[0]:g}): family 'logistic' needs rows of "
            "both"
        )


def _check_real(y: np.ndarray, name: str) -> None:
    with np.errstate(over="ignore"):
        # The prior of the intercept spans 20 standard deviations.
        too_large = not np.isfinite(40.0 * np.ptp(y)) or not np.isfinite(np.sum(y))
    if too_large:
        raise InvalidDataError(
            f"column {name!r} is too large for double precision: rescale it, for example by "
            "another unit"
        )


def _check_counts(y: np.ndarray, name: str) -> None:
    bad = (y < 0) | (y != np.floor(y))
    if bad.any():
        row = int(np.argmax(bad))
        kind = "negative" if y[row] < 0 else "not a whole number"
        raise InvalidDataError(
            f"column {name!r} must hold counts 0, 1, 2, ... for family 'poisson', but "
            f"{y[row]:g} at row {row} is {kind}"
        )


# ---------------------------------------------------------------- families


@dataclass(frozen=True)
class Family:
    """A kind of response: its model, what its data must be, and how to read it.

    Parameters
    ----------
    name : str
    model : callable
        NumPyro model ``model(X, y=None)`` with sites ``intercept``, ``coefficients``, ``y``.
    check : callable (y, name)
        Raises InvalidDataError for values that the family cannot produce.
    likelihood : str
        In words and signs, for reports.
    priors : tuple of str
        One line for each parameter, for reports.
    effect : str
        What a coefficient does.
    """

    name: str
    model: Callable
    check: Callable[[np.ndarray, str], None]
    likelihood: str
    priors: tuple[str, ...]
    effect: str


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "logistic",
            logistic,
            _check_classes,
            "y ~ Bernoulli(1 / (1 + exp(−η)))",
            ("intercept ~ Normal(0, 20)", "coefficients ~ Normal(0, 5)"),
            "change of the log odds from a low to a high value (two standard deviations)",
        ),
        Family(
            "linear",
            linear,
            _check_real,
            "y ~ Normal(η, noise)",
            (
                "intercept ~ Normal(mean(y), 20 sd(y))",
                "coefficients ~ Normal(0, 5 sd(y))",
                "noise ~ HalfNormal(sd(y))",
            ),
            "change of y from a low to a high value (two standard deviations)",
        ),
        Family(
            "poisson",
            poisson,
            _check_counts,
            "y ~ Poisson(exp(η))",
            ("intercept ~ Normal(0, 5)", "coefficients ~ Normal(0, 2.5)"),
            "change of the log rate from a low to a high value (two standard deviations)",
        ),
    )
}


def family_named(name: str) -> Family:
    """Return a family by its name.

    Raises
    ------
    ValueError
        For a name that is not in FAMILIES.
    """
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {name!r}")
    return FAMILIES[name]


def regression_model(
    family: Family | str,
    names: Sequence[str],
    *,
    inference: Any = "auto",
    random_state: Any = None,
    precision: str = "float64",
) -> BayesianModel:
    """Return an estimator whose coefficients are named by the columns, ready to fit.

    Parameters
    ----------
    family : Family or {"logistic", "linear", "poisson"}
    names : sequence of str
        Names of the predictors, as in :class:`Design`.
    inference, random_state, precision
        As in :class:`~bayeskit.BayesianModel`.

    Examples
    --------
    >>> design = design_matrix({"dose": [1.0, 2.0, 3.0, 4.0]})
    >>> est = regression_model("logistic", design.names)
    >>> est.coords, est.dims
    ({'predictor': ['dose']}, {'coefficients': ['predictor']})
    """
    family = family_named(family) if isinstance(family, str) else family
    return BayesianModel(
        family.model,
        inference=inference,
        random_state=random_state,
        precision=precision,
        coords={"predictor": list(names)},
        dims={"coefficients": ["predictor"]},
    )


def on_original_scale(draws: Mapping[str, np.ndarray], design: Design) -> dict[str, np.ndarray]:
    r"""Return draws as if the predictors had not been scaled.

    With centres :math:`c_j` and scales :math:`s_j`, the coefficients are
    :math:`\beta_j / s_j` and the intercept is :math:`\alpha - \sum_j \beta_j c_j / s_j`.

    Parameters
    ----------
    draws : mapping with ``intercept`` (...) and ``coefficients`` (..., columns) arrays
        Other entries are returned as they are.
    design : Design
    """
    coefficients = np.asarray(draws["coefficients"]) / design.scale
    intercept = np.asarray(draws["intercept"]) - coefficients @ design.centre
    return {**draws, "intercept": intercept, "coefficients": coefficients}
