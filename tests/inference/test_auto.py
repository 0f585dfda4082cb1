"""What "auto" runs, in which order, and that it never returns a failure silently."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit.errors import ImproperPriorError
from bayeskit.inference import random
from bayeskit.inference.engines import auto
from bayeskit.inference.engines.auto import run_auto

SCALE = 10.0


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def log_prior(x):
    return jnp.sum(-0.5 * (x / SCALE) ** 2 - jnp.log(SCALE) - 0.5 * jnp.log(2 * jnp.pi))


def proper(log_likelihood, dim=2, **changes):
    return bk.Target(
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        sample_prior=lambda key: SCALE * random.normal(key, (dim,)),
        **changes,
    )


def one_mode(x):
    return -0.5 * jnp.sum((x - 1.0) ** 2)


def two_modes(x):
    """Two thirds of the likelihood at (5, 5), a third at (-5, -5), nothing between."""
    return jnp.logaddexp(
        -2.0 * jnp.sum((x - 5.0) ** 2), jnp.log(0.5) - 2.0 * jnp.sum((x + 5.0) ** 2)
    )


def funnel(x):
    spread = jnp.exp(0.5 * x[0])
    return -0.5 * (x[0] / 3.0) ** 2 + jnp.sum(-0.5 * (x[1:] / spread) ** 2 - 0.5 * x[0])


def starts(dim, num=4):
    return np.random.default_rng(0).uniform(-2, 2, (num, dim))


def test_the_default_engine_runs_and_gives_the_evidence():
    """Prior times likelihood is normal: 6 standard errors, false-alarm rate below 1e-8."""
    result, reason = run_auto(proper(one_mode), (), 0)
    assert result.engine.startswith("EnsembleHMC(")
    assert "default" in reason
    assert result.diagnostics.converged
    spread = SCALE**2 + 1
    exact = 2 * (-0.5 / spread - 0.5 * np.log(spread))
    assert abs(result.log_evidence - exact) < 6 * result.log_evidence_se
    assert result.timing["run_s"] > 0


def test_no_gradient_goes_to_smc():
    result, reason = run_auto(proper(one_mode, has_gradient=False), (), 0)
    assert result.engine.startswith("SMC(")
    assert "no gradient" in reason


def test_separate_modes_go_to_tempering():
    """The share of a mode has a standard error below 0.05; it is known within 0.2."""
    result, reason = run_auto(proper(two_modes), (), 0)
    assert result.engine.startswith(("SMC(", "ParallelTempering("))
    assert "2 separate modes" in reason
    share = (result.flat("x")[:, 0] > 0).mean()
    assert abs(share - 2 / 3) < 0.2


def test_narrow_modes_far_apart_go_to_parallel_tempering():
    """The share of a mode has a standard error of about 0.04; false alarms below 1e-6."""

    def squared(x):
        return -2.0 * jnp.sum((x**2 - 9.0) ** 2)

    target = bk.Target(
        log_prior=lambda x: jnp.sum(-0.5 * ((x - 0.5) / 3.0) ** 2) - jnp.log(3.0) - 0.919,
        log_likelihood=squared,
        sample_prior=lambda key: 0.5 + 3.0 * random.normal(key, (1,)),
    )
    grid = np.linspace(-5.0, 5.0, 20001)
    mass = np.exp([-2.0 * (grid**2 - 9.0) ** 2 - 0.5 * ((grid - 0.5) / 3.0) ** 2])[0]
    exact = mass[grid > 0].sum() / mass.sum()
    result, reason = run_auto(target, (), 0)
    assert result.engine.startswith("ParallelTempering(") and "nor does SMC converge" in reason
    assert abs((result.flat("x")[:, 0] > 0).mean() - exact) < 0.2


def test_separate_modes_without_a_prior_are_reported():
    target = bk.Target(log_density=two_modes)
    result, reason = run_auto(target, (), 0, initial_positions=starts(2, 8))
    assert not result.diagnostics.converged
    assert reason.startswith("none of EnsembleHMC, NUTS converged")


def test_a_funnel_goes_on_to_nuts_and_is_not_silent():
    target = bk.Target(log_density=funnel)
    result, reason = run_auto(target, (), 0, initial_positions=starts(6))
    if result.diagnostics.converged:
        assert result.engine.startswith("NUTS(")
        assert "EnsembleHMC did not converge (" in reason
    else:
        assert reason.startswith("none of EnsembleHMC, NUTS converged")
        assert any("R-hat" in r or "size" in r for r in result.diagnostics.reasons)


class Recorded:
    """An engine that returns what it is told."""

    def __init__(self, converged, name):
        self.converged, self.name = converged, name

    def __call__(self, *_):
        from bayeskit.inference.diagnostics import Diagnostics

        reasons = () if self.converged else ("doubt",)
        r_hat = 1.0 if self.converged else {"NUTS": 1.5, "SMC": 1.2}[self.name]
        return bk.Posterior(
            draws={"x": np.zeros((1, 1))},
            positions=np.zeros((1, 1, 1)),
            sample_stats={},
            diagnostics=Diagnostics(r_hat, 0.0, 0.0, 0, 0, 1.0, reasons),
            engine=self.name,
            timing={"compile_s": 1.0, "run_s": 2.0},
        )


@pytest.mark.parametrize(
    ("nuts", "smc", "engine", "reason"),
    [
        (True, True, "NUTS", "EnsembleHMC did not converge"),
        (False, True, "SMC", "neither EnsembleHMC nor NUTS converged"),
        (False, False, "SMC", "none of EnsembleHMC, NUTS, SMC converged"),
    ],
)
def test_the_order_of_what_follows(monkeypatch, nuts, smc, engine, reason):
    """No result passes on the word of an engine that doubts it."""
    monkeypatch.setattr(auto, "_nuts", Recorded(nuts, "NUTS"))
    monkeypatch.setattr(auto, "_smc", Recorded(smc, "SMC"))
    monkeypatch.setattr(
        auto.Ensemble,
        "sample",
        lambda self: Recorded(False, "NUTS")(),
    )
    result, why = run_auto(proper(one_mode), (), 0)
    assert result.engine == engine
    assert why.startswith(reason)


def test_nuts_starts_from_the_metric_it_is_given():
    """Scales 1e-3 and 1e3: with the right metric a tenth of the warm-up is enough."""
    scales = np.array([1e-3, 1e3])
    target = bk.Target(log_density=lambda x: -0.5 * jnp.sum((x / scales) ** 2))
    engine = bk.NUTS(num_draws=400, num_warmup=100, num_chains=2)
    result = engine.run(
        target,
        (),
        0,
        initial_positions=np.zeros((2, 2)),
        step_size=0.8,
        covariance=scales**2,
    )
    # The ratio of the scales is 1e6; trees end at 1023 steps.
    assert result.sample_stats["n_steps"].mean() < 50
    np.testing.assert_allclose(result.sd("x") / scales, 1.0, atol=0.35)


def test_no_start_at_all():
    with pytest.raises(ImproperPriorError, match="initial_positions"):
        run_auto(bk.Target(log_density=funnel), (), 0)


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_centred_eight_schools_are_not_silent(reference_data, seed):
    """A collapsed chain has an effective sample size of all its draws elsewhere."""
    folder = "eight_schools-eight_schools_noncentered"
    stored = json.loads((reference_data / "posteriordb" / folder / "data.json").read_text())
    y, sigma = np.array(stored["y"], float), np.array(stored["sigma"], float)

    def log_density(x):
        mu, log_tau, theta = x[0], x[1], x[2:]
        tau = jnp.exp(log_tau)
        prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + log_tau
        group = jnp.sum(-0.5 * ((theta - mu) / tau) ** 2 - log_tau)
        return prior + group + jnp.sum(-0.5 * ((y - theta) / sigma) ** 2)

    target = bk.Target(log_density=log_density)
    result, _ = run_auto(target, (), seed, initial_positions=starts(10))
    found = result.diagnostics
    assert not found.converged or result.engine.startswith("NUTS(")
    # The posterior mean of tau is 3.6.
    if found.converged:
        assert abs(np.exp(result.flat("x")[:, 1]).mean() - 3.6) < 0.6
