"""Freeze what adapted: the constants of a pilot run, in a run of their own."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from bayeskit.inference.blocks.base import Block, Chain, leaves
from bayeskit.inference.blocks.loops import Scan, Until, When
from bayeskit.inference.blocks.resampling import Resample
from bayeskit.inference.blocks.tempering import Adapt, Schedule
from bayeskit.inference.blocks.weighting import Spawn
from bayeskit.inference.law import require
from bayeskit.inference.measure import Path, TemperingStage

__all__ = [
    "Follow",
    "Plan",
    "follow",
    "following",
    "freeze",
    "plan_of",
    "weighing_and_moving",
]


class Plan(NamedTuple):
    """What was chosen at each stage of a tempered run, with a leading axis of stages.

    Parameters
    ----------
    inverse_temperature : (num_stages,) array
    repeats : (num_stages,) int32 array
        Kernel steps between two kept states.
    tuning : pytree
        Parameters of the move kernel.
    """

    inverse_temperature: Any
    repeats: Any
    tuning: Any = None


@dataclass(frozen=True, eq=False, repr=False)
class Follow(Block):
    """Do as the plan of the stage says. See :func:`follow`."""

    path: Path

    @property
    def name(self):
        return "follow(plan)"

    def run(self, key, population=None):
        stage: TemperingStage = population.stage
        choice = jax.tree.map(lambda leaf: leaf[stage.number], stage.plan)
        stage = stage._replace(
            number=stage.number + 1,
            previous=stage.current,
            current=choice.inverse_temperature,
            repeats=choice.repeats,
            tuning=choice.tuning,
        )
        info = {self.path.coordinate: stage.current}
        if hasattr(stage.tuning, "step_size"):
            info["step_size"] = stage.tuning.step_size
        return population._replace(stage=stage), info

    @property
    def expects(self):
        return self.path.measure.at("t-1")

    def arrow(self, law):
        require(self.expects, law.measure, f"{self.name}: starts from")
        return law.then(law.measure, self.name)


def follow(path: Path) -> Block:
    """Take temperature, tuning and repeats from the plan that the stage carries (law L2).

    In place of :func:`schedule` and :func:`adapt`. The plan is data: one compiled program
    follows every plan of as many stages.

    Parameters
    ----------
    path : Path
    """
    return Follow(path)


def following(block: Block) -> Block:
    """Return a block with :func:`follow` in place of all that adapts in it."""
    frozen = _without_choices(block)
    if frozen is None:
        raise TypeError(f"{block.name} only adapts: freeze the whole algorithm")
    return frozen


def _without_choices(block: Block) -> Block | None:
    """Return a block that follows its plan; None for one of which nothing is left."""
    if isinstance(block, Schedule):
        return Follow(block.path)
    if isinstance(block, Adapt):
        return None
    if isinstance(block, Chain):
        parts = [part for part in map(_without_choices, block.parts) if part is not None]
        return Chain(*parts) if len(parts) == 2 else next(iter(parts), None)
    if isinstance(block, Until | Scan | When):
        return replace(block, body=following(block.body))
    return block


def weighing_and_moving(body: Block) -> tuple[Block, Block]:
    """Return a round of a sampler as two: what chooses and weighs, what resamples and moves.

    The first draws nothing, the second adapts nothing.
    """
    parts = list(leaves(body))
    cut = next(i for i, part in enumerate(parts) if isinstance(part, Resample))
    first, second = parts[:cut], parts[cut:]
    return functools.reduce(Chain, first), functools.reduce(Chain, second)


def freeze(block: Block, info: dict[str, Any]) -> Block:
    """Return an adaptive algorithm with the constants of one of its runs (law L10 to L2).

    Temperatures, tunings and repeats are chosen once, by the pilot run. With them fixed, a run
    with *another* key is exactly unbiased: the mean of its evidence is the evidence.

    Parameters
    ----------
    block : Block
        Begins with :func:`spawn`, such as what :func:`tempered_smc` returns.
    info : dict
        Of one run of it: ``population, info = run(block, key, with_info=True)``.

    Raises
    ------
    TypeError
        If the block waits for a population.
    ValueError
        If the info does not belong to a tempered run that arrived at temperature 1.

    Notes
    -----
    The pilot run must not be part of the result, and its key must not be used again.

    References
    ----------
    Beskos, Jasra, Kantas & Thiery (2016), *On the convergence of adaptive sequential Monte
    Carlo methods*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum(x**2) - 0.919,
    ...     log_likelihood=lambda x: -2.0 * jnp.sum((x - 1) ** 2),
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> adaptive = bi.tempered_smc(target, bi.RandomWalk(), 64)
    >>> _, info = bi.run(adaptive, 0, with_info=True)
    >>> frozen = bi.freeze(adaptive, info)
    >>> str(adaptive.law.kind), str(frozen.law.kind)
    ('L10 consistent', 'L2 properly weighted')
    """
    if block.law is None:
        raise TypeError(
            f"{block.name} waits for a population: freeze what begins with spawn(...)"
        )
    plan = plan_of(info)

    def planned(part):
        if isinstance(part, Chain):
            return Chain(planned(part.first), part.second)
        if not isinstance(part, Spawn) or not isinstance(part.stage, TemperingStage):
            raise TypeError(
                f"{block.name} does not begin with spawn(..., stage=path.start(...)): there is "
                "no stage to carry the plan"
            )
        return replace(part, stage=part.stage._replace(plan=plan))

    return planned(following(block))


def plan_of(info: dict[str, Any]) -> Plan:
    """Return what a run wrote down about its choices."""
    missing = {"num_rounds", "inverse_temperature", "repeats"} - set(info)
    if missing:
        raise ValueError(
            f"info lacks {sorted(missing)}: pass what run(block, key, with_info=True) returns "
            "beside the population of a tempered algorithm"
        )
    num = int(info["num_rounds"])
    # NumPy arrays take the precision of the program that follows them.
    chosen = (info["inverse_temperature"], info["repeats"], info.get("tuning"))
    plan = Plan(*jax.tree.map(lambda leaf: np.asarray(leaf)[:num], chosen))
    if num == 0 or plan.inverse_temperature[-1] != 1.0:
        reached = plan.inverse_temperature[-1] if num else 0.0
        raise ValueError(
            f"the pilot run ended at the inverse temperature {reached:.3g} and not at 1: give "
            "it more stages or particles"
        )
    return plan
