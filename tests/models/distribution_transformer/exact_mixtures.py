"""Exact posteriors and filters of Gaussian mixtures and linear Gaussian data, in NumPy."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from bayeskit import GaussianMixture


def posterior(prior: GaussianMixture, z, matrix, noise) -> tuple[GaussianMixture, float]:
    """Return the posterior of z = H x + e, e ~ N(0, R), and the log evidence.

    Component by component, with the covariance in the form of Joseph.
    """
    matrix, noise = np.atleast_2d(matrix), np.atleast_2d(noise)
    means, covariances, logs = [], [], []
    for log_weight, mean, covariance in zip(
        np.log(prior.weights), prior.means, prior.covariances, strict=True
    ):
        spread = matrix @ covariance @ matrix.T + noise
        gain = np.linalg.solve(spread, matrix @ covariance).T
        rest = np.eye(len(mean)) - gain @ matrix
        means.append(mean + gain @ (z - matrix @ mean))
        covariances.append(rest @ covariance @ rest.T + gain @ noise @ gain.T)
        logs.append(
            log_weight + stats.multivariate_normal(matrix @ mean, spread).logpdf(np.ravel(z))
        )
    log_evidence = special.logsumexp(logs)
    weights = np.exp(np.array(logs) - log_evidence)
    return GaussianMixture(weights / weights.sum(), means, covariances), float(log_evidence)


def predicted(belief: GaussianMixture, transition, offset, noise) -> GaussianMixture:
    """Return the law of A x + c + e, e ~ N(0, Q)."""
    transition = np.atleast_2d(transition)
    return GaussianMixture(
        belief.weights,
        belief.means @ transition.T + offset,
        transition @ belief.covariances @ transition.T + np.atleast_2d(noise),
    )


def filtered(initial: GaussianMixture, zs, transition, noise, matrix, observation_noise):
    """Return the posteriors of a bank of Kalman filters, and the log evidence of all data.

    The first observation is of the initial state.
    """
    belief, total, found = initial, 0.0, []
    for t, z in enumerate(zs):
        if t:
            belief = predicted(belief, transition, 0.0, noise)
        belief, log_evidence = posterior(belief, z, matrix, observation_noise)
        total += log_evidence
        found.append(belief)
    return found, total
