"""Cases in which the estimate is known exactly, whatever learner and surrogates are."""

import numpy as np
import pytest
from scipy import optimize

from bayeskit.models.dsl import dsl_fit
from bayeskit.models.dsl.links import LINKS
from tests.models.dsl.panels import documents, least_squares

N = 400
FRAME = documents(N)
ONES = np.ones(N)
X = np.column_stack([ONES, FRAME.x_true, FRAME.z])
GENERATOR = np.random.default_rng(9)
JUNK_X = np.column_stack([ONES, GENERATOR.normal(size=N), FRAME.z])
CLUSTER = FRAME.cluster.to_numpy()
TARGETS = {
    "linear": X @ [0.5, 1.0, -1.0] + GENERATOR.normal(size=N),
    "logit": FRAME.y_true.to_numpy(),
    "poisson": FRAME.count_true.to_numpy(),
}


def maximum_likelihood(model, X, y, weights=None):
    """Coefficients by a general optimiser, and HC0 standard errors."""
    weights = np.ones(len(y)) if weights is None else weights
    losses = {
        "linear": lambda eta: 0.5 * (y - eta) ** 2,
        "logit": lambda eta: np.logaddexp(0, eta) - y * eta,
        "poisson": lambda eta: np.exp(eta) - y * eta,
    }
    slopes = {
        "linear": np.ones_like,
        "logit": lambda eta: 1 / (1 + np.exp(-eta)) / (1 + np.exp(eta)),
        "poisson": np.exp,
    }
    means = {"linear": lambda e: e, "logit": lambda e: 1 / (1 + np.exp(-e)), "poisson": np.exp}

    def hessian(theta):
        return (X * (weights * slopes[model](X @ theta))[:, None]).T @ X

    found = optimize.minimize(
        lambda theta: np.sum(weights * losses[model](X @ theta)),
        np.zeros(X.shape[1]),
        jac=lambda theta: -X.T @ (weights * (y - means[model](X @ theta))),
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-10},
    ).x
    scores = X * (weights * (y - means[model](X @ found)))[:, None]
    inverse = np.linalg.inv(hessian(found))
    return found, np.sqrt(np.diag(inverse @ scores.T @ scores @ inverse))


@pytest.mark.parametrize("model", ["linear", "logit", "poisson"])
def test_all_labeled_is_the_plain_regression(model):
    y = TARGETS[model]
    result = dsl_fit(y, X, GENERATOR.normal(size=N), JUNK_X, model=model)
    coef, se = maximum_likelihood(model, X, y)
    np.testing.assert_allclose(result.coef, coef, atol=1e-9)
    np.testing.assert_allclose(result.se, se, atol=1e-9)


def test_all_labeled_with_clusters():
    y = TARGETS["linear"]
    result = dsl_fit(y, X, GENERATOR.normal(size=N), JUNK_X, cluster=CLUSTER)
    coef, se = least_squares(X, y, CLUSTER)
    np.testing.assert_allclose(result.coef, coef, atol=1e-10)
    np.testing.assert_allclose(result.se, se, atol=1e-10)


@pytest.mark.parametrize("model", ["linear", "logit", "poisson"])
def test_perfect_surrogates_are_the_full_data(model):
    y = TARGETS[model]
    labeled = GENERATOR.random(N) < 0.3
    pi = GENERATOR.uniform(0.1, 1.0, N)
    result = dsl_fit(y, X, y, X, labeled, pi, model=model)
    coef, se = maximum_likelihood(model, X, y)
    np.testing.assert_allclose(result.coef, coef, atol=1e-9)
    np.testing.assert_allclose(result.se, se, atol=1e-9)


def design():
    """Labels of some rows at unequal probabilities, and predictions of no worth."""
    pi = np.random.default_rng(4).uniform(0.2, 0.8, N)
    labeled = np.random.default_rng(5).random(N) < pi
    guess = np.random.default_rng(6).random(N)
    return labeled, pi, guess


