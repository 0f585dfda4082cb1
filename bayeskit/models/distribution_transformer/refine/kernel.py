"""Moves that jump by the amortised posterior and then go on from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bayeskit.inference import random
from bayeskit.inference.kernels import HMC, Kernel, PriorProposal, RandomWalk
from bayeskit.inference.kernels.base import StepInfo, Tuning
from bayeskit.inference.measure import Density, PointState

__all__ = ["FarAndNear", "moves_for"]


@dataclass(frozen=True)
class FarAndNear(Kernel):
    """Propose a draw from the prior, or from the reference of a bridge; then move locally.

    The first gets from mode to mode, the second to where the reference has too little mass.
    Both leave the density invariant, hence both in turn. What is adapted is the local kernel.

    Parameters
    ----------
    near : Kernel
        The local one.
    far : PriorProposal
    """

    near: Kernel
    far: PriorProposal = field(default_factory=PriorProposal)

    reversible = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """Both names."""
        return f"{self.far.name}, then {self.near.name}"

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the local kernel does."""
        return self.near.needs_gradient

    @property
    def target_acceptance(self) -> float:  # type: ignore[override]
        """That of the local kernel."""
        return self.near.target_acceptance

    @property
    def max_step_size(self) -> float:  # type: ignore[override]
        """That of the local kernel."""
        return self.near.max_step_size

    def default_step_size(self, dim: int) -> float:
        """Return that of the local kernel."""
        return self.near.default_step_size(dim)

    def step(
        self, key: Any, state: PointState, density: Density, tuning: Tuning
    ) -> tuple[PointState, StepInfo]:
        """Return the next state, and the info of the local step."""
        far_key, near_key = random.split(key)
        bare = PointState(state.position, state.components)
        bare, _ = self.far.step(far_key, bare, density, tuning)
        return self.near.step(near_key, self.near.refresh(bare, density), density, tuning)


def moves_for(has_gradient: bool) -> FarAndNear:
    """Return the moves for densities with or without gradient."""
    return FarAndNear(HMC() if has_gradient else RandomWalk())
