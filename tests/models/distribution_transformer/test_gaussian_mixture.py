"""The mixtures of users: input, densities that integrate to one, summaries."""

import pickle

import numpy as np
import pytest
from scipy import stats

from bayeskit import GaussianMixture
from bayeskit.errors import InvalidDataError
from bayeskit.models.distribution_transformer import mixture_arrays as arrays

RNG = np.random.default_rng(0)
COVARIANCES = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.2, -0.1], [-0.1, 0.4]]])


def warped(support="real"):
    return GaussianMixture([0.3, 0.7], [[-0.5, 0.2], [0.6, -0.1]], COVARIANCES, support=support)


@pytest.mark.parametrize(
    ("support", "low", "high"),
    [
        ("real", -30.0, 30.0),
        ("positive", 0.0, 80.0),
        ("unit", 0.0, 1.0),
        (("interval", -2.0, 5.0), -2.0, 5.0),
        ("correlation", -1.0, 1.0),
    ],
)
def test_densities_integrate_to_one(support, low, high):
    mixture = GaussianMixture([0.3, 0.7], [-0.5, 0.6], [1.0, 0.2], support=support)
    # The midpoint rule, in coordinates in which the integrand and its slopes end at zero.
    v = (np.arange(4000) + 0.5) / 2000.0 - 1.0
    smooth, slope = 0.5 + v * (15 - 10 * v**2 + 3 * v**4) / 16, 15 * (1 - v**2) ** 2 / 16
    x = low + (high - low) * smooth
    masses = np.exp(mixture.log_prob(x[:, None])) * slope * (high - low) / 2000.0
    assert masses.sum() == pytest.approx(1.0, abs=1e-5)
    assert mixture.mean[0] == pytest.approx(masses @ x, abs=1e-3)
    if support != "real":
        assert mixture.log_prob([low - 1.0]) == -np.inf


def test_a_simplex_density_integrates_to_one():
    mixture = warped("simplex")
    grid = (np.arange(600) + 0.5) / 600
    a, b = (axis.ravel() for axis in np.meshgrid(grid, grid))
    a, b = a[a + b < 1], b[a + b < 1]
    points = np.stack([a, b, 1 - a - b], axis=-1)
    assert np.exp(mixture.log_prob(points)).mean() / 2 == pytest.approx(1.0, abs=2e-3)


def test_half_line_moments_are_those_of_draws():
    """Closed forms within 5.5 standard errors of 400,000 draws: false alarms below 1e-6."""
    mixture = warped(["positive", "real"])
    x = mixture.sample(400_000, 0)
    deviations = x - mixture.mean
    assert np.all(np.abs(deviations.mean(0)) < 5.5 * x.std(0) / 400_000**0.5)
    products = deviations[:, :, None] * deviations[:, None, :]
    errors = products.std(0) / 400_000**0.5
    assert np.all(np.abs(products.mean(0) - mixture.cov) < 5.5 * errors)


def test_quantiles_invert_the_distribution():
    levels = np.array([0.001, 0.3, 0.999])
    mixture = warped(["unit", "real"])
    found = mixture.quantile(levels)
    assert found.shape == (3, 2)
    for i, marginal in enumerate(map(mixture.marginal, range(2))):
        u = marginal.support.unconstrain(found[:, i : i + 1])
        cdf = stats.norm.cdf(u, marginal.means[:, 0], marginal.factors[:, 0, 0])
        np.testing.assert_allclose(cdf @ marginal.weights, levels, atol=1e-12)


def test_a_batch_is_many_single_ones():
    weights = np.array([[0.2, 0.8], [0.5, 0.5]])
    means = RNG.normal(size=(2, 2, 2))
    covariances = np.stack([COVARIANCES, COVARIANCES[::-1]])
    both = GaussianMixture(weights, means, covariances, support=["positive", "real"])
    assert len(both) == 2 and both.batch_shape == (2,)
    x = both.sample(5, 0)
    assert x.shape == (5, 2, 2)
    for b in range(2):
        one = GaussianMixture(
            weights[b], means[b], covariances[b], support=["positive", "real"]
        )
        np.testing.assert_allclose(both.log_prob(x)[:, b], one.log_prob(x[:, b]))
        for whole, part in (
            (both.mean, one.mean),
            (both.cov, one.cov),
            (both.marginal([1]).mean, one.marginal(1).mean),
            (both[b].quantile(0.3)[None], one.quantile([0.3])),
        ):
            np.testing.assert_allclose(
                whole[b] if len(whole) == 2 else whole[0], np.squeeze(part)
            )
    np.testing.assert_allclose(both.quantile([0.1, 0.9])[:, 1], both[1].quantile([0.1, 0.9]))


