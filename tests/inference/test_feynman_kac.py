"""Feynman-Kac models as blocks: estimates against sums over all paths, declarations, edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.inference import FeynmanKac, blocks, extend, resample, scan, spawn, weigh
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=3, num_steps=4, seed=2)
MODEL = fm.path_model(CHAIN)
GAMMA = fm.path_measure(CHAIN)


def test_brute_force_measures_agree_with_each_other():
    """The sum over paths and the forward recursion are two ways to the same measure."""
    last = np.bincount(GAMMA.state[:, -1], GAMMA.mass)
    np.testing.assert_allclose(last, fm.last_state_measure(CHAIN).mass, rtol=1e-12)


def test_pieces_declare_the_measures_they_connect():
    assert str(MODEL.initial.target) == "M0"
    assert (str(MODEL.log_g0.source), str(MODEL.log_g0.target)) == ("M0", "γ[0]")
    assert (str(MODEL.log_g.source), str(MODEL.log_g.target)) == ("γ[t-1]", "γ[t]")
    named = FeynmanKac(
        initial=MODEL.initial,
        log_g0=lambda x: 0.0,
        kernel=MODEL.kernel,
        log_g=MODEL.log_g,
        num_steps=2,
        name="filter",
    )
    assert str(named.log_g.target) == "filter[t]"


def test_times_come_from_the_model():
    assert scan(extend(MODEL.kernel, MODEL.log_g)).times == range(1, 4)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_number_of_steps(num_steps):
    with pytest.raises(ValueError, match=f"num_steps must be at least 1, got {num_steps}"):
        FeynmanKac(
            initial=MODEL.initial,
            log_g0=lambda x: 0.0,
            kernel=MODEL.kernel,
            log_g=MODEL.log_g,
            num_steps=num_steps,
        )


def test_one_step_is_importance_sampling():
    chain = fm.random_chain(num_states=3, num_steps=1, seed=2)
    model = fm.last_state_model(chain)
    block = spawn(model.initial, 50_000) >> weigh(model.log_g0)
    closed = block >> scan(resample() >> extend(model.kernel, model.log_g))
    population = blocks.run(closed, 3)
    exact = fm.last_state_measure(chain).mass
    # The loop has no rounds: relative error 1/sqrt(50 000) times the spread of G, below 1.
    assert float(population.log_evidence) == pytest.approx(math.log(exact.sum()), abs=6 / 223)


@pytest.mark.parametrize("scheme", ["systematic", "residual_multinomial"])
def test_guided_filter_of_many_particles_finds_the_smoothing_law(scheme):
    """400 runs of 100 particles: |z| < 6 for the evidence and each state at each time."""
    filter_ = fm.filter_blocks(MODEL, 100)
    block = filter_.with_resampling(resample(scheme, ess_below=0.7))

    @jax.jit
    @jax.vmap
    def masses(key):
        population, _ = block.run(key)
        here = population.particles[:, :, None] == jnp.arange(3)
        mean = jnp.tensordot(jnp.exp(population.log_weights), here, 1)
        return jnp.exp(population.log_evidence) * jnp.append(mean.ravel(), 1.0)

    estimates = np.asarray(masses(jax.random.split(accel.as_key(1), 400)), np.float64)
    here = GAMMA.state[:, :, None] == np.arange(3)
    expected = np.append(np.tensordot(GAMMA.mass, here, 1).ravel(), GAMMA.mass.sum())
    z = (estimates.mean(0) - expected) / estimates.std(0) * math.sqrt(len(estimates))
    assert np.abs(z).max() < 6, f"z-scores: {z.round(2)}"


def test_potential_that_kills_everything():
    """No particle survives: evidence zero, equal weights, and no NaN anywhere."""
    potential = CHAIN.log_potential.copy()
    potential[-1] = -np.inf
    filter_ = fm.filter_blocks(fm.path_model(CHAIN._replace(log_potential=potential)), 10)
    for resampling in (resample("multinomial"), resample(ess_below=0.5)):
        population, info = blocks.run(filter_.with_resampling(resampling), 0, with_info=True)
        assert float(population.log_evidence) == -np.inf
        np.testing.assert_allclose(np.exp(population.log_weights), 0.1, rtol=1e-5)
        assert not np.isnan(info["effective_sample_size"]).any()


def test_nan_potential_is_counted():
    model = FeynmanKac(
        initial=lambda key: jnp.zeros(()),
        log_g0=lambda x: x,
        kernel=lambda key, t, x: x,
        log_g=lambda t, before, x: jnp.where(t == 2, jnp.nan, 0.0),
        num_steps=4,
    )
    filter_ = fm.filter_blocks(model, 5)
    population, info = blocks.run(filter_.with_resampling(resample()), 0, with_info=True)
    assert info["num_nan_2"].tolist() == [0, 5, 0]
    assert float(population.log_evidence) == -np.inf


def test_infos_have_one_entry_for_each_time():
    filter_ = fm.filter_blocks(MODEL, 20)
    block = filter_.with_resampling(resample(ess_below=0.5))
    population, info = blocks.run(block, 0, with_info=True)
    assert info["resampled"].shape == (3,)
    assert info["resampled"].dtype == bool
    total = float(info["log_evidence_increment"]) + info["log_evidence_increment_2"].sum()
    assert float(population.log_evidence) == pytest.approx(float(total), rel=1e-5)


def test_program_is_compiled_once():
    traces = []

    def initial(key):
        traces.append(1)
        return MODEL.initial(key)

    block = spawn(initial, 10, MODEL.initial.target) >> weigh(MODEL.log_g0)
    block >>= scan(resample() >> extend(MODEL.kernel, MODEL.log_g))
    first, again, other = (blocks.run(block, seed) for seed in (0, 0, 1))
    assert len(traces) == 1
    np.testing.assert_array_equal(first.particles, again.particles)
    assert float(first.log_evidence) == float(again.log_evidence)
    assert float(first.log_evidence) != float(other.log_evidence)
