"""A better proposal, from what SMC has found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bayeskit.inference import random
from bayeskit.models.distribution_transformer.fit_mixture import by_expectation_maximisation
from bayeskit.models.distribution_transformer.refine.posterior import RefinedPosterior
from bayeskit.models.distribution_transformer.refine.problem import Refinement
from bayeskit.models.distribution_transformer.refine.psis import importance_sampling

__all__ = ["refitted", "resampled_from_refit"]

# Enough for a few modes that are not round; the same number always, for one compiled program.
_NUM_COMPONENTS = 8
_NUM_STARTS = 2
# Of the scale of each component: tails that are too light cost more than a few draws.
_WIDER = 1.1


def refitted(refinement: Refinement, found: RefinedPosterior, key: Any) -> Refinement:
    """Return the problem with a mixture that was fitted to particles as its proposal.

    The particles are those of a run of their own: given them, whatever starts from the mixture
    has the law that it has with any other proposal.
    """
    seed = int(random.host_generator(key).integers(2**31))
    mixture = by_expectation_maximisation(found.positions, _NUM_COMPONENTS, _NUM_STARTS, seed)
    return replace(refinement, proposal=mixture._replace(factors=_WIDER * mixture.factors))


def resampled_from_refit(
    refinement: Refinement, num_draws: int, key: Any, first: RefinedPosterior
) -> RefinedPosterior:
    """Return the posterior by importance sampling from a refitted proposal.

    Parameters
    ----------
    refinement : Refinement
        From :func:`refitted`.
    first : RefinedPosterior
        From the amortised posterior: what it says of that is reported.
    """
    again = importance_sampling(refinement, num_draws, key)
    return replace(again, method="refit", khat=first.khat)
