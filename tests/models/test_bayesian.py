"""The estimator as a scientist meets it."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import special, stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning, CorruptFileError, InvalidDataError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.interop.numpyro import NumPyroModel
from bayeskit.models.base import as_random_key

ENGINE = bk.SMC(num_particles=2000)
NOISE = 0.5


def linear(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    numpyro.deterministic("total", b.sum())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, NOISE), obs=y)


def coin(y=None, num_flips=50):
    p = numpyro.sample("p", dist.Beta(2.0, 5.0))
    with numpyro.plate("flips", num_flips):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, 2))
    return X, X @ np.array([1.0, -2.0]) + NOISE * rng.normal(size=20)


@pytest.fixture(scope="module")
def exact(data):
    """Evidence, and predictive mean and standard deviation at the first rows."""
    X, y = data
    marginal = 4.0 * X @ X.T + NOISE**2 * np.eye(20)
    _, log_det = np.linalg.slogdet(2 * np.pi * marginal)
    covariance = np.linalg.inv(X.T @ X / NOISE**2 + np.eye(2) / 4.0)
    mean = covariance @ X.T @ y / NOISE**2
    rows = X[:5]
    spread = np.sqrt(NOISE**2 + np.einsum("ij,jk,ik->i", rows, covariance, rows))
    return -0.5 * (log_det + y @ np.linalg.solve(marginal, y)), rows @ mean, spread


@pytest.fixture(scope="module")
def fitted(data):
    return bk.BayesianModel(linear, inference=ENGINE, random_state=0).fit(*data)


def test_evidence_and_prediction_equal_the_closed_form(fitted, data, exact):
    log_evidence, mean, spread = exact
    assert abs(fitted.log_evidence_ - log_evidence) < 6 * fitted.log_evidence_se_
    predicted, std = fitted.predict(data[0][:5], return_std=True)
    np.testing.assert_allclose(predicted, mean, atol=6 * 0.5 / np.sqrt(1000))
    np.testing.assert_allclose(std, spread, rtol=0.05)
    np.testing.assert_array_equal(fitted.predict(data[0][:5]), predicted)
    assert fitted.score(*data) > 0.9


def test_coin_evidence(data):
    """Beta-binomial: the evidence of a sequence is B(a + k, b + n - k) / B(a, b)."""
    y = np.zeros(50, int)
    y[:17] = 1
    est = bk.BayesianModel(coin, inference=ENGINE, random_state=1).fit(y=y)
    exact = special.betaln(2 + 17, 5 + 33) - special.betaln(2, 5)
    assert abs(est.log_evidence_ - exact) < 6 * est.log_evidence_se_
    assert abs(float(est.result_.mean("p")) - 19 / 57) < 0.01
    assert "chosen by the user" in est.engine_


def test_all_arviz_groups(fitted):
    groups = fitted.posterior_
    names = {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "prior",
        "posterior_predictive",
        "observed_data",
    }
    # A DataTree has children, an InferenceData a method that lists its groups.
    found = groups.children if hasattr(groups, "children") else groups.groups()
    assert names <= set(found)
    assert groups["posterior"]["b"].shape == (4, 504, 2)
    assert groups["log_likelihood"]["y"].shape == (4, 504, 20)
    assert groups["posterior_predictive"]["y"].shape == (4, 504, 20)
    assert groups["observed_data"]["y"].shape == (20,)
    assert abs(float(groups["prior"]["b"].std()) - 2.0) < 0.3
    total = groups["posterior"]["b"].sum("b_dim_0")
    np.testing.assert_allclose(groups["posterior"]["total"], total, atol=1e-12)


def test_summary_names_what_it_shows(data):
    est = bk.BayesianModel(
        linear,
        inference=ENGINE,
        random_state=0,
        coords={"column": ["age", "dose"]},
        dims={"b": ["column"]},
    ).fit(*data)
    table = est.summary()
    assert list(table.index) == ["b[age]", "b[dose]", "total"]
    assert list(table.columns[:5]) == ["mean", "sd", "5%", "median", "95%"]
    assert list(est.posterior_["posterior"]["b"].coords["column"].values) == ["age", "dose"]


def test_seed_repeats_and_second_fit_compiles_nothing(fitted, data):
    with CompileClock() as clock:
        again = bk.BayesianModel(linear, inference=ENGINE, random_state=0).fit(*data)
    assert clock.num_compiled == 0
    np.testing.assert_array_equal(again.result_.positions, fitted.result_.positions)
    X, y = data
    with CompileClock() as clock:
        other = bk.BayesianModel(linear, inference=ENGINE, random_state=0).fit(X, y + 1.0)
    assert clock.num_compiled == 0
    assert other.log_evidence_ != fitted.log_evidence_


def with_noise(X, y=None, noise=1.0, num_copies=1):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("copies", num_copies, dim=-2), numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, noise), obs=y)


def with_branch(X, y=None, noise=1.0):
    with_noise(X, y, noise if noise < 1.0 else 1.0)


def log_evidence(X, y, noise, num_copies=1):
    X, y = np.tile(X, (num_copies, 1)), np.tile(y, num_copies)
    marginal = 4.0 * X @ X.T + noise**2 * np.eye(len(y))
    return stats.multivariate_normal(np.zeros(len(y)), marginal).logpdf(y)


def test_another_float_is_no_other_program(data):
    """Evidence within 6 of its errors (false alarm 2e-9), or twice what an SMC of 2000 has."""
    X, y = data

    def fit(model, **keywords):
        est = bk.BayesianModel(model, inference=ENGINE, random_state=0)
        with CompileClock() as clock:
            est.fit(X, y, **keywords)
        return est, clock.num_compiled

    def close(est, *settings):
        error = 6 * max(est.log_evidence_se_, 0.02)
        return abs(est.log_evidence_ - log_evidence(X, y, *settings)) < error

    one, _ = fit(with_noise, noise=0.5)
    two, compiled = fit(with_noise, noise=np.float64(0.8))
    assert compiled == 0
    assert close(one, 0.5) and close(two, 0.8) and not close(one, 0.8)
    _, std = two.predict(X[:1], noise=0.8, return_std=True)
    with CompileClock() as clock:
        _, wide = two.predict(X[:1], noise=3.0, return_std=True)
    assert clock.num_compiled == 0 and wide[0] ** 2 - std[0] ** 2 == pytest.approx(9 - 0.64)
    # Whole numbers are sizes, and sizes are another program.
    copies, compiled = fit(with_noise, noise=0.5, num_copies=3)
    assert compiled > 0 and close(copies, 0.5, 3)


def test_a_float_that_a_model_compares_belongs_to_the_structure(data):
    X, y = data
    for noise, expected in ((0.5, 0.5), (7.0, 1.0)):
        est = bk.BayesianModel(with_branch, inference=ENGINE, random_state=0)
        est.fit(X, y, noise=noise)
        same = bk.BayesianModel(with_noise, inference=ENGINE, random_state=0)
        same.fit(X, y, noise=expected)
        assert est.log_evidence_ == pytest.approx(same.log_evidence_, abs=1e-8)
    functions, arrays = NumPyroModel.of(with_branch, (), {"X": X, "y": y, "noise": 0.5})
    assert len(arrays) == 2 and dict(functions.keywords)["noise"] == 0.5
    with pytest.raises(ValueError, match="noise is negative"):
        bk.BayesianModel(choosy, inference=ENGINE).fit(X, y, noise=-0.5)


def choosy(X, y=None, noise=1.0):
    if noise < 0:
        raise ValueError("noise is negative")
    with_noise(X, y, noise)


def test_global_precision_is_left_alone(fitted, data):
    assert jnp.zeros(()).dtype == jnp.float32
    assert fitted.result_.positions.dtype == np.float64
    single = bk.BayesianModel(linear, inference=ENGINE, random_state=0, precision="float32")
    single.fit(*data)
    assert single.result_.positions.dtype == np.float32
    assert abs(single.log_evidence_ - fitted.log_evidence_) < 8 * fitted.log_evidence_se_


def test_numbers_seen_in_float32_before_do_not_matter(data):
    """JAX may remember an array of the caller's in the precision of an earlier program."""
    X, y = data

    @jax.jit
    def seen(b):
        return jnp.sum((y - X @ b) ** 2)

    seen(jnp.zeros(2))
    est = bk.BayesianModel(linear, inference=ENGINE, random_state=0).fit(X, y)
    assert est.result_.positions.dtype == np.float64


