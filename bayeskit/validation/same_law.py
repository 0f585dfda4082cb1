r"""Whether two samplers draw from one law.

On a finite space both laws are written out and compared state by state. Elsewhere independent
draws a and b of the two are paired: if the laws are equal, a and b can be exchanged, so that
:math:`f(a) - f(b)` is symmetric about 0 for every function f, and its p-value is valid for any
number of pairs and any tails.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.law import DRAWS, SAME_LAW
from bayeskit.inference.measure import Target
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel
from bayeskit.validation.exact import Atoms
from bayeskit.validation.exact_checks import (
    TOLERANCE,
    checked_atoms,
    exact_findings,
    position_of,
    shapes_of,
    traced,
    worst_state,
)
from bayeskit.validation.features import describe, evaluate, features_from
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.paired import (
    PairSums,
    by_strength,
    pair_sums,
    statistical_checks,
    statistical_level,
)
from bayeskit.validation.report import Check, Power
from bayeskit.validation.sequential import sequential_test, symmetric_p_value

__all__ = ["TwoSampleTest", "two_sample_test", "validate_draws", "validate_same_law"]

# Pairs of one compiled program, and numbers that it holds at most.
_CHUNK = 20_000
_MAX_NUMBERS = 4_000_000
# Test functions are clipped; what is larger than this only spoils quantiles.
_LARGEST = 1e30
# The matrix of distances of a two-sample test takes 8 bytes for each pair of draws.
_MAX_POOLED = 10_000


# ---------------------------------------------------------------- what is validated


def validate_same_law(sampler: Any, request: Request) -> Findings:
    """Check that ``sampler`` and ``request.expected``, functions of a key, draw alike."""
    other = request.expected
    if not callable(other):
        raise TypeError(
            f"law='same' compares two samplers, and expected is {type(other).__name__}: pass "
            "the other function of a key, validate(sampler, expected=other, law='same')"
        )
    if request.observed is not None:
        sampler, other = (_Observed(s, request.observed) for s in (sampler, other))
    law = f"{SAME_LAW}: {SAME_LAW.statement}, as {name_of(other)} does"
    if request.level == "exact":
        return _compare_exactly(sampler, _exact_law(other, request), law, request)
    return _compare_by_sampling(sampler, other, None, law, request)


def validate_draws(sampler: Any, request: Request) -> Findings:
    """Check that ``sampler``, a function of a key, draws from a target or a finite measure."""
    target, expected = request.target, request.expected
    if isinstance(target, BatteryModel):
        expected = target.atoms if expected is None else expected
        target = target.target
    seen = _Observed(sampler, request.observed or position_of)
    if expected is not None:
        atoms = checked_atoms(expected, "expected")
        share = Atoms(atoms.state, atoms.mass / atoms.mass.sum())
        law = f"{DRAWS}: {DRAWS.statement}, for the {len(share.mass)} states of expected"
        return _compare_exactly(seen, share, law, request)
    if not isinstance(target, Target) or target.sample_exact is None:
        raise TypeError(
            f"{name_of(sampler)} needs what it draws from: pass expected=Atoms(states, "
            "masses), a battery model, or a Target with sample_exact"
        )
    law = f"{DRAWS}: {DRAWS.statement}, for {target.name}"
    if request.level == "exact":
        return _compare_exactly(seen, _exact_law(target.sample_exact, request), law, request)
    return _compare_by_sampling(seen, target.sample_exact, target, law, request)


@dataclass(frozen=True, repr=False)
class _Observed:
    """The part of a sampler's draw that is compared."""

    sampler: Callable
    observed: Callable

    def __call__(self, key):
        return self.observed(self.sampler(key))

    def __repr__(self):
        return name_of(self.sampler)


# ---------------------------------------------------------------- exactly


def _exact_law(sampler: Callable, request: Request) -> Atoms:
    """Return every outcome of a sampler with its probability."""
    nothing = Atoms(np.zeros((1, 1)), np.ones(1))
    with jax.enable_x64(True):
        traced(lambda key, _: sampler(key), np.zeros(1), name_of(sampler))
    return exact.enumerate_paths(lambda key, _: sampler(key), nothing, request.enumeration)


