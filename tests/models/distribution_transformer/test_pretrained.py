"""Networks that come with the package: they load, and are as good as their reports say."""

import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.errors import InvalidDataError
from bayeskit.models.distribution_transformer.likelihoods import LIKELIHOODS
from bayeskit.models.distribution_transformer.pretrained import NETWORKS, network_report
from benchmarks import exact_posteriors
from benchmarks.pretrained_networks import divergences

NAMES = list(LIKELIHOODS)
KILOBYTE = 1024
# Other problems than those of the reports; with so few, means differ by much, medians less.
NUM_PROBLEMS, SEED = 64, 3


def load(name):
    return bk.DistributionTransformer.pretrained(name)


def is_as_reported(kl, name):
    """Whether divergences of fresh problems agree with the report."""
    reported = network_report(name)["kl"]
    return kl.mean() < 3 * reported["mean"] and np.median(kl) < 2 * reported["median"]


@pytest.mark.parametrize("name", NAMES)
def test_divergences_are_those_of_the_report(name):
    estimator = load(name)
    assert is_as_reported(divergences(estimator, name, NUM_PROBLEMS, SEED), name)
    # Planted bug: the same numbers, in other places.
    generator = np.random.default_rng(0)
    estimator.weights_ = jax.tree.map(
        lambda leaf: generator.permutation(leaf.ravel()).reshape(leaf.shape),
        estimator.weights_,
    )
    assert not is_as_reported(divergences(estimator, name, NUM_PROBLEMS, SEED), name)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_a_report_of_calibration_and_gain(name):
    report = load(name).report_
    assert report == network_report(name)
    assert report["name"] == name and report["steps"] >= 100
    assert report["calibration"]["verdict"] == "pass"
    assert report["calibration"]["num_problems"] >= 500
    assert report["kl"]["mean"] < report["untrained_kl"]["mean"]
    known = LIKELIHOODS[name]
    assert tuple(report["range"]["num_observations"]) == (known.simulator.num_observations["z"])
    described = known.meta_prior.plain()
    assert {key: report["meta_prior"][key] for key in described} == described


def test_files_are_small_and_nothing_else_is_there():
    sizes = {path.name: path.stat().st_size for path in NETWORKS.iterdir()}
    assert set(sizes) == {f"{name}.{end}" for name in NAMES for end in ("bkit", "json")}
    assert max(sizes.values()) < 100 * KILOBYTE
    assert sum(sizes.values()) < 250 * KILOBYTE


def test_loading_takes_milliseconds_and_gives_the_same_weights():
    first = load("poisson")
    seconds = []
    for _ in range(5):
        start = time.process_time()
        again = load("poisson")
        seconds.append(time.process_time() - start)
    # Of this process alone; measured: 0.02.
    assert min(seconds) < 0.2
    pairs = zip(*(jax.tree.leaves(e.weights_) for e in (first, again)), strict=True)
    assert all(np.array_equal(a, b) and a.dtype == np.float32 for a, b in pairs)
    # The task is the same, so that a second load compiles nothing.
    assert first.task_ == again.task_ and hash(first.task_) == hash(again.task_)


def test_pickle_keeps_the_report():
    estimator = load("weibull")
    again = pickle.loads(pickle.dumps(estimator))
    assert again.report_ == estimator.report_
    assert again.meta_prior == estimator.meta_prior


@pytest.mark.parametrize(
    ("name", "z", "words"),
    [
        ("poisson", [3.5, 2.0], "must be a count: 0, 1, 2, ..., got 3.5 .and so in 1 of 2"),
        ("poisson", [3.0, -2.0], "must be a count: 0, 1, 2, ..., got -2"),
        ("weibull", [[1.0, 2.0]], r"a positive time and 1 or 0, .* got \[1.0, 2.0\]"),
        ("weibull", [[0.0, 1.0]], "a positive time and 1 or 0"),
    ],
)
def test_observations_that_no_latent_gives(name, z, words):
    estimator = load(name)
    support = estimator.task_.support.spec
    d = len(support)
    prior = bk.GaussianMixture([1.0], np.zeros((1, d)), [0.25 * np.eye(d)], support=support)
    with pytest.raises(InvalidDataError, match=words):
        estimator.posterior(z, prior=prior)
    with pytest.raises(InvalidDataError, match=words):
        estimator.filter(z, A=np.eye(d), Q=np.eye(d), x0=prior)
    assert repr(estimator.simulator).endswith("1 to 20 of 'z', with log likelihood>")


@pytest.mark.parametrize("name", ["Poisson", "gamma", "../poisson", None])
def test_other_names_are_refused_with_those_that_there_are(name):
    with pytest.raises(ValueError, match=r"no pretrained network .* only 'normal', 'poisson'"):
        load(name)


# ---------------------------------------------------------------- the likelihoods themselves


def differences(name, log_likelihood):
    """Differences of log likelihoods between points, and those of the exact ones."""
    known, exact = LIKELIHOODS[name], exact_posteriors.EXACT[name]
    prior, rows = exact_posteriors.problems(name, known.meta_prior, 20, 20, 7)
    x = exact.constrain(prior.sample(6, random_state=7))
    mask = ~np.isnan(rows[..., 0])
    with jax.enable_x64(True):
        given = {"z": jnp.asarray(np.where(mask[..., None], rows, 1.0))}, {"z": mask}
        nothing = np.zeros((20, 0))
        each = jax.jit(jax.vmap(log_likelihood))
        found = np.stack([each(*given, jnp.asarray(one), nothing) for one in x])
    return np.diff(found, axis=0), np.diff(exact.log_likelihood(rows, x), axis=0)


@pytest.mark.parametrize("name", NAMES)
def test_log_likelihoods_are_those_of_scipy(name):
    simulator = LIKELIHOODS[name].simulator
    found, expected = differences(name, simulator.log_likelihood_rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)

    # Planted bug: the first observation counts twice.
    def wrong(rows, masks, x, vector):
        first = {"z": jnp.arange(masks["z"].shape[0]) == 0}
        return sum(simulator.log_likelihood_rows(rows, m, x, vector) for m in (masks, first))

    found, expected = differences(name, wrong)
    assert not np.allclose(found, expected, rtol=1e-6, atol=1e-6)


POINTS = {
    "normal": [0.5, 2.0],
    "poisson": [2.0],
    "weibull": [1.5, 0.8],
}


def smallest_p_value(name, wrong=1.0):
    """Of Kolmogorov-Smirnov tests of drawn rows against NumPy's."""
    x = np.array(POINTS[name])
    rows = exact_posteriors.EXACT[name].draw(np.random.default_rng(5), np.tile(x, (4000, 1)), 1)
    simulator = LIKELIHOODS[name].simulator
    with jax.enable_x64(False):
        keys = jax.random.split(jax.random.key(5), 200)
        point, nothing = jnp.asarray(wrong * x, jnp.float32), jnp.zeros(0)
        draw = jax.jit(jax.vmap(lambda key: simulator.simulate_rows(key, point, nothing)))
        found = np.asarray(draw(keys)["z"])
    pairs = zip(rows[:, 0].T, found.reshape(4000, -1).T, strict=True)
    return min(stats.ks_2samp(a, b, method="asymp").pvalue for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_those_of_numpy(name):
    """False-alarm rate: at most two p-values below 5e-7, 1e-6."""
    assert smallest_p_value(name) > 5e-7
    # Planted bug: the latent is half as large again.
    assert smallest_p_value(name, wrong=1.5) < 5e-7
