"""The estimator of state-space models: numbers against Kalman filters, and its manners."""

import dataclasses
import functools
import json
import pickle

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from sklearn.base import clone

import bayeskit as bk
from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.errors import (
    ConvergenceWarning,
    InvalidDataError,
    InvalidWeightsError,
    MissingDensityError,
    ParticleCollapseError,
)
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.engines import smc2 as smc2_module
from bayeskit.models import StateSpaceEstimator

FILTER = bk.ParticleFilter(1000)
NUM_RUNS = 12


def local_level(rho=0.9, sd0=None):
    """A stationary chain, or a level, seen in noise; parameters are data of the program."""
    return bk.StateSpaceModel(
        initial=lambda p: dist.Normal(p["mean0"], p["sd0"]),
        transition=lambda p, x, t: dist.Normal(p["rho"] * x, p["sd"]),
        observation=lambda p, x, t: dist.Normal(x, p["noise"]),
        params={"mean0": 0.0, "sd0": (1 - 0.81) ** -0.5, "rho": rho, "sd": 1.0, "noise": 1.0},
        name="level",
    )


def kalman(y, rho=0.9, sd=1.0, noise=1.0, sd0=(1 - 0.81) ** -0.5):
    """Log evidence, filtering and smoothing means and variances; NaN is not seen."""
    num = len(y)
    means, variances = np.zeros(num), np.zeros(num)
    m, v, log_evidence = 0.0, sd0**2, 0.0
    for t in range(num):
        if t:
            m, v = rho * m, rho**2 * v + sd**2
        if not np.isnan(y[t]):
            total = v + noise**2
            log_evidence += stats.norm.logpdf(y[t], m, np.sqrt(total))
            m, v = m + v / total * (y[t] - m), v * noise**2 / total
        means[t], variances[t] = m, v
    smooth, spread = means.copy(), variances.copy()
    for t in range(num - 2, -1, -1):
        ahead = rho**2 * variances[t] + sd**2
        gain = rho * variances[t] / ahead
        smooth[t] += gain * (smooth[t + 1] - rho * means[t])
        spread[t] += gain**2 * (spread[t + 1] - ahead)
    return log_evidence, means, variances, smooth, spread


def simulated(num=50, seed=1, rho=0.9):
    rng = np.random.default_rng(seed)
    x = np.zeros(num)
    for t in range(num):
        x[t] = rho * x[t - 1] + rng.normal() if t else rng.normal() / np.sqrt(1 - rho**2)
    return x + rng.normal(size=num)


def initial(p):
    return dist.Normal(p["mean0"], p["sd0"])


def transition(p, x, t):
    return dist.Normal(p["rho"] * x, p["sd"])


def observation(p, x, t):
    return dist.Normal(x, p["noise"])


MODEL = local_level()
PICKLED = bk.StateSpaceModel(
    initial=initial, transition=transition, observation=observation, params=MODEL.params
)
Y = simulated()
HOLES = np.where(np.isin(np.arange(50), [0, 7, 8, 30]), np.nan, Y)


@functools.cache
def fitted():
    return bk.BayesianModel(MODEL, inference=FILTER, random_state=0).fit(HOLES)


def runs(y, engine=FILTER, model=MODEL):
    return [
        bk.BayesianModel(model, inference=engine, random_state=seed).fit(y)
        for seed in range(NUM_RUNS)
    ]


def assert_means(estimates, exact, false_alarm=1e-6):
    """Means over independent runs (run, quantity) agree with the exact values (quantity,)."""
    standard_error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    bound = stats.t.isf(false_alarm / (2 * estimates.shape[1]), len(estimates) - 1)
    z = np.abs(estimates.mean(axis=0) - exact) / standard_error
    assert z.max() < bound, f"worst of {z.size}: {z.max():.1f} errors at {z.argmax()}"


# ---------------------------------------------------------------- filter and smoother