def _compare_exactly(sampler, expected: Atoms, law: str, request: Request) -> Findings:
    found = _exact_law(sampler, request)
    name = name_of(sampler)
    if shapes_of(found.state) != shapes_of(expected.state):
        raise ValueError(
            f"{name} draws leaves of shape {shapes_of(found.state)}, and what it is compared "
            f"with has {shapes_of(expected.state)}: choose the part to compare with observed="
        )
    gap = exact.discrepancy(found.state, found.mass, expected)
    words = []
    if not gap <= TOLERANCE:
        state, mass, wanted = worst_state(found.state, found.mass, expected)
        words.append(f"the probability of {state} is {mass:.4g} instead of {wanted:.4g}")
    check = Check(
        name="the probability of every outcome",
        passed=not words,
        discrepancy=gap,
        words="".join(words),
    )
    return exact_findings(name, law, [check], words, request.enumeration)


# ---------------------------------------------------------------- by sampling


@quick_jit(static_argnames=("sampler", "num"))
def _vectors(key: Any, *, sampler: Callable, num: int) -> jax.Array:
    """Return draws as the rows of one matrix."""

    def one(draw_key):
        leaves = jax.tree.map(lambda x: jnp.asarray(x, float), sampler(draw_key))
        return ravel_pytree(leaves)[0]

    # One ordinary key a draw: samplers of users may call jax.random directly.
    return jax.vmap(one)(jax.random.split(key, num))


@quick_jit(optimised=False)
def _difference_sums(a, b, functions, target) -> PairSums:
    def values(x):
        x = jnp.clip(x, -_LARGEST, _LARGEST)
        return jax.vmap(lambda row: evaluate(functions, row, _extras(row, target)))(x)

    num_nan = jnp.stack([jnp.sum(jnp.any(jnp.isnan(x), axis=1)) for x in (a, b)])
    return pair_sums(
        values(b),
        values(a),
        functions,
        reversible=False,
        num_moved=jnp.asarray(len(a)),
        num_not_finite=num_nan,
    )


def _extras(row: jax.Array, target: Target | None) -> jax.Array:
    """Return the log density, where there is one, to join the test functions."""
    if target is None:
        return jnp.zeros(0)
    return target.density()(row)[None]


def _variety_check(name: str, draws: np.ndarray, others: np.ndarray) -> Check:
    """Check that draws differ from key to key, where those of the other sampler do."""
    stuck = bool(np.all(draws == draws[0])) and not np.all(others == others[0])
    words = (
        f"{name} gives the same draw for every key: random numbers of NumPy or Python are "
        "frozen when JAX compiles, so draw from the key, through bayeskit.inference.random"
    )
    return Check(name="draws depend on the key", passed=not stuck, words=words if stuck else "")


