import functools
import json
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel import offspring as module
from bayeskit.accel.offspring import _fractional_bits
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError
from tests.accel.scheme_checks import ALMOST_ONE, quick_jit, rational_weights


@pytest.fixture(scope="module")
def cases(reference_data):
    file = reference_data / "accel" / "offspring_cases.json"
    if not file.is_file():
        pytest.skip(f"no reference cases in {file}")
    return json.loads(file.read_text())


@pytest.mark.reference
def test_the_sixty_exact_cases(cases):
    assert len(cases) == 60
    run = quick_jit(accel.cumulative_offspring, static_argnums=2)
    for case in cases:
        log_weights = np.array([-np.inf if x is None else x for x in case["logw"]], np.float32)
        result = run(log_weights, np.float32(case["u"]), case["n"])
        assert result.dtype == jnp.int32
        assert result.tolist() == case["O"], (case["kind"], case["N"])


@pytest.mark.reference
def test_the_sixty_exact_cases_in_double_precision(cases, x64):
    for case in cases[::10]:
        log_weights = np.array([-np.inf if x is None else x for x in case["logw"]])
        result = accel.cumulative_offspring(log_weights, case["u"], case["n"])
        assert result.tolist() == case["O"], (case["kind"], case["N"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("num_particles", "num"), [(1, 1), (3, 7), (1000, 1000), (999, 31)])
def test_scaled_cdf_against_rational_numbers(dtype, num_particles, num):
    rng = np.random.default_rng(num_particles)
    with jax.enable_x64(dtype == jnp.float64):
        log_weights = jnp.asarray(3 * rng.gumbel(size=num_particles), dtype)
        log_weights = log_weights.at[::4].set(-jnp.inf).at[-1].set(0.5)
        cdf = np.asarray(accel.scaled_cdf(log_weights, num))
    assert cdf.dtype == np.float64
    weights = rational_weights(log_weights)
    total, running, exact = sum(weights), Fraction(0), []
    for w in weights:
        running += num * w / total
        exact.append(float(running))
    # b = 52 for these sizes: N 2**-52 of truncation and num 2**-51 of rounding. The weights of
    # float32 are exact to 2**-31.
    tolerance = num_particles * 2.0**-52 + num * 2.0**-50
    if dtype == jnp.float32:
        tolerance += num * 2.0**-31
    assert np.max(np.abs(cdf - exact)) <= tolerance
    assert np.all(np.diff(cdf) >= 0)
    assert cdf[-1] == num
    dead = np.isneginf(log_weights)[1:]
    assert np.array_equal(np.diff(cdf) == 0, dead)


@pytest.mark.parametrize("num_particles", [1, 3, 49, 65_537])
@pytest.mark.parametrize("factor", [1, 3])
def test_equal_weights_give_integers_exactly(num_particles, factor):
    cdf = accel.scaled_cdf(jnp.full(num_particles, -0.3), factor * num_particles)
    assert np.array_equal(cdf, factor * np.arange(1, num_particles + 1))


def test_dead_tail_ends_at_num_exactly():
    log_weights = jnp.array([0.3, -1.7, 0.9, -jnp.inf, -jnp.inf])
    assert accel.scaled_cdf(log_weights, 49).tolist()[2:] == [49.0, 49.0, 49.0]


def test_no_offspring():
    assert accel.scaled_cdf(jnp.zeros(3), 0).tolist() == [0, 0, 0]
    assert accel.cumulative_offspring(jnp.zeros(3), 0.5, 0).tolist() == [0, 0, 0]
    assert accel.offspring_to_ancestors(jnp.zeros(3, int), 0).shape == (0,)


@pytest.mark.parametrize("num_particles", [1, 10, 2**20, 2**31 - 1])
@pytest.mark.parametrize("num", [1, 10, 2**20, 2**31 - 1])
def test_no_sum_can_overflow_or_round(num_particles, num):
    total_bits, unit_bits, grid_bits = _fractional_bits(num_particles, num)
    assert num_particles * 2**total_bits <= 2**53
    assert num * 2**unit_bits < 2**62
    assert num * 2**grid_bits < 2**52
    assert min(total_bits, unit_bits, grid_bits) >= 20


@pytest.mark.parametrize("u", [0.0, 2.0**-149, 0.5, 1 - 2.0**-24, ALMOST_ONE])
def test_dead_particles_are_childless_at_every_offset(u):
    log_weights = jnp.array([-jnp.inf, -jnp.inf, 0.0, -jnp.inf, 1.3, -jnp.inf, -jnp.inf])
    for num in (1, 2, 7, 1000):
        offspring = np.diff(accel.cumulative_offspring(log_weights, u, num), prepend=0)
        assert offspring.sum() == num
        assert offspring[[0, 1, 3, 5, 6]].tolist() == [0] * 5


@pytest.mark.parametrize("offset", [1e4, -1e4, 2.0**20, -(2.0**20)])
def test_offsets_change_nothing(offset):
    # Multiples of 1/8 survive the offset in float32, so that the input is the same.
    log_weights = jnp.asarray(np.random.default_rng(0).integers(-80, 8, 500) / 8, jnp.float32)
    shifted = accel.scaled_cdf(log_weights + offset, 500)
    assert np.array_equal(shifted, accel.scaled_cdf(log_weights, 500))


def test_subnormal_weights():
    # exp(-100) is subnormal in float32, exp(-740) in float64.
    offspring = accel.cumulative_offspring(jnp.array([-100.0, 0.0, -740.0]), 0.5, 10)
    assert offspring.tolist() == [0, 10, 10]
    cdf = accel.scaled_cdf(jnp.array([-30.0, 0.0]), 10)
    assert math.isclose(cdf[0], 10 * math.exp(-30), rel_tol=1e-2)
    only_subnormal = jnp.array([-1e30, -1e30, -jnp.inf, -1e30])
    assert accel.scaled_cdf(only_subnormal, 3).tolist() == [1, 2, 2, 3]


def dead_and_alive(num):
    """Weights exp(-2 z^2); every 7th particle and the last 2 % are dead."""
    z = np.random.default_rng(num).normal(size=num)
    log_weights = (-2 * z**2).astype(np.float32)
    log_weights[::7] = -np.inf
    log_weights[-num // 50 :] = -np.inf
    return log_weights


@pytest.mark.parametrize("num", [10**5, 10**6, pytest.param(10**7, marks=pytest.mark.slow)])
def test_systematic_is_exact_for_many_particles(num):
    log_weights = dead_and_alive(num)
    u = 0.074
    cumulative = np.asarray(accel.cumulative_offspring(jnp.asarray(log_weights), u, num))
    offspring = np.diff(cumulative, prepend=0)
    weights = np.exp(log_weights.astype(np.float64))
    expected = num * weights / math.fsum(weights)
    assert cumulative[-1] == num
    assert np.max(np.abs(offspring - expected)) < 1
    assert offspring[weights == 0].sum() == 0
    # Integers again, with 63 bits: which prefix sums come out where is exact in NumPy.
    units = np.floor(expected * 2.0**36).astype(np.int64)
    reference = np.cumsum(units) * (num / units.sum())
    where_clear = np.abs((reference - u) - np.round(reference - u)) > 1e-3
    assert where_clear.mean() > 0.99
    assert np.array_equal(cumulative[where_clear], np.ceil(reference - u)[where_clear])


def ancestors_in_blocks(monkeypatch, block_size, dtype):
    """Ancestors with prefix sums in blocks, of numbers of a given dtype."""

    def sum_up(units):
        num_blocks = -(-units.size // block_size)
        padded = jnp.pad(units, (0, num_blocks * block_size - units.size)).astype(dtype)
        within = jnp.cumsum(padded.reshape(num_blocks, block_size), axis=1)
        before = jnp.cumsum(within[:, -1]) - within[:, -1]
        return (within + before[:, None]).reshape(-1)[: units.size].astype(units.dtype)

    if dtype == jnp.int64:
        sum_up = functools.partial(accel.prefix_sum, block_size=block_size)
    monkeypatch.setattr(
        module, "prefix_sum_of_whole_parts", lambda w, scale: sum_up((w * scale).astype(int))
    )
    monkeypatch.setattr(module, "prefix_sum", sum_up)
    num, weights = 3000, np.exp(dead_and_alive(3000).astype(np.float64))
    bits = _fractional_bits(num, num)

    @quick_jit
    def run(weights):
        cdf = module._cdf_of_weights(weights, num, bits)
        return module._count_in_rows(module.round_up_where_above(cdf, 0.3), num)

    return np.asarray(run(weights))


def test_ancestors_do_not_depend_on_the_size_of_blocks(monkeypatch, x64):
    whole = ancestors_in_blocks(monkeypatch, 3000, jnp.int64)
    for block_size in (1, 7, 128, 2048):
        blocks = ancestors_in_blocks(monkeypatch, block_size, jnp.int64)
        assert np.array_equal(blocks, whole)
    # Sums that round do depend on them; in half precision so few particles show it.
    rounded = [ancestors_in_blocks(monkeypatch, b, jnp.bfloat16) for b in (1, 7, 3000)]
    assert not np.array_equal(rounded[0], rounded[1])
    assert not np.array_equal(rounded[1], rounded[2])


def test_32_bit_and_64_bit_callers_agree():
    log_weights = np.asarray(dead_and_alive(1000))
    run = lambda: np.asarray(accel.cumulative_offspring(jnp.asarray(log_weights), 0.3, 777))
    narrow = run()
    with jax.enable_x64(True):
        assert np.array_equal(run(), narrow)


@pytest.mark.parametrize("wide", [False, True])
def test_jit_and_vmap_equal_loops(wide):
    rng = np.random.default_rng(3)
    with jax.enable_x64(wide):
        log_weights = jnp.asarray(rng.normal(size=(4, 1001)) * 3)
        u = jnp.asarray(rng.random(4))
        run = lambda row, x: accel.cumulative_offspring(row, x, 500)
        loop = jnp.stack([run(row, x) for row, x in zip(log_weights, u, strict=True)])
        assert np.array_equal(quick_jit(run)(log_weights, u), loop)
        assert np.array_equal(quick_jit(jax.vmap(run))(log_weights, u), loop)
        ancestors = jax.vmap(lambda o: accel.offspring_to_ancestors(o, 500))(loop)
        assert np.array_equal(accel.offspring_to_ancestors(loop, 500), ancestors)


def test_ancestors_count_the_offspring():
    rng = np.random.default_rng(8)
    for num_particles, num in [(1, 4), (7, 7), (50, 13), (13, 50)]:
        offspring = np.bincount(rng.integers(0, num_particles, num), minlength=num_particles)
        ancestors = accel.offspring_to_ancestors(np.cumsum(offspring), num)
        assert ancestors.tolist() == np.repeat(np.arange(num_particles), offspring).tolist()


@pytest.mark.parametrize("ordered", [True, False])
def test_permute_for_inplace(ordered):
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 40, (20, 40)) // 3 * 3
    rows = np.sort(rows) if ordered else rows
    result = np.asarray(accel.permute_for_inplace(rows))
    assert result.dtype == np.int32
    for before, after in zip(rows, result, strict=True):
        assert sorted(before) == sorted(after)
        parents = np.unique(before)
        assert after[parents].tolist() == parents.tolist()
    assert np.array_equal(jax.jit(accel.permute_for_inplace)(rows[0]), result[0])


def test_bad_input():
    zeros = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"u must be in \[0, 1\), got 1.0$"):
        accel.cumulative_offspring(zeros, 1.0, 3)
    with pytest.raises(ValueError, match=r"u must be in \[0, 1\)"):
        accel.cumulative_offspring(zeros, jnp.nan, 3)
    with pytest.raises(ValueError, match=r"num must be in \[0, 2\*\*31\), got -1"):
        accel.scaled_cdf(zeros, -1)
    with pytest.raises(ValueError, match=r"num must be in \[0, 2\*\*31\), got 2147483648"):
        accel.scaled_cdf(zeros, 2**31)
    with pytest.raises(TypeError, match="num must be an integer, got float"):
        accel.scaled_cdf(zeros, 3.0)
    for yes in (True, np.True_):
        with pytest.raises(TypeError, match="num must be an integer, got a boolean"):
            accel.scaled_cdf(zeros, yes)
    with pytest.raises(TypeError, match=r"u must be .* got a random key. Draw with jax.random"):
        accel.cumulative_offspring(zeros, jax.random.key(0), 3)
    with pytest.raises(TypeError, match="got Ancestors: pass its field index"):
        accel.permute_for_inplace(accel.systematic(jax.random.key(0), zeros))
    with pytest.raises(TypeError, match="Mark it static"):
        jax.jit(accel.scaled_cdf)(zeros, 3)
    with pytest.raises(DegenerateWeightsError, match="all 2 values of log_weights are -inf"):
        accel.scaled_cdf(jnp.full(2, -jnp.inf), 2)
    with pytest.raises(InvalidWeightsError, match="1 of 3 values, the first at index 1"):
        accel.scaled_cdf(zeros.at[1].set(jnp.nan), 2)
    with pytest.raises(TypeError, match="cumulative must be integers, got dtype float32"):
        accel.offspring_to_ancestors(zeros, 3)
    with pytest.raises(ValueError, match="at least 1 particle"):
        accel.offspring_to_ancestors(jnp.zeros(0, int), 3)
    with pytest.raises(TypeError, match="ancestors must be integers"):
        accel.permute_for_inplace(zeros)
    with pytest.raises(ValueError, match="must have an axis"):
        accel.permute_for_inplace(jnp.int32(1))


@pytest.mark.parametrize("bad", [-np.inf, np.nan, np.inf])
def test_unusable_rows_inside_jit_count_as_equal_weights(bad):
    rows = jnp.array([[bad, bad, bad], [0.0, -jnp.inf, 0.0]])
    cdf = jax.jit(lambda x: accel.scaled_cdf(x, 6))(rows)
    assert cdf.tolist() == [[2, 4, 6], [3, 3, 6]]
