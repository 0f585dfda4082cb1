import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from bayeskit import accel
from bayeskit.accel.resampling import scheme as drawing
from bayeskit.accel.resampling import search
from bayeskit.accel.resampling.residual import split_remainders
from bayeskit.accel.resampling.ssp import ancestors_of_duels, duels
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError
from tests.accel.scheme_checks import (
    ALMOST_ONE,
    SMALL_CASES,
    VARIANCES,
    cases_of,
    check_exact_law,
    exact_law,
    quick_jit,
    rational_ancestors,
)

SCHEMES = sorted(accel.SCHEMES)
# One size for many tests, because each size is compiled anew.
SIZE = 200
INF = jnp.inf


def draw(name, *args):
    return getattr(accel, name)(*args)


def number_for(name, num_particles, num):
    """The number of offspring: the given one, unless the scheme keeps the number."""
    return num_particles if accel.SCHEMES[name].keeps_number else num


@functools.cache
def compiled(name, num):
    return quick_jit(lambda key, log_weights: draw(name, key, log_weights, num))


def chosen_by(name, log_weights, u, num):
    """Return the ancestors for given uniforms."""
    with jax.enable_x64(True):
        cdf = accel.scaled_cdf(log_weights, num)
        run = quick_jit(accel.SCHEMES[name].ancestors, static_argnums=2)
        return np.asarray(run(cdf, np.asarray(u, float), num))


