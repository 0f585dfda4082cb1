"""The random primitives, on ordinary keys, on keys of lanes and where paths are enumerated."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from bayeskit import accel
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference import extend, random, spawn
from bayeskit.inference.blocks import resampling
from bayeskit.inference.keys import LaneKey
from bayeskit.validation import exact
from tests.inference import finite_models as fm

KEY = accel.as_key(5)
PROBABILITIES = np.array([0.1, 0.0, 0.55, 0.35])
LOGITS = np.log(PROBABILITIES, where=PROBABILITIES > 0, out=np.full(4, -np.inf)) + 3.0


def law(function, **options):
    """The exact law of function(key) as a dict from outcome to probability."""
    enumeration = exact.Enumeration(**options)
    atoms = exact.enumerate_paths(lambda key, _: function(key), fm.NOTHING, enumeration)
    outcomes = atoms.state.reshape(len(atoms.mass), -1).tolist()
    return {tuple(o): p for o, p in zip(outcomes, atoms.mass, strict=True)}


# ---------------------------------------------------------------- one primitive, three keys


def four_outcomes(key, num=None):
    return random.categorical(key, fm.log_table(LOGITS), num)


def above_a_fifth(key):
    u = random.piecewise_uniform(key, (), lambda: fm.log_table([0.7, 0.2]))
    # It is float64 in any mode, and so must be what it is compared with.
    with jax.enable_x64(True):
        return (u > 0.2).astype(jnp.int32)


FINITE = {
    "categorical": (four_outcomes, {(0,): 0.1, (2,): 0.55, (3,): 0.35}),
    "categorical, rows": (
        lambda key: random.categorical(key, fm.log_table(np.log([[0.2, 0.8], [0.5, 0.5]]))),
        {(0, 0): 0.1, (0, 1): 0.1, (1, 0): 0.4, (1, 1): 0.4},
    ),
    "categorical, num": (
        lambda key: four_outcomes(key, 2),
        {
            (i, j): PROBABILITIES[i] * PROBABILITIES[j]
            for i, j in itertools.product([0, 2, 3], repeat=2)
        },
    ),
    "accept": (
        lambda key: random.accept(key, fm.log_table(np.log(0.3))).astype(int),
        {(0,): 0.7, (1,): 0.3},
    ),
    "accept, batch": (
        lambda key: random.accept(key, fm.log_table([np.log(0.3), 2.0, -np.inf])).astype(int),
        {(0, 1, 0): 0.7, (1, 1, 0): 0.3},
    ),
    "permutation": (
        lambda key: random.permutation(key, 3),
        dict.fromkeys(itertools.permutations(range(3)), 1 / 6),
    ),
    "piecewise_uniform": (above_a_fifth, {(0,): 0.2, (1,): 0.8}),
    "integers": (
        lambda key: random.integers(key, 3, (2,)),
        dict.fromkeys(itertools.product(range(3), repeat=2), 1 / 9),
    ),
    # One value has one outcome, and not none.
    "integers, of one value": (lambda key: random.integers(key, 1), {(0,): 1.0}),
    "sample Bernoulli": (
        lambda key: random.sample(key, dist.Bernoulli(0.25)),
        {(0,): 0.75, (1,): 0.25},
    ),
    "sample Bernoulli, logits": (
        lambda key: random.sample(key, dist.Bernoulli(logits=fm.log_table(-np.log(3)))),
        {(0,): 0.75, (1,): 0.25},
    ),
    "sample Categorical": (
        lambda key: random.sample(key, dist.Categorical(probs=fm.log_table([0.2, 0.8]))),
        {(0,): 0.2, (1,): 0.8},
    ),
    "sample Categorical, logits": (
        lambda key: random.sample(key, dist.Categorical(logits=fm.log_table([1.0, 1.0]))),
        {(0,): 0.5, (1,): 0.5},
    ),
    "sample Binomial": (
        lambda key: random.sample(key, dist.Binomial(2, 0.5)),
        {(0,): 0.25, (1,): 0.5, (2,): 0.25},
    ),
    "sample Delta": (lambda key: random.sample(key, dist.Delta(3)), {(3,): 1.0}),
    "sample, independent coordinates": (
        lambda key: random.sample(key, dist.Bernoulli(fm.log_table([0.25, 0.5])).to_event(1)),
        {(0, 0): 0.375, (0, 1): 0.375, (1, 0): 0.125, (1, 1): 0.125},
    ),
    # A mask changes densities. What is drawn stays the same.
    "sample, masked": (
        lambda key: random.sample(key, dist.Bernoulli(0.25).mask(False)),
        {(0,): 0.75, (1,): 0.25},
    ),
}


@pytest.mark.parametrize("name", FINITE)
def test_enumerated_law_of_each_primitive(name):
    function, expected = FINITE[name]
    # NumPyro keeps Python parameters as float32.
    assert law(function) == pytest.approx(expected, abs=1e-7 if "sample" in name else 1e-12)


@pytest.mark.parametrize("name", FINITE)
def test_frequencies_on_lanes_and_on_ordinary_keys(name):
    """20 000 draws each; at most 9 outcomes with |z| < 6: false alarms below 2e-8."""
    function, expected = FINITE[name]
    num = 20_000
    on_lanes = random.lanes(lambda key, _: function(key), KEY, jnp.arange(num))
    on_keys = jax.vmap(function)(jax.random.split(KEY, num))
    for drawn in (on_lanes, on_keys):
        rows = np.asarray(drawn).reshape(num, -1)
        seen, counts = np.unique(rows, axis=0, return_counts=True)
        outcomes = {tuple(row): count for row, count in zip(seen, counts, strict=True)}
        assert set(outcomes) <= set(expected), "an outcome of probability zero was drawn"
        for outcome, probability in expected.items():
            sd = math.sqrt(max(num * probability * (1 - probability), 1e-9))
            z = (outcomes.get(outcome, 0) - num * probability) / sd
            assert abs(z) < 6, f"{name}: outcome {outcome} is {z:.1f} sd off"


PLANE = np.array([1.0, 2.0]), np.array([[2.0, 0.9], [0.9, 1.0]])
CONTINUOUS = {
    "normal": (lambda key: random.normal(key), 0.0, 1.0),
    "uniform": (lambda key: random.uniform(key), 0.5, 1 / 12),
    "bits": (lambda key: random.bits(key) / 2.0**32, 0.5, 1 / 12),
    "sample Normal": (lambda key: random.sample(key, dist.Normal(2.0, 3.0)), 2.0, 9.0),
    "sample LogNormal": (
        lambda key: jnp.log(random.sample(key, dist.LogNormal(1.0, 2.0))),
        1.0,
        4.0,
    ),
    "sample Uniform": (lambda key: random.sample(key, dist.Uniform(1.0, 3.0)), 2.0, 1 / 3),
    "sample HalfNormal": (
        lambda key: random.sample(key, dist.HalfNormal(2.0)),
        2 * math.sqrt(2 / math.pi),
        4 * (1 - 2 / math.pi),
    ),
    # The square root of an exponential number has less kurtosis.
    "sample Exponential": (
        lambda key: jnp.sqrt(random.sample(key, dist.Exponential(2.0))),
        math.sqrt(math.pi / 8),
        0.5 - math.pi / 8,
    ),
    "sample MultivariateNormal": (
        lambda key: jnp.sum(random.sample(key, dist.MultivariateNormal(PLANE[0], PLANE[1]))),
        3.0,
        2.0 + 1.0 + 2 * 0.9,
    ),
    # Its sampler takes Threefry keys only.
    "sample Poisson": (lambda key: random.sample(key, dist.Poisson(4.0)), 4.0, 4.0),
    # No family of its own here: drawn by NumPyro, lane by lane.
    "sample Gamma": (lambda key: random.sample(key, dist.Gamma(4.0, 2.0)), 2.0, 1.0),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_moments_on_lanes_and_on_ordinary_keys(name):
    """20 000 draws; mean and variance within 6 standard errors (kurtosis at most 4.5)."""
    function, mean, variance = CONTINUOUS[name]
    num = 20_000
    on_lanes = random.lanes(lambda key, _: function(key), KEY, jnp.arange(num))
    on_keys = jax.vmap(function)(jax.random.split(KEY, num))
    for drawn in (on_lanes, on_keys):
        drawn = np.asarray(drawn, float)
        assert abs(drawn.mean() - mean) < 6 * math.sqrt(variance / num)
        assert abs(drawn.var() - variance) < 6 * variance * math.sqrt(3.5 / num)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes(dtype):
    for key in (KEY, LaneKey(KEY, jnp.uint32(5))):
        assert random.normal(key, (2,), dtype).dtype == dtype
        assert random.uniform(key, (), dtype).dtype == dtype
        assert random.piecewise_uniform(key, (3,)).dtype == jnp.float64
        assert random.bits(key).dtype == jnp.uint32


# ---------------------------------------------------------------- what cannot be enumerated


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (random.uniform, "uniform has no finite number of outcomes: use accept, categorical"),
        (random.bits, "bits has too many outcomes to enumerate: use categorical"),
        (random.normal, r"normal has no finite number of outcomes.*start="),
        (random.real_key, "hands its key to code that draws with jax.random"),
        (lambda key: random.fold_in(key, 1), "fold_in has no meaning for an enumerating key"),
        (lambda key: random.piecewise_uniform(key, ()), "needs its breaks"),
        (lambda key: random.sample(key, dist.Poisson(2.0)), "Poisson has no finite support"),
        (lambda key: random.sample(key, dist.Gamma(2.0)), "Gamma has no finite support"),
        (lambda key: random.sample(key, dist.Uniform()), "uniform has no finite number"),
        (lambda key: random.sample(key, dist.Normal()), "normal has no finite number"),
    ],
)
def test_draws_that_cannot_be_enumerated_are_refused_by_name(draw, message):
    with pytest.raises(UnenumerableDrawError, match=message):
        law(draw)


def test_repeat_with_a_number_that_depends_on_the_state_is_refused():
    start = exact.Atoms(np.array([1, 2]), np.array([0.5, 0.5]))
    throw = lambda key, total, i: total + random.categorical(key, jnp.zeros(2))
    with pytest.raises(UnenumerableDrawError, match="number of rounds depends on the state"):
        exact.enumerate_paths(lambda key, n: random.repeat(throw, key, 0, n), start)
    fixed = exact.enumerate_paths(lambda key, n: random.repeat(throw, key, 0 * n, 3), start)
    assert dict(zip(fixed.state.tolist(), fixed.mass, strict=True)) == pytest.approx(
        {0: 1 / 8, 1: 3 / 8, 2: 3 / 8, 3: 1 / 8}
    )


# ---------------------------------------------------------------- quadrature


def test_quadrature_integrates_polynomials_exactly():
    """E[1 + x²] of the next state of an autoregression from N(0, 1): 1 + 0.25 + 1."""
    block = spawn(random.normal, 1) >> extend(
        lambda key, stage, x: 0.5 * x + random.normal(key),
        lambda stage, before, x: jnp.log(1 + x**2),
    )
    mean = fm.mean_evidence(block, exact.Enumeration(quadrature_nodes=4))
    assert abs(mean - 2.25) < 1e-12, f"E[1 + x²] = {mean!r}"


def test_quadrature_of_the_seventh_degree():
    nodes = law(random.normal, quadrature_nodes=4)
    for degree, moment in enumerate([1, 0, 1, 0, 3, 0, 15, 0]):
        assert sum(p * x**degree for (x,), p in nodes.items()) == pytest.approx(
            moment, abs=1e-9
        )
    scaled = law(lambda key: random.sample(key, dist.Normal(1.0, 2.0)), quadrature_nodes=3)
    assert sum(p * x**2 for (x,), p in scaled.items()) == pytest.approx(5.0)


# ---------------------------------------------------------------- piecewise_uniform


@pytest.mark.parametrize("place", [0.001, 0.999])
@pytest.mark.parametrize("scheme", accel.SCHEMES)
def test_representative_may_lie_anywhere_in_its_cell(monkeypatch, scheme, place):
    """Schemes look at a uniform only through its breaks: which number stands for a cell
    of them makes no difference."""
    midpoint = random.piecewise_uniform

    def elsewhere(key, shape, breaks=None):
        middle = midpoint(key, shape, breaks)
        ends = jnp.concatenate([jnp.zeros((*shape, 1)), breaks(), jnp.ones((*shape, 1))], -1)
        at = middle[..., None]
        low = jnp.max(jnp.where(ends < at, ends, 0.0), axis=-1)
        high = jnp.min(jnp.where(ends > at, ends, 1.0), axis=-1)
        return low + place * (high - low)

    def ancestors(key, log_weights):
        return resampling.draw_ancestors(key, log_weights, scheme, 4)

    log_weights = np.log(np.array([[0.31, 0.07, 0.43, 0.19]]))
    start = exact.Atoms(log_weights, np.ones(1))
    expected = exact.enumerate_paths(ancestors, start)
    monkeypatch.setattr(random, "piecewise_uniform", elsewhere)
    moved = exact.enumerate_paths(ancestors, start)
    error = exact.discrepancy(moved.state, moved.mass, expected)
    assert error < fm.TOLERANCE, f"discrepancy {error:.3e}"


def test_uniforms_lie_strictly_inside_the_unit_interval():
    u = np.asarray(random.piecewise_uniform(KEY, (10_000,)))
    assert u.dtype == np.float64
    assert 0 < u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1


# ---------------------------------------------------------------- edges


@pytest.mark.parametrize("num", [None, 3])
@pytest.mark.parametrize("logits", [[-np.inf] * 3, [np.nan, 0.0, 0.0]])
def test_categorical_without_a_usable_weight_gives_the_first(num, logits):
    draw = lambda key: random.categorical(key, fm.log_table(logits), num)
    assert np.all(np.asarray(draw(KEY)) == 0)
    assert np.all(np.asarray(jax.jit(draw)(KEY)) == 0)
    assert list(law(draw).values()) == pytest.approx([1.0])


def test_accept_of_nan_and_infinities():
    ratios = np.array([np.nan, -np.inf, np.inf, 0.0])
    expected = [False, False, True, True]
    draw = lambda key: random.accept(key, fm.log_table(ratios))
    assert random.lanes(lambda k, _: draw(k), KEY, jnp.arange(500)).all(0).tolist() == expected
    assert law(lambda key: draw(key).astype(int)) == {(0, 0, 1, 1): 1.0}


# ---------------------------------------------------------------- loops around draws


def noise(key, x, *_):
    return x + random.normal(key)


def test_nested_lanes():
    """Each outer lane has a key of its own, from which its inner lanes draw at once."""
    outer, inner = 4, 3
    rows = random.lanes(
        lambda key, row: random.lanes(noise, key, row), KEY, jnp.zeros((outer, inner))
    )
    one_by_one = jnp.stack(
        [random.normal(jax.random.fold_in(KEY, i), (inner,)) for i in range(outer)]
    )
    np.testing.assert_allclose(rows, one_by_one, rtol=1e-6)


def test_scan_inside_lanes():
    total = random.lanes(
        lambda key, x: random.scan(lambda k, c, y: (noise(k, c), None), key, x, jnp.ones(5))[0],
        KEY,
        jnp.zeros(3),
    )
    rounds = [jax.random.normal(key, (3,)) for key in jax.random.split(KEY, 5)]
    np.testing.assert_allclose(total, sum(rounds), rtol=1e-5)


def test_scan_stacks_outputs_as_lax_scan_does():
    step = lambda key, carry, x: (carry + x["a"], {"b": carry * x["a"]})
    inputs = {"a": jnp.arange(1.0, 4.0)}
    carry, outputs = random.scan(step, KEY, jnp.float32(0.0), inputs)
    with_lax = jax.lax.scan(lambda c, x: step(None, c, x), jnp.float32(0.0), inputs)
    assert carry == with_lax[0]
    np.testing.assert_array_equal(outputs["b"], with_lax[1]["b"])
    unrolled = exact.enumerate_paths(
        lambda key, _: random.scan(step, key, jnp.zeros(()), inputs), fm.NOTHING
    )
    np.testing.assert_allclose(unrolled.state[1]["b"][0], outputs["b"])


def test_repeat_with_a_traced_number():
    walk = jax.jit(lambda key, num: random.repeat(noise, key, jnp.zeros(()), num))
    rounds = [jax.random.normal(jax.random.fold_in(KEY, i)) for i in range(4)]
    for num in (0, 1, 4):
        assert float(walk(KEY, num)) == pytest.approx(float(sum(rounds[:num])), abs=1e-5)


def test_repeat_with_a_number_of_rounds_for_each_lane():
    """Lanes that stop earlier keep what they had, and draw their own numbers."""
    counts = jnp.array([0, 1, 2, 5, 5])
    walks = random.lanes(
        lambda key, num: random.repeat(noise, key, jnp.zeros(()), num), KEY, counts
    )

    def own(lane, i):
        return float(jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, i), lane)))

    expected = [sum(own(lane, i) for i in range(num)) for lane, num in enumerate(counts)]
    np.testing.assert_allclose(walks, expected, atol=1e-5)


def test_cond():
    changed = lambda key, x: {"x": x["x"] + random.categorical(key, jnp.zeros(2))}
    for predicate in (True, False):
        outcome = law(lambda key, p=predicate: random.cond(p, changed, key, {"x": 3})["x"])
        assert outcome == ({(3,): 0.5, (4,): 0.5} if predicate else {(3,): 1.0})
        value = random.cond(predicate, changed, KEY, {"x": jnp.int32(3)})["x"]
        assert int(value) in ((3, 4) if predicate else (3,))


def test_switch_computes_one_branch_and_selects_in_the_exact_mode():
    branches = [
        lambda key, x: (x + 1, 1.0),
        lambda key, x: (x + random.categorical(key, jnp.zeros(2)), True),
    ]
    # Whole numbers and flags become what the other branch returns.
    value, flag = jax.jit(lambda i: random.switch(i, branches, KEY, jnp.int32(3)))(0)
    assert (int(value), float(flag), flag.dtype) == (4, 1.0, jnp.float32)
    outcome = law(lambda key: random.switch(jnp.asarray(1), branches, key, 3)[0])
    assert outcome == {(3,): 0.5, (4,): 0.5}


def test_until_stops_when_done_or_at_the_limit():
    def step(key, x, i):
        return x + 1 + random.accept(key, -1.0)

    run = jax.jit(lambda most: random.until(lambda x: x >= 5, step, KEY, jnp.int32(0), most))
    x, num = run(100)
    assert x in (5, 6) and 3 <= num <= 5
    assert int(run(2)[1]) == 2
    lanes = random.lanes(
        lambda key, x: random.until(lambda x: x >= 5, step, key, x, 100)[0], KEY, jnp.arange(9)
    )
    assert np.all(lanes >= 5)
    with pytest.raises(UnenumerableDrawError, match="until: the number of rounds"):
        law(lambda key: random.until(lambda x: x >= 5, step, key, jnp.int32(0), 100)[0])


def test_until_enumerated_up_to_the_limit():
    """A coin until it shows heads, three times at most: how many throws, and what came out."""
    throw = lambda key, heads, i: random.accept(key, jnp.log(0.25))
    until_heads = lambda most: (
        lambda key: random.until(lambda heads: heads, throw, key, jnp.asarray(False), most)
    )
    expected = {(1, 1): 0.25, (1, 2): 0.1875, (1, 3): 0.140625, (0, 3): 0.421875}
    outcome = law(lambda key: jnp.stack([*map(jnp.asarray, until_heads(3)(key))]))
    assert outcome == pytest.approx(expected)


def test_common_random_numbers():
    draw = lambda key, x: x + random.normal(key)
    first, second = random.common(draw, KEY, 0.0, 10.0)
    assert float(second) - float(first) == pytest.approx(10.0)
    pairs = random.lanes(lambda key, x: random.common(draw, key, x, -x), KEY, jnp.arange(5.0))
    np.testing.assert_allclose(pairs[0] - pairs[1], 2 * np.arange(5.0), atol=1e-5)
    assert len(np.unique(np.asarray(pairs[0]) - np.arange(5.0))) == 5
    with pytest.raises(UnenumerableDrawError, match="common random numbers cannot"):
        law(lambda key: random.common(draw, key, 0.0, 1.0))


def program(key, x):
    """Every primitive and every loop, as a user may nest them."""

    def particle(lane_key, x):
        first, second, third, fourth = random.split(lane_key, 4)
        x, _ = random.scan(lambda k, c, y: (c + y * random.normal(k), c), first, x, jnp.ones(3))
        x = random.repeat(lambda k, c, i: c + random.uniform(k), second, x, 2)
        x = x + random.categorical(third, jnp.zeros(3))
        return random.cond(x > 0, lambda k, c: c - random.accept(k, -1.0), fourth, x)

    lane_key, resample_key = random.split(key)
    moved = random.lanes(particle, lane_key, x)
    ancestors = resampling.draw_ancestors(resample_key, -(moved**2), "systematic", 6)
    return moved[ancestors], random.permutation(jax.random.fold_in(resample_key, 1), 6)


def test_chains_under_vmap_equal_chains_one_after_another_bit_for_bit():
    keys, x = jax.random.split(KEY, 4), jnp.linspace(-1.0, 1.0, 6)
    side_by_side = jax.jit(jax.vmap(lambda key: program(key, x)))(keys)
    in_turn = jax.jit(lambda keys: jax.lax.map(lambda key: program(key, x), keys))(keys)
    for a, b in zip(side_by_side, in_turn, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(np.unique(side_by_side[0])) > 4, "chains must differ"


def test_jit_changes_nothing():
    draw = lambda key: random.lanes(noise, key, jnp.arange(6.0))
    np.testing.assert_allclose(draw(KEY), jax.jit(draw)(KEY), rtol=1e-6)


def test_gradient_flows_through_lanes_and_loops():
    def mean_square(scale):
        step = lambda key, x, _: (x + scale * random.normal(key), None)
        walk = lambda key, x: random.scan(step, key, x, jnp.ones(2))[0]
        return jnp.mean(random.lanes(walk, KEY, jnp.zeros(100)) ** 2)

    value, gradient = jax.value_and_grad(mean_square)(jnp.float32(3.0))
    # A homogeneous function of degree 2.
    assert float(gradient) == pytest.approx(2 * float(value) / 3.0, rel=1e-5)


def test_gradient_of_normal_families_reaches_their_parameters():
    def mean(location):
        draw = lambda key, _: random.sample(key, dist.Normal(location, 1.0))
        return jnp.mean(random.lanes(draw, KEY, jnp.arange(10)))

    assert float(jax.grad(mean)(1.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("impl", ["threefry2x32", "philox4x32"])
def test_every_generator_works_in_lanes(impl):
    key = jax.random.key(0, impl=impl)
    drawn = random.lanes(noise, key, jnp.zeros(1000))
    assert len(np.unique(drawn)) > 990
