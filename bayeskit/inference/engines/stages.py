"""The compiled programs of a tempered run: its start, and the two halves of a stage.

What is chosen and weighed runs for milliseconds and is compiled in a fraction of the time that
the moves take. A pilot run, the run on the bridge from it, and a run that follows the plan of
another share the program of the moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.adaptation import adapted_tuning
from bayeskit.inference.blocks import (
    Block,
    Chain,
    Plan,
    Until,
    following,
    plan_of,
    weighing_and_moving,
)
from bayeskit.inference.kernels import Kernel
from bayeskit.inference.measure import Path, Target
from bayeskit.inference.population import Population, total_log_evidence

__all__ = [
    "Info",
    "ancestors_in",
    "components_at",
    "gathered",
    "info_like",
    "moments_of",
    "moved",
    "plan_from",
    "separated",
    "started",
    "two_keys",
    "weighed",
]

Info = dict[str, Any]


@quick_jit(optimised=False)
def two_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the halves of a key."""
    first, second = random.split(key)
    return first, second


@quick_jit(static_argnames="engine", optimised=False)
def started(engine: Any, target: Target, key: jax.Array) -> tuple[Population, jax.Array]:
    """Return the population before the first stage, and the key of the stages."""
    start_key, stages_key = random.split(key)
    population, _ = engine.algorithm(target).first.run(start_key)
    if engine.keep_ancestors:
        own_place = jnp.arange(population.num_particles, dtype=jnp.int32)
        population = population._replace(ancestors=own_place)
    return population, stages_key


@quick_jit(static_argnames="engine", optimised=False)
def weighed(
    engine: Any,
    target: Target,
    population: Population,
    key: jax.Array,
    plan: Plan | None = None,
) -> tuple[Population, Info, jax.Array]:
    """Return the population weighed for the next temperature, the info, and the key to move."""
    body = _round(engine.algorithm(target))
    first, _ = weighing_and_moving(body if plan is None else following(body))
    first_key, second_key = random.split(random.fold_in(key, population.stage.number))
    population, info = first.run(first_key, _with_plan(population, plan))
    info["log_evidence"] = total_log_evidence(population)
    # Moves know nothing of a plan, and are the same program with and without.
    return _with_plan(population, None), info, second_key


@quick_jit(static_argnames="engine", optimised="lightly")
def moved(
    engine: Any, target: Target, population: Population, key: jax.Array
) -> tuple[Population, Info]:
    """Return the population after resampling and moves, and the info."""
    _, second = weighing_and_moving(_round(engine.algorithm(target)))
    population, info = second.run(key, population)
    return population, info | ancestors_in(population)


def ancestors_in(population: Population) -> Info:
    """Return the ancestors of a population by their name, if it keeps them."""
    ancestors = population.ancestors
    return {} if ancestors is None else {"ancestors": ancestors.astype(jnp.int32)}


@quick_jit(static_argnames="kernel", optimised=False)
def moments_of(kernel: Kernel, population: Population) -> tuple[jax.Array, jax.Array]:
    """Return the mean of a population, and the factor of its covariance."""
    tuning = adapted_tuning(kernel, population, population.stage.tuning, jnp.nan)
    return tuning.mean, tuning.factor


@quick_jit(optimised=False)
def components_at(target: Target, positions: jax.Array) -> jax.Array:
    """Return log prior and log-likelihood (chain, draw, 2) at positions (chain, draw, dim)."""
    return jax.vmap(jax.vmap(target.components))(positions)


def gathered(infos: Sequence[Info]) -> Info:
    """Return the infos of all stages as arrays with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *infos)


def separated(history: Info) -> list[Info]:
    """Return the infos of the stages, one by one."""
    num = len(jax.tree.leaves(history)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], history) for i in range(num)]


def info_like(
    engine: Any, target: Target, population: Population, key: jax.Array, plan: Plan | None
) -> Info:
    """Return shapes and dtypes of gathered infos, for one stage."""
    weighed_one, info, move_key = weighed.eval_shape(engine, target, population, key, plan)
    info.pop("log_evidence")
    shapes = {**info, **moved.eval_shape(engine, target, weighed_one, move_key)[1]}
    return jax.tree.map(lambda s: np.zeros((1, *s.shape), s.dtype), shapes)


def plan_from(path: Path, infos: Sequence[Info], num_rows: int) -> Plan:
    """Return what was chosen in a run along a path, for others to follow.

    The plan has ``num_rows`` whatever the number of stages, so that all share one program.
    """
    plan = plan_of({**gathered(infos), "num_rounds": len(infos)}, path)
    return jax.tree.map(
        lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], num_rows - len(leaf), 0)]), plan
    )


def _with_plan(population: Population, plan: Plan | None) -> Population:
    return population._replace(stage=population.stage._replace(plan=plan))


def _round(blocks: Block) -> Block:
    """Return what an algorithm does at each stage."""
    assert isinstance(blocks, Chain)
    assert isinstance(blocks.second, Until)
    return blocks.second.body
