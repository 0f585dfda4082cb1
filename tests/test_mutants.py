"""The validator finds planted bugs, and lets the right code go.

The page "Planted bugs" of the documentation is made from the same registry.
"""

from pathlib import Path

import pytest

from bayeskit.errors import BayeskitError
from tests.mutants import MUTANTS
from tests.mutants.mutant import CHECKS, SAMPLING

# Checks without chance are quick; the others run with the slow tests.
DETERMINISTIC = ("build", "keys", "exact", "quadrature", "pointwise", "same law, exact")


def cases(mutants=MUTANTS):
    for mutant in mutants:
        for name in mutant.checks:
            marks = () if name in DETERMINISTIC else (pytest.mark.slow,)
            case = f"{mutant.number}-{name}-{mutant.name}"[:60]
            yield pytest.param(mutant, name, id=case, marks=marks)


def verdict_of(check, planted):
    try:
        return check(planted).verdict
    except BayeskitError as error:
        return f"refused: {error}"


@pytest.mark.parametrize(("mutant", "name"), list(cases()))
def test_mutant(mutant, name):
    """Statistical checks have a false-alarm rate of 1e-6 a call."""
    right = verdict_of(mutant.checks[name], False)
    assert right in ("pass", "inconclusive")
    wrong = verdict_of(mutant.checks[name], True)
    if name in mutant.found_by:
        assert right == "pass"
        assert wrong == "fail" or wrong.startswith("refused")
        if name in ("build", "keys"):
            assert wrong.startswith("refused")
    else:
        assert wrong in ("pass", "inconclusive"), "found: list it in found_by"


def test_there_are_97_kinds_of_bugs():
    assert sorted({mutant.number for mutant in MUTANTS}) == list(range(1, 98))


def test_every_mutant_is_complete():
    for mutant in MUTANTS:
        assert set(mutant.found_by) <= set(mutant.checks) <= set(CHECKS), mutant.name
        assert mutant.checks, mutant.name
    assert len({(mutant.number, mutant.name) for mutant in MUTANTS}) == len(MUTANTS)


def test_at_least_95_percent_are_found():
    found = {mutant.number for mutant in MUTANTS if mutant.found_by}
    assert len(found) >= 0.95 * 97


def test_at_least_90_percent_are_found_by_sampling():
    found = {m.number for m in MUTANTS if set(m.found_by) & set(SAMPLING)}
    assert len(found) >= 0.9 * 97


def test_the_page_of_the_documentation_lists_them_all():
    """Else write it anew: benchmarks/mutation_matrix.py."""
    page = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "planted_bugs.md"
    text = page.read_text("utf-8")
    rows = text.splitlines()
    for ways in (CHECKS, SAMPLING):
        found = {m.number for m in MUTANTS if set(m.found_by) & set(ways)}
        assert f"**{len(found)} of 97**" in text
    for mutant in MUTANTS:
        row = next(r for r in rows if r.startswith(f"| {mutant.number} | {mutant.name} |"))
        assert row.count("●") == len(mutant.found_by), row
        assert row.count("○") == len(mutant.checks) - len(mutant.found_by), row