def test_draws(fitted, data):
    draws = fitted.sample(7, random_state=1)
    assert draws["b"].shape == (7, 2)
    np.testing.assert_array_equal(draws["b"], fitted.sample(7, random_state=1)["b"])
    new = fitted.sample_predictive(data[0][:3], num_draws=11, random_state=2)
    assert new["y"].shape == (11, 3)
    with pytest.raises(ValueError, match="num_draws must be at least 1"):
        fitted.sample(0)


def test_scikit_learn_manners(fitted, data):
    est = bk.BayesianModel(linear, inference=ENGINE, random_state=3)
    copy = clone(est)
    assert copy.get_params() == est.get_params()
    assert copy.set_params(precision="float32").precision == "float32"
    with pytest.raises(NotFittedError, match="call fit"):
        est.predict(data[0])
    with pytest.raises(AttributeError, match="exists after fit"):
        _ = est.log_evidence_
    assert fitted.n_features_in_ == 2
    with pytest.raises(ValueError, match="X has 1 features, but BayesianModel is expecting 2"):
        fitted.predict(data[0][:, :1])
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(data[0]), fitted.predict(data[0]))


def test_save_and_load(fitted, data, tmp_path):
    path = tmp_path / "fit.bkit"
    fitted.save(path)
    loaded = bk.load(path, model=linear)
    np.testing.assert_array_equal(loaded.predict(data[0]), fitted.predict(data[0]))
    assert loaded.log_evidence_ == fitted.log_evidence_
    assert loaded.diagnostics_ == fitted.diagnostics_
    bare = bk.load(path)
    pd.testing.assert_frame_equal(bare.summary(), fitted.summary())
    with pytest.raises(AttributeError, match=r"bk.load\(path, model=...\)"):
        bare.predict(data[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError):
        bk.load(path)


def groups(group, num_groups, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("groups", num_groups):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(scale * z[group], 1.0), obs=y)


def test_groups_keep_their_names_and_unknown_ones_are_refused(tmp_path):
    names, group = ["north", "south", "west"], np.array([0, 0, 1, 1, 2, 2])
    est = bk.BayesianModel(
        groups,
        inference=ENGINE,
        random_state=0,
        dims={"z": ["region"]},
        coords={"region": names},
    )
    est.fit({"group": group, "num_groups": 3, "y": np.array([1.0, 2.0, 0.0, -1.0, 3.0, 2.5])})
    est.save(tmp_path / "fit.bkit")
    loaded = bk.load(tmp_path / "fit.bkit", model=groups)
    pd.testing.assert_frame_equal(loaded.summary(), est.summary())
    assert "z[south]" in loaded.summary().index
    assert list(loaded.posterior_.posterior.coords["region"].values) == names
    new = {"group": np.array([0, 3]), "num_groups": 3}
    for call in (loaded.predict, est.sample_predictive):
        with pytest.raises(
            InvalidDataError, match="group holds 0 to 3, in the fit it held 0 to 2"
        ):
            call(new)
    # Beyond what was seen, and within the array all the same.
    assert est.predict({"group": np.array([-1, 1]), "num_groups": 3}).shape == (2,)


def other_linear(X, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event())
    numpyro.sample("y", dist.Normal(X @ slope, 1.0), obs=y)


def test_another_model_than_the_fitted_one_is_refused(fitted, data, tmp_path):
    fitted.save(tmp_path / "fit.bkit")
    loaded = bk.load(tmp_path / "fit.bkit", model=other_linear)
    with pytest.raises(ValueError, match="none of slope, a latent variable of the model"):
        loaded.predict(data[0])


def test_loading_needs_no_jax_program(fitted, tmp_path):
    path = tmp_path / "fit.bkit"
    fitted.save(path)
    code = f"import bayeskit as bk; print(bk.load({str(path)!r}).log_evidence_)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert float(out.stdout) == fitted.log_evidence_


def test_plain_target():
    target = bk.Target(
        log_prior=lambda x: jnp.sum(-0.5 * x**2 - 0.5 * jnp.log(2 * jnp.pi)),
        log_likelihood=lambda x, y: jnp.sum(-0.5 * (y - x[0]) ** 2 - 0.5 * jnp.log(2 * jnp.pi)),
        sample_prior=lambda key: random.normal(key, (1,)),
    )
    y = np.array([0.5, 1.5])
    est = bk.BayesianModel(target, inference=ENGINE, random_state=0).fit(y=y)
    marginal = np.eye(2) + 1.0
    exact = -0.5 * (
        np.log(np.linalg.det(2 * np.pi * marginal)) + y @ np.linalg.solve(marginal, y)
    )
    assert abs(est.log_evidence_ - exact) < 6 * est.log_evidence_se_
    assert set(est.posterior_["posterior"]) == {"x"}
    with pytest.raises(AttributeError, match="says nothing about how data arise"):
        est.predict()


def test_improper_prior_has_no_evidence():
    def improper(y=None):
        m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), event_shape=()))
        with numpyro.plate("rows", 5):
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    y = np.arange(5.0)
    est = bk.BayesianModel(improper, random_state=0).fit(y=y)
    assert est.engine_.startswith("EnsembleHMC(")
    assert abs(float(est.result_.mean("m")) - 2.0) < 0.1
    with pytest.raises(AttributeError, match="EnsembleHMC estimated no evidence"):
        _ = est.log_evidence_


