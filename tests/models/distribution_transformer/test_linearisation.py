"""The start of simulators without a log likelihood, against exact posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone

import bayeskit as bk
from bayeskit import container
from bayeskit.errors import ConvergenceWarning, CorruptFileError, NumericalWarning
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.distribution_transformer import (
    GaussianMixtureMetaPrior,
    LinearGaussian,
    Simulator,
    Source,
)
from bayeskit.models.distribution_transformer.linearisation import linearisations, nothing
from tests.models.distribution_transformer.conftest import SMALL
from tests.models.distribution_transformer.test_warm_start import H, R

OFFSET = np.array([3.0, -1.0, 100.0])
FACTOR = np.linalg.cholesky(R)
META_PRIOR = GaussianMixtureMetaPrior(dim=2, num_components=(1, 3))
UNTRAINED = {**SMALL, "max_steps": 0}


def linear(key, x):
    noise = jnp.asarray(FACTOR, x.dtype) @ jax.random.normal(key, (3,), x.dtype)
    return OFFSET.astype(x.dtype) + jnp.asarray(H, x.dtype) @ x + noise


@pytest.fixture(scope="module")
def untrained():
    """No likelihood, no training: 1 to 4 observations of three numbers."""
    simulator = Simulator(linear, num_observations=(1, 4))
    return bk.DistributionTransformer(simulator, META_PRIOR, **UNTRAINED).fit()


@pytest.fixture(scope="module")
def exact():
    simulator = LinearGaussian(H, R, num_observations=(1, 4))
    return bk.DistributionTransformer(simulator, META_PRIOR, random_state=0).fit()


def divergences(exact, estimator, num=500):
    """Divergences from exact posteriors, on 500 draws from each, and those of the priors."""
    with jax.enable_x64(False):
        prior = META_PRIOR.draw(jax.random.key(5), num)
        u = np.asarray(META_PRIOR.draw_latent(jax.random.key(6), prior), float)
    generator = np.random.default_rng(0)
    z = u[:, None] @ H.T + generator.normal(size=(num, 4, 3)) @ FACTOR.T
    z[np.arange(4) >= generator.integers(1, 5, size=num)[:, None]] = np.nan
    prior = bk.GaussianMixture.of_arrays(jax.tree.map(np.asarray, prior))
    p = exact.posterior(z, prior=prior, missing="mask")
    q = estimator.posterior(z + OFFSET, prior=prior, missing="mask")
    draws = p.sample(500, random_state=1)
    log_p = p.log_prob(draws)
    return (log_p - q.log_prob(draws)).mean(axis=0), (log_p - prior.log_prob(draws)).mean(
        axis=0
    )


def changed(estimator, **parts):
    """Return the estimator with another summary."""
    other = clone(estimator)
    vars(other).update(vars(estimator))
    summary = estimator.scaling_.linear["z"]._replace(**parts)
    other.scaling_ = estimator.scaling_._replace(linear={"z": summary})
    return other


def test_untrained_posteriors_of_a_linear_simulator_are_nearly_exact(untrained, exact):
    """What is left are errors of regressions on 16 384 problems."""
    assert untrained.task_.kind == "linearised"
    assert untrained.n_steps_ == 0
    kl, of_prior = divergences(exact, untrained)
    assert of_prior.mean() > 1.0
    assert kl.mean() < 0.001
    assert np.quantile(kl, 0.95) < 0.004
    # Planted bugs: the centre forgotten, rows of G exchanged, the number of rows forgotten.
    summary = untrained.scaling_.linear["z"]
    for parts in (
        {"centre": 0 * summary.centre},
        {"operator": summary.operator[::-1]},
        {"common": summary.common + 1.0},
    ):
        assert divergences(exact, changed(untrained, **parts))[0].mean() > 0.005


def test_evidence_is_not_known(untrained):
    prior = bk.GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    with pytest.raises(ValueError, match="needs the evidence"):
        untrained.predictive_check(OFFSET[None], prior=prior)
    series = np.tile(OFFSET, (3, 1))
    found = untrained.filter(series, A=np.eye(2), Q=np.eye(2), x0=prior)
    assert found.log_evidence is None


def test_data_that_say_nothing_leave_the_prior():
    simulator = Simulator(lambda key, x: jax.random.normal(key, (2,)) + 0 * x[0])
    with pytest.warns(ConvergenceWarning, match="every posterior is its prior"):
        estimator = bk.DistributionTransformer(simulator, META_PRIOR, **UNTRAINED).fit()
    assert estimator.task_.kind == "prior"
    assert estimator.scaling_.linear is None


def test_no_linearisation_is_exactly_the_prior(untrained):
    prior = bk.GaussianMixture([0.3, 0.7], [[0.0, 1.0], [2.0, 0.0]], [np.eye(2), np.eye(2)])
    summary = nothing({"z": 3}, 2)["z"]
    other = changed(untrained, **summary._asdict())
    found = other.posterior(OFFSET[None] + 5.0, prior=prior)
    assert np.allclose(found.mean, prior.mean, atol=1e-12)
    assert np.allclose(found.cov, prior.cov, atol=1e-12)


def test_a_likelihood_without_gradients_is_no_better_than_none():
    """In four dimensions Newton's method is all there is, and here it stays where it is."""

    def density(z, x):
        return -0.5 * ((z - jax.lax.stop_gradient(x)) ** 2).sum()

    simulator = Simulator(lambda key, x: x + jax.random.normal(key, (4,)), density)
    meta_prior = GaussianMixtureMetaPrior(dim=4, num_components=1)
    settings = {**UNTRAINED, "n_components": 1}
    estimator = bk.DistributionTransformer(simulator, meta_prior, **settings).fit()
    assert estimator.task_.kind == "linearised"
    assert np.isfinite(estimator.start_loss_)
    with jax.enable_x64(False):
        prior = bk.GaussianMixture.of_arrays(
            jax.tree.map(np.asarray, meta_prior.draw(jax.random.key(1), 100))
        )
    z = prior.sample(1, random_state=0)[0] + np.random.default_rng(0).normal(size=(100, 4))
    refined = bk.DistributionTransformer(
        LinearGaussian(np.eye(4), np.eye(4)), meta_prior, random_state=0
    ).fit()
    p, q = (e.posterior(z[:, None], prior=prior) for e in (refined, estimator))
    draws = p.sample(300, random_state=1)
    assert (p.log_prob(draws) - q.log_prob(draws)).mean() < 0.01


