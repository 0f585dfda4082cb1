"""Rows as a table to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["render", "shape_of"]

Row = dict[str, Any]

_RUN_COLUMNS = ("", "ns", "x copy", "x peer", "error", "dead", "build s", "")
_BUILD_COLUMNS = ("", "trace s", "lower s", "compile s", "sum", "x peer", "budget", "lines")


def render(rows: Sequence[Row]) -> str:
    """Return all rows as text, a block for each case."""
    lines: list[str] = []
    runs = [row for row in rows if "ns_per_particle" in row]
    builds = [row for row in rows if "ns_per_particle" not in row]
    for title, some, columns, cells in (
        ("Run", runs, _RUN_COLUMNS, _run_cells),
        ("Build", builds, _BUILD_COLUMNS, _build_cells),
    ):
        if not some:
            continue
        lines += [_line(f"{title}:", columns[1:])]
        heading = None
        for row in some:
            if shape_of(row) != heading:
                heading = shape_of(row)
                lines.append(heading)
            lines.append(_line(f"  {row['package']} {row['name']}", cells(row)))
        lines.append("")
    return "\n".join(lines)


def shape_of(row: Row) -> str:
    """Return the case of a row in words."""
    if "length" in row:
        return f"{row['kernel']}, length {row['length']:,}"
    rows = f"{row['batch']:,} x " if row["batch"] > 1 else ""
    dim = f", d = {row['dim']}" if row["dim"] > 1 else ""
    regime = f", {row['regime']}" if row["regime"] else ""
    return f"{row['kernel']}, {rows}{row['num_particles']:,}{dim}{regime}"


def _line(first: str, cells: Sequence[str]) -> str:
    widths = (9, 8, 8, 10, 7, 8)
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=False)]
    return (first.ljust(34) + " ".join([*padded, *cells[len(widths) :]])).rstrip()


def _run_cells(row: Row) -> list[str]:
    build = row.get("trace_s", 0) + row.get("lower_s", 0) + row.get("compile_s", 0)
    dead = row.get("offspring_of_dead")
    return [
        _number(row["ns_per_particle"]),
        _number(row["ratio_to_copy"]),
        _number(row.get("ratio_to_best_peer")),
        _number(row["error"], digits=5),
        "" if dead is None else str(dead),
        f"{build:.2f}" if build else "",
        "WRONG" if row["wrong"] else "",
    ]


def _build_cells(row: Row) -> list[str]:
    parts = [row.get(name) for name in ("trace_s", "lower_s", "compile_s", "first_call_s")]
    return [
        *("" if part is None else f"{part:.2f}" for part in parts),
        _number(row.get("ratio_to_best_peer")),
        _number(row.get("budget_s")),
        str(row.get("num_instructions", "")),
    ]


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.1e}"
    return f"{value:.{digits}g}"
