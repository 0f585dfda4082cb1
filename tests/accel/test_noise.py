"""Normal numbers from random words: the inverse distribution function, both tails included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri

from bayeskit import accel
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


def test_other_words_are_refused():
    with pytest.raises(TypeError, match="words must be uint32, got dtype int32"):
        accel.normal_of_words(np.array([1, 2], np.int32))


def test_folded_words():
    words = np.random.default_rng(1).integers(0, 2**32, (1000, 4), np.uint32)
    folded = np.asarray(jax.vmap(accel.fold_words)(words))
    np.testing.assert_array_equal(folded, np.bitwise_xor.reduce(words, axis=1))
