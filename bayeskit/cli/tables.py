"""Tables that come in from CSV files, and tables that go out as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bayeskit.cli.usage import UsageError
from bayeskit.errors import InvalidDataError

__all__ = ["load_regression", "read_table", "row_decimals", "shown", "text_table"]


def read_table(path: str | Path) -> Any:
    """Return a CSV file with a header line as a DataFrame.

    Raises
    ------
    UsageError
        If there is no such file, or it is no table.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise UsageError(f"{path} is {kind}: give a CSV file")
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        raise UsageError(f"{path} is empty: a header line and rows are needed") from None
    except (pd.errors.ParserError, UnicodeError) as error:
        raise UsageError(f"{path} is no CSV file in UTF-8: {str(error).strip()}") from None
    if len(table.columns) == 1 and any(sign in table.columns[0] for sign in ";\t|"):
        raise UsageError(
            f"{path} has one column only, {table.columns[0]!r}: columns must be separated by "
            "commas"
        )
    return table


def load_regression(
    path: str | Path, target: str, columns: Sequence[str] | None, family: str
) -> tuple[Any, Any]:
    """Return the scaled predictors and the response from a CSV file, checked.

    Raises
    ------
    UsageError
        With the file, the column and the row.
    """
    from bayeskit.models.regression import design_matrix, response

    table = read_table(path)
    if target not in table.columns:
        known = ", ".join(map(repr, table.columns[:20]))
        raise UsageError(f"{path}: there is no column {target!r}: the table has {known}")
    if columns is None:
        columns = [name for name in table.columns if name != target]
        for i, name in enumerate(table.columns):
            if name == f"Unnamed: {i}":
                raise UsageError(
                    f"{path}: column {i} has no name, so it may be an index: name it, or choose "
                    "predictors with --columns"
                )
    elif target in columns:
        raise UsageError(f"{path}: {target!r} is the target, so it cannot be a predictor")
    try:
        design = design_matrix(table, columns)
        return design, response(table[target], family, target)
    except InvalidDataError as error:
        where = " (rows count from 0 below the header)" if " row " in str(error) else ""
        raise UsageError(f"{path}: {error}{where}") from None


def row_decimals(error: float) -> int:
    """Return how many decimals a number with this Monte-Carlo error deserves."""
    if not (math.isfinite(error) and error > 0):
        return 3
    return max(0, math.ceil(-math.log10(error)))


def shown(value: float, decimals: int) -> str:
    """Return a number as text, with a real minus sign and never as -0."""
    if not math.isfinite(value):
        return "–"
    if decimals > 9 or abs(value) >= 1e9:
        return f"{value:.4g}".replace("-", "−")
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with the first column to the left and the others to the right."""
    everything = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(head))]
    lines = []
    for row in everything:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