def _compare_by_sampling(first, second, target, law, request: Request) -> Findings:
    level = statistical_level(request.level)
    name = name_of(first)
    pilot_key, feature_key, test_key = random.split(accel.as_key(request.key), 3)
    with jax.enable_x64(True):
        structure = _structure_check(first, second)
        if not structure.passed:
            return Findings("fail", name, law, (structure,), structure.words, None)
        if target is not None:
            target = target.on_vectors(jax.eval_shape(second, pilot_key))
        pilot = np.asarray(_vectors(pilot_key, sampler=second, num=_CHUNK))
        if not pilot.shape[1]:
            raise ValueError(f"{name} draws nothing: a sampler must return at least one number")
        other = np.asarray(_vectors(pilot_key, sampler=first, num=_CHUNK))
        varied = _variety_check(name, other, pilot)
        pilot = np.clip(np.nan_to_num(pilot, nan=0.0), -_LARGEST, _LARGEST)
        extras = np.asarray(jax.vmap(lambda row: _extras(row, target))(pilot))
        functions = features_from(feature_key, pilot, extras, level.num_frequencies)
        chunk = min(_CHUNK, max(_MAX_NUMBERS // functions.num_functions, 1000))
        stages: list[tuple[int, PairSums]] = []

        def run_chunk(chunk_key):
            keys = random.split(chunk_key)
            pair = (
                _vectors(k, sampler=s, num=chunk)
                for k, s in zip(keys, (first, second), strict=True)
            )
            return jax.tree.map(np.asarray, _difference_sums(*pair, functions, target))

        def run_stage(num, stage_key):
            chunk_keys = random.split(stage_key, math.ceil(num / chunk))
            sums = functools.reduce(
                lambda x, y: jax.tree.map(np.add, x, y), map(run_chunk, chunk_keys)
            )
            stages.append((len(chunk_keys) * chunk, sums))
            return symmetric_p_value(sums.total, sums.squares)

        words = ("the mean log density",) if target is not None else ()
        described = describe(functions, words)
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
    num, sums = stages[-1]
    no_nan = [
        _nan_check(name_of(s), int(count))
        for s, count in zip((first, second), sums.num_not_finite, strict=True)
    ]
    tests = statistical_checks(described, sums, num, result)
    worst = min(tests, key=_by_plainness if result.verdict == "fail" else by_strength).words
    broken = [check for check in (varied, *no_nan) if not check.passed]
    verdict = "fail" if broken else result.verdict
    prefix = {
        "pass": "nothing found; the largest deviation: ",
        "fail": "",
        "inconclusive": f"the budget ended after {num} pairs, undecided: ",
    }[verdict]
    return Findings(
        verdict,
        name,
        law,
        (structure, varied, *no_nan, *tests),
        broken[0].words if broken else prefix + worst,
        _power(plan, len(described)),
        request.alpha,
        ("x numbers what is compared of a draw, in the order of its leaves",),
    )


def _by_plainness(check: Check) -> tuple:
    """Put first what failed and can be said without Fourier features."""
    return check.passed, "feature" in check.name, *by_strength(check)


def _structure_check(first: Callable, second: Callable) -> Check:
    name = "both draw the same leaves, shapes and dtypes"
    found, wanted = map(_leaf_words, (first, second))
    for place in [*wanted, *found]:
        mine, other = (leaves.get(place, "nothing") for leaves in (found, wanted))
        if mine != other:
            words = (
                f"{place} is {mine} from {name_of(first)} and {other} from {name_of(second)}"
            )
            return Check(name=name, passed=False, words=words)
    return Check(name=name, passed=True, words="the same")


def _leaf_words(sampler: Callable) -> dict[str, str]:
    """Return what each leaf of a draw is, by its place."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.eval_shape(sampler, accel.as_key(0)))
    return {
        jax.tree_util.keystr(path).strip(".") or "the draw": f"{x.dtype} of shape {x.shape}"
        for path, x in leaves
    }


def _nan_check(name: str, count: int) -> Check:
    return Check(
        name=f"{name} draws no NaN",
        passed=count == 0,
        discrepancy=float(count),
        words=f"{count} draws of {name} hold NaN",
    )


def _power(plan, num_tests: int) -> Power:
    effect = plan.detectable_effect(num_tests)
    # The difference of two independent draws has twice the variance of one.
    shift = math.sqrt(2.0) * effect
    words = (
        f"finds with probability 0.99 a difference of {shift:.3f} standard deviations between "
        "the means of any test function, such as a coordinate"
    )
    return Power(effect, 0.99, shift, plan.replicates, num_tests, words)


# ---------------------------------------------------------------- draws that are there already


class TwoSampleTest(NamedTuple):
    """The result of :func:`two_sample_test`.

    Parameters
    ----------
    statistic : float
        Squared distance of the two samples, at least 0.
    p_value : float in (0, 1]
    num_permutations : int

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit.validation import two_sample_test
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> shifted = two_sample_test(x, x[::-1] + 1.0)
    >>> round(shifted.statistic, 1), shifted.p_value, shifted.num_permutations
    (0.8, 0.001, 999)
    """

    statistic: float
    p_value: float
    num_permutations: int


def two_sample_test(
    first: Any,
    second: Any,
    *,
    statistic: str = "energy",
    num_permutations: int = 999,
    key: Any = 0,
) -> TwoSampleTest:
    r"""Test whether two sets of independent draws come from one distribution.

    With the distances :math:`d_{ij}` of the pooled draws, and :math:`w_i = 1/n` on the n draws
    of the first set and :math:`-1/m` on the m of the second,

    .. math:: E = -\sum_{ij} w_i w_j d_{ij}, \qquad
        MMD^2 = \sum_{ij} w_i w_j \exp\left(-\tfrac{d_{ij}^2}{2 h^2}\right),

    h being the median distance. If the distributions are equal, every way to part the pooled
    draws is as likely as the one that was found:

    .. math:: p = \frac{1 + \#\{\text{permutations with } E^* \ge E\}}{1 + B} .

    Parameters
    ----------
    first : (n, ...) array
    second : (m, ...) array
        Independent draws, along the first axis.
    statistic : {"energy", "mmd"}
    num_permutations : int
        Number B of random permutations. The p-value is at least 1 / (B + 1).
    key : int or JAX key

    Returns
    -------
    TwoSampleTest

    Raises
    ------
    ValueError
        For shapes that do not agree, fewer than two draws, NaN or infinities, or more than
        10 000 draws altogether.

    Notes
    -----
    P(p <= x) <= x holds exactly for any n, m and B, provided that the draws are independent:
    thin those of a Markov chain. Coordinates are divided by their pooled standard deviations.
    O((n + m)^2 B) operations.

    References
    ----------
    Székely & Rizzo (2004), energy distance. Gretton, Borgwardt, Rasch, Schölkopf & Smola
    (2012), kernel two-sample test. Phipson & Smyth (2010), why 1 is added.

    Examples
    --------
    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> x = generator.normal(size=(200, 2))
    >>> y = generator.normal(size=(200, 2)) * 1.5
    >>> two_sample_test(x, y).p_value
    0.001
    """
    if statistic not in ("energy", "mmd"):
        raise ValueError(f"statistic must be 'energy' or 'mmd', got {statistic!r}")
    if num_permutations < 1:
        raise ValueError(f"num_permutations must be at least 1, got {num_permutations!r}")
    x, y = _checked_draws(first, "first"), _checked_draws(second, "second")
    if np.shape(first)[1:] != np.shape(second)[1:]:
        raise ValueError(
            f"draws of first have shape {np.shape(first)[1:]}, those of second "
            f"{np.shape(second)[1:]}: they must agree"
        )
    pooled = np.concatenate([x, y])
    if len(pooled) > _MAX_POOLED:
        raise ValueError(
            f"{len(pooled)} draws need a matrix of {len(pooled)}² distances: take at most "
            f"{_MAX_POOLED} altogether, every so many of them"
        )
    scale = pooled.std(axis=0)
    pooled = pooled / np.where(scale > 0, scale, 1.0)
    sign = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    with jax.enable_x64(True):
        values = np.asarray(
            _permuted_statistics(accel.as_key(key), pooled, sign, statistic, num_permutations)
        )
    # Equal statistics count as equal although they were added up in another order.
    as_large = int(np.sum(values[1:] >= values[0] - 1e-12))
    return TwoSampleTest(
        float(values[0]), (1 + as_large) / (1 + num_permutations), num_permutations
    )


def _checked_draws(draws: Any, name: str) -> np.ndarray:
    draws = np.asarray(draws, float)
    if draws.ndim == 0 or len(draws) < 2:
        raise ValueError(
            f"{name} must hold at least 2 draws along its first axis, got shape {draws.shape}"
        )
    draws = draws.reshape(len(draws), -1)
    finite = np.isfinite(draws).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name} has {np.sum(~finite)} draws with NaN or infinities, the first is number "
            f"{int(np.argmin(finite))}"
        )
    return draws


@functools.partial(jax.jit, static_argnames=("statistic", "num_permutations"))
def _permuted_statistics(key, pooled, sign, statistic, num_permutations) -> jax.Array:
    """Return the statistic of the draws as they are, and then of each permutation."""
    num = len(pooled)
    matrix = pairwise_distances(pooled)
    if statistic == "energy":
        matrix = -matrix
    else:
        width = median_distance(matrix)
        matrix = jnp.exp(-0.5 * (matrix / width) ** 2)
    order = jnp.argsort(random.uniform(key, (num_permutations, num)), axis=1)
    signs = jnp.concatenate([sign[None], sign[order]])
    return jnp.sum((signs @ matrix) * signs, axis=1)


def pairwise_distances(x: jax.Array) -> jax.Array:
    """Return the Euclidean distances of all pairs of rows, 0 on the diagonal exactly."""
    squares = jnp.sum(x**2, axis=1)
    squared = jnp.maximum(squares[:, None] + squares - 2.0 * (x @ x.T), 0.0)
    return jnp.sqrt(jnp.where(jnp.eye(len(x), dtype=bool), 0.0, squared))


def median_distance(distances: jax.Array) -> jax.Array:
    """Return the median distance between two different rows, 1 if that is 0."""
    off = jnp.where(jnp.eye(len(distances), dtype=bool), jnp.nan, distances)
    median = jnp.nanmedian(off)
    return jnp.where(median > 0, median, 1.0)