def mixed(num, seed=0):
    """Asymmetric weights; every 7th particle and the last 2 % are dead."""
    log_weights = (-2 * np.random.default_rng(seed).normal(size=num) ** 2).astype(np.float32)
    log_weights[::7] = -np.inf
    log_weights[num - num // 50 :] = -np.inf
    return log_weights


# ------------------------------------------------------------ exact laws


@pytest.mark.parametrize("name", SCHEMES)
def test_exact_law(name):
    for weights, num in cases_of(accel.SCHEMES[name]):
        check_exact_law(accel.SCHEMES[name], weights, num, VARIANCES[name])


@pytest.mark.parametrize("name", ["systematic", "residual"])
def test_exact_mean_with_one_uniform(name):
    """E[o_i] = n w_i, integrated over all cells, for sizes beyond full enumeration."""
    scheme = accel.SCHEMES[name]
    with jax.enable_x64(True):
        for num_particles, num in [(60, 23), (25, 160)]:
            log_weights = np.random.default_rng(num).gumbel(size=num_particles) * 2
            log_weights[::7] = -np.inf
            weights = np.exp(log_weights - log_weights.max())
            cdf = accel.scaled_cdf(log_weights, num)
            edges = np.unique([0.0, *np.asarray(scheme.breaks(cdf, num)), 1.0])
            run = jax.vmap(lambda u, cdf=cdf, num=num: scheme.ancestors(cdf, u, num))
            ancestors = np.asarray(quick_jit(run)((edges[1:] + edges[:-1]) / 2))
            offspring = [np.bincount(a, minlength=num_particles) for a in ancestors]
            mean = np.diff(edges) @ np.array(offspring)
            assert np.max(np.abs(mean - num * weights / weights.sum())) < 1e-12


def bug(name, ancestors):
    return dataclasses.replace(accel.SCHEMES[name], ancestors=ancestors)


def invert(cdf, u, num):
    """Slow inverse of the cumulative weights, for planted bugs to start from."""
    return jnp.sum(cdf / num <= u[:, None], axis=1).astype(jnp.int32)


def invert_in_strata(cdf, u, num):
    """The same with draw m in the m-th of ``num`` strata; ``u`` of shape (num,) or ()."""
    own = cdf - jnp.arange(num)[:, None]
    return jnp.sum(own <= u[..., None], axis=1).astype(jnp.int32)


def last_index(cdf):
    return cdf.shape[0] - 1


def one_for_all(u):
    return jnp.broadcast_to(u[0], u.shape)


def keep_or_invert(cdf, u, num, chance):
    """Keep each particle with some chance, else draw one with what is left of the uniform."""
    drawn = invert(cdf, jnp.where(u < chance, 0.0, (u - chance) / (1 - chance)), num)
    return jnp.where(u < chance, jnp.arange(num), drawn).astype(jnp.int32)


def play(cdf, u, num, gives):
    """The Srinivasan process with a mistake in which duels give an offspring away."""
    known = duels(cdf)
    return ancestors_of_duels(cdf, gives(known), u < known.takes_over, num)


PLANTED_BUGS = {
    "off by one": bug(
        "multinomial", lambda c, u, n: jnp.minimum(invert(c, u, n) + 1, last_index(c))
    ),
    "u not divided": bug(
        "systematic",
        lambda c, u, n: jnp.minimum(invert_in_strata(c, n * u, n), last_index(c)),
    ),
    "last particle always chosen": bug(
        "systematic", lambda c, u, n: invert_in_strata(c, u, n).at[-1].set(last_index(c))
    ),
    "zero weight chosen at u = 0": bug(
        "systematic",
        lambda c, u, n: jnp.sum(c - jnp.arange(n)[:, None] < u, axis=1).astype(jnp.int32),
    ),
    "residual of the weights, not of n times the weights": bug("residual_multinomial", invert),
    "same uniform for every stratum": bug(
        "stratified", lambda c, u, n: invert_in_strata(c, one_for_all(u), n)
    ),
    "uniform of the next stratum": bug(
        "stratified", lambda c, u, n: invert_in_strata(c, jnp.roll(u, 1), n)
    ),
    "sorted draws": bug("multinomial", lambda c, u, n: invert(c, jnp.sort(u), n)),
    "one uniform for all remainders": bug(
        "residual_multinomial", lambda c, u, n: accel.SCHEMES["residual"].ancestors(c, u[0], n)
    ),
    "killing by W, not by W over its maximum": bug(
        "killing", lambda c, u, n: keep_or_invert(c, u, n, jnp.diff(c, prepend=0.0) / n)
    ),
    "killed without a new uniform": bug(
        "killing",
        lambda c, u, n: jnp.where(
            u * jnp.max(jnp.diff(c, prepend=0.0)) < jnp.diff(c, prepend=0.0),
            jnp.arange(n),
            invert(c, u, n),
        ).astype(jnp.int32),
    ),
    "duels that no offspring decides": bug(
        "ssp", lambda c, u, n: play(c, u, n, lambda duels: jnp.zeros_like(duels.gives))
    ),
    "duels for the whole share": bug(
        "ssp",
        lambda c, u, n: ancestors_of_duels(c, duels(c).gives, u < duels(c).share[1:], n),
    ),
    "equal weights": bug(
        "multinomial", lambda c, u, n: jnp.floor(u * c.shape[0]).astype(jnp.int32)
    ),
}


@pytest.mark.parametrize("name", sorted(PLANTED_BUGS))
def test_planted_bugs_are_found(name):
    scheme = PLANTED_BUGS[name]

    def check_all():
        for weights, num in cases_of(scheme)[:4]:
            check_exact_law(scheme, weights, num, VARIANCES[scheme.name])

    with pytest.raises(AssertionError):
        check_all()


def test_doubles_without_a_bug_pass():
    """The starting point of the planted bugs is right, so that they fail for their bug."""
    right = {
        "systematic": invert_in_strata,
        "stratified": invert_in_strata,
        "multinomial": invert,
    }
    for name, ancestors in right.items():
        for weights, num in SMALL_CASES[:4]:
            check_exact_law(bug(name, ancestors), weights, num, VARIANCES[name])


def test_bisection_among_more_than_a_billion():
    """The sum of two places there needs a 32nd bit: it would look at a negative place."""

    class Steps:
        """As an array of 2**31 - 1 sorted values, of which those from a place on are 1."""

        def __init__(self, first):
            self.first = first

        def __getitem__(self, place):
            assert np.all(np.asarray(place) >= 0), "a negative place"
            return (place >= self.first).astype(jnp.float32)

    last = 2**31 - 1
    for first in (2**30 + 12_345, last - 1, last):
        guide, level = jnp.array([0, last], jnp.int32), jnp.array([0.5], jnp.float32)
        with jax.disable_jit():
            found = search._bisect(Steps(first), guide, level)
        assert found.tolist() == [first]


def test_srinivasan_offspring_are_negatively_associated():
    """Sums over disjoint sets of particles are negatively correlated, by enumeration.

    With systematic resampling they need not be, in the same order.
    """
    weights, num = [0.35, 0.15, 0.35, 0.15], 2
    covariances = {}
    for name in ("ssp", "systematic"):
        masses, ancestors = exact_law(accel.SCHEMES[name], weights, num)
        offspring = np.array([np.bincount(a, minlength=4) for a in ancestors], float)
        centred = offspring - masses @ offspring
        sets = [np.array(list(np.binary_repr(i, 4)), int) for i in range(1, 15)]
        covariances[name] = max(
            masses @ ((centred @ a) * (centred @ b)) for a in sets for b in sets if not a @ b
        )
    assert covariances["ssp"] < 1e-12
    assert covariances["systematic"] > 0.1


def test_killing_keeps_the_number():
    with pytest.raises(ValueError, match="as many offspring as there are particles, 3, got"):
        accel.killing(accel.as_key(0), jnp.zeros(3), 4)


# ------------------------------------------------------------ rational arithmetic


@pytest.mark.parametrize("name", SCHEMES)
def test_equals_rational_arithmetic(name):
    scheme = accel.SCHEMES[name]
    rng = np.random.default_rng(1)
    for num_particles, num in [(1, 1), (40, 17), (1000, 1000), (300, 1500)]:
        log_weights = (rng.gumbel(size=num_particles) * 2).astype(np.float32)
        log_weights[1::5] = -np.inf
        num = number_for(name, num_particles, num)
        u = rng.random(scheme.uniform_shape(num_particles, num))
        result = chosen_by(name, log_weights, u, num)
        assert result.tolist() == rational_ancestors(name, log_weights, u, num)


@pytest.mark.parametrize("name", ["multinomial", "residual_multinomial"])
@pytest.mark.parametrize("kind", ["equal", "mixed", "half dead", "one large"])
def test_search_in_blocks(name, kind):
    """More levels than a block, and cells with very many candidates."""
    num_particles, num = 30_000, 2 * search._SEARCH_BLOCK + 17
    log_weights = {
        "equal": np.zeros(num_particles),
        "mixed": mixed(num_particles),
        "half dead": np.where(np.arange(num_particles) < num_particles // 2, -np.inf, 0.0),
        "one large": np.where(np.arange(num_particles) == 100, 0.0, -18.0),
    }[kind]
    scheme = accel.SCHEMES[name]
    u = np.random.default_rng(0).random(num)
    u[:2] = 0.0, ALMOST_ONE
    with jax.enable_x64(True):
        cdf = accel.scaled_cdf(log_weights, num)
        result = np.asarray(jax.jit(scheme.ancestors, static_argnums=2)(cdf, u, num))
        sure, values = map(np.asarray, split_remainders(cdf, num))
    if name == "multinomial":
        sure, values = np.zeros_like(sure), np.asarray(cdf)
    total = values[-1]
    num_draws = num - int(sure[-1])
    levels = u[:num_draws] * total
    expected = np.searchsorted(values, np.minimum(levels, np.nextafter(total, 0)), side="right")
    assert np.array_equal(result[num - num_draws :], expected)
    copies = np.repeat(np.arange(num_particles), np.diff(sure, prepend=0))
    assert np.array_equal(result[: num - num_draws], copies)
    # The form for other platforms.
    guide = np.searchsorted(values, np.arange(num + 1), side="left").astype(np.int32)
    with jax.enable_x64(True):
        levels = jnp.minimum(jnp.asarray(levels), np.nextafter(total, 0))
        whole = search._bisect(jnp.asarray(values), jnp.asarray(guide), levels)
    assert np.array_equal(whole, expected)


def test_residual_is_systematic_with_the_same_uniform():
    log_weights = mixed(997)
    for num in (123, 5000):
        for u in (0.0, 0.123, 0.987):
            one = chosen_by("residual", log_weights, u, num)
            assert np.array_equal(one, chosen_by("systematic", log_weights, u, num))


# ------------------------------------------------------------ many particles


@pytest.mark.parametrize("num", [10**6, pytest.param(10**7, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "bound"), [("systematic", 1), ("ssp", 1), ("stratified", 2)])
def test_numbers_of_offspring_stay_within_bounds(name, bound, num):
    log_weights = mixed(num)
    result = draw(name, accel.as_key(7), log_weights)
    index = np.asarray(result.index)
    assert np.all(np.diff(index) >= 0)
    offspring = np.bincount(index, minlength=num)
    weights = np.exp(log_weights.astype(np.float64))
    expected = num * weights / math.fsum(weights)
    assert offspring.sum() == num
    assert np.max(np.abs(offspring - expected)) < bound
    assert offspring[weights == 0].sum() == 0


@pytest.mark.parametrize("num", [10**6, pytest.param(10**7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["multinomial", "residual_multinomial", "killing"])
def test_many_independent_draws(name, num):
    """Dead particles have no offspring; means in bins within 5 standard errors."""
    log_weights = mixed(num)
    offspring = np.bincount(draw(name, accel.as_key(7), log_weights).index, minlength=num)
    weights = np.exp(log_weights.astype(np.float64))
    expected = num * weights / math.fsum(weights)
    assert offspring.sum() == num
    assert offspring[weights == 0].sum() == 0
    if name == "residual_multinomial":
        assert np.all(offspring >= np.floor(expected * (1 - 1e-12)))
    bins = np.arange(num) // (num // 50)
    excess = np.bincount(bins, offspring - expected)
    scale = np.sqrt(np.bincount(bins, expected) + 1)
    assert np.max(np.abs(excess / scale)) < 5


# ------------------------------------------------------------ small and extreme input


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("num_particles", "num"), [(3, 0), (1, 5)])
def test_sizes(name, num_particles, num):
    num = number_for(name, num_particles, num)
    result = draw(name, accel.as_key(1), jnp.zeros(num_particles), num)
    assert result.index.shape == (num,)
    assert result.index.dtype == jnp.int32
    assert np.all((result.index >= 0) & (result.index < num_particles))
    assert result.ok


@pytest.mark.parametrize("name", SCHEMES)
def test_ends_of_the_uniforms(name):
    """Zero-weight particles stay childless at u = 0 and at the largest number below 1."""
    log_weights = jnp.array([-INF, 0.0, -INF, -2.0, 0.4, -INF])
    for num in {number_for(name, 6, num) for num in (6, 5000)}:
        for u in (0.0, ALMOST_ONE):
            uniforms = np.full(accel.SCHEMES[name].uniform_shape(6, num), u)
            index = chosen_by(name, log_weights, uniforms, num)
            assert set(index.tolist()) <= {1, 3, 4}


@pytest.mark.parametrize("name", SCHEMES)
def test_all_weight_on_one_particle(name):
    log_weights = jnp.full(SIZE, -INF).at[20].set(-1e4)
    assert set(draw(name, accel.as_key(0), log_weights).index.tolist()) == {20}
    almost = jnp.full(SIZE, -200.0).at[20].set(0.0)
    assert set(draw(name, accel.as_key(0), almost).index.tolist()) == {20}


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"multinomial"}))
def test_equal_weights_keep_every_particle(name):
    index = draw(name, accel.as_key(0), jnp.full(SIZE, 0.1)).index
    assert np.array_equal(index, np.arange(SIZE))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_offsets_change_only_the_evidence(name, offset):
    log_weights = jnp.asarray(np.random.default_rng(0).integers(-80, 8, SIZE) / 8, jnp.float32)
    one = draw(name, accel.as_key(5), log_weights)
    other = draw(name, accel.as_key(5), log_weights + offset)
    assert np.array_equal(one.index, other.index)
    assert math.isclose(other.log_mean - offset, one.log_mean, abs_tol=2e-3)
    assert one.effective_sample_size == other.effective_sample_size


@pytest.mark.parametrize("name", SCHEMES)
def test_subnormal_weights(name):
    log_weights = jnp.full(SIZE, -INF).at[:3].set(jnp.array([-100.0, -90.0, -95.0]) - 1e4)
    index = np.asarray(draw(name, accel.as_key(0), log_weights).index)
    assert np.all(index <= 2)
    assert 0.95 < np.mean(index == 1) <= 1


# ------------------------------------------------------------ drawing


def test_uniforms():
    """Kolmogorov-Smirnov distance below 2 / sqrt(n): false alarm 7e-4, the key is fixed."""
    grid = np.arange(1, 10**5 + 1) / 10**5
    for two_words in (False, True):
        u = np.asarray(drawing.draw_uniforms(accel.as_key(2), (10**5,), two_words))
        assert u.dtype == np.float64
        assert np.max(np.abs(np.sort(u) - grid)) < 2 / math.sqrt(10**5)
        assert np.all((u > 0) & (u < 1))
        on_coarse_grid = np.mod(u * 2.0**33, 1) == 0
        assert on_coarse_grid.all() != two_words
        on_fine_grid = np.mod(u * 2.0**53, 1) == 0
        assert on_fine_grid.all()


def test_all_bits_set_stays_below_one(monkeypatch):
    full = lambda key, shape, dtype: jnp.full(shape, 2**32 - 1, dtype)
    monkeypatch.setattr(jax.random, "bits", full)
    for two_words in (False, True):
        u = drawing.draw_uniforms(accel.as_key(0), (3,), two_words)
        assert np.all(np.asarray(u) < 1)


def test_two_words_from_a_million_on(monkeypatch):
    seen = []
    real = drawing.draw_uniforms
    monkeypatch.setattr(
        drawing, "draw_uniforms", lambda k, s, two: (seen.append(two), real(k, s, two))[1]
    )
    for name in ("multinomial", "systematic"):
        for num_particles, num in [(999_999, 10), (10**6, 10), (10, 10**6)]:
            shape = jax.ShapeDtypeStruct((num_particles,), jnp.float32)
            jax.eval_shape(
                lambda x, name=name, num=num: draw(name, jax.random.key(0), x, num), shape
            )
    assert seen == [False, True, True, False, False, False]


@pytest.mark.parametrize("name", ["systematic", "multinomial"])
def test_mean_over_keys(name):
    """Within 5 standard errors over 4000 keys: false alarm 3e-6 a scheme, keys fixed."""
    log_weights = jnp.array([0.0, 1.1, -0.7, -INF, 2.0])
    weights = np.asarray(accel.normalize(log_weights).weights, float)
    keys = jax.random.split(accel.as_key(9), 4000)
    index = np.asarray(quick_jit(jax.vmap(lambda k: draw(name, k, log_weights, 7).index))(keys))
    offspring = np.array([np.bincount(row, minlength=5) for row in index])
    error = np.sqrt(VARIANCES[name](weights, 7) / len(keys)) + 1e-12
    assert np.max(np.abs(offspring.mean(0) - 7 * weights) / error) < 5


@pytest.mark.parametrize("name", SCHEMES)
def test_same_ancestors_in_every_mode(name):
    """Eager, jit of vmap, and both in 64-bit mode."""
    rows = np.stack([mixed(1500, seed) for seed in range(3)])
    keys = jax.random.split(accel.as_key(0), 3)
    run = lambda key, row: draw(name, key, row).index
    loop = np.stack([run(k, x) for k, x in zip(keys, rows, strict=True)])
    assert np.array_equal(quick_jit(jax.vmap(run))(keys, rows), loop)
    with jax.enable_x64(True):
        assert np.array_equal(quick_jit(jax.vmap(run))(keys, rows), loop)
    assert np.array_equal(run(keys[0], rows[0]), loop[0])
    assert not np.array_equal(run(keys[1], rows[0]), loop[0])


@pytest.mark.parametrize("name", ["systematic", "residual_multinomial"])
def test_double_precision(name, x64):
    """Weights that float32 cannot tell from one another."""
    log_weights = jnp.asarray(1e-9 * np.arange(SIZE))
    assert log_weights.dtype == jnp.float64
    result = draw(name, accel.as_key(0), log_weights)
    assert result.log_mean.dtype == jnp.float64
    assert math.isclose(result.log_mean, 1e-9 * (SIZE - 1) / 2, rel_tol=1e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_leading_axes_are_independent_rows(name):
    rows = jnp.zeros((2, 3, 40)).at[..., ::2].set(-INF).at[1, 2, 1].set(3.0)
    num = number_for(name, 40, 11)
    result = compiled(name, num)(accel.as_key(0), rows)
    assert result.index.shape == (2, 3, num)
    assert result.log_mean.shape == result.ok.shape == (2, 3)
    assert np.all(np.asarray(result.index) % 2 == 1)
    assert result.effective_sample_size[1, 2] < 4
    if name == "multinomial":
        assert len(np.unique(result.index[0], axis=0)) == 3


@pytest.mark.parametrize("name", SCHEMES)
def test_gradient_of_the_evidence_is_the_weights(name):
    """And none goes through the indices."""
    log_weights = jnp.array([0.0, 1.0, -INF, -0.5])

    def f(x, log_weights):
        result = draw(name, accel.as_key(0), log_weights)
        return result.log_mean + accel.take_particles(x, result.index).sum()

    by_x, by_weights = quick_jit(jax.grad(f, argnums=(0, 1)))(jnp.ones(4), log_weights)
    assert by_x.sum() == 4
    weights = accel.normalize(log_weights).weights
    np.testing.assert_allclose(by_weights, weights, rtol=1e-6)


def test_old_style_keys():
    log_weights = jnp.zeros(SIZE)
    old = accel.multinomial(jax.random.PRNGKey(3), log_weights).index
    assert np.array_equal(old, accel.multinomial(jax.random.key(3), log_weights).index)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("num", [50, 40_000])
def test_lowers_for_other_platforms(wide, num):
    with jax.enable_x64(wide):
        shape = jax.ShapeDtypeStruct((num,), jnp.result_type(float))

        def every_kernel(words, log_weights):
            key = jax.random.wrap_key_data(words, impl="philox4x32")
            results = [draw(name, key, log_weights) for name in (*SCHEMES, "rejection")]
            index = accel.permute_for_inplace(results[0].index)
            return (
                results,
                accel.take_particles(log_weights, index),
                accel.temper_step(log_weights, log_weights, 0.0, 0.5),
                accel.threshold(key, log_weights, num // 2),
            )

        words = jax.ShapeDtypeStruct((2,), jnp.uint32)
        # Kernels that were compiled on this machine cannot be exported.
        with accel.backend("xla"):
            program = export.export(jax.jit(every_kernel), platforms=["cpu", "cuda"])
            exported = program(words, shape)
        assert exported.platforms == ("cpu", "cuda")


def test_memory_for_a_million_particles():
    """Bytes a particle, those of the log-weights and of the result included."""
    shape = jax.ShapeDtypeStruct((10**6,), jnp.float32)
    programs = {
        "scaled_cdf": lambda x: accel.scaled_cdf(x, 10**6),
        "systematic": lambda x: accel.systematic(accel.as_key(0), x),
        "normalize": lambda x: accel.normalize(x).weights,
    }
    used = {}
    with accel.backend("xla"):
        for name, program in programs.items():
            found = jax.jit(program).lower(shape).compile().memory_analysis()
            total = found.argument_size_in_bytes + found.output_size_in_bytes
            used[name] = (total + found.temp_size_in_bytes) / 10**6
    assert used["scaled_cdf"] < 24  # six arrays of floats
    assert used["normalize"] < 24
    assert used["systematic"] < 36


def test_repeated_calls_compile_once():
    for name in SCHEMES:
        draw(name, accel.as_key(0), jnp.zeros(SIZE))
        before = drawing.draw_checked._cache_size()
        draw(name, accel.as_key(1), jnp.ones(SIZE))
        draw(name, accel.as_key(1), jnp.ones(SIZE), SIZE)
        assert drawing.draw_checked._cache_size() == before


# ------------------------------------------------------------ bad input


@pytest.mark.parametrize("name", SCHEMES)
def test_bad_input(name):
    key = accel.as_key(0)
    zeros = jnp.zeros(SIZE)
    with pytest.raises(DegenerateWeightsError, match="all 200 values of log_weights are -inf"):
        draw(name, key, zeros - INF)
    with pytest.raises(InvalidWeightsError, match="nan: 1 of 200 values, the first at index 2"):
        draw(name, key, zeros.at[2].set(jnp.nan))
    with pytest.raises(InvalidWeightsError, match=r"\+inf: 1 of 200 values"):
        draw(name, key, zeros.at[2].set(INF))
    with pytest.raises(ValueError, match=r"at least 1 .* got shape \(0,\)"):
        draw(name, key, jnp.zeros(0))
    with pytest.raises(ValueError, match=r"num must be in \[0, 2\*\*31\), got -2"):
        draw(name, key, jnp.zeros(3), -2)
    with pytest.raises(TypeError, match="got dtype int32 of shape"):
        draw(name, key, jnp.arange(3))
    for wrong in (3, 0.5, None, np.int64(3)):
        with pytest.raises(TypeError, match=r"key must be a JAX key, got .* as_key\(seed\)"):
            draw(name, wrong, jnp.zeros(3))
    with pytest.raises(TypeError, match="a key made of numbers must have dtype uint32"):
        draw(name, jnp.zeros(3), key)
    with pytest.raises(ValueError, match=r"Map over it with jax\.vmap"):
        draw(name, jax.random.split(key, 3), jnp.zeros(3))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("bad", "log_mean"), [(-INF, -INF), (jnp.nan, jnp.nan), (INF, INF)])
def test_bad_input_inside_jit(name, bad, log_mean):
    rows = jnp.full((2, 3, 40), bad, jnp.float32).at[1].set(-INF).at[1, :, 7].set(0.0)
    num = number_for(name, 40, 11)
    result = compiled(name, num)(accel.as_key(0), rows)
    assert result.ok.tolist() == [[False] * 3, [True] * 3]
    assert result.index[0].tolist() == [list(range(num))] * 3
    assert result.index[1].tolist() == [[7] * num] * 3
    np.testing.assert_array_equal(result.log_mean[0], log_mean)
    assert result.effective_sample_size.tolist() == [[0] * 3, [1] * 3]


@pytest.mark.parametrize("name", [*SCHEMES, "rejection"])
def test_nan_is_dropped_on_request(name):
    scheme, key = getattr(accel, name), accel.as_key(0)
    log_weights = jnp.asarray(mixed(SIZE))
    expected = scheme(key, log_weights.at[3:20:4].set(-INF))
    result = scheme(key, log_weights.at[3:20:4].set(jnp.nan), nan="drop")
    for a, b in zip(result, expected, strict=True):
        assert np.array_equal(a, b)
    with pytest.raises(DegenerateWeightsError):
        scheme(key, jnp.full(SIZE, jnp.nan), nan="drop")
    with pytest.raises(ValueError, match="nan must be 'refuse' or 'drop', got 'ignore'"):
        scheme(key, log_weights, nan="ignore")


def test_too_many_particles_or_offspring():
    key = accel.as_key(0)
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 particles"):
        jax.eval_shape(accel.systematic, key, jax.ShapeDtypeStruct((2**31,), jnp.float32))
    with pytest.raises(ValueError, match=r"num must be in \[0, 2\*\*31\), got 2147483648"):
        accel.systematic(key, jnp.zeros(3), 2**31)


def test_unchanged_particles_are_counted_through():
    """More offspring than particles where no weight is usable: all particles in turn."""
    result = jax.jit(lambda x: accel.systematic(jax.random.key(0), x, 5))(jnp.full(3, -INF))
    assert result.index.tolist() == [0, 1, 2, 0, 1]


def test_registry():
    assert list(accel.SCHEMES) == [scheme.name for scheme in accel.SCHEMES.values()]
    for name, scheme in accel.SCHEMES.items():
        assert scheme.is_sorted == (name in ("systematic", "stratified", "residual", "ssp"))
        assert callable(getattr(accel, name))
