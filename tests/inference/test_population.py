"""The scale of a population cannot be lost, whatever its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.inference import Population, effective_sample_size, reweigh, weigh
from bayeskit.inference.population import total_log_evidence

WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4])


def population(log_weights=None, dtype=None):
    log_weights = jnp.asarray(np.log(WEIGHTS) if log_weights is None else log_weights, dtype)
    zero = jnp.zeros((), log_weights.dtype)
    particles = {"x": jnp.arange(4.0), "y": jnp.arange(8.0).reshape(4, 2)}
    return Population(particles, log_weights, zero, log_evidence_remainder=zero)


def total_mass(population, f=lambda x: 1.0):
    """What the population stands for, applied to f."""
    return float(jnp.exp(population.log_evidence) * population.expectation(f))


def test_weighing_moves_the_total_to_the_evidence():
    potential = np.array([0.5, 2.0, 0.1, 3.0])
    weighed = reweigh(population(), jnp.log(jnp.asarray(potential)))
    assert float(jnp.sum(jnp.exp(weighed.log_weights))) == pytest.approx(1.0, rel=1e-6)
    assert total_mass(weighed) == pytest.approx(potential @ WEIGHTS, rel=1e-6)
    f = lambda particle: particle["x"] ** 2
    expected = potential @ (WEIGHTS * np.arange(4) ** 2)
    assert total_mass(weighed, f) == pytest.approx(expected, rel=1e-6)


def test_two_weighings_are_one():
    first, second = np.array([0.3, -1.0, 2.0, 0.0]), np.array([1.0, 0.0, -4.0, 0.5])
    twice = reweigh(reweigh(population(), jnp.asarray(first)), jnp.asarray(second))
    once = reweigh(population(), jnp.asarray(first + second))
    np.testing.assert_allclose(twice.log_weights, once.log_weights, atol=1e-5)
    np.testing.assert_allclose(twice.log_evidence, once.log_evidence, atol=1e-5)


def test_all_weights_zero():
    dead = jax.jit(reweigh)(population(), jnp.full(4, -jnp.inf))
    assert float(dead.log_evidence) == -np.inf
    np.testing.assert_allclose(np.exp(dead.log_weights), 0.25, rtol=1e-6)
    # It stays dead, and never becomes NaN.
    again = reweigh(dead, jnp.arange(4.0))
    assert float(again.log_evidence) == -np.inf
    assert float(total_log_evidence(again)) == -np.inf
    assert np.all(np.isfinite(again.log_weights))


def test_nan_counts_as_weight_zero():
    weighed = reweigh(population(), jnp.array([0.0, jnp.nan, 0.0, 0.0]))
    assert total_mass(weighed) == pytest.approx(0.8, rel=1e-6)
    assert float(weighed.log_weights[1]) == -np.inf


def test_infinite_potential_shows_in_the_evidence():
    weighed = reweigh(population(), jnp.array([0.0, jnp.inf, 0.0, 0.0]))
    assert float(weighed.log_evidence) == np.inf
    assert np.all(np.isfinite(weighed.log_weights))


def test_huge_and_tiny_potentials():
    for shift in (-1e30, -800.0, 800.0, 1e30):
        weighed = reweigh(population(), jnp.full(4, shift))
        assert float(weighed.log_evidence) == pytest.approx(shift, rel=1e-6)
        np.testing.assert_allclose(np.exp(weighed.log_weights), WEIGHTS, rtol=1e-5)


def test_huge_potentials_keep_the_weights_normalised():
    """A log-likelihood of -1e6 has steps of 0.06 in float32; its differences have not."""
    offsets = jnp.array([0.0, 0.25, 0.5, 0.75])
    weighed = reweigh(population(), offsets - 1e6)
    weights = WEIGHTS * np.exp(offsets)
    np.testing.assert_allclose(np.exp(weighed.log_weights), weights / weights.sum(), rtol=1e-5)
    # A particle of weight zero sets no scale.
    dead_first = reweigh(population(np.log([1e-45, 0.2, 0.3, 0.5])), jnp.zeros(4))
    lone = dead_first._replace(log_weights=dead_first.log_weights.at[0].set(-jnp.inf))
    weighed = reweigh(lone, jnp.array([1e30, -1e8, -1e8, -1e8]))
    np.testing.assert_allclose(np.exp(weighed.log_weights), [0, 0.2, 0.3, 0.5], atol=1e-6)
    assert float(weighed.log_evidence) == pytest.approx(-1e8, rel=1e-6)
    weighed = reweigh(lone, jnp.array([jnp.inf, 0.0, 0.0, 0.0]))
    assert float(weighed.log_evidence) == pytest.approx(0.0, abs=1e-6)


def test_constant_potential_is_the_evidence():
    weighed = reweigh(population(), jnp.full(4, -1.25))
    assert float(weighed.log_evidence) == pytest.approx(-1.25, rel=1e-6)


def test_float32_evidence_does_not_drift():
    """100 000 increments in float32: the remainder holds what rounding took."""
    num = 100_000
    increments = np.full(num, -0.1, np.float32)

    @jax.jit
    def total(increments):
        step = lambda now, c: (reweigh(now, jnp.full(4, c)), None)
        start = population(np.log(np.full(4, 0.25)), jnp.float32)
        return jax.lax.scan(step, start, increments)[0]

    end = total(increments)
    assert end.log_evidence.dtype == jnp.float32
    exact = increments.astype(np.float64).sum()
    kept = float(end.log_evidence) + float(end.log_evidence_remainder)
    assert abs(kept / exact - 1) < 1e-6, f"relative error {kept / exact - 1:.2e}"
    plain = float(np.cumsum(increments)[-1])
    assert abs(plain / exact - 1) > 1e-5, "the case must be one in which a plain sum drifts"


def test_the_evidence_by_itself_is_rounded_once():
    """Also where its terms cancel: one reads ``log_evidence``, and not the remainder."""

    @jax.jit
    def summed(terms):
        def step(now, term):
            return reweigh(now, jnp.full(4, term)), None

        return jax.lax.scan(step, population(np.zeros(4) - np.log(4), jnp.float32), terms)[0]

    rng = np.random.default_rng(0)
    for terms in (np.full(20_000, 0.3), np.r_[5e4 * rng.random(9999), -2.4e8 + rng.random()]):
        terms = terms.astype(np.float32)
        exact = terms.astype(float).sum()
        end = summed(jnp.asarray(terms))
        last_digit = np.spacing(np.float32(abs(exact)))
        assert abs(float(end.log_evidence) - exact) <= last_digit
        assert abs(end.log_evidence_remainder) <= last_digit / 2
        plain = np.add.accumulate(terms)[-1]
        assert abs(plain - exact) > 100 * last_digit, "no plain sum drifts"


def test_expectation_leaf_by_leaf():
    means = population().expectation(lambda particle: particle)
    assert float(means["x"]) == pytest.approx(2.0)
    np.testing.assert_allclose(means["y"], [4.0, 5.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([0.25] * 4, 4.0), ([1.0, 0.0, 0.0, 0.0], 1.0), ([0.5, 0.5, 0.0, 0.0], 2.0)],
)
def test_effective_sample_size(weights, expected):
    with np.errstate(divide="ignore"):
        size = effective_sample_size(jnp.log(jnp.asarray(weights)))
    assert float(size) == pytest.approx(expected, rel=1e-6)


def test_gradient_of_the_evidence():
    """d log Z / d log g_i = W_i after weighing."""
    gradient = jax.grad(lambda g: reweigh(population(), g).log_evidence)(jnp.zeros(4))
    np.testing.assert_allclose(gradient, WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize("num", [50, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_and_many_particles_against_numpy(num, dtype):
    """Many particles keep their exponentials, a NaN is one among many."""
    rng = np.random.default_rng(num)
    before = np.log(rng.dirichlet(np.ones(num))).astype(dtype)
    log_g = rng.normal(scale=3.0, size=num).astype(dtype)
    before[3], log_g[3], log_g[5], log_g[7] = -np.inf, np.inf, np.nan, -np.inf
    with jax.enable_x64(dtype == np.float64):
        start = Population(jnp.zeros(num), jnp.asarray(before), jnp.zeros((), dtype), stage=0)
        block = weigh(lambda stage, x: x)
        run = jax.jit(lambda x: block.run(jax.random.key(0), start._replace(particles=x)))
        population, info = run(jnp.asarray(log_g))
        again = effective_sample_size(population.log_weights)
    dead = np.isnan(log_g) | np.isneginf(before)
    weights = np.exp(before.astype(float) + np.where(dead, -np.inf, log_g))
    rtol = 2e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(population.log_evidence, np.log(weights.sum()), rtol=rtol)
    np.testing.assert_allclose(
        np.exp(population.log_weights), weights / weights.sum(), rtol=rtol, atol=1e-12
    )
    size = weights.sum() ** 2 / (weights**2).sum()
    np.testing.assert_allclose(info["effective_sample_size"], size, rtol=rtol)
    np.testing.assert_allclose(again, size, rtol=rtol)
    assert int(info["num_nan"]) == 1