def test_data_frames_and_mappings(data, tmp_path):
    X, y = data
    frame = pd.DataFrame(X, columns=["age", "dose"])
    est = bk.BayesianModel(linear, inference=ENGINE, random_state=0).fit(frame, pd.Series(y))
    assert list(est.feature_names_in_) == ["age", "dose"]
    same = bk.BayesianModel(linear, inference=ENGINE, random_state=0).fit({"X": X, "y": y})
    assert same.log_evidence_ == est.log_evidence_
    est.save(tmp_path / "fit.bkit")
    loaded = bk.load(tmp_path / "fit.bkit", model=linear)
    np.testing.assert_array_equal(loaded.predict(frame), est.predict(frame))
    with pytest.raises(ValueError, match="must be in the same order"):
        loaded.predict(frame[["dose", "age"]])
    loaded.fit(X, y)
    assert not hasattr(loaded, "feature_names_in_")


def test_doubtful_results_are_never_silent():
    def funnel():
        v = numpyro.sample("v", dist.Normal(0.0, 3.0))
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([5]).to_event(1))

    engine = bk.NUTS(num_draws=100, num_warmup=50, num_chains=2)
    with pytest.warns(ConvergenceWarning, match="cannot be trusted yet"):
        est = bk.BayesianModel(funnel, inference=engine, random_state=0).fit()
    assert not est.diagnostics_.converged


