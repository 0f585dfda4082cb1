"""The ten reference posteriors in PyMC, for nutpie's own compiler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from benchmarks.posteriordb.models import RK4_STEPS_A_YEAR

__all__ = ["PYMC_MODELS"]


def eight_schools(sigma, y):
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    z = pm.Normal("z", 0.0, 1.0, shape=8)
    pm.Normal("y", pm.Deterministic("theta", mu + tau * z), sigma, observed=y)


def autoregression(lags, y):
    alpha = pm.Normal("alpha", 0.0, 10.0)
    beta = pm.Normal("beta", 0.0, 10.0, shape=lags.shape[1])
    pm.Normal("y", alpha + pt.dot(lags, beta), pm.HalfCauchy("sigma", 2.5), observed=y)


def gaussian_process(x, y):
    rho = pm.Gamma("rho", alpha=25.0, beta=4.0)
    alpha = pm.HalfNormal("alpha", 2.0)
    sigma = pm.HalfNormal("sigma", 1.0)
    kernel = alpha**2 * pt.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)
    pm.MvNormal("y", np.zeros(x.size), cov=kernel + sigma * pt.eye(x.size), observed=y)


def kid_score(design, y):
    beta = pm.Flat("beta", shape=design.shape[1])
    pm.Normal("y", pt.dot(design, beta), pm.HalfCauchy("sigma", 2.5), observed=y)


def party_identification(design, y):
    beta = pm.Flat("beta", shape=design.shape[1])
    pm.Normal("y", pt.dot(design, beta), pm.HalfFlat("sigma"), observed=y)


def gaussian_mixture(y):
    ordered = pm.distributions.transforms.ordered
    start = np.array([-1.0, 1.0])
    mu = pm.Normal("mu", 0.0, 2.0, shape=2, transform=ordered, initval=start)
    sigma = pm.HalfNormal("sigma", 2.0, shape=2)
    theta = pm.Beta("theta", 5.0, 5.0)
    first = pt.log(theta) + pm.logp(pm.Normal.dist(mu[0], sigma[0]), y)
    second = pt.log1p(-theta) + pm.logp(pm.Normal.dist(mu[1], sigma[1]), y)
    pm.Potential("y", pt.logaddexp(first, second).sum())


def arma(y):
    mu = pm.Normal("mu", 0.0, 10.0)
    phi, theta = pm.Normal("phi", 0.0, 2.0), pm.Normal("theta", 0.0, 2.0)
    sigma = pm.HalfCauchy("sigma", 2.5)
    residuals = y - mu - phi * pt.concatenate([mu[None], y[:-1]])
    errors = pytensor.scan(
        lambda residual, error, theta: residual - theta * error,
        sequences=[residuals],
        outputs_info=[pt.zeros(())],
        non_sequences=[theta],
        return_updates=False,
    )
    pm.Potential("y", pm.logp(pm.Normal.dist(0.0, sigma), errors).sum())


def garch(y, sigma1):
    mu, alpha0 = pm.Flat("mu"), pm.HalfFlat("alpha0")
    alpha1 = pm.Uniform("alpha1", 0.0, 1.0)
    beta1 = pm.Uniform("beta1", 0.0, 1.0 - alpha1)
    pm.Potential("flat beta1", pt.log1p(-alpha1))
    first = pt.as_tensor(np.float64(sigma1) ** 2)
    later = pytensor.scan(
        lambda shock, variance, beta1: shock + beta1 * variance,
        sequences=[alpha0 + alpha1 * (y[:-1] - mu) ** 2],
        outputs_info=[first],
        non_sequences=[beta1],
        return_updates=False,
    )
    scale = pt.sqrt(pt.concatenate([first[None], later]))
    pm.Normal("y", mu, scale, observed=y)


def hidden_markov(y):
    ordered = pm.distributions.transforms.ordered
    start = np.array([3.0, 10.0])
    theta1, theta2 = pm.Dirichlet("theta1", np.ones(2)), pm.Dirichlet("theta2", np.ones(2))
    mu = pm.Normal("mu", start, 1.0, shape=2, transform=ordered, initval=start)
    pm.Potential("positive", pt.switch(mu[0] > 0, 0.0, -np.inf))
    emissions = [pm.logp(pm.Normal.dist(mu[k], 1.0), y) for k in range(2)]
    log_p = pt.log(pt.stack([theta1, theta2]))

    def step(first_emission, second_emission, first, second, log_p):
        return (
            first_emission + pt.logaddexp(first + log_p[0, 0], second + log_p[1, 0]),
            second_emission + pt.logaddexp(first + log_p[0, 1], second + log_p[1, 1]),
        )

    first, second = pytensor.scan(
        step,
        sequences=[emission[1:] for emission in emissions],
        outputs_info=[emission[0] for emission in emissions],
        non_sequences=[log_p],
        return_updates=False,
    )
    pm.Potential("y", pt.logaddexp(first[-1], second[-1]))


def lotka_volterra(y_init, y):
    centre = np.array([1.0, 0.05, 1.0, 0.05])
    theta = pm.TruncatedNormal("theta", centre, centre * [0.5, 1, 0.5, 1], lower=0.0, shape=4)
    z_init = pm.LogNormal("z_init", np.log(10.0), 1.0, shape=2)
    sigma = pm.LogNormal("sigma", -1.0, 1.0, shape=2)
    h = 1.0 / RK4_STEPS_A_YEAR

    def step(u, v, theta):
        def slope(u, v):
            return (theta[0] - theta[1] * v) * u, (theta[3] * u - theta[2]) * v

        a, b = slope(u, v)
        c, d = slope(u + h / 2 * a, v + h / 2 * b)
        e, f = slope(u + h / 2 * c, v + h / 2 * d)
        p, q = slope(u + h * e, v + h * f)
        return u + h / 6 * (a + 2 * c + 2 * e + p), v + h / 6 * (b + 2 * d + 2 * f + q)

    path = pytensor.scan(
        step,
        outputs_info=[z_init[0], z_init[1]],
        non_sequences=[theta],
        n_steps=y.shape[0] * RK4_STEPS_A_YEAR,
        return_updates=False,
    )
    for k, name in enumerate(("hares", "lynx")):
        level = path[k][RK4_STEPS_A_YEAR - 1 :: RK4_STEPS_A_YEAR]
        level = pt.concatenate([z_init[k][None], level])
        counts = np.concatenate([y_init[k][None], y[:, k]])
        pm.LogNormal(name, pt.log(level), sigma[k], observed=counts)


PYMC_MODELS: dict[str, Callable] = {
    "eight_schools": eight_schools,
    "arK": autoregression,
    "gp_regr": gaussian_process,
    "kidiq": kid_score,
    "nes1972": party_identification,
    "gauss_mix": gaussian_mixture,
    "arma11": arma,
    "garch11": garch,
    "hmm": hidden_markov,
    "lotka_volterra": lotka_volterra,
}
