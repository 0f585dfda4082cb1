import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel.resampling.threshold import threshold_cdf
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError

CASES = [
    ([0.7, 0.1, 0.1, 0.1], 3),
    ([0.25, 0.25, 0.25, 0.25], 2),
    ([0.0, 0.05, 0.5, 0.0, 0.15, 0.3], 3),
    ([0.04, 0.3, 0.01, 0.65], 1),
    ([0.4, 0.3, 0.3], 3),
    ([0.5, 0.0, 0.5, 0.0], 3),
]


def threshold_by_search(weights, num):
    """c by bisection on the sum of min(1, W / c); 0 where all can be kept."""
    if np.sum(weights > 0) <= num:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        few = np.minimum(1, weights / middle).sum() < num
        low, high = (low, middle) if few else (middle, high)
    return high


@pytest.mark.parametrize(("weights", "num"), CASES)
def test_chances_and_weights(weights, num):
    weights = np.array(weights)
    with jax.enable_x64(True):
        cdf, log_weights, ok = threshold_cdf(jnp.log(jnp.asarray(weights)), num)
    cdf = np.asarray(cdf)
    chances, after = np.diff(cdf, prepend=0.0), np.exp(np.asarray(log_weights))
    c = threshold_by_search(weights, num)
    alive = weights > 0
    np.testing.assert_allclose(chances[alive], np.minimum(1, weights / max(c, 1e-300))[alive])
    np.testing.assert_allclose(after[alive], np.maximum(weights, c)[alive])
    np.testing.assert_allclose(chances * after, weights, atol=1e-15)
    assert ok and cdf[-1] == num
    if c > 0:
        assert np.all(chances[~alive] == 0)


def test_many_particles_in_single_precision():
    """No copies, heavy particles kept, and weights that add up to one."""
    num = 10**5
    log_weights = (-2 * np.random.default_rng(0).normal(size=10**6) ** 2).astype(np.float32)
    log_weights[::7] = -np.inf
    result = accel.threshold(accel.as_key(3), log_weights, num)
    index, after = np.asarray(result.index), np.exp(np.asarray(result.log_weights, float))
    assert np.all(np.diff(index) > 0)
    assert np.all(np.isfinite(log_weights[index]))
    assert after.sum() == pytest.approx(1, abs=1e-6)
    weights = np.exp(log_weights.astype(float))
    weights /= weights.sum()
    heavy = np.flatnonzero(weights > after.min() * (1 + 1e-6))
    assert np.isin(heavy, index).all()


def test_smallest_squared_error_of_all_schemes():
    """The expected squared error of the weights is below that of systematic resampling."""
    weights, num = np.array([0.05, 0.32, 0.13, 0.1, 0.4]), 3
    with jax.enable_x64(True):
        cdf, after, _ = threshold_cdf(jnp.log(jnp.asarray(weights)), num)
    chances = np.diff(cdf, prepend=0.0)
    error = np.sum(chances * np.exp(2 * np.asarray(after)) - weights**2)
    fraction = num * weights % 1
    assert error < np.sum(fraction * (1 - fraction)) / num**2


def test_bad_input():
    key = accel.as_key(0)
    with pytest.raises(DegenerateWeightsError, match="all 3 values"):
        accel.threshold(key, jnp.full(3, -jnp.inf), 2)
    with pytest.raises(InvalidWeightsError, match="nan: 1 of 3"):
        accel.threshold(key, jnp.array([0.0, jnp.nan, 0.0]), 2)
    with pytest.raises(ValueError, match="num must be from 1 to 3, the number of particles"):
        accel.threshold(key, jnp.zeros(3), 4)
    with pytest.raises(ValueError, match="must be one row"):
        accel.threshold(key, jnp.zeros((2, 3)), 2)
    result = jax.jit(lambda w: accel.threshold(key, w, 2))(jnp.full(3, -jnp.inf))
    assert not result.ok
    assert np.isfinite(result.log_weights).all()