@pytest.mark.reference
def test_linear_gaussian_reference(reference_data):
    """Log evidence, filter and smoother moments of T=50; false alarms below 4e-6 together."""
    cases = json.loads((reference_data / "core" / "reference.json").read_text())
    case = cases["linear_gaussian_T50"]
    several = runs(case["y"], dataclasses.replace(FILTER, num_paths=300))
    evidence = np.exp([e.log_evidence_ - case["log_evidence"] for e in several])
    assert_means(evidence[:, None], np.ones(1))
    means = np.array([e.filter_["mean"] for e in several])
    squares = np.array([e.filter_["mean"] ** 2 + e.filter_["sd"] ** 2 for e in several])
    mean, variance = (np.array(case[f"filter_{what}"]) for what in ("mean", "var"))
    assert_means(means, mean)
    assert_means(squares, mean**2 + variance)
    smooth = np.array([e.smooth()["mean"] for e in several])
    assert_means(smooth, np.array(case["smooth_mean"]))
    # Filtering means are far from smoothing means: the same check tells them apart.
    with pytest.raises(AssertionError, match="worst of 50"):
        assert_means(means, np.array(case["smooth_mean"]))


@pytest.mark.reference
def test_nile(reference_data):
    """Log evidence at stated variances, and the last level; false alarms below 2e-6."""
    cases = json.loads((reference_data / "core" / "reference.json").read_text())
    case = cases["nile_local_level"]
    path = reference_data / "core" / "nile.csv"
    flow = np.genfromtxt(path, delimiter=",", skip_header=1)[:, -1]
    mean0, var0 = 1000.0, 1e5
    model = bk.StateSpaceModel(
        initial=MODEL.initial,
        transition=MODEL.transition,
        observation=MODEL.observation,
        params={
            "mean0": mean0,
            "sd0": var0**0.5,
            "rho": 1.0,
            "sd": case["state_var"] ** 0.5,
            "noise": case["obs_var"] ** 0.5,
        },
    )
    several = runs(flow, FILTER, model)
    evidence = np.exp([e.log_evidence_ - case["log_evidence"] for e in several])
    assert_means(evidence[:, None], np.ones(1))
    level = np.array([[e.filter_["mean"].loc["x", 99]] for e in several])
    assert_means(level, np.array([case["filter_mean_last"]]))


def test_missing_observations_are_marginalised():
    """As a Kalman filter that skips them; false alarms below 2e-6."""
    log_evidence, mean, *_ = kalman(HOLES)
    several = runs(HOLES)
    evidence = np.exp([e.log_evidence_ - log_evidence for e in several])
    assert_means(evidence[:, None], np.ones(1))
    means = np.array([e.filter_["mean"] for e in several])
    assert_means(means, mean)
    # Were they taken for zeros, the same check would find it.
    with pytest.raises(AssertionError, match="errors at"):
        assert_means(means, kalman(np.nan_to_num(HOLES))[1])


def test_standard_error_of_the_log_evidence_is_honest():
    """Against the spread of 12 runs: a chi-square of 11 degrees within 1e-6 on each side."""
    several = runs(HOLES)
    spread = np.var([e.log_evidence_ for e in several], ddof=1)
    stated = np.mean([e.log_evidence_se_**2 for e in several])
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], NUM_RUNS - 1) / (NUM_RUNS - 1)
    assert low < spread / stated < high


def test_smoothing_runs_the_same_filter_again():
    est = fitted()
    frame = est.smooth(400)
    exact = kalman(HOLES)
    error = np.abs(frame["mean"] - exact[3]) / np.sqrt(exact[4])
    # 400 paths and 1000 particles: an error of 0.4 sd is out of reach, the filter's is larger.
    assert error.max() < 0.4
    assert np.max(np.abs(est.filter_["mean"] - exact[3]) / np.sqrt(exact[4])) > 0.6
    assert list(frame.columns) == ["mean", "sd", "5%", "median", "95%"]
    genealogy = dataclasses.replace(FILTER, num_paths=50, smoother="genealogy")
    paths = bk.BayesianModel(MODEL, inference=genealogy, random_state=0).fit(HOLES)
    assert paths.smoothed_paths()["x"].shape == (50, 50)


# ---------------------------------------------------------------- online


def same(one, other):
    a, b = one.result_, other.result_
    assert a.log_evidence == b.log_evidence and a.log_evidence_se == b.log_evidence_se
    for group in ("history", "draws"):
        assert getattr(a, group).keys() == getattr(b, group).keys()
        for name, values in getattr(a, group).items():
            np.testing.assert_array_equal(values, getattr(b, group)[name])


