"""Linear contrasts of coefficients, and Wald tests of several at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bayeskit.errors import InvalidDataError

__all__ = ["Contrast", "linear_contrast"]


@dataclass(frozen=True, eq=False)
class Contrast:
    r"""Estimates of :math:`R\theta - r`, and the Wald test that all of them are zero.

    Parameters
    ----------
    estimate, se : (contrasts) array
    covariance : (contrasts, contrasts) array
    statistic : float
        Chi-squared under the hypothesis, with ``degrees`` degrees of freedom.
    degrees : int
    p_value : float
    labels : tuple of str
    """

    estimate: np.ndarray
    se: np.ndarray
    covariance: np.ndarray
    statistic: float
    degrees: int
    p_value: float
    labels: tuple[str, ...]

    def to_frame(self, level: float = 0.95) -> Any:
        """Return a table with one row for each contrast."""
        from bayeskit.models.dsl.tables import coefficient_table

        return coefficient_table(self.estimate, self.se, self.labels, level)


def linear_contrast(
    spec: Any, coef: np.ndarray, vcov: np.ndarray, terms: tuple[str, ...]
) -> Contrast:
    """Return contrasts of coefficients.

    Parameters
    ----------
    spec : str, sequence of str, dict, or (contrasts, parameters) array
        Such as ``"x1 - x2"``, ``"x1 = 2 * x2"``, ``{"x1": 1.0}``; several are separated by
        commas. Names that are no plain words go in backticks.
    coef : (parameters) array
    vcov : (parameters, parameters) array
    terms : tuple of str

    Raises
    ------
    InvalidDataError
        For unknown names, and contrasts that determine each other.
    """
    from formulaic.utils.constraints import LinearConstraints

    try:
        found = LinearConstraints.from_spec(spec, variable_names=list(terms))
        matrix = np.atleast_2d(np.asarray(found.constraint_matrix, float))
        values = np.atleast_1d(np.asarray(found.constraint_values, float))
    except Exception as error:
        raise InvalidDataError(
            f"the contrast {spec!r} cannot be read: {error}. Terms are {list(terms)}"
        ) from error
    if matrix.shape[1] != len(terms):
        raise InvalidDataError(
            f"a contrast needs {len(terms)} columns, one a term, got {matrix.shape[1]}"
        )
    estimate = matrix @ coef - values
    covariance = matrix @ vcov @ matrix.T
    if np.linalg.matrix_rank(covariance) < len(covariance):
        raise InvalidDataError("the contrasts determine each other: leave some out")
    statistic = float(estimate @ np.linalg.solve(covariance, estimate))
    labels = tuple(_label(row, value, terms) for row, value in zip(matrix, values, strict=True))
    return Contrast(
        estimate,
        np.sqrt(np.diag(covariance)),
        covariance,
        statistic,
        len(matrix),
        float(stats.chi2.sf(statistic, len(matrix))),
        labels,
    )


def _label(row: np.ndarray, value: float, terms: tuple[str, ...]) -> str:
    """Return a contrast as text, such as ``x1 - 2 x2 - 0.5``."""
    parts = [
        (w, "" if abs(w) == 1 else f"{abs(w):g} ", t) for w, t in zip(row, terms, strict=True)
    ]
    pieces = [("-" if w < 0 else "+", size + term) for w, size, term in parts if w]
    if value:
        pieces.append(("-" if value > 0 else "+", f"{abs(value):g}"))
    if not pieces:
        return "0"
    (sign, first), *rest = pieces
    return ("-" if sign == "-" else "") + first + "".join(f" {s} {text}" for s, text in rest)
