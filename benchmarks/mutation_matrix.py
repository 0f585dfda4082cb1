"""Which check finds which mistake: runs every planted bug under every check that applies.

Each planted bug exists twice, right and wrong. A check finds it if the wrong code fails while
the right code does not. Writes the results as JSON, and the page of the documentation from
them::

    python benchmarks/mutation_matrix.py --out benchmarks/results/planted_bugs.json
    python benchmarks/mutation_matrix.py --page benchmarks/results/planted_bugs.json
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bayeskit.errors import BayeskitError  # noqa: E402
from bayeskit.validation import Level  # noqa: E402
from tests.mutants import MUTANTS  # noqa: E402
from tests.mutants.mutant import CHECKS, SAMPLING  # noqa: E402
from tests.mutants.sampled import validate_sampled  # noqa: E402

PAGE = ROOT / "docs" / "explanation" / "planted_bugs.md"
MEANING = {
    "build": "the laws of the parts do not compose, so the whole cannot be built",
    "keys": "a key is used twice, or a draw hides in a raw `vmap`, `scan` or `cond`",
    "exact": "every path of the random draws is enumerated",
    "sampled": "the finite double run with real random numbers, at level quick",
    "quadrature": "a kernel on a line, integrated on a grid",
    "pointwise": "identities that hold at every point: involutions, Jacobians, cached values",
    "exact start": "one or two steps from exact draws",
    "ranks": "ranks along chains through exact draws",
    "joint": "steps from exact joint draws of parameters and data",
    "calibration": "ranks of the truth in the posteriors of many fits",
    "evidence": "means of the estimate of the evidence and of weighted functions",
    "same law": "draws of two implementations compared",
    "same law, exact": "the laws of two implementations, every path enumerated",
    "growth": "errors as the number of particles grows",
    "scale": "a million particles",
}


BLIND_SPOTS = [
    "- 15, one retry, by ranks: it shifts little, and ranks take fewer replicates.",
    "- 16 in quadrature and by ranks: these models have no place where the density is NaN.",
    "- 37 from exact draws: shrinking towards the middle is wrong only where a slice has a",
    "  hole, and then by little.",
    "- 49, the wrong side: the side matters where the uniform meets a step of the cumulative",
    "  sum, which has no length. Enumeration walks intervals and skips it, and draws do not",
    "  meet it.",
    "- 53 (W instead of N W), 54 and 56 in exact mode: the mean offspring are right, which is",
    "  all that unbiased resampling claims. Compared with the scheme that they claim to be,",
    "  they differ, by sampling and with every path enumerated (same law).",
    "- 72, parents that are not resampled: it is not sampled, because a loop that runs refuses",
    "  a number of particles that doubles in each round.",
    "- 73 in evidence: the means are right. Particles that share their noise do not average it",
    "  out, which the growth of the error with the number of particles shows.",
    "- 77 by sampling: no run has any evidence, so that there is no mean to test, and the",
    "  verdict is inconclusive, which is no pass.",
    "- 81 by sampling: one step of a conditional filter that is wrong in the weight of one",
    "  particle moves every mean by less than a hundredth of a standard deviation. Level full",
    "  finds it in a few seconds.",
    "- 88: a trigger that watches the wrong spread costs time and no truth. Both triggers look",
    "  at the particles, so the law allows a bias that vanishes, and the verdict is",
    "  inconclusive, which is no pass.",
]


def run_check(check, planted: bool) -> dict:
    """Return the verdict of one call, what it said, and its CPU seconds."""
    began = time.process_time()
    try:
        report = check(planted)
        verdict, words = report.verdict, report.worst
    except BayeskitError as error:
        verdict, words = "refused", f"{type(error).__name__}: {error}"
    seconds = round(time.process_time() - began, 2)
    return {"verdict": verdict, "seconds": seconds, "words": words if planted else ""}


# One stage, as long as the last of level quick.
_ONE_STAGE = Level(num_stages=1, growth=4, first=1_600_000, num_frequencies=16)
# Twice what chance makes: smaller changes are not worth the wait of level full.
_WORTH_FULL = 0.005


def look_closer(check) -> dict:
    """Return by how much code that sampling let go moves a mean, and whether more finds it.

    The effect is the largest mean of a test function in its standard deviations, chance
    included, which alone makes about 3 / sqrt(n).
    """
    report = check(True, by=functools.partial(validate_sampled, amount=_ONE_STAGE))
    statistics = [abs(test.statistic) for test in report.tests if test.statistic is not None]
    effect = max(statistics, default=0.0) / math.sqrt(_ONE_STAGE.first)
    if not math.isfinite(effect):
        # Every run gave nothing to take a mean of.
        return {"effect": None, "full": "not run"}
    result = {"effect": round(effect, 4), "full": "not run"}
    if effect >= _WORTH_FULL:
        result["full"] = check(
            True, by=functools.partial(validate_sampled, amount="full")
        ).verdict
    return result


def run_all(numbers: list[int] | None, only: list[str] | None) -> list[dict]:
    rows = []
    for mutant in MUTANTS:
        if numbers and mutant.number not in numbers:
            continue
        found = {}
        for name, check in mutant.checks.items():
            if only and name not in only:
                continue
            right, wrong = run_check(check, False), run_check(check, True)
            found[name] = {"right": right, "wrong": wrong}
            if name == "sampled" and not is_found(found[name]):
                found[name]["closer"] = look_closer(check)
            print(
                f"{mutant.number:3} {name:15} {right['verdict']:12} {wrong['verdict']:12} "
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


def merged(rows: list[dict], before: list[dict]) -> list[dict]:
    """Return the rows of all mutants that there are, new results in place of old ones."""
    known = {(row["number"], row["name"]): row["checks"] for row in before}
    for row in rows:
        key = row["number"], row["name"]
        known[key] = known.get(key, {}) | row["checks"]
    return [
        {
            "number": mutant.number,
            "name": mutant.name,
            "family": mutant.family,
            "checks": {name: checks[name] for name in mutant.checks if name in checks},
        }
        for mutant in MUTANTS
        if (checks := known.get((mutant.number, mutant.name)))
    ]


def is_found_by_sampling(row: dict) -> bool:
    """Tell whether a check that draws, and enumerates nothing, finds a mistake."""
    return any(is_found(row["checks"][name]) for name in SAMPLING if name in row["checks"])


def missed_by_sampling(rows: list[dict]) -> list[str]:
    """Return the part of the page on what only other checks find."""
    lines = [
        "",
        "## Missed by sampling at level quick",
        "",
        "The effect is the largest change of the mean of a test function, in standard",
        f"deviations, over {_ONE_STAGE.first / 1e6:.1f} million replicates; chance alone makes",
        f"about {3.0 / math.sqrt(_ONE_STAGE.first):.3f}. From {_WORTH_FULL} on, level full was",
        "tried.",
        "",
        "| | mistake | effect | level full |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if is_found_by_sampling(row):
            continue
        closer = row["checks"].get("sampled", {}).get("closer", {"full": "not run"})
        effect = closer.get("effect")
        words = "no mean to test" if effect is None else f"{effect:.4f}"
        if not set(SAMPLING) & set(row["checks"]):
            words = "not sampled"
        full = {"fail": "finds it", "pass": "blind"}.get(closer["full"], closer["full"])
        lines.append(f"| {row['number']} | {row['name']} | {words} | {full} |")
    return lines


def write_page(rows: list[dict], path: Path) -> None:
    used = [name for name in CHECKS if any(name in row["checks"] for row in rows)]
    kinds = {row["number"] for row in rows}
    killed = [row for row in rows if any(map(is_found, row["checks"].values()))]
    found_kinds = {row["number"] for row in killed}
    alarms = [
        (row, name)
        for row in rows
        for name, result in row["checks"].items()
        if result["right"]["verdict"] in ("fail", "refused")
    ]
    sampled_kinds = {row["number"] for row in rows if is_found_by_sampling(row)}
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
        f"These {len(kinds)} kinds of mistake are known from inference code of all sorts. Each",
        "is written down as a small piece of code that exists twice, right and wrong",
        f"(`tests/mutants`), some in two variants: {len(rows)} in all. A check finds the",
        "mistake (●) if it stops the wrong code and lets the right code go; ○ means that it",
        "looked and is blind to this mistake.",
        "",
        f"**{len(found_kinds)} of {len(kinds)}** kinds are found by at least one check at its",
        f"default call, and **{len(sampled_kinds)} of {len(kinds)}** by sampling alone, with",
        "real random numbers at level quick or less. A call takes at most",
        f"{slowest:.0f} s of CPU time, compilation included. False alarms on the right code:",
        f"**{len(alarms)}**.",
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
        members = [row for row in rows if row["family"] == family]
        # Only the checks that apply to a member, so that the table fits the page.
        columns = [name for name in used if any(name in row["checks"] for row in members)]
        lines += ["", f"## {family}", "", f"| | mistake | {' | '.join(columns)} |"]
        lines.append("|---|---|" + "---|" * len(columns))
        for row in members:
            marks = [
                ("●" if is_found(row["checks"][name]) else "○") if name in row["checks"] else ""
                for name in columns
            ]
            lines.append(f"| {row['number']} | {row['name']} | {' | '.join(marks)} |")
    blind = [row for row in rows if row not in killed]
    if blind:
        lines += ["", "## Not found by any check", ""]
        lines += [f"- {row['number']}: {row['name']}" for row in blind]
    lines += missed_by_sampling(rows)
    lines += ["", "## What the blind spots say", "", *BLIND_SPOTS]
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
    parser.add_argument("--numbers", type=int, nargs="*", help="only these mutants")
    parser.add_argument("--checks", nargs="*", help="only these kinds of check")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(json.loads(arguments.page.read_text(encoding="utf-8")), PAGE)
        return
    rows = run_all(arguments.numbers, arguments.checks)
    if arguments.out and arguments.out.exists():
        rows = merged(rows, json.loads(arguments.out.read_text(encoding="utf-8")))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