def test_second_fits_compile_nothing_and_files_keep_the_start(untrained, tmp_path):
    with CompileClock() as clock:
        other = clone(untrained).set_params(random_state=3).fit()
    assert clock.num_compiled <= 3
    a, b = (e.scaling_.linear["z"].operator for e in (untrained, other))
    assert not np.array_equal(a, b)
    path = tmp_path / "dt.bkit"
    untrained.save(path)
    loaded = bk.load(path, model=untrained.simulator)
    prior = bk.GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    first, second = (
        e.posterior(OFFSET[None], prior=prior).mixture for e in (untrained, loaded)
    )
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
    # A summary of other shapes does not reach a compiled program.
    read = container.read_container(path, kinds={"DistributionTransformer"})
    read.arrays["scaling['linear']['z'].common"] = np.zeros(3)
    container.write_container(path, "DistributionTransformer", read.parameters, read.arrays)
    with pytest.raises(CorruptFileError):
        bk.load(path, model=untrained.simulator)


def test_files_from_before_start_where_they_started(tmp_path):
    """Version 2: without a log likelihood at the prior."""
    simulator = Simulator(linear, num_observations=(1, 4))
    settings = {**UNTRAINED, "max_steps": 1, "warm_start": False}
    estimator = bk.DistributionTransformer(simulator, META_PRIOR, **settings).fit()
    path = tmp_path / "dt.bkit"
    estimator.save(path)
    read = container.read_container(path, kinds={"DistributionTransformer"})
    parameters = {**read.parameters, "version": 2}
    parameters["settings"] = {**parameters["settings"], "warm_start": True}
    container.write_container(path, "DistributionTransformer", parameters, read.arrays)
    loaded = bk.load(path, model=simulator)
    assert loaded.warm_start and loaded.task_.kind == "prior"
    prior = bk.GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    assert np.isfinite(loaded.posterior(OFFSET[None], prior=prior).mean).all()


# ---------------------------------------------------------------- regressions


def simulated(num, rows, noise, rng):
    u = rng.standard_t(3.0, size=(num, 2))
    z = u[:, None] @ np.array([[1.0, 0.5], [0.0, 1.0]]).T
    return (z + noise * rng.normal(size=(num, rows, 2))).astype(np.float32), u


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1.0])
def test_noise_from_none_to_much(noise):
    """Signals are known to a thousandth of their spread at best: float32 has to hold that."""
    z, u = simulated(4000, 1, noise, np.random.default_rng(0))
    found = list(linearisations({"z": z}, {"z": np.ones((4000, 1), bool)}, u))
    assert len(found) == 2
    for linear in found:
        assert all(np.isfinite(leaf).all() for leaf in linear["z"])
    singular = np.linalg.svd(found[0]["z"].operator, compute_uv=False)
    expected = np.linalg.svd(np.array([[1.0, 0.5], [0.0, 1.0]]), compute_uv=False)
    if noise == 1.0:
        assert np.allclose(singular, expected, rtol=0.05)
    assert (singular < 2000).all()


def test_what_rows_share_is_told_apart():
    """Rows of one data set have an error of variance 0.5 in common, beside 1 of their own."""
    rng = np.random.default_rng(0)
    z, u = simulated(16384, 5, 1.0, rng)
    z += rng.normal(size=(16384, 1, 2)) * np.sqrt(0.5)
    mask = np.arange(5) < rng.integers(1, 6, size=16384)[:, None]
    shared = [linear["z"].common for linear in linearisations({"z": z}, {"z": mask}, u)]
    assert np.allclose(shared[0], 0) and np.allclose(shared[2], 0)
    assert np.allclose(shared[1], 0.5, atol=0.05)
    # One row is as good as another: rows that are not there are never looked at.
    z[~mask] = np.nan
    again = [linear["z"].common for linear in linearisations({"z": z}, {"z": mask}, u)]
    assert np.array_equal(shared[1], again[1])


def test_two_sources():
    """One source tells of each coordinate; a constant one tells nothing, and harms nothing."""
    simulator = Simulator(
        {
            "first": Source(lambda key, x: x[0] + 0.5 * jax.random.normal(key)),
            "second": Source(lambda key, x: x[1] + 0.5 * jax.random.normal(key)),
            "constant": Source(lambda key, x: 1.0 + 0 * x[0]),
        }
    )
    with pytest.warns(NumericalWarning, match="simulator of 'constant' does not use its key"):
        estimator = bk.DistributionTransformer(simulator, META_PRIOR, **UNTRAINED).fit()
    prior = bk.GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    z = {"first": [[1.0]], "second": [[-2.0]], "constant": [[1.0]]}
    found = estimator.posterior(z, prior=prior)
    assert np.allclose(found.mean, [0.8, -1.6], atol=0.05)
    assert np.allclose(found.cov, 0.2 * np.eye(2), atol=0.02)
