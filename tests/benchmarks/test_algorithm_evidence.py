"""The evidences that engines are held against, and the ranks that are stored of them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

import bayeskit as bk
from benchmarks import algorithm_evidence as evidence

PAGES = Path(__file__).resolve().parents[2] / "docs" / "algorithms"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def shown():
    spec = importlib.util.spec_from_file_location("_evidence", PAGES / "_evidence.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_evidence_of_pairs_is_the_integral():
    _, data = evidence.simulate_pairs(np.random.default_rng(1))

    def joint_of(prior, name, other, at):
        def joint(value):
            draws = {name: np.array([value]), other: np.array([at])}
            alone = {name: draws[name], other: draws[other]}
            return np.exp(evidence.log_likelihood_of_pairs(alone, data)[0]) * prior.pdf(value)

        return joint

    # The likelihood is a product, so that one integral has the other parameter fixed at 0.3.
    tight = {"epsabs": 0.0, "epsrel": 1e-10, "limit": 200}
    rate = integrate.quad(joint_of(stats.gamma(2.0), "rate", "share", 0.3), 0, 20, **tight)[0]
    share = integrate.quad(joint_of(stats.beta(2, 5), "share", "rate", 0.3), 0, 1, **tight)[0]
    both = {"rate": np.array([0.3]), "share": np.array([0.3])}
    log_both = evidence.log_likelihood_of_pairs(both, data)[0]
    expected = np.log(rate) + np.log(share) - log_both
    assert evidence.log_evidence_of_pairs(data) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("decay", [0.0, 0.4, 0.95])
def test_kalman_filter_is_the_dense_normal(decay):
    _, data = evidence.simulate_walk(np.random.default_rng(2))
    times = np.arange(evidence.NUM_STEPS)
    factor = np.tril(np.power(decay, np.maximum(times[:, None] - times, 0)))
    covariance = factor @ factor.T + evidence.NOISE**2 * np.eye(evidence.NUM_STEPS)
    expected = stats.multivariate_normal(cov=covariance).logpdf(data["y"])
    assert evidence.kalman(np.array([decay]), data["y"])[0] == pytest.approx(expected, abs=1e-9)


def test_evidence_of_a_walk_is_the_integral_over_decays():
    _, data = evidence.simulate_walk(np.random.default_rng(3))
    likelihood = lambda decay: np.exp(evidence.kalman(np.array(decay), data["y"]) + 20)
    expected = np.log(integrate.quad(likelihood, 0, 1)[0]) - 20
    assert evidence.log_evidence_of_walk(data) == pytest.approx(expected, abs=1e-5)


def test_stored_ranks_are_uniform_and_errors_honest(shown):
    """No false alarms while the numbers are stored; new ones of a right engine fail at 1e-6."""
    assert set(shown.stored()) == set(evidence.RUNS)
    for name in shown.stored():
        shown.check(name)


@pytest.mark.parametrize(("shift", "width"), [(0.0, 0.6), (0.6, 1.0)])
def test_a_wrong_posterior_is_caught(shown, shift, width):
    """A right one fails with probability 1e-6; these two are far from it."""
    mean = RNG.normal(size=200)
    truth = mean + RNG.normal(size=200)
    right, wrong = (
        mean[:, None] + s + w * RNG.normal(size=(200, 99)) for s, w in ((0, 1), (shift, width))
    )
    assert shown.rank_p_value(np.sum(right < truth[:, None], axis=1)) > 1e-6
    assert shown.rank_p_value(np.sum(wrong < truth[:, None], axis=1)) < 1e-6


def test_a_wrong_error_is_caught(shown, monkeypatch):
    row = dict(shown.stored()["SMC"])
    monkeypatch.setattr(shown, "stored", lambda: {"SMC": row | {"stated": [0.01] * row["num"]}})
    with pytest.raises(AssertionError):
        shown.check("SMC")
    shifted = list(np.array(row["errors"]) + 0.1)
    monkeypatch.setattr(shown, "stored", lambda: {"SMC": row | {"errors": shifted}})
    with pytest.raises(AssertionError):
        shown.check("SMC")


def test_one_fit_ranks_what_there_is_and_has_the_error_of_its_evidence():
    engine = bk.SMC(num_particles=2000, progress=False)
    ranks, error, stated, seconds = evidence.one_fit(evidence.PAIRS, engine, 3)
    assert set(ranks) == {"rate", "share", "log-likelihood"}
    assert all(0 <= rank <= evidence.NUM_RANKED for rank in ranks.values())
    assert abs(error) < 6 * stated < 1.0
    assert seconds > 0
