"""Choose the next place on a path and tune the kernel that will move there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bayeskit.inference.adaptation import adapted_repeats, adapted_tuning
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.law import CONSISTENT, require
from bayeskit.inference.measure import Path, TemperingStage

__all__ = ["Adapt", "Schedule", "adapt", "schedule"]


@dataclass(frozen=True, eq=False, repr=False)
class Schedule(Block):
    """Choose the next place on a path. See :func:`schedule`."""

    path: Path
    ess: float = 0.5
    ladder: tuple[float, ...] | None = None

    @property
    def name(self):
        return f"schedule(ess={self.ess:g})" if self.ladder is None else "schedule(ladder)"

    def run(self, key, population=None):
        stage: TemperingStage = population.stage
        if self.ladder is None:
            chosen = self.path.choose(population, self.ess)
        else:
            rungs = jnp.asarray(self.ladder, stage.current.dtype)
            chosen = rungs[jnp.minimum(stage.number + 1, len(self.ladder) - 1)]
        stage = stage._replace(
            number=stage.number + 1,
            previous=stage.current,
            current=chosen.astype(stage.current.dtype),
        )
        return population._replace(stage=stage), {self.path.coordinate: stage.current}

    @property
    def expects(self):
        return self.path.measure.at("t-1")

    def arrow(self, law):
        require(self.expects, law.measure, f"{self.name}: starts from")
        kind = CONSISTENT if self.ladder is None else None
        return law.then(law.measure, self.name, kind)


def schedule(path: Path, ess: float = 0.5, ladder: Any = None) -> Block:
    """Choose the next place on a path, such as a temperature (law L10, L2 with a ladder).

    Parameters
    ----------
    path : Path
    ess : float in (0, 1)
        On a tempered path the increment is the largest that keeps the effective sample size of
        the weighted population at this fraction; others say what they take it for.
    ladder : sequence of float, optional
        Fixed places, from the beginning of the path strictly to its end, instead of adapting:
        from 0 up to 1 for inverse temperatures.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        For a fraction outside (0, 1) or a ladder that does not lead to the end.

    Examples
    --------
    Of two particles with likelihoods 1 and exp(-2.634), half the way keeps an effective sample
    size of 75 percent:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> path = bi.TemperedPath(
    ...     Target(
    ...         log_prior=lambda x: -0.5 * x[0] ** 2,
    ...         log_likelihood=lambda x: -x[0],
    ...         sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     )
    ... )
    >>> positions = jnp.array([[0.0], [2.634]])
    >>> population = bi.Population(
    ...     bi.PointState(positions, jnp.stack([path.target.components(x) for x in positions])),
    ...     jnp.log(jnp.array([0.5, 0.5])),
    ...     log_evidence=jnp.zeros(()),
    ...     stage=path.start()._replace(current=jnp.zeros(())),
    ... )
    >>> _, info = bi.schedule(path, ess=0.75).run(None, population)
    >>> round(float(info["inverse_temperature"]), 3)
    0.5
    """
    if ladder is not None:
        ladder = path.checked_ladder(ladder)
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

    Returns
    -------
    Block
        Particles and weights stay as they are; the stage carries the tuning.

    Raises
    ------
    ValueError
        If correlation is not in (0, 1).

    Examples
    --------
    The metric of a random walk from two particles, at -3 and 1:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> kernel = bi.RandomWalk()
    >>> population = bi.Population(
    ...     jnp.array([[-3.0], [1.0]]),
    ...     jnp.log(jnp.array([0.5, 0.5])),
    ...     log_evidence=jnp.zeros(()),
    ...     stage=bi.TemperingStage(0, 0.0, 0.0, tuning=kernel.default_tuning(1)),
    ... )
    >>> population, _ = bi.adapt(kernel).run(None, population)
    >>> tuning = population.stage.tuning
    >>> tuning.mean.tolist(), tuning.factor.tolist()
    ([-1.0], [2.0])
    """
    if not 0 < correlation < 1:
        raise ValueError(f"correlation must be in (0, 1), got {correlation!r}")
    return Adapt(kernel, correlation, max_repeats)