class TestBadInput:
    """Each is refused before anything is compiled."""

    @pytest.fixture(autouse=True)
    def nothing_compiled(self):
        # Keys and distributions are made by tiny programs of their own, compiled once in a
        # process: make them before, so that only programs of a fit would count.
        as_random_key(0)
        with jax.enable_x64(True):
            NumPyroModel.of(linear, (), {"X": np.zeros((20, 2)), "y": np.zeros(20)})
        with CompileClock() as clock:
            yield
        assert clock.num_compiled == 0

    def fit(self, X, y, **settings):
        return bk.BayesianModel(linear, **settings).fit(X, y)

    def test_nan_in_X(self, data):
        X = data[0].copy()
        X[3, 1] = np.nan
        with pytest.raises(InvalidDataError, match=r"X contains NaN at row 3, column 1 \(1 of"):
            self.fit(X, data[1])
        with pytest.raises(InvalidDataError, match=r"column 1 \('dose'\)"):
            self.fit(pd.DataFrame(X, columns=["age", "dose"]), data[1])

    def test_infinity_in_y(self, data):
        y = data[1].copy()
        y[7] = -np.inf
        with pytest.raises(InvalidDataError, match="y contains -inf at row 7 "):
            self.fit(data[0], y)

    def test_lengths(self, data):
        with pytest.raises(InvalidDataError, match="X with 20 and y with 19"):
            self.fit(data[0], data[1][:-1])

    def test_no_rows(self):
        with pytest.raises(InvalidDataError, match="X has no rows"):
            self.fit(np.zeros((0, 2)), np.zeros(0))

    def test_text(self, data):
        with pytest.raises(InvalidDataError, match="y must hold real numbers"):
            self.fit(data[0], np.array(["yes"] * 20))
        with pytest.raises(InvalidDataError, match="X holds text, 'low' at row 0, column 0"):
            self.fit(pd.DataFrame({"a": ["low"] * 20}), data[1])

    def test_complex_numbers(self, data):
        with pytest.raises(InvalidDataError, match="dtype complex128"):
            self.fit(data[0] * 1j, data[1])

    def test_wrong_keywords(self, data):
        with pytest.raises(TypeError, match=r"linear\(X, y=None\) cannot take"):
            bk.BayesianModel(linear).fit(data[0], data[1], groups=3)

    def test_no_model(self):
        with pytest.raises(TypeError, match="model must be a NumPyro or Pyro model or"):
            bk.BayesianModel("model").fit()

    @pytest.mark.parametrize("inference", ["mcmc", 3])
    def test_unknown_engine(self, data, inference):
        with pytest.raises((TypeError, ValueError), match="inference must be 'auto' or an"):
            self.fit(*data, inference=inference)

    def test_precision(self, data):
        with pytest.raises(ValueError, match="precision must be 'float64' or 'float32'"):
            self.fit(*data, precision="half")

    @pytest.mark.parametrize("state", [-1, 1.5, "seed"])
    def test_random_state(self, data, state):
        with pytest.raises((TypeError, ValueError)):
            self.fit(*data, random_state=state)


