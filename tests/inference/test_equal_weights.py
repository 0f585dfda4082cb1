"""Draws of equal weight in place of weighted ones: as many of each as its weight says."""

import jax
import numpy as np

from bayeskit.inference.equal_weights import equally_weighted

KEY = jax.random.key(11)
WEIGHTS = np.array([0.0, 0.31, 0.02, 0.45, 0.0, 0.22, 0.0])


def is_right(places, num):
    """Whether each number is off its expectation by less than one, and none of weight zero."""
    expected = num * WEIGHTS
    counts = np.bincount(places, minlength=len(WEIGHTS))
    return bool(np.all(np.abs(counts - expected) < 1)) and not counts[WEIGHTS == 0].any()


def test_numbers_are_those_of_the_weights(x64):
    with np.errstate(divide="ignore"):
        log_weights = np.log(WEIGHTS) + 3.7
    found = [equally_weighted(key, log_weights, 50) for key in jax.random.split(KEY, 300)]
    assert all(is_right(places, 50) for places in found)
    # Not in the order of the draws, which would put copies side by side.
    assert not any(np.all(np.diff(places) >= 0) for places in found)
    # Unbiased: each number is a whole one around its expectation. Fails by chance once in 1e7.
    counts = np.array([np.bincount(p, minlength=len(WEIGHTS)) for p in found])
    fraction = (50 * WEIGHTS) % 1.0
    error = np.sqrt(fraction * (1 - fraction) / len(found)) + 1e-12
    assert np.all(np.abs(counts.mean(axis=0) - 50 * WEIGHTS) < 5.5 * error)
    # Independent choices have the same expectation, and are caught.
    independent = np.random.default_rng(0).choice(len(WEIGHTS), 50, p=WEIGHTS)
    assert not is_right(independent, 50)
