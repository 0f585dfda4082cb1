"""Forward-only additive smoothing, enumerated; mistakes in the update are caught."""

import itertools

import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import MissingDensityError
from bayeskit.inference.algorithms.paris import UpdateStatistic
from bayeskit.inference.backward import Exact
from bayeskit.validation import Atoms, exact
from tests.inference import finite_models as fm
from tests.inference.smoothing.wrong_draws import NoFilterWeight, SwappedArguments, replaced

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
GUIDED = fm.last_state_model(CHAIN)
BOOTSTRAP = fm.bootstrap_model(CHAIN)
FIRST = np.array([0.3, 1.1])
ADDED = np.random.default_rng(5).random((3, 2, 2)) + 0.1


def first(x):
    return fm.log_table(FIRST)[x]


def added(t, before, x):
    return fm.log_table(ADDED)[t, before, x]


def additive_measure():
    """γ(h 1{x_T = k}) for every k, by summing over all paths."""
    paths = fm.path_measure(CHAIN)
    value = [
        FIRST[path[0]]
        + sum(ADDED[t, a, b] for t, (a, b) in enumerate(itertools.pairwise(path), 1))
        for path in paths.state
    ]
    return Atoms(np.arange(2), np.bincount(paths.state[:, -1], paths.mass * value))


def discrepancy(block):
    result = exact.push(block, fm.NOTHING, exact.Enumeration())
    weights = result.mass[:, None] * np.exp(result.state.log_weights)
    particles = result.state.particles
    mass = weights * particles.statistic
    return exact.discrepancy(particles.state.ravel(), mass.ravel(), additive_measure())


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (GUIDED, {"ess_below": None, "scheme": "multinomial"}),
        (GUIDED, {"method": "mcmc", "num_draws": 1, "ess_below": 0.7}),
        (BOOTSTRAP, {"method": "rejection", "num_draws": 1, "max_trials": 1}),
    ],
)
def test_law(model, options, x64):
    block = bi.paris(model, 2, first, added, **options)
    assert discrepancy(block) < fm.TOLERANCE
    fm.assert_exact(
        block,
        fm.last_state_measure(CHAIN),
        observed=lambda particles: particles.state,
    )
    assert "update additive statistic" in block.explain()


class LateWeights(UpdateStatistic):
    """Planted: predecessors are drawn by the weights of this time."""

    def run(self, key, population=None):
        history = {}

        class Watched(type(self.body)):
            def run(self, key, population=None):
                history["now"], info = super().run(key, population)
                return history["now"], info

        class Late(Exact):
            def draw(self, key, model, time, before, log_weights, ancestors, after):
                late = history["now"].log_weights
                return super().draw(key, model, time, before, late, ancestors, after)

        body = Watched(self.body.first, self.body.second)
        right = UpdateStatistic(body, self.model, self.increment, Late(), self.num_draws)
        return right.run(key, population)


@pytest.mark.parametrize(
    ("kind", "draw"),
    [
        (UpdateStatistic, NoFilterWeight()),
        (UpdateStatistic, SwappedArguments()),
        (LateWeights, Exact()),
    ],
)
def test_wrong_updates_are_caught(kind, draw, x64):
    right = bi.paris(GUIDED, 2, first, added, ess_below=None, num_draws=1)
    body = right.second.body.body
    wrong = right.first >> bi.scan(kind(body, GUIDED, added, draw, 1))
    error = discrepancy(wrong)
    print(f"{kind.__name__} with {draw}: discrepancy {error:.2e}")
    assert error > fm.CAUGHT


def test_wrong_input():
    with pytest.raises(ValueError, match="num_draws must be at least 1"):
        bi.paris(GUIDED, 2, first, added, num_draws=0)
    with pytest.raises(MissingDensityError, match="log_m_bound"):
        bi.paris(replaced(GUIDED), 2, first, added, method="rejection")
