"""Fixed-lag smoothing: exact for the data that it has seen, and no further."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.inference import law
from bayeskit.inference.blocks import Block
from bayeskit.inference.population import History
from bayeskit.validation import Atoms
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
MODEL = fm.last_state_model(CHAIN)
FILTER = bi.particle_filter(MODEL, 2, scheme="multinomial", ess_below=0.7, history=True)


@dataclass(frozen=True, eq=False, repr=False)
class Lagged(Block):
    """What fixed_lag says about one time, as a population."""

    lag: int
    time: int
    off: int = 0

    @property
    def name(self):
        return f"lag {self.lag} at {self.time}"

    def run(self, key, population=None):
        population, _ = bi.fixed_lag(self.lag).run(key, population)
        lagged = population.history
        return population._replace(
            particles=lagged.particles[self.time + self.off],
            log_weights=lagged.log_weights[self.time],
            history=None,
        ), {}

    def arrow(self, law):
        return law.then(law.measure, self.name)


def marginal(time):
    paths = fm.path_measure(CHAIN)
    return Atoms(np.arange(2), np.bincount(paths.state[:, time], paths.mass))


@pytest.mark.parametrize(("lag", "time"), [(1, 1), (2, 0), (5, 0), (0, 2)])
def test_law_where_the_lag_reaches_the_last_time(lag, time):
    fm.assert_exact(FILTER >> Lagged(lag, time), marginal(time))


def test_off_by_one_is_caught():
    """85: the state of the time after the one that is asked for; a lag that is one short."""
    fm.assert_caught(FILTER >> Lagged(1, 1, off=1), marginal(1))
    lagged, short = (bi.LaggedParticles.of(random_history(), lag) for lag in (2, 1))
    assert np.any(lagged.log_weights != short.log_weights)
    assert np.any(lagged.particles != short.particles)


def random_history():
    rng = np.random.default_rng(2)
    ancestors = rng.integers(0, 6, (5, 6)).astype(np.int32)
    return History(rng.normal(size=(5, 6)), np.log(rng.dirichlet(np.ones(6), 5)), ancestors)


@pytest.mark.parametrize("lag", [0, 1, 2, 4, 9])
def test_what_stands_at_a_time(lag, x64):
    """At t it says what the genealogy says when the history ends at t + lag."""
    history = random_history()
    lagged = bi.LaggedParticles.of(history, lag)
    for t in range(5):
        end = min(t + lag, 4)
        places = np.arange(6)
        for s in range(end, t, -1):
            places = history.ancestors[s][places]
        np.testing.assert_array_equal(lagged.particles[t], history.particles[t][places])
        np.testing.assert_array_equal(lagged.log_weights[t], history.log_weights[end])


def test_a_long_lag_is_the_genealogy():
    population = bi.run(FILTER, 1)
    paths = bi.genealogy(MODEL).run(jax.random.key(0), population)[0].particles
    lagged, _ = bi.fixed_lag(2).run(jax.random.key(0), population)
    np.testing.assert_array_equal(lagged.history.particles.T, paths)
    assert lagged.particles is population.particles


def test_law():
    whole = FILTER >> bi.fixed_lag(2)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert whole.law.measure == MODEL.measure.at("T")
    assert "at each time t the history                    stands for γ[min(t+2, T)] at t" in (
        whole.explain()
    )
    # It has no ancestors left to trace, nor is there anything for a lag without a history.
    again = whole >> bi.genealogy(MODEL)
    with pytest.raises(ValueError, match="needs the populations of all times"):
        bi.run(again, 0)
    with pytest.raises(ValueError, match="fixed lag 1 needs the populations of all times"):
        bi.run(bi.particle_filter(MODEL, 2) >> bi.fixed_lag(1), 0)


def test_wrong_input():
    with pytest.raises(ValueError, match="lag must be at least 0, got -1"):
        bi.fixed_lag(-1)
