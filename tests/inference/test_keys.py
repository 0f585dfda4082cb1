"""Keys: one draw for all lanes, and keys of the exact mode that refuse to be used twice."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import KeyReuseError, TraceLevelError
from bayeskit.inference import random
from bayeskit.inference.keys import EnumerationKey, LaneKey, Tape, trace_level
from bayeskit.validation import exact
from tests.inference.finite_models import NOTHING

KEY = accel.as_key(3)


def enumerated(function):
    return exact.enumerate_paths(lambda key, _: function(key), NOTHING)


def coin(key):
    return random.categorical(key, jnp.zeros(2))


# ---------------------------------------------------------------- trace levels


def test_trace_level_tells_transformations_apart():
    outside = trace_level()
    assert outside == trace_level()
    seen = []

    def look(x):
        seen.append(trace_level())
        return x

    jax.jit(look)(0.0)
    jax.vmap(look)(jnp.zeros(2))
    jax.lax.scan(lambda c, x: (look(c), x), 0.0, jnp.zeros(2))
    jax.lax.cond(True, look, look, 0.0)
    assert len(seen) >= 4
    assert all(level != outside for level in seen)
    assert trace_level() == outside


# ---------------------------------------------------------------- keys used twice


@pytest.mark.parametrize(
    "draw_twice",
    [
        lambda key: coin(key) + coin(key),
        lambda key: coin(key) + coin(random.split(key)[0]),
        lambda key: sum(coin(k) for k in [random.split(key)[0]] * 2),
        lambda key: random.scan(
            lambda _, total, x: (total + coin(key), None), random.split(key)[0], 0, np.ones(2)
        )[0],
    ],
    ids=["two draws", "a draw and a split", "a part of a split", "inside a loop"],
)
def test_key_used_twice_is_refused(draw_twice):
    with pytest.raises(KeyReuseError, match="already consumed by a draw or a split"):
        enumerated(draw_twice)


@pytest.mark.parametrize(
    "raw",
    [
        lambda key: jax.vmap(lambda i: i + coin(key))(jnp.arange(3)).sum(),
        lambda key: jax.lax.scan(lambda c, x: (c + coin(key), x), 0, jnp.arange(3))[0],
        lambda key: jax.lax.cond(True, lambda: coin(key), lambda: 0),
        lambda key: jax.jit(lambda: coin(key))(),
        lambda key: jax.lax.fori_loop(0, 3, lambda i, c: c + coin(key), 0),
    ],
    ids=["vmap", "scan", "cond", "jit", "fori_loop"],
)
def test_key_used_inside_a_raw_transformation_is_refused(raw):
    # One draw would stand for many: without the check these laws are silently wrong.
    with pytest.raises(TraceLevelError, match="Use lanes, scan, cond and repeat"):
        enumerated(raw)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda key: jax.random.uniform(key),
        lambda key: jax.random.split(key),
        lambda key: jax.vmap(lambda k: k)(key),
        lambda key: jax.jit(lambda k: 0)(key),
        lambda key: jax.lax.scan(lambda k, x: (k, x), key, jnp.arange(2)),
    ],
    ids=["jax.random.uniform", "jax.random.split", "vmap", "jit", "scan"],
)
def test_enumeration_key_is_no_array(misuse):
    with pytest.raises((TypeError, ValueError)):
        enumerated(misuse)


def test_fresh_keys_inside_lanes_and_loops_are_accepted():
    def total(key):
        first, second, third = random.split(key, 3)
        heads = random.lanes(lambda k, x: x + coin(k), first, jnp.zeros(2, int)).sum()
        heads, _ = random.scan(lambda k, c, x: (c + coin(k), None), second, heads, np.ones(2))
        return random.cond(heads > 0, lambda k, c: c + coin(k), third, heads)

    law = enumerated(total)
    # Five coins, but the last is thrown only after at least one head.
    expected = {0: 1 / 16, 1: 4 / 32, 2: (4 + 6) / 32, 3: 10 / 32, 4: (4 + 1) / 32, 5: 1 / 32}
    assert dict(zip(law.state.tolist(), law.mass, strict=True)) == pytest.approx(expected)


def test_tape_records_and_replays():
    recorded = Tape()
    key = EnumerationKey(recorded)
    first, second = random.split(key)
    assert int(coin(first)) == 0
    assert int(random.categorical(second, jnp.log(jnp.array([0.2, 0.3, 0.5])))) == 0
    assert recorded.sizes == [2, 3]
    replayed = Tape(jnp.array([1, 2]))
    first, second = random.split(EnumerationKey(replayed))
    assert int(coin(first)) == 1
    assert int(random.categorical(second, jnp.log(jnp.array([0.2, 0.3, 0.5])))) == 2
    assert float(replayed.log_probability) == pytest.approx(np.log(0.25))


# ---------------------------------------------------------------- keys of lanes


DRAWS = {
    "normal": lambda key: random.normal(key, (3,)),
    "uniform": lambda key: random.uniform(key),
    "bits": lambda key: random.bits(key, (2,)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_lanes_draw_once_for_all(name):
    """The numbers of all lanes are those of one draw from the base key."""
    num = 5
    drawn = random.lanes(lambda key, _: DRAWS[name](key), KEY, jnp.arange(num))
    shape = drawn.shape[1:]
    at_once = {
        "normal": lambda: random.normal(KEY, (num, *shape)),
        "uniform": lambda: jax.random.uniform(KEY, (num, *shape)),
        "bits": lambda: jax.random.bits(KEY, (num, *shape), jnp.uint32),
    }[name]()
    np.testing.assert_array_equal(drawn, at_once)


@pytest.mark.parametrize("num", [100, 1000])
def test_lanes_cost_no_key_splitting(num):
    """No random bits are generated lane by lane: one key gives one array, small or large."""

    def text(of_all):
        return str(jax.make_jaxpr(lambda key: of_all(key, jnp.zeros(num)))(KEY))

    program = text(lambda key, x: random.lanes(lambda k, x: x + random.normal(k), key, x))
    # Short arrays come from JAX, long ones from the words of the key.
    assert program.count("random_bits") + program.count("random_unwrap") == 1
    keys_of_lanes = re.compile(r"key<\w+>\[\d")
    assert not keys_of_lanes.search(program)
    by_lane = text(lambda key, x: jax.vmap(jax.random.normal)(jax.random.split(key, num)))
    assert keys_of_lanes.search(by_lane)


def test_parts_of_a_lane_key_differ_from_one_another_and_between_lanes():
    def two(key, _):
        first, second = random.split(key)
        return jnp.stack([random.normal(first), random.normal(second)])

    drawn = random.lanes(two, KEY, jnp.arange(50))
    assert len(np.unique(drawn)) == 100


def test_real_key_of_a_lane_belongs_to_it_alone():
    drawn = random.lanes(
        lambda key, _: jax.random.normal(random.real_key(key)), KEY, jnp.arange(50)
    )
    assert len(np.unique(drawn)) == 50
    expected = jax.random.normal(jax.random.fold_in(KEY, 7))
    assert float(drawn[7]) == pytest.approx(float(expected))


def test_lane_key_is_a_pytree():
    key = LaneKey(KEY, jnp.uint32(2))
    leaves, structure = jax.tree.flatten(key)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, LaneKey)
    assert again.lane == 2
