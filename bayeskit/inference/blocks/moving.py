"""Move every particle by a kernel that leaves its target invariant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.errors import LawMismatch
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.kernels.base import Kernel
from bayeskit.inference.law import INVARIANT, origin
from bayeskit.inference.measure import Path, PointState, Target, TemperingStage
from bayeskit.inference.population import Population
from bayeskit.inference.transitions.base import Transition, measure_of, weakest

__all__ = ["Move", "move"]


# Golden-ratio sequence: the lengths of successive trajectories are spread evenly.
_GOLDEN = 0.6180339887498949


class _MoveTotals(NamedTuple):
    acceptance: jax.Array
    not_finite: jax.Array
    divergent: jax.Array

    def plus(self, info: Any) -> _MoveTotals:
        return _MoveTotals(
            self.acceptance + jnp.mean(accel.gathered(info.acceptance)),
            self.not_finite + jnp.sum(info.not_finite, dtype=jnp.int32),
            self.divergent + jnp.sum(info.divergent, dtype=jnp.int32),
        )


@dataclass(frozen=True, eq=False, repr=False)
class Move(Block):
    """Apply an invariant kernel to every particle. See :func:`move`."""

    kernel: Kernel | Transition
    on: Path | Target | None = None
    steps: int = 1
    keep: str = "last"
    repeats: int | None = None
    tuning: Any = None

    @property
    def name(self):
        kept = ", keep all" if self.keep == "all" else ""
        return f"move({self.kernel.name}, {self.steps} steps{kept})"

    def density(self, stage: Any) -> Any:
        """Return the density that the kernel leaves invariant at a stage."""
        on: Any = self.on
        return on.at(stage) if isinstance(on, Path) else on.density()

    def tuning_at(self, stage: Any) -> Any:
        """Return the tuning that was adapted on the way, or the fixed one."""
        if self.tuning is not None:
            return self.tuning
        return getattr(stage, "tuning", None)

    def transition(self, key: Any, state: Any, stage: Any, number: Any) -> tuple[Any, Any]:
        """Apply kernel step ``number`` of this stage to one refreshed particle."""
        if isinstance(self.kernel, Transition):
            return self.kernel.step(key, state, stage)
        tuning = self.tuning_at(stage)
        if getattr(tuning, "phase", None) is not None:
            phase = jnp.mod(_GOLDEN * (number + 1.0), 1.0).astype(tuning.step_size.dtype)
            tuning = tuning._replace(phase=phase)
        return self.kernel.step(key, state, self.density(stage), tuning)

    def refreshed(self, particle: Any, stage: Any) -> Any:
        """Return one particle with the cached values of the density at hand."""
        if isinstance(self.kernel, Transition):
            return particle
        density = self.density(stage)
        if isinstance(particle, PointState):
            return self.kernel.refresh(particle, density)
        return self.kernel.init(particle, density)

    def restored(self, state: Any, particle: Any) -> Any:
        """Return a moved state in the form in which the population keeps its particles."""
        if isinstance(self.kernel, Transition):
            return state
        if isinstance(particle, PointState):
            # A kernel's own state may hold more, such as a momentum.
            return particle._replace(position=state.position, components=state.components)
        return state.position

    def observed(self, states: Any) -> Any:
        """Return the part of states (round, particle, ...) that tells how a move mixes."""
        if isinstance(self.kernel, Transition) and not isinstance(states, PointState):
            return self.kernel.position(states)
        return states

    def run(self, key, population=None):
        stage, particles = population.stage, population.particles
        states = jax.vmap(lambda x: self.refreshed(x, stage))(particles)
        if self.repeats is not None:
            repeats = self.repeats
        else:
            repeats = getattr(stage, "repeats", 1)
        rounds = jnp.arange(self.steps)
        zero = jnp.zeros((), population.log_weights.dtype)
        count = jnp.zeros((), jnp.int32)

        def one_round(round_key, carry, number):
            def one_step(step_key, inner, repeat_number):
                now, totals = inner
                now, info = random.lanes(
                    lambda k, s: self.transition(k, s, stage, number * repeats + repeat_number),
                    step_key,
                    now,
                )
                return now, totals.plus(info)

            carry = random.repeat(one_step, round_key, carry, repeats)
            return carry, self.restored(carry[0], particles) if self.keep == "all" else None

        (last, totals), kept = random.scan(
            one_round, key, (states, _MoveTotals(zero, count, count)), rounds
        )
        moved = self.restored(last, particles)
        num_steps = self.steps * repeats
        info = {
            "acceptance": totals.acceptance / num_steps,
            "repeats": jnp.asarray(repeats, jnp.int32),
            "num_not_finite": totals.not_finite,
            "num_divergent": totals.divergent,
        }
        if self.keep == "all":
            kept = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), particles, kept)
            info["correlation"] = _correlation(self.observed(kept), 1)
            population = _as_independent_chains(population, kept)
        else:
            both = jax.tree.map(lambda a, b: jnp.stack([a, b]), particles, moved)
            info["correlation"] = _correlation(self.observed(both), 1)
            population = population._replace(particles=moved)
        if isinstance(stage, TemperingStage):
            stage = stage._replace(
                acceptance=info["acceptance"], correlation=info["correlation"]
            )
            population = population._replace(stage=stage)
        return population, info

    @property
    def expects(self):
        if isinstance(self.kernel, Transition):
            return self.kernel.measure
        return measure_of(self.on)

    def arrow(self, law):
        if self.expects != law.measure:
            raise LawMismatch(
                f"move: {self.kernel.name} leaves {self.expects} invariant, but the population "
                f"stands for {origin(self.expects, law.measure)}. Weigh to {self.expects} "
                "first, or move on the target that the population stands for"
            )
        before = law.derivation[-1] if law.derivation else ""
        if self.keep == "all" and (not before.startswith("resample") or ", ess<" in before):
            raise LawMismatch(
                "move(keep='all') gives all states of a chain the weight of its start, so it "
                "must follow resample(...) without ess_below, which makes the weights equal"
            )
        # Kernels of users may state no law: they are taken to keep the measure.
        kind = getattr(self.kernel, "law_kind", INVARIANT)
        return law.then(law.measure, self.name, weakest([kind], law.kind))


def _correlation(states: Any, lag: int) -> jax.Array:
    """Return the worst correlation, over coordinates and log-likelihood, at a lag of rounds.

    Parameters
    ----------
    states : particles with axes (round, particle, ...)
    """
    rows = jax.tree.leaves(states.position if isinstance(states, PointState) else states)
    if isinstance(states, PointState):
        rows.append(states.components[..., -1:])
    table = jnp.concatenate([r.reshape(*r.shape[:2], -1).astype(float) for r in rows], axis=-1)
    table = accel.gathered(table)
    centred = table - jnp.mean(table, axis=(0, 1))
    centred = jnp.where(jnp.isfinite(centred), centred, 0.0)
    spread = jnp.mean(centred**2, axis=(0, 1))
    covariance = jnp.mean(centred[lag:] * centred[:-lag], axis=(0, 1))
    return jnp.max(jnp.where(spread > 0, covariance / jnp.where(spread > 0, spread, 1.0), 0.0))


def _as_independent_chains(population: Population, kept: Any) -> Population:
    """Flatten states (round, chain, ...) to one population; each chain is a group."""
    length, num_chains = jax.tree.leaves(kept)[0].shape[:2]
    num = length * num_chains
    particles = jax.tree.map(lambda a: a.reshape(num, *a.shape[2:]), kept)
    lineage = population.lineage
    if lineage is not None:
        label = jnp.tile(jnp.arange(num_chains, dtype=jnp.int32), length)
        lineage = lineage.restarted(label, num_chains)
    ancestors = population.ancestors
    return population._replace(
        particles=particles,
        log_weights=jnp.full(num, -math.log(num), population.log_weights.dtype),
        lineage=lineage,
        # All states of a chain descend from what its start is a copy of.
        ancestors=None if ancestors is None else jnp.tile(ancestors, length),
    )


def move(
    kernel: Kernel | Transition,
    on: Path | Target | None = None,
    steps: int = 1,
    *,
    keep: str = "last",
    repeats: int | None = None,
    tuning: Any = None,
) -> Block:
    """Apply a kernel that leaves the population's target invariant (law L3).

    Parameters
    ----------
    kernel : Kernel or Transition
        A transition moves whole particles as they are; a kernel moves their positions.
    on : Path or Target
        What a kernel leaves invariant: the path at its current stage, or a target. A transition
        knows its own.
    steps : int
        Rounds of moves; each is ``repeats`` kernel steps.
    keep : {"last", "all"}
        ``"all"`` keeps the starting states and the state after every round, so that M
        particles become M (steps + 1); it must follow a resampling.
    repeats : int, optional
        Kernel steps a round. Default: as many as the stage says that mixing needs.
    tuning : Tuning, optional
        Fixed parameters of the kernel. Default: those of the stage.

    Returns
    -------
    Block
        Weights stay as they are.

    Raises
    ------
    ValueError
        For counts below 1 or an unknown ``keep``.
    TypeError
        For a kernel without ``on``, or a transition with it.

    Examples
    --------
    A move needs a population that stands for what its kernel keeps:

    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * x[0] ** 2)
    >>> block = bi.move(bi.RandomWalk(), target, steps=5)
    >>> print(block.explain())
    given a population that stands for π:
    move(random-walk Metropolis, 5 steps)                      stands for π
    => L2 properly weighted for π: ...
    >>> bi.spawn(lambda key: bi.random.normal(key, (1,)), 100, bi.Measure("N(0, 4)")) >> block
    Traceback (most recent call last):
        ...
    bayeskit.errors.LawMismatch: move: ..., but the population stands for N(0, 4). Weigh to π...
    """
    if isinstance(kernel, Transition) == (on is not None):
        raise TypeError(
            f"move: the transition {kernel.name} knows what it leaves invariant, so on= is not "
            "given"
            if on is not None
            else f"move: the kernel {kernel.name} needs on=, the path or target it is to keep"
        )
    if keep not in ("last", "all"):
        raise ValueError(f"keep must be 'last' or 'all', got {keep!r}")
    for name, value in (("steps", steps), ("repeats", repeats)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    return Move(kernel, on, steps, keep, repeats, tuning)
