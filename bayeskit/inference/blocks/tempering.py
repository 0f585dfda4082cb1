"""Choose the next temperature and tune the kernel that will move there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bayeskit import accel
from bayeskit.inference.adaptation import adapted_repeats, adapted_tuning
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.law import CONSISTENT, require
from bayeskit.inference.measure import TemperedPath, TemperingStage

__all__ = ["Adapt", "Schedule", "adapt", "schedule"]


@dataclass(frozen=True, eq=False, repr=False)
class Schedule(Block):
    """Choose the next inverse temperature. See :func:`schedule`."""

    path: TemperedPath
    ess: float = 0.5
    ladder: tuple[float, ...] | None = None

    @property
    def name(self):
        return f"schedule(ess={self.ess:g})" if self.ladder is None else "schedule(ladder)"

    def run(self, key, population=None):
        stage: TemperingStage = population.stage
        if self.ladder is None:
            log_likelihood = population.particles.components[:, 1]
            chosen = accel.temper_step(
                log_likelihood, population.log_weights, stage.current, self.ess
            )
            # No step is found only if no likelihood is finite: go to the end, so that weighing
            # shows an evidence of zero instead of standing still for ever.
            chosen = jnp.where(chosen > stage.current, chosen, 1.0)
        else:
            rungs = jnp.asarray(self.ladder, stage.current.dtype)
            chosen = rungs[jnp.minimum(stage.number + 1, len(self.ladder) - 1)]
        stage = stage._replace(
            number=stage.number + 1,
            previous=stage.current,
            current=chosen.astype(stage.current.dtype),
        )
        return population._replace(stage=stage), {"inverse_temperature": stage.current}

    @property
    def expects(self):
        return self.path.measure.at("t-1")

    def arrow(self, law):
        require(self.expects, law.measure, f"{self.name}: starts from")
        kind = CONSISTENT if self.ladder is None else None
        return law.then(law.measure, self.name, kind)


def schedule(path: TemperedPath, ess: float = 0.5, ladder: Any = None) -> Block:
    """Choose the next inverse temperature of a tempered path (law L10, L2 with a ladder).

    Parameters
    ----------
    path : TemperedPath
    ess : float in (0, 1)
        The increment is the largest that keeps the effective sample size of the weighted
        population at this fraction.
    ladder : sequence of float, optional
        Fixed inverse temperatures, from 0 strictly up to 1, instead of adapting.

    Raises
    ------
    ValueError
        For a fraction outside (0, 1) or a ladder that does not lead from 0 up to 1.
    """
    if ladder is not None:
        ladder = tuple(float(rung) for rung in ladder)
        increasing = all(a < b for a, b in itertools.pairwise(ladder))
        if len(ladder) < 2 or not increasing or ladder[0] != 0.0 or ladder[-1] != 1.0:
            raise ValueError(
                "ladder must increase strictly from 0 to 1, got "
                f"{ladder if len(ladder) < 8 else (*ladder[:3], '...', *ladder[-3:])}"
            )
    elif not 0 < ess < 1:
        raise ValueError(f"ess must be a fraction in (0, 1), got {ess!r}")
    return Schedule(path, ess, ladder)


@dataclass(frozen=True, eq=False, repr=False)
class Adapt(Block):
    """Tune the move kernel to the weighted population. See :func:`adapt`."""

    kernel: Any
    correlation: float = 0.5
    max_repeats: int = 64

    @property
    def name(self):
        return f"adapt({self.kernel.name})"

    def run(self, key, population=None):
        stage: TemperingStage = population.stage
        tuning = adapted_tuning(self.kernel, population, stage.tuning, stage.acceptance)
        repeats = adapted_repeats(
            stage.repeats, stage.correlation, self.correlation, self.max_repeats
        )
        stage = stage._replace(tuning=tuning, repeats=repeats)
        info = {"step_size": tuning.step_size, "tuning": tuning}
        return population._replace(stage=stage), info

    def arrow(self, law):
        return law.then(law.measure, self.name, CONSISTENT)


def adapt(kernel: Any, correlation: float = 0.5, max_repeats: int = 64) -> Block:
    """Tune a kernel to the population before it moves (law L10).

    The metric is the weighted covariance, the step size follows the acceptance of the last
    moves, and the number of kernel steps between kept states follows how much they still
    resembled each other. Nothing depends on the outcome of the moves that are about to be
    made. The info holds the ``tuning``, so that :func:`freeze` can take it for another run.

    Parameters
    ----------
    kernel : Kernel
    correlation : float in (0, 1)
        Wanted correlation, over the worst coordinate and the log-likelihood, between a state
        and the next kept one.
    max_repeats : int
        Most kernel steps between two kept states.
    """
    if not 0 < correlation < 1:
        raise ValueError(f"correlation must be in (0, 1), got {correlation!r}")
    return Adapt(kernel, correlation, max_repeats)