def test_online_is_batch_to_the_bit(tmp_path):
    batch = fitted()
    online = clone(batch)
    for row in HOLES[:9]:
        online.partial_fit(row)
    online.partial_fit(HOLES[9:20])
    online.save(tmp_path / "filter")
    again = bk.load(tmp_path / "filter", model=MODEL)
    assert type(again) is StateSpaceEstimator
    with CompileClock() as clock:
        again.partial_fit(HOLES[20:])
        online.partial_fit(HOLES[20:])
    assert clock.num_compiled == 0
    same(batch, online)
    same(batch, again)
    np.testing.assert_array_equal(batch.forecast(3).draws["y"], again.forecast(3).draws["y"])
    # Functions named in a module can be pickled; what was fitted must not lose its precision.
    pickled = pickle.loads(pickle.dumps(clone(batch).set_params(model=PICKLED).fit(HOLES[:9])))
    same(batch, pickled.partial_fit(HOLES[9:]))
    free = dataclasses.replace(PICKLED, params={**MODEL.params, "rho": dist.Uniform(-1, 1)})
    assert free.prior.sample_prior is not None
    assert pickle.loads(pickle.dumps(free)).free == ("rho",)
    # A filter that began anew at the second piece would be caught.
    anew = clone(batch).fit(HOLES[20:])
    assert anew.log_evidence_ != batch.log_evidence_


def test_no_second_compilation():
    est = clone(fitted()).fit(Y)
    with CompileClock() as clock:
        est.fit(Y[:31])
    assert clock.num_compiled == 0


def test_partial_fit_is_refused_where_it_cannot_be():
    free = bk.BayesianModel(ONE_UNKNOWN, inference=bk.PMMH())
    with pytest.raises(TypeError, match="partial_fit goes on with a particle filter"):
        free.partial_fit(1.0)
    with pytest.raises(InvalidDataError, match=r"seen \['y'\] so far, now got \['X', 'y'\]"):
        clone(fitted()).partial_fit(1.0).partial_fit(1.0, 1.0)


# ---------------------------------------------------------------- controls, times, vectors


def test_controls_irregular_times_and_dict_states():
    """A Brownian level pushed by controls, by a Kalman filter; false alarms below 1e-6."""
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.exponential(size=20))
    push, y = rng.normal(size=20), rng.normal(size=20)

    def transition(p, x, t, dt, u):
        return {"level": dist.Normal(x["level"] + u, 0.7 * jnp.sqrt(dt)), "n": dist.Delta(t)}

    model = bk.StateSpaceModel(
        initial=lambda p: {"level": dist.Normal(0.0, 1.0), "n": dist.Delta(0)},
        transition=transition,
        observation=lambda p, x, t: dist.Normal(x["level"], 1.0),
    )
    log_evidence, m, v = 0.0, 0.0, 1.0
    for t in range(20):
        if t:
            m, v = m + push[t], v + 0.49 * (times[t] - times[t - 1])
        log_evidence += stats.norm.logpdf(y[t], m, np.sqrt(v + 1))
        m, v = m + v / (v + 1) * (y[t] - m), v / (v + 1)
    several = [
        bk.BayesianModel(model, inference=FILTER, random_state=s).fit(push, y, times=times)
        for s in range(NUM_RUNS)
    ]
    evidence = np.exp([e.log_evidence_ - log_evidence for e in several])
    assert_means(evidence[:, None], np.ones(1))
    est = several[0]
    np.testing.assert_allclose(est.filter_.loc["n"]["mean"], np.arange(20), atol=1e-9)
    assert est.filter_.loc["level"].index.tolist() == times.tolist()
    ahead = est.forecast(2, push[:2], times=times[-1] + np.array([1.0, 2.0]))
    assert ahead.states.loc["level"].index[0] == times[-1] + 1.0
    with pytest.raises(InvalidDataError, match="was fitted with X, so forecast needs X"):
        est.forecast(2)
    online = clone(est).partial_fit(push[:5], y[:5], times=times[:5])
    online.partial_fit(push[5:], y[5:], times=times[5:])
    same(est, online)


