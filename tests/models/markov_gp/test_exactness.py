"""The Markov process is the dense one: mean, variance, evidence, draws, leave-one-out."""

import functools
import json

import jax
import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.inference.gp_kernels import (
    SHO,
    Constant,
    IntegratedWiener,
    Linear,
    LogNormal,
    Matern12,
    Matern32,
    Matern52,
    QuasiPeriodic,
)
from bayeskit.models.markov_gp import program

KINDS = {"matern12": Matern12, "matern32": Matern32, "matern52": Matern52}
KERNELS = {
    "ornstein": Matern12(0.8, 1.1) + Constant(1.0),
    "trend": Matern32(0.8, 1.1) + Constant(2.0) + Linear(0.7, centre=1.0),
    "season": QuasiPeriodic(1.1, 1.3, 1.2, 4.0, num_harmonics=1) + 0.5 * SHO(1.0, 2.0, 1.5),
    "spline": IntegratedWiener(0.9, 1.0, 1.0, origin=2.0) * Matern12(1.0, 9.0),
}
NEW = np.array([-3.0, 0.0, 0.77, 1.5, 2.0, 2.71, 7.0, 30.0])
NOISE = 0.3


def simulated(num=37, seed=0):
    """Rows out of order, with repeats, missing values, and noise of their own."""
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.concatenate([rng.uniform(0, 5, num - 6), [1.5, 1.5, 1.5, 0, 2, 2]]))
    y = np.sin(2 * x) + 0.3 * rng.normal(size=num)
    y[[3, 11]] = np.nan
    return x, y, rng.uniform(0.05, 0.4, num)


def covariance(kernel, x1, x2):
    with jax.enable_x64(True):
        pairs = jax.jit(jax.vmap(jax.vmap(kernel.evaluate, (None, 0)), (0, None)))
        return np.asarray(pairs(x1, x2))


def dense(kernel, x, y, variance, new):
    """Mean, covariance and log evidence by a Cholesky factor of the whole matrix."""
    seen = ~np.isnan(y)
    x, y, variance = x[seen], y[seen], variance[seen]
    total = covariance(kernel, x, x) + np.diag(variance)
    root = np.linalg.cholesky(total)
    half = np.linalg.solve(root, covariance(kernel, x, new))
    white = np.linalg.solve(root, y)
    log_evidence = -0.5 * white @ white - np.log(np.diag(root)).sum()
    log_evidence -= 0.5 * len(y) * np.log(2 * np.pi)
    return half.T @ white, covariance(kernel, new, new) - half.T @ half, log_evidence


@functools.cache
def fitted(name, method="sequential"):
    x, y, sd = simulated()
    gp = bk.MarkovGPRegressor(KERNELS[name], noise=NOISE, mean=0.0, method=method)
    return gp.fit(x, y, noise_std=sd)


@functools.cache
def exact(name):
    x, y, sd = simulated()
    return dense(KERNELS[name], x, y, NOISE**2 + sd**2, NEW)


# ---------------------------------------------------------------- against the dense process


