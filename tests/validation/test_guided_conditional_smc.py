"""A mistake of guided conditional filters that long runs do not show, to the last digit.

In a guided filter the weight of a particle depends on its parent. The reference trajectory has
its own past, and its weight must use that and not a parent drawn by resampling. On a chain of
two states and two times, with two particles, one step of the wrong filter changes the mass of
some path by 0.014488578918604576, as plain loops and the enumeration of all paths both say;
one step of the right filter changes none by more than rounding.
"""

import itertools
from functools import partial

import numpy as np
import pytest

from bayeskit.validation import validate
from bayeskit.validation.exact import invariance_discrepancy
from tests.inference.finite_models import Chain, path_measure
from tests.mutants.smoothing import RESAMPLED_PARENT, conditional_filter_step

# Largest change of the mass of a path by one step of the wrong filter, from the loops below.
WRONG = 0.014488578918604576


def two_state_chain():
    """Two states, two times, and a proposal that is not the transition."""
    rng = np.random.default_rng(0)
    rows = lambda *shape: np.log(rng.dirichlet(np.ones(2), shape or None))
    transition, initial, proposal = rows(2), rows(), rows(2)
    potential = np.log(rng.random((2, 2)) + 0.1)
    return Chain(initial, transition, proposal, potential)


def transition_matrix(chain, resampled_parent):
    """Transition matrix of the filter with two particles on the four paths, by plain loops."""
    initial, transition, proposal, potential = map(np.exp, chain)
    both = range(2)
    paths = list(itertools.product(both, both))
    matrix = np.zeros((4, 4))
    for row, (r0, r1) in enumerate(paths):
        # The other particle: its start, its ancestor, where it goes; and the fresh parent.
        for x0, ancestor, x1, fresh in itertools.product(both, repeat=4):
            before = (r0, x0)
            weights = potential[0, list(before)]
            weights = weights / weights.sum()
            parent = before[ancestor]
            drawn = initial[x0] * weights[ancestor] * proposal[parent, x1] * weights[fresh]
            origin = before[fresh] if resampled_parent else r0
            last = np.array(
                [
                    potential[1, r1] * transition[origin, r1] / proposal[origin, r1],
                    potential[1, x1] * transition[parent, x1] / proposal[parent, x1],
                ]
            )
            last = last / last.sum()
            matrix[row, row] += drawn * last[0]
            matrix[row, paths.index((parent, x1))] += drawn * last[1]
    return matrix


@pytest.mark.parametrize(("planted", "figure"), [("", 0.0), (RESAMPLED_PARENT, WRONG)])
def test_largest_change_of_a_path(planted, figure):
    chain = two_state_chain()
    start = path_measure(chain)
    step = partial(conditional_filter_step, chain=chain, planted=planted)

    enumerated = invariance_discrepancy(step, start).invariance
    assert enumerated == pytest.approx(figure, abs=1e-14)

    pi = start.mass / start.mass.sum()
    by_loops = np.abs(pi @ transition_matrix(chain, bool(planted)) - pi).max()
    assert by_loops == pytest.approx(figure, abs=1e-14)


def test_validate_tells_right_from_wrong():
    chain = two_state_chain()
    step = partial(conditional_filter_step, chain=chain)
    assert validate(step, start=path_measure(chain)).verdict == "pass"
    report = validate(partial(step, planted=RESAMPLED_PARENT), start=path_measure(chain))
    assert report.verdict == "fail"
    assert max(check.discrepancy for check in report.tests) == pytest.approx(WRONG, abs=1e-14)
