"""Freeze what adapted: the constants of a pilot run, in a run of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference.blocks.base import Block, Chain, leaves
from bayeskit.inference.blocks.loops import Scan, Until, When, when
from bayeskit.inference.blocks.renewing import Persist, Renew
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
    """What was chosen at each stage of a run along a path, with a leading axis of stages.

    Parameters
    ----------
    place : (num_stages,) array
        Such as an inverse temperature.
    repeats : (num_stages,) int32 array
        Kernel steps between two kept states.
    tuning : pytree
        Parameters of the move kernel.
    """

    place: Any
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
            current=choice.place,
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
    """Take place, tuning and repeats from the plan that the stage carries (law L2).

    In place of :func:`schedule` and :func:`adapt`. The plan is data: one compiled program
    follows every plan of as many stages.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Block

    Examples
    --------
    What adapts is consistent, what follows a plan is unbiased for any number of particles:

    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> path = bi.TemperedPath(
    ...     Target(
    ...         log_prior=lambda x: -0.5 * x[0] ** 2,
    ...         log_likelihood=lambda x: -2.0 * (x[0] - 1) ** 2,
    ...         sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     )
    ... )
    >>> rest = bi.weigh(path.increment) >> bi.resample() >> bi.move(bi.RandomWalk(), path)
    >>> start = bi.spawn(path.initial, 100, stage=path.start())
    >>> for first in (bi.schedule(path), bi.follow(path)):
    ...     block = start >> bi.until(path.is_complete, first >> rest)
    ...     print(first.name, "-", block.law.kind)
    schedule(ess=0.5) - L10 consistent
    follow(plan) - L2 properly weighted
    """
    return Follow(path)


class _Frozen:
    """Goes through a block and puts what a run wrote down in place of what chooses."""

    def __init__(self, info: dict[str, Any] | None):
        self.info = info
        self.num_decisions = 0

    def __call__(self, block: Block, number: Callable = lambda stage: stage.number - 1) -> Any:
        """Return a block without choices; None for one of which nothing is left.

        ``number(stage)`` is that of the round in the loop that the block stands in.
        """
        if isinstance(block, Schedule):
            return Follow(block.path)
        if isinstance(block, Adapt):
            return None
        if isinstance(block, Chain):
            parts = [self(part, number) for part in block.parts]
            parts = [part for part in parts if part is not None]
            return Chain(*parts) if len(parts) == 2 else next(iter(parts), None)
        if isinstance(block, Scan):
            first = block.times.start
            return self._around(block, lambda time: time - first)
        if isinstance(block, When) and self.info is not None:
            decisions = self._decisions()
            decided = lambda stage: jnp.asarray(decisions)[number(stage)]
            return when(decided, self._whole(block.body, number), by_stage=True)
        if isinstance(block, Until | When | Renew | Persist):
            return self._around(block, number)
        return block

    def _around(self, block: Any, number: Callable) -> Block:
        return replace(block, body=self._whole(block.body, number))

    def _whole(self, block: Block, number: Callable) -> Block:
        frozen = self(block, number)
        if frozen is None:
            raise TypeError(f"{block.name} only adapts: freeze the whole algorithm")
        return frozen

    def _decisions(self) -> np.ndarray:
        """Return whether the next block that ran where it was needed did so, by round."""
        self.num_decisions += 1
        name = "applied" + (f"_{self.num_decisions}" if self.num_decisions > 1 else "")
        assert self.info is not None
        return np.asarray(_entry(self.info, name), bool)


def following(block: Block) -> Block:
    """Return a block with :func:`follow` in place of all that adapts in it.

    What runs where it is needed goes on looking at the particles.
    """
    return _Frozen(None)._whole(block, lambda stage: stage.number - 1)


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

    Places on the path (temperatures, tolerances, levels), tunings, repeats and the rounds at
    which a :func:`when` ran are chosen once, by the pilot run. With them fixed, a run
    with *another* key is exactly unbiased: the mean of its evidence is the evidence.

    Parameters
    ----------
    block : Block
        Begins with :func:`spawn`, such as what :func:`tempered_smc`, :func:`ibis`,
        :func:`abc_smc`, :func:`nested_sampling` and :func:`smc2` return.
    info : dict
        Of one run of it: ``population, info = run(block, key, with_info=True)``.

    Returns
    -------
    Block
        With constants where the algorithm had parts that adapt.

    Raises
    ------
    TypeError
        If the block waits for a population, or nothing in it adapts.
    ValueError
        If the info does not belong to a run of the block that arrived at the end of its path.

    Notes
    -----
    The pilot run must not be part of the result, and its key must not be used again. The
    weights of :func:`persistent_sampling` are estimates in themselves: its law stays L10.

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
    schedules = [part for part in leaves(block) if isinstance(part, Schedule)]
    plan = plan_of(info, schedules[0].path) if schedules else None
    freezing = _Frozen(info)
    frozen = freezing(block)
    if plan is not None:
        return _planned(frozen, plan)
    if not freezing.num_decisions:
        raise TypeError(
            f"{block.name} has no schedule(path) and no when(...): nothing in it adapts that a "
            "run writes down"
        )
    return frozen


def _planned(block: Block, plan: Plan) -> Block:
    """Return a block whose particles carry a plan from the start."""
    if isinstance(block, Chain):
        return Chain(_planned(block.first, plan), block.second)
    if not isinstance(block, Spawn) or not isinstance(block.stage, TemperingStage):
        raise TypeError(
            f"{block.name} is not spawn(..., stage=path.start(...)): there is no stage to "
            "carry the plan"
        )
    return replace(block, stage=block.stage._replace(plan=plan))


def _entry(info: dict[str, Any], name: str) -> Any:
    if name not in info:
        raise ValueError(
            f"info lacks {name!r}: pass what run(block, key, with_info=True) returns beside "
            "the population of this very block"
        )
    return info[name]


def plan_of(info: dict[str, Any], path: Path) -> Plan:
    """Return what a run wrote down about its choices."""
    num = int(_entry(info, "num_rounds"))
    places, repeats = _entry(info, path.coordinate), _entry(info, "repeats")
    # NumPy arrays take the precision of the program that follows them.
    chosen = (places, repeats, info.get("tuning"))
    plan = Plan(*jax.tree.map(lambda leaf: np.asarray(leaf)[:num], chosen))
    reached = plan.place[-1] if num else path.begin
    # Places have the precision of the run, the end of the path has double.
    if reached != np.asarray(path.end, np.asarray(places).dtype):
        raise ValueError(
            f"the pilot run ended at the {path.coordinate.replace('_', ' ')} {reached:.3g} and "
            f"not at {path.end:.3g}: give it more stages or particles"
        )
    return plan
