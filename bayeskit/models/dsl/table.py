"""The user's table, checked once at the door."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeskit.errors import BayeskitWarning, InvalidDataError

__all__ = [
    "PredictedVariable",
    "Table",
    "as_predicted",
    "check_index",
    "checked_table",
    "column_of",
]


# Variances are products of four such numbers.
_LARGEST = 1e75


@dataclass(frozen=True, eq=False)
class PredictedVariable:
    """A variable that is known for labelled rows only.

    Parameters
    ----------
    name : str
    surrogates : tuple of str
        Columns that predict it.
    values : (rows) array
        Numbers, or codes of classes; 0 where there is no label.
    levels : tuple or None
        Classes in their order, or None for numbers.
    """

    name: str
    surrogates: tuple[str, ...]
    values: np.ndarray
    levels: tuple | None


@dataclass(frozen=True, eq=False)
class Table:
    """Rows that an analysis uses.

    Parameters
    ----------
    frame : DataFrame
        A copy, with the index of the user's.
    kept : (rows given) array of bool
        Which of the rows given are used.
    given_index : pandas Index
        Of the rows given.
    labeled : (rows) array of bool
    variables : tuple of PredictedVariable
    """

    frame: Any
    kept: np.ndarray
    given_index: Any
    labeled: np.ndarray
    variables: tuple[PredictedVariable, ...]

    def variable(self, name: str) -> PredictedVariable:
        """Return a predicted variable by its name."""
        return next(v for v in self.variables if v.name == name)


def as_predicted(predicted: Any) -> dict[str, tuple[str, ...]]:
    """Return the surrogate columns of each predicted variable by its name."""
    if predicted is None:
        return {}
    if isinstance(predicted, str):
        return {predicted: ()}
    if not isinstance(predicted, Mapping):
        return {str(name): () for name in predicted}
    found: dict[str, tuple[str, ...]] = {}
    for name, columns in predicted.items():
        if columns is None:
            found[name] = ()
        else:
            found[name] = (columns,) if isinstance(columns, str) else tuple(columns)
    return found


def column_of(frame: Any, value: Any, name: str) -> np.ndarray | None:
    """Return a column given by its name, or as an array of as many rows."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in frame.columns:
            raise InvalidDataError(
                f"{name}={value!r} is no column of the data: there are {_listed(frame.columns)}"
            )
        return frame[value].to_numpy()
    check_index(value, frame.index, name)
    array = np.asarray(value)
    if array.shape != (len(frame),):
        raise InvalidDataError(
            f"{name} must be a column name or one value a row, shape ({len(frame)},), got "
            f"shape {array.shape}"
        )
    return array


def check_index(value: Any, expected: Any, name: str) -> None:
    """Refuse a pandas object whose rows are others, or in another order, than the data's."""
    index: Any = getattr(value, "index", None)
    if hasattr(index, "equals") and len(index) == len(expected) and not index.equals(expected):
        raise InvalidDataError(
            f"{name} has another index than the data, so that its values may belong to other "
            "rows: bring it in the order of the data, or pass an array if its order is right"
        )


def checked_table(
    frame: Any,
    *,
    predicted: dict[str, tuple[str, ...]],
    features: Sequence[str],
    observed: Sequence[str],
    labeled: np.ndarray | None,
    must_learn: bool,
    missing: str,
    classes: Sequence[str],
    others: Mapping[str, np.ndarray | None],
) -> Table:
    """Check columns and labels, and leave out rows with missing covariates.

    Parameters
    ----------
    frame : DataFrame
        Never changed.
    predicted : dict of name to surrogate columns
    features : sequence of str
        Columns that predict, beside surrogates.
    observed : sequence of str
        Columns of the formulas that are known for all rows.
    labeled : (rows) array, optional
        Default: rows in which no predicted variable is missing.
    must_learn : bool
        Whether there must be something to predict from.
    missing : {"drop", "raise"}
        What to do with rows in which an observed column is missing.
    classes : sequence of str
        Predicted variables that are classes whatever their type.
    others : mapping of name to (rows) array or None
        Further arrays that must not be missing, such as clusters.

    Raises
    ------
    InvalidDataError
    """
    if missing not in ("drop", "raise"):
        raise ValueError(f"missing must be 'drop' or 'raise', got {missing!r}")
    _check_columns(frame, predicted, features, observed)
    labeled = _labeled(frame, predicted, labeled)
    if must_learn and not (labeled.all() or features or any(predicted.values())):
        raise InvalidDataError(
            f"there is nothing to predict {next(iter(predicted))!r} from: give its surrogate "
            "column, predicted={'y': 'y_model'}, or features=[...]"
        )
    kept = _complete(frame, predicted, features, observed, others, missing)
    labeled, given_index = labeled[kept], frame.index
    frame = frame.loc[kept].copy()
    for name in observed:
        if hasattr(frame[name], "cat"):
            # Categories that no row has would make columns of zeros.
            frame[name] = frame[name].cat.remove_unused_categories()
    if not labeled.any():
        raise InvalidDataError(
            f"no row is labelled: of {len(frame)} rows none has a label for all of "
            f"{list(predicted)}. Label a random sample of rows, with known probabilities"
        )
    variables = tuple(
        _variable(frame, name, columns, labeled, name in classes)
        for name, columns in predicted.items()
    )
    return Table(frame, kept, given_index, labeled, variables)