def test_vector_states_and_observations():
    """Two independent levels give twice the evidence of one; false alarms below 1e-6."""
    model = bk.StateSpaceModel(
        initial=lambda p: dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2) / (1 - 0.81)),
        transition=lambda p, x, t: dist.MultivariateNormal(0.9 * x, jnp.eye(2)),
        observation=lambda p, x, t: dist.Normal(x, 1.0).to_event(1),
    )
    y = np.stack([HOLES, Y[::-1]], axis=1)[:20]
    exact = kalman(y[:, 0])[0] + kalman(y[:, 1])[0]
    several = runs(y, FILTER, model)
    evidence = np.exp([e.log_evidence_ - exact for e in several])
    assert_means(evidence[:, None], np.ones(1))
    est = several[0]
    assert est.filter_.index.get_level_values(0).unique().tolist() == ["x[0]", "x[1]"]
    assert est.predict(steps=3).shape == (3, 2)


def test_forecast_is_that_of_the_model():
    """Mean and sd of 4000 predictive draws from 1000 particles; 7 of the larger errors."""
    est = fitted()
    _, means, variances, *_ = kalman(HOLES)
    ahead = est.forecast(2, num_draws=4000)
    m, v = means[-1], variances[-1]
    for t in (50, 51):
        m, v = 0.9 * m, 0.81 * v + 1.0
        row = ahead.observations.loc["y", t]
        assert abs(row["mean"] - m) < 7 * np.sqrt(v + 1) / np.sqrt(400)
        assert abs(row["sd"] / np.sqrt(v + 1) - 1) < 7 / np.sqrt(2 * 400)
    mean, std = est.predict(steps=2, return_std=True)
    assert mean.shape == std.shape == (2,)
    assert est.sample_predictive(num_draws=5)["y"].shape == (5, 1)


# ---------------------------------------------------------------- unknown parameters

ONE_UNKNOWN = bk.StateSpaceModel(
    initial=lambda p: dist.Normal(0.0, 1.5),
    transition=lambda p, x, t: dist.Normal(p["rho"] * x, 1.0),
    observation=lambda p, x, t: dist.Normal(x, 0.8),
    params={"rho": dist.Uniform(-1.0, 1.0)},
)
SHORT = simulated(30, seed=1, rho=0.9)


@functools.cache
def grid_posterior():
    """Log evidence, mean and sd of rho, mean of the last state, and of all given all data."""
    rho = np.linspace(-1, 1, 1002)[1:-1]
    found = [kalman(SHORT, rho=r, noise=0.8, sd0=1.5) for r in rho]
    log_likelihood = np.array([f[0] for f in found])
    weights = np.exp(log_likelihood - log_likelihood.max())
    log_evidence = np.log(weights.mean()) + log_likelihood.max()
    weights /= weights.sum()
    mean = weights @ rho
    last = weights @ np.array([f[1][-1] for f in found])
    smooth = weights @ np.array([f[3] for f in found])
    squares = weights @ np.array([f[4] + f[3] ** 2 for f in found])
    smoothed = smooth, np.sqrt(squares - smooth**2)
    return log_evidence, mean, np.sqrt(weights @ (rho - mean) ** 2), last, smoothed


ENGINES = {
    "pmmh": bk.PMMH(num_particles=80, num_draws=1500, num_warmup=300, paths=False),
    "gibbs": bk.ParticleGibbs(num_particles=15, num_draws=1500, num_warmup=300),
    "smc2": bk.SMC2(num_parameters=1000, num_particles=60),
}


