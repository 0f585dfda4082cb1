"""Pairs of states that can be exchanged if a law holds: sums, p-values, power and words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.validation.features import Described, Features, current_pairs
from bayeskit.validation.report import Check, Power
from bayeskit.validation.sequential import SequentialPlan

__all__ = [
    "LEVELS",
    "Level",
    "PairSums",
    "by_strength",
    "conclusion",
    "describe_currents",
    "pair_sums",
    "power_of",
    "statistical_checks",
    "statistical_level",
]

# Statistics of clipped functions are at most of the order of 1e4: below this it is rounding.
_ROUNDING = 1e-11
# With fewer replicates that move, the tests would pass whatever the kernel does.
_LEAST_MOVED = 0.01


@dataclass(frozen=True)
class Level:
    """How much work a statistical validation does.

    Parameters
    ----------
    num_stages, growth, first
        As in :class:`~bayeskit.validation.sequential.SequentialPlan`.
    num_frequencies : int
        Random frequencies, each with a cosine and a sine.

    Examples
    --------
    >>> from bayeskit.validation import Level
    >>> level = Level(num_stages=3, growth=4, first=1000, num_frequencies=8)
    >>> level.plan(1e-6).replicates
    (1000, 4000, 16000)
    """

    num_stages: int
    growth: int
    first: int
    num_frequencies: int

    def plan(self, alpha: float) -> SequentialPlan:
        """Return the sequential plan at a false-alarm rate."""
        return SequentialPlan(alpha, self.num_stages, self.growth, self.first)


LEVELS = {
    "quick": Level(num_stages=3, growth=4, first=100_000, num_frequencies=16),
    "full": Level(num_stages=5, growth=4, first=400_000, num_frequencies=32),
}


def statistical_level(level: Any) -> Level:
    """Return how much work a level means, for what has to be tested by sampling."""
    if isinstance(level, Level):
        return level
    if level not in LEVELS:
        raise ValueError(
            f"level={level!r} is no amount of sampling: pass one of {sorted(LEVELS)}, or "
            "start=Atoms(...) or expected=Atoms(...) for an exact check on a finite space"
        )
    return LEVELS[level]


class PairSums(NamedTuple):
    """Sums over replicates, from one batch or many."""

    total: jax.Array  # (num_statistics,)
    squares: jax.Array
    value_total: jax.Array  # (num_functions,)
    value_squares: jax.Array
    num_moved: jax.Array
    num_not_finite: jax.Array
    num_off_support: jax.Array


def pair_sums(
    before: jax.Array,
    after: jax.Array,
    features: Features,
    *,
    reversible: bool,
    num_moved: jax.Array,
    num_not_finite: jax.Array,
    num_off_support: jax.Array | int = 0,
) -> PairSums:
    """Return the sums over a batch of pairs.

    Parameters
    ----------
    before, after : (num, num_functions) arrays
        Test functions at the compared and at the moved states.
    features : Features
    reversible : bool
        Whether to test currents between functions as well.
    num_moved, num_not_finite, num_off_support : () int arrays
        Replicates that moved, that ended at NaN, that ended where the density is zero.
    """
    statistics = [after - before]
    if reversible:
        g, h = current_pairs(features)
        statistics.append(before[:, g] * after[:, h] - before[:, h] * after[:, g])
    differences = jnp.concatenate(statistics, axis=1)
    # What a fused multiplication leaves of two equal products has the same sign each time.
    differences = jnp.where(jnp.abs(differences) < _ROUNDING, 0.0, differences)
    return PairSums(
        total=jnp.sum(differences, axis=0),
        squares=jnp.sum(differences**2, axis=0),
        value_total=jnp.sum(before, axis=0),
        value_squares=jnp.sum(before**2, axis=0),
        num_moved=num_moved,
        num_not_finite=num_not_finite,
        num_off_support=jnp.asarray(num_off_support),
    )


def describe_currents(features: Features, described: list[Described]) -> list[Described]:
    """Return the words for the statistics that only a reversible law makes zero."""
    flows = [(described[i], described[j]) for i, j in current_pairs(features).T]
    return [Described(f"the flow between {_short(g)} and {_short(h)}") for g, h in flows]


def _short(described: Described) -> str:
    return described.words.removeprefix("the mean of ").removeprefix("the ")


def conclusion(result, broken, tests, moved, num_steps) -> tuple[str, str]:
    """Return the verdict and the worst sign in words."""
    worst = min(tests, key=_by_plainness if result.verdict == "fail" else by_strength)
    after = f"after {num_steps} step{'s' * (num_steps > 1)} from exact draws"
    if broken:
        return "fail", broken[0].words
    if result.verdict == "fail":
        hint = ": not reversible" if worst.name.startswith("the flow") else ""
        return "fail", f"{after}, {worst.words}{hint}"
    if moved < _LEAST_MOVED:
        return "inconclusive", (
            f"only {moved:.2%} of the replicates moved, so the tests would pass whatever the "
            "kernel does: pass tuning= with a smaller step size"
        )
    if result.verdict == "inconclusive":
        return "inconclusive", (
            f"the budget ended after {result.num_replicates} replicates, undecided: "
            f"{after}, {worst.words}"
        )
    return "pass", f"{after}, {worst.words}"


def by_strength(check: Check) -> tuple:
    """Put first what speaks most against the law."""
    return check.p_value, -abs(check.statistic or 0.0)


def _by_plainness(check: Check) -> tuple:
    """Put first what failed and says most; flows tell only where nothing else does."""
    rank = 2 * check.name.startswith("the flow") + ("feature" in check.name)
    return check.passed, rank, *by_strength(check)


def statistical_checks(described, sums: PairSums, num: int, result) -> tuple[Check, ...]:
    """Return one check for each statistic, with its size in the user's units."""
    checks = []
    for i, (words, unit) in enumerate(described):
        effect = sums.total[i] / num * unit
        size = math.sqrt(max(float(sums.squares[i]), 1e-300))
        error = size / num * abs(unit)
        statistic = sums.total[i] / size
        if words.startswith("the flow"):
            say = f"{words} is {plus_minus(effect, error)} instead of 0"
        else:
            direction = "large" if effect > 0 else "small"
            say = f"{words} is {plus_minus(abs(effect), error)} too {direction}"
        p_value = float(result.p_values[i])
        passed = result.verdict != "fail" or p_value > result.threshold
        checks.append(
            Check(
                name=words,
                passed=passed,
                statistic=float(statistic),
                p_value=p_value,
                words=say,
            )
        )
    return tuple(checks)


def plus_minus(value: float, error: float) -> str:
    """Write a value and its error with two digits of the error."""
    if not error > 0 or not math.isfinite(value):
        return f"{value:.3g} ± {error:.1g}"
    digits = 1 - math.floor(math.log10(error))
    if not 0 <= digits <= 6:
        return f"{value:.3g} ± {error:.2g}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def power_of(plan, sums, num, dim, num_tests, num_steps) -> Power:
    """Return what the tests would have found, from the spread that they saw."""
    effect = plan.detectable_effect(num_tests)
    change = np.sqrt(sums.squares[:dim] / num)
    variance = sums.value_squares[:dim] / num - (sums.value_total[:dim] / num) ** 2
    spread = np.sqrt(np.maximum(variance, 1e-300))
    shift = effect * float(np.max(change / spread))
    words = (
        f"finds with probability 0.99 a mean change of {effect:.3f} of its standard deviation, "
        f"such as the mean of any coordinate wrong by {shift:.3f} standard deviations after "
        f"{num_steps} step{'s' * (num_steps > 1)}"
    )
    return Power(effect, 0.99, shift, plan.replicates, num_tests, words)
