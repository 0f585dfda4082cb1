"""From a population to an estimate of the evidence with one sample (law L2 to L7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.law import (
    PROPERLY_WEIGHTED,
    UNBIASED_ESTIMATE,
    Law,
    LawKind,
)
from bayeskit.inference.measure import Target
from bayeskit.inference.population import History, total_log_evidence

__all__ = ["Estimate", "ancestral_path", "choose", "example_of", "law_of_estimate"]


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """A block run to its end, as an estimate with a sample. See :func:`choose`."""

    block: Block

    @property
    def law(self) -> Law:
        """Unbiased if the population is properly weighted, else the law of the block."""
        law: Any = self.block.law
        kind = UNBIASED_ESTIMATE if law.kind is PROPERLY_WEIGHTED else law.kind
        return Law(law.measure, kind, (*law.derivation, "choose one particle by its weight"))

    def explain(self) -> str:
        """Return the derivation of the law as text."""
        return self.law.explain()

    def __call__(self, key: Any) -> tuple[jax.Array, Any]:
        """Return the log of the estimate, and the sample."""
        run_key, choice_key = random.split(key)
        population, _ = self.block.run(run_key)
        place = random.categorical(choice_key, population.log_weights)
        if isinstance(population.history, History):
            sample = ancestral_path(population.history, place)
        else:
            sample = jax.tree.map(lambda x: x[place], population.particles)
        return total_log_evidence(population), sample


def ancestral_path(history: History, place: jax.Array) -> Any:
    """Return the path (num_steps, ...) that ends in the particle at a place."""

    def back(here, now):
        particles, ancestors = now
        return ancestors[here], jax.tree.map(lambda x: x[here], particles)

    return lax.scan(back, place, (history.particles, history.ancestors), reverse=True)[1]


def choose(block: Block) -> Estimate:
    r"""Return the estimate that a block makes, with one particle chosen by weight (law L7).

    .. math:: E[\hat Z f(x)] = \gamma(f)

    Parameters
    ----------
    block : Block that starts with spawn
        Where its population has a history, the sample is the whole path of the chosen
        particle, with leading axis num_steps.

    Returns
    -------
    callable (key) -> (log estimate, sample)
        It has a ``law`` and explains itself. It is what :func:`pseudo_marginal` needs, and a
        sample with its estimate can be a particle of another algorithm.

    Raises
    ------
    TypeError
        If the block waits for a population.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> draws = bi.spawn(lambda key: bi.random.normal(key), 10)
    >>> estimate = bi.choose(draws >> bi.weigh(lambda stage, x: -0.5 * x**2))
    >>> print(estimate.explain().splitlines()[-1])
    => L7 unbiased estimate for <lambda>·<lambda>: estimate ≥ 0 and its mean is γ(1)
    """
    if not isinstance(block, Block):
        raise TypeError(f"choose needs a block that starts with spawn, got {block!r}")
    if block.law is None:
        raise TypeError(f"choose: {block.name} waits for a population: begin with spawn(...)")
    return Estimate(block)


def law_of_estimate(estimator: Callable, prior: Target) -> tuple[LawKind, tuple[str, ...]]:
    """Return the law that ``estimator(parameters, stage)`` states, and its derivation.

    The estimate depends on parameters, so it is built at an abstract draw from the prior. A
    function of the user's own, or a prior without sampler, is taken at its word.
    """
    taken = (UNBIASED_ESTIMATE, ("taken to be unbiased, as declared",))
    if prior.sample_prior is None:
        return taken
    law = getattr(example_of(prior, lambda x: estimator(x, None)), "law", None)
    return taken if law is None else (law.kind, tuple(law.explain().splitlines()))


def example_of(prior: Target, build: Callable) -> Any:
    """Return ``build(parameters)`` at an abstract draw from the prior, to be looked at only.

    Raises
    ------
    ImproperPriorError
        Without ``sample_prior``.
    """
    prior.position_spec()
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(build(prior.draw_prior(key))), jax.random.key(0))
    return found[0]
