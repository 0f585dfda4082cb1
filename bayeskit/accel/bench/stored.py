"""Rows as lines of JSON, and whether ratios have grown since they were stored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "TOLERANCE",
    "Comparison",
    "Slower",
    "case_of",
    "compare",
    "read",
    "title",
    "to_line",
    "write",
]

Row = dict[str, Any]

#: A ratio may be this much larger than the stored one.
TOLERANCE = 1.25
_CASE = ("kernel", "num_particles", "batch", "dim", "regime", "length", "platform", "mode")
_WHO = ("package", "name", "dtype")
_SECONDS = ("ns_per_particle", "first_call_s")


class Slower(NamedTuple):
    """A ratio that has grown."""

    row: Row
    ratio: str
    stored: float
    now: float

    @property
    def identity(self) -> tuple:
        """What tells this ratio from all others."""
        return case_of(self.row), *_who(self.row), self.ratio

    def __str__(self) -> str:
        change = 100 * (self.now / self.stored - 1)
        return (
            f"{title(self.row)}: {self.ratio} is {self.now:.4g}, stored {self.stored:.4g} "
            f"(+{change:.0f} %)"
        )


class Comparison(NamedTuple):
    """The outcome of :func:`compare`.

    Parameters
    ----------
    num_compared : int
        How many ratios were compared.
    slower : list of Slower
    notes : list of str
        What could not be compared, and what differs between the two machines.
    """

    num_compared: int
    slower: list[Slower]
    notes: list[str]


def read(path: Path) -> list[Row]:
    """Return the rows of a file; a ValueError names the first bad line."""
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or "kernel" not in row or "package" not in row:
            raise ValueError(f"{path}, line {number} is no row of this benchmark")
        rows.append(row)
    return rows


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the rows, all or none of them."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text("".join(to_line(row) + "\n" for row in rows), "utf-8")
    os.replace(unfinished, path)


def to_line(row: Row) -> str:
    """Return a row as one line of JSON, which has no infinities."""
    return json.dumps({k: None if v == float("inf") else v for k, v in row.items()})


def case_of(row: Row) -> tuple:
    """Return what tells the case of a row from others."""
    return tuple(row.get(name) for name in _CASE)


def title(row: Row) -> str:
    """Return a row's case and contender in words."""
    parts = [f"{row['package']} {row['name']}", row["kernel"]]
    if "length" in row:
        parts.append(f"length {row['length']}")
    else:
        rows = f"{row['batch']} x " if row["batch"] > 1 else ""
        parts.append(f"{rows}{row['num_particles']} particles")
        parts += [f"d = {row['dim']}"] if row["dim"] > 1 else []
        parts += [row["regime"]] if row["regime"] else []
    return ", ".join(parts)


def compare(now: Sequence[Row], stored: Sequence[Row]) -> Comparison:
    """Compare our ratios with stored ones; rows that only one side has are left out.

    The ratio to the best peer is taken to the peer that was the best when it was stored.
    """
    before = {(case_of(row), *_who(row)): row for row in stored}
    seconds = {(case_of(row), f"{row['package']} {row['name']}"): _seconds(row) for row in now}
    num_compared, slower, notes = 0, [], []
    for row in now:
        old = before.get((case_of(row), *_who(row)))
        if old is None or row["package"] != "bayeskit":
            continue
        ratios = {"ratio_to_copy": row.get("ratio_to_copy")}
        peer = old.get("best_peer")
        if peer is not None:
            of_peer = seconds.get((case_of(row), peer))
            if of_peer is None:
                notes.append(f"{title(row)}: {peer} was not measured")
            else:
                ratios["ratio_to_best_peer"] = _seconds(row) / max(of_peer, 1e-12)
        for name, ratio in ratios.items():
            if ratio is None or old.get(name) is None:
                continue
            num_compared += 1
            if ratio > TOLERANCE * old[name]:
                slower.append(Slower(row, name, old[name], ratio))
    notes = sorted(set(notes)) + _differences(now, stored)
    return Comparison(num_compared, slower, notes)


def _who(row: Row) -> tuple:
    return tuple(row.get(name) for name in _WHO)


def _seconds(row: Row) -> float:
    return next(row[name] for name in _SECONDS if name in row)


def _differences(now: Sequence[Row], stored: Sequence[Row]) -> list[str]:
    if not now or not stored:
        return []
    notes = []
    if now[0].get("device") != stored[0].get("device"):
        notes.append(f"stored on {stored[0].get('device')}, here is {now[0].get('device')}")
    here, there = now[0].get("versions", {}), stored[0].get("versions", {})
    for package in sorted({*here, *there} - {"bayeskit"}):
        if here.get(package) != there.get(package):
            notes.append(
                f"stored with {package} {there.get(package, 'missing')}, "
                f"here is {here.get(package, 'missing')}"
            )
    return notes