@pytest.mark.reference
@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_reference_cases(reference_data, method):
    case = json.loads((reference_data / "funbat" / "exact_cases.json").read_text())
    case = case["gp_regression"]
    for name, kind in KINDS.items():
        if method == "parallel" and name != "matern32":
            continue
        gp = bk.MarkovGPRegressor(
            kind(case["variance"] ** 0.5, case["lengthscale"]),
            noise=case["noise_variance"] ** 0.5,
            mean=0.0,
            method=method,
        ).fit(case["x"], case["y"])
        mean, sd = gp.predict(case["x_star"], return_std=True, of="function")
        np.testing.assert_allclose(mean, case[name]["mean"], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(sd**2, case[name]["var"], rtol=1e-8)
        assert gp.log_evidence_ == pytest.approx(
            case[name]["log_marginal_likelihood"], rel=1e-10
        )


@pytest.mark.parametrize("name", KERNELS)
def test_equals_the_dense_process(name):
    """At seen, in-between, left, right and far coordinates; observations with their noise."""
    gp, (mean, spread, log_evidence) = fitted(name), exact(name)
    found, sd = gp.predict(NEW, return_std=True, of="function")
    scale = np.diag(spread).max()
    np.testing.assert_allclose(found, mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(sd**2, np.diag(spread), rtol=1e-8, atol=1e-10 * scale)
    assert gp.log_evidence_ == pytest.approx(log_evidence, rel=1e-10)
    again, total = gp.predict(NEW, return_std=True)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_allclose(total**2, sd**2 + NOISE**2, rtol=1e-12)
    assert gp.n_ignored_ == 2 and gp.log_evidence_kind_ == "exact"


def test_parallel_equals_sequential():
    one, two = fitted("ornstein"), fitted("ornstein", "parallel")
    assert two.log_evidence_ == pytest.approx(one.log_evidence_, abs=1e-9)
    for a, b in zip(
        one.predict(NEW, return_std=True), two.predict(NEW, return_std=True), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-9)
    np.testing.assert_allclose(
        one.sample_y(NEW, 2, random_state=0), two.sample_y(NEW, 2, random_state=0), atol=1e-8
    )
    np.testing.assert_allclose(one.loo(), two.loo(), atol=1e-9)


def test_two_thousand_rows():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 60, 2000)
    y = np.sin(x) + 0.2 * rng.normal(size=2000)
    kernel, new = Matern52(1.0, 1.5), np.array([-1.0, 3.3, x[5], 61.0])
    gp = bk.MarkovGPRegressor(kernel, noise=0.2, mean=0.0).fit(x, y)
    mean, spread, log_evidence = dense(kernel, x, y, np.full(2000, 0.04), new)
    found, sd = gp.predict(new, return_std=True, of="function")
    np.testing.assert_allclose(found, mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(sd**2, np.diag(spread), rtol=1e-8)
    assert gp.log_evidence_ == pytest.approx(log_evidence, rel=1e-9)


def test_far_away_is_the_prior():
    gp = bk.MarkovGPRegressor(Matern32(1.7, 1.0), noise=NOISE, mean=5.0)
    x, y, _ = simulated()
    mean, sd = gp.fit(x, y).predict([-1e3, 1e3], return_std=True, of="function")
    np.testing.assert_allclose(mean, 5.0, atol=1e-12)
    np.testing.assert_allclose(sd, 1.7, rtol=1e-12)


def test_leave_one_out_is_a_refit_without_the_row():
    gp = fitted("trend")
    x, y, sd = simulated()
    variance = NOISE**2 + sd**2
    table = gp.loo()
    np.testing.assert_array_equal(table.index, x)
    table = table.reset_index()
    for row in (0, 3, *np.flatnonzero(x == 1.5)):
        rest = np.arange(len(x)) != row
        mean, spread, _ = dense(
            KERNELS["trend"], x[rest], y[rest], variance[rest], x[row : row + 1]
        )
        total = np.sqrt(spread[0, 0] + variance[row])
        assert table["mean"][row] == pytest.approx(mean[0], abs=1e-9)
        assert table["std"][row] == pytest.approx(total, abs=1e-9)
        if np.isnan(y[row]):
            assert np.isnan(table["log_density"][row])
        else:
            expected = stats.norm.logpdf(y[row], mean[0], total)
            assert table["log_density"][row] == pytest.approx(expected, abs=1e-9)


def test_components_add_up_and_have_their_own_variance():
    gp = fitted("trend")
    x, y, sd = simulated()
    seen = ~np.isnan(y)
    total = covariance(KERNELS["trend"], x[seen], x[seen]) + np.diag((NOISE**2 + sd**2)[seen])
    table = gp.components(NEW)
    assert list(table.index.unique("component")) == ["matern32", "constant", "linear"]
    means = 0.0
    for name, term in zip(("matern32", "constant", "linear"), gp.kernel_.terms, strict=True):
        cross = covariance(term, x[seen], NEW)
        mean = cross.T @ np.linalg.solve(total, y[seen])
        spread = covariance(term, NEW, NEW) - cross.T @ np.linalg.solve(total, cross)
        np.testing.assert_allclose(table.loc[name]["mean"], mean, atol=1e-9)
        np.testing.assert_allclose(
            table.loc[name]["sd"] ** 2, np.diag(spread), rtol=1e-7, atol=1e-10
        )
        means = means + table.loc[name]["mean"].to_numpy()
    np.testing.assert_allclose(means, gp.predict(NEW), atol=1e-10)


def test_joint_draws_have_the_exact_covariance():
    """Draws of the program are linear in normal numbers: their columns give the covariance."""
    x, y = np.array([0.0, 0.4, 1.5, 1.5, 4.0]), np.array([0.3, np.nan, 1.0, 0.7, -0.2])
    kernel = Matern32(0.8, 1.1)
    gp = bk.MarkovGPRegressor(kernel, noise=NOISE, mean=0.0).fit(x, y)
    mean, spread, _ = dense(kernel, x, y, np.full(5, NOISE**2), NEW)
    with jax.enable_x64(True):
        data, place = gp._data_and_places(NEW)
        size = 2 * len(data.grid.x)
        normals = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(
            1, size + 1, -1, 2
        )
        drawn = program.function_draws(
            gp._u, gp._free(), data, gp._sites, normals, "sequential"
        )[0]
    paths = np.asarray(drawn)[:, place]
    columns = paths[1:] - paths[0]
    np.testing.assert_allclose(paths[0], mean, atol=1e-9)
    np.testing.assert_allclose(columns.T @ columns, spread, atol=1e-9)
    # Planted: independent draws at each coordinate have the variances, and no more.
    assert np.abs(np.diag(np.diag(spread)) - spread).max() > 1e-2


def test_joint_draws():
    """Mean and covariance of 4000 draws; false alarms below 1e-6 by chi-square and a bound."""
    gp, (mean, spread, _) = fitted("ornstein"), exact("ornstein")
    draws = gp.sample_y(NEW, 4000, of="function", random_state=1)
    white = np.linalg.solve(np.linalg.cholesky(spread), (draws - mean).T)
    assert stats.chi2.sf(4000 * np.sum(white.mean(axis=1) ** 2), len(NEW)) > 5e-7
    unit = np.eye(len(NEW))
    squares = (white @ white.T - 4000 * unit) / np.sqrt(4000 * (1 + unit))
    # Of 36 entries; nearly normal at 4000 draws.
    assert np.abs(squares).max() < stats.norm.isf(5e-7 / 72) + 0.5
    noisy = gp.sample_y(NEW, 4000, random_state=1)
    np.testing.assert_allclose(noisy.var(axis=0), np.diag(spread) + NOISE**2, rtol=0.2)
    np.testing.assert_array_equal(draws, gp.sample_y(NEW, 4000, of="function", random_state=1))


# ---------------------------------------------------------------- the mistakes of others


def neighbours(gp, x, new):
    """Exact moments of the state at both neighbours of a new coordinate."""
    left, right = x[x < new].max(), x[x > new].min()
    (m1, s1), (m2, s2) = (
        (float(m[0]), float(s[0]) ** 2)
        for m, s in (gp.predict([z], return_std=True, of="function") for z in (left, right))
    )
    return (left, m1, s1), (right, m2, s2)


def test_mistakes_of_the_released_code_are_seen():
    """Double counting of neighbours, A inverted on the left, an extra prior factor."""
    x, y, _ = simulated()
    kernel = Matern12(1.0, 0.7)
    gp = bk.MarkovGPRegressor(kernel, noise=NOISE, mean=0.0).fit(x, y)
    new = np.array([2.71, -0.5])
    mean, spread, log_evidence = dense(kernel, x, y, np.full(len(x), NOISE**2), new)

    def disagreement(m, v):
        return max(np.abs(m - mean).max(), np.abs(v - np.diag(spread)).max())

    found, sd = gp.predict(new, return_std=True, of="function")
    assert disagreement(found, sd**2) < 1e-9
    (left, m1, v1), (right, m2, v2) = neighbours(gp, x, new[0])
    a1, a2 = np.exp(-(new[0] - left) / 0.7), np.exp(-(right - new[0]) / 0.7)
    p1, p2 = a1**2 * v1 + 1 - a1**2, a2**2 * v2 + 1 - a2**2
    doubled = 1 / (1 / p1 + 1 / p2)
    both = doubled * (a1 * m1 / p1 + a2 * m2 / p2)
    assert disagreement(np.array([both, found[1]]), np.array([doubled, sd[1] ** 2])) > 1e-3
    first, at_first = gp.predict([x.min()], return_std=True, of="function")
    a = np.exp(-(x.min() - new[1]) / 0.7)
    wrong = (
        np.array([found[0], first[0] / a]),
        np.array([sd[0] ** 2, (at_first[0] ** 2 - (1 - a**2)) / a**2]),
    )
    assert wrong[1][1] < 0 and disagreement(*wrong) > 1e-3
    # The stated reversed process, A_b = P A' / P, is the right one.
    back = (
        np.array([found[0], a * first[0]]),
        np.array([sd[0] ** 2, a**2 * at_first[0] ** 2 + 1 - a**2]),
    )
    assert disagreement(*back) < 1e-9
    # A factor N(f; 0, 5) at each coordinate is a row that observes 0 there.
    places = np.unique(x[~np.isnan(y)])
    extra = bk.MarkovGPRegressor(kernel, noise=0, mean=0.0).fit(
        np.concatenate([x, places]),
        np.concatenate([y, np.zeros(len(places))]),
        noise_std=np.concatenate([np.full(len(x), NOISE), np.full(len(places), 5**0.5)]),
    )
    shrunk, narrow = extra.predict(new, return_std=True, of="function")
    assert disagreement(shrunk, narrow**2) > 1e-3
    assert gp.log_evidence_ == pytest.approx(log_evidence, rel=1e-10)


# ---------------------------------------------------------------- evidence


def test_gradient_of_the_evidence():
    x, y, sd = simulated()
    kernel = Matern52() + 2.0 * Matern12(LogNormal(0.3), 2.0) + Linear(centre=1.0)
    gp = bk.MarkovGPRegressor(kernel).fit(x, y, noise_std=sd)
    at = {name: 1.3 * value for name, value in gp.hyperparameters_.items()}
    value, gradient = gp.log_evidence(at, return_gradient=True)
    assert len(gradient) == 5 and value < gp.log_evidence_ + 1.0
    for name, slope in gradient.items():
        up = gp.log_evidence({**at, name: at[name] * np.exp(1e-4)})
        down = gp.log_evidence({**at, name: at[name] * np.exp(-1e-4)})
        assert slope == pytest.approx((up - down) / 2e-4, rel=1e-6, abs=1e-6)
    # At the maximum the slope is that of the prior, which penalises distance from the median.
    _, at_end = gp.log_evidence(return_gradient=True)
    u = gp._free().coordinates(list(gp.hyperparameters_.values()))
    np.testing.assert_allclose(list(at_end.values()), u / gp._free().spread, atol=2e-3)


def test_tiny_noise_keeps_the_digits_of_the_evidence():
    x, y = np.arange(6.0), np.array([1.0, 1.5, 0.2, -0.3, 0.4, 0.9])
    kernel = Matern32(1.0, 1.0)
    gp = bk.MarkovGPRegressor(kernel, noise=1e-7, mean=0.0).fit(x, y)
    _, _, log_evidence = dense(kernel, x, y, np.full(6, 1e-14), x)
    assert gp.log_evidence_ == pytest.approx(log_evidence, rel=1e-8)
    np.testing.assert_allclose(gp.predict(x), y, atol=1e-8)


@pytest.mark.parametrize("kernel", [Matern12(1.0, 1.0), Matern52(1.0, 1.0) + Constant(1.0)])
def test_extreme_gaps(kernel):
    x = np.array([0.0, 1e-12, 2e-12, 1.0, 1.0 + 1e-9, 1e12, 3e12])
    y = np.array([0.3, -0.2, 0.9, 1.1, 0.8, -0.5, 0.4])
    gp = bk.MarkovGPRegressor(kernel, noise=LogNormal(0.3), mean=0.0).fit(x, y)
    new = np.array([-1e12, 0.0, 0.5e-12, 0.5, 1e12, 2e12])
    mean, sd = gp.predict(new, return_std=True, of="function")
    noise = gp.hyperparameters_["likelihood.noise"]
    expected, spread, log_evidence = dense(kernel, x, y, np.full(7, noise**2), new)
    np.testing.assert_allclose(mean, expected, atol=1e-9)
    np.testing.assert_allclose(sd**2, np.diag(spread), rtol=1e-8)
    assert gp.log_evidence_ == pytest.approx(log_evidence, rel=1e-9)
    assert np.isfinite(list(gp.log_evidence(return_gradient=True)[1].values())).all()
    assert np.isfinite(gp.sample_y(new, 3)).all()
