"""Priors as users give them with a question, and mixtures that stand for them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from bayeskit.errors import InvalidDataError, PriorFitWarning
from bayeskit.models.distribution_transformer.fit_mixture import FittedPrior, fit_mixture
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.mixture_arrays import stacked
from bayeskit.models.distribution_transformer.prior_laws import PriorLaw
from bayeskit.models.distribution_transformer.task import Task

__all__ = ["check_support", "standing_for"]


def standing_for(task: Task, prior: Any, quiet: bool = False) -> tuple[Any, PriorLaw | None]:
    """Return a mixture that stands for a prior, and the prior itself if they differ.

    With ``quiet`` nothing is said of how far they are: refinement uses the prior itself.
    """
    is_list = isinstance(prior, list | tuple)
    if not task.meta_prior.is_mixture or isinstance(prior, GaussianMixture):
        return prior, None
    if is_list and any(isinstance(one, GaussianMixture) for one in prior):
        return _one_for_each(task, prior), None
    fitted = prior
    if not isinstance(prior, FittedPrior):
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter("ignore", PriorFitWarning)
            fitted = fit_mixture(prior, task.meta_prior.component_range[1], task.support)
    return fitted.mixture, None if fitted.is_exact else fitted.law


def _one_for_each(task: Task, priors: Sequence[Any]) -> GaussianMixture:
    """Return priors of several data sets as a batch."""
    for i, one in enumerate(priors):
        if not isinstance(one, GaussianMixture) or one.batch_shape:
            found = "a batch" if isinstance(one, GaussianMixture) else type(one).__name__
            raise TypeError(
                "a list with a GaussianMixture holds one for each data set, nothing else; got "
                f"{found} at place {i}. fit_mixture(...).mixture stands for another law"
            )
        task.meta_prior.checked(one)
        check_support(task, one)
    return GaussianMixture.of_arrays(stacked([one.mixture for one in priors]), task.support)


def check_support(task: Task, prior: GaussianMixture) -> None:
    """Refuse a mixture of a latent that lives elsewhere.

    Raises
    ------
    InvalidDataError
    """
    if prior.support.spec != task.support.spec:
        raise InvalidDataError(
            f"prior has support {prior.support.spec!r}, but training was on "
            f"{task.support.spec!r}: give the prior that support"
        )
