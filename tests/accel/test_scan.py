import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bayeskit import accel
from bayeskit.accel.scan import _sequential, prefix_sum_of_whole_parts, running_max


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 1000, 4099])
@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_equals_cumsum(length, dtype):
    x = np.random.default_rng(length).integers(0, 1000, length).astype(dtype)
    result = accel.prefix_sum(x)
    assert result.dtype == dtype
    assert np.array_equal(result, np.cumsum(x, dtype=dtype))


def test_empty():
    assert accel.prefix_sum(np.zeros(0, np.int32)).shape == (0,)


def test_large_integers_are_exact(x64):
    x = np.random.default_rng(0).integers(0, 2**62 // 1000, 1000)
    assert accel.prefix_sum(x).tolist() == np.cumsum(x).tolist()


def test_64_bit_scope_inside_a_32_bit_program():
    @jax.jit
    def last(x):
        with jax.enable_x64(True):
            return accel.prefix_sum(x.astype(jnp.int64) << jnp.int64(32))[-1].astype(
                jnp.float64
            )

    assert float(last(jnp.arange(7))) == 21 * 2.0**32


def test_batches_equal_loops():
    x = np.random.default_rng(1).integers(-9, 9, (3, 4, 50)).astype(np.int32)
    expected = np.cumsum(x, axis=-1)
    assert np.array_equal(accel.prefix_sum(x), expected)
    assert np.array_equal(jax.vmap(jax.vmap(accel.prefix_sum))(x), expected)
    assert np.array_equal(jax.jit(jax.vmap(accel.prefix_sum, 1, 1))(x), expected)


def test_both_forms_of_the_running_sum_and_maximum():
    """In a loop, as on a CPU, and in the tree that other platforms use."""
    x = np.random.default_rng(2).integers(0, 9, (2, 77)).astype(np.int32)
    for combine, tree, expected in (
        (jnp.add, lax.cumsum, np.cumsum(x, axis=1)),
        (jnp.maximum, lax.cummax, np.maximum.accumulate(x, axis=1)),
    ):
        for result in (_sequential(combine, jnp.asarray(x)), tree(jnp.asarray(x), axis=1)):
            assert np.array_equal(result, expected)
            assert result.dtype == x.dtype
    assert np.array_equal(running_max(jnp.asarray(x)), expected)


@pytest.mark.parametrize("block_size", [1, 7, 128, 2048])
def test_blocks_of_any_size(block_size):
    x = np.random.default_rng(3).integers(-(2**31), 2**31, (2, 300)).astype(np.int32)
    expected = np.cumsum(x, axis=1, dtype=np.int32)
    assert np.array_equal(accel.prefix_sum(x, block_size), expected)


@pytest.mark.parametrize("shape", [(5000,), (3, 70)])
def test_whole_parts(shape, x64):
    rng = np.random.default_rng(4)
    x, scale = rng.random(shape), rng.random((*shape[:-1], 1)) * 1e15
    expected = np.cumsum((x * scale).astype(np.int64), axis=-1)
    assert np.array_equal(
        prefix_sum_of_whole_parts(jnp.asarray(x), jnp.asarray(scale)), expected
    )
    exported = jax.export.export(jax.jit(prefix_sum_of_whole_parts), platforms=["cpu", "cuda"])
    assert exported(x, scale).platforms


def test_bad_input():
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        accel.prefix_sum(jnp.arange(3), 0)
    with pytest.raises(TypeError, match="adds integers exactly, got dtype float32"):
        accel.prefix_sum(jnp.ones(3))
    with pytest.raises(TypeError, match="got dtype bool"):
        accel.prefix_sum(jnp.ones(3, bool))
    with pytest.raises(ValueError, match="got a scalar"):
        accel.prefix_sum(jnp.int32(3))
