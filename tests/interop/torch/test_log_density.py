"""Log densities and simulators in torch, called from JAX."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import bayeskit as bk  # noqa: E402
from bayeskit.errors import MissingDependencyError  # noqa: E402
from bayeskit.interop.torch import log_density_from_torch, simulator_from_torch  # noqa: E402
from bayeskit.models.distribution_transformer import GaussianMixtureMetaPrior, Simulator  # noqa: E402

RNG = np.random.default_rng(0)


def in_torch(x, y):
    return -0.5 * torch.sum((y - x[0]) ** 2) - torch.exp(x[1])


def in_jax(x, y):
    return -0.5 * jnp.sum((y - x[0]) ** 2) - jnp.exp(x[1])


def branches(x, y):
    """Return the same, written so that vmap cannot follow it."""
    return in_torch(x, y) if x[0] > 1e9 else 1.0 * in_torch(x, y)


def many(x, y):
    return -0.5 * ((y - x[:, :1]) ** 2).sum(1) - torch.exp(x[:, 1])


FORMS = {
    "vmap": log_density_from_torch(in_torch),
    "loop": log_density_from_torch(branches),
    "batched": log_density_from_torch(many, batched=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [(0, None), (0, 0), (None, 0)])
def test_values_and_gradients_under_vmap_and_jit(form, axes, x64):
    x, y = jnp.asarray(RNG.normal(size=(4, 2))), jnp.asarray(RNG.normal(size=(4, 5)))
    given = tuple(a if axis == 0 else a[0] for a, axis in zip((x, y), axes, strict=True))
    found, expected = (
        jax.jit(jax.vmap(jax.value_and_grad(f), axes))(*given) for f in (FORMS[form], in_jax)
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_nested_maps_and_loops(x64):
    x, y = jnp.asarray(RNG.normal(size=(3, 2))), jnp.asarray(RNG.normal(size=(4, 5)))

    def ascend(f, start, data):
        step = lambda z, _: (z + 0.1 * jax.grad(f)(z, data), f(z, data))
        return jax.lax.scan(step, start, None, length=3)

    def all_pairs(f):
        by_data = jax.vmap(lambda s, d: ascend(f, s, d), (None, 0))
        return jax.jit(jax.vmap(by_data, (0, None)))(x, y)

    for a, b in zip(all_pairs(FORMS["vmap"]), all_pairs(in_jax), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def test_double_precision_reaches_callbacks_in_other_threads(x64):
    """A third is not a number of single precision; large arrays are run in the background."""
    density = log_density_from_torch(lambda x: torch.sum(x))
    x = jnp.full((300, 2000), 1.0 / 3.0)
    run = jax.jit(lambda v: jax.lax.scan(lambda c, _: (c, jax.vmap(density)(c)), v, None, 3)[1])
    np.testing.assert_allclose(run(x), 2000.0 / 3.0, rtol=1e-13)


def test_points_with_structure():
    density = log_density_from_torch(lambda p: -(p["a"] ** 2).sum() - 3.0 * p["b"])
    gradient = jax.grad(density)({"a": jnp.ones(2), "b": jnp.ones(())})
    assert gradient["a"].tolist() == [-2.0, -2.0] and float(gradient["b"]) == -3.0


def test_inside_smc():
    """Evidence of a normal mean: known; six standard errors, 2e-9 by chance."""
    y = np.array([0.5, 1.5, 1.0])
    target = bk.Target(
        log_prior=lambda x: -0.5 * jnp.sum(x**2) - 0.5 * jnp.log(2 * jnp.pi),
        log_likelihood=log_density_from_torch(lambda x, y: -0.5 * torch.sum((y - x) ** 2)),
        sample_prior=lambda key: bk.inference.random.normal(key, (1,)),
    )
    engine = bk.SMC(num_particles=500, progress=False)
    est = bk.BayesianModel(target, inference=engine, random_state=0).fit(y)
    exact = -0.5 * np.log(4.0) - 0.5 * (np.sum(y**2) - y.sum() ** 2 / 4.0)
    assert abs(est.log_evidence_ - exact) < 6 * est.log_evidence_se_


def in_place(x, y):
    y -= 1.0
    return torch.sum(x) - y.sum()


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: torch.tensor(x[0].item()), "does not depend on x for torch's autograd"),
        (lambda x: 2 * x, "must return one number, got shape"),
        (lambda x: 1.0, "must return a tensor with one number, got float"),
    ],
)
def test_what_is_refused_when_it_runs(fn, message):
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(jax.grad(log_density_from_torch(fn))(jnp.ones(2)))


def test_data_changed_in_place_are_refused():
    with pytest.raises(Exception, match="in_place changes one of its arguments in place"):
        jax.block_until_ready(log_density_from_torch(in_place)(jnp.ones(2), jnp.ones(3)))


def test_gradient_with_respect_to_data_is_refused():
    with pytest.raises(TypeError, match="with respect to the point, not to the data"):
        jax.grad(FORMS["vmap"], argnums=1)(jnp.ones(2), jnp.ones(3))


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for make in (log_density_from_torch, simulator_from_torch):
        with pytest.raises(MissingDependencyError, match=r"pip install 'bayeskit\[torch\]'"):
            make(in_torch)


def test_what_is_no_function():
    for make in (log_density_from_torch, simulator_from_torch):
        with pytest.raises(TypeError, match="takes a function of"):
            make(3)


# ---------------------------------------------------------------- simulators


def test_draws_depend_on_their_key_alone():
    simulate = simulator_from_torch(lambda x: x[0] + torch.randn(2), (2,))
    keys = jax.random.split(jax.random.key(0), 3)
    x = jnp.array([[1.0], [2.0], [3.0]])
    together = jax.jit(jax.vmap(simulate))(keys, x)
    state = torch.random.get_rng_state()
    alone = simulate(keys[1], x[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert jnp.array_equal(together[1], alone)
    assert not jnp.array_equal(together[0] - 1.0, together[1] - 2.0)


def test_wrong_shape_is_named():
    simulate = simulator_from_torch(lambda x: x[0] + torch.randn(2), (3,))
    with pytest.raises(Exception, match=r"returned shape \(2,\), but result_shape is \(3,\)"):
        jax.block_until_ready(simulate(jax.random.key(0), jnp.ones(1)))


def moments(simulate):
    keys = jax.random.split(jax.random.key(1), 2000)
    draws = np.asarray(jax.jit(jax.vmap(lambda k: simulate(k, jnp.array([2.0]))))(keys))
    return abs(draws.mean() - 2.0) * np.sqrt(2000), abs(draws.var() - 1.0) * np.sqrt(1000)


def test_law_of_the_draws():
    """Mean and variance of 2000 normal draws: within six standard errors, 4e-9 by chance."""
    assert max(moments(simulator_from_torch(lambda x: x[0] + torch.randn(())))) < 6.0


def test_draws_from_one_seed_are_caught():
    def careless(x):
        torch.manual_seed(0)
        return x[0] + torch.randn(())

    assert max(moments(simulator_from_torch(careless))) > 6.0


def test_trains_a_distribution_transformer():
    """Data N(x, 1): after a short training the posterior mean follows the data."""
    with_noise = simulator_from_torch(
        lambda x, p: x[0] + p["noise"] * torch.randn(()), parameters=True
    )
    simulator = Simulator(with_noise, parameters={"noise": (0.5, 1.0)}, num_observations=(1, 2))
    dt = bk.DistributionTransformer(
        simulator,
        GaussianMixtureMetaPrior(dim=1, num_components=(1, 2)),
        d_model=16,
        n_layers=1,
        n_heads=2,
        d_hidden=16,
        batch_size=32,
        max_steps=20,
        budget_seconds=None,
        lr=1e-2,
        progress=False,
        random_state=0,
    ).fit()
    assert dt.loss_ < dt.start_loss_
    prior = bk.GaussianMixture([1.0], [0.0], [2.0])
    low, high = (
        dt.posterior([z], prior=prior, parameters={"noise": 0.7}).mean for z in (-2.0, 2.0)
    )
    assert low < high
