r"""Resampling schemes with a million particles in single precision.

On a few particles every path of a scheme can be enumerated, and its law is exact. What may
still go wrong with many is rounding: cumulative sums of a million float32 weights lose the
light particles, or do not end at one, so that the last particle, which may have weight zero,
gets all that is left over.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import norm

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks import Resample, draw_ancestors
from bayeskit.inference.law import UNBIASED_RESAMPLING
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.report import Check, Power

__all__ = ["validate_scheme_at_scale"]

# Blocks of neighbouring particles whose offspring are counted, fine and coarse.
_NUM_BLOCKS = (64, 8)
# Weights of float32 are known to half a unit in the last place, 2^-24; normalising adds more.
_ROUNDING = 2.0**-22
# Most that the offspring of one particle, or of neighbours, differ from their mean.
_MAX_DEVIATION = {"systematic": 1.0, "residual": 1.0, "stratified": 2.0, "ssp": 2.0}


def validate_scheme_at_scale(
    scheme: str | Callable | Resample,
    request: Request,
    num_particles: int = 10**6,
    *,
    num_runs: int = 20,
    max_deviation: float | None = None,
) -> Findings:
    r"""Check law L4 of a resampling scheme on many particles with float32 weights.

    The offspring of a block B of neighbouring particles must have the mean
    :math:`n \sum_{i \in B} W_i`. Over R runs their sum T is held against

    .. math:: P(T \ge Rn t) \le e^{-Rn\,\mathrm{KL}(t\,\|\,W_B)} \text{ for } t \ge W_B,
        \qquad P(T \le Rn t) \le e^{-Rn\,\mathrm{KL}(t\,\|\,W_B)} \text{ for } t \le W_B,

    each side with its own KL; the p-value is twice the bound of the side that was seen. These
    are Chernoff's bounds for multinomial resampling, and hold for every scheme whose offspring
    are at least as even: stratified, systematic, residual, killing and all with negatively
    associated offspring. Without chance: particles of weight zero have no offspring, ancestors
    lie within the particles, and with ``max_deviation`` no count is further than that from its
    mean.

    Parameters
    ----------
    scheme : str, callable or block
        The name of a scheme, a :func:`~bayeskit.inference.resample` block without a condition,
        or ``ancestors(key, log_weights, num)`` for normalised float32 log-weights.
    request : Request
        Of it ``key`` and ``alpha`` are used, and ``expected``, the name of the scheme that a
        function claims to be.
    num_particles, num_runs : int
    max_deviation : float, optional
        Largest difference from the mean for the offspring of any one particle or block of
        neighbours. Default: known for the schemes of this package, 1 for systematic and
        residual, 2 for stratified and ssp.

    Returns
    -------
    Findings

    Raises
    ------
    ValueError
        For an unknown scheme, fewer than 1000 particles or ancestors of the wrong shape.

    Notes
    -----
    The mean is computed in float64 from the float32 log-weights. Differences of a relative
    2^-22, which rounding the weights themselves may cause, are forgiven. A scheme that is
    less even than multinomial resampling may fail although it has no bias.

    References
    ----------
    Joag-Dev & Proschan (1983), *Negative association of random variables*; Gerber, Chopin &
    Whiteley (2019), *Negative association, ordering and convergence of resampling methods*.

    Examples
    --------
    >>> from bayeskit.validation.findings import Request
    >>> from bayeskit.validation.scale import validate_scheme_at_scale
    >>> validate_scheme_at_scale("systematic", Request(), num_particles=1000).verdict
    'pass'
    """
    if num_particles < 1000:
        raise ValueError(
            f"num_particles must be at least 1000, got {num_particles}: with few particles "
            "validate(scheme, law='resampling') is exact"
        )
    if isinstance(scheme, Resample):
        scheme = _scheme_of(scheme)
    name, ancestors = _as_function(scheme)
    if max_deviation is None:
        claimed = scheme if isinstance(scheme, str) else request.expected
        max_deviation = _MAX_DEVIATION.get(claimed) if isinstance(claimed, str) else None
    cases = _weight_vectors(num_particles)
    num_tests = len(cases) * sum(_NUM_BLOCKS)
    threshold = request.alpha / num_tests
    keys = random.split(accel.as_key(request.key), len(cases))
    checks: list[Check] = []
    seconds: list[float] = []
    for key, (label, log_weights) in zip(keys, cases.items(), strict=True):
        counted = _count(ancestors, key, log_weights, num_runs, name)
        seconds += counted.seconds
        checks += _checks(counted, log_weights, num_runs, threshold, max_deviation, label)
    failed = [check for check in checks if not check.passed]
    p_values = [check for check in checks if check.p_value is not None]
    effect = float(norm.isf(threshold / 2) + norm.isf(0.01))
    shift = effect / math.sqrt(num_runs * num_particles / 100)
    power = Power(
        effect,
        0.99,
        0.0,
        (num_runs,),
        num_tests,
        f"finds with probability 0.99 an error of {shift:.2%} in the offspring of a block that "
        "holds a hundredth of the weight",
    )
    worst = failed[0] if failed else min(p_values, key=lambda check: check.p_value or 0.0)
    prefix = "" if failed else "nothing found; the largest deviation: "
    return Findings(
        "fail" if failed else "pass",
        f"{name}, {num_particles:,} particles in float32",
        f"{UNBIASED_RESAMPLING}: {UNBIASED_RESAMPLING.statement}; none for weight zero, and "
        "no less even than multinomial",
        tuple(checks),
        prefix + f"with the weights {worst.model!r}, {worst.words}",
        power,
        request.alpha,
        (f"CPU seconds of one call after the first: {np.median(seconds):.3f}",),
    )


def _scheme_of(block: Resample) -> str:
    if block.ess_below is not None:
        raise ValueError(
            f"{block.name} resamples under a condition: validate the scheme {block.scheme!r}, "
            "and the condition in a composed block"
        )
    if block.rate is not None:
        raise ValueError(
            f"{block.name} leaves uneven weights: validate the scheme {block.scheme!r}, and "
            "the rate in a composed block"
        )
    return block.scheme


def _as_function(scheme: Any) -> tuple[str, Callable]:
    if not isinstance(scheme, str):
        if not callable(scheme):
            raise TypeError(
                "a resampling scheme is a name or a function ancestors(key, log_weights, num), "
                f"got {type(scheme).__name__}"
            )
        return name_of(scheme), scheme
    if scheme not in accel.SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: choose one of {sorted(accel.SCHEMES)}")
    draw = functools.partial(_draw, scheme)
    return f"resampling scheme {scheme!r}", draw


@functools.partial(jax.jit, static_argnums=(0, 3))
def _draw(scheme: str, key: Any, log_weights: jax.Array, num: int) -> jax.Array:
    return draw_ancestors(key, log_weights, scheme, num)


def _weight_vectors(num: int) -> dict[str, np.ndarray]:
    """Return float32 log-weights, none symmetric, with light and dead particles."""
    # The golden ratio spreads the values evenly and never repeats them.
    spread = np.modf(np.arange(1, num + 1) * 0.6180339887498949)[0]
    place = np.arange(num) / num
    uneven = -6.0 * spread
    dead = np.where((place < 0.07) | ((place > 0.4) & (place < 0.45)), -np.inf, uneven)
    dead[num - num // 9 :] = -np.inf
    light = np.where(place > 0.6, uneven - 7.0, uneven)
    light[-1] = -np.inf
    heavy = np.where(place < 0.3, uneven, uneven - 4.0)
    heavy[int(0.37 * num)] = math.log(num / 2)
    cases = {
        "uneven": uneven,
        "dead ends": dead,
        "light tail": light,
        "one heavy": heavy,
    }
    # Normalised as far as float32 goes, as a block hands them on.
    return {
        label: (values - np.logaddexp.reduce(values)).astype(np.float32)
        for label, values in cases.items()
    }


class _Counted(NamedTuple):
    """Offspring over all runs of one case."""

    total: np.ndarray  # (num_particles,)
    lowest: np.ndarray  # (num_particles,) smallest and largest count of a run
    highest: np.ndarray
    block_lowest: np.ndarray  # (num_blocks,)
    block_highest: np.ndarray
    num_outside: int
    seconds: list[float]


def _count(ancestors, key, log_weights, num_runs, name) -> _Counted:
    num = len(log_weights)
    given = jax.numpy.asarray(log_weights)
    total = np.zeros(num, np.int64)
    lowest, highest = np.full(num, np.iinfo(np.int64).max), np.zeros(num, np.int64)
    block_counts, num_outside, seconds = [], 0, []
    for run_key in random.split(key, num_runs):
        began = time.process_time()
        index = np.asarray(ancestors(run_key, given, num))
        seconds.append(time.process_time() - began)
        if index.shape != (num,) or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(
                f"{name} must return {num} whole numbers, the ancestors; got {index.dtype} of "
                f"shape {index.shape}"
            )
        inside = (index >= 0) & (index < num)
        num_outside += int((~inside).sum())
        offspring = np.bincount(index[inside], minlength=num)
        total += offspring
        np.minimum(lowest, offspring, out=lowest)
        np.maximum(highest, offspring, out=highest)
        block_counts.append(_by_block(offspring))
    counts = np.array(block_counts)
    return _Counted(
        total, lowest, highest, counts.min(axis=0), counts.max(axis=0), num_outside, seconds[1:]
    )


def _by_block(values: np.ndarray) -> np.ndarray:
    """Return sums over blocks of neighbours, fine and coarse ones."""
    return np.concatenate(
        [[part.sum() for part in np.array_split(values, num)] for num in _NUM_BLOCKS]
    )


def _checks(counted, log_weights, num_runs, threshold, max_deviation, label) -> list[Check]:
    num = len(log_weights)
    weights = np.exp(log_weights.astype(float) - float(log_weights.max()))
    weights /= weights.sum()
    born = int(counted.total[weights == 0].sum())
    checks = [
        Check(
            name="no offspring for weight zero",
            passed=born == 0,
            discrepancy=float(born),
            words=f"particles of weight zero have {born} offspring in {num_runs} runs",
            model=label,
        ),
        Check(
            name="every offspring has an ancestor",
            passed=counted.num_outside == 0,
            discrepancy=float(counted.num_outside),
            words=f"{counted.num_outside} ancestors lie outside of the particles",
            model=label,
        ),
        _block_check(counted, weights, num_runs, threshold, label),
    ]
    if max_deviation is not None:
        means = num * weights
        single = _excess(counted.lowest, counted.highest, means)
        means = num * _by_block(weights)
        blocks = _excess(counted.block_lowest, counted.block_highest, means)
        for what, values in (("a particle", single), ("a block of neighbours", blocks)):
            largest = float(values.max())
            text = (
                f"the offspring of {what} differ from their mean by {largest:.3g}, which must "
                f"stay below {max_deviation:g}"
            )
            check = Check(
                name=f"offspring of {what} less than {max_deviation:g} from the mean",
                passed=largest < max_deviation,
                discrepancy=largest,
                words=text,
                model=label,
            )
            checks.append(check)
    return checks


def _excess(lowest: np.ndarray, highest: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the largest distance of a count from its mean, beyond what rounding explains."""
    return np.maximum(means - lowest, highest - means) - _ROUNDING * means


