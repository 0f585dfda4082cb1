"""Which check finds which mistake: runs every planted bug under every check that applies.

Each planted bug exists twice, right and wrong. A check finds it if the wrong code fails while
the right code does not. Writes the results as JSON, and the page of the documentation from
them::

    python benchmarks/mutation_matrix.py --out benchmarks/results/planted_bugs.json
    python benchmarks/mutation_matrix.py --page benchmarks/results/planted_bugs.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bayeskit.errors import BayeskitError  # noqa: E402
from tests.mutants import MUTANTS  # noqa: E402
from tests.mutants.mutant import CHECKS  # noqa: E402

PAGE = ROOT / "docs" / "explanation" / "planted_bugs.md"
MEANING = {
    "build": "the laws of the parts do not compose, so the whole cannot be built",
    "keys": "a key is used twice, or a draw hides in a raw `vmap`, `scan` or `cond`",
    "exact": "every path of the random draws is enumerated",
    "quadrature": "a kernel on a line, integrated on a grid",
    "pointwise": "identities that hold at every point: involutions, Jacobians, cached values",
    "exact start": "one or two steps from exact draws",
    "ranks": "ranks along chains through exact draws",
    "joint": "steps from exact joint draws of parameters and data",
    "calibration": "ranks of the truth in the posteriors of many fits",
    "evidence": "means of the estimate of the evidence and of weighted functions",
    "same law": "draws of two implementations compared",
    "growth": "errors as the number of particles grows",
    "scale": "a million particles",
}


def run_check(check, planted: bool) -> dict:
    """Return the verdict of one call, what it said, and its CPU seconds."""
    began = time.process_time()
    try:
        report = check(planted)
        verdict, words = report.verdict, report.worst
    except BayeskitError as error:
        verdict, words = "refused", f"{type(error).__name__}: {error}"
    return {
        "verdict": verdict,
        "words": words,
        "seconds": round(time.process_time() - began, 2),
    }


def run_all(numbers: list[int] | None) -> list[dict]:
    rows = []
    for mutant in MUTANTS:
        if numbers and mutant.number not in numbers:
            continue
        found = {}
        for name, check in mutant.checks.items():
            right, wrong = run_check(check, False), run_check(check, True)
            found[name] = {"right": right, "wrong": wrong}
            print(
                f"{mutant.number:3} {name:12} {right['verdict']:12} {wrong['verdict']:12} "
                f"{right['seconds']:6.1f} {wrong['seconds']:6.1f}  {mutant.name}",
                flush=True,
            )
        rows.append(
            {
                "number": mutant.number,
                "name": mutant.name,
                "family": mutant.family,
                "checks": found,
            }
        )
    return rows


def is_found(result: dict) -> bool:
    """Tell whether a check passes the right code and stops the wrong one."""
    return result["right"]["verdict"] in ("pass", "inconclusive") and result["wrong"][
        "verdict"
    ] in ("fail", "refused")


def write_page(rows: list[dict], path: Path) -> None:
    used = [name for name in CHECKS if any(name in row["checks"] for row in rows)]
    killed = [row for row in rows if any(map(is_found, row["checks"].values()))]
    alarms = [
        (row, name)
        for row in rows
        for name, result in row["checks"].items()
        if result["right"]["verdict"] in ("fail", "refused")
    ]
    slowest = max(
        result[side]["seconds"]
        for row in rows
        for result in row["checks"].values()
        for side in ("right", "wrong")
    )
    lines = [
        "# Planted bugs",
        "",
        "<!-- Written by benchmarks/mutation_matrix.py: do not edit. -->",
        "",
        f"These {len(rows)} mistakes are known from inference code of all kinds. Each is",
        "written down as a small piece of code that exists twice, right and wrong",
        "(`tests/mutants`). A check finds the mistake (●) if it stops the wrong code and lets",
        "the right code go; ○ means that it looked and is blind to this mistake.",
        "",
        f"**{len(killed)} of {len(rows)}** are found by at least one check;",
        f"false alarms on the right code: **{len(alarms)}**; the slowest single call took",
        f"{slowest:.0f} s of CPU time, compilation included.",
        "",
        "| check | how it looks | applied | found |",
        "|---|---|---|---|",
    ]
    for name in used:
        results = [row["checks"][name] for row in rows if name in row["checks"]]
        found = sum(map(is_found, results))
        lines.append(f"| {name} | {MEANING[name]} | {len(results)} | {found} |")
    families = list(dict.fromkeys(row["family"] for row in rows))
    for family in families:
        lines += ["", f"## {family}", "", f"| | mistake | {' | '.join(used)} |"]
        lines.append("|---|---|" + "---|" * len(used))
        for row in rows:
            if row["family"] != family:
                continue
            marks = [
                ("●" if is_found(row["checks"][name]) else "○") if name in row["checks"] else ""
                for name in used
            ]
            lines.append(f"| {row['number']} | {row['name']} | {' | '.join(marks)} |")
    blind = [row for row in rows if row not in killed]
    if blind:
        lines += ["", "## Not found by any check", ""]
        lines += [f"- {row['number']}: {row['name']}" for row in blind]
    lines += [
        "",
        "## Run it yourself",
        "",
        "```bash",
        "python benchmarks/mutation_matrix.py --out planted_bugs.json",
        "python benchmarks/mutation_matrix.py --page planted_bugs.json",
        "```",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the results there")
    parser.add_argument("--page", type=Path, help="write the page from these results")
    parser.add_argument("--numbers", type=int, nargs="*", help="only these")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(json.loads(arguments.page.read_text(encoding="utf-8")), PAGE)
        return
    rows = run_all(arguments.numbers)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
