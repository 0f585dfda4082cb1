import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp

from bayeskit import accel
from bayeskit.accel.weights import normalize_checked, summarise_checked
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError

INF = jnp.inf


def test_normalize_against_scipy(x64):
    log_weights = np.random.default_rng(0).gumbel(size=(3, 50)) * 5
    log_weights[:, ::6] = -np.inf
    summary = accel.normalize(log_weights)
    total = logsumexp(log_weights, axis=-1)
    weights = np.exp(log_weights - total[:, None])
    np.testing.assert_allclose(summary.weights, weights, rtol=1e-13)
    np.testing.assert_allclose(summary.log_sum, total, rtol=1e-14)
    np.testing.assert_allclose(summary.log_mean, total - np.log(50), rtol=1e-14)
    np.testing.assert_allclose(
        summary.effective_sample_size, 1 / np.sum(weights**2, axis=-1), rtol=1e-13
    )
    assert np.array_equal(summary.max, log_weights.max(-1))
    assert summary.ok.all()
    ess = accel.effective_sample_size(log_weights + 7.5)
    np.testing.assert_allclose(ess, summary.effective_sample_size, rtol=1e-12)
    np.testing.assert_allclose(accel.log_mean_exp(log_weights), summary.log_mean, rtol=1e-14)


@pytest.mark.parametrize("num", [10**3, 10**6, pytest.param(10**7, marks=pytest.mark.slow)])
def test_log_sum_in_single_precision(num):
    log_weights = np.random.default_rng(1).normal(size=num).astype(np.float32)
    result = np.float32(accel.normalize(log_weights).log_sum)
    exact = logsumexp(log_weights.astype(np.float64))
    assert abs(result - exact) <= 4 * np.spacing(np.float32(exact))


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4, 1e30, -1e30])
def test_equal_weights(offset):
    summary = accel.normalize(jnp.full(7, offset))
    np.testing.assert_allclose(summary.weights, 1 / 7, rtol=1e-6)
    assert summary.effective_sample_size == 7
    np.testing.assert_allclose(summary.log_mean, offset, atol=1e-6)


def test_the_mean_of_equal_weights_is_exact():
    """No rounding of log N, which would have one sign at every step of a filter."""
    for num in (3, 7, 1000, 10**5):
        assert accel.normalize(jnp.zeros(num)).log_mean == 0
        assert accel.log_mean_exp(jnp.full(num, -2.5)) == -2.5


def test_one_particle_with_everything():
    summary = accel.normalize(jnp.array([-INF, 3.0, -INF]))
    assert summary.weights.tolist() == [0, 1, 0]
    assert summary.effective_sample_size == 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_raised(dtype):
    assert accel.normalize(jnp.zeros(3000, dtype)).effective_sample_size == 3000
    assert accel.normalize(jnp.zeros(3, dtype)).weights.dtype == jnp.float32


def test_gradients():
    log_weights = jnp.array([0.3, -INF, -1.0, 2.0])
    weights = accel.normalize(log_weights).weights
    for f in (lambda x: accel.normalize(x).log_sum, accel.log_mean_exp):
        np.testing.assert_allclose(jax.grad(f)(log_weights), weights, rtol=1e-6)
        assert np.all(np.isfinite(jax.grad(f)(jnp.full(3, -INF))))


def test_bad_input():
    with pytest.raises(InvalidWeightsError, match=r"nan: 2 of 6 values, .* index \(0, 1\)"):
        accel.normalize(jnp.array([[0.0, jnp.nan, 0.0], [0.0, 0.0, jnp.nan]]))
    with pytest.raises(InvalidWeightsError, match=r"\+inf: 1 of 2 values, .* index 1"):
        accel.normalize(jnp.array([0.0, INF]))
    with pytest.raises(DegenerateWeightsError, match="all 4 values of log_weights are -inf"):
        accel.normalize(jnp.full(4, -INF))
    with pytest.raises(DegenerateWeightsError, match=r"-inf in row 1 \(1 such rows\)"):
        accel.normalize(jnp.array([[0.0, 0.0], [-INF, -INF]]))
    with pytest.raises(TypeError, match="floating-point numbers, got dtype int32 of shape"):
        accel.normalize(jnp.array([0, 1]))
    with pytest.raises(ValueError, match=r"at least 1 .* got shape"):
        accel.normalize(jnp.zeros((2, 0)))
    with pytest.raises(ValueError, match="got a scalar"):
        accel.normalize(0.0)


