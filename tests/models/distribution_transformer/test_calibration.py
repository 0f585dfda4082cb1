"""Calibration reports: exact posteriors pass, damaged ones fail, and regions are named."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import special

from bayeskit import plots
from bayeskit.errors import ValidationFailed
from bayeskit.models.distribution_transformer import against_refined, mixture_arrays
from bayeskit.models.distribution_transformer.against_refined import (
    NUM_PAIRS,
    NUM_PROPOSALS,
    ExactPosteriors,
)
from bayeskit.models.distribution_transformer.calibration import calibration_report
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture


class Simulation:
    """Mixture priors with diagonal components, and one observation with noise of variance 1."""

    def __init__(self, num, seed=0, k=2, d=2):
        rng = np.random.default_rng(seed)
        log_weights = special.log_softmax(rng.normal(size=(num, k)), axis=-1)
        means = 2.0 * rng.normal(size=(num, k, d))
        scales = np.exp(0.5 * rng.normal(size=(num, 1, 1)) + 0.2 * rng.normal(size=(num, k, d)))

        def draw():
            cdf = np.cumsum(np.exp(log_weights), axis=1)
            chosen = (rng.random((num, 1)) > cdf).sum(axis=1)
            rows = np.arange(num)
            return means[rows, chosen] + scales[rows, chosen] * rng.normal(size=(num, d))

        self.latents, self.references = draw(), draw()
        self.prior = Mixture(log_weights, means, scales[..., None] * np.eye(d))
        self.prior_draws = np.stack([draw() for _ in range(NUM_PAIRS * NUM_PROPOSALS)])
        self.z = self.latents + rng.normal(size=(num, d))
        spread = scales**2 + 1.0
        offset = self.z[:, None] - means
        logs = log_weights - 0.5 * (offset**2 / spread + np.log(spread)).sum(axis=-1)
        factors = np.sqrt(scales**2 / spread)[..., None] * np.eye(d)
        self.posteriors = Mixture(
            special.log_softmax(logs, axis=-1), means + scales**2 / spread * offset, factors
        )
        self.features = {"log scale": np.log(scales).mean(axis=(1, 2))}

    def log_densities(self, u):
        prior = mixture_arrays.log_density(self.prior, u)
        return prior, -0.5 * ((u - self.z) ** 2).sum(axis=-1)

    def report(self, posteriors=None, **settings):
        return calibration_report(
            self.latents,
            self.posteriors if posteriors is None else posteriors,
            self.references,
            exact=ExactPosteriors(self.log_densities, self.prior_draws),
            features=self.features,
            **{"alpha": 1e-6, **settings},
        )


@pytest.fixture(scope="module")
def simulation():
    return Simulation(2000)


def test_exact_posteriors_pass(simulation):
    """False-alarm rate 1e-6."""
    report = simulation.report()
    assert report.verdict == "pass" and not report.failing_regions
    report.raise_if_failed()
    assert "no check fails; the least likely" in repr(report)
    assert abs(report.c2st - 0.5) < 5 * 0.5 / math.sqrt(2000 * NUM_PAIRS)
    assert set(report.ranks) == {
        "x[0]", "x[1]", "log density", "distance", "component", "log likelihood"
    }  # fmt: skip


def test_p_values_are_those_of_uniform_ranks():
    """Over 40 simulations the share of small p-values is not above its level.

    Binomial counts are discrete, hence below. A share twice the level would be 15 standard
    errors off, were all checks independent, and they are not: false alarms below 1e-6.
    """
    p_values = np.concatenate(
        [Simulation(300, seed).report().to_frame()["p_value"] for seed in range(1, 41)]
    )
    assert np.mean(p_values < 0.05) < 0.1
    assert np.mean(p_values < 0.05) > 0.01


@pytest.mark.parametrize("num", [500, 2000])
def test_variances_of_half_the_size_fail(num):
    """Found with 500 problems by each statistic alone but that of components."""
    simulation = Simulation(num)
    narrow = simulation.posteriors._replace(factors=simulation.posteriors.factors * 0.5**0.5)
    report = simulation.report(narrow)
    assert report.verdict == "fail"
    with pytest.raises(ValidationFailed, match="instead of"):
        report.raise_if_failed()
    whole = report.to_frame().query("region == 'all'")
    failed = set(whole[~whole["passed"]]["statistic"])
    assert failed >= {"x[0]", "x[1]", "log density", "distance", "log likelihood"}
    # Less often than it says, and less often than the exact ones.
    levels, covered = report.coverage()
    assert np.all(covered[20:80] < levels[20:80] - 0.05)


def test_the_prior_taken_for_the_posterior_fails(simulation):
    """It covers its own draws; the likelihood gives it away."""
    z = simulation
    moved = z.latents[:, None, :].mean(axis=0, keepdims=True)
    covariance = np.cov(z.latents.T)
    k = z.posteriors.log_weights.shape[1]
    same = Mixture(
        z.posteriors.log_weights * 0 - math.log(k),
        np.broadcast_to(moved, z.posteriors.means.shape),
        np.broadcast_to(np.linalg.cholesky(covariance), z.posteriors.factors.shape),
    )
    report = z.report(same)
    frame = report.to_frame().query("region == 'all' and not passed")
    assert "log likelihood" in set(frame["statistic"])


def test_a_region_that_fails_is_named(simulation):
    """Posteriors too narrow for the widest quarter of priors only."""
    scale = simulation.features["log scale"]
    wide = scale > np.quantile(scale, 0.75)
    spoiled = np.where(wide, 0.6, 1.0)[:, None, None, None] * simulation.posteriors.factors
    report = simulation.report(simulation.posteriors._replace(factors=spoiled))
    named = [region for region in report.failing_regions if region != "all"]
    assert len(named) == 1
    low = float(named[0].split("[")[1].split(",")[0])
    assert abs(low - np.quantile(scale, 0.75)) < 0.01
    assert "log scale in" in report.worst


def test_ranks_of_equal_values_are_spread(simulation):
    """A likelihood that is constant says nothing, and does not fail."""
    report = calibration_report(
        simulation.latents,
        simulation.posteriors,
        simulation.references,
        exact=ExactPosteriors(
            lambda u: (simulation.log_densities(u)[0], np.zeros(u.shape[:-1])),
            simulation.prior_draws,
        ),
        alpha=1e-6,
    )
    ranks = report.to_frame().query("statistic == 'log likelihood'")
    assert ranks["passed"].all()


def test_the_mean_log_density_tells_divergences_apart(simulation):
    """That of the exact posteriors is the largest; within 5.5 standard errors."""
    exact = simulation.report().mean_log_density
    wide = simulation.posteriors._replace(factors=1.3 * simulation.posteriors.factors)
    gap = exact - simulation.report(wide).mean_log_density
    # For a single normal law: log(s) + (1/s^2 - 1)/2 in each of two dimensions.
    assert gap == pytest.approx(2 * (math.log(1.3) + 0.5 * (1.3**-2 - 1.0)), rel=0.5)


def test_pictures(simulation):
    report = simulation.report()
    ax = plots.rank_distributions(report)
    assert len(ax.lines) == 1 + len(report.ranks) and "pass" in ax.get_title(loc="left")
    band = report.band()
    assert all(np.abs(line.get_ydata()).max() < 3 * band for line in ax.lines)
    ax = plots.expected_coverage(report)
    assert ax.get_legend().texts[0].get_text() == "highest density"
    assert ax.get_title(loc="left") == "pass: coverage of 2000 truths"
    # A report that fails by what is not in the picture says so.
    failed = dataclasses.replace(report, table=[(*report.table[0][:-1], False)], verdict="fail")
    assert failed.table[0][1] == "x[0]"
    title = plots.expected_coverage(failed).get_title(loc="left")
    assert title == "coverage of 2000 truths; the report fails by x[0]"
    assert plots.rank_distributions(failed).get_title(loc="left").startswith("fail: ranks")


def test_bad_arguments(simulation):
    with pytest.raises(ValueError, match="whole number >= 100, got"):
        Simulation(50).report()
    with pytest.raises(ValueError, match="statistic must be one of"):
        simulation.report().coverage("x")


# ---------------------------------------------------------------- against refined draws


def pairs_of(report, region="all"):
    """The rows of the comparison with refined draws, by statistic."""
    frame = report.to_frame().query("region == @region")
    return frame[frame["statistic"].isin(["C2ST", "energy score"])].set_index("statistic")


def narrow(simulation):
    return simulation.posteriors._replace(factors=0.8 * simulation.posteriors.factors)


def lighter_mode(simulation):
    """Without the lighter component of each posterior."""
    logs = simulation.posteriors.log_weights
    log_weights = np.where(np.arange(2) == logs.argmax(axis=-1)[:, None], 0.0, -np.inf)
    return simulation.posteriors._replace(log_weights=log_weights)


def wide(simulation):
    return simulation.posteriors._replace(factors=1.25 * simulation.posteriors.factors)


@pytest.mark.parametrize(("damaged", "sign"), [(narrow, 1), (wide, -1)])
def test_refined_draws_are_told_from_those_of_another_width(damaged, sign):
    """Standard deviations 20 % too small or 25 % too large: found with 500 problems."""
    simulation = Simulation(500)
    report = simulation.report(damaged(simulation))
    assert not pairs_of(report)["passed"].any()
    assert report.c2st > 0.55 and sign * report.energy_gap > 0.1
    assert "C2ST against refined draws" in repr(report)
    assert "refined draws are told from amortised ones in" in report.worst


def test_a_missed_mode_is_found(simulation):
    """The lighter component, which has 12 % of the posterior on average."""
    report = simulation.report(lighter_mode(simulation))
    assert not pairs_of(report).loc["C2ST", "passed"]
    assert report.c2st > 0.52


def test_a_region_where_draws_are_told_apart_is_named(simulation):
    scale = simulation.features["log scale"]
    where = scale > np.quantile(scale, 0.75)
    factors = np.where(where, 0.8, 1.0)[:, None, None, None] * simulation.posteriors.factors
    frame = simulation.report(simulation.posteriors._replace(factors=factors)).to_frame()
    failed = frame.query("statistic == 'C2ST' and region != 'all' and not passed")
    assert len(failed) == 1
    low = float(failed["region"].item().split("[")[1].split(",")[0])
    assert abs(low - np.quantile(scale, 0.75)) < 0.01


def test_a_move_that_keeps_another_law_raises_alarms(simulation, monkeypatch):
    """Planted bug: proposals chosen by the density alone, not by its ratio to the proposal."""
    chosen = against_refined._chosen

    def wrong(log_weights, generator):
        return chosen(2.0 * log_weights, generator)

    assert pairs_of(simulation.report())["passed"].all()
    monkeypatch.setattr(against_refined, "_chosen", wrong)
    assert not pairs_of(simulation.report())["passed"].all()


def test_densities_that_are_not_finite_are_no_densities():
    simulation = Simulation(200)

    def half(u):
        prior, likelihood = simulation.log_densities(u)
        return prior, np.where(u[..., 0] > 0, likelihood, np.nan)

    exact = ExactPosteriors(half, simulation.prior_draws)
    generator = np.random.default_rng(0)
    draws = np.zeros((3, 200, 2))
    found = against_refined.compared(simulation.posteriors, exact, draws, generator)
    assert np.isfinite(found.energy_gaps).all()
    assert found.hits["C2ST"].mean() > 0.6


def test_regions_of_rounding_errors_are_not_named(simulation):
    noise = {"log scale": 2e-16 * (np.arange(2000) % 2)}
    report = calibration_report(
        simulation.latents, narrow(simulation), simulation.references, features=noise
    )
    assert report.failing_regions == ["all"]
    assert math.isnan(report.c2st) and math.isnan(report.energy_gap)
