"""What trained networks reach, in Kullback-Leibler divergence from the exact posterior.

Seeds are fixed, so these are no statistical tests: they fail when training has become worse.
The fast ones allow three times what was measured.
"""

import time
import warnings

import jax
import numpy as np
import pytest
from scipy import special, stats

import bayeskit as bk
from bayeskit.errors import OutOfMetaPriorWarning
from bayeskit.models.distribution_transformer import (
    GaussianMixtureMetaPrior,
    LinearGaussian,
    Simulator,
)
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from tests.models.distribution_transformer import exact_mixtures
from tests.models.distribution_transformer.conftest import INVERSE_GAMMA, VARIANCE

FIXED = {"budget_seconds": None, "progress": False}


def summary(kl):
    """Mean, median and 95th percentile."""
    return kl.mean(), np.median(kl), np.quantile(kl, 0.95)


def quietly(call, *arguments, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfMetaPriorWarning)
        return call(*arguments, **keywords)


# ---------------------------------------------------------------- mixtures, linear data


def linear_problems(meta_prior, num_observations, batch=1000):
    d = meta_prior.dim
    with jax.enable_x64(False):
        prior = jax.jit(lambda k: meta_prior.draw(k, batch))(jax.random.key(5))
        u = np.asarray(jax.jit(meta_prior.draw_latent)(jax.random.key(6), prior))
    generator = np.random.default_rng(0)
    z = u[:, None] + generator.normal(size=(batch, num_observations, d))
    count = generator.integers(1, num_observations + 1, size=batch)
    z[np.arange(num_observations) >= count[:, None]] = np.nan
    return bk.GaussianMixture.of_arrays(prior), z


def linear_estimators(meta_prior, simulator, **settings):
    exact = bk.DistributionTransformer(simulator, meta_prior, random_state=0).fit()
    learned = bk.DistributionTransformer(
        simulator, meta_prior, warm_start=False, random_state=2, **FIXED, **settings
    ).fit()
    return exact, learned


def divergences(exact, learned, meta_prior, num_observations):
    """Divergences on 2000 draws from each of 1000 exact posteriors, and that of the prior."""
    prior, z = linear_problems(meta_prior, num_observations)
    p = quietly(exact.posterior, z, prior=prior, missing="mask")
    q = quietly(learned.posterior, z, prior=prior, missing="mask")
    draws = p.sample(2000, random_state=1)
    log_p = p.log_prob(draws)
    kl = (log_p - q.log_prob(draws)).mean(axis=0)
    return kl, (log_p - prior.log_prob(draws)).mean(axis=0)


def filter_divergences(exact, learned, length):
    generator = np.random.default_rng(7)
    state, states = np.zeros(100), []
    for _ in range(length):
        state = 0.95 * state + generator.normal(size=100)
        states.append(state)
    zs = np.stack(states, axis=1) + generator.normal(size=(100, length))
    motion = {"A": 0.95, "Q": 1.0, "x0": bk.GaussianMixture([1.0], [0.0], [1.0])}
    p, q = (quietly(e.filter, zs[..., None], **motion).posterior for e in (exact, learned))
    (m0, v0), (m1, v1) = ((x.mean[..., 0], x.cov[..., 0, 0]) for x in (p, q))
    return 0.5 * (np.log(v1 / v0) + (v0 + (m0 - m1) ** 2) / v1 - 1)


@pytest.mark.slow
def test_two_components_without_the_warm_start():
    meta_prior = GaussianMixtureMetaPrior(
        num_components=(1, 2), covariance="wishart", sharp_share=0.0
    )
    exact, learned = linear_estimators(
        meta_prior, LinearGaussian(1.0, 1.0), max_steps=3000, batch_size=512
    )
    kl, of_prior = divergences(exact, learned, meta_prior, 1)
    mean, median, high = summary(kl)
    assert of_prior.mean() > 0.3
    # Two seeds gave 0.0005 and 0.0013: one problem of a thousand decides about the mean.
    assert mean < 0.002 and median < 0.0002 and high < 0.003
    # One observation under a thousand priors, and a posterior that follows them.
    prior, _ = linear_problems(meta_prior, 1)
    p, q = (quietly(e.posterior, [1.0], prior=prior) for e in (exact, learned))
    draws = p.sample(500, random_state=1)
    swapped = (p.log_prob(draws) - q.log_prob(draws)).mean(axis=0)
    assert np.quantile(swapped, 0.95) < 0.005
    assert np.corrcoef(p.mean[:, 0], q.mean[:, 0])[0, 1] > 0.999
    assert p.mean.std() > 0.3
    kl = filter_divergences(exact, learned, 1000)
    assert kl[:, 49].mean() < 0.001
    assert kl[:, 999].mean() < 0.005


