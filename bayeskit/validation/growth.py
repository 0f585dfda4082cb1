r"""Whether the error of an approximate algorithm vanishes at the rate that it claims.

An algorithm that adapts has a bias, but one that vanishes:

.. math:: E[\hat f_N] - \pi(f) = \frac{b_1}{N} + \frac{b_2}{N^2} + \dots, \qquad
    \sqrt{E[(\hat f_N - \pi(f))^2]} = O(N^{-1/2}) .

Many runs at several N show both. The means are fitted by :math:`a + b_1/N + b_2/N^2`, and a,
what is left with infinitely many particles, must be 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks import Block
from bayeskit.inference.law import CONSISTENT
from bayeskit.validation.evidence import checked_level
from bayeskit.validation.exact_checks import claimed_block_law
from bayeskit.validation.features import Described, Features
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.paired import plus_minus
from bayeskit.validation.report import Check, Power
from bayeskit.validation.sequential import sequential_test
from bayeskit.validation.weighted import (
    LEAST_RUNS,
    Moments,
    Runs,
    Truth,
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

__all__ = ["validate_growth"]

_SIZES = (16, 32, 64, 128, 256)
# A root mean squared error must fall at least like N to the power -1/2 + 0.1, measured over the
# largest sizes: at small ones the higher orders still show.
_SLOPE, _TOLERANCE, _NUM_LARGEST = -0.5, 0.1, 3
_NUM_FREQUENCIES = 2
# Exact draws for the truth, for each run at one size; in batches, for their standard error.
_EXACT_DRAWS, _BATCHES, _BATCH = 64, 64, 1024
# A fit this bad says that higher orders matter, so that its constant means nothing.
_WORST_FIT = 1e-4
# A bias of so many standard errors counts for its slope.
_CLEAR = 3.0
_DAMPING = 10.0


def validate_growth(build: Callable, request: Request) -> Findings:
    """Test whether bias and error vanish as particles are added.

    Parameters
    ----------
    build : callable (num_particles) -> Block, or function (key) -> log estimate
    request : Request
        With a continuous BatteryModel as target, or the log evidence expected and, for the
        means of particles, a Target with sample_exact.

    Raises
    ------
    TypeError, ValueError, LawMismatch
        For what does not fit together.

    References
    ----------
    Del Moral, Doucet & Jasra (2012), *On adaptive resampling strategies for sequential Monte
    Carlo methods*; Beskos, Jasra, Kantas & Thiery (2016), *On the convergence of adaptive
    sequential Monte Carlo methods*.
    """
    name = name_of(build)
    truth = known_truth(request, f"a test of the growth of {name}")
    level = checked_level(request.level)
    built = [_built(build, size, name) for size in _SIZES]
    runs = [runs_of(one, request.observed) for one in built]
    pilot_key, frequency_key, test_key = random.split(accel.as_key(request.key), 3)
    stages: list[_Stage] = []
    with jax.enable_x64(True):
        shapes = [jax.eval_shape(one, accel.as_key(0)).points.shape for one in runs]
        features, described = None, list[Described]()
        if truth.sample is not None and shapes[0][1]:
            features, described = pilot_features(
                pilot_key, frequency_key, truth.sample, _NUM_FREQUENCIES
            )
            if len(features.location) != shapes[0][1]:
                raise ValueError(
                    f"the points of {name} have {shapes[0][1]} numbers, the exact draws of "
                    f"{truth.name} have {len(features.location)}: choose the part to compare "
                    "with observed="
                )
        # What a function returns is one point, which no number of particles makes an average.
        averaged = 1 + len(described) if shapes[0][0] > 1 else 1
        words = [Described("log Ẑ"), *described]

        def run_stage(num, stage_key):
            num = max(num // len(_SIZES), LEAST_RUNS)
            stage = _stage(stage_key, runs, shapes, truth, features, num, averaged)
            stages.append(stage)
            return np.concatenate([stage.bias_p_values, stage.slope_p_values])

        result = sequential_test(
            run_stage,
            len(words) + averaged,
            request.alpha,
            level.num_stages,
            level.growth,
            level.first,
            key=test_key,
            budget_s=request.budget_s,
        )
    stage = stages[-1]
    checks = _checks(stage, words, result)
    verdict, worst = _conclusion(stage, checks, words, result)
    adaptive = isinstance(built[0], Block) and str(CONSISTENT) in built[0].explain()
    notes = [f"{stage.num_runs} runs each with {', '.join(map(str, _SIZES))} particles"]
    notes += _slopes_in_words(stage, words, min(averaged, 3))
    if adaptive:
        notes.append(
            "what adapts was not frozen: validate the block with a fixed ladder or tuning as "
            "well, which has an exact law"
        )
    law = f"{CONSISTENT}: {CONSISTENT.statement}"
    power = _power(level, stage, request.alpha, len(words) + averaged, bool(described))
    return Findings(verdict, name, law, checks, worst, power, request.alpha, tuple(notes))


def _built(build: Callable, size: int, name: str) -> Any:
    built = build(size)
    if isinstance(built, Block):
        claimed_block_law(built, None)
    elif not callable(built):
        raise TypeError(
            f"{name}({size}) returned {type(built).__name__}: a function of the number of "
            "particles must return a Block, or a function estimate(key) -> log estimate"
        )
    return built


# ---------------------------------------------------------------- runs at all sizes


class _Stage(NamedTuple):
    """Errors at all sizes; the arrays have axes (size, quantity)."""

    num_runs: int
    num_lost: int
    num_not_finite: int
    bias: np.ndarray
    error: np.ndarray  # of the bias
    third: np.ndarray  # third central moment of one run
    mean_square: np.ndarray
    mean_square_error: np.ndarray
    trusted: np.ndarray  # (quantity,)
    truth_error: np.ndarray  # (quantity,)
    averaged: int

    @property
    def _weights(self) -> np.ndarray:
        """How the constant of the fit depends on the biases, (size, quantity)."""
        powers = (1.0 / np.array(_SIZES))[:, None] ** np.arange(3)
        columns = []
        for error in self.error.T:
            scaled = powers / np.maximum(error, 1e-300)[:, None]
            columns.append(np.linalg.pinv(scaled)[0] / np.maximum(error, 1e-300))
        return np.stack(columns, axis=1)

    @property
    def constant(self) -> np.ndarray:
        """Bias that is left with infinitely many particles."""
        return np.sum(self._weights * self.bias, axis=0)

    @property
    def constant_error(self) -> np.ndarray:
        """Its standard error, with that of the truth."""
        own = np.sum((self._weights * self.error) ** 2, axis=0)
        return np.sqrt(own + self.truth_error**2)

    @property
    def fits(self) -> np.ndarray:
        """Whether the biases follow two orders of 1/N, up to chance."""
        from scipy import special

        powers = (1.0 / np.array(_SIZES))[:, None] ** np.arange(3)
        misfit = np.zeros(self.bias.shape[1])
        for i, (bias, error) in enumerate(zip(self.bias.T, self.error.T, strict=True)):
            scaled = powers / np.maximum(error, 1e-300)[:, None]
            wanted = bias / np.maximum(error, 1e-300)
            left = wanted - scaled @ (np.linalg.pinv(scaled) @ wanted)
            misfit[i] = left @ left
        return special.chdtrc(len(_SIZES) - 3, misfit) > _WORST_FIT / len(misfit)

    @property
    def usable(self) -> np.ndarray:
        """For which quantities the constant can be tested."""
        return self.trusted & self.fits & (self.error > 0).all(axis=0)

    @property
    def bias_p_values(self) -> np.ndarray:
        """P-values of the hypothesis that no bias is left."""
        error = np.where(self.usable, self.constant_error, 1.0)
        third = np.sum(self._weights**3 * self.third, axis=0) / self.num_runs**2
        skewness = np.where(self.usable, third / error**3, 0.0)
        p_values = normal_p_value(self.constant / error, skewness)
        return np.where(self.usable, p_values, 1.0)

    @property
    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """Slope of the log root mean squared error over the largest sizes, and its error."""
        x = np.log(np.array(_SIZES[-_NUM_LARGEST:], float))
        c = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
        square = np.maximum(self.mean_square[-_NUM_LARGEST:, : self.averaged], 1e-300)
        relative = self.mean_square_error[-_NUM_LARGEST:, : self.averaged] / square
        slope = 0.5 * c @ np.log(square)
        return slope, 0.5 * np.sqrt(c**2 @ relative**2)

    @property
    def slope_p_values(self) -> np.ndarray:
        """P-values of the hypothesis that errors fall fast enough."""
        from scipy import special

        slope, error = self.slopes
        usable = self.trusted[: self.averaged] & (error > 0)
        excess = slope - (_SLOPE + _TOLERANCE)
        return np.where(usable, special.ndtr(-excess / np.where(usable, error, 1.0)), 1.0)


def _stage(
    key: Any,
    runs: list[Runs],
    shapes: list[tuple],
    truth: Truth,
    features: Features | None,
    num: int,
    averaged: int,
) -> _Stage:
    truth_key, *size_keys = random.split(key, 1 + len(runs))
    expected, truth_error = _expected(truth_key, truth, features, num)
    sizes, num_lost, num_bad = [], 0, 0
    for size_key, one, (num_points, _) in zip(size_keys, runs, shapes, strict=True):
        moments = Moments(1 + len(expected))
        num_chunk = num_runs_of_chunk(num_points)
        for chunk_key in random.split(size_key, math.ceil(num / num_chunk)):
            run = run_chunk(chunk_key, one, num_chunk)
            log_ratio = np.asarray(run.log_evidence) - truth.log_evidence
            num_lost += int(np.isnan(log_ratio).sum())
            num_bad += num_not_finite(run)
            # Close to log Ẑ/Z, and bounded: a run may end with evidence 0.
            damped = np.where(np.isnan(log_ratio), -np.inf, log_ratio) / _DAMPING
            damped = _DAMPING * np.tanh(damped)[:, None]
            means = np.zeros((num_chunk, 0))
            if features is not None:
                means = weighted_means(features, run)
            moments.add(np.concatenate([damped, means - expected], axis=1))
        sizes.append(moments)
    raw = np.stack([m.sums / m.num for m in sizes])
    num = min(m.num for m in sizes)
    return _Stage(
        num_runs=num,
        num_lost=num_lost,
        num_not_finite=num_bad,
        bias=np.stack([m.mean for m in sizes]),
        error=np.stack([m.error for m in sizes]),
        third=np.stack([m.central[1] for m in sizes]),
        mean_square=raw[:, 1],
        mean_square_error=np.sqrt(np.maximum(raw[:, 3] - raw[:, 1] ** 2, 0.0) / num),
        trusted=np.all([m.trusted for m in sizes], axis=0),
        truth_error=np.append(0.0, truth_error),
        averaged=averaged,
    )


def _expected(key, truth, features, num) -> tuple[np.ndarray, np.ndarray]:
    """Return the true means of the test functions and their standard errors."""
    if features is None:
        return np.zeros(0), np.zeros(0)
    num_chunks = math.ceil(_EXACT_DRAWS * num / (_BATCHES * _BATCH))
    means = np.concatenate(
        [
            exact_means(chunk_key, features, truth.sample, _BATCHES, _BATCH)
            for chunk_key in random.split(key, num_chunks)
        ]
    )
    return means.mean(axis=0), means.std(axis=0, ddof=1) / math.sqrt(len(means))


# ---------------------------------------------------------------- in words


def _checks(stage: _Stage, words: list[Described], result: Any) -> tuple[Check, ...]:
    failed = result.verdict == "fail"
    lost = Check(
        name="the evidence is a number",
        passed=stage.num_lost == 0,
        discrepancy=float(stage.num_lost),
        words=f"{stage.num_lost} runs gave the log evidence NaN",
    )
    not_finite = Check(
        name="points of positive weight are finite",
        passed=stage.num_not_finite == 0,
        discrepancy=float(stage.num_not_finite),
        words=f"{stage.num_not_finite} points of positive weight are not finite",
    )
    checks = [lost, not_finite]
    left = (stage.constant, stage.constant_error, stage.bias_p_values, stage.usable)
    for (what, unit), constant, error, p, usable in zip(words, *left, strict=True):
        direction = "large" if constant * unit > 0 else "small"
        amount = plus_minus(abs(constant * unit), error * abs(unit))
        checks.append(
            Check(
                name=f"no bias is left in {what}",
                passed=not (failed and p <= result.threshold),
                statistic=float(constant / error) if usable else None,
                p_value=float(p),
                words=f"extrapolated to infinitely many particles, {what} is {amount} too "
                f"{direction}",
            )
        )
    slope, error = stage.slopes
    rows = zip(words[: stage.averaged], slope, error, stage.slope_p_values, strict=True)
    for (what, _), one, spread, p in rows:
        checks.append(
            Check(
                name=f"the error of {what} falls",
                passed=not (failed and p <= result.threshold),
                p_value=float(p),
                words=f"the root mean squared error of {what} falls like N to the power "
                f"{plus_minus(one, spread)} between {_SIZES[-_NUM_LARGEST]} and {_SIZES[-1]} "
                f"particles; {_SLOPE:g} was claimed",
            )
        )
    return tuple(checks)


def _conclusion(stage, checks, words, result) -> tuple[str, str]:
    broken = [check.words for check in checks[:2] if not check.passed]
    if broken:
        return "fail", broken[0]
    tests = checks[2:]
    failed = [check for check in tests if not check.passed]
    if failed:
        # What is left says more than a slope, and a coordinate more than a Fourier feature.
        return "fail", min(failed, key=lambda check: "feature" in check.name).words
    if not stage.usable.all():
        place = int(np.argmin(stage.usable))
        what = words[place].words
        if not stage.trusted[place]:
            reason = f"{what} has tails too heavy for a valid test with {stage.num_runs} runs"
        elif not stage.fits[place]:
            reason = (
                f"the bias of {what} does not follow 1/N from {_SIZES[0]} particles on, so it "
                "cannot be extrapolated"
            )
        else:
            reason = f"{what} is the same in all runs of one size"
        return "inconclusive", f"{reason}: take a model that is easier for the block"
    worst = min(tests, key=lambda check: check.p_value).words
    if result.verdict == "inconclusive":
        return "inconclusive", f"the budget ended undecided: {worst}"
    return "pass", f"nothing found; the largest deviation: {worst}"


def _slopes_in_words(stage: _Stage, words: list[Described], num: int) -> list[str]:
    """Return how the errors and the biases of the first quantities fall."""
    notes = []
    slope, error = stage.slopes
    x = np.log(np.array(_SIZES, float))
    for i, (what, unit) in enumerate(words[:num]):
        text = (
            f"{what}: root mean squared error falls like N^{plus_minus(slope[i], error[i])}; "
        )
        bias, spread = stage.bias[:, i], np.hypot(stage.error[:, i], stage.truth_error[i])
        clear = np.abs(bias) > _CLEAR * spread
        if clear.sum() >= _NUM_LARGEST:
            power = np.polyfit(x[clear], np.log(np.abs(bias[clear])), 1)[0]
            text += f"bias falls like N^{power:.2f}"
        else:
            amount = plus_minus(bias[-1] * unit, spread[-1] * abs(unit))
            text += f"bias with {_SIZES[-1]} particles is {amount}"
        notes.append(text)
    return notes


def _power(level, stage: _Stage, alpha: float, num_tests: int, described: bool) -> Power:
    plan = level.plan(alpha)
    effect = plan.detectable_effect(num_tests) * math.sqrt(plan.replicates[0])
    left = effect * stage.constant_error
    words = f"finds with probability 0.99 a lasting bias of log Ẑ of {left[0]:.2g}"
    shift = 0.0
    if described:
        shift = float(left[1])
        words += f", and of the mean of x[0] of {shift:.2g} standard deviations"
    return Power(effect, 0.99, shift, plan.replicates, num_tests, words)
