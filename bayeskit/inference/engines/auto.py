"""Which engine runs where the user names none, and what follows if it does not converge."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from bayeskit.errors import (
    BayeskitWarning,
    InitializationError,
    ParticleCollapseError,
    StalledError,
)
from bayeskit.inference.engines.ensemble.run import Ensemble
from bayeskit.inference.engines.ensemble_hmc import EnsembleHMC
from bayeskit.inference.engines.nuts import NUTS
from bayeskit.inference.engines.parallel_tempering import ParallelTempering
from bayeskit.inference.engines.smc import SMC
from bayeskit.inference.kernels.base import LowRankFactor
from bayeskit.inference.measure import Target
from bayeskit.inference.posterior import Posterior

__all__ = ["run_auto"]

# NUTS takes over where one step size does not suit all places: small steps, a short warm-up.
_CAREFUL = NUTS(num_warmup=300, target_acceptance=0.95)
_MAX_DENSE_DIM = 200
# A gradient for all chains that takes longer deserves to be announced.
_SLOW_SECONDS = 1.0
# Pseudo-chains that the draws of few long chains are cut into for the error of the evidence.
_NUM_BATCHES = 32


def run_auto(
    target: Target,
    data: tuple | None = None,
    key: Any = 0,
    *,
    initial_positions: Any = None,
) -> tuple[Posterior, str]:
    """Return a posterior, and which engine gave it and why.

    The order: SMC with a random walk where there is no gradient; SMC, then parallel tempering,
    where several separate modes carry weight and the prior is proper; EnsembleHMC; if it does
    not converge, NUTS from its points and its metric; then SMC if the prior is proper. The
    first result without a reason for doubt is returned, else the one with the smallest R-hat,
    with its reasons. State-space models have engines of their own and do not come here.

    Parameters
    ----------
    target : Target
    data : tuple of arrays, optional
    key : int or JAX key
    initial_positions : pytree of arrays (num, ...), optional
        Where searches for modes start.

    Raises
    ------
    ImproperPriorError
        If nothing says how many coordinates a position has.
    InitializationError
        If no start has a finite density.
    """
    proper = target.has_prior and target.sample_prior is not None
    if not target.has_gradient:
        result = SMC().run(target, data, key)
        return result, "the target has no gradient, so a random walk moves from the prior"
    ensemble = Ensemble(EnsembleHMC(), target, data, key, initial_positions)
    start = ensemble.find_start()
    seconds = ensemble.program.seconds_per_gradient * ensemble.program.num_chains
    if seconds > _SLOW_SECONDS:
        warnings.warn(
            f"one gradient for all {ensemble.program.num_chains} chains takes {seconds:.1f} s, "
            "and some hundred are needed: simplify the model, or take fewer rows",
            BayeskitWarning,
            stacklevel=3,
        )
    tried: dict[str, Posterior] = {}

    def converges(name: str, result: Posterior | None) -> bool:
        if result is not None:
            tried[name] = result
        # Whoever stops the run wants no other engine to begin.
        return result is not None and (result.interrupted or result.diagnostics.converged)

    if len(start.separate_modes) > 1 and proper:
        reason = (
            f"{len(start.separate_modes)} separate modes carry weight, and chains do not cross"
        )
        if converges("SMC", _smc(target, data, key)):
            return _chosen(tried, "SMC", reason)
        reason += ", nor does SMC converge"
        if converges("ParallelTempering", _parallel_tempering(target, data, key)):
            return _chosen(tried, "ParallelTempering", reason)
        if tried:
            # No engine that moves in small steps would do better.
            return _chosen(tried, min(tried, key=lambda name: _r_hat(tried[name])), reason)
    if converges("EnsembleHMC", ensemble.sample()):
        return _chosen(tried, "EnsembleHMC", "the default for densities with a gradient")
    doubt = tried["EnsembleHMC"].diagnostics.reasons[0]
    if converges("NUTS", _nuts(ensemble, key)):
        return _chosen(tried, "NUTS", f"EnsembleHMC did not converge ({doubt})")
    if proper and converges("SMC", _smc(target, data, key)):
        return _chosen(tried, "SMC", f"neither EnsembleHMC nor NUTS converged ({doubt})")
    best = min(tried, key=lambda name: _r_hat(tried[name]))
    reason = f"none of {', '.join(tried)} converged, this has the smallest R-hat"
    # What the chains saw often says how the model should be written.
    seen = [f"EnsembleHMC: {text}" for text in tried["EnsembleHMC"].diagnostics.reasons]
    if best != "EnsembleHMC":
        found = tried[best].diagnostics
        diagnostics = replace(found, reasons=(*found.reasons, *seen))
        tried[best] = replace(tried[best], diagnostics=diagnostics)
    return _chosen(tried, best, reason)


def _chosen(tried: dict[str, Posterior], name: str, reason: str) -> tuple[Posterior, str]:
    """Return one result, with the time of everything that was tried."""
    timing = {
        part: sum(result.timing[part] for result in tried.values())
        for part in ("compile_s", "run_s")
    }
    return replace(tried[name], timing=timing), reason


def _r_hat(result: Posterior) -> float:
    r_hat = result.diagnostics.r_hat_max
    return r_hat if np.isfinite(r_hat) else np.inf


def _smc(target: Target, data: tuple | None, key: Any) -> Posterior | None:
    try:
        return SMC().run(target, data, key)
    except (ParticleCollapseError, StalledError):
        return None


def _parallel_tempering(target: Target, data: tuple | None, key: Any) -> Posterior | None:
    try:
        return ParallelTempering().run(target, data, key)
    except (ParticleCollapseError, StalledError, InitializationError):
        return None


def _nuts(ensemble: Ensemble, key: Any) -> Posterior | None:
    """Run NUTS from the ensemble's points and metric; the evidence as the ensemble does."""
    dense = ensemble.program.dim <= _MAX_DENSE_DIM
    engine = replace(_CAREFUL, dense_metric=dense)
    covariance = _covariance(ensemble.tuned.tuning.factor)
    step_size = float(np.exp(ensemble.tuned.states.log_step_size))
    # Chains that are spread over the ensemble, from one end of the density to the other.
    order = np.argsort(ensemble.program.log_density(ensemble.last_positions), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, engine.num_chains).astype(int)]
    try:
        result = engine.run(
            ensemble.target,
            None,
            key,
            initial_positions=ensemble.last_positions[chosen],
            step_size=step_size,
            covariance=covariance if dense else np.diagonal(covariance),
        )
    except InitializationError:
        return None
    if not result.diagnostics.converged:
        return result
    batches = result.positions.reshape(_NUM_BATCHES, -1, ensemble.program.dim)
    log_evidence, log_evidence_se = ensemble.log_evidence_of(batches)
    return replace(result, log_evidence=log_evidence, log_evidence_se=log_evidence_se)


def _covariance(factor: Any) -> np.ndarray:
    if isinstance(factor, LowRankFactor):
        scale, directions, stretch = (np.asarray(part) for part in factor)
        along = directions * (stretch**2 - 1.0)
        return np.outer(scale, scale) * (np.eye(len(scale)) + along @ directions.T)
    factor = np.asarray(factor)
    return factor @ factor.T