def test_counts_can_be_generated():
    """The sampler of the Poisson family takes one generator only."""

    def counts(y=None):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("rows", 5):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    est = bk.BayesianModel(counts, inference=ENGINE, random_state=0).fit(
        y=np.array([1, 3, 2, 0, 2])
    )
    assert est.posterior_["posterior_predictive"]["y"].shape == (4, 504, 5)
    assert est.sample_predictive(num_draws=3, random_state=1)["y"].shape == (3, 5)


def slope(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)


@pytest.mark.parametrize("as_column", [lambda y: y[:, None], lambda y: pd.DataFrame({"y": y})])
def test_data_that_would_meet_every_row_are_refused(as_column):
    """A column of n values against n means is n times n comparisons, and a wrong posterior."""
    X = np.linspace(-1.0, 1.0, 7)[:, None]
    message = r"the data of 'y' have shape \(7, 1\), its distribution \(7,\): .*y.ravel\(\)"
    with pytest.raises(InvalidDataError, match=message):
        bk.BayesianModel(slope).fit(X, as_column(2.0 * X[:, 0]))


def test_data_that_nothing_observes_are_refused():
    def forgotten(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0))

    with pytest.raises(ValueError, match=r"y was given, but the model observes nothing: write"):
        bk.BayesianModel(forgotten).fit(np.ones((5, 1)), np.ones(5))


def test_a_model_without_X_says_how_to_name_it():
    def of_sigma(sigma, y=None):
        numpyro.sample("b", dist.Normal(0.0, 1.0))

    with pytest.raises(TypeError, match="goes to arguments named X and y: call them so"):
        bk.BayesianModel(of_sigma).fit(np.ones((3, 1)), np.ones(3))
