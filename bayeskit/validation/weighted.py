r"""Weighted runs: independent runs of a block or an estimate, as columns of known mean.

A run gives an estimate of the evidence and weighted points. If it is properly weighted,

.. math:: E\Bigl[\frac{\hat Z}{Z} \sum_i W_i f(x_i)\Bigr] = \pi(f)

for every f. Nothing here is symmetric, so means are compared by z-tests, whose p-values are
corrected for the skewness of the runs and withdrawn where the runs have too heavy tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.measure import Target
from bayeskit.inference.population import total_log_evidence
from bayeskit.validation.battery import BatteryModel
from bayeskit.validation.exact_checks import position_of
from bayeskit.validation.features import Described, Features, describe, evaluate, features_from
from bayeskit.validation.findings import Request

__all__ = [
    "Moments",
    "Runs",
    "Truth",
    "WeightedRun",
    "exact_means",
    "known_truth",
    "normal_p_value",
    "num_not_finite",
    "num_runs_of_chunk",
    "run_chunk",
    "runs_of",
    "weighted_means",
]

# Points of one compiled program, and runs.
_MAX_POINTS = 2**16
_MAX_RUNS = 2**14
_NUM_PILOT = 20_000
# Below, a mean is not normal enough; above, rare runs carry the mean.
LEAST_RUNS = 10_000
LARGEST_LOG_VARIANCE = 1.0
# Runs must be at least this many times the squared skewness, and the excess kurtosis.
_RUNS_A_MOMENT = 100
_LARGEST_Z = 8.0
_ROUNDING = 1e-12


class WeightedRun(NamedTuple):
    """What one run returns."""

    log_evidence: jax.Array  # ()
    points: jax.Array  # (num, dim)
    log_weights: jax.Array  # (num,)


@dataclass(frozen=True)
class Runs:
    """A block, or an estimate, as a function of a key; hashable, to be compiled once."""

    function: Callable
    observed: Callable = position_of

    def __call__(self, key: Any) -> WeightedRun:
        """Return one run."""
        result = self.function(key)
        if hasattr(result, "log_weights"):
            points = jax.vmap(_vector)(self.observed(result.particles))
            return WeightedRun(total_log_evidence(result), points, result.log_weights)
        log_evidence, sample = result if isinstance(result, tuple) else (result, ())
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], sample)
        points = jax.vmap(_vector)(self.observed(one)) if jax.tree.leaves(one) else _no_points()
        return WeightedRun(jnp.asarray(log_evidence, float), points, jnp.zeros(1))


def _vector(tree: Any) -> jax.Array:
    return ravel_pytree(tree)[0].astype(float)


def _no_points() -> jax.Array:
    return jnp.zeros((1, 0))


@dataclass(frozen=True, eq=False)
class _RunOfBlock:
    block: Any

    def __call__(self, key):
        return self.block.run(key)[0]


def runs_of(built: Any, observed: Callable | None) -> Runs:
    """Return a composed block, or a function of a key, in the form that is run here."""
    # Kept on the block, so that its compiled program is found again.
    if hasattr(built, "run"):
        built = vars(built).setdefault("_run_of_block", _RunOfBlock(built))
    return Runs(built, observed or position_of)


# ---------------------------------------------------------------- the truth


class Truth(NamedTuple):
    """What is known about the measure: its total, and how to draw from it."""

    log_evidence: float
    sample: Callable | None
    name: str


def known_truth(request: Request, what: str) -> Truth:
    """Return the log evidence and the exact draws that a request gives.

    Raises
    ------
    TypeError, ValueError
        Where no log evidence is given, or none that is a number.
    """
    target, expected = request.target, request.expected
    sample, name = None, "γ"
    if isinstance(target, BatteryModel):
        expected = target.log_evidence if expected is None else expected
        sample = target.sample_exact or getattr(target.target, "sample_exact", None)
        name = target.name
    elif isinstance(target, Target):
        sample, name = target.sample_exact, target.name
    elif target is not None:
        raise TypeError(
            f"target must be a Target or a BatteryModel, got {type(target).__name__}"
        )
    if isinstance(expected, bool) or not isinstance(expected, int | float | np.number):
        found = "nothing" if expected is None else type(expected).__name__
        raise TypeError(
            f"{what} needs expected=, the log of the true evidence as a number, or a "
            f"BatteryModel as target, which knows it; got {found}"
        )
    if not math.isfinite(expected):
        raise ValueError(f"expected must be a finite log evidence, got {expected!r}")
    return Truth(float(expected), sample, name)


# ---------------------------------------------------------------- one chunk of runs


def num_runs_of_chunk(num_points: int) -> int:
    """Return how many runs with ``num_points`` points each are made by one program."""
    return max(1, min(_MAX_RUNS, _MAX_POINTS // num_points))


@quick_jit(static_argnames=("runs", "num"))
def run_chunk(key: Any, runs: Runs, num: int) -> WeightedRun:
    """Return ``num`` independent runs along a leading axis."""
    # One ordinary key a run: estimates of users may call jax.random directly.
    return jax.vmap(runs)(jax.random.split(key, num))


@quick_jit(static_argnames=("sample", "num"))
def _draw(key: Any, sample: Callable, num: int) -> jax.Array:
    return jax.vmap(lambda k: _vector(sample(k)))(jax.random.split(key, num))


@jax.jit
def _values(features: Features, points: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: evaluate(features, x, jnp.zeros(0)))(points)


def pilot_features(
    key: Any, frequency_key: Any, sample: Callable, num_frequencies: int
) -> tuple[Features, list[Described]]:
    """Return the test functions for a measure, and their words."""
    pilot = np.asarray(_draw(key, sample, _NUM_PILOT))
    if not np.isfinite(pilot).all():
        raise ValueError("sample_exact gave a draw that is not finite: repair it first")
    extras = np.zeros((len(pilot), 0))
    features = features_from(frequency_key, pilot, extras, num_frequencies)
    return features, describe(features)


def weighted_means(features: Features, run: WeightedRun) -> np.ndarray:
    """Return the weighted means (num_runs, num_functions) of the test functions."""
    num, num_points, dim = run.points.shape
    values = np.asarray(_values(features, run.points.reshape(-1, dim)))
    weights = np.exp(np.asarray(run.log_weights))
    return np.einsum("rn,rnf->rf", weights, values.reshape(num, num_points, -1))


def num_not_finite(run: WeightedRun) -> int:
    """Return how many points that carry weight are NaN or infinite."""
    evidence = np.asarray(run.log_evidence)[:, None]
    bad = ~np.isfinite(run.points).all(axis=2)
    return int(np.sum(bad & (np.asarray(run.log_weights) > -np.inf) & (evidence > -np.inf)))


def exact_means(
    key: Any, features: Features, sample: Callable, num: int, num_each: int
) -> np.ndarray:
    """Return means (num, num_functions), each of ``num_each`` exact draws."""
    values = np.asarray(_values(features, _draw(key, sample, num * num_each)))
    return values.reshape(num, num_each, -1).mean(axis=1)


# ---------------------------------------------------------------- means and their p-values


class Moments:
    """Power sums of columns, from which means, skewness and kurtosis follow."""

    def __init__(self, num_columns: int):
        self.num = 0
        self.sums = np.zeros((4, num_columns))

    def add(self, columns: np.ndarray) -> None:
        """Add rows (num, num_columns)."""
        self.num += len(columns)
        power = np.ones_like(columns)
        for i in range(4):
            power = power * columns
            self.sums[i] += power.sum(axis=0)

    @property
    def mean(self) -> np.ndarray:
        """Mean of each column."""
        return self.sums[0] / self.num

    @property
    def central(self) -> np.ndarray:
        """Central moments (3, num_columns) of order 2, 3 and 4."""
        m, s, t, q = self.sums / self.num
        second = s - m**2
        # What is left of a constant is rounding.
        second = np.where(second > _ROUNDING * s, second, 0.0)
        third = t - 3 * m * s + 2 * m**3
        fourth = q - 4 * m * t + 6 * m**2 * s - 3 * m**4
        return np.stack([second, third, fourth])

    @property
    def error(self) -> np.ndarray:
        """Standard error of each mean."""
        return np.sqrt(self.central[0] / self.num)

    @property
    def skewness(self) -> np.ndarray:
        """Skewness of each column; 0 where it is constant."""
        second, third, _ = self.central
        safe = np.where(second > 0, second, 1.0)
        return np.where(second > 0, third / safe**1.5, 0.0)

    @property
    def trusted(self) -> np.ndarray:
        """Whether the mean of a column is close to normal, as far as the runs can tell."""
        second, _, fourth = self.central
        safe = np.where(second > 0, second, 1.0)
        excess = np.where(second > 0, fourth / safe**2 - 3.0, 0.0)
        enough = _RUNS_A_MOMENT * np.maximum(self.skewness**2, excess) <= self.num
        return enough & (self.num >= LEAST_RUNS)


def normal_p_value(statistic: Any, skewness: Any) -> np.ndarray:
    r"""Return two-sided p-values of studentised means, corrected for their skewness.

    .. math:: p = \min\{1,\; 2\, P(N(0,1) \ge |z|)\, e^{|s| \min(|z|, 8)^3 / 3}\}

    where s is the skewness of the mean, for n independent summands their own skewness divided
    by :math:`\sqrt n`, at most 0.1. The exponent is the first term of the large-deviation
    series of a studentised mean; without it, p-values of 1e-9 would be too small by orders of
    magnitude. The series holds while :math:`|s z|` is small; beyond 8 no level is low enough
    for the size of the p-value to matter, only that it still falls.

    Parameters
    ----------
    statistic, skewness : (...) arrays

    References
    ----------
    Jing, Shao & Wang (2003), *Self-normalized Cramér-type large deviations for independent
    random variables*.

    Examples
    --------
    >>> normal_p_value([0.0, 6.0, 6.0], [0.1, 0.0, 0.1]).tolist()
    [1.0, 1.97e-09, 2.64e-06]
    """
    from scipy import special

    z = np.abs(np.asarray(statistic, float))
    correction = np.abs(skewness) * np.minimum(z, _LARGEST_Z) ** 3 / 3.0
    return np.exp(np.minimum(math.log(2.0) + special.log_ndtr(-z) + correction, 0.0))
