"""Hyper-parameters learned: the maximum of posterior density, or draws by an engine."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from bayeskit.accel.time.associative import METHODS
from bayeskit.errors import ConvergenceWarning
from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters
from bayeskit.inference.measure import Target
from bayeskit.inference.progress import ProgressLine
from bayeskit.models.markov_gp.naming import hyperparameter_names
from bayeskit.models.markov_gp.program import Data, Sites, objective, value_and_sites

__all__ = ["hyperparameter_target", "maximised"]

_MAX_STEPS = 200
# Evidence in nats, hyper-parameters in prior standard deviations: where the prior alone makes a
# curvature of one, a slope g has at most g^2 / 2 nats to gain, a tenth here.
_FLAT = 0.45


def maximised(
    free: FreeParameters,
    data: Data,
    start: Sites,
    method: str,
    *,
    num_starts: int,
    seed: Any,
    progress: str | bool = False,
) -> tuple[np.ndarray, int]:
    r"""Return the u that maximises :math:`\log p(y \mid u) - |u|^2/2`, and the evaluations.

    Parameters
    ----------
    free, data, start, method
        As for :func:`~bayeskit.models.markov_gp.program.objective`.
    num_starts : int
        The first start is the median of the priors, others are drawn from them.
    seed : JAX key
    progress : "auto" or bool
        Whether a line tells the evidence at each step.

    Warns
    -----
    ConvergenceWarning
        If the best point is not flat.
    """
    if not free.num_free:
        return np.zeros(0), 0
    line = ProgressLine("MarkovGPRegressor", progress)
    state: dict[str, Any] = {"sites": start, "count": 0}

    def loss(u):
        value, gradient, sites, _ = objective(
            np.asarray(u, data.rows.y.dtype), free, data, state["sites"], method
        )
        state["count"] += 1
        value, gradient = float(value), np.asarray(gradient, np.float64)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            # Outside of what can be computed: the line search comes back.
            return 1e10 + u @ u, u
        state["sites"] = sites
        line.show(f"evaluation {state['count']}, log evidence {value:.1f}")
        return 0.5 * (u @ u) - value, u - gradient

    best: Any = None
    starts = np.zeros((num_starts, free.num_free))
    if num_starts > 1:
        starts[1:] = random.host_generator(seed).standard_normal(starts[1:].shape)
    for u0 in starts:
        found = optimize.minimize(
            loss, u0, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_STEPS}
        )
        if best is None or found.fun < best.fun:
            best = found
    line.close(f"{state['count']} evaluations")
    slope = float(np.max(np.abs(best.jac)))
    if not best.success and slope > _FLAT:
        warnings.warn(
            f"the search for hyper-parameters ended after {best.nit} steps with a slope of "
            f"{slope:.2g} nats a prior standard deviation ({best.message}): fix one of them, "
            "give narrower priors, or take more starts",
            ConvergenceWarning,
            stacklevel=4,
        )
    return best.x, state["count"]


def _log_prior(u, free, data, start):
    return -0.5 * jnp.sum(u**2) - 0.5 * free.num_free * jnp.log(2.0 * jnp.pi)


def _sample_prior(key, free, data, start):
    return random.normal(key, (free.num_free,), free.median.dtype)


def _constrain(u, free, data, start):
    return dict(zip(hyperparameter_names(free), free.values(u), strict=True))


def _likelihood_by(method: str) -> Any:
    def log_likelihood(u, free, data, start):
        return value_and_sites(u, free, data, start, method)[0]

    return log_likelihood


# One function a method, so that compiled programs are shared between fits.
_LOG_LIKELIHOODS = {method: _likelihood_by(method) for method in METHODS}


def hyperparameter_target(
    free: FreeParameters, data: Data, start: Sites, method: str
) -> Target:
    """Return the posterior of the hyper-parameters, the function being integrated out."""
    return Target(
        log_prior=_log_prior,
        log_likelihood=_LOG_LIKELIHOODS[method],
        sample_prior=_sample_prior,
        constrain=_constrain,
        data=jax.tree.map(jnp.asarray, (free, data, start)),
        prior_takes_data=True,
        name="hyper-parameters",
    )
