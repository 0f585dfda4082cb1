"""Searches in lockstep find what they find one after another, in fewer calls."""

import threading

import numpy as np
import pytest
from scipy import optimize

from bayeskit.inference.engines.ensemble.lockstep import in_lockstep

STARTS = np.array([[-1.2, 1.0], [0.0, 0.0], [3.0, -2.0], [1.0, 1.0]])


def rosenbrock(points):
    return [(float(optimize.rosen(x)), optimize.rosen_der(x)) for x in points]


def climb(value, start):
    found = optimize.minimize(value, start, jac=True, method="L-BFGS-B")
    return found.x, found.nfev


def test_results_are_those_of_one_search_after_another():
    alone = [climb(lambda x: rosenbrock(x[None])[0], start) for start in STARTS]
    sizes = []

    def evaluate(points):
        sizes.append(len(points))
        return rosenbrock(points)

    together = in_lockstep(climb, STARTS, evaluate)
    for (x, num), (other, other_num) in zip(together, alone, strict=True):
        np.testing.assert_array_equal(x, other)
        assert num == other_num
    calls = [num for _, num in alone]
    # Every call answers all searches that still run.
    assert sizes == [sum(num > i for num in calls) for i in range(max(calls))]


def test_no_search_is_no_call():
    assert in_lockstep(climb, [], rosenbrock) == []


@pytest.mark.parametrize("where", ["search", "evaluate"])
def test_an_error_ends_all_searches(where):
    def search(value, start):
        for i in range(5):
            value(start + i)
            if where == "search" and start[0] == 3.0 and i == 2:
                raise ZeroDivisionError("planted")
        return start

    def evaluate(points):
        if where == "evaluate" and points[0, 0] > 0.0:
            raise ZeroDivisionError("planted")
        return rosenbrock(points)

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="planted"):
        in_lockstep(search, STARTS, evaluate)
    assert threading.active_count() == before
