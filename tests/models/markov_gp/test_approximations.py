"""Likelihoods that are not normal against quadrature; hyper-parameters drawn by an engine."""

import functools

import matplotlib as mpl
import numpy as np
import pytest
from scipy import special, stats

import bayeskit as bk
from bayeskit.inference.gp_kernels import LogNormal, Matern12
from bayeskit.models.markov_gp.likelihoods import LIKELIHOODS, Poisson
from bayeskit.models.markov_gp.mixtures import function_quantiles, observation_quantiles

mpl.use("Agg")
import matplotlib.pyplot as plt

X = np.array([0.0, 0.7, 1.5])
NEW = np.array([-0.5, 0.7, 1.1])
STD, LENGTH, OFFSET = 0.9, 1.0, 0.3
# Rows: an observation at each coordinate, one of them twice.
PLACE = np.array([0, 1, 2, 1])
CASES = {
    "student_t": (np.array([0.8, 0.1, 3.0, 0.4]), 0.5),
    "poisson": (np.array([2.0, 0.0, 4.0, 1.0]), None),
    "bernoulli": (np.array([1.0, 0.0, 1.0, 1.0]), None),
}


def log_likelihood(name, y, f):
    if name == "student_t":
        return stats.t.logpdf(y, 4.0, f, 0.5)
    if name == "poisson":
        return stats.poisson.logpmf(y, np.exp(f))
    return -np.logaddexp(0.0, (1 - 2 * y) * f)


@functools.cache
def exact(name):
    """Log evidence, and mean and sd of the function at new places, by a product rule 60^3."""
    y, _ = CASES[name]
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / np.sqrt(2 * np.pi)
    z = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
    mass = np.prod(np.stack(np.meshgrid(*[weights] * 3, indexing="ij"), -1), -1).ravel()
    k = STD**2 * np.exp(-np.abs(X[:, None] - X) / LENGTH)
    f = z @ np.linalg.cholesky(k).T
    log_rows = sum(
        log_likelihood(name, v, f[:, i] + OFFSET) for v, i in zip(y, PLACE, strict=True)
    )
    evidence = mass @ np.exp(log_rows)
    posterior = mass * np.exp(log_rows) / evidence
    cross = STD**2 * np.exp(-np.abs(NEW[:, None] - X) / LENGTH) @ np.linalg.inv(k)
    g = f @ cross.T
    rest = STD**2 - np.einsum("ij,jk,ik->i", cross, k, cross)
    mean = posterior @ g
    return np.log(evidence), mean + OFFSET, np.sqrt(posterior @ g**2 - mean**2 + rest)


@functools.cache
def fitted(name):
    y, noise = CASES[name]
    gp = bk.MarkovGPRegressor(Matern12(STD, LENGTH), likelihood=name, noise=noise, mean=OFFSET)
    return gp.fit(X[PLACE], y)


# Of the evidence, of means in standard deviations, of standard deviations. The bound of
# Student-t noise is loose where one value of the function meets few observations, as here.
TOLERANCES = {
    "student_t": (0.6, 0.1, 0.12),
    "poisson": (0.03, 0.002, 0.03),
    "bernoulli": (0.001, 0.001, 0.002),
}


@pytest.mark.parametrize("name", CASES)
def test_against_quadrature(name):
    """The bound is below the evidence, by little; means and standard deviations are close."""
    log_evidence, mean, sd = exact(name)
    gp = fitted(name)
    of_evidence, of_mean, of_sd = TOLERANCES[name]
    assert gp.log_evidence_kind_ == "lower bound"
    assert log_evidence - of_evidence < gp.log_evidence_ <= log_evidence
    found, spread = gp.predict(NEW, return_std=True, of="function")
    assert np.abs((found - mean) / sd).max() < of_mean
    np.testing.assert_allclose(spread, sd, rtol=of_sd)


def test_sites_that_count_a_row_twice_are_seen():
    """Planted: every row twice is another posterior, by more than the tolerance above."""
    _, mean, sd = exact("poisson")
    y, _ = CASES["poisson"]
    gp = bk.MarkovGPRegressor(Matern12(STD, LENGTH), likelihood="poisson", mean=OFFSET)
    gp.fit(np.tile(X[PLACE], 2), np.tile(y, 2))
    found, spread = gp.predict(NEW, return_std=True, of="function")
    _, of_mean, of_sd = TOLERANCES["poisson"]
    assert np.abs((found - mean) / sd).max() > 10 * of_mean
    assert np.abs(spread / sd - 1).max() > 2 * of_sd


