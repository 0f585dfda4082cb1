import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError
from tests.accel.scheme_checks import quick_jit


def right(key, log_weights):
    return accel.rejection(key, log_weights, 2).index


def by_powers(key, log_weights):
    """A planted bug: accepted by W squared over its maximum."""
    return accel.rejection(key, 2 * log_weights, 2).index


def one_key(key, log_weights):
    """A planted bug: both slots see the same proposals."""
    return jnp.repeat(accel.rejection(key, log_weights, 1).index, 2)


def pair_z_scores(draw):
    """z-scores of the numbers of pairs that two slots choose, for independent draws."""
    weights = np.array([0.2, 0.0, 0.7, 0.1])
    log_weights = jnp.log(jnp.asarray(weights, jnp.float32))
    keys = jax.random.split(accel.as_key(1), 40_000)
    pairs = np.asarray(quick_jit(jax.vmap(lambda key: draw(key, log_weights)))(keys))
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(pairs.T), 1)
    expected = np.outer(weights, weights)
    assert np.all(counts[expected == 0] == 0)
    error = np.sqrt(expected * (1 - expected) * len(keys))
    return ((counts - expected * len(keys)) / np.where(error > 0, error, 1)).ravel()


def test_two_slots_are_independent_draws():
    """40 000 fixed keys; 9 cells with |z| < 6: false alarm below 2e-8."""
    assert np.abs(pair_z_scores(right)).max() < 6
    assert np.abs(pair_z_scores(by_powers)).max() > 6
    assert np.abs(pair_z_scores(one_key)).max() > 6


def test_many_slots_in_single_precision():
    """Means in bins of neighbours within 6 standard errors: false alarm below 1e-7."""
    num = 10**5
    log_weights = np.sin(np.arange(num, dtype=np.float32))
    log_weights[::7] = -np.inf
    offspring = np.bincount(accel.rejection(accel.as_key(7), log_weights).index, minlength=num)
    weights = np.exp(log_weights.astype(float))
    expected = num * weights / weights.sum()
    assert offspring[weights == 0].sum() == 0
    bins = np.arange(num) // (num // 50)
    excess = np.bincount(bins, offspring - expected)
    assert np.max(np.abs(excess / np.sqrt(np.bincount(bins, expected)))) < 6


def test_numbers_of_offspring():
    key, log_weights = accel.as_key(2), jnp.array([0.0, -jnp.inf, -0.3])
    assert accel.rejection(key, log_weights, 0).index.shape == (0,)
    assert accel.rejection(key, log_weights[:1]).index.tolist() == [0]
    for num in (1, 50):
        index = accel.rejection(key, log_weights, num).index
        assert index.shape == (num,)
        assert set(index.tolist()) <= {0, 2}


def test_bad_input():
    key = accel.as_key(0)
    with pytest.raises(DegenerateWeightsError, match="all 3 values"):
        accel.rejection(key, jnp.full(3, -jnp.inf))
    with pytest.raises(InvalidWeightsError, match=r"\+inf: 1 of 3"):
        accel.rejection(key, jnp.array([0.0, jnp.inf, 0.0]))
    with pytest.raises(ValueError, match="must be one row"):
        accel.rejection(key, jnp.zeros((2, 3)))
    result = jax.jit(lambda w: accel.rejection(key, w, 4))(jnp.full(3, -jnp.inf))
    assert result.index.tolist() == [0, 1, 2, 0]
    assert not result.ok
