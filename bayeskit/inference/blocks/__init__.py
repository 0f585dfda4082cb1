"""Blocks: the pieces that compose, with ``>>``, into every algorithm.

A block maps a :class:`~bayeskit.inference.population.Population` to another and states, as an
arrow on laws, what the result stands for. Composition checks that the laws fit. Functions
handed to blocks are written for one particle:

- a sampler is ``sample(key) -> particle``;
- a potential is ``log_g(stage, particle) -> ()``; where a step extends particles,
  ``log_g(stage, previous, particle)``;
- a proposal is ``kernel(key, stage, previous) -> particle``.

The *stage* is the time index inside :func:`scan`, and a
:class:`~bayeskit.inference.measure.TemperingStage` on a path of an SMC sampler.
"""

from bayeskit.inference.blocks.base import Block, Chain, Custom, custom, run
from bayeskit.inference.blocks.conditional_resampling import (
    conditional_ancestors,
    conditional_threshold,
)
from bayeskit.inference.blocks.fitted_moving import (
    FittedMove,
    FittedProposal,
    MovePlan,
    fitted_random_walk,
)
from bayeskit.inference.blocks.freezing import (
    Follow,
    Plan,
    follow,
    following,
    freeze,
    plan_of,
    weighing_and_moving,
)
from bayeskit.inference.blocks.group_resampling import (
    ResampleButterfly,
    ResampleInGroups,
    resample_butterfly,
    resample_in_groups,
)
from bayeskit.inference.blocks.loops import LoopState, Scan, Until, When, scan, until, when
from bayeskit.inference.blocks.metropolis_resampling import (
    ResampleMetropolis,
    metropolis_ancestors,
    resample_metropolis,
)
from bayeskit.inference.blocks.moving import Move, move
from bayeskit.inference.blocks.offspring import Resampling
from bayeskit.inference.blocks.piloting import Piloted, piloted
from bayeskit.inference.blocks.remembering import Remember, remember
from bayeskit.inference.blocks.renewing import Persist, Renew, Reserve, persist, renew, reserve
from bayeskit.inference.blocks.resampling import Resample, draw_ancestors, resample
from bayeskit.inference.blocks.surviving import (
    ExtendAlive,
    SpawnAlive,
    extend_alive,
    spawn_alive,
)
from bayeskit.inference.blocks.tempering import Adapt, Schedule, adapt, schedule
from bayeskit.inference.blocks.threshold_resampling import (
    ResampleThreshold,
    resample_threshold,
)
from bayeskit.inference.blocks.transport_resampling import (
    ResampleTransport,
    resample_transport,
)
from bayeskit.inference.blocks.weighting import Extend, Spawn, Weigh, extend, spawn, weigh

__all__ = [
    "Adapt",
    "Block",
    "Chain",
    "Custom",
    "Extend",
    "ExtendAlive",
    "FittedMove",
    "FittedProposal",
    "Follow",
    "LoopState",
    "Move",
    "MovePlan",
    "Persist",
    "Piloted",
    "Plan",
    "Remember",
    "Renew",
    "Resample",
    "ResampleButterfly",
    "ResampleInGroups",
    "ResampleMetropolis",
    "ResampleThreshold",
    "ResampleTransport",
    "Resampling",
    "Reserve",
    "Scan",
    "Schedule",
    "Spawn",
    "SpawnAlive",
    "Until",
    "Weigh",
    "When",
    "adapt",
    "conditional_ancestors",
    "conditional_threshold",
    "custom",
    "draw_ancestors",
    "extend",
    "extend_alive",
    "fitted_random_walk",
    "follow",
    "following",
    "freeze",
    "metropolis_ancestors",
    "move",
    "persist",
    "piloted",
    "plan_of",
    "remember",
    "renew",
    "resample",
    "resample_butterfly",
    "resample_in_groups",
    "resample_metropolis",
    "resample_threshold",
    "resample_transport",
    "reserve",
    "run",
    "scan",
    "schedule",
    "spawn",
    "spawn_alive",
    "until",
    "weigh",
    "weighing_and_moving",
    "when",
]