def test_best_normal_approximation_is_stationary():
    """At the sites no other normal posterior of one coordinate has a larger bound."""
    y, m, v = 3.0, 0.0, 0.8
    gp = bk.MarkovGPRegressor(Matern12(v**0.5, 1.0), likelihood="poisson", mean=0.0)
    gp.fit([0.0], [y])
    mean, sd = (float(a[0]) for a in gp.predict([0.0], return_std=True, of="function"))

    def bound(mean, sd):
        expected = y * mean - np.exp(mean + sd**2 / 2) - special.gammaln(y + 1)
        return expected - 0.5 * ((sd**2 + (mean - m) ** 2) / v - 1 - np.log(sd**2 / v))

    assert gp.log_evidence_ == pytest.approx(bound(mean, sd), abs=1e-7)
    for shift in (-0.01, 0.01):
        assert bound(mean + shift, sd) < bound(mean, sd)
        assert bound(mean, sd + shift) < bound(mean, sd)


def test_gradient_of_the_bound():
    """The sites follow the hyper-parameters, which does not change the gradient."""
    x = np.linspace(0, 4, 12)
    y = np.array([0, 1, 3, 4, 3, 1, 0, 0, 1, 4, 6, 3.0])
    gp = bk.MarkovGPRegressor("matern12", likelihood="poisson").fit(x, y)
    at = {name: 1.4 * value for name, value in gp.hyperparameters_.items()}
    _, gradient = gp.log_evidence(at, return_gradient=True)
    for name, slope in gradient.items():
        up = gp.log_evidence({**at, name: at[name] * np.exp(1e-3)})
        down = gp.log_evidence({**at, name: at[name] * np.exp(-1e-3)})
        assert slope == pytest.approx((up - down) / 2e-3, abs=1e-5)
    low, high = gp.predict_quantiles([1.0, 3.6], (0.05, 0.95))
    assert (low == np.round(low)).all() and (low <= high).all()
    draws = gp.sample_y([1.0, 3.6], 2000)
    assert (draws == np.round(draws)).all()
    mean, sd = gp.predict([1.0, 3.6], return_std=True)
    # Six standard errors.
    assert (np.abs(draws.mean(axis=0) - mean) < 6 * sd / 2000**0.5).all()
    assert gp.loo()["log_density"].lt(0).all()
    # The rate: a log-normal law, on the scale of the counts.
    rate, spread = gp.predict([1.0, 3.6], return_std=True, of="rate")
    np.testing.assert_allclose(rate, mean)
    np.testing.assert_allclose(sd**2, rate + spread**2)
    levels = gp.predict_quantiles([1.0, 3.6], of="function")
    np.testing.assert_allclose(gp.predict_quantiles([1.0, 3.6], of="rate"), np.exp(levels))
    paths = gp.sample_y([1.0, 3.6], 2, of="function", random_state=3)
    same = gp.sample_y([1.0, 3.6], 2, of="rate", random_state=3)
    np.testing.assert_allclose(same, np.exp(paths))
    assert gp.plot().get_lines()[0].get_ydata().min() > 0
    plt.close("all")


def test_noise_of_a_row_widens_student_noise():
    """Two noises add in squares to one scale, in moments and in densities."""
    noise = LIKELIHOODS["student_t"](0.3, 5.0)
    both = LIKELIHOODS["student_t"](0.5, 5.0)
    y, f = np.linspace(-2, 2, 7), np.linspace(0, 1, 7)
    assert noise.moments(0.0, 0.1, 0.4**2)[1] == pytest.approx(both.moments(0.0, 0.1)[1])
    np.testing.assert_allclose(noise.log_density(y, f, 0.4**2), both.log_density(y, f))
    x = np.arange(6.0)
    kernel = Matern12(1.0, 2.0)
    options = {"likelihood": "student_t", "mean": 0.0}
    one = bk.MarkovGPRegressor(kernel, noise=0.3, **options).fit(x, y[:6], noise_std=0.4)
    two = bk.MarkovGPRegressor(kernel, noise=0.5, **options).fit(x, y[:6])
    np.testing.assert_allclose(one.loo(), two.loo(), rtol=1e-6)


