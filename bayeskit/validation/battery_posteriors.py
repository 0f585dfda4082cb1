"""Battery models with a prior, a likelihood and an evidence in closed form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.measure import Target

__all__ = ["beta_binomial", "log_gamma_draw", "regression", "simplex"]

_LOG_2_PI = math.log(2 * math.pi)


def log_gamma_draw(key, shape: int) -> jax.Array:
    """Draw the logarithm of a gamma variable with a whole shape: a sum of exponentials."""
    # 1 - u is never 0, and u may be.
    return jnp.log(-jnp.sum(jnp.log1p(-random.uniform(key, (shape,)))))


def _log_beta(parameters) -> float:
    """Return the log of the multivariate beta function."""
    return sum(map(math.lgamma, parameters)) - math.lgamma(sum(parameters))


def beta_binomial() -> tuple[Target, float]:
    """Five of seven trials succeed; the probability is Beta(2, 3), x its logit."""
    prior, successes, failures = (2, 3), 5, 2
    posterior = (prior[0] + successes, prior[1] + failures)
    log_choose = math.log(math.comb(successes + failures, successes))

    def log_terms(x, first, second):
        return first * jax.nn.log_sigmoid(x[0]) + second * jax.nn.log_sigmoid(-x[0])

    def draw(parameters):
        def sample(key):
            first, second = random.split(key)
            logit = log_gamma_draw(first, parameters[0]) - log_gamma_draw(second, parameters[1])
            return logit[None]

        return sample

    target = Target(
        # The Jacobian p (1 - p) of the logit raises both exponents by one.
        log_prior=lambda x: log_terms(x, *prior) - _log_beta(prior),
        log_likelihood=lambda x: log_terms(x, successes, failures) + log_choose,
        sample_prior=draw(prior),
        sample_exact=draw(posterior),
        name="beta_binomial",
    )
    return target, log_choose + _log_beta(posterior) - _log_beta(prior)


def simplex() -> tuple[Target, float]:
    """Counts 3, 1, 2 with probabilities Dirichlet(1, 2, 3), x their additive log-ratios."""
    prior, counts = np.array([1, 2, 3]), np.array([3, 1, 2])
    posterior = prior + counts
    log_choose = math.lgamma(counts.sum() + 1) - sum(math.lgamma(n + 1) for n in counts)

    def log_probabilities(x):
        return jax.nn.log_softmax(jnp.append(x, 0.0))

    def draw(parameters):
        def sample(key):
            keys = random.split(key, 3)
            gammas = [log_gamma_draw(k, int(n)) for k, n in zip(keys, parameters, strict=True)]
            return jnp.stack(gammas[:2]) - gammas[2]

        return sample

    def log_prior(x):
        # The product of the probabilities is the Jacobian: it raises every exponent by one.
        return log_probabilities(x) @ prior.astype(x.dtype) - _log_beta(prior.tolist())

    target = Target(
        log_prior=log_prior,
        log_likelihood=lambda x: log_probabilities(x) @ counts.astype(x.dtype) + log_choose,
        sample_prior=draw(prior),
        sample_exact=draw(posterior),
        name="simplex",
    )
    evidence = log_choose + _log_beta(posterior.tolist()) - _log_beta(prior.tolist())
    return target, evidence


def regression() -> tuple[Target, float]:
    """Normal regression on a line: intercept N(0.5, 1.5²), slope N(-1, 1), noise N(0, 0.5²)."""
    design = np.array([[1.0, -1.0], [1.0, 0.0], [1.0, 0.5], [1.0, 2.0]])
    observed, noise = np.array([1.6, 1.1, -0.3, -2.2]), 0.5
    mean, scale = np.array([0.5, -1.0]), np.array([1.5, 1.0])
    precision = np.diag(scale**-2.0) + design.T @ design / noise**2
    centre = np.linalg.solve(precision, mean / scale**2 + design.T @ observed / noise**2)
    factor = np.linalg.cholesky(np.linalg.inv(precision))

    spread = design @ np.diag(scale**2) @ design.T + noise**2 * np.eye(4)
    residual = observed - design @ mean
    quadratic = residual @ np.linalg.solve(spread, residual)
    evidence = -0.5 * (4 * _LOG_2_PI + np.linalg.slogdet(spread)[1] + quadratic)

    def log_normal(z, scales):
        return -0.5 * jnp.sum(z**2) - float(np.log(scales).sum()) - 0.5 * len(z) * _LOG_2_PI

    def log_prior(x):
        return log_normal((x - mean.astype(x.dtype)) / scale.astype(x.dtype), scale)

    def log_likelihood(x):
        z = (observed.astype(x.dtype) - design.astype(x.dtype) @ x) / noise
        return log_normal(z, np.full(4, noise))

    def sample_prior(key):
        z = random.normal(key, (2,))
        return mean.astype(z.dtype) + scale.astype(z.dtype) * z

    def sample_exact(key):
        z = random.normal(key, (2,))
        return centre.astype(z.dtype) + factor.astype(z.dtype) @ z

    target = Target(
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        sample_prior=sample_prior,
        sample_exact=sample_exact,
        name="regression",
    )
    return target, float(evidence)
