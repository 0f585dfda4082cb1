r"""The rank of an exact draw among the states of its own chain is uniform.

Place an exact draw at a random position M of a chain of length L, run the step forward from it
to the end and the time-reversed step back to the beginning. If the law is kept, the L states
are exchangeable in position, so the rank of f at the draw among the L values is exactly uniform
(Gandy & Scott 2020). No convergence and no variance has to be estimated, and mistakes that one
step hides can show after many.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.law import INVARIANT, REVERSIBLE, LawKind
from bayeskit.validation.features import Features, describe, evaluate, features_from
from bayeskit.validation.findings import Findings, Request, law_kind, name_of
from bayeskit.validation.joint import StepProgram, checked_pilot, step_program
from bayeskit.validation.paired import statistical_level
from bayeskit.validation.report import Check, Power, Report
from bayeskit.validation.sequential import SequentialPlan, sequential_test

__all__ = ["binomial_p_values", "rank_test", "validate_by_ranks"]

_CHUNK = 5_000
_LENGTH = 8
_NUM_FREQUENCIES = 4
# A rank test of n chains costs 2 (L - 1) n steps.
_FIRST_SHARE = 5


def binomial_p_values(counts: np.ndarray, num: int, probability: np.ndarray) -> np.ndarray:
    """Return two-sided p-values of binomial counts, valid at any number.

    Parameters
    ----------
    counts : (...) int array
    num : int
    probability : (...) array in (0, 1)
    """
    from scipy import stats

    low = stats.binom.cdf(counts, num, probability)
    high = stats.binom.sf(counts - 1, num, probability)
    return np.minimum(1.0, 2.0 * np.minimum(low, high))


@quick_jit(static_argnames=("program", "reverse", "length", "num"))
def _rank_counts(
    key: Any,
    features: Features,
    *,
    program: StepProgram,
    reverse: StepProgram,
    length: int,
    num: int,
) -> jax.Array:
    """Return how often each rank came up, (num_functions, length)."""
    start_key, place_key, tie_key, forward_key, backward_key = random.split(key, 5)
    states = program.draws(start_key, num)
    values = jax.vmap(lambda s: evaluate(features, program.vector(s), jnp.zeros(0)))
    here = values(states)
    # How many of the other states lie after the draw; the rest lie before it.
    num_after = random.categorical(place_key, jnp.zeros((num, length)))

    def walk(walker, key, num_kept):
        def once(step_key, carry, number):
            states, less, ties = carry
            states = walker.moved(step_key, states, 1)
            there = values(states)
            kept = (number < num_kept)[:, None]
            return states, less + (kept & (there < here)), ties + (kept & (there == here))

        zero = jnp.zeros(here.shape, jnp.int32)
        _, less, ties = random.repeat(once, key, (states, zero, zero), length - 1)
        return less, ties

    less, ties = walk(program, forward_key, num_after)
    before = walk(reverse, backward_key, length - 1 - num_after)
    less, ties = less + before[0], ties + before[1]
    # Among equal values every rank is equally likely.
    u = random.uniform(tie_key, here.shape)
    rank = less + jnp.minimum(jnp.floor(u * (ties + 1)).astype(jnp.int32), ties)
    return jnp.sum(rank[:, :, None] == jnp.arange(length), axis=0)


def rank_test(
    step: Callable,
    start: Callable,
    *,
    reverse: Callable | None = None,
    law: LawKind | str = REVERSIBLE,
    observed: Callable | None = None,
    level: Any = "quick",
    alpha: float = 1e-6,
    key: Any = 0,
    budget_s: float | None = None,
) -> Report:
    r"""Test that the rank of an exact draw among the states of its chain is uniform.

    With M uniform on 1..L and :math:`s_M \sim \pi`, run the step from :math:`s_M` forward to
    :math:`s_L` and the time-reversed step back to :math:`s_1`. If the step leaves π invariant,
    the rank of :math:`f(s_M)` among the L values is exactly uniform, for every f.

    Parameters
    ----------
    step : callable (key, state) -> state
    start : callable (key) -> state
        One exact draw.
    reverse : callable (key, state) -> state, optional
        The time-reversed step, which a step that is not reversible needs.
    law : LawKind or str
        Without ``reverse``, a step must be reversible.
    observed : callable (state) -> pytree, optional
        What to rank. Default: the whole state.
    level : {"quick", "full"} or Level
    alpha : float in (0, 1)
        Bound on the probability that a correct step fails.
    key : int or JAX key
    budget_s : float, optional
        CPU seconds.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        For a step that is not reversible, without ``reverse``.

    Notes
    -----
    The p-values are those of exact binomial tests on the numbers of ranks below each cut.
    The cost is 2 (L - 1) steps a chain, with L = 8.

    References
    ----------
    Gandy & Scott (2020), *Unit testing for MCMC and other Monte Carlo methods*.

    Examples
    --------
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import rank_test
    >>> start = lambda key: 2.0 + random.normal(key)
    >>> autoregression = lambda key, x: 2.0 + 0.6 * (x - 2.0) + 0.8 * random.normal(key)
    >>> rank_test(autoregression, start).verdict
    'pass'
    """
    began = time.process_time()
    request = Request(
        law=law_kind(law),
        start=start,
        observed=observed,
        level=level,
        alpha=alpha,
        key=key,
        budget_s=budget_s,
    )
    return validate_by_ranks(step, request, reverse).report(key, began)


def validate_by_ranks(
    step: Callable, request: Request, reverse: Callable | None = None
) -> Findings:
    """Test the uniformity of ranks along chains through exact draws.

    Parameters
    ----------
    step : callable (key, state) -> state
    request : Request
        With ``start``, a sampler of exact draws.
    reverse : callable (key, state) -> state, optional
        The time-reversed step. Default: the step itself, which must then be reversible.

    Raises
    ------
    ValueError
        For a step that is only invariant, without ``reverse``.
    """
    kind: Any = request.law or getattr(step, "law_kind", INVARIANT)
    if reverse is None and kind != REVERSIBLE:
        raise ValueError(
            f"the rank test runs a chain in both directions, and {name_of(step)} claims to be "
            f"{kind.name} only: pass law='reversible' if it is its own reverse, or call "
            "rank_test(..., reverse=) with the time-reversed step"
        )
    level = statistical_level(
        "full"
        if request.level == "full"
        else "quick"
        if request.level == "ranks"
        else request.level
    )
    first = math.ceil(level.first / _FIRST_SHARE)
    plan = SequentialPlan(request.alpha, level.num_stages, level.growth, first)
    pilot_key, frequency_key, test_key = random.split(accel.as_key(request.key), 3)
    stages: list[np.ndarray] = []
    with jax.enable_x64(True):
        program = step_program(step, request.start, request.observed)
        backward = program
        if reverse is not None:
            backward = step_program(reverse, request.start, request.observed)
        pilot = checked_pilot(program, pilot_key)
        nothing = np.zeros((len(pilot), 0))
        features = features_from(frequency_key, pilot, nothing, _NUM_FREQUENCIES)
        cuts = np.arange(1, _LENGTH) / _LENGTH
        sizes = {"length": _LENGTH, "num": _CHUNK}
        count = functools.partial(_rank_counts, program=program, reverse=backward, **sizes)

        def run_stage(num, stage_key):
            keys = random.split(stage_key, math.ceil(num / _CHUNK))
            counts = np.zeros((features.num_functions, _LENGTH), np.int64)
            for chunk_key in keys:
                counts += np.asarray(count(chunk_key, features))
            stages.append(counts)
            below = np.cumsum(counts, axis=1)[:, :-1]
            return binomial_p_values(below, len(keys) * _CHUNK, cuts).ravel()

        described = describe(features)
        num_tests = len(described) * (_LENGTH - 1)
        result = sequential_test(
            run_stage,
            num_tests,
            request.alpha,
            level.num_stages,
            level.growth,
            first,
            key=test_key,
            budget_s=request.budget_s,
        )
    counts = stages[-1]
    num = int(counts[0].sum())
    checks = _checks(described, counts, num, result)
    worst = min(checks, key=lambda check: (check.passed, check.p_value))
    prefix = "nothing found; the largest deviation: " if result.verdict == "pass" else ""
    if result.verdict == "inconclusive":
        prefix = f"the budget ended after {num} chains, undecided: "
    effect = plan.detectable_effect(num_tests)
    words = (
        "finds with probability 0.99 a share of ranks below a cut that is wrong by "
        f"{0.5 * effect:.3f}"
    )
    kind = kind if kind is REVERSIBLE else INVARIANT
    return Findings(
        result.verdict,
        name_of(step),
        f"{kind}: {kind.statement}",
        checks,
        prefix + worst.words,
        Power(0.5 * effect, 0.99, math.nan, plan.replicates, num_tests, words),
        request.alpha,
        (f"ranks among {_LENGTH} states of a chain through an exact draw",),
    )


def _checks(described, counts, num, result) -> tuple[Check, ...]:
    """Return one check for each function, at its worst cut."""
    p_values = result.p_values.reshape(len(described), _LENGTH - 1)
    below = np.cumsum(counts, axis=1)[:, :-1]
    checks = []
    for row, (words, _) in enumerate(described):
        cut = int(np.argmin(p_values[row]))
        wanted = (cut + 1) / _LENGTH
        share = below[row, cut] / num
        error = math.sqrt(wanted * (1 - wanted) / num)
        p_value = float(p_values[row, cut])
        name = words.removeprefix("the mean of ")
        checks.append(
            Check(
                name=f"the rank of {name}",
                passed=result.verdict != "fail" or p_value > result.threshold,
                statistic=float((share - wanted) / error),
                p_value=p_value,
                words=(
                    f"the rank of {name} among {_LENGTH} states is below {cut + 1} with "
                    f"frequency {share:.4f} ± {error:.4f} instead of {wanted:.4f}"
                ),
            )
        )
    return tuple(checks)
