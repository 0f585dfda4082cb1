"""Normal numbers from random words: the inverse distribution function, both tails included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import chisquare

from bayeskit import accel
from bayeskit.accel.noise import philox_words
from bayeskit.inference import random

EDGES = np.array([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1], np.uint32)
WORDS = np.concatenate([EDGES, np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32)])


def test_normals_against_the_inverse_in_double_precision():
    exact = ndtri((WORDS + 0.5) * 2.0**-32)
    z = np.asarray(accel.normal_of_words(WORDS))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, exact, rtol=1.5e-6)
    # The tails, word by word.
    low = np.arange(5000, dtype=np.uint32)
    np.testing.assert_allclose(
        accel.normal_of_words(low), ndtri((low + 0.5) * 2.0**-32), rtol=1.5e-6
    )


def test_symmetric_to_the_last_bit_and_increasing():
    np.testing.assert_array_equal(accel.normal_of_words(WORDS), -accel.normal_of_words(~WORDS))
    z = np.asarray(accel.normal_of_words(np.sort(WORDS)))
    # Neighbouring words may round to the same number, or out of order by a rounding.
    assert np.all(np.diff(z) > -1e-6)


def test_both_precisions_see_the_same_numbers():
    single = random.normal(jax.random.key(3), (50,), jnp.float32)
    with jax.enable_x64(True):
        double = random.normal(jax.random.key(3), (50,), jnp.float64)
        assert double.dtype == jnp.float64
    np.testing.assert_array_equal(single, double)


def test_seeds_are_no_keys_and_keys_no_words():
    for draw in (accel.random_words, accel.random_normals):
        with pytest.raises(TypeError, match=r"key must be a JAX key, got int. Make one with"):
            draw(0, (3,))
    for of_words in (accel.normal_of_words, accel.fold_words):
        with pytest.raises(TypeError, match=r"words must be .* Draw with random_words\(key"):
            of_words(jax.random.key(0))


def test_other_words_are_refused():
    with pytest.raises(TypeError, match="words must be uint32, got dtype int32"):
        accel.normal_of_words(np.array([1, 2], np.int32))


PHILOX = accel.as_key(7)


def philox_in_whole_numbers(key, left, right):
    for _ in range(10):
        product = 0xD256D193 * left
        left, right = (product >> 32) ^ key ^ right, product & (2**32 - 1)
        key = (key + 0x9E3779B9) % 2**32
    return left, right


def test_words_against_philox_in_whole_numbers():
    ones = 2**32 - 1
    # The known answers of Random123, the library of the authors.
    assert philox_in_whole_numbers(0, 0, 0) == (0xFF1DAE59, 0x6CD10DF2)
    assert philox_in_whole_numbers(ones, ones, ones) == (0x2C3F628B, 0xAB4FD7AD)
    assert philox_in_whole_numbers(0x13198A2E, 0x243F6A88, 0x85A308D3) == (
        0xDD7CE038,
        0xF62A4C12,
    )
    for key, stream in ((0, 0), (0x13198A2E, 0x85A308D3), (ones, ones)):
        blocks = np.asarray(philox_words(jnp.uint32(key), jnp.uint32(stream), 14))
        expected = [philox_in_whole_numbers(key, number, stream)[::-1] for number in range(7)]
        np.testing.assert_array_equal(blocks, np.ravel(expected))


@pytest.mark.parametrize("shape", [(256,), (257,), (3, 101), (2, 2, 500)])
def test_many_words_of_any_shape(shape):
    words = np.asarray(accel.random_words(PHILOX, shape))
    assert words.shape == shape
    # The start of one stream, whatever the number of words; and no block comes twice.
    longest = np.asarray(accel.random_words(PHILOX, (2000,)))
    np.testing.assert_array_equal(words.ravel(), longest[: words.size])
    assert len(np.unique(longest)) == 2000


def test_words_are_the_same_in_any_surroundings():
    keys = jax.random.split(PHILOX, 3)
    alone = [np.asarray(accel.random_words(key, (301,))) for key in keys]
    mapped = jax.jit(jax.vmap(lambda key: accel.random_words(key, (301,))))(keys)
    np.testing.assert_array_equal(mapped, alone)
    assert len(np.unique(mapped)) == 3 * 301
    with jax.enable_x64(True):
        np.testing.assert_array_equal(accel.random_words(keys[0], (301,)), alone[0])


def test_few_words_and_other_generators_draw_as_jax_does():
    for key, num in ((PHILOX, 255), (jax.random.key(3), 1000)):
        bits = jax.random.bits(key, (num,), jnp.uint32)
        np.testing.assert_array_equal(accel.random_words(key, (num,)), bits)


def test_words_are_uniform_and_independent_of_their_neighbours():
    """Cells of words, of low bits, of pairs, and of keys in a row. False-alarm rate 1e-6."""
    words = np.asarray(accel.random_words(PHILOX, (2**18,)))
    keys = jax.random.split(PHILOX, 2**10)
    of_keys = np.asarray(jax.vmap(lambda key: accel.random_words(key, (256,)))(keys))
    top, low = words >> 28, words & 15
    pairs = 16 * top[:-1:2] + top[1::2]
    between_blocks = 16 * top[1:-2:2] + top[2:-1:2]
    first_of_keys = of_keys[:, :8] >> 28
    cells = [(top, 16), (low, 16), (pairs, 256), (between_blocks, 256), (first_of_keys, 16)]
    for values, num_cells in cells:
        counts = np.bincount(values.ravel(), minlength=num_cells)
        assert chisquare(counts).pvalue > 1e-6 / len(cells)


def test_normals_are_those_of_the_words():
    for num in (100, 1001):
        words = accel.random_words(PHILOX, (num,))
        # Compiled and not, a product and a sum may be rounded once or twice.
        np.testing.assert_allclose(
            accel.random_normals(PHILOX, (num,)), accel.normal_of_words(words), rtol=1e-6
        )


def test_folded_words():
    words = np.random.default_rng(1).integers(0, 2**32, (1000, 4), np.uint32)
    folded = np.asarray(jax.vmap(accel.fold_words)(words))
    np.testing.assert_array_equal(folded, np.bitwise_xor.reduce(words, axis=1))
