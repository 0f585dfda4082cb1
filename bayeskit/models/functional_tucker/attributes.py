"""Learned attributes of functional tensor models, in the user's names and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from bayeskit.inference.gp_kernels import FreeParameters
from bayeskit.interop.arviz import to_arviz
from bayeskit.models.functional_tucker.joint import MeanField
from bayeskit.models.functional_tucker.naming import factor_names, term_names
from bayeskit.models.functional_tucker.sampled import Sampled

__all__ = ["ATTRIBUTES", "learned_attributes", "why_absent"]

# Those that depend on the engine or the model; a new fit removes the old ones.
ATTRIBUTES = ("log_evidence_", "log_evidence_se_", "elbo_", "n_iter_", "core_", "posterior_")
_WHERE = {
    "log_evidence_": "engine='smc', and engine='cavi' at rank 0 with normal noise, set it",
    "log_evidence_se_": "engine='smc' sets it",
    "elbo_": "engine='cavi' with components or Student-t noise sets it",
    "n_iter_": "engine='cavi' with components or Student-t noise sets it",
    "core_": "FunctionalTucker with engine='cavi' sets it",
    "posterior_": "engine='gibbs' and engine='smc' set it",
}


def why_absent(name: str, has: Mapping[str, Any]) -> str:
    """Return what a user does who misses one of the attributes.

    Parameters
    ----------
    name : str
        One of ATTRIBUTES.
    has : dict
        What the estimator has.
    """
    if "_posterior" not in has:
        return f"call fit(X, y) first; {_WHERE[name]}"
    there = [one for one in ATTRIBUTES if one in has]
    return f"{_WHERE[name]}; this fit has {', '.join(there)}"


def learned_attributes(
    posterior: MeanField | Sampled,
    names: Sequence[Any],
    kernels: Sequence[Any],
    scale: float,
    log_jacobian: float,
    learns_noise: bool,
) -> dict[str, Any]:
    """Return attributes by name.

    Parameters
    ----------
    posterior : MeanField or Sampled
    names : sequence of names of the modes
    kernels : sequence of kernels
        Of the factors of each mode.
    scale : float
        Of the transformed target.
    log_jacobian : float
        Of the transform, at the observations.
    learns_noise : bool
    """
    if isinstance(posterior, Sampled):
        return _of_draws(posterior, names, kernels, scale, log_jacobian, learns_noise)
    terms = posterior.terms.design.terms
    found, problem = posterior.found, posterior.problem
    noise_std = float(posterior.noise_std[0]) * scale
    learned = {"noise_std": noise_std} if learns_noise else {}
    labels = term_names(posterior.term_names, terms)
    learned |= _scaled(labels, posterior.term_values, scale)
    for mode, kernel, free, u in zip(names, kernels, problem.parameters, found.u, strict=False):
        labels = _factor_labels(free, kernel, mode)
        learned |= dict(zip(labels, map(float, free.values(u)), strict=True))
    attributes = {
        "terms_": tuple(
            replace(term, kernel=kernel)
            for term, kernel in zip(terms, posterior.terms.kernels, strict=True)
        ),
        "noise_std_": noise_std,
        "hyperparameters_": learned,
        "n_evaluations_": posterior.num_evaluations,
    }
    if posterior.is_exact:
        attributes["log_evidence_"] = posterior.terms.log_evidence + log_jacobian
        return attributes
    attributes |= {"elbo_": posterior.bounds + log_jacobian, "n_iter_": posterior.num_epochs}
    if problem.layout.has_core and problem.layout.ranks:
        attributes["core_"] = np.asarray(found.beliefs.core.mean)
    return attributes


def _of_draws(
    posterior: Sampled,
    names: Sequence[Any],
    kernels: Sequence[Any],
    scale: float,
    log_jacobian: float,
    learns_noise: bool,
) -> dict[str, Any]:
    weights = np.exp(posterior.log_weights)
    terms, additive = posterior.design.terms, posterior.prior.additive
    assert additive is not None
    term_draws, factor_draws = posterior.learned()
    labels = term_names(additive.parameters.names, terms)
    draws = {"noise_std": posterior.noise_std * scale} if learns_noise else {}
    draws |= _scaled_draws(labels, term_draws, scale)
    for mode, kernel, free, values in zip(
        names, kernels, posterior.prior.parameters, factor_draws, strict=False
    ):
        draws |= dict(zip(_factor_labels(free, kernel, mode), values.T, strict=True))
    values = weights @ term_draws
    attributes = {
        "terms_": tuple(
            replace(term, kernel=kernel)
            for term, kernel in zip(terms, additive.parameters.at(values).kernels, strict=True)
        ),
        "noise_std_": float(weights @ posterior.noise_std) * scale,
        "hyperparameters_": {name: float(weights @ one) for name, one in draws.items()},
        "posterior_": _arviz(posterior, draws),
    }
    if posterior.log_evidence is not None:
        attributes["log_evidence_"] = posterior.log_evidence + log_jacobian
        attributes["log_evidence_se_"] = posterior.log_evidence_se
    return attributes


def _arviz(posterior: Sampled, draws: dict[str, np.ndarray]) -> Any:
    """Return an ArviZ object of draws of equal weight."""
    if "core" in posterior.parts.parts:
        draws = {**draws, "core": posterior.parts.parts["core"]}
    num = len(posterior.log_weights)
    if np.ptp(posterior.log_weights) > 1e-12:
        # Weighted draws are not handed out as if they were equal.
        chosen = posterior.chosen(num, jax.random.key(0))
        draws = {name: values[chosen] for name, values in draws.items()}
    shape = posterior.num_chains, num // posterior.num_chains
    chains = {name: values.reshape(*shape, *values.shape[1:]) for name, values in draws.items()}
    return to_arviz({"posterior": chains})


def _factor_labels(free: FreeParameters, kernel: Any, mode: Any) -> list[str]:
    return factor_names(free.names, (kernel,) * len(free.base), mode)


def _scaled(names: Sequence[str], values: Any, scale: float) -> dict[str, float]:
    """Return learned numbers of terms; standard deviations in units of the target."""
    return {
        name: float(value) * (scale if name.endswith("std") else 1.0)
        for name, value in zip(names, values, strict=True)
    }


def _scaled_draws(names: Sequence[str], draws: np.ndarray, scale: float) -> dict[str, Any]:
    return {
        name: values * (scale if name.endswith("std") else 1.0)
        for name, values in zip(names, draws.T, strict=True)
    }
