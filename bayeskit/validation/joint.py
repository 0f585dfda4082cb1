r"""Does a step leave a law invariant that can only be drawn from? Tests from exact draws.

The state may be anything: parameters with the data simulated from them, a trajectory, a
position with its momentum. With :math:`\theta \sim p(\theta)`, :math:`y \sim p(y \mid \theta)`
and a step that moves θ given y, this is the joint distribution test of Geweke (2004) with many
chains of one step instead of a long one, so that no autocorrelation has to be estimated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.keys import LaneKey
from bayeskit.inference.law import REVERSIBLE
from bayeskit.validation.exact_checks import claimed_law
from bayeskit.validation.features import describe, evaluate, features_from
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.paired import (
    PairSums,
    conclusion,
    describe_currents,
    pair_sums,
    power_of,
    statistical_checks,
    statistical_level,
)
from bayeskit.validation.pointwise import key_reuse_check
from bayeskit.validation.report import Check
from bayeskit.validation.sequential import sequential_test, symmetric_p_value

__all__ = ["StepProgram", "checked_pilot", "step_program", "validate_joint"]

# Replicates of one compiled program; stages are multiples of it.
_CHUNK = 20_000


class StepProgram:
    """A step with its start, as functions of one key that look at vectors.

    Parameters
    ----------
    step : callable (key, state) -> state
    start : callable (key) -> state
        An exact draw of the law that the step should leave invariant.
    observed : callable (state) -> pytree, optional
        What to compare. Default: the whole state.

    Raises
    ------
    TypeError, ValueError
        If the step returns a state of another structure, or nothing that can be compared.
    """

    def __init__(self, step: Callable, start: Callable, observed: Callable | None):
        self.step = step
        self.start = start
        self.observed = observed or (lambda state: state)
        self.name = name_of(step)
        self.in_lanes = True
        # The same functions as programs of their own.
        self.compiled_draws = quick_jit(self.draws, static_argnames="num")
        self.compiled_moved = quick_jit(self.moved, static_argnames="num_steps")
        self.compiled_vectors = quick_jit(self.vectors)
        key = accel.as_key(0)
        before = jax.eval_shape(start, key)
        try:
            lane = LaneKey(key, jnp.zeros((), jnp.uint32))
            after = jax.eval_shape(step, lane, before)
        except TypeError as error:
            if "LaneKey" not in str(error):
                raise
            self.in_lanes = False
            after = jax.eval_shape(step, key, before)
        self._check_structure(before, after)
        self.keys = key_reuse_check(step, before, strict=False)
        vector = jax.eval_shape(self.vector, before)
        if not vector.shape[0]:
            raise ValueError(
                f"observed= of {self.name} returns no number to compare: return the parts of "
                "the state that matter"
            )

    def _check_structure(self, before: Any, after: Any) -> None:
        old: Any = jax.tree.structure(before)
        new: Any = jax.tree.structure(after)
        leaves = [
            [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(tree)]
            for tree in (before, after)
        ]
        if old != new or leaves[0] != leaves[1]:
            raise ValueError(
                f"{self.name} returns a state {new} with leaves {leaves[1]}, and start gives "
                f"{old} with {leaves[0]}: a step must return a state of the structure, shapes "
                "and dtypes that it gets"
            )

    def vector(self, state: Any) -> jax.Array:
        """Return what is observed of one state as a vector of floats."""
        leaves = [
            jnp.asarray(leaf, jnp.result_type(float))
            for leaf in jax.tree.leaves(self.observed(state))
        ]
        return ravel_pytree(leaves)[0] if leaves else jnp.zeros(0)

    def draws(self, key: Any, num: int) -> Any:
        """Return exact draws of the state."""
        # One ordinary key a draw: samplers of users may call jax.random directly.
        return jax.vmap(self.start)(jax.random.split(key, num))

    def moved(self, key: Any, states: Any, num_steps: int) -> Any:
        """Return the states after some steps."""

        def once(step_key, states, _):
            if self.in_lanes:
                return random.lanes(self.step, step_key, states)
            num = jax.tree.leaves(states)[0].shape[0]
            return jax.vmap(self.step)(jax.random.split(step_key, num), states)

        return random.repeat(once, key, states, num_steps)

    def vectors(self, states: Any) -> jax.Array:
        """Return what is observed of many states, (num, dim)."""
        return jax.vmap(self.vector)(states)


@functools.lru_cache(maxsize=128)
def step_program(step: Callable, start: Callable, observed: Callable | None) -> StepProgram:
    """Return the program of a step, the same one for the same functions."""
    return StepProgram(step, start, observed)


@quick_jit(static_argnames="reversible")
def _sums(x, compared, moved, features, *, reversible) -> PairSums:
    values = jax.vmap(lambda one: evaluate(features, one, jnp.zeros(0)))
    return pair_sums(
        values(compared),
        values(moved),
        features,
        reversible=reversible,
        num_moved=jnp.sum(jnp.any(moved != x, axis=1)),
        num_not_finite=jnp.sum(~jnp.all(jnp.isfinite(moved), axis=1)),
    )


def checked_pilot(program: StepProgram, key: Any, num: int = _CHUNK) -> np.ndarray:
    """Return what is observed of exact draws, (num, dim); refuse NaN."""
    pilot = np.asarray(program.compiled_vectors(program.compiled_draws(key, num=num)))
    if not np.isfinite(pilot).all():
        first = int(np.argmin(np.isfinite(pilot).all(axis=1)))
        raise ValueError(
            f"start gave a state that is not finite (draw {first} of {num}): repair the "
            "sampler first, or leave the infinite part out with observed="
        )
    return pilot


def validate_joint(step: Callable, request: Request) -> Findings:
    r"""Test whether a step leaves the law of exact draws invariant.

    For each function f of a battery, :math:`E[f(s') - f(s)] = 0` with s drawn exactly and s'
    after ``num_steps`` steps. For a reversible step s and s' are one pair; otherwise s' is
    compared with a fresh exact draw.
    """
    if not callable(step):
        raise TypeError(f"a step is a function (key, state) -> state, got {step!r}")
    kind = claimed_law(step, request.law)
    reversible = kind is REVERSIBLE
    level = statistical_level(request.level)
    num_steps = request.num_steps or 2
    pilot_key, frequency_key, test_key = random.split(accel.as_key(request.key), 3)
    stages: list[PairSums] = []
    with jax.enable_x64(True):
        program = step_program(step, request.start, request.observed)
        pilot = checked_pilot(program, pilot_key)
        extras = np.zeros((len(pilot), 0))
        features = features_from(frequency_key, pilot, extras, level.num_frequencies)

        def run_chunk(chunk_key):
            start_key, fresh_key, move_key = random.split(chunk_key, 3)
            states = program.compiled_draws(start_key, num=_CHUNK)
            x = program.compiled_vectors(states)
            end = program.compiled_moved(move_key, states, num_steps=num_steps)
            moved, fresh = program.compiled_vectors(end), x
            if not reversible:
                others = program.compiled_draws(fresh_key, num=_CHUNK)
                fresh = program.compiled_vectors(others)
            return jax.tree.map(
                np.asarray, _sums(x, fresh, moved, features, reversible=reversible)
            )

        def run_stage(num, stage_key):
            chunks = map(run_chunk, random.split(stage_key, math.ceil(num / _CHUNK)))
            sums = functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), chunks)
            stages.append(sums)
            return symmetric_p_value(sums.total, sums.squares)

        described = describe(features)
        if reversible:
            described += describe_currents(features, described)
        plan = level.plan(request.alpha)
        result = sequential_test(
            run_stage,
            len(described),
            request.alpha,
            level.num_stages,
            level.growth,
            level.first,
            key=test_key,
            budget_s=request.budget_s,
        )
    sums = stages[-1]
    num = math.ceil(result.num_replicates / _CHUNK) * _CHUNK
    lost = int(sums.num_not_finite)
    finite = Check(
        name="states stay finite",
        passed=lost == 0,
        discrepancy=float(lost),
        words=f"{lost} replicates ended in a state that is not finite",
    )
    tests = statistical_checks(described, sums, num, result)
    broken = [check for check in (program.keys, finite) if not check.passed]
    verdict, worst = conclusion(result, broken, tests, float(sums.num_moved) / num, num_steps)
    prefix = "nothing found; the largest deviation: " if verdict == "pass" else ""
    return Findings(
        verdict,
        program.name,
        f"{kind}: {kind.statement}",
        (program.keys, finite, *tests),
        prefix + worst,
        power_of(plan, sums, num, pilot.shape[1], len(described), num_steps),
        request.alpha,
        (
            "x numbers what is observed of a state, in the order of its leaves",
            *([program.keys.words] if program.keys.words and program.keys.passed else []),
        ),
    )
