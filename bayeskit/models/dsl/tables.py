"""Tables of coefficients: as data frames, as text and as LaTeX."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["Summary", "coefficient_table", "normal_quantile", "two_sided_p_values"]

_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "^": r"\^{}",
    "~": r"\~{}",
}


def normal_quantile(level: float) -> float:
    """Return the normal quantile of a two-sided interval of this level."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    return float(stats.norm.ppf(0.5 + 0.5 * level))


def two_sided_p_values(estimate: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Return the two-sided p-values of normal estimates against zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2.0 * stats.norm.sf(np.abs(estimate / se))


def coefficient_table(
    estimate: np.ndarray, se: np.ndarray, terms: Sequence[str], level: float = 0.95
) -> Any:
    """Return a table with columns estimate, se, z, p, lower and upper, by term."""
    import pandas as pd

    half = normal_quantile(level) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        z = estimate / se
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "z": z,
            "p": two_sided_p_values(estimate, se),
            "lower": estimate - half,
            "upper": estimate + half,
        },
        index=pd.Index(terms, name="term"),
    )


@dataclass(frozen=True, eq=False)
class Summary:
    """A table of coefficients with what was done above it and what to mind below it.

    Parameters
    ----------
    header : dict of str
    table : DataFrame
    notes : tuple of str
    level : float
    """

    header: dict[str, str]
    table: Any
    notes: tuple[str, ...]
    level: float

    def __str__(self) -> str:
        width = max(map(len, self.header))
        lines = [f"{name:<{width}}  {value}" for name, value in self.header.items()]
        notes = [f"Note: {note}." for note in self.notes]
        return "\n".join([*lines, "", self._table().to_string(), "", self._foot(), *notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in self.header.items()
        )
        foot = "".join(f"<p>{html.escape(t)}</p>" for t in (self._foot(), *self.notes))
        return f"<table>{head}</table>{self._table().to_html()}{foot}"

    def to_frame(self) -> Any:
        """Return the table alone, with numbers that are not rounded."""
        return self.table

    def to_latex(self, caption: str | None = None, label: str | None = None) -> str:
        """Return the table in LaTeX, with rules of the package booktabs.

        Parameters
        ----------
        caption, label : str, optional
            With a caption the table floats.
        """
        percent = f"{100 * self.level:g}\\%"
        lines = [
            r"\begin{tabular}{lrrrrr}",
            r"\toprule",
            rf"Term & Estimate & Std. error & $z$ & $p$ & {percent} interval \\",
            r"\midrule",
        ]
        for term, row in self.table.iterrows():
            p = "$<$0.0001" if row.p < 1e-4 else f"{row.p:.4f}"
            numbers = " & ".join(
                _signed(v, d) for v, d in ((row.estimate, 4), (row.se, 4), (row.z, 2))
            )
            interval = f"[{_signed(row.lower, 4)}, {_signed(row.upper, 4)}]"
            lines.append(rf"{_escaped(str(term))} & {numbers} & {p} & {interval} \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        if caption is None:
            return "\n".join(lines)
        name = [] if label is None else [rf"\label{{{label}}}"]
        caption_line = rf"\caption{{{caption}}}"
        return "\n".join(
            [r"\begin{table}", r"\centering", caption_line, *name, *lines, r"\end{table}"]
        )

    def _table(self) -> Any:
        shown = self.table.copy()
        for column, digits in (
            ("estimate", 4),
            ("se", 4),
            ("z", 2),
            ("lower", 4),
            ("upper", 4),
        ):
            shown[column] = [f"{v:.{digits}f}" for v in self.table[column]]
        shown["p"] = ["<0.0001" if p < 1e-4 else f"{p:.4f}" for p in self.table["p"]]
        return shown

    def _foot(self) -> str:
        return (
            f"Two-sided p-values; {100 * self.level:g} % normal intervals; variances robust "
            "(HC0), without a factor for small samples."
        )


def _signed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "$-$")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