def test_what_goes_in_comes_out_again():
    mixture = warped()
    np.testing.assert_allclose(mixture.covariances, COVARIANCES, atol=1e-15)
    np.testing.assert_allclose(
        GaussianMixture([0.3, 0.7], mixture.means, factors=mixture.factors).cov, mixture.cov
    )
    again = pickle.loads(pickle.dumps(warped("positive")))
    np.testing.assert_array_equal(again.sample(3, 1), warped("positive").sample(3, 1))
    single = arrays.Mixture(*(np.asarray(a, np.float32) for a in mixture.mixture))
    np.testing.assert_allclose(GaussianMixture.of_arrays(single).weights.sum(), 1.0, atol=1e-15)


def test_arviz_gets_chains():
    posterior = warped("unit").to_arviz(100)["posterior"]
    assert posterior["x"].shape == (4, 25, 2)


def bad(**changed):
    arguments = {"weights": [0.3, 0.7], "means": np.zeros((2, 2)), "covariances": COVARIANCES}
    return {**arguments, **changed}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (bad(weights=[-0.1, 1.1]), "negative, got -0.1 for component 0"),
        (bad(weights=[0.3, 0.6]), "the sum 0.9"),
        (bad(weights=[], means=[], covariances=[]), r"must not be empty, got shape \(0,\)"),
        (bad(weights=[np.nan, 1.0]), r"weights has nan at index \(0,\)"),
        (bad(means=np.zeros((3, 2))), "means must have shape"),
        (bad(covariances=np.zeros((2, 3, 3))), r"must have shape \(2, 2, 2\)"),
        (
            bad(
                covariances=COVARIANCES + np.array([0.0, 1.0])[:, None, None] * [[0, 1], [0, 0]]
            ),
            "component 1 is not symmetric",
        ),
        (
            bad(covariances=[np.eye(2), [[1.0, 2.0], [2.0, 1.0]]]),
            "component 1 is not positive definite",
        ),
        (bad(covariances=[np.zeros((2, 2)), np.eye(2)]), "component 0 is not positive"),
        (bad(covariances=None), "either covariances or factors"),
        (bad(covariances=None, factors=[np.ones((2, 2))] * 2), "component 0 is not lower"),
        (bad(covariances=None, factors=[np.eye(2), -np.eye(2)]), "component 1 has a diagonal"),
        (bad(support="simplx"), "support must be one of"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**arguments)


def test_scales_of_many_orders_are_no_error():
    """Variances from 1e-8 to 1e8, weights of 1e-12."""
    covariance = np.diag([1e-8, 1e8])
    mixture = GaussianMixture([1.0 - 1e-12, 1e-12], np.zeros((2, 2)), [covariance] * 2)
    assert np.isfinite(mixture.log_prob([1.0, 1.0]))
    with pytest.raises(InvalidDataError, match="2 coordinates"):
        mixture.log_prob([1.0])


def test_questions_that_have_no_answer():
    q = GaussianMixture([0.5, 0.5], [0.0, 1.0], [1.0, 1.0])
    for call, words in (
        (lambda: q.sample(-1), "num must be a whole number >= 0, got -1"),
        (lambda: q.sample(2.5), "num must be a whole number >= 0, got 2.5"),
        (lambda: q.marginal(3), "coordinates must be among 0 to 0, got 3"),
        (lambda: q.log_prob([[0.0], [np.nan]]), r"x contains nan at index \(1, 0\)"),
        (lambda: q.log_prob([1.0, 2.0]), r"got shape \(2,\): write x\[:, None\]"),
        (lambda: q.log_prob(["a"]), "x must hold real numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
