"""Whether an estimate of the evidence is unbiased, and weighted particles stand for γ."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.law import CONSISTENT, UNBIASED_ESTIMATE
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel
from bayeskit.validation.exact import Atoms
from bayeskit.validation.exact_checks import (
    TOLERANCE,
    checked_atoms,
    claimed_block_law,
    exact_findings,
    position_of,
    shapes_of,
    traced,
    worst_state,
)
from bayeskit.validation.features import Described
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.paired import Level, plus_minus, statistical_level
from bayeskit.validation.report import Check, Power
from bayeskit.validation.sequential import sequential_test
from bayeskit.validation.weighted import (
    LARGEST_LOG_VARIANCE,
    LEAST_RUNS,
    Moments,
    Runs,
    Truth,
    WeightedRun,
    exact_means,
    known_truth,
    normal_p_value,
    num_not_finite,
    num_runs_of_chunk,
    pilot_features,
    run_chunk,
    runs_of,
    weighted_means,
)

__all__ = ["checked_level", "validate_estimate", "validate_population"]

_EVIDENCE = "E Ẑ = Z"
_EVIDENCE_ALONE = f"{UNBIASED_ESTIMATE}: {UNBIASED_ESTIMATE.statement}"
_WEIGHTED_SAMPLE = f"{_EVIDENCE_ALONE}, and E[Ẑ f(sample)] = γ(f) for every f"
# Of an estimate that was computed in single precision.
_ROUNDING = 1e-6


def validate_population(block: Any, request: Request) -> Findings:
    r"""Test :math:`E[\hat Z / Z \sum_i W_i f(x_i)] = \pi(f)` by independent runs of a block.

    Parameters
    ----------
    block : Block that starts with spawn
    request : Request
        With a continuous BatteryModel as target, or a Target and the log evidence expected.

    Raises
    ------
    TypeError, ValueError, LawMismatch
        For what does not fit together, or claims no law.

    References
    ----------
    Del Moral (2004), *Feynman-Kac formulae*, for the unbiasedness of the evidence.
    """
    law = claimed_block_law(block, request.law)
    truth = known_truth(request, f"a test of {block.name} by sampling")
    return _tested(
        runs_of(block, request.observed),
        truth,
        request,
        block.name,
        f"{law.kind}: {law.kind.statement}, for {law.measure}",
        of_block=True,
        adaptive=law.kind is CONSISTENT,
    )


def validate_estimate(estimate: Any, request: Request) -> Findings:
    """Test whether an estimate of the evidence is not negative and unbiased.

    Parameters
    ----------
    estimate : callable (key) -> log estimate, or (log estimate, sample)
        A sample is checked as well: the estimate times f(sample) must have the mean γ(f).
    request : Request
        Expected are the atoms of a finite measure, for an exact check, or the log evidence.

    Raises
    ------
    TypeError, ValueError
        For what does not fit together.
    """
    expected, target = request.expected, request.target
    if isinstance(target, BatteryModel) and target.atoms is not None and expected is None:
        expected = target.atoms
    if request.level == "exact" or isinstance(expected, Atoms):
        return _enumerated(estimate, expected, request)
    truth = known_truth(request, f"a test of {name_of(estimate)} by sampling")
    return _tested(
        runs_of(estimate, request.observed), truth, request, name_of(estimate), _WEIGHTED_SAMPLE
    )


def checked_level(level: Any) -> Level:
    """Return how much work a level means, if its tests of means are valid."""
    level = statistical_level(level)
    if level.first < LEAST_RUNS:
        raise ValueError(
            f"level: means of weighted runs need at least {LEAST_RUNS} runs at the first stage "
            f"to be tested as normal, got first={level.first}"
        )
    return level


# ---------------------------------------------------------------- by enumeration


def _enumerated(estimate: Any, expected: Any, request: Request) -> Findings:
    name = name_of(estimate)
    if not isinstance(expected, Atoms):
        log_evidence = known_truth(request, f"an exact check of {name}").log_evidence
        expected = Atoms(np.zeros((1, 0)), np.exp([log_evidence]))
    expected = checked_atoms(expected, "expected")
    observed = request.observed or position_of
    nothing = Atoms(np.zeros((1, 1)), np.ones(1))
    with jax.enable_x64(True):
        traced(lambda key, _: estimate(key), np.zeros(1), name)

        def outcome(key, _):
            result = estimate(key)
            log_evidence, sample = result if isinstance(result, tuple) else (result, ())
            return jnp.asarray(log_evidence, float), sample

        paths = exact.enumerate_paths(outcome, nothing, request.enumeration)
    log_evidence, sample = paths.state
    lost = float(paths.mass[np.isnan(log_evidence) | (log_evidence == np.inf)].sum())
    if lost:
        words = f"the estimate is NaN or infinite with probability {lost:.3g}"
        check = Check(
            name="the estimate is a number", passed=False, discrepancy=lost, words=words
        )
        return exact_findings(name, _EVIDENCE_ALONE, [check], [words], request.enumeration)
    mass = paths.mass * np.exp(log_evidence)
    total, wanted = float(mass.sum()), float(expected.mass.sum())
    bias = total / wanted - 1.0
    words = f"E Ẑ is {total:.4g} instead of {wanted:.4g}; E Ẑ / Z - 1 is {bias:.4g}"
    checks = [
        Check(name=_EVIDENCE, passed=abs(bias) <= TOLERANCE, discrepancy=abs(bias), words=words)
    ]
    law = _EVIDENCE_ALONE
    notes: tuple[str, ...] = ()
    if jax.tree.leaves(sample) and np.size(expected.state):
        law = _WEIGHTED_SAMPLE
        seen = observed(sample)
        if shapes_of(seen) != shapes_of(expected.state):
            raise ValueError(
                f"the samples of {name} have leaves of shape {shapes_of(seen)}, the states of "
                f"expected have {shapes_of(expected.state)}: choose the part to compare with "
                "observed="
            )
        gap = exact.discrepancy(seen, mass, expected)
        state, found, right = worst_state(seen, mass, expected)
        say = f"the expected weight of the sample {state} is {found:.4g} instead of {right:.4g}"
        holds = gap <= TOLERANCE
        checks.append(
            Check(name="E[Ẑ f(x)] = γ(f) for every f", passed=holds, discrepancy=gap, words=say)
        )
    elif jax.tree.leaves(sample):
        notes = ("the sample was not compared: give expected=Atoms(...)",)
    failures = [check.words for check in checks if not check.passed]
    return exact_findings(name, law, checks, failures, request.enumeration, notes=notes)


# ---------------------------------------------------------------- by sampling


class _Losses(NamedTuple):
    """Runs that broke something, whatever the means say."""

    not_a_number: int = 0
    not_finite: int = 0

    def checks(self, num: int) -> tuple[Check, ...]:
        """Return them as checks without chance."""
        return (
            Check(
                name="the evidence is a number",
                passed=self.not_a_number == 0,
                discrepancy=float(self.not_a_number),
                words=f"{self.not_a_number} of {num} runs gave the log evidence NaN or inf",
            ),
            Check(
                name="points of positive weight are finite",
                passed=self.not_finite == 0,
                discrepancy=float(self.not_finite),
                words=f"{self.not_finite} points of positive weight are not finite",
            ),
        )


class _Stage:
    """One stage of runs: sums of the columns, and of the log evidence."""

    def __init__(self, num_functions: int):
        self.columns = Moments(1 + num_functions)
        self.log_evidence = Moments(1)
        self.functions = Moments(num_functions)
        self.losses = _Losses()

    def add(self, log_ratio: np.ndarray, means: np.ndarray, truths: np.ndarray) -> None:
        """Add runs by Ẑ/Z, the weighted means and the means of exact draws."""
        ratio = np.exp(log_ratio)[:, None]
        self.columns.add(np.concatenate([ratio - 1.0, ratio * means - truths], axis=1))
        self.log_evidence.add(log_ratio[np.isfinite(log_ratio), None])
        self.functions.add(means)

    @property
    def log_variance(self) -> float:
        """Variance of the log evidence over the runs in which it is finite."""
        if not self.log_evidence.num:
            return math.inf
        return float(self.log_evidence.central[0, 0])

    @property
    def trusted(self) -> np.ndarray:
        """Which columns are near enough to normal for a p-value."""
        return self.columns.trusted & (self.log_variance < LARGEST_LOG_VARIANCE)

    @property
    def statistics(self) -> np.ndarray:
        """Mean of each column in its standard errors."""
        mean, error = self.columns.mean, self.columns.error
        with np.errstate(divide="ignore", invalid="ignore"):
            # Where a column is constant in all runs, its mean is rounding or a mistake.
            return np.where(np.abs(mean) > _ROUNDING, mean / error, 0.0)

    @property
    def p_values(self) -> np.ndarray:
        """P-values of the hypothesis that each column has mean 0; 1 where it is not tested."""
        skewness = self.columns.skewness / math.sqrt(self.columns.num)
        return np.where(self.trusted, normal_p_value(self.statistics, skewness), 1.0)


def _tested(
    runs: Runs,
    truth: Truth,
    request: Request,
    name: str,
    law: str,
    *,
    of_block: bool = False,
    adaptive: bool = False,
) -> Findings:
    """Compare the means of many runs with the truth."""
    level = checked_level(request.level)
    pilot_key, frequency_key, test_key = random.split(accel.as_key(request.key), 3)
    stages: list[_Stage] = []
    with jax.enable_x64(True):
        shape = jax.eval_shape(runs, accel.as_key(0)).points.shape
        num_points, dim = shape
        features, described = None, list[Described]()
        if truth.sample is not None and dim:
            features, described = pilot_features(
                pilot_key, frequency_key, truth.sample, level.num_frequencies
            )
            if len(features.location) != dim:
                raise ValueError(
                    f"the points of {name} have {dim} numbers, the exact draws of {truth.name} "
                    f"have {len(features.location)}: choose the part to compare with observed="
                )
        num_chunk = num_runs_of_chunk(num_points)

        def run_stage(num, stage_key):
            stage = _Stage(len(described))
            for chunk_key in random.split(stage_key, math.ceil(num / num_chunk)):
                run_key, exact_key = random.split(chunk_key)
                run = run_chunk(run_key, runs, num_chunk)
                log_ratio, losses = _checked_run(run, truth.log_evidence)
                stage.losses = _Losses(*np.add(stage.losses, losses).tolist())
                means = truths = np.zeros((num_chunk, 0))
                if features is not None and truth.sample is not None:
                    means = weighted_means(features, run)
                    truths = exact_means(
                        exact_key, features, truth.sample, num_chunk, num_points
                    )
                stage.add(log_ratio, means, truths)
            stages.append(stage)
            return stage.p_values

        result = sequential_test(
            run_stage,
            1 + len(described),
            request.alpha,
            level.num_stages,
            level.growth,
            level.first,
            key=test_key,
            budget_s=request.budget_s,
        )
    stage = stages[-1]
    broken = [check for check in stage.losses.checks(stage.columns.num) if not check.passed]
    tests = _checks(stage, described, result, adaptive)
    verdict, worst = _conclusion(stage, broken, tests, result, adaptive)
    if not described:
        law = _EVIDENCE_ALONE
    notes = [
        f"{stage.columns.num} runs with {num_points} points each; "
        f"Var log Ẑ is {stage.log_variance:.3g}"
    ]
    if dim and not described:
        unseen = (
            f"the {'particles' if of_block else 'samples'} themselves were not looked at, only "
            "the evidence: pass a target with sample_exact="
        )
        notes.append(unseen)
        if verdict == "pass":
            # The law of a block is about its particles; an estimate may come without a sample.
            verdict, worst = "inconclusive" if of_block else "pass", f"{unseen}; {worst}"
    return Findings(
        verdict,
        name,
        law,
        (*stage.losses.checks(stage.columns.num), *tests),
        worst,
        _power(level, stage, request.alpha, dim if described else 0),
        request.alpha,
        tuple(notes),
    )


def _checked_run(run: WeightedRun, log_evidence: float) -> tuple[np.ndarray, _Losses]:
    """Return log Ẑ/Z, with -inf for what is no number, and what was lost."""
    log_ratio = np.asarray(run.log_evidence) - log_evidence
    lost = np.isnan(log_ratio) | (log_ratio == np.inf)
    return np.where(lost, -np.inf, log_ratio), _Losses(int(lost.sum()), num_not_finite(run))


def _checks(stage: _Stage, described: list, result: Any, adaptive: bool) -> tuple[Check, ...]:
    mean, error = stage.columns.mean, stage.columns.error
    texts = [f"E Ẑ / Z is {plus_minus(1.0 + mean[0], error[0])} instead of 1"]
    for i, (words, unit) in enumerate(described, start=1):
        direction = "large" if mean[i] * unit > 0 else "small"
        amount = plus_minus(abs(mean[i] * unit), error[i] * abs(unit))
        texts.append(f"under the weights, {words} is {amount} too {direction}")
    names = [_EVIDENCE, *(words for words, _ in described)]
    failed = result.verdict == "fail" and not adaptive
    return tuple(
        Check(
            name=name,
            passed=not (failed and p <= result.threshold),
            statistic=float(z),
            p_value=float(p),
            words=text,
        )
        for name, p, z, text in zip(
            names, result.p_values, stage.statistics, texts, strict=True
        )
    )


def _conclusion(stage, broken, tests, result, adaptive) -> tuple[str, str]:
    def plainness(check):
        # What says most comes first: the evidence, then coordinates, then Fourier features.
        significant = check.p_value <= result.threshold
        rank = 0 if check.name == _EVIDENCE else 1 + ("feature" in check.name)
        return not significant, rank, check.p_value, -abs(check.statistic)

    def strength(check):
        return check.p_value, -abs(check.statistic)

    worst = min(tests, key=plainness if result.verdict == "fail" else strength).words
    if broken:
        return "fail", broken[0].words
    if result.verdict == "fail" and adaptive:
        return "inconclusive", (
            "a part adapts, so the law allows a bias that vanishes as particles are added: "
            f"here {worst}. Freeze what adapts (a ladder, a tuning) to have an exact law to "
            "check, or validate its growth: validate(build, law='consistent')"
        )
    if result.verdict == "fail":
        return "fail", worst
    if not stage.trusted.all():
        return "inconclusive", _not_trusted(stage, tests)
    if result.verdict == "inconclusive":
        return "inconclusive", (
            f"the budget ended after {result.num_replicates} runs, undecided: {worst}"
        )
    return "pass", f"nothing found; the largest deviation: {worst}"


def _not_trusted(stage: _Stage, tests: tuple[Check, ...]) -> str:
    cure = "raise the number of particles, or take a model that is easier for the block"
    if not stage.log_evidence.num:
        return f"every run gave the evidence 0, so there is no mean to compare: {cure}"
    if stage.log_variance >= LARGEST_LOG_VARIANCE:
        return (
            f"the variance of the log evidence over runs is {stage.log_variance:.3g}, so that "
            f"rare runs carry the mean of Ẑ and a test of it would not be valid: {cure}"
        )
    names = [check.name for check, good in zip(tests, stage.trusted, strict=True) if not good]
    return (
        f"{len(names)} of {len(tests)} means have tails too heavy for a valid test with "
        f"{stage.columns.num} runs, {names[0]} among them: {cure}"
    )


def _power(level: Level, stage: _Stage, alpha: float, dim: int) -> Power:
    plan = level.plan(alpha)
    num_tests = stage.columns.sums.shape[1]
    effect = plan.detectable_effect(num_tests)
    spread = np.sqrt(stage.columns.central[0])
    relative = effect * spread[0]
    words = f"finds with probability 0.99 a mean of Ẑ wrong by {relative:.2g} Z"
    shift = 0.0
    if dim:
        # Test functions of coordinates are in units of their standard deviation.
        shift = effect * float(spread[1 : 1 + dim].max())
        words += (
            f", and a weighted mean of any coordinate wrong by {shift:.2g} standard deviations"
        )
    return Power(effect, 0.99, shift, plan.replicates, num_tests, words)
