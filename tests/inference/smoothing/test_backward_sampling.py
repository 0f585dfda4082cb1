"""Paths drawn backwards and traced back, enumerated; mistakes in the draws are caught."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import LawMismatch, MissingDensityError
from bayeskit.inference.algorithms.backward_sampling import BackwardSampling
from bayeskit.inference.backward import Exact, Rejection
from tests.inference import finite_models as fm
from tests.inference.smoothing.wrong_draws import (
    EvenProposal,
    FromTheEnd,
    NoFilterWeight,
    NoPotential,
    SwappedArguments,
    replaced,
)

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
GAMMA = fm.path_measure(CHAIN)
GUIDED = fm.last_state_model(CHAIN)
BOOTSTRAP = fm.bootstrap_model(CHAIN)
# Shared, so that the programs of the filter are compiled once.
FILTER = bi.particle_filter(GUIDED, 2, scheme="multinomial", ess_below=None, history=True)
BOOTSTRAP_FILTER = bi.particle_filter(BOOTSTRAP, 2, ess_below=0.7, history=True)


@pytest.mark.parametrize(
    "smoother",
    [
        FILTER >> bi.genealogy(GUIDED),
        FILTER >> bi.backward_sampling(GUIDED),
        FILTER >> bi.backward_sampling(GUIDED, 1),
        FILTER >> bi.backward_sampling(GUIDED, 1, method="mcmc"),
        FILTER >> bi.backward_sampling(GUIDED, 1, method="mcmc", num_moves=2),
        BOOTSTRAP_FILTER >> bi.genealogy(BOOTSTRAP),
        BOOTSTRAP_FILTER >> bi.backward_sampling(BOOTSTRAP, 2),
        BOOTSTRAP_FILTER >> bi.backward_sampling(BOOTSTRAP, 1, method="mcmc"),
        BOOTSTRAP_FILTER
        >> bi.backward_sampling(BOOTSTRAP, 1, method="rejection", max_trials=1),
        BOOTSTRAP_FILTER
        >> bi.backward_sampling(BOOTSTRAP, 1, method="rejection", max_trials=2),
    ],
    ids=lambda smoother: smoother.second.name,
)
def test_paths_are_properly_weighted(smoother):
    fm.assert_exact(smoother, GAMMA)
    assert "=> L2 properly weighted for γ on paths" in smoother.explain()


def test_three_states_and_three_particles():
    chain = fm.random_chain(num_states=3, num_steps=2, seed=5)
    model = fm.last_state_model(chain)
    particles = bi.particle_filter(model, 3, scheme="systematic", ess_below=0.8, history=True)
    fm.assert_exact(particles >> bi.backward_sampling(model, 1), fm.path_measure(chain))


def test_one_time():
    chain = fm.random_chain(num_states=3, num_steps=1, seed=5)
    model = fm.last_state_model(chain)
    particles = bi.particle_filter(model, 2, history=True)
    fm.assert_exact(particles >> bi.backward_sampling(model, 1), fm.path_measure(chain))


def test_density_of_a_path():
    with jax.enable_x64(True):
        log_mass = jax.vmap(GUIDED.log_density)(jnp.asarray(GAMMA.state))
    np.testing.assert_allclose(np.exp(log_mass), GAMMA.mass, rtol=1e-12)


# ---------------------------------------------------------------- planted mistakes


@pytest.mark.parametrize(
    "draw", [NoFilterWeight(), SwappedArguments(), NoPotential(), EvenProposal(), FromTheEnd()]
)
def test_wrong_draws_are_caught(draw):
    fm.assert_caught(FILTER >> BackwardSampling(GUIDED, draw, 1), GAMMA)


class NextPopulation(BackwardSampling):
    """84: the index is drawn among the particles of the next time."""

    def run(self, key, population=None):
        history = population.history

        @dataclass(frozen=True)
        class Late(Exact):
            def draw(self, key, model, time, before, log_weights, ancestors, after):
                late = (history.particles[time], history.log_weights[time])
                return super().draw(key, model, time, *late, ancestors, after)

        return replace(self, draw=Late()).right(key, population)

    def right(self, key, population):
        return BackwardSampling(self.model, self.draw, self.num).run(key, population)


def test_index_of_the_next_population_is_caught():
    fm.assert_caught(FILTER >> NextPopulation(GUIDED, Exact(), 1), GAMMA)


def test_bound_that_is_none_is_caught_and_counted():
    low = replaced(BOOTSTRAP, log_m_bound=lambda t: BOOTSTRAP.log_m_bound(t) - 1.0)
    filtered = bi.particle_filter(low, 2, ess_below=0.7, history=True)
    fm.assert_caught(filtered >> BackwardSampling(low, Rejection(1), 1), GAMMA)
    before, after = jnp.array([0, 1]), jnp.array([0, 1, 1])
    even, ancestors = jnp.log(jnp.array([0.5, 0.5])), jnp.array([0, 1, 0])
    draw = (jax.random.key(0), low, jnp.asarray(1), before, even, ancestors, after)
    assert Rejection(8).draw(*draw)[1]["num_above_bound"] > 0


# ---------------------------------------------------------------- ordinary keys, wrong input


def test_ordinary_keys():
    """Shares of all paths; a standard error is below 0.01, so false alarms below 1e-6."""
    many = bi.particle_filter(BOOTSTRAP, 4000, scheme="multinomial", history=True)
    smoother = many >> bi.backward_sampling(BOOTSTRAP, method="rejection")
    population = bi.run(smoother, 1)
    code = np.asarray(population.particles) @ np.array([4, 2, 1])
    share = np.bincount(code, np.exp(population.log_weights), minlength=8)
    exact = GAMMA.mass / GAMMA.mass.sum()
    assert np.abs(share - exact).max() < 0.06


def test_what_does_not_fit_is_refused():
    with pytest.raises(LawMismatch, match="of another target or path"):
        FILTER >> bi.backward_sampling(BOOTSTRAP)
    bare = bi.FeynmanKac(
        initial=GUIDED.initial,
        log_g0=lambda x: 0.0,
        kernel=GUIDED.kernel,
        log_g=GUIDED.log_g,
        num_steps=3,
    )
    with pytest.raises(MissingDensityError, match="backward sampling needs log_m"):
        bi.backward_sampling(bare)
    with pytest.raises(MissingDensityError, match="by rejection needs log_m_bound"):
        bi.backward_sampling(replaced(GUIDED), method="rejection")
    with pytest.raises(ValueError, match="method must be"):
        bi.backward_sampling(GUIDED, method="best")
    with pytest.raises(ValueError, match="num must be at least 1"):
        bi.backward_sampling(GUIDED, 0)
    with pytest.raises(ValueError, match="num_moves must be at least 1"):
        bi.backward_sampling(GUIDED, method="mcmc", num_moves=0)
    forgetful = bi.particle_filter(GUIDED, 2)
    with pytest.raises(ValueError, match="history=True"):
        bi.run(forgetful >> bi.backward_sampling(GUIDED), 0)
    with pytest.raises(ValueError, match="does not depend on before"):
        bi.run(FILTER >> bi.backward_sampling(GUIDED, method="rejection"), 0)
