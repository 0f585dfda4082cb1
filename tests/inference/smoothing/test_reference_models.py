"""Filters and smoothers against stored exact answers, within their own Monte Carlo errors.

Each bound on a statistical error is wide enough for a false alarm below one in a million.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy import stats

from bayeskit import inference as bi
from bayeskit.inference import random
from bayeskit.inference.population import total_log_evidence
from tests.inference import finite_models as fm

pytestmark = pytest.mark.reference
NUM_RUNS = 10


@pytest.fixture(scope="module")
def reference(reference_data):
    return json.loads((reference_data / "core" / "reference.json").read_text())


def linear_gaussian(y, rho, state_var, obs_var, mean0, var0):
    """Bootstrap model of a stationary or local-level chain seen in noise."""
    y = jnp.asarray(y, jnp.float32)
    sd, obs_sd, sd0 = (float(np.sqrt(v)) for v in (state_var, obs_var, var0))
    return bi.FeynmanKac(
        initial=lambda key: mean0 + sd0 * random.normal(key),
        log_g0=lambda x: norm.logpdf(y[0], x, obs_sd),
        kernel=lambda key, t, x: rho * x + sd * random.normal(key),
        log_g=lambda t, before, x: norm.logpdf(y[t], x, obs_sd),
        num_steps=len(y),
        log_m=lambda t, before, x: norm.logpdf(x, rho * before, sd),
        log_m_bound=lambda t: norm.logpdf(0.0, 0.0, sd),
    )


def assert_moments(estimates, exact, false_alarm=1e-6):
    """Means over independent runs (run, quantity) agree with the exact values (quantity,)."""
    num_runs, num = estimates.shape
    standard_error = estimates.std(axis=0, ddof=1) / np.sqrt(num_runs)
    bound = stats.t.isf(false_alarm / (2 * num), num_runs - 1)
    z = np.abs(estimates.mean(axis=0) - exact) / standard_error
    assert z.max() < bound, f"worst of {num}: {z.max():.1f} standard errors at {z.argmax()}"


def moments_over_time(particles, log_weights):
    """Mean and second moment at each time, from particles and weights (time, particle)."""
    weights = np.exp(log_weights)
    return np.concatenate([(weights * particles**power).sum(axis=1) for power in (1, 2)])


def second(mean, variance):
    return np.concatenate([mean, np.square(mean) + variance])


def test_linear_gaussian_filter_and_smoothers(reference):
    case = reference["linear_gaussian_T50"]
    model = linear_gaussian(case["y"], 0.9, 1.0, 1.0, 0.0, 1 / (1 - 0.81))
    particles = bi.particle_filter(model, 2000, history=True, track_lineage=True)
    backward = bi.backward_sampling(model, 1000, method="rejection").compiled
    found = {"filter": [], "smooth": [], "lag": []}
    evidence, variance = [], []
    for key in range(NUM_RUNS):
        population = bi.run(particles, key)
        history = jax.tree.map(np.asarray, population.history)
        found["filter"].append(moments_over_time(history.particles, history.log_weights))
        paths = np.asarray(backward(jax.random.key(100 + key), population)[0].particles)
        found["smooth"].append(
            moments_over_time(paths.T, np.full(paths.T.shape, -np.log(1000)))
        )
        lagged = bi.LaggedParticles.of(history, 15)
        found["lag"].append(moments_over_time(lagged.particles, lagged.log_weights))
        evidence.append(float(total_log_evidence(population)))
        variance.append(float(population.lineage.total_variance))
    filtered, smoothed = (
        second(np.array(case[f"{name}_mean"]), np.array(case[f"{name}_var"]))
        for name in ("filter", "smooth")
    )
    assert_moments(np.array(found["filter"]), filtered)
    assert_moments(np.array(found["smooth"]), smoothed)
    # What is 15 times ahead changes these moments by less than their errors.
    assert_moments(np.array(found["lag"]), smoothed)
    assert_evidence(evidence, variance, case["log_evidence"])


def assert_evidence(log_evidence, variance, exact):
    """The mean of Z hat / Z is 1, within 6 standard errors by the lineage of the runs."""
    ratio = np.exp(np.array(log_evidence) - exact)
    standard_error = np.sqrt(np.mean(variance) / len(ratio))
    print(f"mean of the ratio {ratio.mean():.3f}, standard error {standard_error:.3f}")
    assert abs(ratio.mean() - 1) < 6 * standard_error


def test_log_evidence_of_a_thousand_times():
    rng = np.random.default_rng(0)
    x = [rng.normal(0, 1 / np.sqrt(1 - 0.81))]
    for _ in range(999):
        x.append(0.9 * x[-1] + rng.normal())
    y = np.array(x) + rng.normal(size=1000)
    model = linear_gaussian(y, 0.9, 1.0, 1.0, 0.0, 1 / (1 - 0.81))
    particles = bi.particle_filter(model, 10_000, track_lineage=True)
    runs = [bi.run(particles, key) for key in range(4)]
    assert_evidence(
        [float(total_log_evidence(p)) for p in runs],
        [float(p.lineage.total_variance) for p in runs],
        -1905.13379372,
    )


@pytest.mark.parametrize("number", [0, 1, 2])
def test_finite_chains(reference, number):
    """The exact mean of the evidence estimate is the sum over all paths."""
    case = reference["hmm"][number]
    transition, emission = np.array(case["trans"]), np.array(case["emit"])
    with np.errstate(divide="ignore"):
        chain = fm.Chain(
            np.log(case["init"]),
            np.log(transition),
            np.log(transition),
            np.log(emission[:, case["obs"]].T),
        )
    block = bi.particle_filter(
        fm.bootstrap_model(chain), 2, scheme="multinomial", ess_below=None
    )
    assert fm.mean_evidence(block) == pytest.approx(np.exp(case["log_evidence"]), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_smoothing_of_finite_chains(reference, number):
    """The share of sampled paths in each state at each time but one state, which follows."""
    case = reference["hmm"][number]
    transition, emission = np.array(case["trans"]), np.array(case["emit"])
    emitted = np.log(emission[:, case["obs"]].T)
    chain = fm.Chain(np.log(case["init"]), np.log(transition), np.log(transition), emitted)
    model = fm.bootstrap_model(chain)
    particles = bi.particle_filter(model, 1000, history=True)
    backward = bi.backward_sampling(model, 1000).compiled
    shares = []
    for key in range(NUM_RUNS):
        paths = backward(jax.random.key(100 + key), bi.run(particles, key))[0].particles
        states = np.arange(len(transition) - 1)
        shares.append((np.asarray(paths)[..., None] == states).mean(axis=0).ravel())
    exact = np.array(case["smoothing"])
    assert_moments(np.array(shares), exact[:, :-1].ravel())
    # The shares of one time are not those of the next.
    with pytest.raises(AssertionError, match="worst of"):
        assert_moments(np.array(shares), np.roll(exact, 1, axis=0)[:, :-1].ravel())


@pytest.mark.slow
def test_nile(reference, reference_data):
    case = reference["nile_local_level"]
    flow = np.loadtxt(reference_data / "core" / "nile.csv", delimiter=",", skiprows=1)[:, 1]
    model = linear_gaussian(flow, 1.0, 1469.1, 15099.0, 1000.0, 1e5)
    particles = bi.particle_filter(model, 2000, history=True, track_lineage=True)
    backward = bi.backward_sampling(model, 1000, method="mcmc", num_moves=5).compiled
    names = [("filter", "last"), ("smooth", "first"), ("smooth", "1898")]
    mean, var = (np.array([case[f"{a}_{m}_{b}"] for a, b in names]) for m in ("mean", "var"))
    rows, evidence, variance = [], [], []
    for key in range(NUM_RUNS):
        population = bi.run(particles, key)
        paths = np.asarray(backward(jax.random.key(100 + key), population)[0].particles)
        # Deviations from the exact mean, whose squares have the variance as their mean.
        last = np.array(population.expectation(lambda x: jnp.stack([x, (x - mean[0]) ** 2])))
        past = paths[:, [0, 27]] - mean[1:]
        first = np.append(last[0] - mean[0], past.mean(axis=0))
        rows.append([*first, last[1], *(past**2).mean(axis=0)])
        evidence.append(float(total_log_evidence(population)))
        variance.append(float(population.lineage.total_variance))
    rows = np.array(rows)
    exact = np.append(np.zeros(3), var)
    assert_moments(rows, exact)
    assert_evidence(evidence, variance, case["log_evidence"])
    # Variances of the filter are not those of the smoother.
    with pytest.raises(AssertionError, match="worst of 6"):
        assert_moments(rows, np.append(np.zeros(3), np.roll(var, 1)))


@pytest.mark.slow
def test_stochastic_volatility(reference, reference_data):
    case = reference["sv_gbp_usd"]
    rates = np.loadtxt(
        reference_data / "core" / "gbp_usd.csv", delimiter=",", skiprows=1, usecols=1
    )
    y = jnp.asarray(100 * np.diff(np.log(rates)), jnp.float32)
    mu, rho, sigma = case["mu"], case["rho"], case["sigma"]
    log_g = lambda t, x: norm.logpdf(y[t], 0.0, jnp.exp(x / 2))
    model = bi.FeynmanKac(
        initial=lambda key: mu + sigma / np.sqrt(1 - rho**2) * random.normal(key),
        log_g0=lambda x: log_g(0, x),
        kernel=lambda key, t, x: mu + rho * (x - mu) + sigma * random.normal(key),
        log_g=lambda t, before, x: log_g(t, x),
        num_steps=len(y),
    )
    particles = bi.particle_filter(model, 10_000, track_lineage=True)
    runs = [bi.run(particles, key) for key in range(4)]
    variance = np.mean([float(p.lineage.total_variance) for p in runs])
    # Each logarithm is biased by half its variance.
    estimate = np.mean([float(total_log_evidence(p)) for p in runs]) + variance / 2
    stored = case["log_evidence"] + case["sd_of_one_run_N2e4"] ** 2 / 2
    error = np.sqrt(variance / len(runs) + case["log_evidence_se"] ** 2)
    print(f"estimate {estimate:.3f}, stored {stored:.3f}, standard error {error:.3f}")
    assert abs(estimate - stored) < 6 * error
