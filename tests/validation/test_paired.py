"""Sums over pairs of states."""

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.validation import symmetric_p_value
from bayeskit.validation.features import features_from
from bayeskit.validation.paired import pair_sums


def features_of(x, num_frequencies=2):
    return features_from(jax.random.key(0), x, np.zeros((len(x), 0)), num_frequencies)


def test_rounding_is_no_current(x64):
    """What never moves has no current, whatever order the compiler multiplies in."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    features = features_of(x)
    values = jnp.asarray(rng.normal(size=(1000, features.num_functions)))
    sums = jax.jit(
        lambda before, after: pair_sums(
            before, after, features, reversible=True, num_moved=0, num_not_finite=0
        )
    )(values, values * (1.0 + 1e-15))
    assert np.all(np.asarray(sums.total) == 0.0)
    assert np.all(symmetric_p_value(sums.total, sums.squares) == 1.0)


def test_a_shift_of_one_function_shows_in_its_sum(x64):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, 2))
    features = features_of(x)
    before = jnp.asarray(rng.normal(size=(1000, features.num_functions)))
    after = before.at[:, 3].add(0.5)
    sums = pair_sums(before, after, features, reversible=False, num_moved=9, num_not_finite=0)
    np.testing.assert_allclose(np.asarray(sums.total)[3], 500.0)
    assert np.count_nonzero(np.asarray(sums.total)) == 1
    assert symmetric_p_value(sums.total, sums.squares)[3] < 1e-100