def _block_check(counted, weights, num_runs, threshold, label) -> Check:
    """Hold the mean offspring of blocks against Chernoff's bound for multinomial counts."""
    num = num_runs * len(weights)
    expected = num * _by_block(weights)
    found = _by_block(counted.total).astype(float)
    forgiven = np.minimum(_ROUNDING * expected, np.abs(found - expected))
    p, t = expected / num, (found - forgiven * np.sign(found - expected)) / num
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(t < 1, (1 - t) * np.log((1 - t) / (1 - p)), 0.0)
        divergence = np.where(t > 0, t * np.log(t / p), 0.0) + rest
        statistic = (found - expected) / np.sqrt(expected * (1 - p))
    # A block of weight zero has its own check.
    divergence = np.where(p > 0, np.maximum(divergence, 0.0), 0.0)
    place = int(np.argmax(divergence))
    p_value = min(1.0, 2.0 * math.exp(-num * float(divergence[place])))
    fine = place < _NUM_BLOCKS[0]
    number = place if fine else place - _NUM_BLOCKS[0]
    size = _NUM_BLOCKS[0] if fine else _NUM_BLOCKS[1]
    return Check(
        name="mean offspring of blocks of neighbours",
        passed=p_value > threshold,
        statistic=float(statistic[place]),
        p_value=p_value,
        words=(
            f"block {number} of {size} has {found[place] / num_runs:.6g} offspring a run on "
            f"average instead of {expected[place] / num_runs:.6g}, {statistic[place]:+.3g} "
            "standard errors of multinomial resampling"
        ),
        model=label,
    )
