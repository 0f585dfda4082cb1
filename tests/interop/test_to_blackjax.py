"""Kernels of this package within BlackJAX's own loops, adaptation and SMC.

Each validation fails a correct kernel with probability at most 1e-6.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit.inference import HMC, RandomWalk
from bayeskit.interop.blackjax import from_blackjax, to_blackjax

blackjax = pytest.importorskip(
    "blackjax", reason="BlackJAX is not installed: pip install '.[test]'"
)
SCALES = jnp.array([1.0, 5.0])


def log_density(x):
    return -0.5 * jnp.sum((x["x"] / SCALES) ** 2)


def variances(draws):
    return np.asarray(draws).reshape(-1, 2).var(axis=0)


def test_steps_are_those_of_the_kernel():
    kernel = HMC()
    vector = bk.Target(log_density=lambda x: log_density({"x": x})).density()
    tuning = kernel.default_tuning(2)._replace(
        step_size=jnp.float32(0.4), factor=jnp.sqrt(jnp.array([2.0, 9.0]))
    )
    state = kernel.init(jnp.ones(2), vector)
    pair = to_blackjax(kernel)(log_density, 0.4, jnp.array([2.0, 9.0]))
    hosted = pair.init({"x": jnp.ones(2)})
    for i in range(3):
        state, info = kernel.step(jax.random.key(i), state, vector, tuning)
        hosted, said = pair.step(jax.random.PRNGKey(i), hosted)
        assert jnp.array_equal(hosted.position["x"], state.position)
        assert hosted.logdensity == state.components[0]
        assert said.acceptance_rate == info.acceptance


def test_in_a_loop_of_blackjax():
    """Variances of 4000 correlated draws; bounds of more than six standard errors."""
    algorithm = to_blackjax(HMC())(log_density, 0.5, SCALES**2)
    _, states = blackjax.util.run_inference_algorithm(
        rng_key=jax.random.key(1),
        inference_algorithm=algorithm,
        num_steps=4000,
        initial_position={"x": jnp.zeros(2)},
        transform=lambda state, info: state.position["x"],
    )
    np.testing.assert_allclose(variances(states), SCALES**2, rtol=0.35)


def test_window_adaptation_finds_the_metric():
    warmup = blackjax.window_adaptation(
        to_blackjax(HMC()), log_density, target_acceptance_rate=0.8
    )
    start = {"x": jnp.ones(2)}
    (state, found), _ = warmup.run(jax.random.key(2), start, num_steps=600)
    ratio = found["inverse_mass_matrix"][1] / found["inverse_mass_matrix"][0]
    assert 8 < ratio < 75  # 25, from some hundred draws
    pair = to_blackjax(HMC())(log_density, **found)
    _, info = jax.jit(pair.step)(jax.random.key(3), state)
    assert 0 <= info.acceptance_rate <= 1


@pytest.mark.slow
def test_moves_particles_of_blackjax_smc():
    """Posterior N(1/2, 1/2) of each coordinate; the bound is more than six standard errors."""
    algorithm = to_blackjax(RandomWalk())
    smc = blackjax.adaptive_tempered_smc(
        lambda x: -0.5 * jnp.sum(x**2),
        lambda x: -0.5 * jnp.sum((x - 1.0) ** 2),
        algorithm.build_kernel(),
        algorithm.init,
        {"step_size": jnp.array([1.0])},
        blackjax.smc.resampling.systematic,
        target_ess=0.5,
        num_mcmc_steps=10,
    )
    particles = jax.random.normal(jax.random.key(4), (1000, 2))
    state, step = smc.init(particles), jax.jit(smc.step)
    for i in range(20):
        if state.tempering_param >= 1.0:
            break
        state, _ = step(jax.random.key(10 + i), state)
    mean = jnp.sum(state.weights[:, None] * state.particles, axis=0)
    assert jnp.abs(mean - 0.5).max() < 0.2


@dataclass(frozen=True)
class StaleWalk(RandomWalk):
    """It keeps the density of what was rejected."""

    def step(self, key, state, density, tuning):
        new, info = super().step(key, state, density, tuning)
        return new._replace(components=new.components + 0.3), info


def hosted(kernel):
    """Return a kernel that went out to BlackJAX's form and came back."""

    def build(density, tuning):
        return to_blackjax(kernel)(density, tuning.step_size, tuning.factor**2)

    return from_blackjax(build, needs_gradient=kernel.needs_gradient, name="hosted")


def test_there_and_back_passes_the_validator():
    report = bk.validate(hosted(RandomWalk()), models=["skewed"])
    assert report.verdict == "pass", str(report)


def test_a_stale_cache_is_found():
    assert bk.validate(hosted(StaleWalk()), models=["skewed"]).verdict == "fail"


def test_bad_input():
    with pytest.raises(TypeError, match="takes a kernel such as"):
        to_blackjax(bk.NUTS())
    pair = to_blackjax(RandomWalk())(log_density, 1.0, jnp.ones(3))
    state = pair.init({"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"shape \(2,\) or \(2, 2\), got \(3,\)"):
        pair.step(jax.random.key(0), state)
