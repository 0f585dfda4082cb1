import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel import prng, sharding
from bayeskit.errors import BayeskitWarning


def words(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), np.uint32(7), np.int8(7), jnp.int32(7)])
def test_integers(seed):
    key = accel.as_key(seed)
    assert key.shape == ()
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert words(key) == words(accel.as_key(int(seed)))


def test_default_is_the_fastest_counter_based_generator():
    assert str(jax.random.key_impl(accel.as_key(0))) == "philox4x32"


def test_default_where_this_jax_has_no_philox(monkeypatch):
    prng._default_implementation.cache_clear()
    real = jax.random.key

    def key(seed, impl=None):
        if impl == "philox4x32":
            raise ValueError("unknown")
        return real(seed, impl=impl)

    monkeypatch.setattr(jax.random, "key", key)
    assert str(jax.random.key_impl(accel.as_key(0))) == "threefry2x32"
    prng._default_implementation.cache_clear()


def test_seeds_on_a_mesh_start_what_several_devices_can_share():
    plain = accel.as_key(0)
    with accel.on_mesh(accel.particle_mesh(jax.devices()[:1])):
        assert str(jax.random.key_impl(accel.as_key(0))) == "threefry2x32"
        assert accel.as_key(plain) is plain
    assert str(jax.random.key_impl(accel.as_key(0))) == "philox4x32"


def test_philox_keys_on_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr(sharding, "num_shards", lambda: 8)
    with pytest.raises(ValueError, match=r"philox4x32.*8 devices.*impl='threefry2x32'"):
        accel.as_key(jax.random.key(0, impl="philox4x32"))
    key = jax.random.key(0, impl="threefry2x32")
    assert accel.as_key(key) is key


def test_large_seeds_stay_distinct_and_do_not_depend_on_the_mode():
    seeds = [1, 1 + 2**32, 1 + 2**33, 2**63 - 1]
    keys = [words(accel.as_key(seed)) for seed in seeds]
    assert len({tuple(k) for k in keys}) == len(seeds)
    with jax.enable_x64(True):
        assert [words(accel.as_key(seed)) for seed in seeds] == keys
    inside_jit = jax.jit(lambda: [accel.as_key(seed) for seed in seeds])
    assert [words(key) for key in inside_jit()] == keys


def test_typed_keys_are_returned_unchanged():
    key = jax.random.key(3)
    assert accel.as_key(key) is key


@pytest.mark.parametrize("convert", [jnp.asarray, np.asarray])
def test_old_style_keys_keep_their_stream(convert):
    old = jax.random.PRNGKey(11)
    new = accel.as_key(convert(old))
    assert jax.random.uniform(new) == jax.random.uniform(old)


def test_keys_inside_jit():
    bits = jax.jit(lambda key: jax.random.bits(accel.as_key(key)))
    assert bits(jax.random.key(1)) == jax.random.bits(jax.random.key(1))
    assert bits(jax.random.PRNGKey(1)) == jax.random.bits(jax.random.key(1))
    assert jax.vmap(bits)(jax.random.split(jax.random.key(1), 3)).shape == (3,)


@pytest.mark.parametrize("seed", [1.0, "1", None, np.float32(1), jnp.float32(1), [1, 2]])
def test_refuses_other_types(seed):
    with pytest.raises(TypeError, match="seed must be a nonnegative integer or a JAX key"):
        accel.as_key(seed)


@pytest.mark.parametrize("seed", [True, np.True_])
def test_refuses_booleans(seed):
    with pytest.raises(TypeError, match="got a boolean"):
        accel.as_key(seed)


@pytest.mark.parametrize("seed", [-1, np.int64(-1), 2**63])
def test_refuses_integers_out_of_range(seed):
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\*\*63\), got"):
        accel.as_key(seed)


def test_refuses_batches():
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"a batch of shape \(3,\). Map over it with jax.vmap"):
        accel.as_key(keys)
    with pytest.raises(ValueError, match=r"raw keys of shape \(3, 2\)"):
        accel.as_key(jax.random.key_data(keys))


def test_refuses_arrays_that_are_no_keys():
    with pytest.raises(TypeError, match=r"must have dtype uint32, got dtype float32 of shape"):
        accel.as_key(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"shape \(3,\) is no key of JAX's default generator"):
        accel.as_key(jnp.zeros(3, jnp.uint32))


def test_refuses_traced_integers():
    with pytest.raises(TypeError, match="Make the key outside of jit"):
        jax.jit(accel.as_key)(1)


@pytest.mark.parametrize("name", ["rbg", "unsafe_rbg"])
def test_warns_once_of_hardware_generators(name):
    prng._warn_of_hardware_keys.cache_clear()
    key = jax.random.key(0, impl=name)
    with pytest.warns(BayeskitWarning, match=f"'{name}': under jax.vmap only the first key"):
        assert accel.as_key(key) is key
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accel.as_key(key)