# The other two have paths as well, and SMC² the evidence.
@pytest.mark.filterwarnings("ignore::bayeskit.errors.ConvergenceWarning")
@pytest.mark.parametrize(
    "name", [pytest.param("pmmh", marks=pytest.mark.slow), "gibbs", "smc2"]
)
def test_posterior_of_an_unknown_parameter(name):
    """Means within 6 standard errors of effective draws, sds within 6: false alarms 1e-8."""
    log_evidence, mean, sd, last, (means, sds) = grid_posterior()
    est = bk.BayesianModel(ONE_UNKNOWN, inference=ENGINES[name], random_state=1).fit(SHORT)
    result = est.result_
    rows = est.summary()
    # Draws of SMC² come from particles that were resampled, some of them twice.
    ess = min(float(rows.loc["rho", "ess_bulk"]), 500.0 if name == "smc2" else np.inf)
    assert ess > 300
    assert abs(result.mean("rho") - mean) < 6 * sd / np.sqrt(ess)
    assert abs(result.sd("rho") / sd - 1) < 6 / np.sqrt(2 * ess) + 0.02
    x = result.flat("x")[:, -1] if "x" in result.draws else result.flat("x_last")
    assert abs(x.mean() - last) < 6 * x.std() / np.sqrt(300)
    if name == "smc2":
        assert abs(est.log_evidence_ - log_evidence) < 6 * est.log_evidence_se_
    else:
        with pytest.raises(AttributeError, match="estimates no evidence"):
            _ = est.log_evidence_
    # The prior alone would be caught.
    assert abs(0.0 - mean) > 6 * sd / np.sqrt(ess)
    if name != "pmmh":
        # At least 150 paths are effective; those of the prior would be caught. Weights of new
        # filters over old leave a tenth of the paths of SMC² or less.
        bands = est.smooth(4000 if name == "smc2" else 400)
        assert np.all(np.abs(bands["mean"] - means) < 6 * sds / np.sqrt(150))
        assert np.all(np.abs(bands["sd"] / sds - 1) < 6 / np.sqrt(300))
        assert np.any(np.abs(means) > 12 * sds / np.sqrt(150))
    assert est.forecast(2).observations.loc["y"].shape == (2, 5)
    before = {k: v.copy() for k, v in result.draws.items()}
    with CompileClock() as clock:
        est.fit(SHORT)
    assert clock.num_compiled == 0
    for draws in before:
        np.testing.assert_array_equal(before[draws], est.result_.draws[draws])


def test_automatic_choice():
    assert fitted().engine_.endswith("chosen by the user")
    for model, num, expected in (
        (MODEL, 3, "ParticleFilter"),
        (ONE_UNKNOWN, 40, "SMC2"),
        (ONE_UNKNOWN, 301, "ParticleGibbs"),
    ):
        est = bk.BayesianModel(model)
        engine, reason = est._engine_for(bi.StateSpaceTarget.of(model, bi.Rows(np.zeros(num))))
        assert type(engine).__name__ == expected and reason


# ---------------------------------------------------------------- manners and bad input


def given_model(**functions):
    parts = {
        "initial": lambda key: bi.random.normal(key),
        "log_g0": lambda x: -0.5 * x**2,
        "kernel": lambda key, t, x: x + bi.random.normal(key),
        "log_g": lambda t, before, x: -0.5 * (x - 1.0) ** 2,
        "num_steps": 5,
    }
    return bk.FeynmanKac(**{**parts, **functions})


def test_a_feynman_kac_model_of_ones_own():
    est = bk.BayesianModel(given_model(), inference=FILTER, random_state=0).fit()
    assert est.filter_.loc["x"].shape == (5, 5)
    assert est.forecast(2).observations is None
    with pytest.raises(AttributeError, match="says nothing about how data arise"):
        est.predict()
    with pytest.raises(TypeError, match="holds all its data"):
        est.partial_fit(1.0)
    strict = bk.ParticleFilter(50, num_paths=10, smoother="backward")
    with pytest.raises(MissingDensityError, match="needs log_m"):
        bk.BayesianModel(given_model(), inference=strict).fit()
    # Without a density paths are traced by ancestors.
    assert est.smooth(20).shape == (5, 5)


def test_collapse_names_time_and_observation():
    y = np.where(np.arange(50) == 30, 1e200, Y)
    message = r"all particles have weight zero at time 30 \(observation 1e\+200\)"
    with pytest.raises(ParticleCollapseError, match=message):
        clone(fitted()).fit(y)


def test_times_that_stand_still_are_refused_online_as_well():
    model = dataclasses.replace(MODEL, transition=lambda p, x, t, dt: dist.Normal(x, 1.0 + dt))
    est = bk.BayesianModel(model, inference=FILTER, random_state=0)
    est.partial_fit(Y[:2], times=[0.0, 1.0])
    with pytest.raises(InvalidDataError, match=r"go on after 1\.0, .* seen, got 1\.0"):
        est.partial_fit(Y[2:4], times=[1.0, 2.0])


def test_a_number_of_steps_is_no_control():
    with pytest.raises(InvalidDataError, match=r"got 5: .* call predict\(steps=\.\.\.\)"):
        fitted().predict(5)


