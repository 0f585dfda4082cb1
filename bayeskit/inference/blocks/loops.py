"""Run a block for each time, until a condition holds, or only where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.errors import LawMismatch, UnenumerableDrawError
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block, leaves, path_of
from bayeskit.inference.blocks.offspring import Resampling
from bayeskit.inference.keys import EnumerationKey
from bayeskit.inference.law import CONSISTENT, UNKNOWN, Law, Measure, require
from bayeskit.inference.population import Population

__all__ = ["LoopState", "Scan", "Until", "When", "scan", "until", "when"]


@dataclass(frozen=True, eq=False, repr=False)
class When(Block):
    """Run a block where a condition holds. See :func:`when`."""

    predicate: Callable
    body: Block
    is_planned: bool = False

    @property
    def name(self):
        return f"when({self.body.name})"

    @property
    def parts(self):
        return (self.body,)

    def run(self, key, population=None):
        needed = self.predicate(population)

        def changed(branch_key, carried):
            return self.body.run(branch_key, carried[0])

        shapes = _info_shapes(self.body, population)
        blank = jax.tree.map(_blank, shapes)
        population, info = random.cond(needed, changed, key, (population, blank))
        return population, {**info, "applied": needed}

    def arrow(self, law):
        inner = self.body.arrow(law)
        if inner.measure != law.measure:
            raise LawMismatch(
                f"when: the block inside takes {law.measure} to {inner.measure}, so the result "
                "would stand for either. It must keep the measure"
            )
        # Resampling keeps the mean of every population. A move keeps that of the measure as a
        # whole, not of the part of it where the condition holds.
        is_safe = self.is_planned or all(isinstance(b, Resampling) for b in leaves(self.body))
        if inner.kind != UNKNOWN and not is_safe:
            return law.then(law.measure, self.name, CONSISTENT)
        return law.then(law.measure, self.name, inner.kind)


def when(predicate: Callable, body: Block, *, by_stage: bool = False) -> Block:
    """Run ``body`` where ``predicate(population)`` holds, else change nothing.

    The predicate may look at weights, stage and particles of the population before the block,
    never at randomness that comes later. The law carries over where ``body`` resamples. Where
    it also moves, the law is L10: a kernel leaves the measure invariant, but not the part of it
    on which the condition holds, and the bias falls with the number of particles. For law L2
    resample by ``resample(ess_below=...)`` and move always.

    With ``by_stage`` it is ``predicate(stage)``. Such a plan was made before, and every law
    carries over.

    Parameters
    ----------
    predicate : callable (population) -> () bool array
        With ``by_stage`` a callable (stage) -> () bool array.
    body : Block
    by_stage : bool
        The predicate sees the stage only, and the law of the body is kept.

    Returns
    -------
    Block

    Examples
    --------
    A block that runs where the weights are uneven, as these are not:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> block = bi.when(lambda p: jnp.max(jnp.exp(p.log_weights)) > 0.9, bi.resample())
    >>> even = jnp.log(jnp.array([0.5, 0.5]))
    >>> population = bi.Population(jnp.array([7.0, 8.0]), even, log_evidence=jnp.zeros(()))
    >>> population, info = block.run(jax.random.key(0), population)
    >>> bool(info["applied"]), population.particles.tolist()
    (False, [7.0, 8.0])
    """
    if by_stage:
        return When(lambda population: predicate(population.stage), body, is_planned=True)
    return When(predicate, body)


def _blank(shape: jax.ShapeDtypeStruct) -> jax.Array:
    empty = jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else 0
    return jnp.full(shape.shape, empty, shape.dtype)


def _info_shapes(body: Block, population: Population) -> Any:
    return jax.eval_shape(lambda p: body.run(jax.random.key(0), p)[1], population)


def _inductive_law(body: Block, path: Measure, what: str, law: Law) -> Law:
    """Prove by induction that a loop takes γ[0] to γ[T] if a round takes γ[t-1] to γ[t]."""
    require(path.at("0"), law.measure, f"{what}: starts from")
    before = path.at("t-1")
    inner = body.arrow(Law(before, law.kind))
    if inner.measure != path.at("t"):
        raise LawMismatch(
            f"{what}: one round takes {before} to {inner.measure}, not to {path.at('t')}. "
            "The declared potentials of a round must add up to one step of the path"
        )
    lines = (*law.derivation, f"{what}:", *("    " + line for line in inner.derivation))
    return Law(path.at("T"), inner.kind, lines)


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Block):
    """A block for each time in turn. See :func:`scan`."""

    body: Block
    times: range
    path: Measure

    @property
    def name(self):
        return f"scan({self.body.name})"

    @property
    def expects(self):
        return self.path.at("0")

    @property
    def parts(self):
        return (self.body,)

    def run(self, key, population=None):
        if not len(self.times):
            return population, {}
        population = population._replace(stage=jnp.asarray(self.times[0], jnp.int32))

        def step(step_key, carried, time):
            return self.body.run(step_key, carried._replace(stage=time))

        return random.scan(step, key, population, jnp.asarray(self.times, jnp.int32))

    def arrow(self, law):
        what = f"scan over {len(self.times)} steps"
        return _inductive_law(self.body, self.path, what, law)


def scan(body: Block, times: range | None = None, path: Any = None) -> Block:
    """Run ``body`` once for each time, as one compiled loop.

    The law follows by induction: if a round takes γ[t-1] to γ[t], the loop takes γ[0] to γ[T].

    Parameters
    ----------
    body : Block
    times : range, optional
        Default: times 1, 2, ... of the Feynman-Kac model that the body is declared on.
    path : FeynmanKac or Path, optional
        What the loop runs along. Default: as declared in the body.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        If the body declares no path and none is given.

    Examples
    --------
    A particle filter, block by block:

    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=5,
    ... )
    >>> start = bi.spawn(walk.initial, 100) >> bi.weigh(walk.log_g0)
    >>> step = bi.resample(ess_below=0.5) >> bi.extend(walk.kernel, walk.log_g)
    >>> print((start >> bi.scan(step)).explain())
    spawn 100 independent draws                                stands for M0
    weigh by G0                                                stands for γ[0]
    scan over 4 steps:
        resample(systematic, ess<0.5)                              stands for γ[t-1]
        extend by M_t, G_t                                         stands for γ[t]
    => L2 properly weighted for γ[T]: ...
    """
    declared = path.measure if path is not None else path_of(body)
    if declared is None:
        raise ValueError("scan: no function of the body declares a path; give path= and times=")
    if times is None:
        num_steps = getattr(declared.owner, "num_steps", None)
        if num_steps is None:
            raise ValueError(f"scan: {declared.name} has no number of steps; give times=")
        times = range(1, num_steps)
    return Scan(body, times, declared)


class LoopState(NamedTuple):
    """State of an adaptive loop between two rounds.

    Parameters
    ----------
    key : key
        Round number i uses ``fold_in(key, i)``, so that stopping between rounds changes
        nothing.
    round : () int32 array
    population : Population
    infos : dict of arrays (max_rounds, ...)
    """

    key: Any
    round: jax.Array
    population: Population
    infos: dict[str, jax.Array]


@dataclass(frozen=True, eq=False, repr=False)
class Until(Block):
    """A block again and again until a condition holds. See :func:`until`."""

    condition: Callable
    body: Block
    path: Measure
    max_rounds: int = 200

    @property
    def name(self):
        return f"until({self.body.name})"

    @property
    def expects(self):
        return self.path.at("0")

    @property
    def parts(self):
        return (self.body,)

    def start(self, key: Any, population: Population) -> LoopState:
        """Return the state before the first round."""
        shapes = _info_shapes(self.body, population)
        infos = jax.tree.map(
            lambda s: _blank(jax.ShapeDtypeStruct((self.max_rounds, *s.shape), s.dtype)),
            shapes,
        )
        return LoopState(key, jnp.zeros((), jnp.int32), population, infos)

    def is_done(self, state: LoopState) -> jax.Array:
        """Return whether the condition holds, or nothing is left to go on with."""
        dead = ~jnp.isfinite(state.population.log_evidence)
        return self.condition(state.population.stage) | dead | (state.round >= self.max_rounds)

    def advance(self, state: LoopState, num_rounds: int | jax.Array) -> LoopState:
        """Run at most ``num_rounds`` more rounds."""
        last = state.round + num_rounds

        def one_round(now):
            population, info = self.body.run(random.fold_in(now.key, now.round), now.population)
            infos = jax.tree.map(lambda all_, one: all_.at[now.round].set(one), now.infos, info)
            return LoopState(now.key, now.round + 1, population, infos)

        return lax.while_loop(
            lambda now: ~self.is_done(now) & (now.round < last), one_round, state
        )

    def run(self, key, population=None):
        if isinstance(key, EnumerationKey):
            raise UnenumerableDrawError(
                "until has no fixed number of rounds, so its paths cannot be laid out in one "
                "program. Validate the block itself: it is then enumerated round by round"
            )
        state = self.advance(self.start(key, population), self.max_rounds)
        return state.population, {**state.infos, "num_rounds": state.round}

    def arrow(self, law):
        return _inductive_law(self.body, self.path, "until the path is complete", law)


def until(
    condition: Callable[[Any], jax.Array],
    body: Block,
    path: Any = None,
    max_rounds: int = 200,
) -> Block:
    """Run ``body`` until ``condition(stage)`` holds, as one compiled loop.

    Parameters
    ----------
    condition : callable (stage) -> () bool array
    body : Block
    path : Path, optional
        What the loop runs along. Default: as declared in the body.
    max_rounds : int
        Size of the record of infos; the loop ends there with the condition unmet.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        If nothing says which path the body follows, or for fewer rounds than 1.

    Examples
    --------
    Two rounds lead along a ladder of two steps; of a likelihood of 0.25 everywhere, that is the
    evidence:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> path = bi.TemperedPath(
    ...     Target(
    ...         log_prior=lambda x: -0.5 * x[0] ** 2,
    ...         log_likelihood=lambda x: jnp.log(0.25),
    ...         sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     )
    ... )
    >>> step = bi.schedule(path, ladder=[0.0, 0.5, 1.0]) >> bi.weigh(path.increment)
    >>> start = bi.spawn(path.initial, 4, stage=path.start())
    >>> block = start >> bi.until(path.is_complete, step)
    >>> population, info = bi.run(block, key=0, with_info=True)
    >>> int(info["num_rounds"]), round(float(jnp.exp(population.log_evidence)), 4)
    (2, 0.25)
    """
    declared = path.measure if path is not None else path_of(body)
    if declared is None:
        raise ValueError("until: no function of the body declares a path; give path=")
    if max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, got {max_rounds}")
    return Until(condition, body, declared, max_rounds)
