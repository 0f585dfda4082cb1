"""Laws of priors, families, and simulators of NumPyro models."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from bayeskit import accel
from bayeskit.models.distribution_transformer import (
    GaussianMixtureMetaPrior,
    JointSimulator,
    LinearGaussian,
    NumPyroSimulator,
    ParametricMetaPrior,
    Simulator,
)
from bayeskit.models.distribution_transformer.families import FAMILIES

KEY = jax.random.key(5)


def test_mixtures_have_the_law_that_is_stated():
    meta = GaussianMixtureMetaPrior(
        dim=2, num_components=(1, 3), scale_bounds=(0.5, 4.0), sharp_share=0.0
    )
    prior = jax.tree.map(np.asarray, jax.jit(lambda k: meta.draw(k, 4000))(KEY))
    weights = np.exp(prior.log_weights)
    assert np.abs(weights.sum(axis=1) - 1).max() < 1e-5
    counts = np.bincount((weights > 0).sum(axis=1), minlength=4)[1:]
    # Each of 1, 2, 3 with probability 1/3; 6 standard deviations are a false alarm in 1e8.
    assert np.abs(counts / 4000 - 1 / 3).max() < 6 * np.sqrt(2 / 9 / 4000)
    here = weights > 0
    means = prior.means[here]
    assert stats.kstest(means[:, 0], "norm").pvalue > 1e-7
    scales = np.sqrt((prior.factors[here] ** 2).sum(axis=-1))
    assert 0.5 <= scales.min() and scales.max() <= 4.0
    correlation = (prior.factors[here] @ prior.factors[here].transpose(0, 2, 1))[:, 0, 1]
    correlation /= scales[:, 0] * scales[:, 1]
    assert abs(correlation.mean()) < 6 * correlation.std() / np.sqrt(len(correlation))
    assert correlation.std() > 0.3


def test_wishart_precisions():
    meta = GaussianMixtureMetaPrior(dim=2, covariance="wishart", sharp_share=0.0)
    prior = jax.tree.map(np.asarray, jax.jit(lambda k: meta.draw(k, 4000))(KEY))
    factors = prior.factors.reshape(-1, 2, 2).astype(float)
    precision = np.linalg.inv(factors @ factors.transpose(0, 2, 1))
    # Twice a chi square with 3 degrees of freedom has mean 3 on the diagonal, plus 0.01.
    diagonal = precision[:, 0, 0]
    assert abs(diagonal.mean() - 3.01) < 6 * np.sqrt(6 / len(diagonal))
    assert stats.kstest(diagonal - 0.01, stats.chi2(3).cdf).pvalue > 1e-7


def test_latents_follow_their_priors():
    meta = GaussianMixtureMetaPrior(dim=1, num_components=2)
    prior = jax.jit(lambda k: meta.draw(k, 4000))(KEY)
    u = np.asarray(jax.jit(meta.draw_latent)(jax.random.key(6), prior), float)[:, 0]
    w, m = np.exp(np.asarray(prior.log_weights, float)), np.asarray(prior.means, float)[..., 0]
    s = np.asarray(prior.factors, float)[..., 0, 0]
    levels = (w * stats.norm.cdf((u[:, None] - m) / s)).sum(axis=1)
    assert stats.kstest(levels, "uniform").pvalue > 1e-7
    wrong = stats.norm.cdf((u - (w * m).sum(axis=1)) / s[:, 0])
    assert stats.kstest(wrong, "uniform").pvalue < 1e-7


FROZEN = {
    "normal": ((0.5, 2.0), stats.norm(0.5, 2.0), lambda u: (u, 0.0)),
    "log_normal": (
        (0.5, 0.7),
        stats.lognorm(0.7, scale=np.exp(0.5)),
        lambda u: (np.exp(u), u),
    ),
    "gamma": ((2.0, 3.0), stats.gamma(2.0, scale=1 / 3.0), lambda u: (np.exp(u), u)),
    "inverse_gamma": ((2.0, 3.0), stats.invgamma(2.0, scale=3.0), lambda u: (np.exp(u), u)),
    "beta": (
        (2.0, 0.7),
        stats.beta(2.0, 0.7),
        lambda u: (1 / (1 + np.exp(-u)), -np.logaddexp(0, u) - np.logaddexp(0, -u)),
    ),
}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_families_agree_with_scipy(x64, name):
    parameters, frozen, to_latent = FROZEN[name]
    family = FAMILIES[name]
    u = np.linspace(-3.0, 2.0, 11)
    x, log_jacobian = to_latent(u)
    found = np.asarray(family.log_density(jnp.asarray(u), *map(jnp.asarray, parameters)))
    assert np.abs(found - frozen.logpdf(x) - log_jacobian).max() < 1e-10
    grid = np.linspace(-40, 40, 40001)
    p = np.exp(np.asarray(family.log_density(jnp.asarray(grid), *map(jnp.asarray, parameters))))
    step = grid[1] - grid[0]
    mean = (p * grid).sum() * step
    variance = (p * (grid - mean) ** 2).sum() * step
    moments = [float(m) for m in family.moments(*map(jnp.asarray, parameters))]
    assert np.allclose(moments, [mean, variance], rtol=1e-5)
    drawn = np.asarray(family.draw(KEY, (4000,), jnp.float64, *map(jnp.asarray, parameters)))
    assert stats.kstest(to_latent(drawn)[0], frozen.cdf).pvalue > 1e-7


def test_products_of_families():
    law = dist.Uniform(1.0, 2.0)
    meta = ParametricMetaPrior(
        {
            "level": ("normal", {"loc": 0.0, "scale": law}),
            "noise": ("inverse_gamma", {"concentration": law, "rate": 3.0}),
        }
    )
    free = np.asarray(meta.draw(KEY, 100))
    assert free.shape == (100, 4)
    assert (free[:, 0] == 0).all() and (free[:, 1] >= 0).all()
    assert np.allclose(free[:, 3], np.log(3.0))
    again = ParametricMetaPrior.from_plain(meta.plain())
    assert again == meta and hash(again) == hash(meta)
    checked, is_batch = meta.checked(
        {
            "level": {"loc": 1.0, "scale": 2.0},
            "noise": {"concentration": [1.0, 2.0], "rate": 3.0},
        }
    )
    assert is_batch and checked.shape == (2, 4)


def test_a_law_that_a_file_cannot_name_is_not_replaced():
    law = dist.Weibull(2.0, 1.5)
    meta = ParametricMetaPrior("inverse_gamma", concentration=law, rate=6.0)
    loaded = ParametricMetaPrior.from_plain(meta.plain())
    prior, _ = loaded.checked({"concentration": 4.0, "rate": 6.0})
    assert prior == pytest.approx(np.log([[4.0, 6.0]]))
    with pytest.raises(ValueError, match="the file does not hold the law of a hyper-parameter"):
        loaded.draw(KEY, 3)


def student_model():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("data", 4):
        numpyro.sample("z", dist.StudentT(3.0, x, s))


def test_numpyro_models_are_the_same_as_functions(x64):
    by_model = NumPyroSimulator(student_model, "z", num_observations=(1, 4))
    assert by_model.support == ("real", "positive")
    by_hand = Simulator(
        lambda key, x: x[0] + x[1] * jax.random.t(key, 3.0),
        lambda z, x: dist.StudentT(3.0, x[0], x[1]).log_prob(z[0]),
        num_observations=(1, 4),
    )
    rows = {"z": jnp.array([[0.3], [-1.0], [2.0], [5.0]])}
    masks = {"z": jnp.array([True, True, False, True])}
    x, none = jnp.array([0.4, 1.7]), jnp.zeros(0)
    values = [s.log_likelihood_rows(rows, masks, x, none) for s in (by_model, by_hand)]
    assert abs(float(values[0] - values[1])) < 1e-10
    assert by_model.row_sizes(2) == {"z": 1}
    many = jax.vmap(lambda k: by_model.simulate_rows(k, x, none)["z"])(
        jax.random.split(KEY, 1000)
    )
    levels = stats.t(3.0, 0.4, 1.7).cdf(np.asarray(many).ravel())
    assert stats.kstest(levels, "uniform").pvalue > 1e-7


def test_counts_are_drawn_with_keys_of_every_generator():
    """``jax.random.poisson`` takes keys of one generator, which estimators do not use."""

    def counting_model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", 3):
            numpyro.sample("z", dist.Poisson(jnp.exp(x)))

    def count(key, x):
        return jax.random.poisson(key, jnp.exp(x))

    def counts(key, x):
        return jax.random.poisson(key, jnp.exp(x), (3, 1))

    keys = jax.random.split(accel.as_key(0), 2000)
    assert "fry" not in str(keys.dtype)
    simulators = (
        Simulator(count, num_observations=3),
        JointSimulator(counts, 3),
        NumPyroSimulator(counting_model, "z"),
    )
    for simulator in simulators:
        rows = jax.vmap(
            lambda k, s=simulator: s.simulate_rows(k, jnp.array([0.5]), jnp.zeros(0))["z"]
        )(keys)
        off = (np.asarray(rows).mean() - np.exp(0.5)) / np.sqrt(np.exp(0.5) / rows.size)
        assert abs(off) < 5.5  # fails by chance once in 1e7


def test_numpyro_models_that_cannot_be_used():
    with pytest.raises(ValueError, match=r"has no sites \['y'\]"):
        NumPyroSimulator(student_model, "y")
    with pytest.raises(ValueError, match="there is no latent"):
        NumPyroSimulator(student_model, ("x", "s", "z"))
    with pytest.raises(ValueError, match="must end at 4"):
        NumPyroSimulator(student_model, "z", num_observations=(1, 9))


def test_linear_simulators_have_the_density_that_they_draw_from(x64):
    H, R = np.array([[1.0, 0.5], [0.0, 2.0]]), np.array([[1.0, 0.3], [0.3, 2.0]])
    simulator = LinearGaussian(H, R, num_observations=3)
    x, none = jnp.array([0.5, -1.0]), jnp.zeros(0)
    rows = jnp.array([[0.1, 0.2], [1.0, -3.0], [9.0, 9.0]])
    mask = jnp.array([True, True, False])
    found = simulator.log_likelihood_rows({"z": rows}, {"z": mask}, x, none)
    exact = stats.multivariate_normal(H @ np.asarray(x), R).logpdf(np.asarray(rows[:2])).sum()
    assert abs(float(found) - exact) < 1e-10
    drawn = jax.vmap(lambda k: simulator.simulate_rows(k, x, none)["z"])(
        jax.random.split(KEY, 2000)
    ).reshape(-1, 2)
    error = np.cov(np.asarray(drawn).T) - R
    assert np.abs(error).max() < 6 * np.sqrt(8 / 6000)


def test_known_numbers_of_the_likelihood(x64):
    scaled = LinearGaussian(
        1.0, lambda p: p["sd"][None, None] ** 2, parameters={"sd": (0.1, 10.0)}
    )
    values = scaled.parameters.of_scaled(jnp.array([0.0]))
    assert abs(float(values["sd"]) - 1.0) < 1e-12
    assert np.allclose(scaled.parameters.scaled({"sd": 10.0}), [1.0])
    _, factor = scaled.linear_part(jnp.array([1.0]))
    assert abs(float(factor[0, 0]) - 10.0) < 1e-10
