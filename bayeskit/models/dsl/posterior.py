"""Posteriors of a fit: by the Bayesian bootstrap, or by a quasi-likelihood and a prior."""

from __future__ import annotations

import functools
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import BayeskitWarning, ConvergenceWarning, InvalidDataError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import diagnose
from bayeskit.inference.engines import EnsembleHMC
from bayeskit.inference.engines.base import as_chains
from bayeskit.inference.measure import Target
from bayeskit.inference.posterior import Posterior
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.dsl.bootstrap import bootstrap_draws
from bayeskit.models.dsl.priors import Prior, as_prior
from bayeskit.models.dsl.quasi_likelihood import Displacement, QuasiLikelihood
from bayeskit.models.dsl.result import DSLResult

__all__ = ["bootstrap_posterior", "num_starts", "quasi_posterior"]

# Starts of the chains, in standard deviations of the quasi-likelihood.
_SPREAD = 2.0
_NUM_STARTS = 4
# So many standard errors away a posterior must have lost so much of its log density.
_FAR = 1000.0
_NEGLIGIBLE = 15.0


def bootstrap_posterior(result: DSLResult, num_draws: int, random_state: Any) -> Posterior:
    """Return draws by the Bayesian bootstrap; see :mod:`bayeskit.models.dsl.bootstrap`.

    Warns
    -----
    ConvergenceWarning
        With the number of draws whose weighted moments have no root; they are left out.
    """
    if not isinstance(num_draws, int | np.integer) or num_draws < 1:
        raise ValueError(f"draws must be a whole number >= 1, got {num_draws!r}")
    if len(result.data.clusters) > 1:
        raise InvalidDataError(
            "the bootstrap weighs clusters of one way, but there are two: take method='quasi', "
            "whose covariance has both"
        )
    with precision_scope("float64"), program_cache(), CompileClock() as clock:
        key = as_random_key(random_state)
        draws, splits = bootstrap_draws(result.data, result.splits, num_draws, key)
    found = np.isfinite(draws).all(axis=1)
    if not found.all():
        warnings.warn(
            f"{int((~found).sum())} of {len(found)} bootstrap draws have no solution and were "
            "left out: label more units",
            ConvergenceWarning,
            stacklevel=3,
        )
        kept = found.sum() // 4 * 4 if found.sum() >= 16 else found.sum()
        draws, splits = draws[found][:kept], splits[found][:kept]
    if not len(draws):
        raise InvalidDataError("no bootstrap draw has a solution: label more units")
    by_chain = {"coef": as_chains(draws)}
    return Posterior(
        draws=by_chain,
        positions=by_chain["coef"],
        sample_stats={"repeat": as_chains(splits)},
        diagnostics=diagnose(by_chain),
        engine=f"Bayesian bootstrap, {len(draws)} draws",
        law="independent draws of the Bayesian bootstrap, a mixture over repeats of the split",
        timing=clock.timing(),
    )


def quasi_posterior(
    result: DSLResult, prior: Any, inference: Any, random_state: Any
) -> Posterior:
    """Return the posterior of a quasi-likelihood and a prior, by an engine of the package.

    Parameters
    ----------
    result : DSLResult
    prior : see :func:`~bayeskit.models.dsl.priors.as_prior`
    inference : engine, optional
        Default: EnsembleHMC.
    random_state : int, numpy random state, JAX key, or None
    """
    engine = EnsembleHMC() if inference is None else inference
    checked = as_prior(prior, result.terms)
    likelihood = QuasiLikelihood.of(result)
    factor = np.linalg.cholesky(result.vcov)
    with precision_scope("float64"), program_cache():
        key, start_key = random.split(as_random_key(random_state), 2)
        target = _target(likelihood, checked, factor)
        if checked.sample is None:
            _warn_if_flat_far_away(target, len(factor))
        starts = _SPREAD * random.normal(start_key, (num_starts(engine), len(factor)))
        if not _takes_starts(engine):
            return engine.run(target, None, key)
        return engine.run(target, None, key, initial_positions=starts)


def _warn_if_flat_far_away(target: Target, num: int) -> None:
    """Warn of a density that does not vanish far away, as where means saturate."""
    directions = _FAR * jnp.concatenate([jnp.eye(num), -jnp.eye(num)])
    density = jax.vmap(lambda x: target.log_density(x, *target.data))  # type: ignore[misc]
    there, centre = density(directions), density(jnp.zeros((1, num)))
    if bool((there > centre - _NEGLIGIBLE).any()):
        warnings.warn(
            "the quasi-likelihood does not vanish far from the estimate, as where labels are "
            "few for a logit: without a proper prior of all coefficients, such as "
            "prior=(0.0, 2.5), this is no posterior. method='bootstrap' needs no prior",
            BayeskitWarning,
            stacklevel=4,
        )


def num_starts(engine: Any) -> int:
    """Return from how many points an engine starts: searches for modes, or chains."""
    named = (getattr(engine, name, None) for name in ("num_starts", "num_chains"))
    return next((int(number) for number in named if number), _NUM_STARTS)


def _takes_starts(engine: Any) -> bool:
    return "initial_positions" in inspect.signature(engine.run).parameters


@dataclass(frozen=True)
class _Functions:
    """Density and prior draws in whitened coordinates."""

    prior_density: Any
    prior_sample: Any

    def theta(self, x, data):
        displacement, _, factor, _ = data
        return displacement.centre + factor @ x

    def log_likelihood(self, x, *data):
        displacement, precision, _, _ = data
        away = displacement(self.theta(x, data))
        return -0.5 * away @ precision @ away

    def log_prior(self, x, *data):
        _, _, factor, arrays = data
        jacobian = jnp.sum(jnp.log(jnp.diagonal(factor)))
        return self.prior_density(self.theta(x, data), *arrays) + jacobian

    def log_density(self, x, *data):
        return self.log_likelihood(x, *data) + self.log_prior(x, *data)

    def sample_prior(self, key, *data):
        displacement, _, factor, arrays = data
        theta = self.prior_sample(key, *arrays)
        return jax.scipy.linalg.solve_triangular(
            factor, theta - displacement.centre, lower=True
        )

    def constrain(self, x, *data):
        return {"coef": self.theta(x, data)}


@functools.lru_cache(maxsize=64)
def _functions(prior_density: Any, prior_sample: Any) -> _Functions:
    """Return one object for one prior: methods are equal only where they are of the same."""
    return _Functions(prior_density, prior_sample)


def _target(likelihood: QuasiLikelihood, prior: Prior, factor: np.ndarray) -> Target:
    functions = _functions(prior.log_density, prior.sample)
    displacement: Displacement = likelihood.displacement
    data = jax.tree.map(jnp.asarray, (displacement, likelihood.precision, factor, prior.arrays))
    if prior.sample is None:
        return Target(
            log_density=functions.log_density,
            constrain=functions.constrain,
            data=data,
            name="quasi-posterior",
        )
    return Target(
        log_prior=functions.log_prior,
        log_likelihood=functions.log_likelihood,
        sample_prior=functions.sample_prior,
        constrain=functions.constrain,
        data=data,
        prior_takes_data=True,
        name="quasi-posterior",
    )
