"""A report reads well, stores as JSON, and raises unless it is a pass."""

import json

import numpy as np
import pytest

from bayeskit.errors import ValidationFailed
from bayeskit.validation import Check, Power, Report
from bayeskit.validation.report import plain_key


def report(verdict="pass", tests=None, **options):
    power = Power(0.02, 0.99, 0.018, (100, 400), 3, "finds a shift of 0.018")
    tests = tests or (
        Check(name="the mean of x[0]", passed=True, statistic=1.5, p_value=0.4, words="w"),
        Check(name="cached values", passed=True, discrepancy=0.0),
    )
    fields = {
        "verdict": verdict, "block": "MyKernel()", "law": "L3 invariant: π K = π",
        "tests": tests, "worst": "the mean of x[0] is 0.031 ± 0.002 too large",
        "power": power, "alpha": 1e-6, "seconds": 1.25, "key": 3, "notes": ("a note",),
    }  # fmt: skip
    return Report(**{**fields, **options})


def test_pass_raises_nothing():
    assert report().raise_if_failed() is None


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        ("fail", r"MyKernel\(\) does not keep its law \(L3 invariant: π K = π\): the mean of"),
        ("inconclusive", r"validation of MyKernel\(\) is inconclusive, which is no pass"),
    ],
)
def test_everything_else_raises_with_what_was_found(verdict, message):
    with pytest.raises(ValidationFailed, match=message) as caught:
        report(verdict).raise_if_failed()
    assert isinstance(caught.value, AssertionError)
    assert "0.031 ± 0.002 too large" in str(caught.value)


def test_text_names_what_matters():
    lines = str(report("fail")).splitlines()
    assert lines[0] == "FAIL  MyKernel()"
    for start in ("law", "worst", "power", "cost", "note"):
        assert any(line.startswith(start) for line in lines), start
    assert "1.2 s of CPU time, false alarms at most 1e-06, key=3" in str(report(seconds=1.24))
    assert "no false alarms" in str(report(alpha=0.0))


def test_table_shows_failures_first_and_counts_the_rest():
    tests = [
        Check(name=f"test {i}", passed=True, p_value=0.5, statistic=0.1) for i in range(30)
    ]
    tests.append(Check(name="bad", passed=False, p_value=1e-12, statistic=7.0, model="ring"))
    table = str(report("fail", tuple(tests))).split("\n\n")[1].splitlines()
    assert "discrepancy" not in table[0]
    assert table[1].startswith("FAIL  ring: bad") and table[1].endswith("7.00    1e-12")
    assert table[-1] == "... and 23 less suspicious ones"
    many = tuple(Check(name=f"bad {i}", passed=False, discrepancy=1.0) for i in range(40))
    assert len(str(report("fail", many)).split("\n\n")[1].splitlines()) == 1 + 16 + 1


def test_dict_goes_through_json():
    tests = (Check(name="a", passed=True, statistic=np.float64(1.5), p_value=0.5),)
    stored = json.loads(json.dumps(report(tests=tests).to_dict()))
    assert stored["verdict"] == "pass"
    assert stored["tests"][0]["statistic"] == 1.5
    assert stored["power"]["replicates"] == [100, 400]
    assert json.dumps(report(power=None).to_dict())


def test_keys_are_kept_as_numbers():
    import jax

    assert plain_key(np.int64(4)) == 4
    raw = plain_key(jax.random.PRNGKey(1))
    assert plain_key(jax.random.key(1)) == raw
    assert isinstance(raw[0], int)
