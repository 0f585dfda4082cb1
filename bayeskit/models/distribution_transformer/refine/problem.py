"""What is refined: an approximate posterior, and the exact density that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeskit.inference.measure import Target
from bayeskit.inference.paths import defensive_bridge
from bayeskit.inference.paths.defensive import PRIOR_SHARE
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.prior_laws import PriorLaw
from bayeskit.models.distribution_transformer.supports import Support

__all__ = ["PRIOR_SHARE", "Refinement"]


@dataclass(frozen=True)
class _OfPrior:
    """A function of the prior's values, which follow the observations in the data."""

    function: Callable

    def __call__(self, value: Any, observations: Any, values: Any) -> Any:
        return self.function(value, values)


@dataclass(frozen=True)
class _OfObservations:
    """A function of the observations."""

    function: Callable

    def __call__(self, value: Any, observations: Any, values: Any) -> Any:
        return self.function(value, observations)


@dataclass(frozen=True)
class _Constrain:
    support: Support

    def __call__(self, u: jax.Array, *data: Any) -> dict[str, jax.Array]:
        return {"x": self.support.constrain(u)}


def _log_reference(u: jax.Array, mixture: Mixture) -> jax.Array:
    return mixture_arrays.log_density(mixture, u)


@dataclass(frozen=True, eq=False)
class Refinement:
    r"""An approximate posterior q and the exact :math:`p(u)\, p(z \mid u)`.

    All in unconstrained coordinates u. What changes from problem to problem are arrays, so that
    problems of the same functions and shapes share their compiled programs.

    Parameters
    ----------
    proposal : Mixture
        q, a single mixture.
    prior : PriorLaw
    log_likelihood : callable (u, observations) -> () array
        Equal functions share programs: a function of a module or a frozen dataclass.
    observations : pytree of arrays
    support : Support
    has_gradient : bool
        Whether the log-likelihood can be differentiated.
    """

    proposal: Mixture
    prior: PriorLaw
    log_likelihood: Callable
    observations: Any
    support: Support
    has_gradient: bool = True

    def target(self) -> Target:
        """Return the posterior as a target, tempered from the prior."""
        return Target(
            log_prior=_OfPrior(self.prior.log_density),
            log_likelihood=_OfObservations(self.log_likelihood),
            sample_prior=_OfPrior(self.prior.draw),
            constrain=_Constrain(self.support),
            data=(self.observations, self.prior.values),
            has_gradient=self.has_gradient,
            prior_takes_data=True,
            name="p(u | z)",
        )

    def bridge(self) -> Target:
        r"""Return the posterior as a target, tempered from q and a share of the prior.

        .. math:: q_a^{1 - \lambda}\, (p\, L)^\lambda, \qquad q_a = (1 - a)\, q + a\, p .
        """
        return defensive_bridge(
            self.target(),
            _log_reference,
            mixture_arrays.draw,
            (jax.tree.map(np.asarray, self.proposal),),
        )