def test_linear_outcome_is_regression_of_pseudo_outcomes():
    labeled, pi, guess = design()
    y = TARGETS["linear"]
    pseudo = guess + np.where(labeled, (y - guess) / pi, 0.0)
    result = dsl_fit(np.where(labeled, y, np.nan), X, guess, pi=pi)
    coef, se = least_squares(X, pseudo)
    np.testing.assert_allclose(result.coef, coef, atol=1e-10)
    np.testing.assert_allclose(result.se, se, atol=1e-10)


@pytest.mark.parametrize("constant", [-3.0, 0.0, 0.4])
def test_constant_predictions_give_the_labeled_mean(constant):
    labeled, _, _ = design()
    y = TARGETS["logit"]
    result = dsl_fit(y, ONES[:, None], np.full(N, constant), labeled=labeled, model="mean")
    assert result.coef[0] == pytest.approx(y[labeled].mean(), abs=1e-12)


@pytest.mark.parametrize("model", ["linear", "logit", "poisson"])
def test_lambda_zero_is_the_weighted_regression_of_labels(model):
    labeled, pi, guess = design()
    y = TARGETS[model]
    result = dsl_fit(y, X, guess, JUNK_X, labeled, pi, model=model, power_tuning=0.0)
    coef, se = maximum_likelihood(model, X[labeled], y[labeled], 1 / pi[labeled])
    np.testing.assert_allclose(result.coef, coef, atol=1e-9)
    np.testing.assert_allclose(result.se, se, atol=1e-9)