def test_infinite_likelihoods_of_parameters_are_no_collapse():
    target = bi.StateSpaceTarget.of(ONE_UNKNOWN, bi.Rows(np.arange(4.0)))
    with pytest.raises(
        InvalidWeightsError, match=r"at time 3 \(observation 3\.0\), so the log"
    ):
        smc2_module._check_alive({"log_evidence": np.array([0.0, np.inf])}, target, 2)
    with pytest.raises(ParticleCollapseError, match=r"likelihood of zero at time 2 "):
        smc2_module._check_alive({"log_evidence": np.array([-np.inf])}, target, 2)


def test_free_parameters_are_not_fitted_row_by_row():
    with pytest.raises(TypeError, match=r"particle filter, but \['rho'\] are free parameters"):
        bk.BayesianModel(ONE_UNKNOWN, random_state=0).partial_fit(Y[:3])


def test_an_infinite_likelihood_is_refused():
    model = bi.FeynmanKac(
        initial=lambda key: bi.random.normal(key),
        log_g0=lambda x: 0.0 * x,
        kernel=lambda key, t, x: x + bi.random.normal(key),
        log_g=lambda t, before, x: jnp.where((t == 3) & (x > 0), jnp.inf, 0.0),
        num_steps=5,
    )
    with pytest.raises(InvalidWeightsError, match=r"was \+inf at time 3, so the log"):
        bk.BayesianModel(model, inference=bk.ParticleFilter(50), random_state=0).fit()


def test_chains_name_time_and_observation_where_all_filters_collapse():
    y = np.where(np.arange(8) == 5, 1e200, Y[:8])
    model = local_level(rho=dist.Uniform(0.0, 1.0))
    message = r"at each of 64 draws from the prior: .* at time 5 \(observation 1e\+200\)"
    with pytest.raises(ParticleCollapseError, match=message):
        bk.BayesianModel(model, inference=bk.PMMH(20, num_draws=10), random_state=0).fit(y)


def test_a_likelihood_that_is_nan_is_warned_of():
    model = bk.StateSpaceModel(
        initial=initial,
        transition=transition,
        observation=lambda p, x, t: dist.Normal(x, jnp.sqrt(x)),
        params=MODEL.params,
    )
    message = "% of the particles is NaN, and counts as 0"
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        clone(fitted()).set_params(model=model).fit(np.abs(Y[:10]))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "y is missing"),
        ((np.where(Y > 1, np.inf, Y),), "y contains inf at row"),
        ((Y[:, None],), r"y must have shape \(num_steps,\)"),
        ((np.zeros(3), Y), "X and y must have the same number of rows"),
        ((np.zeros(0),), "y has no rows"),
        ((["a", "b"],), "y must hold real numbers"),
    ],
)
def test_bad_data(arguments, message):
    with pytest.raises(InvalidDataError, match=message):
        clone(fitted()).fit(*arguments)


