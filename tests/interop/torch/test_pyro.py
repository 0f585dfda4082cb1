"""Pyro models: the numbers of their NumPyro twins, and what is refused."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("pyro", reason="Pyro is not installed")

import numpyro.distributions as nd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample

import bayeskit as bk
from bayeskit.errors import ImproperPriorError, InvalidDataError, MissingDependencyError
from bayeskit.interop import pyro_host
from bayeskit.interop.numpyro import NumPyroModel
from bayeskit.interop.pyro import PyroModel, from_pyro, is_pyro_model
from tests.interop.torch.twins import TWINS, logistic, normal, numpyro_normal

POSTERIORS = ["normal", "logistic", "eight_schools", "mixture", "counts"]


def both(name):
    """Return target, data and some prior draws of a Pyro model and of its twin."""
    twin = TWINS[name]
    ours, data = PyroModel.of(twin.pyro, (), twin.call)
    theirs, their_data = NumPyroModel.of(twin.numpyro, (), twin.call)
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.vmap(lambda k: theirs.sample_prior(k, *their_data))(keys)
    return (ours, data), (theirs, their_data), x


def values_and_gradients(model, data, x):
    """Return the two parts of the log density and their Jacobian at many points."""
    parts = model.target(data).components
    rows = jnp.eye(2)

    def one(point):
        value, pull_back = jax.vjp(parts, point)
        return value, jax.vmap(lambda row: pull_back(row)[0])(rows)

    return jax.jit(jax.vmap(one))(x)


def largest_difference(name):
    (ours, data), (theirs, their_data), x = both(name)
    assert ours.sites == theirs.sites
    found = values_and_gradients(ours, data, x)
    expected = values_and_gradients(theirs, their_data, x)
    assert all(f.dtype == x.dtype for f in found)
    return max(
        float(jnp.max(jnp.abs(f - e) / (1.0 + jnp.abs(e))))
        for f, e in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", TWINS)
def test_values_and_gradients_are_those_of_the_twin(name):
    with jax.enable_x64(True):
        assert largest_difference(name) < 1e-10


@pytest.mark.parametrize("name", ["normal", "counts"])
def test_single_precision(name):
    assert largest_difference(name) < 1e-5


def test_a_missing_jacobian_is_caught(monkeypatch):
    honest = pyro_host.posterior_trace
    monkeypatch.setattr(
        pyro_host, "posterior_trace", lambda *given: (honest(*given)[0], torch.zeros(()))
    )
    with jax.enable_x64(True):
        assert largest_difference("normal") > 1e-2


@pytest.mark.parametrize("name", ["mixture", "eight_schools"])
def test_named_values_and_pointwise_terms_are_those_of_the_twin(name):
    with jax.enable_x64(True):
        (ours, data), (theirs, their_data), x = both(name)
        for method in ("constrain", "pointwise_log_likelihood"):
            found = jax.vmap(lambda p, m=method: getattr(ours, m)(p, *data))(x)
            expected = jax.vmap(lambda p, m=method: getattr(theirs, m)(p, *their_data))(x)
            assert set(found) == set(expected)
            for key in found:
                np.testing.assert_allclose(found[key], expected[key], rtol=1e-9, atol=1e-12)


def test_prior_draws_have_the_moments_of_the_prior():
    """Mean and variance of 1000 draws; each bound is six standard errors, 2e-9 by chance."""
    with jax.enable_x64(True):
        model, data = PyroModel.of(normal, (), TWINS["normal"].call)
        keys = jax.random.split(jax.random.key(1), 1000)
        draws = np.asarray(jax.jit(jax.vmap(lambda k: model.sample_prior(k, *data)))(keys))
        again = np.asarray(model.sample_prior(keys[7], *data))
    assert np.array_equal(draws[7], again)  # in whatever batch
    z = np.column_stack([draws[:, 0] / 10.0, np.exp(draws[:, 1]) / 5.0])
    assert abs(z[:, 0].mean()) < 6 / np.sqrt(1000)
    # The square of a normal number has variance 2.
    assert (abs((z**2).mean(axis=0) - 1.0) < 6 * np.sqrt(2 / 1000)).all()


# ---------------------------------------------------------------- posteriors


@functools.cache
def reference(name):
    """Posterior of the twin, in JAX, by some ten times as many draws."""
    twin = TWINS[name]
    engine = bk.EnsembleHMC(target_ess=5000, progress=False)
    return bk.BayesianModel(twin.numpyro, inference=engine, random_state=0).fit(**twin.call)


def z_scores(found, expected):
    a, b = found.result_.summary(), expected.result_.summary()
    assert list(a.index) == list(b.index)
    error = np.hypot(a["mcse_mean"], b["mcse_mean"])
    return np.asarray(np.abs(a["mean"] - b["mean"]) / error)


@pytest.mark.filterwarnings("ignore:the result cannot be trusted yet")
@pytest.mark.parametrize("name", POSTERIORS)
def test_smc_gives_the_posterior_of_the_twin(name):
    """Means within four standard errors: by chance 6e-5 each, 0.3 % for all 39; fixed seeds."""
    twin = TWINS[name]
    engine = bk.SMC(num_particles=1000, progress=False)
    est = bk.BayesianModel(twin.pyro, inference=engine, random_state=1).fit(**twin.call)
    z = z_scores(est, reference(name))
    assert z.max() < 4.0
    if name == "normal":
        # Data that lie half of a posterior sd higher.
        shifted = bk.BayesianModel(twin.numpyro, inference=engine, random_state=1)
        z = z_scores(shifted.fit(y=twin.call["y"] + 0.2), reference(name))
        assert z.max() > 4.0


def nuts_draws(model, call, starts):
    kind = NumPyroModel if model in [twin.numpyro for twin in TWINS.values()] else PyroModel
    engine = bk.NUTS(num_warmup=20, num_draws=20, max_tree_depth=4, progress=False)
    with jax.enable_x64(True):
        called, data = kind.of(model, (), call)
        return engine.run(called.target(data), None, 3, initial_positions=starts).positions


@pytest.mark.filterwarnings("ignore:the result cannot be trusted yet")
@pytest.mark.parametrize("name", POSTERIORS)
def test_nuts_gives_the_numbers_of_the_twin(name):
    """From the same starts and the same key the draws are the same, but for rounding."""
    twin = TWINS[name]
    dim = NumPyroModel.of(twin.numpyro, (), twin.call)[0].dim
    starts = np.random.default_rng(2).uniform(-1.0, 1.0, (4, dim))
    found, expected = (nuts_draws(m, twin.call, starts) for m in (twin.pyro, twin.numpyro))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    if name == "normal":
        other = nuts_draws(twin.pyro, {"y": twin.call["y"] + 1e-3}, starts)
        assert np.abs(other - expected).max() > 1e-4


def test_ensemble_gives_the_numbers_of_its_twin():
    """From the same start and the same key the draws are the same, but for rounding."""
    twin, engine = TWINS["normal"], bk.EnsembleHMC(progress=False)
    found, expected = (
        bk.BayesianModel(model, inference=engine, random_state=0).fit(**twin.call)
        for model in (twin.pyro, twin.numpyro)
    )
    assert found.log_evidence_ == pytest.approx(expected.log_evidence_, abs=1e-6)
    assert found.result_.mean("scale") == pytest.approx(
        expected.result_.mean("scale"), rel=1e-6
    )


# ---------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def fitted():
    call = TWINS["logistic"].call
    est = bk.BayesianModel(
        logistic, inference=bk.SMC(num_particles=400, progress=False), random_state=1
    )
    return est.fit(call["X"], call["y"])


def test_predictions_and_groups(fitted):
    call = TWINS["logistic"].call
    mean, std = fitted.predict(call["X"], return_std=True)
    assert mean.shape == (40,) and ((0 < mean) & (mean < 1)).all()
    np.testing.assert_allclose(std, np.sqrt(mean * (1 - mean)), rtol=1e-10)  # of a yes or no
    assert fitted.score(call["X"], call["y"]) > 0.6
    assert fitted.sample_predictive(call["X"][:3], 7)["y"].shape == (7, 3)
    groups = fitted.posterior_
    assert groups.log_likelihood["y"].shape[-1] == 40
    assert set(np.unique(groups.posterior_predictive["y"])) == {0.0, 1.0}
    assert (groups.observed_data["y"].values == call["y"]).all()
    assert "slopes" in groups.prior


def test_second_fit_of_the_same_shapes_traces_nothing(fitted):
    call = TWINS["logistic"].call
    again = bk.BayesianModel(logistic, inference=fitted.inference, random_state=1)
    again.fit(call["X"][::-1].copy(), call["y"][::-1].copy())
    assert again.timing_["compile_s"] < 0.5 * fitted.timing_["compile_s"]
    assert again.log_evidence_ == pytest.approx(fitted.log_evidence_, abs=1e-6)


def test_same_seed_same_bits(fitted):
    call = TWINS["logistic"].call
    torch.manual_seed(5)
    again = bk.BayesianModel(logistic, inference=fitted.inference, random_state=1)
    drawn = torch.rand(2)
    again.fit(call["X"], call["y"])
    assert np.array_equal(again.result_.positions, fitted.result_.positions)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), drawn)  # and torch's own numbers go on as before


def test_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "fit.bkit")
    X = TWINS["logistic"].call["X"][:4]
    loaded = bk.load(tmp_path / "fit.bkit", model=logistic)
    assert np.array_equal(loaded.predict(X), fitted.predict(X))


def with_noise(y=None, noise=1.0, num=30):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", num):
        pyro.sample("y", dist.Normal(mean, noise), obs=y)


def with_branch(y=None, noise=1.0):
    if isinstance(noise, torch.Tensor):
        raise TypeError("noise must be a number")
    with_noise(y, noise)


def test_floats_are_data_and_whole_numbers_are_sizes():
    y = TWINS["normal"].call["y"]
    one, arrays = PyroModel.of(with_noise, (), {"y": y, "noise": 2.0, "num": 30})
    two, _ = PyroModel.of(with_noise, (), {"y": y, "noise": 3.0, "num": 30})
    assert one == two and len(arrays) == 2
    expected = nd.Normal(0.5, 2.0).log_prob(y).sum()
    assert float(one.log_likelihood(jnp.array([0.5]), *arrays)) == pytest.approx(
        float(expected), rel=1e-5
    )
    static, arrays = PyroModel.of(with_branch, (), {"y": y, "noise": 2.0})
    assert len(arrays) == 1
    assert float(static.log_likelihood(jnp.array([0.5]), *arrays)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_tensors_as_data():
    call = {name: torch.as_tensor(v) for name, v in TWINS["logistic"].call.items()}
    (_, data), arrays = PyroModel.of(logistic, (), call), TWINS["logistic"].call
    assert [d.shape for d in data] == [arrays["X"].shape, arrays["y"].shape]


# ---------------------------------------------------------------- whose model


class Line(PyroModule):
    def __init__(self):
        super().__init__()
        self.slope = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, X, y=None):
        mean = self.slope * X[:, 0]
        with pyro.plate("rows", len(X)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def calls_a_helper(y=None):
    normal(y)


def imports_inside(y=None):
    import pyro.distributions as inner

    pyro.sample("x", inner.Normal(0.0, 1.0))


def test_models_are_told_apart():
    for model in (normal, Line(), calls_a_helper, imports_inside, functools.partial(normal)):
        assert is_pyro_model(model)
    for model in (numpyro_normal, lambda y=None: numpyro_normal(y), np.sum, 3.0):
        assert not is_pyro_model(model)
    hidden = {"model": normal}
    unclear = lambda y=None: hidden["model"](y)
    assert not is_pyro_model(unclear)
    assert is_pyro_model(from_pyro(unclear))


def test_pyro_module():
    X = np.linspace(-1.0, 1.0, 5)[:, None]
    model, data = PyroModel.of(Line(), (), {"X": X, "y": X[:, 0]})
    assert [site.name for site in model.sites] == ["slope"]
    assert float(model.log_likelihood(jnp.ones(1), *data)) == pytest.approx(
        float(nd.Normal(0.0, 1.0).log_prob(0.0)) * 5, rel=1e-6
    )


# ---------------------------------------------------------------- what is refused


def discrete(y=None):
    pyro.sample("side", dist.Bernoulli(0.5))


def optimised(y=None):
    mean = pyro.param("mean", torch.tensor(0.0))
    x = pyro.sample("x", dist.Normal(mean, 1.0))
    pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def subsampled(y=None):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 30, subsample_size=10) as rows:
        pyro.sample("y", dist.Normal(x, 1.0), obs=y[rows])


def centres_in_place(y=None):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    y -= y.mean()
    with pyro.plate("rows", 30):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def observes_nothing(y=None):
    pyro.sample("x", dist.Normal(0.0, 1.0))


def nothing_latent(y=None):
    pyro.sample("y", dist.Normal(0.0, 1.0).expand([30]).to_event(1), obs=y)


def no_plate(y=None):
    x = pyro.sample("x", dist.Normal(torch.zeros(30), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(x, 1.0), obs=y[:, None])


def takes_other_types(y=None):
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(OUTSIDE @ x, 1.0).to_event(1), obs=y)


OUTSIDE = torch.ones(30, 2, dtype=torch.float32)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (discrete, ValueError, "'side' is discrete .Bernoulli.*Sum it out"),
        (optimised, ValueError, "parameter 'mean' .pyro.param.*PyroSample"),
        (subsampled, ValueError, "'rows' subsamples 10 of 30 rows"),
        (centres_in_place, InvalidDataError, "centres_in_place changes.*in place"),
        (observes_nothing, ValueError, "observes nothing: write obs=y"),
        (nothing_latent, ValueError, "no latent variables"),
        (no_plate, InvalidDataError, "each value compared with all rows"),
    ],
)
def test_refused(model, error, message):
    pyro.clear_param_store()
    with pytest.raises(error, match=message):
        bk.BayesianModel(model).fit(y=np.zeros(30) if model is not discrete else None)


def test_errors_within_a_model_say_where():
    with pytest.raises(RuntimeError) as caught:
        bk.BayesianModel(takes_other_types).fit(y=np.zeros(30))
    assert "tensors of float64 and int64" in caught.value.__notes__[0]


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"normal\(y=None\) cannot take.*X"):
        bk.BayesianModel(normal).fit(np.zeros((30, 1)), np.zeros(30))


def test_flat_and_masked_priors_have_no_draws():
    def flat(y=None):
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.positive, (), ()))
        pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))
        pyro.sample("y", dist.Normal(x, 1.0).expand([3]).to_event(1), obs=y)

    model, data = PyroModel.of(flat, (), {"y": np.ones(3)})
    assert not model.proper_prior and model.target(data).sample_prior is None
    # Of the positive one, the Jacobian is what is left.
    assert float(model.log_prior(jnp.array([0.5, 7.0]), *data)) == pytest.approx(0.5)
    with pytest.raises(ImproperPriorError):
        bk.BayesianModel(flat, inference=bk.SMC()).fit(y=np.ones(3))


def test_without_pyro(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyro", None)
    with pytest.raises(MissingDependencyError, match=r"pyro, not installed.*bayeskit\[torch\]"):
        from_pyro(normal)
    with pytest.raises(TypeError, match="takes a Pyro model"):
        from_pyro(3)