def test_prediction_powered_mean_and_logit():
    labeled, _, guess = design()
    y, share = TARGETS["logit"], labeled.mean()
    # PPI with labelled and other rows apart, its tuning being lambda (1 - pi).
    for power in (0.3, 1.0):
        tuning = power * (1 - share)
        ppi = y[labeled].mean() + tuning * (guess[~labeled].mean() - guess[labeled].mean())
        result = dsl_fit(
            y, ONES[:, None], guess, labeled=labeled, model="mean", power_tuning=power
        )
        assert result.coef[0] == pytest.approx(ppi, abs=1e-12)
    tuning = 1 - share

    def ppi_gradient(theta):
        p = 1 / (1 + np.exp(-X @ theta))
        others = X[~labeled].T @ (p - guess)[~labeled] / (~labeled).sum()
        own = X[labeled].T @ (p - y)[labeled] / labeled.sum()
        shift = X[labeled].T @ (p - guess)[labeled] / labeled.sum()
        return own + tuning * (others - shift)

    result = dsl_fit(y, X, guess, labeled=labeled, model="logit")
    expected = optimize.root(ppi_gradient, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(result.coef, expected, atol=1e-9)


def test_one_hot_columns_give_means_of_pseudo_outcomes():
    labeled, pi, guess = design()
    y = TARGETS["linear"]
    one_hot = (FRAME.group.to_numpy()[:, None] == np.array(["a", "b", "c"])).astype(float)
    pseudo = guess + np.where(labeled, (y - guess) / pi, 0.0)
    result = dsl_fit(y, one_hot, guess, labeled=labeled, pi=pi)
    means = [pseudo[column > 0].mean() for column in one_hot.T]
    np.testing.assert_allclose(result.coef, means, atol=1e-12)


@pytest.mark.parametrize("model", ["linear", "logit"])
def test_scale_order_and_repeats(model):
    labeled, pi, guess = design()
    y = TARGETS[model]
    options = {"model": model, "power_tuning": "trace"}
    guesses = np.stack([guess, guess[::-1]])
    result = dsl_fit(y, X, guesses, JUNK_X, labeled, pi, **options)
    # The trace of a covariance depends on units, so that lambda is not tuned here.
    plain = dsl_fit(y, X, guesses, JUNK_X, labeled, pi, model=model)
    units = np.array([1.0, 1e4, 1e-3])
    scaled = dsl_fit(y, X * units, guesses, JUNK_X * units, labeled, pi, model=model)
    np.testing.assert_allclose(scaled.coef * units, plain.coef, rtol=1e-8)
    np.testing.assert_allclose(scaled.se * units, plain.se, rtol=1e-8)
    order = np.random.default_rng(0).permutation(N)
    shuffled = dsl_fit(
        y[order],
        X[order],
        guesses[:, order],
        JUNK_X[order],
        labeled[order],
        pi[order],
        **options,
    )
    np.testing.assert_allclose(shuffled.coef, result.coef, atol=1e-10)
    np.testing.assert_allclose(shuffled.vcov, result.vcov, atol=1e-10)
    one = dsl_fit(y, X, guess, JUNK_X, labeled, pi, **options)
    np.testing.assert_array_equal(one.coef, one.splits.theta[0])
    twice = dsl_fit(y, X, np.stack([guess, guess]), JUNK_X, labeled, pi, **options)
    np.testing.assert_allclose(twice.coef, one.coef, atol=1e-12)
    np.testing.assert_allclose(twice.se, one.se, atol=1e-12)


def test_multinomial_of_two_classes_is_logit():
    labeled, pi, guess = design()
    y = TARGETS["logit"]
    logit = dsl_fit(y, X, guess, JUNK_X, labeled, pi, model="logit")
    both = np.stack([1 - y, y], axis=1), np.stack([1 - guess, guess], axis=1)
    other = dsl_fit(both[0], X, both[1], JUNK_X, labeled, pi, model="multinomial")
    np.testing.assert_allclose(other.coef, logit.coef, atol=1e-9)
    np.testing.assert_allclose(other.se, logit.se, atol=1e-9)


def test_multinomial_is_maximum_likelihood_where_all_is_labeled():
    classes = np.array([0, 1, 2])[GENERATOR.integers(0, 3, N)]
    one_hot = np.eye(3)[classes]
    result = dsl_fit(one_hot, X, GENERATOR.random((N, 3)), model="multinomial")

    def score(theta):
        eta = np.column_stack([np.zeros(N), X @ theta.reshape(2, 3).T])
        p = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
        return ((one_hot - p)[:, 1:].T @ X).ravel()

    np.testing.assert_allclose(score(result.coef), 0.0, atol=1e-8)
    # The link's own slope against differences of its mean.
    eta = np.array([[0.3, -1.2]])
    step = 1e-6 * np.eye(2)
    mean = LINKS["multinomial"].mean
    numeric = [(mean(eta + h) - mean(eta - h))[0] / 2e-6 for h in step]
    np.testing.assert_allclose(
        LINKS["multinomial"].slope(eta)[0], np.array(numeric).T, atol=1e-9
    )


def test_instruments_are_two_stage_least_squares():
    labeled, pi, _ = design()
    y = TARGETS["linear"]
    Z = np.column_stack([ONES, FRAME.z, FRAME.x_model, FRAME.x_model**2])
    result = dsl_fit(y, X, model="iv", Z=Z)
    fitted = Z @ np.linalg.lstsq(Z, X, rcond=None)[0]
    coef = np.linalg.solve(fitted.T @ X, fitted.T @ y)
    scores = fitted * (y - X @ coef)[:, None]
    inverse = np.linalg.inv(fitted.T @ X)
    np.testing.assert_allclose(result.coef, coef, atol=1e-9)
    se = np.sqrt(np.diag(inverse @ scores.T @ scores @ inverse.T))
    np.testing.assert_allclose(result.se, se, atol=1e-9)
    # Columns as their own instruments are least squares, with labels in some rows, too.
    own = dsl_fit(
        y, X, TARGETS["linear"] + 1, JUNK_X, labeled, pi, model="iv", Z=X, Z_hat=JUNK_X
    )
    plain = dsl_fit(y, X, TARGETS["linear"] + 1, JUNK_X, labeled, pi)
    np.testing.assert_allclose(own.coef, plain.coef, atol=1e-9)
    np.testing.assert_allclose(own.se, plain.se, atol=1e-9)


def test_a_dropped_correction_is_found():
    """A planted bug: predictions of a covariate taken for the truth change the estimate."""
    labeled, pi, _ = design()
    y = TARGETS["linear"]
    right = dsl_fit(y, X, y, X, labeled, pi)
    wrong = dsl_fit(y, JUNK_X, y, JUNK_X, labeled, pi)
    assert np.abs(right.coef - wrong.coef).max() > 0.1
