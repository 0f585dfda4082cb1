"""Bad input: what the user gets, with the name of the argument."""

import contextlib
import dataclasses
import warnings

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import bayeskit as bk
from bayeskit import plots
from bayeskit.errors import (
    InvalidDataError,
    NumericalWarning,
    OutOfMetaPriorWarning,
    PriorFitWarning,
)
from bayeskit.models.distribution_transformer import (
    GaussianMixtureMetaPrior,
    JointSimulator,
    LinearGaussian,
    ParametricMetaPrior,
    Simulator,
    Source,
)
from bayeskit.models.distribution_transformer.ranges import Seen, sound_alarms
from bayeskit.models.distribution_transformer.refine import RefinedPosterior
from bayeskit.models.distribution_transformer.signatures import check_keys_are_used

LINEAR = LinearGaussian(1.0, 1.0)
META_PRIOR = GaussianMixtureMetaPrior()


def fails_to_fit(error, match, simulator=LINEAR, meta_prior=META_PRIOR, **settings):
    with pytest.raises(error, match=match):
        bk.DistributionTransformer(simulator, meta_prior, **settings).fit()


def test_before_fit(prior):
    estimator = bk.DistributionTransformer(LINEAR, META_PRIOR)
    for call in (
        lambda: estimator.posterior([1.0], prior=prior),
        lambda: estimator.filter([1.0], A=1.0, Q=1.0, x0=prior),
        lambda: estimator.prior_sensitivity([1.0], prior=prior),
        lambda: estimator.save("nowhere.bkit"),
    ):
        with pytest.raises(NotFittedError, match="not trained yet"):
            call()


def test_settings():
    fails_to_fit(TypeError, "meta_prior must be", meta_prior=None)
    fails_to_fit(TypeError, "simulator must be", simulator=3)
    fails_to_fit(ValueError, "d_model must be a whole number", d_model=0)
    fails_to_fit(ValueError, "multiple of n_heads", d_model=10, n_heads=4)
    fails_to_fit(ValueError, "lr must be positive", lr=-1.0)
    fails_to_fit(ValueError, "training would never end", budget_seconds=None)
    fails_to_fit(ValueError, "budget_seconds must be positive", budget_seconds=0.0)
    fails_to_fit(ValueError, "n_draws", n_draws=-1)
    fails_to_fit(ValueError, "max_steps must be None or a whole number", max_steps=2.5)
    fails_to_fit(ValueError, "patience must be None or a whole number >= 1", patience=-1)
    fails_to_fit(ValueError, "warm_start must be True or False", warm_start="x")
    fails_to_fit(ValueError, "support must be one of", support="positiv")
    fails_to_fit(ValueError, "precision must be", precision="float16")
    fails_to_fit(ValueError, "device must be None or a kind of device", device="tpux")
    fails_to_fit(FileNotFoundError, "there is no folder /no. Make it", checkpoint="/no/x.bkit")
    fails_to_fit(ValueError, "checkpoint_every must be a number", checkpoint_every=-1.0)
    fails_to_fit(ValueError, "max_seconds must be positive", max_seconds=0.0)
    fails_to_fit(ValueError, "random_state must be a whole number", random_state="a")
    with pytest.raises(TypeError, match=r"simulator must be a Simulator, .* got NoneType"):
        bk.DistributionTransformer().fit()


