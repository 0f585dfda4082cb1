"""NumPyro models as targets: densities, Jacobians and structure against NumPyro's own."""

import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density, transform_fn

from bayeskit.interop.numpyro import NumPyroModel


def hierarchy(X, y=None, num_groups=2):
    """Constrained, dependent, scaled, masked and factored sites."""
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    upper = numpyro.sample("upper", dist.Uniform(0.0, 1.0 + scale))
    with numpyro.plate("groups", num_groups):
        effect = numpyro.sample("effect", dist.Normal(upper, scale))
    numpyro.deterministic("ratio", upper / scale)
    numpyro.factor("nudge", -0.1 * upper)
    mean = X @ weights + effect[0]
    with numpyro.plate("rows", X.shape[0]), numpyro.handlers.scale(scale=2.0):
        numpyro.sample("y", dist.Normal(mean, scale), obs=y)


def test_models_of_two_threads_do_not_mix():
    """Handlers belong to the process; a pause lets one thread into the model of another."""

    def slow(y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        time.sleep(0.01)
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def look(_):
        return NumPyroModel.of(slow, (), {"y": np.array(0.5)})[0].sites

    with ThreadPoolExecutor(4) as pool:
        sites = list(pool.map(look, range(8)))
    assert all([site.name for site in one] == ["mean"] for one in sites)


def test_prior_is_summed_in_the_order_of_the_sites():
    """Else the last bits, and the chains with them, differ from process to process."""
    names = [f"site {i}" for i in range(12)]

    def priors():
        for name in names:
            numpyro.sample(name, dist.Normal(0.0, 1.0))

    model, _ = NumPyroModel.of(priors, (), {})
    x = jnp.asarray(10.0 ** np.linspace(-2.0, 3.0, 12))
    terms = [dist.Normal(0.0, 1.0).log_prob(value) for value in x]
    backwards = sum(terms[::-1])
    assert float(model.log_prior(x)) == float(sum(terms)) != float(backwards)


@pytest.fixture
def call():
    rng = np.random.default_rng(0)
    return {"X": rng.normal(size=(6, 3)), "y": rng.normal(size=6)}


def test_density_equals_numpyros(call):
    with jax.enable_x64(True):
        model, data = NumPyroModel.of(hierarchy, (), call)
        target = model.target(data)
        x = jax.random.normal(jax.random.key(1), (model.dim,))
        constrained = target.constrain(x, *data)
        latent = {s.name: constrained[s.name] for s in model.sites}
        joint, _ = log_density(hierarchy, (), call, latent)
        transforms = {
            "scale": dist.transforms.ExpTransform(),
            "weights": dist.transforms.StickBreakingTransform(),
            "upper": dist.biject_to(dist.constraints.interval(0.0, 1.0 + constrained["scale"])),
        }
        unconstrained = model.unpack(x)
        log_det = sum(
            jnp.sum(t.log_abs_det_jacobian(unconstrained[name], constrained[name]))
            for name, t in transforms.items()
        )
        np.testing.assert_allclose(target.components(x).sum(), joint + log_det, rtol=1e-12)
        again = transform_fn(transforms, {k: unconstrained[k] for k in transforms})
        for name, value in again.items():
            np.testing.assert_allclose(constrained[name], value, rtol=1e-12)
        np.testing.assert_allclose(
            constrained["ratio"], constrained["upper"] / constrained["scale"]
        )


def test_likelihood_holds_observations_and_factors_only(call):
    with jax.enable_x64(True):
        model, data = NumPyroModel.of(hierarchy, (), call)
        x = jnp.linspace(-1.0, 1.0, model.dim)
        pointwise = model.pointwise_log_likelihood(x, *data)
        assert set(pointwise) == {"y"}
        assert pointwise["y"].shape == (6,)
        nudge = -0.1 * model.constrain(x, *data)["upper"]
        np.testing.assert_allclose(
            model.log_likelihood(x, *data), pointwise["y"].sum() + nudge, rtol=1e-12
        )


def test_planted_bug_a_forgotten_jacobian_is_seen(call):
    """Without the Jacobian the prior does not integrate to one over the real line."""

    def positive():
        numpyro.sample("scale", dist.HalfNormal(2.0))

    with jax.enable_x64(True):
        model, data = NumPyroModel.of(positive, (), {})
        grid = jnp.linspace(-25.0, 6.0, 40_001)[:, None]
        right = jax.vmap(lambda x: model.log_prior(x, *data))(grid)
        wrong = jax.vmap(
            lambda x: dist.HalfNormal(2.0).log_prob(model.constrain(x, *data)["scale"])
        )(grid)
        step = float(grid[1, 0] - grid[0, 0])
        assert abs(float(jnp.exp(right).sum()) * step - 1.0) < 1e-6
        assert abs(float(jnp.exp(wrong).sum()) * step - 1.0) > 1.0


def test_prior_draws_have_the_prior_law(call):
    """4000 draws, Kolmogorov-Smirnov at 1e-7."""
    from scipy import stats

    with jax.enable_x64(True):
        model, data = NumPyroModel.of(hierarchy, (), call)
        keys = jax.random.split(jax.random.key(0), 4000)
        draws = jax.vmap(lambda k: model.sample_prior(k, *data))(keys)
        named = jax.vmap(lambda x: model.constrain(x, *data))(draws)
        named = {name: np.asarray(values) for name, values in named.items()}
    assert stats.kstest(named["scale"], stats.halfnorm(scale=2.0).cdf).pvalue > 1e-7
    ratio = named["upper"] / (1.0 + named["scale"])
    assert stats.kstest(ratio, "uniform").pvalue > 1e-7


def test_equal_models_share_compiled_programs(call):
    first, _ = NumPyroModel.of(hierarchy, (), call)
    second, _ = NumPyroModel.of(hierarchy, (), {**call, "y": call["y"] + 1.0})
    assert first == second
    assert hash(first) == hash(second)
    third, _ = NumPyroModel.of(hierarchy, (), {**call, "num_groups": 3})
    assert third != first
    assert third.dim == first.dim + 1


def test_prediction_keeps_the_fitted_sites(call):
    model, _ = NumPyroModel.of(hierarchy, (), call)
    new, data = model.for_arguments((), {"X": np.ones((2, 3))})
    assert new.sites == model.sites
    moments = new.predictive_moments(jnp.zeros(model.dim), *data)
    assert moments["y"][0].shape == (2,)
    with pytest.raises(ValueError, match=r"'effect' has shape \(5,\), but it was fitted with"):
        model.for_arguments((), {"X": np.ones((2, 3)), "num_groups": 5})


class TestBadModels:
    def test_discrete_latent(self):
        def mixture(y=None):
            kind = numpyro.sample("kind", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(kind, 1.0), obs=y)

        with pytest.raises(ValueError, match=r"'kind' is discrete \(Bernoulli.*Sum it out"):
            NumPyroModel.of(mixture, (), {"y": np.ones(())})

    def test_subsampling(self):
        def minibatch(y):
            m = numpyro.sample("m", dist.Normal())
            with numpyro.plate("rows", 10, subsample_size=5):
                numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

        with pytest.raises(ValueError, match="subsamples 5 of 10 rows"):
            NumPyroModel.of(minibatch, (), {"y": np.ones(5)})

    def test_nothing_latent(self):
        def empty(y):
            numpyro.sample("y", dist.Normal(), obs=y)

        with pytest.raises(ValueError, match="no latent variables"):
            NumPyroModel.of(empty, (), {"y": np.ones(3)})

    def test_wrong_call(self, call):
        with pytest.raises(TypeError, match=r"hierarchy\(X, y=None, num_groups=2\) cannot"):
            NumPyroModel.of(hierarchy, (), {"Z": call["X"]})

    def test_improper_prior_is_found(self):
        def improper(y=None):
            m = numpyro.sample(
                "m", dist.ImproperUniform(dist.constraints.real, (), event_shape=())
            )
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

        model, data = NumPyroModel.of(improper, (), {"y": np.ones(3)})
        assert not model.proper_prior
        assert model.target(data).sample_prior is None
