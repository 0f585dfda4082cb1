"""Simulated answers of learners, from the model itself and not from a filter."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.block_filter import (
    ability_gaps,
    ability_variances,
    initial_moments,
    jumps,
    loadings,
    offsets,
    rates,
)
from bayeskit.models.knowledge_tracing.columns import outcomes
from bayeskit.models.knowledge_tracing.joint_filter import (
    SinceLast,
    joint_initial,
    joint_steps,
)
from bayeskit.models.knowledge_tracing.rows import STUDY, Labels, interactions_of
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import (
    Exposures,
    Trials,
    blank_row,
    padded_size,
    padded_trials,
    trials_of,
)

__all__ = ["Simulated", "simulated", "simulated_table"]

# Learners of one call.
_CHUNK = 512


class Simulated(NamedTuple):
    """Outcome, logit and ability (parts,) of each row."""

    outcome: Any
    logit: Any
    ability: Any


def _answer(key: Any, trial: Trials, logit: Any) -> jax.Array:
    right = random.accept(key, jax.nn.log_sigmoid(logit)).astype(jnp.int32)
    return jnp.where(trial.outcome == STUDY, STUDY, right)


def _by_blocks(key: Any, trials: Trials, parameters: dict, s: Structure) -> Simulated:
    """Draw the answers of one learner, component by component."""
    ability_key, block_key, row_key = random.split(key, 3)
    a_sd = jnp.sqrt(ability_variances(parameters, s))
    mean, variance = initial_moments(parameters, s)
    a = a_sd * random.normal(ability_key, a_sd.shape, a_sd.dtype)
    noise = random.normal(block_key, (s.num_kc + 1, s.block_dim), mean.dtype)
    x = mean + jnp.sqrt(variance) * noise
    stationary = parameters["sd"][s.slot_types] ** 2

    def one(row_key, carry, trial):
        a, x = carry
        ability_key, block_key, answer_key, jump_key = random.split(row_key, 4)
        stay, moved = ability_gaps(parameters, trial.row_gap, s)
        a = stay * a + jnp.sqrt(moved) * random.normal(ability_key, a.shape, a.dtype)
        u = trial.gap[:, None] * rates(parameters, trial.counts, s)
        here = x[trial.kc]
        spread = jnp.sqrt(-stationary * jnp.expm1(-2.0 * u))
        here = jnp.exp(-u) * here + spread * random.normal(block_key, here.shape, here.dtype)
        h = loadings(trial.version, trial.weight, s)
        logit = offsets(parameters, trial) + jnp.sum(a) + jnp.sum(h * here)
        outcome = _answer(answer_key, trial, logit)
        fade, pull, gain, jump = jumps(parameters, outcome, h, s)
        active = jnp.sum(h * here, axis=1, keepdims=True)
        noise = jnp.sqrt(jump) * random.normal(jump_key, here.shape, here.dtype)
        after = here - fade * here + pull * active + gain + noise
        return (a, x.at[trial.kc].set(after)), Simulated(outcome, logit, a)

    return random.scan(one, row_key, (a, x), trials)[1]


def _jointly(key: Any, trials: Trials, parameters: dict, s: Structure) -> Simulated:
    """Draw the answers of one learner whose components pull at one another."""
    first_key, row_key = random.split(key)
    initial = joint_initial(parameters, s)
    dim, parts = initial.mean.shape[0], len(s.ability)
    draw = lambda key, P: _root(P) @ random.normal(key, (dim,), P.dtype)

    def one(row_key, state, trial):
        move_key, answer_key, jump_key = random.split(row_key, 3)
        gap = jnp.broadcast_to(trial.row_gap, (s.num_kc,))
        since = SinceLast(gap, jnp.zeros((s.num_kc, 1 + s.num_versions), gap.dtype))
        step = joint_steps(parameters, trial, since, s)
        state = step.transition @ state + draw(move_key, step.noise)
        logit = step.offset + step.loading @ state
        outcome = _answer(answer_key, trial, logit)
        step = joint_steps(parameters, trial._replace(outcome=outcome), since, s)
        noise = jnp.sqrt(step.jump_variance) * random.normal(jump_key, (dim,), state.dtype)
        after = step.jump @ state + step.gain + noise
        return after, Simulated(outcome, logit, state[:parts])

    start = initial.mean + draw(first_key, initial.covariance)
    return random.scan(one, row_key, start, trials)[1]


def _root(P: jax.Array) -> jax.Array:
    """Return a square root of a covariance that may be singular."""
    values, vectors = jnp.linalg.eigh(P)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))


def simulated(key: Any, trials: Trials, parameters: dict, structure: Structure) -> Simulated:
    """Return the answers of one learner; ``trials.outcome`` tells which rows are studied."""
    draw = _jointly if structure.graph else _by_blocks
    return draw(key, trials, parameters, structure)


@quick_jit(static_argnames="structure")
def _many(key: Any, trials: Trials, parameters: dict, *, structure: Structure) -> Simulated:
    keys = jax.random.split(key, trials.real.shape[0])
    return jax.vmap(lambda k, t: simulated(k, t, parameters, structure))(keys, trials)


def simulated_table(
    design: Any,
    parameters: dict,
    structure: Structure,
    labels: Labels,
    *,
    time_unit: str,
    precision: str,
    key: Any,
    states: bool,
    draw: Any = None,
    shown: tuple[str, ...] | None = None,
) -> Any:
    """Return a design with simulated answers; see ``KnowledgeTracer.simulate``.

    Parameters
    ----------
    draw : callable (key, trials, parameters) -> Simulated, optional
        Of another model; its ``ability`` holds what is called ``shown``.
    """
    import pandas as pd

    table = pd.DataFrame(design).reset_index(drop=True)
    # All learners of a design are new, whatever they are called.
    fresh = labels._replace(learner={})
    rows, _ = interactions_of(table, time_unit=time_unit, labels=fresh, answers=False)
    learners = table["learner"].to_numpy()[rows.order]
    _, place = np.unique(learners, return_inverse=True)
    study = np.zeros(len(table), bool)
    if "study" in table:
        study = outcomes(np.asarray(table["study"]), "study") == 1
    rows = rows._replace(outcome=np.where(study[rows.order], STUDY, 0))
    num = int(place.max()) + 1
    trials, _ = trials_of(rows, place, Exposures.none(num, structure), structure)
    outcome = np.empty(len(table))
    logit = np.empty(len(table))
    if draw is None:
        draw = lambda *given: _many(*given, structure=structure)
        shown = tuple("ability" if n == "static" else "drift" for n in structure.ability)
    names = shown or ()
    ability = np.empty((len(table), len(names)))
    size = padded_size(int(np.bincount(place).max()))
    for number, begin in enumerate(range(0, num, _CHUNK)):
        chosen = np.flatnonzero((place >= begin) & (place < begin + _CHUNK))
        order = chosen[np.argsort(place[chosen], kind="stable")]
        own = Trials(*(x[order] for x in trials))
        padded, where = padded_trials(own, place[order] - begin, structure, precision)
        padded = _lengthened(padded, size, structure)
        found = draw(random.fold_in(key, number), padded, parameters)
        at = rows.order[order]
        outcome[at] = np.asarray(found.outcome)[where.learner, where.number]
        logit[at] = np.asarray(found.logit)[where.learner, where.number]
        ability[at] = np.asarray(found.ability)[where.learner, where.number]
    table["correct"] = np.where(outcome == STUDY, np.nan, outcome)
    if states:
        table["logit"] = logit
        for part, name in enumerate(names):
            table[name] = ability[:, part]
    return table


def _lengthened(trials: Trials, size: int, structure: Structure) -> Trials:
    """Return trials with rows filled up to one size, so that one program serves all pieces."""
    short = size - trials.real.shape[1]
    blanks = blank_row(structure, trials.kc.shape[2])

    def pad(name: str, x: np.ndarray) -> np.ndarray:
        fill = np.broadcast_to(blanks.get(name, 0), (len(x), short, *x.shape[2:]))
        return np.concatenate([x, fill.astype(x.dtype)], axis=1)

    return Trials(*(pad(n, x) for n, x in zip(Trials._fields, trials, strict=True)))