def test_simulators():
    fails_to_fit(TypeError, "cannot be called", simulator=lambda key: key)
    words = (
        r"must be a JAX function \(key, x\) -> \(m,\) array that .*It raised TracerArray[^\n]*$"
    )
    fails_to_fit(TypeError, words, simulator=lambda key, x: np.sin(x[0]))
    words = "a third argument takes parameters= of the Simulator"
    fails_to_fit(TypeError, words, simulator=lambda key, x, noise: x)
    fails_to_fit(TypeError, "one observation .m,. of 'z'", simulator=lambda key, x: np.eye(2))
    for number in ((3, 1), 2.5, (1, 2, 3)):
        with pytest.raises(ValueError, match="num_observations of 'z'"):
            Simulator(lambda key, x: x, num_observations=number)
    for log_likelihood in (lambda x: x.sum(), lambda z, x: x * np.ones(2)):
        strange = Simulator(lambda key, x: x, log_likelihood)
        fails_to_fit(TypeError, "the log likelihood cannot be called", simulator=strange)
    with pytest.raises(ValueError, match="at least one source"):
        Simulator({})
    with pytest.raises(ValueError, match="positive definite"):
        LinearGaussian(1.0, -1.0)
    with pytest.raises(ValueError, match="must be symmetric"):
        LinearGaussian(np.eye(2), [[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match="matrix has 1 rows and noise_covariance 2"):
        LinearGaussian([[1.0]], np.eye(2))
    with pytest.raises(ValueError, match="there are no parameters"):
        LinearGaussian(lambda p: 1.0, 1.0)
    with pytest.raises(ValueError, match=r"must be a range .low, high. of finite numbers"):
        Simulator(lambda key, x: x, parameters={"noise": (2.0, 1.0)})
    short = JointSimulator(lambda key, x: jax.random.normal(key, (3, 1)), 4)
    fails_to_fit(TypeError, "must return 4 rows", simulator=short)


def noisy(key, x):
    return x + jax.random.normal(key)


@pytest.mark.parametrize(
    ("simulator", "words"),
    [
        (
            Simulator(lambda key, x: noisy(key, x) * np.nan),
            "draws NaN or infinite data in 4096 of 4096",
        ),
        (
            Simulator(noisy, lambda z, x: -np.inf * (x[0] ** 2 + 1)),
            "not finite at the latent that made the data in 4096",
        ),
    ],
)
def test_simulations_that_are_not_finite(simulator, words):
    fails_to_fit(InvalidDataError, words, simulator=simulator, max_steps=0)


def test_a_few_simulations_that_are_not_finite_are_said():
    sometimes = Simulator(lambda key, x: jax.numpy.where(x > 1.0, np.nan, noisy(key, x)))
    with pytest.warns(NumericalWarning, match="draws NaN or infinite data in"):
        bk.DistributionTransformer(sometimes, META_PRIOR, max_steps=0, d_model=8).fit()


def test_meta_priors():
    for settings in (
        {"dim": 0},
        {"dim": 1.5},
        {"num_components": (3, 1)},
        {"covariance": "full"},
        {"scale_bounds": (2.0, 3.0)},
        {"sharp_share": 2.0},
        {"concentration": 0.0},
    ):
        with pytest.raises(ValueError, match="GaussianMixtureMetaPrior"):
            GaussianMixtureMetaPrior(**settings)
    with pytest.raises(ValueError, match="the family 'cauchy'"):
        ParametricMetaPrior("cauchy", loc=0.0)
    with pytest.raises(ValueError, match="has the parameters"):
        ParametricMetaPrior("normal", loc=0.0)
    with pytest.raises(ValueError, match="belong into the dict"):
        ParametricMetaPrior({"x": ("normal", {"loc": 0.0, "scale": 1.0})}, loc=1.0)


@pytest.mark.parametrize(
    ("z", "match"),
    [
        ([np.nan, 1.0], "contains nan at index"),
        ([np.inf], "contains inf at index"),
        (["a"], "must hold real numbers"),
        (np.zeros((2, 2)), r"must have shape \(n, 1\)"),
        ({"y": [1.0]}, r"unknown sources \['y'\]"),
    ],
)
def test_data(exact, prior, z, match):
    with pytest.raises(InvalidDataError, match=match):
        exact.posterior(z, prior=prior)


def test_infinities_are_refused_even_when_masking(exact, prior):
    with pytest.raises(InvalidDataError, match="contains inf"):
        exact.posterior([np.inf], prior=prior, missing="mask")
    with pytest.raises(ValueError, match="missing must be one of"):
        exact.posterior([1.0], prior=prior, missing="drop")


def test_priors_of_mixtures(exact, prior):
    with pytest.raises(TypeError, match="prior must be a GaussianMixture"):
        exact.posterior([1.0], prior={"loc": 0.0})
    with pytest.raises(InvalidDataError, match="prior has dimension 2"):
        exact.posterior([1.0], prior=bk.GaussianMixture([1.0], [[0.0, 0.0]], np.eye(2)[None]))
    positive = bk.GaussianMixture([1.0], [0.0], [1.0], support="positive")
    with pytest.raises(InvalidDataError, match="support"):
        exact.posterior([1.0], prior=positive)
    priors = bk.GaussianMixture(np.ones((3, 1)), np.zeros((3, 1)), np.ones((3, 1)))
    with pytest.raises(InvalidDataError, match="batches have different lengths"):
        exact.posterior(np.zeros((2, 1, 1)), prior=priors)
    with pytest.raises(InvalidDataError, match="must be None, since the simulator has none"):
        exact.posterior([1.0], prior=prior, parameters={"noise": 1.0})


def test_priors_of_families(variance):
    good = {"concentration": 2.0, "rate": 2.0}
    for bad, match in (
        ({"concentration": 2.0}, "must be a dict of"),
        ({**good, "rate": -1.0}, "rate of the prior of 'x' must be positive"),
        ({**good, "rate": np.nan}, "must be a finite number"),
        ({"concentration": np.ones(2), "rate": np.ones(3)}, "different lengths"),
    ):
        with pytest.raises(InvalidDataError, match=match):
            variance.posterior([1.0], prior=bad)
    with pytest.raises(TypeError, match="prior must be a dict"):
        variance.posterior([1.0], prior=bk.GaussianMixture([1.0], [0.0], [1.0]))
    with pytest.raises(ValueError, match="needs a network for mixture priors"):
        variance.filter([1.0], A=1.0, Q=1.0, x0=bk.GaussianMixture([1.0], [0.0], [1.0]))


def test_alarms_name_the_feature_and_its_range(exact, prior, variance):
    with pytest.warns(
        OutOfMetaPriorWarning,
        match=r"10 observations of 'z', trained with up to 4\. The posterior is exact all",
    ):
        exact.posterior(np.zeros(10), prior=prior)
    words = r"observation 'z', in standard deviations.*check the prior and the units$"
    with pytest.warns(OutOfMetaPriorWarning, match=words):
        exact.posterior([50.0], prior=prior)
    words = r"log rate of x is 9.21.*trained on \[.*refine='auto'.*with a wider meta-prior$"
    with pytest.warns(OutOfMetaPriorWarning, match=words):
        variance.posterior([1.0], prior={"concentration": 2.0, "rate": 1e4})
    far = bk.GaussianMixture([1.0], [100.0], [1.0])
    words = "mean of the prior, coordinate 0 is 100.*check the prior"
    with pytest.raises(InvalidDataError, match=words):
        exact.posterior([100.0], prior=far, strict=True)


def test_one_normal_is_no_alarm_where_training_had_two(exact, prior):
    """The smallest scale of its components is 1, and that of two a little less."""
    trained = exact.range_.prior.copy()
    name = "log of the smallest scale of a component"
    place = [name in one for one in META_PRIOR.feature_names()].index(True)
    for end, is_told in ((-0.0005, False), (-0.1, True)):
        trained[1, place] = end
        seen = dataclasses.replace(exact.range_, prior=trained)
        features = np.median(trained, axis=0)[None].copy()
        features[0, place] = 0.0
        call = Seen(features, {}, {}, np.zeros((1, 0)), 1)
        expected = pytest.warns(OutOfMetaPriorWarning, match=name)
        with expected if is_told else contextlib.nullcontext():
            sound_alarms(exact.task_, seen, call, strict=False, stacklevel=2)


def test_a_few_just_outside_are_expected_in_a_batch(exact, prior):
    most = exact.range_.rows["z"][1, 0]
    sd = np.sqrt(prior.cov[0, 0] + 1.0)
    z = np.zeros((300, 1, 1))
    z[0] = prior.mean[0] + sd * most * 1.02
    exact.posterior(z, prior=prior)
    z[1:5] = z[0]
    with pytest.warns(OutOfMetaPriorWarning, match="for 5 of 300 problems"):
        exact.posterior(z, prior=prior)
    z[0:5] = 0.0
    z[7] = 100.0
    with pytest.warns(OutOfMetaPriorWarning, match="for 1 of 300 problems"):
        exact.posterior(z, prior=prior)


def test_scikit_learn_manners():
    estimator = bk.DistributionTransformer(LINEAR, META_PRIOR, lr=0.1)
    copy = clone(estimator)
    assert copy.lr == 0.1 and copy.get_params()["n_layers"] == 3
    assert copy.set_params(n_layers=1).n_layers == 1


def test_sources_are_named(prior):
    two = Simulator({"a": Source(lambda key, x: x), "b": Source(lambda key, x: 2 * x)})
    assert two.row_sizes(1) == {"a": 1, "b": 1}
    assert not two.has_log_likelihood


def test_families_without_parameters(exact):
    for family in (stats.norm, dist.Normal):
        with pytest.raises(TypeError, match="without parameters: call it with them"):
            exact.posterior([1.0], prior=family)


def test_priors_of_a_smaller_support_warn(exact):
    words = "of the mixture that stands for the prior lies outside of the support of the prior"
    with pytest.warns(PriorFitWarning, match=words):
        exact.posterior([0.3], prior=dist.HalfNormal(1.0))


def test_series(exact, prior):
    for change, error, words in (
        ({"A": np.nan}, InvalidDataError, "A has nan"),
        ({"A": np.eye(2)}, InvalidDataError, r"A must be a \(1, 1\) matrix, got shape"),
        ({"zs": []}, InvalidDataError, "zs must have at least one time"),
        ({"x0": (0, 1)}, TypeError, "x0, the prior at the start of the filter"),
        (
            {"x0": bk.GaussianMixture([1.0], [[0.0, 0.0]], np.eye(2)[None])},
            InvalidDataError,
            "x0, the prior at the start of the filter: prior has dimension 2",
        ),
        ({"n_particles": 0}, ValueError, "n_particles must be a whole number >= 1, got 0"),
    ):
        given = {"zs": [1.0], "A": 1.0, "Q": 1.0, "x0": prior, **change}
        with pytest.raises(error, match=words):
            exact.filter(given.pop("zs"), **given)


def test_files_that_cannot_be_written(exact, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: give the path of a file in it"):
        exact.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing for the file"):
        exact.save(tmp_path / "missing" / "dt.bkit")


def test_pictures_are_of_reports(prior):
    for draw in (plots.rank_distributions, plots.expected_coverage):
        with pytest.raises(TypeError, match=r"must be a CalibrationReport, .* GaussianMixture"):
            draw(prior)


def test_equal_weights_are_said():
    """k-hat is -inf where all weights are equal, which reads like an accident."""
    facts = {"ess": 3.0, "khat": -np.inf, "log_evidence": -1.0, "log_evidence_se": 0.0}
    found = RefinedPosterior("psis", np.zeros((3, 1)), np.zeros(3), None, None, **facts)
    assert "khat=-inf (all weights equal)" in repr(found)


def test_coordinates_that_are_not_there():
    """JAX takes the last one for an index beyond the end."""
    two = {"num_observations": 2}
    words = r"a coordinate that is not there: the latent has shape \(1,\).* index . is out of"
    for simulator in (
        Simulator(lambda key, x: x[3] + jax.random.normal(key)),
        Simulator(lambda key, x: x, lambda z, x: -((z[2] - x[0]) ** 2)),
        Simulator(lambda key, x: x, lambda z, x: -((z[0] - x[1]) ** 2), **two),
        JointSimulator(lambda key, x: x[1] * jax.numpy.ones((2, 1)), 2),
        JointSimulator(
            lambda key, x: jax.numpy.ones((2, 1)), 2, lambda rows, masks, x: rows["z"][2, 0]
        ),
    ):
        fails_to_fit(IndexError, words, simulator)
    # Negative ones are there, and what NumPy cannot do is not held against a simulator.
    fine = Simulator(
        lambda key, x: x.at[0].add(1.0)[-1], lambda z, x: jax.lax.integer_pow(z[-1] - x[0], 2)
    )
    assert fine.row_sizes(1) == {"z": 1}


def test_keys_that_are_not_used():
    """NumPy draws once, when the function is traced."""
    wrong = Simulator(lambda key, x: x + np.random.default_rng(0).normal(size=1))
    joint = JointSimulator(lambda key, x: x * np.ones((2, 1)), 2)
    for simulator in (wrong, joint):
        with pytest.warns(NumericalWarning, match=r"'z' does not use its key.* numpy.random"):
            check_keys_are_used(simulator, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_keys_are_used(Simulator(noisy), 1)
        check_keys_are_used(LINEAR, 1)


def test_matrices_of_another_latent():
    wrong = LinearGaussian(np.ones((3, 2)), np.eye(3))
    fails_to_fit(ValueError, r"matrix must have shape \(3, 1\).*; got \(3, 2\)", wrong)


def test_meta_priors_that_are_none():
    for wrong, words in (
        ({"num_components": (1, 2, 3)}, "num_components must be a whole number"),
        ({"num_components": 1.5}, "num_components must be a whole number"),
        ({"num_components": (3, 1)}, "two of them in order"),
        ({"mean_scale": np.nan}, "mean_scale and log_scale_sd must be positive"),
        ({"mean_scale": "a"}, "mean_scale and log_scale_sd must be positive"),
        ({"scale_bounds": (0.1,)}, "scale_bounds must be two positive numbers"),
        ({"sharp_share": np.nan}, r"sharp_share must be in \[0, 1\]"),
        ({"sharpest": 2.0}, r"sharpest must be in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=words):
            GaussianMixtureMetaPrior(**wrong)
    assert GaussianMixtureMetaPrior(num_components=np.int64(2)).plain()["num_components"] == 2
    for law in (-1.0, "a", np.inf):
        with pytest.raises(ValueError, match=r"rate of 'x' must be .* a positive number, got"):
            ParametricMetaPrior("gamma", concentration=1.0, rate=law)
    with pytest.raises(ValueError, match=r"parameters\['sd'\] must be a range \(low, high\)"):
        Simulator(lambda key, x, p: x, parameters={"sd": 3})
