"""The exact densities of a trained estimator, as refinement takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.progress import ProgressLine
from bayeskit.models.base import as_random_key
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.prior_laws import PriorLaw, mixture_law
from bayeskit.models.distribution_transformer.refine import (
    RefinedBatch,
    RefinedPosterior,
    Refinement,
    refine,
)
from bayeskit.models.distribution_transformer.task import Problems, Task

__all__ = ["check_likelihood", "refined", "refinement_of"]


@dataclass(frozen=True)
class _LogLikelihood:
    """That of the rows of one problem."""

    task: Task

    def __call__(self, u: jax.Array, observations: tuple) -> jax.Array:
        return self.task.log_likelihood(Problems(None, *observations), u)


@dataclass(frozen=True)
class _LogFamily:
    """The density of a parametric prior, given its free parameters."""

    meta_prior: Any

    def __call__(self, u: jax.Array, free: jax.Array) -> jax.Array:
        return self.meta_prior.log_density(free, u)


@dataclass(frozen=True)
class _DrawFamily:
    """A draw from a parametric prior."""

    meta_prior: Any

    def __call__(self, key: Any, free: jax.Array) -> jax.Array:
        return self.meta_prior.draw_latent(random.real_key(key), free[None])[0]


class _LateLine:
    """A line of progress that begins with the first words for it."""

    def __init__(self, progress: str | bool):
        self._progress = progress
        self._line: ProgressLine | None = None
        self.place = ""

    def show(self, words: str) -> None:
        self._line = self._line or ProgressLine("refining", self._progress)
        self._line.show(self.place + words, force=True)

    def close(self, words: str) -> None:
        if self._line is not None:
            self._line.close(words)


def check_likelihood(task: Task, argument: str) -> None:
    """Refuse what needs a log likelihood that the simulator does not have.

    Raises
    ------
    ValueError
    """
    if not task.simulator.has_log_likelihood:
        raise ValueError(
            f"{argument} needs the log likelihood of the data, and the simulator "
            f"{type(task.simulator).__name__} has none: give log_likelihood= to it (or to each "
            "Source of it), or take the amortised posterior as it is"
        )


def _law_of(task: Task, prior: Any) -> PriorLaw:
    """Return the law of the prior of one problem."""
    if task.meta_prior.is_mixture:
        return mixture_law(Mixture(*prior))
    return PriorLaw(_LogFamily(task.meta_prior), _DrawFamily(task.meta_prior), prior)


def refinement_of(
    task: Task, problems: Problems, proposals: Mixture, law: PriorLaw | None, place: int
) -> Refinement:
    """Return one of several problems, as refinement takes it; arguments as for ``refined``."""
    one = jax.tree.map(lambda leaf: np.asarray(leaf[place], np.asarray(leaf).dtype), problems)
    return Refinement(
        Mixture(*(np.asarray(leaf[place], np.float64) for leaf in proposals)),
        _law_of(task, one.prior) if law is None else law,
        _LogLikelihood(task),
        (one.rows, one.masks, one.vector),
        task.support,
    )


def refined(
    task: Task,
    problems: Problems,
    proposals: Mixture,
    *,
    law: PriorLaw | None,
    method: str,
    num_draws: int,
    random_state: Any,
    is_batch: bool,
    progress: str | bool,
) -> RefinedPosterior | RefinedBatch:
    """Return refined posteriors of checked problems, padded as they are.

    Parameters
    ----------
    proposals : Mixture
        Amortised posteriors, as many as there are problems to be refined.
    law : PriorLaw, optional
        Of all problems, where a mixture only stands for it. Default: the priors themselves.
    progress : "auto" or bool
        Whether a line says what takes seconds. Importance sampling alone does not.
    """
    num = len(proposals.log_weights)
    keys = random.split(as_random_key(random_state), num)
    found, line = [], _LateLine(progress)
    for b, key in enumerate(keys):
        refinement = refinement_of(task, problems, proposals, law, b)
        line.place = f"problem {b + 1} of {num}, " if num > 1 else ""
        found.append(refine(refinement, method, num_draws, key, line.show))
    line.close(f"{num} refined" if num > 1 else found[0].method)
    return RefinedBatch(found) if is_batch else found[0]
