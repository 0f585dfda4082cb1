"""Sums of weights of torch tensors, against JAX and NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError
from tests.accel.weight_regimes import log_weights_of_all_regimes

torch = pytest.importorskip("torch", reason="torch is not installed")

from bayeskit.accel import torch as accel_torch  # noqa: E402


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_particles", [1, 7, 3000])
def test_normalize(dtype, num_particles):
    log_weights = log_weights_of_all_regimes(num_particles).astype(dtype) + 50
    found = accel_torch.normalize(torch.from_numpy(log_weights))
    relative = np.exp(log_weights.astype(float) - log_weights.max(axis=1, keepdims=True))
    total = relative.sum(axis=1)
    tolerance = 20 * np.finfo(dtype).eps
    expected = {
        "weights": relative / total[:, None],
        "log_sum": log_weights.max(axis=1) + np.log(total),
        "log_mean": log_weights.max(axis=1) + np.log(total / num_particles),
        "effective_sample_size": total**2 / (relative**2).sum(axis=1),
        "max": log_weights.max(axis=1),
    }
    for name, value in expected.items():
        result = getattr(found, name)
        assert result.numpy().dtype == dtype
        np.testing.assert_allclose(result, value, rtol=tolerance, atol=tolerance, err_msg=name)


def test_gradient_of_the_log_mean_is_the_weights():
    log_weights = torch.randn(20, dtype=torch.float64, requires_grad=True)
    for value in (
        accel_torch.normalize(log_weights).log_mean,
        accel_torch.log_mean_exp(log_weights),
        accel_torch.systematic(log_weights, 5).log_mean,
    ):
        (gradient,) = torch.autograd.grad(value, log_weights)
        torch.testing.assert_close(gradient, torch.softmax(log_weights, 0).detach())


def test_values_that_are_no_weights():
    rows = torch.tensor(
        [[0.0, 1.0], [-torch.inf, -torch.inf], [0.0, torch.nan], [0.0, torch.inf]]
    )
    means = accel_torch.log_mean_exp(rows).numpy()
    expected = [math.log((1 + math.e) / 2), -np.inf, np.nan, np.inf]
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    np.testing.assert_array_equal(means, accel.log_mean_exp(jnp.asarray(rows.numpy())))
    sizes = accel_torch.effective_sample_size(rows).numpy()
    assert np.isnan(sizes[1:]).all()
    assert 1 < sizes[0] < 2
    for row, error in zip(
        rows[1:], (DegenerateWeightsError, *2 * [InvalidWeightsError]), strict=True
    ):
        with pytest.raises(error) as found:
            accel_torch.normalize(row)
        with pytest.raises(error) as wanted:
            accel.normalize(jnp.asarray(row.numpy()))
        assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sharpness", [1e-3, 1.0, 1e4, 1e20])
def test_temper_step_is_that_of_jax(dtype, sharpness):
    rng = np.random.default_rng(3)
    log_likelihood = (sharpness * rng.normal(size=(3, 200))).astype(dtype)
    log_likelihood[0, :20], log_likelihood[1, 5] = -np.inf, np.nan
    log_weights = rng.normal(size=(3, 200)).astype(dtype)
    log_weights[2, ::3] = -np.inf
    current = np.array([0.0, 0.25, 0.999], dtype)
    with jax.enable_x64(dtype == np.float64):
        options = (current, 0.5)
        expected = accel.temper_step(log_likelihood, log_weights, *options, nan="drop")
        expected = np.asarray(expected)
    tensors = torch.from_numpy(log_likelihood), torch.from_numpy(log_weights)
    found = accel_torch.temper_step(*tensors, *options, nan="drop")
    with pytest.raises(InvalidWeightsError, match=r"log_likelihood contains nan: 1 of 600"):
        accel_torch.temper_step(*tensors, *options)
    found = found.numpy()
    assert found.dtype == dtype
    np.testing.assert_allclose(found - current, expected - current, rtol=2e-4, atol=1e-30)
    assert np.all(found > current)


def check_steps(temper_step):
    """The effective sample size after a step is what was asked for."""
    log_likelihood = 3 * torch.randn(1000, dtype=torch.float64)
    log_weights = torch.zeros(1000, dtype=torch.float64)
    step = temper_step(log_likelihood, log_weights, 0.1, 0.5) - 0.1
    size = accel_torch.effective_sample_size(log_weights + step * log_likelihood)
    assert abs(float(size) - 500) < 1e-6


def test_step_keeps_what_was_asked_for():
    check_steps(accel_torch.temper_step)


def test_planted_bug_step_from_zero():
    def wrong(log_likelihood, log_weights, current, target):
        return accel_torch.temper_step(log_likelihood, log_weights, 0.0, target)

    with pytest.raises(AssertionError):
        check_steps(wrong)


def test_bad_input_of_temper_step():
    zeros = torch.zeros(3)
    with pytest.raises(ValueError, match="current must be an inverse temperature"):
        accel_torch.temper_step(zeros, zeros, 1.5, 0.5)
    with pytest.raises(ValueError, match="target must be a fraction"):
        accel_torch.temper_step(zeros, zeros, 0.5, 1.0)
    with pytest.raises(ValueError, match=r"log_likelihood has shape \(3,\)"):
        accel_torch.temper_step(zeros, torch.zeros(4), 0.5, 0.5)
    with pytest.raises(InvalidWeightsError, match="log_likelihood contains"):
        accel_torch.temper_step(zeros + torch.inf, zeros, 0.5, 0.5)
    with pytest.raises(InvalidWeightsError, match="log_weights contains nan"):
        accel_torch.temper_step(zeros, zeros + torch.nan, 0.5, 0.5)
    with pytest.raises(DegenerateWeightsError, match="no temperature can be chosen"):
        accel_torch.temper_step(zeros - torch.inf, zeros, 0.5, 0.5)


def test_nan_is_dropped_on_request():
    log_weights = torch.tensor([0.0, torch.nan, 1.0, torch.nan], requires_grad=True)
    dead = torch.tensor([0.0, -torch.inf, 1.0, -torch.inf])
    expected = accel_torch.normalize(dead)
    found = accel_torch.normalize(log_weights, nan="drop")
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.detach(), b)
    size = accel_torch.effective_sample_size(log_weights, nan="drop")
    assert size == expected.effective_sample_size
    (gradient,) = torch.autograd.grad(found.log_mean, log_weights)
    torch.testing.assert_close(gradient, expected.weights)
    tree = torch.arange(4)
    for scheme in (
        "systematic",
        "stratified",
        "multinomial",
        "residual",
        "residual_multinomial",
    ):
        u = 0.3 if scheme in ("systematic", "residual") else torch.linspace(0, 0.9, 7)
        draw = getattr(accel_torch, scheme)
        wanted = draw(dead, 7, u=u).index
        assert torch.equal(draw(log_weights, 7, u=u, nan="drop").index, wanted)
        particles, ancestors = accel_torch.resample_and_gather(
            log_weights, tree, scheme, 7, u=u, nan="drop"
        )
        assert torch.equal(ancestors.index, wanted)
        assert torch.equal(particles.int(), wanted)
        with pytest.raises(InvalidWeightsError, match="nan: 2 of 4 values"):
            draw(log_weights, 7, u=u)
        with pytest.raises(ValueError, match="nan must be"):
            draw(log_weights, 7, u=u, nan="zero")
    with pytest.raises(DegenerateWeightsError, match="all 2 values"):
        accel_torch.systematic(torch.full((2,), torch.nan), nan="drop")