def test_times_that_do_not_increase():
    with pytest.raises(InvalidDataError, match="those of rows 1 and 2 are not in order"):
        clone(fitted()).fit(y=Y[:3], times=[0.0, 1.0, 0.5])
    message = r"repeat, first at rows 1 and 2, both 1 \(1 times\): pass duplicates='keep'"
    with pytest.raises(InvalidDataError, match=message):
        clone(fitted()).fit(y=Y[:3], times=[0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"duplicates must be one of .*, got 'first'"):
        clone(fitted()).fit(y=Y[:3], times=np.arange(3), duplicates="first")


# ---------------------------------------------------------------- two rows of one time

TWICE = [0.0, 1.0, 1.0, 2.5, 2.5, 2.5]


def staircase():
    """A state that is known: one step up whenever time passes."""
    return bk.StateSpaceModel(
        initial=lambda p: dist.Delta(0.0),
        transition=lambda p, x, t: dist.Delta(x + 1.0),
        observation=lambda p, x, t: dist.Normal(x, 1.0),
    )


def brownian(**parts):
    """Its transition is no distribution where no time has passed."""
    return bk.StateSpaceModel(
        initial=lambda p: {"level": dist.Normal(0.0, 1.0), "n": dist.Delta(0)},
        transition=lambda p, x, t, dt: {
            "level": dist.Normal(x["level"], p["sd"] * jnp.sqrt(dt)),
            "n": dist.Delta(x["n"] + 1),
        },
        observation=lambda p, x, t: dist.Normal(x["level"], 1.0),
        params={"sd": 0.7, **parts},
    )


def test_two_observations_of_one_instant_are_exact():
    """The state is known, so the evidence is a product of densities; online as well."""
    y, engine = Y[:6], bk.ParticleFilter(8)
    est = bk.BayesianModel(staircase(), inference=engine, random_state=0)
    est.fit(y, times=TWICE, duplicates="keep")
    states = np.array([0.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(est.filter_.loc["x"]["mean"], states, rtol=1e-14)
    expected = stats.norm.logpdf(y, states).sum()
    assert est.log_evidence_ == pytest.approx(expected, rel=1e-12)
    # A state that moves at every row is another model, and it is seen.
    other = clone(est).fit(y)
    assert abs(other.log_evidence_ - expected) > 1e-3
    online = clone(est)
    for rows in (slice(0, 2), slice(2, 5), slice(5, 6)):
        online.partial_fit(y[rows], times=TWICE[rows], duplicates="keep")
    same(est, online)
    with pytest.raises(InvalidDataError, match=r"times must go on after 2\.5"):
        online.partial_fit(y[:1], times=[2.5])


def test_means_of_one_instant():
    y = np.array([0.3, np.nan, 1.0, 0.1, 0.5, np.nan])
    est = bk.BayesianModel(brownian(), inference=FILTER, random_state=0)
    est.fit(y, times=TWICE, duplicates="mean")
    by_hand = clone(est).fit([0.3, 1.0, 0.3], times=[0.0, 1.0, 2.5])
    same(est, by_hand)
    with pytest.raises(InvalidDataError, match=r"times must go on after 2\.5"):
        clone(est).partial_fit(y, times=TWICE, duplicates="mean").partial_fit(
            y[:1], times=[2.5], duplicates="mean"
        )
    nothing = clone(est).fit([0.3, np.nan, np.nan], times=[0.0, 1.0, 1.0], duplicates="mean")
    same(nothing, clone(est).fit([0.3, np.nan], times=[0.0, 1.0]))


def test_two_observations_of_one_instant_by_a_kalman_filter():
    """Filter, evidence and smoother; false alarms below 4e-6 together."""
    y = Y[:6]
    gaps = np.diff(TWICE, prepend=0.0)
    log_evidence, m, v, means, ahead = 0.0, 0.0, 1.0, [], []
    for gap, seen in zip(gaps, y, strict=True):
        v += 0.49 * gap
        ahead.append(v)
        log_evidence += stats.norm.logpdf(seen, m, np.sqrt(v + 1))
        m, v = m + v / (v + 1) * (seen - m), v / (v + 1)
        means.append((m, v))
    smooth = [m]
    for t in range(4, -1, -1):
        before, spread = means[t]
        smooth.append(before + spread / ahead[t + 1] * (smooth[-1] - before))
    model = brownian()
    several = [
        bk.BayesianModel(model, inference=FILTER, random_state=seed).fit(
            y, times=TWICE, duplicates="keep"
        )
        for seed in range(NUM_RUNS)
    ]
    evidence = np.exp([e.log_evidence_ - log_evidence for e in several])
    assert_means(evidence[:, None], np.ones(1))
    found = np.array([e.filter_.loc["level"]["mean"] for e in several])
    exact = np.array([one for one, _ in means])
    assert_means(found, exact)
    paths = several[0].smoothed_paths(500)
    for equal in ((1, 2), (3, 4), (4, 5)):
        for name in ("level", "n"):
            np.testing.assert_array_equal(*(paths[name][:, place] for place in equal))
    backward = np.array([e.smooth()["mean"].loc["level"] for e in several])
    assert_means(backward, np.array(smooth[::-1]))
    with pytest.raises(AssertionError, match="worst of 6"):
        assert_means(found, np.array(smooth[::-1]))
    with pytest.raises(AssertionError, match="worst of 6"):
        # As if each repeat were one more day of the process.
        assert_means(found, exact + 0.1 * (gaps == 0) * np.arange(6))


def test_one_step_where_no_time_has_passed():
    """The law of a step is the identity for drawing, for its density, and for a proposal."""
    model = dataclasses.replace(local_level(), proposal=lambda p, x, t, y: dist.Normal(y, 1.0))
    rows = bi.Rows(np.array([0.1, 0.2, 0.3], np.float32), None, np.float32([0.0, 1.0, 0.0]))
    fk = model.feynman_kac(None, rows)
    key, x = accel.as_key(0), jnp.float32(0.4)
    assert fk.kernel(key, 2, x) == x != fk.kernel(key, 1, x)
    assert fk.log_m(2, x, x) == 0.0 and fk.log_m(2, x, x + 1) == -jnp.inf
    assert fk.log_m(1, x, x + 1) > -jnp.inf
    seen = stats.norm.logpdf(0.3, 0.4)
    assert float(fk.log_g(2, x, x)) == pytest.approx(seen, rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayeskit.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", ENGINES)
def test_parameters_where_times_repeat(name):
    """Means within 6 standard errors (false alarm 2e-9): pairs tell what their mean tells."""
    noisy = SHORT[:, None] + 0.8 * np.random.default_rng(5).normal(size=(30, 2))
    rho = np.linspace(-1, 1, 402)[1:-1]
    pairs = dataclasses.replace(
        ONE_UNKNOWN, observation=lambda p, x, t: dist.Normal(x, 1.2), name="pairs"
    )
    found = [kalman(noisy.mean(axis=1), r, noise=1.2 / np.sqrt(2), sd0=1.5) for r in rho]
    weights = np.exp([one[0] - found[-1][0] for one in found])
    weights /= weights.sum()
    mean = weights @ rho
    sd = np.sqrt(weights @ (rho - mean) ** 2)
    est = bk.BayesianModel(pairs, inference=ENGINES[name], random_state=1)
    est.fit(noisy.ravel(), times=np.repeat(np.arange(30.0), 2), duplicates="keep")
    ess = min(float(est.summary().loc["rho", "ess_bulk"]), 500.0)
    assert ess > 100
    assert abs(est.result_.mean("rho") - mean) < 6 * sd / np.sqrt(ess)
    # As if the state moved between the two rows of a pair.
    wrong = clone(est).fit(noisy.ravel())
    assert abs(wrong.result_.mean("rho") - mean) > 6 * sd / np.sqrt(ess)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: bk.ParticleFilter(0), "num_particles must be a whole number >= 1, got 0"),
        (lambda: bk.ParticleFilter(quantiles=(0.0,)), "quantiles must lie"),
        (lambda: bk.ParticleFilter(smoother="x"), "smoother must be"),
        (lambda: bk.ParticleFilter(scheme="x"), "unknown scheme 'x'"),
        (lambda: bk.ParticleGibbs(num_particles=1), "num_particles must be at least 2"),
        (lambda: bk.PMMH(num_draws=0), "num_draws must be a whole number >= 1"),
        (lambda: bk.PMMH(target_acceptance=2.0), "target_acceptance must lie"),
        (lambda: bk.SMC2(num_moves=0), "num_moves must be a whole number >= 1"),
        (lambda: bk.SMC2(ess_below=None), "ess_below must be a number"),
        (
            lambda: bk.BayesianModel(MODEL, inference=bk.PMMH()).fit(Y),
            "PMMH moves parameters, but the model has no free ones",
        ),
        (
            lambda: bk.BayesianModel(ONE_UNKNOWN, inference=FILTER).fit(Y),
            r"free parameters \['rho'\]: ParticleFilter takes them as given",
        ),
        (lambda: fitted().smooth(0), "num_paths must be a whole number >= 1, got 0"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_manners(tmp_path):
    est = fitted()
    assert isinstance(est, bk.BayesianModel) and clone(est).model is MODEL
    assert "observed_data" in str(est.posterior_)
    assert est.sample(3)["x_last"].shape == (3,)
    assert "x_last" in est.summary().index
    with pytest.raises(AttributeError, match="no score for separate rows"):
        est.score(None, Y)
    est.save(tmp_path / "result")
    alone = bk.load(tmp_path / "result")
    assert alone.log_evidence_ == est.log_evidence_
    assert alone.filter_.equals(est.filter_)
    for method in (alone.smooth, alone.forecast, lambda: alone.partial_fit(1.0)):
        with pytest.raises(AttributeError, match=r"bk.load\(path, model=...\) puts it back"):
            method()
    with pytest.raises(TypeError, match="NUTS does not run state-space models: take Particle"):
        bk.BayesianModel(MODEL, inference=bk.NUTS()).fit(Y)
    assert "L2 properly weighted" in est.result_.law and "unbiased as it is" in est.result_.law
