"""Paths for parameters whose filters kept no history: new filters, weighed against the old."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bayeskit.inference.algorithms.islands import evidence_gained
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.blocks import Block, extend
from bayeskit.inference.estimates import choose
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.law import Measure, Tagged
from bayeskit.inference.transitions.pseudo_marginal import MarginalState

__all__ = ["exchange_for_paths", "log_exchange", "with_path"]


def exchange_for_paths(
    extended: FeynmanKac, model: Callable, num_particles: int, scheme: str = "systematic"
) -> Block:
    r"""Give every parameter a new filter with a path of states drawn from it (law L6).

    .. math:: W' \propto W\, \frac{\hat Z'(\theta)}{\hat Z(\theta)}

    Parameters
    ----------
    extended : FeynmanKac
        As :func:`parameters_with_filters` makes it.
    model : callable (parameters) -> FeynmanKac
    num_particles : int
        Of the new filters, however many the old ones had.
    scheme : str
        Resampling scheme.

    Notes
    -----
    The old estimate :math:`\hat Z` favours parameters whose filters were lucky. A path from a
    new filter has no part in that luck, so the weight replaces it. With noise of standard
    deviation :math:`\sigma` in the log estimates, a share of about :math:`e^{-2\sigma^2}` of
    the particles stays effective. O(num_steps num_particles) for each parameter.

    References
    ----------
    Chopin, Jacob & Papaspiliopoulos (2013), section 3.6, for the exchange.
    """

    def kernel(key: Any, stage: Any, state: MarginalState) -> MarginalState:
        return with_path(key, model, state.parameters, num_particles, scheme)

    def log_ratio(stage: Any, old: MarginalState, new: MarginalState) -> Any:
        return log_exchange(old.log_estimate, new.log_estimate)

    paths = Measure(f"{extended.measure.name} on paths", owner=model)
    title = f"a path from a new filter of {num_particles}"
    return extend(kernel, Tagged(log_ratio, extended.measure.at("T"), paths, title))


def with_path(
    key: Any, model: Callable, parameters: Any, num_particles: int, scheme: str
) -> MarginalState:
    """Return parameters with a new estimate of their likelihood, and a path chosen with it."""
    filtered = particle_filter(model(parameters), num_particles, scheme=scheme, history=True)
    return MarginalState(parameters, *choose(filtered)(key))


def log_exchange(old: Any, new: Any) -> Any:
    """Return the log weight of a new estimate in the place of an old one."""
    return evidence_gained(old, new)