def _listed(columns: Any) -> str:
    names = [str(c) for c in columns]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _check_columns(frame, predicted, features, observed) -> None:
    if not len(frame):
        raise InvalidDataError("the data have no rows")
    if len(set(frame.columns)) < len(frame.columns):
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InvalidDataError(f"column {twice!r} is there twice: rename one")
    for name, columns in predicted.items():
        if name not in frame.columns:
            raise InvalidDataError(
                f"predicted variable {name!r} is no column of the data: there are "
                f"{_listed(frame.columns)}"
            )
        for column in columns:
            if column not in frame.columns:
                raise InvalidDataError(
                    f"column {column!r}, which predicts {name!r}, is not in the data: there "
                    f"are {_listed(frame.columns)}"
                )
    for column in (*features, *observed):
        if column not in frame.columns:
            raise InvalidDataError(
                f"column {column!r} is not in the data: there are {_listed(frame.columns)}"
            )
    leaks = [f for f in features if f in predicted]
    if leaks:
        raise InvalidDataError(
            f"features must be known for all rows, but {leaks[0]!r} is a predicted variable"
        )


def _labeled(frame: Any, predicted: Mapping, given: np.ndarray | None) -> np.ndarray:
    import pandas as pd

    has_label = np.ones((len(frame), max(1, len(predicted))), bool)
    for j, name in enumerate(predicted):
        has_label[:, j] = frame[name].notna().to_numpy()
    everything = np.asarray(has_label.all(axis=1))
    if given is None:
        return everything
    is_flag = np.array([v is not pd.NA and v in (0, 1) for v in np.asarray(given).tolist()])
    if not is_flag.all():
        raise InvalidDataError("labeled must hold True and False, or 1 and 0")
    given = np.asarray(given).astype(bool)
    lacking = given & ~everything
    if lacking.any():
        place = int(np.argmax(lacking))
        name = list(predicted)[int(np.argmin(has_label[place]))]
        raise InvalidDataError(
            f"row {place} is said to be labelled, but {name!r} is missing there "
            f"({int(lacking.sum())} such rows): correct `labeled` or fill in the label"
        )
    unused = ~given & has_label.any(axis=1) & (len(predicted) > 0)
    if unused.any():
        warnings.warn(
            f"{int(unused.sum())} rows have labels but are said to be unlabelled: their labels "
            "are not used",
            BayeskitWarning,
            stacklevel=5,
        )
    return np.asarray(given)


def _complete(frame, predicted, features, observed, others, missing) -> np.ndarray:
    """Return which rows have all that must be known for all rows."""
    surrogates = [c for columns in predicted.values() for c in columns]
    kept = np.ones(len(frame), bool)
    for name in dict.fromkeys([*observed, *surrogates, *features]):
        if name in predicted:
            continue
        values = frame[name]
        bad = values.isna().to_numpy()
        if values.dtype.kind == "f":
            infinite = np.isinf(values.to_numpy())
            if infinite.any():
                raise InvalidDataError(
                    f"column {name!r} is infinite in row {int(np.argmax(infinite))}: correct "
                    "or drop it"
                )
            _refuse_huge(values.to_numpy(), f"column {name!r}")
        if bad.any() and missing == "raise":
            raise InvalidDataError(
                f"column {name!r} is missing in {int(bad.sum())} rows, the first is row "
                f"{int(np.argmax(bad))}: impute it, or pass missing='drop'"
            )
        kept &= ~bad
    for name, array in others.items():
        if array is not None:
            _check_complete(array, name)
    if not kept.all():
        warnings.warn(
            f"{int((~kept).sum())} of {len(kept)} rows were dropped, since an observed "
            "variable is missing there",
            BayeskitWarning,
            stacklevel=5,
        )
    if not kept.any():
        raise InvalidDataError("every row lacks an observed variable: nothing is left")
    return kept


def _check_complete(array: np.ndarray, name: str) -> None:
    import pandas as pd

    bad = pd.isna(array)
    if bad.any():
        raise InvalidDataError(
            f"{name} is missing in {int(bad.sum())} rows, the first is row "
            f"{int(np.argmax(bad))}: every row must have one"
        )


def _variable(
    frame: Any, name: str, columns: tuple[str, ...], labeled: np.ndarray, is_class: bool
) -> PredictedVariable:
    import pandas as pd

    column = frame[name]
    if is_class or not (
        pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)
    ):
        known = column[labeled]
        if is_class or not _holds_numbers(known):
            return _classes(column, name, columns, labeled)
    values = pd.to_numeric(column.where(labeled)).to_numpy(float, na_value=np.nan)
    infinite = np.isinf(values)
    if infinite.any():
        raise InvalidDataError(
            f"the label {name!r} is infinite in row {int(np.argmax(infinite))}"
        )
    _refuse_huge(values, f"the label {name!r}")
    return PredictedVariable(name, columns, np.where(labeled, values, 0.0), None)


def _refuse_huge(values: np.ndarray, what: str) -> None:
    """Refuse numbers whose products double precision cannot hold; NaN passes."""
    bad = np.abs(values) > _LARGEST
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidDataError(
            f"{what} is {values[row]:g} in row {row}, more than double precision can square: "
            "rescale it, for example by another unit"
        )


def _holds_numbers(column: Any) -> bool:
    if hasattr(column, "cat"):
        return False
    return all(isinstance(v, bool | int | float | np.number) for v in column)


def _classes(column: Any, name: str, columns: tuple, labeled: np.ndarray) -> PredictedVariable:
    known = column[labeled]
    if hasattr(column, "cat"):
        present = set(known.unique())
        levels = tuple(v for v in column.cat.categories if v in present)
    else:
        levels = tuple(sorted(known.unique()))
    if len(levels) < 2:
        raise InvalidDataError(
            f"all labels of {name!r} are {levels[0]!r}: at least two classes are needed"
        )
    place = {level: code for code, level in enumerate(levels)}
    codes = np.array(
        [place.get(v, 0) if seen else 0 for v, seen in zip(column, labeled, strict=True)]
    )
    return PredictedVariable(name, columns, codes, levels)