@pytest.mark.parametrize(("bad", "log_mean"), [(-INF, -INF), (jnp.nan, jnp.nan), (INF, INF)])
def test_bad_input_inside_jit(bad, log_mean):
    rows = jnp.array([[bad, bad], [0.0, -INF]])
    summary = jax.jit(accel.normalize)(rows)
    assert summary.ok.tolist() == [False, True]
    assert summary.effective_sample_size.tolist() == [0, 1]
    np.testing.assert_array_equal(summary.log_mean[0], log_mean)
    assert summary.weights[0].tolist() == [0.5, 0.5]
    # Neither of these two raises: they are used to ask, not to choose.
    np.testing.assert_array_equal(accel.effective_sample_size(rows), [jnp.nan, 1])
    np.testing.assert_array_equal(accel.log_mean_exp(rows)[0], log_mean)


@pytest.mark.parametrize("num", [3, 20_000])
@pytest.mark.parametrize("others", [0.0, 1000.0, -INF, INF])
def test_nan_is_found_anywhere(num, others):
    """XLA's maximum overlooks NaN among some thousand numbers on a CPU."""
    for place in (0, num // 2, num - 1):
        log_weights = np.full(num, others, np.float32)
        log_weights[place] = np.nan
        summary, gradient = _summary_and_gradient(log_weights)
        assert not summary.ok
        assert np.isnan([summary.max, summary.log_sum, summary.log_mean]).all()
        assert summary.effective_sample_size == 0
        np.testing.assert_allclose(summary.weights, 1 / num, rtol=1e-6)
        assert np.all(np.isfinite(gradient))


@jax.jit
def _summary_and_gradient(log_weights):
    def add_up(x):
        summary = accel.normalize(x)
        return summary.log_mean + summary.effective_sample_size + summary.weights[1], summary

    gradient, summary = jax.grad(add_up, has_aux=True)(log_weights)
    return summary, gradient


def test_nan_is_dropped_on_request():
    log_weights = jnp.array([0.0, jnp.nan, 1.0, jnp.nan])
    expected = accel.normalize(log_weights.at[1::2].set(-INF))
    for a, b in zip(accel.normalize(log_weights, nan="drop"), expected, strict=True):
        assert np.array_equal(a, b)
    size = accel.effective_sample_size(log_weights, nan="drop")
    assert size == expected.effective_sample_size
    gradient = jax.grad(lambda x: accel.normalize(x, nan="drop").log_mean)(log_weights)
    np.testing.assert_allclose(gradient, expected.weights, rtol=1e-6)
    with pytest.raises(ValueError, match="nan must be"):
        accel.normalize(log_weights, nan="zero")


# ------------------------------------------------------------ tempering


def size_after(log_likelihood, log_weights, step):
    log_likelihood = np.where(np.isnan(log_likelihood), -np.inf, log_likelihood)
    alive = ~np.isneginf(log_likelihood)
    moved = log_weights[alive] + step * log_likelihood[alive]
    moved = moved - logsumexp(moved)
    return np.exp(-logsumexp(2 * moved))


def brentq_step(log_likelihood, log_weights, current, target):
    """Return the next temperature, found by SciPy on the logarithm of the step."""
    goal = target * len(log_likelihood)
    excess = lambda log_step: size_after(log_likelihood, log_weights, math.exp(log_step)) - goal
    return current + math.exp(brentq(excess, -600, math.log(1 - current), xtol=1e-12))


def heavy_tailed(num=800, seed=4):
    """Log-likelihoods with a long lower tail, and weights that are not equal."""
    rng = np.random.default_rng(seed)
    return -np.exp(2.5 * rng.normal(size=num)) * 3, 0.4 * rng.gumbel(size=num)


def check_temper_step(temper_step):
    """Assert the defining equation on asymmetric cases, away from 0 and from 1."""
    log_likelihood, log_weights = heavy_tailed()
    equal = np.zeros(len(log_weights))
    for weights, current, target in [
        (equal, 0.0, 0.5),
        (equal, 0.013, 0.9),
        (log_weights, 0.0, 0.5),
        (log_weights, 0.21, 0.3),
    ]:
        result = float(temper_step(log_likelihood, weights, current, target))
        expected = brentq_step(log_likelihood, weights, current, target)
        assert current < expected < 1
        assert math.isclose(result - current, expected - current, rel_tol=1e-9)


def test_against_brentq(x64):
    check_temper_step(accel.temper_step)


def test_against_brentq_in_single_precision():
    log_likelihood, log_weights = heavy_tailed()
    expected = brentq_step(log_likelihood, log_weights, 0.0, 0.5)
    result = accel.temper_step(
        jnp.asarray(log_likelihood, jnp.float32),
        jnp.asarray(log_weights, jnp.float32),
        0.0,
        0.5,
    )
    assert math.isclose(float(result), expected, rel_tol=1e-4)


@pytest.mark.parametrize("name", ["sign", "absolute", "no weights", "of the weighted size"])
def test_planted_bugs_in_tempering_are_found(name, x64):
    real = accel.temper_step
    wrong = {
        "sign": lambda ll, lw, now, goal: real(-ll, lw, now, goal),
        "absolute": lambda ll, lw, now, goal: real(ll, lw - now * ll, now, goal),
        "no weights": lambda ll, lw, now, goal: real(ll, 0 * lw, now, goal),
        "of the weighted size": lambda ll, lw, now, goal: real(
            ll, lw, now, goal * float(accel.effective_sample_size(lw)) / len(lw)
        ),
    }[name]
    with pytest.raises(AssertionError):
        check_temper_step(wrong)


@pytest.mark.parametrize("wide", [False, True])
def test_steps_as_small_as_1e30(wide):
    log_likelihood, _ = heavy_tailed()
    with jax.enable_x64(wide):
        log_likelihood = jnp.asarray(log_likelihood)
        zeros = jnp.zeros_like(log_likelihood)
        plain = float(accel.temper_step(log_likelihood, zeros, 0.0, 0.5))
        tiny = float(accel.temper_step(log_likelihood * 1e30, zeros, 0.0, 0.5))
    assert math.isclose(tiny, plain * 1e-30, rel_tol=1e-9 if wide else 1e-4)


def test_nan_is_a_likelihood_of_zero_on_request(x64):
    log_likelihood, log_weights = heavy_tailed()
    log_likelihood[::9] = -np.inf
    with_nan = np.where(np.isneginf(log_likelihood), np.nan, log_likelihood)
    expected = brentq_step(log_likelihood, log_weights, 0.0, 0.3)
    for values, nan in ((log_likelihood, "refuse"), (with_nan, "drop")):
        result = float(accel.temper_step(values, log_weights, 0.0, 0.3, nan=nan))
        assert math.isclose(result, expected, rel_tol=1e-9)
    with pytest.raises(InvalidWeightsError, match="log_likelihood contains nan: 89 of 800"):
        accel.temper_step(with_nan, log_weights, 0.0, 0.3)
    step = jax.jit(lambda values: accel.temper_step(values, log_weights, 0.0, 0.3))
    assert np.isnan(step(with_nan))
    with pytest.raises(ValueError, match="nan must be"):
        accel.temper_step(with_nan, log_weights, 0.0, 0.3, nan="zero")


def test_one_exactly_where_enough_particles_stay(x64):
    assert accel.temper_step(jnp.array([0.0, -0.01]), jnp.zeros(2), 0.0, 0.5) == 1.0
    assert accel.temper_step(jnp.array([0.0, -1e9]), jnp.zeros(2), 1.0, 0.9) == 1.0


@pytest.mark.parametrize("dead", [0, 700])
def test_weights_already_below_the_target(dead, x64):
    """The criterion is then relative to the size there is, on particles that can survive."""
    log_likelihood, log_weights = heavy_tailed()
    if not dead:
        log_weights[:20] += 5  # a few particles with most of the weight
        log_likelihood = log_likelihood * 1000
    log_likelihood[:dead] = -np.inf
    now = size_after(log_likelihood, log_weights, 0.0)
    assert now < 0.5 * len(log_weights)
    result = float(accel.temper_step(log_likelihood, log_weights, 0.0, 0.5))
    assert 0 < result < 1
    assert math.isclose(
        size_after(log_likelihood, log_weights, result), 0.5 * now, rel_tol=1e-6
    )


@pytest.mark.parametrize("resampled", [True, False])
def test_schedules_arrive(resampled, x64):
    """With and without resampling after each step: strictly up, and in few steps."""
    log_likelihood, _ = heavy_tailed(200)
    log_likelihood = log_likelihood * 100
    current, log_weights, ladder = 0.0, np.zeros(200), [0.0]
    while current < 1 and len(ladder) < 100:
        chosen = float(accel.temper_step(log_likelihood, log_weights, current, 0.5))
        log_weights = log_weights + (chosen - current) * log_likelihood
        if resampled:
            index = accel.systematic(accel.as_key(len(ladder)), log_weights).index
            log_likelihood, log_weights = log_likelihood[index], np.zeros(200)
        current = chosen
        ladder.append(current)
    assert ladder[-1] == 1.0
    assert np.all(np.diff(ladder) > 0)
    assert len(ladder) < 20


@pytest.mark.parametrize("current", [0.3, 1 - 2.0**-24])
def test_a_step_below_the_resolution_still_moves(current):
    log_likelihood = jnp.asarray(heavy_tailed()[0] * 1e25, jnp.float32)
    current = np.float32(current)
    result = accel.temper_step(log_likelihood, jnp.zeros(800), current, 0.5)
    assert result == np.nextafter(current, np.float32(2))


def test_extreme_values_do_not_overflow():
    log_likelihood = jnp.array([3e38, -3e38, 0.0, -1.0])
    result = accel.temper_step(log_likelihood, jnp.zeros(4), 0.0, 0.6)
    assert 0 < result < 1e-36


def test_tempering_jit_and_vmap_equal_loops():
    rng = np.random.default_rng(6)
    log_likelihood = jnp.asarray(rng.gumbel(size=(3, 100)) * 30)
    log_weights = jnp.asarray(rng.normal(size=(3, 100)))
    current, target = jnp.array([0.0, 0.1, 0.2]), 0.4
    rows = zip(log_likelihood, log_weights, current, strict=True)
    loop = jnp.stack([accel.temper_step(*row, target) for row in rows])
    run = lambda a, b, c: accel.temper_step(a, b, c, target)
    for mapped in (run, jax.vmap(run)):
        result = jax.jit(mapped)(log_likelihood, log_weights, current)
        np.testing.assert_allclose(result, loop, rtol=1e-5)


def test_tempering_bad_input():
    good = jnp.array([0.0, -5.0, -9.0])
    zeros = jnp.zeros(3)
    with pytest.raises(InvalidWeightsError, match=r"log_likelihood contains \+inf: 1 of 3"):
        accel.temper_step(good.at[2].set(INF), zeros, 0.0, 0.5)
    with pytest.raises(InvalidWeightsError, match="log_weights contains nan"):
        accel.temper_step(good, zeros.at[2].set(jnp.nan), 0.0, 0.5)
    with pytest.raises(DegenerateWeightsError, match="none of the 3 particles has both"):
        accel.temper_step(jnp.array([0.0, -INF, -INF]), zeros.at[0].set(-INF), 0.0, 0.5)
    with pytest.raises(ValueError, match=r"has shape \(3,\), but log_weights has \(2,\)"):
        accel.temper_step(good, jnp.zeros(2), 0.0, 0.5)
    with pytest.raises(ValueError, match="current must be an inverse temperature"):
        accel.temper_step(good, zeros, 1.5, 0.5)
    for target in (0.0, 1.0, jnp.nan):
        with pytest.raises(ValueError, match="target must be a fraction"):
            accel.temper_step(good, zeros, 0.0, target)


def test_tempering_bad_input_inside_jit():
    run = jax.jit(lambda ll, lw: accel.temper_step(ll, lw, 0.25, 0.5))
    good = jnp.array([0.0, -5.0, -9.0])
    zeros = jnp.zeros(3)
    assert run(jnp.full(3, -INF), zeros) == 0.25
    assert run(good, jnp.full(3, -INF)) == 0.25
    assert jnp.isnan(run(good.at[0].set(INF), zeros))
    assert jnp.isnan(run(good, zeros.at[0].set(INF)))
    assert jnp.isnan(run(good, zeros.at[0].set(jnp.nan)))


def test_repeated_calls_compile_once():
    programs = (normalize_checked, summarise_checked)
    for function in (accel.normalize, accel.effective_sample_size, accel.log_mean_exp):
        function(jnp.zeros(29))
        before = [program._cache_size() for program in programs]
        function(jnp.ones(29))
        assert [program._cache_size() for program in programs] == before


def test_summaries_alone_write_no_weights():
    program = summarise_checked.lower(jax.ShapeDtypeStruct((5000,), jnp.float32)).compile()
    assert program.memory_analysis().output_size_in_bytes < 200
    whole = normalize_checked.lower(jax.ShapeDtypeStruct((5000,), jnp.float32)).compile()
    assert whole.memory_analysis().output_size_in_bytes > 20_000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num", [10, 5000])
def test_one_nan_among_many_is_found(dtype, num):
    log_weights = np.zeros(num, dtype)
    log_weights[num // 2] = np.nan
    with jax.enable_x64(dtype == np.float64):
        given = jnp.asarray(log_weights)
        for function in (accel.normalize, lambda x: accel.scaled_cdf(x, num)):
            with pytest.raises(InvalidWeightsError, match="contains nan: 1 of"):
                function(given)
        assert not jax.jit(accel.normalize)(given).ok
        assert np.isnan(accel.log_mean_exp(given))
        assert np.isnan(accel.effective_sample_size(given))