def test_gradient_of_the_noise():
    """The noise enters the bound by itself, where sites hold still; without, it would be 0."""
    x = np.linspace(0, 4, 12)
    y = np.append(np.sin(x[:-1]), 3.0)
    gp = bk.MarkovGPRegressor("matern12", likelihood="student_t").fit(x, y)
    at = {name: 1.4 * value for name, value in gp.hyperparameters_.items()}
    _, gradient = gp.log_evidence(at, return_gradient=True)
    for name, slope in gradient.items():
        up = gp.log_evidence({**at, name: at[name] * np.exp(1e-3)})
        down = gp.log_evidence({**at, name: at[name] * np.exp(-1e-3)})
        assert slope == pytest.approx((up - down) / 2e-3, abs=1e-4)
    assert abs(gradient["likelihood.noise"]) > 0.1


def test_student_t_is_not_moved_by_an_outlier():
    x = np.linspace(0, 5, 25)
    y = np.sin(x)
    y[12] = 8.0
    heavy = bk.MarkovGPRegressor(
        Matern12(1.0, 3.0), noise=0.1, likelihood="student_t", mean=0.0
    ).fit(x, y)
    light = bk.MarkovGPRegressor(Matern12(1.0, 3.0), noise=0.1, mean=0.0).fit(x, y)
    truth = np.sin(x[12])
    assert (
        abs(heavy.predict(x[12:13])[0] - truth) < 0.2 < abs(light.predict(x[12:13])[0] - truth)
    )


# ---------------------------------------------------------------- helpers of predictions


def test_quantiles_of_mixtures():
    means, variances = np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 4.0], [0.25, 4.0]])
    levels = np.array([0.1, 0.5, 0.9])
    q = function_quantiles(means, variances, levels)
    reached = np.mean(
        [stats.norm.cdf(q, m, np.sqrt(v)) for m, v in zip(means, variances, strict=True)],
        axis=0,
    )
    np.testing.assert_allclose(reached, np.broadcast_to(levels[:, None], q.shape), atol=1e-12)
    counts = observation_quantiles([Poisson()], np.log([[3.0]]), np.zeros((1, 1)), levels)
    np.testing.assert_array_equal(counts[:, 0], stats.poisson.ppf(levels, 3.0))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_moments_of_observations_are_those_of_draws(name):
    """100 000 draws; six standard errors of the mean."""
    likelihood = (
        LIKELIHOODS[name](0.4) if LIKELIHOODS[name].takes_noise else LIKELIHOODS[name]()
    )
    mean, variance = likelihood.moments(np.array([0.5]), np.array([0.3]))
    rng = np.random.default_rng(0)
    draws = likelihood.draw(rng, 0.5 + 0.3**0.5 * rng.standard_normal(100_000))
    assert abs(draws.mean() - mean[0]) < 6 * (variance[0] / 1e5) ** 0.5
    np.testing.assert_allclose(draws.var(), variance[0], rtol=0.1)


# ---------------------------------------------------------------- engines


def test_engine_integrates_over_hyperparameters():
    """SMC against a sum over a grid: evidence and mean within six of their standard errors."""
    x = np.linspace(0, 3, 9)
    y = np.array([0.2, 0.9, 1.1, 0.6, 0.1, -0.4, -0.9, -0.7, -0.2])
    kernel = Matern12(1.0, LogNormal(1.0, 0.7))
    settings = {"noise": 0.2, "mean": 0.0, "random_state": 0}
    gp = bk.MarkovGPRegressor(kernel, inference=bk.SMC(num_particles=500), **settings).fit(x, y)
    mode = bk.MarkovGPRegressor(kernel, **settings).fit(x, y)
    u = np.linspace(-5, 5, 201)
    name = "kernel.lengthscale"
    log_joint = np.array([mode.log_evidence({name: np.exp(0.7 * v)}) for v in u])
    log_joint += stats.norm.logpdf(u)
    log_evidence = special.logsumexp(log_joint) + np.log(u[1] - u[0])
    assert abs(gp.log_evidence_ - log_evidence) < 6 * gp.result_.log_evidence_se + 1e-3
    weights = special.softmax(log_joint)
    mean = weights @ (0.7 * u)
    spread = np.sqrt(weights @ (0.7 * u - mean) ** 2)
    draws = np.log(gp.result_.flat(name))
    assert abs(draws.mean() - mean) < 6 * spread / 100**0.5
    assert abs(mode.hyperparameters_[name] - np.exp(0.7 * u[np.argmax(log_joint)])) < 0.05
    # Uncertain hyper-parameters widen predictions where they matter.
    _, wide = gp.predict([4.0], return_std=True)
    assert wide[0] > 0.3 and gp.sample_y([4.0], 7).shape == (7, 1)
    assert gp.predict_quantiles([4.0]).shape == (3, 1)
    assert gp.posterior_["posterior"][name].shape == gp.result_.draws[name].shape
    assert len(gp.loo()) == 9