@pytest.mark.slow
def test_four_components_in_two_dimensions_without_the_warm_start():
    meta_prior = GaussianMixtureMetaPrior(
        dim=2, num_components=4, covariance="wishart", sharp_share=0.0
    )
    simulator = LinearGaussian(np.eye(2), np.eye(2), num_observations=(1, 10))
    exact, learned = linear_estimators(
        meta_prior, simulator, max_steps=2000, batch_size=256, lr=1.5e-3
    )
    kl, of_prior = divergences(exact, learned, meta_prior, 10)
    assert of_prior.mean() > 1.0
    # Measured: 0.0195 with another seed. The network learns all of it.
    assert kl.mean() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "k", "num", "steps", "batch", "most"),
    [(1, (1, 2), 1, 3000, 512, 0.001), (2, 4, 10, 2000, 256, 0.01)],
)
def test_linear_data_by_default(d, k, num, steps, batch, most):
    """With a likelihood nothing is left to learn, and without one very little."""
    meta_prior = GaussianMixtureMetaPrior(
        dim=d, num_components=k, covariance="wishart", sharp_share=0.0
    )
    numbers = (1, num) if num > 1 else 1
    simulator = LinearGaussian(np.eye(d), np.eye(d), num_observations=numbers)
    exact = bk.DistributionTransformer(simulator, meta_prior, random_state=0).fit()
    prior, z = linear_problems(meta_prior, num)
    found = quietly(exact.posterior, z, prior=prior, missing="mask")
    for i in range(0, 1000, 10):
        seen = z[i][~np.isnan(z[i, :, 0])]
        own = bk.GaussianMixture(prior.weights[i], prior.means[i], prior.covariances[i])
        operator, noise = np.tile(np.eye(d), (len(seen), 1)), np.eye(len(seen) * d)
        truth, _ = exact_mixtures.posterior(own, seen.ravel(), operator, noise)
        draws = truth.sample(100, random_state=1)
        q = Mixture(*(leaf[i] for leaf in found.mixture))
        log_q = bk.GaussianMixture.of_arrays(q).log_prob(draws)
        assert np.abs(truth.log_prob(draws) - log_q).max() < 1e-9
    # The same data by a function, whose likelihood is not known.
    learned = bk.DistributionTransformer(
        Simulator(lambda key, x: x + jax.random.normal(key, (d,)), num_observations=numbers),
        meta_prior,
        random_state=2,
        max_steps=steps,
        batch_size=batch,
        **FIXED,
    ).fit()
    kl, of_prior = divergences(exact, learned, meta_prior, num)
    assert of_prior.mean() > 0.3
    assert learned.loss_ <= learned.start_loss_
    assert kl.mean() < most / 2


# ---------------------------------------------------------------- inverse gamma


def inverse_gamma_divergences(estimator, shape, rate, num=1000):
    """Divergences by quadrature; hyper-parameters are inverse-gamma (shape, rate)."""
    generator = np.random.default_rng(5)
    law = stats.invgamma(shape, scale=rate)
    a, b = law.rvs(num, random_state=generator), law.rvs(num, random_state=generator)
    x = stats.invgamma(a, scale=b).rvs(random_state=generator)
    z = generator.normal(size=num) * np.sqrt(x)
    q = estimator.posterior(z[:, None, None], prior={"concentration": a, "rate": b})
    a, b = a + 0.5, b + z**2 / 2
    t = np.linspace(-14.0, 10.0, 4000)[:, None]
    scale = np.sqrt(special.polygamma(1, a))
    u = np.log(b) - special.digamma(a) + scale * t
    log_p = a * np.log(b) - special.gammaln(a) - a * u - b * np.exp(-u)
    log_q = q.log_prob(np.exp(u)[..., None]) + u
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=0) * scale * (t[1, 0] - t[0, 0])


SMALLER = {"d_model": 32, "n_layers": 2, "d_hidden": 64, "lr": 2e-3, "random_state": 1}


def test_inverse_gamma_after_sixty_steps(variance):
    """Untrained, the first mean is 0.0036 and the second median 0.011."""
    mean, median, high = summary(quietly(inverse_gamma_divergences, variance, 4.0, 6.0))
    assert mean < 0.0023 and median < 0.002 and high < 0.005
    with pytest.warns(OutOfMetaPriorWarning, match="of 1000 problems"):
        kl = inverse_gamma_divergences(variance, 24.0, 6.0)
    # A plain network: 0.63, unnoticed. The frame of each problem takes most of the shift away.
    assert np.median(kl) < 0.01


@pytest.mark.slow
def test_inverse_gamma_quickly():
    estimator = bk.DistributionTransformer(
        VARIANCE, INVERSE_GAMMA, **FIXED, **SMALLER, max_steps=300, batch_size=256
    ).fit()
    mean, median, high = summary(quietly(inverse_gamma_divergences, estimator, 4.0, 6.0))
    assert mean < 0.003 and median < 0.002 and high < 0.01
    with pytest.warns(OutOfMetaPriorWarning, match="for 9.. of 1000 problems"):
        kl = inverse_gamma_divergences(estimator, 24.0, 6.0)
    assert np.median(kl) < 0.05


@pytest.mark.slow
def test_inverse_gamma():
    """3900 x 512 = 2.0 million problems."""
    estimator = bk.DistributionTransformer(
        VARIANCE, INVERSE_GAMMA, **FIXED, **SMALLER, max_steps=3900, batch_size=512
    ).fit()
    mean, median, high = summary(quietly(inverse_gamma_divergences, estimator, 4.0, 6.0))
    assert mean < 0.0003 and median < 0.0003 and high < 0.001
    with pytest.warns(OutOfMetaPriorWarning):
        shifted = inverse_gamma_divergences(estimator, 24.0, 6.0)
    assert np.quantile(shifted, 0.95) < 0.03


def test_a_thousand_posteriors_take_a_tenth_of_a_second(learned):
    """A generous bound, for busy machines; in processor time, after the first call."""
    prior, z = linear_problems(GaussianMixtureMetaPrior(num_components=2), 4)
    quietly(learned.posterior, z, prior=prior, missing="mask")
    start = time.process_time()
    quietly(learned.posterior, z, prior=prior, missing="mask")
    assert time.process_time() - start < 0.5
