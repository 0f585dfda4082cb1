import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bayeskit import accel
from bayeskit.accel.scan import _sequential, running_max


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


def test_bad_input():
    with pytest.raises(TypeError, match="adds integers exactly, got dtype float32"):
        accel.prefix_sum(jnp.ones(3))
    with pytest.raises(TypeError, match="got dtype bool"):
        accel.prefix_sum(jnp.ones(3, bool))
    with pytest.raises(ValueError, match="got a scalar"):
        accel.prefix_sum(jnp.int32(3))
