"""Which correction is used: the cheapest that can be trusted."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bayeskit import accel
from bayeskit.errors import ConvergenceWarning, ParticleCollapseError, StalledError
from bayeskit.inference import random
from bayeskit.models.base import precision_scope
from bayeskit.models.distribution_transformer.refine.mcmc import chains
from bayeskit.models.distribution_transformer.refine.posterior import RefinedPosterior
from bayeskit.models.distribution_transformer.refine.problem import Refinement
from bayeskit.models.distribution_transformer.refine.psis import importance_sampling
from bayeskit.models.distribution_transformer.refine.refit import (
    refitted,
    resampled_from_refit,
)
from bayeskit.models.distribution_transformer.refine.smc import tempered

__all__ = ["METHODS", "refine"]

METHODS = ("psis", "smc", "mcmc", "auto")

_FAR = (
    "data and prior are very far from each other. Check their units, or give more draws "
    "(n_draws)"
)


def _silent(words: str) -> None:
    """Say nothing."""


def refine(
    refinement: Refinement,
    method: str = "auto",
    num_draws: int = 4000,
    key: Any = 0,
    say: Callable[[str], None] = _silent,
) -> RefinedPosterior:
    """Return the exact posterior, by correcting an approximate one.

    - ``"psis"``: importance sampling from the approximation and a twentieth of the prior, with
      Pareto-smoothed weights.
    - ``"smc"``: a population goes from the approximation to the posterior in tempered steps.
    - ``"mcmc"``: chains from particles of that run, which also propose from a mixture that is
      fitted to them.
    - ``"auto"``: the first that finds no reason for doubt; between SMC and chains it tries
      importance sampling from that mixture.

    Parameters
    ----------
    refinement : Refinement
    method : {"psis", "smc", "mcmc", "auto"}
    num_draws : int
        At least 100.
    key : int or JAX key
    say : callable
        Told what is done, before each step that takes seconds where it is compiled.

    Raises
    ------
    StalledError, ParticleCollapseError
        If SMC, which ``"smc"`` and ``"mcmc"`` start with, does not arrive.

    Warns
    -----
    ConvergenceWarning
        If the result cannot be trusted yet, with the reasons.

    Notes
    -----
    In double precision. ``"psis"`` costs one density evaluation a draw, ``"smc"`` some hundred
    gradients, ``"mcmc"`` a few hundred more.
    """
    if method not in METHODS:
        raise ValueError(f"refine must be one of {METHODS}, got {method!r}")
    if not isinstance(num_draws, int | np.integer) or num_draws < 100:
        raise ValueError(f"n_draws must be a whole number >= 100, got {num_draws!r}")
    with precision_scope("float64"):
        found = _refined(refinement, method, num_draws, accel.as_key(key), say)
    if found.reasons:
        warnings.warn(
            f"the posterior refined by {found.method} cannot be trusted yet: "
            + "; ".join(found.reasons),
            ConvergenceWarning,
            stacklevel=2,
        )
    return found


def _refined(
    refinement: Refinement, method: str, num_draws: int, key: Any, say: Callable[[str], None]
) -> RefinedPosterior:
    psis_key, smc_key, fit_key, refit_key, mcmc_key = random.split(key, 5)
    first = importance_sampling(refinement, num_draws, psis_key)
    if method == "psis" or (method == "auto" and first.reliable):
        return first
    say("tempered SMC")
    try:
        smc = tempered(refinement, num_draws, smc_key, first)
    except (StalledError, ParticleCollapseError) as error:
        if method != "auto":
            raise type(error)(
                f"refine={method!r} does not reach the posterior: {_FAR}"
            ) from error
        # Weighted draws that are known to be too few say more than none.
        return dataclasses.replace(first, reasons=(*first.reasons, f"SMC stalls: {_FAR}"))
    if method == "smc" or (method == "auto" and smc.reliable):
        return smc
    say("importance sampling from a refitted mixture")
    better = refitted(refinement, smc, fit_key)
    refit = resampled_from_refit(better, num_draws, refit_key, first)
    if method == "auto" and refit.reliable:
        return refit
    say("Markov chains")
    mcmc = chains(better, num_draws, mcmc_key, smc)
    if method == "mcmc" or mcmc.reliable:
        return mcmc
    # None can be trusted: the one that has seen most.
    return max((smc, refit, mcmc), key=lambda one: one.ess)
