"""Resampling of a million particles; a correct scheme fails with probability at most 1e-6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.inference import resample
from bayeskit.validation.findings import Request
from bayeskit.validation.scale import validate_scheme_at_scale


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "residual"])
def test_schemes_of_the_package(scheme):
    found = validate_scheme_at_scale(scheme, Request())
    assert found.verdict == "pass", found.worst
    assert any("less than" in check.name for check in found.checks)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", sorted(accel.SCHEMES))
def test_schemes_of_the_package_at_length(scheme):
    found = validate_scheme_at_scale(scheme, Request(key=1), num_runs=200)
    assert found.verdict == "pass", found.worst


def test_resample_block_stands_for_its_scheme():
    block = resample("stratified")
    found = validate_scheme_at_scale(block, Request(), 10**4)
    same = validate_scheme_at_scale("stratified", Request(), 10**4)
    assert found.checks == same.checks and found.block == same.block
    assert any("less than 2 from the mean" in check.name for check in found.checks)
    with pytest.raises(ValueError, match="resamples under a condition"):
        validate_scheme_at_scale(resample("stratified", ess_below=0.5), Request(), 10**4)
    with pytest.raises(ValueError, match="leaves uneven weights"):
        validate_scheme_at_scale(resample("ssp", rate=lambda t, x: 0.0), Request(), 10**4)


def inverse_cdf(key, log_weights, num, dtype=np.float64):
    """Systematic resampling, right in double precision."""
    weights = np.exp(np.asarray(log_weights, np.float64))
    weights = (weights / weights.sum()).astype(dtype)
    # One number after the other, as a loop would, in the precision of the weights.
    cumulative = np.add.accumulate(weights, dtype=dtype)
    u = (np.arange(num) + float(jax.random.uniform(key))) / num
    index = np.searchsorted(cumulative, u, side="right")
    return np.minimum(index, num - 1)


def test_right_function_passes():
    found = validate_scheme_at_scale(inverse_cdf, Request(), 10**5, max_deviation=1.0)
    assert found.verdict == "pass", found.worst


def in_single_precision(key, log_weights, num):
    return inverse_cdf(key, log_weights, num, np.float32)


def last_gets_the_rest(key, log_weights, num):
    index = inverse_cdf(key, log_weights, num)
    index[-1] = num - 1  # whatever its weight
    return index


def one_too_far(key, log_weights, num):
    return inverse_cdf(key, log_weights, num) + 1


@pytest.mark.parametrize(
    ("planted", "num_particles", "sign"),
    [
        (in_single_precision, 10**6, "block"),
        (last_gets_the_rest, 10**5, "weight zero"),
        (one_too_far, 10**5, "weight zero"),
    ],
)
def test_mistakes_are_found(planted, num_particles, sign):
    """Without a bound on single particles, as for a scheme that one knows nothing about."""
    found = validate_scheme_at_scale(planted, Request(), num_particles)
    assert found.verdict == "fail"
    assert any(sign in check.words for check in found.checks if not check.passed)


def test_more_runs_find_smaller_mistakes():
    """One ancestor in five hundred of the second half is replaced by one particle."""

    def wrong(key, log_weights, num):
        index = inverse_cdf(key, log_weights, num)
        index[num // 2 :: 500] = num // 5
        return index

    few = validate_scheme_at_scale(wrong, Request(), 10**4, num_runs=2)
    many = validate_scheme_at_scale(wrong, Request(), 10**4, num_runs=100)
    assert (few.verdict, many.verdict) == ("pass", "fail")
    assert many.power.replicates == (100,)


def test_bound_on_single_particles():
    """A bias of half a particle shows in no block, only in what systematic may do."""

    def wrong(key, log_weights, num):
        index = inverse_cdf(key, log_weights, num)
        index[: num // 4 : 2] = index[1 : num // 4 : 2]
        return index

    found = validate_scheme_at_scale(wrong, Request(), 10**5, max_deviation=1.0)
    assert found.verdict == "fail"


def test_bad_input():
    with pytest.raises(ValueError, match="unknown scheme"):
        validate_scheme_at_scale("lucky", Request())
    with pytest.raises(ValueError, match="exact"):
        validate_scheme_at_scale("systematic", Request(), 10)
    with pytest.raises(TypeError, match="ancestors"):
        validate_scheme_at_scale(3, Request())
    with pytest.raises(ValueError, match="whole numbers"):
        validate_scheme_at_scale(lambda key, lw, num: jnp.zeros(num), Request(), 1000)
