r"""Does a kernel leave a target invariant? Tests from exact draws, and checks without chance.

Replicates start as independent exact draws, :math:`x \sim \pi`, and move to
:math:`x' \sim K^L(x, \cdot)`. If the kernel is reversible, the pair can be exchanged,
:math:`(x, x') \sim (x', x)`; if it is invariant, :math:`x'` can be exchanged with an
independent exact draw. Every statistic changes its sign under that exchange, hence is symmetric
about 0 when the law holds, and its p-value is valid for any number of replicates and any tails:
see :func:`~bayeskit.validation.sequential.symmetric_p_value`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.kernels.base import Tuning
from bayeskit.inference.keys import LaneKey
from bayeskit.inference.measure import Target
from bayeskit.validation.report import Check, Power
from bayeskit.validation.sequential import (
    SequentialPlan,
    sequential_test,
    symmetric_p_value,
)

__all__ = ["LEVELS", "ExactStart", "Level", "exact_start"]

# Replicates of one compiled program; stages are multiples of it.
_CHUNK = 20_000
# Coordinates beyond this many robust standard deviations are clipped, so that a function of
# heavy tails does not drown in its own variance. Any function may be tested.
_CLIP = 10.0
# A recomputed value may be compiled in another order of operations.
_CACHE_TOLERANCE = 1e-8
# With fewer replicates that move, the tests would pass whatever the kernel does.
_LEAST_MOVED = 0.01
# All products of coordinates up to here, beyond it those of neighbours.
_MAX_ALL_PRODUCTS = 6


@dataclass(frozen=True)
class Level:
    """How much work a statistical validation does.

    Parameters
    ----------
    num_stages, growth, first
        As in :class:`~bayeskit.validation.sequential.SequentialPlan`.
    num_frequencies : int
        Random frequencies, each with a cosine and a sine.
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


# ---------------------------------------------------------------- functions to compare


class _Functions(NamedTuple):
    """Numbers that define the test functions, all from a pilot sample of exact draws."""

    location: jax.Array  # (dim,)
    scale: jax.Array  # (dim,)
    whitening: jax.Array  # (dim, dim)
    low: jax.Array  # (dim,)
    high: jax.Array  # (dim,)
    frequencies: jax.Array  # (num_frequencies, dim)
    log_density: jax.Array  # location and scale
    squared_gradient: jax.Array  # location and scale


class _Described(NamedTuple):
    """A statistic in words, and what one unit of it is in the user's own units."""

    words: str
    unit: float = 1.0


def _clipped(values: jax.Array, location: jax.Array, scale: jax.Array) -> jax.Array:
    standardised = jnp.nan_to_num((values - location) / scale, nan=_CLIP)
    return jnp.clip(standardised, -_CLIP, _CLIP)


def _products(dim: int) -> list[tuple[int, int]]:
    if dim <= _MAX_ALL_PRODUCTS:
        return list(itertools.combinations(range(dim), 2))
    return [(i, i + 1) for i in range(dim - 1)]


def _evaluate(functions: _Functions, density: Any, x: jax.Array) -> jax.Array:
    """Return the values (num_functions,) of all test functions at one position."""
    u = _clipped(x, functions.location, functions.scale)
    columns = [u, u**2, jnp.stack([u[i] * u[j] for i, j in _products(len(u))] or [u[0]])]
    if density.target.has_gradient:
        components, gradient = density.components_and_gradient(x)
        log_density = density.combine(components)
        squared = jnp.sum((functions.scale * gradient) ** 2)
        columns.append(_clipped(squared, *functions.squared_gradient)[None])
    else:
        log_density = density(x)
    columns.append(_clipped(log_density, *functions.log_density)[None])
    columns += [(x < functions.low).astype(u.dtype), (x > functions.high).astype(u.dtype)]
    angle = functions.frequencies @ (functions.whitening @ u)
    return jnp.concatenate([*columns, jnp.cos(angle), jnp.sin(angle)])


def _describe(functions: _Functions, has_gradient: bool) -> list[_Described]:
    """Return the words for each value of :func:`_evaluate`, in the same order."""
    dim = len(functions.location)
    m, s = np.asarray(functions.location), np.asarray(functions.scale)
    num = len(functions.frequencies)
    words = [_Described(f"the mean of x[{i}]", s[i]) for i in range(dim)]
    words += [_Described(f"the mean of (x[{i}] - {m[i]:.3g})²", s[i] ** 2) for i in range(dim)]
    words += [
        _Described(f"the mean of (x[{i}] - {m[i]:.3g})(x[{j}] - {m[j]:.3g})", s[i] * s[j])
        for i, j in _products(dim)
    ] or words[:1]
    if has_gradient:
        unit = float(functions.squared_gradient[1])
        words.append(_Described("the mean squared scaled gradient", unit))
    words.append(_Described("the mean log density", float(functions.log_density[1])))
    for sign, bound in (("<", functions.low), (">", functions.high)):
        words += [_Described(f"P(x[{i}] {sign} {bound[i]:.3g})") for i in range(dim)]
    for name in ("cos", "sin"):
        words += [_Described(f"the mean of {name} feature {k}") for k in range(num)]
    return words


def _pairs(dim: int, has_gradient: bool, num_functions: int, num_frequencies: int):
    """Return indices (2, num_pairs) of functions between which a current might flow."""
    first_product = 2 * dim
    log_density = first_product + max(len(_products(dim)), 1) + has_gradient
    pairs = [(i, log_density) for i in range(dim)]
    pairs += [(i, dim + i) for i in range(dim)]
    pairs += _products(dim)
    cosine = num_functions - 2 * num_frequencies
    pairs += [(cosine + k, cosine + num_frequencies + k) for k in range(num_frequencies)]
    return np.array(pairs).T


def _robust(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median and normal-consistent interquartile range over the first axis."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    # The interquartile range of a standard normal variable is 1.349.
    scale = (high - low) / 1.349
    return middle, np.where(scale > 0, scale, np.maximum(values.std(axis=0), 1e-12))


def _pilot(key: Any, target: Target) -> tuple[np.ndarray, ...]:
    """Return exact draws with their log densities and gradients."""
    x = _exact_draws(key, target)
    return tuple(np.asarray(leaf) for leaf in (x, *_values(x, target)))


def _functions_from(key: Any, pilot: tuple, num_frequencies: int) -> _Functions:
    x, log_density, gradient = pilot
    location, scale = _robust(x)
    u = np.clip((x - location) / scale, -_CLIP, _CLIP)
    factor = np.linalg.cholesky(np.cov(u.T).reshape(u.shape[1], -1) + 1e-9 * np.eye(u.shape[1]))
    low, high = np.quantile(x, (0.05, 0.95), axis=0)
    # Three widths, from features that see the whole to such that see details.
    width = np.resize([0.5, 1.0, 2.0], num_frequencies)[:, None]
    noise = np.asarray(random.normal(key, (num_frequencies, u.shape[1])))
    squared = np.sum((scale * gradient) ** 2, axis=1)
    frequencies = width * noise
    return _Functions(
        location=jnp.asarray(location),
        scale=jnp.asarray(scale),
        whitening=jnp.asarray(np.linalg.inv(factor)),
        low=jnp.asarray(low),
        high=jnp.asarray(high),
        frequencies=jnp.asarray(frequencies),
        log_density=jnp.stack(_robust(log_density)),
        squared_gradient=jnp.stack(_robust(squared)),
    )


# ---------------------------------------------------------------- one batch of replicates


@dataclass(frozen=True)
class _Guarded:
    """A log density that is NaN where x[0] lies above a threshold.

    The threshold is data, so that the very program that is tested is also run on a density
    with NaN.
    """

    function: Callable

    def __call__(self, x, threshold, *data):
        return jnp.where(x[0] > threshold, jnp.nan, self.function(x, *data))


def _guarded(target: Target, threshold: float) -> Target:
    data = (jnp.asarray(threshold, float), *target.data)
    if target.log_likelihood is not None:
        return replace(target, data=data, log_likelihood=_Guarded(target.log_likelihood))
    assert target.log_density is not None
    return replace(target, data=data, log_density=_Guarded(target.log_density))


# Exact draws and test functions belong to the target alone, so they are programs of their own,
# which all kernels share. They run for milliseconds: compiling them fast saves more.
_compiled_fast = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@_compiled_fast
def _exact_draws(key: Any, target: Target) -> jax.Array:
    assert target.sample_exact is not None
    # One ordinary key a draw: samplers of users may call jax.random directly.
    x = jax.vmap(target.sample_exact)(jax.random.split(key, _CHUNK))
    return x.astype(jnp.result_type(float))


@_compiled_fast
def _values(x: jax.Array, target: Target) -> tuple[jax.Array, jax.Array]:
    """Return log density and gradient at each position; no gradient counts as zero."""
    density = target.density()
    if not target.has_gradient:
        return jax.vmap(lambda one: density(one))(x), jnp.zeros_like(x)
    components, gradient = jax.vmap(density.components_and_gradient)(x)
    return jax.vmap(density.combine)(components), gradient


class _Moved(NamedTuple):
    """What became of one batch of replicates."""

    position: jax.Array  # (num, dim)
    cache_error: jax.Array
    acceptance: jax.Array


@functools.partial(jax.jit, static_argnames=("kernel", "num_steps", "in_lanes"))
def _move(key, x, target, tuning, *, kernel, num_steps, in_lanes) -> _Moved:
    density = target.density()
    start = jax.vmap(lambda one: kernel.init(one, density))(x)

    def one(k, state):
        return kernel.step(k, state, density, tuning)

    def one_step(step_key, carry, _):
        states, acceptance = carry
        if in_lanes:
            states, info = random.lanes(one, step_key, states)
        else:
            states, info = jax.vmap(one)(jax.random.split(step_key, len(x)), states)
        return states, acceptance + jnp.mean(getattr(info, "acceptance", jnp.nan))

    end, acceptance = random.repeat(one_step, key, (start, jnp.zeros(())), num_steps)
    refreshed = jax.vmap(lambda state: kernel.refresh(state, density))(end)
    error = largest_difference(end, refreshed)
    return _Moved(end.position, error, acceptance / num_steps)


class _Sums(NamedTuple):
    """Sums over replicates, from one batch or many."""

    total: jax.Array  # (num_statistics,)
    squares: jax.Array
    value_total: jax.Array  # (num_functions,)
    value_squares: jax.Array
    num_moved: jax.Array
    num_not_finite: jax.Array
    num_off_support: jax.Array


@functools.partial(_compiled_fast, static_argnames="reversible")
def _sums(x, compared, moved, target, functions, *, reversible) -> _Sums:
    density = target.density()
    evaluate = jax.vmap(lambda one: _evaluate(functions, density, one))
    before, after = evaluate(compared), evaluate(moved)
    statistics = [after - before]
    if reversible:
        sizes = (x.shape[1], target.has_gradient, before.shape[1], len(functions.frequencies))
        g, h = _pairs(*sizes)
        statistics.append(before[:, g] * after[:, h] - before[:, h] * after[:, g])
    differences = jnp.concatenate(statistics, axis=1)
    return _Sums(
        total=jnp.sum(differences, axis=0),
        squares=jnp.sum(differences**2, axis=0),
        value_total=jnp.sum(before, axis=0),
        value_squares=jnp.sum(before**2, axis=0),
        num_moved=jnp.sum(jnp.any(moved != x, axis=1)),
        num_not_finite=jnp.sum(~jnp.all(jnp.isfinite(moved), axis=1)),
        num_off_support=jnp.sum(~(jax.vmap(lambda one: density(one))(moved) > -jnp.inf)),
    )


def largest_difference(one: Any, other: Any) -> jax.Array:
    """Return the largest relative difference of two states; equal NaN or infinities are 0."""

    def leaf(a, b):
        same = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
        difference = jnp.abs(a - b) / (1.0 + jnp.abs(b))
        difference = jnp.where(jnp.isnan(difference), jnp.inf, difference)
        return jnp.max(jnp.where(same, 0.0, difference), initial=0.0)

    leaves = jax.tree.map(lambda a, b: leaf(jnp.asarray(a), jnp.asarray(b)), one, other)
    return functools.reduce(jnp.maximum, jax.tree.leaves(leaves), jnp.zeros(()))


# ---------------------------------------------------------------- the whole test


@dataclass(frozen=True)
class ExactStart:
    """What the tests of one kernel on one target found.

    Parameters
    ----------
    verdict : {"pass", "fail", "inconclusive"}
    checks : tuple of Check
    worst : str
        The strongest sign against the law, even where the verdict is a pass.
    power : Power or None
    acceptance : float
        Mean acceptance probability of the kernel, as it says itself.
    in_lanes : bool
        Whether it draws through the primitives, hence once for all replicates.
    """

    verdict: str
    checks: tuple[Check, ...]
    worst: str
    power: Power | None
    acceptance: float = math.nan
    in_lanes: bool = True


def exact_start(
    kernel: Any,
    target: Target,
    *,
    tuning: Any = None,
    num_steps: int = 2,
    reversible: bool = True,
    level: Level = LEVELS["quick"],
    alpha: float = 1e-6,
    key: Any = 0,
    budget_s: float | None = None,
) -> ExactStart:
    r"""Test whether a kernel leaves a target invariant, from exact draws.

    For each function f of a battery,

    .. math:: E[f(x') - f(x)] = 0, \qquad x \sim \pi, \quad x' \sim K^L(x, \cdot),

    and for a reversible kernel also :math:`E[g(x) h(x') - h(x) g(x')] = 0` for pairs. For a
    kernel that is only invariant, f(x') is compared with f at fresh exact draws. The battery
    holds coordinates, squares, products, the log density, the squared gradient, tail
    probabilities and random Fourier features; they are standardised by a pilot sample.

    Checked without chance, on all replicates of the first stage: values cached in the state
    equal recomputed ones; positions are finite and inside the support; no step ends where the
    density is NaN; shapes and dtypes are kept.

    Parameters
    ----------
    kernel : Kernel
    target : Target on vectors, with sample_exact
    tuning : pytree, optional
        Default: the kernel's own for a standardised target, moved to the centre and scale of
        this one.
    num_steps : int
        Steps L between the compared points; with 2 a wrong cached value can do its harm.
    reversible : bool
        Which of the two laws to test.
    level : Level
    alpha : float
        Bound on the probability that a correct kernel fails.
    key : int or JAX key
    budget_s : float, optional
        CPU seconds.

    Returns
    -------
    ExactStart

    Notes
    -----
    The p-values are adjusted for the number of functions by Bonferroni. A kernel under which
    fewer than one replicate in a hundred moves gets the verdict ``"inconclusive"``.

    References
    ----------
    Gandy & Scott (2020); Bentkus & Dzindzalieta (2015).
    """
    pilot_key, frequency_key, nan_key, test_key = random.split(accel.as_key(key), 4)
    with jax.enable_x64(True):
        plain = _guarded(target, math.inf)
        pilot = _pilot(pilot_key, plain)
        _check_pilot(target, pilot)
        functions = _functions_from(frequency_key, pilot, level.num_frequencies)
        if tuning is None:
            tuning = _pilot_tuning(kernel, pilot[0])
        dim = pilot[0].shape[1]
        structure, in_lanes = _structure_check(kernel, target, tuning, dim)
        if not structure.passed:
            return ExactStart("fail", (structure,), structure.words, None)
        move = functools.partial(
            _move, tuning=tuning, kernel=kernel, num_steps=num_steps, in_lanes=in_lanes
        )
        cache_errors, acceptances = [], []
        stages: list[_Sums] = []

        def run_chunk(chunk_key):
            start_key, fresh_key, move_key = random.split(chunk_key, 3)
            x = _exact_draws(start_key, plain)
            moved = move(move_key, x, plain)
            cache_errors.append(float(moved.cache_error))
            acceptances.append(float(moved.acceptance))
            compared = x if reversible else _exact_draws(fresh_key, plain)
            result = _sums(x, compared, moved.position, plain, functions, reversible=reversible)
            return jax.tree.map(np.asarray, result)

        def run_stage(num, stage_key):
            chunk_keys = random.split(stage_key, math.ceil(num / _CHUNK))
            sums = functools.reduce(
                lambda a, b: jax.tree.map(np.add, a, b), map(run_chunk, chunk_keys)
            )
            stages.append(sums)
            return symmetric_p_value(sums.total, sums.squares)

        described = _describe(functions, target.has_gradient)
        if reversible:
            sizes = (dim, target.has_gradient, len(described), level.num_frequencies)
            flows = [(described[i], described[j]) for i, j in _pairs(*sizes).T]
            described += [
                _Described(f"the flow between {_short(g)} and {_short(h)}") for g, h in flows
            ]
        plan = level.plan(alpha)
        result = sequential_test(
            run_stage,
            len(described),
            alpha,
            level.num_stages,
            level.growth,
            level.first,
            key=test_key,
            budget_s=budget_s,
        )
        nan_check = _nan_check(move, nan_key, target, float(functions.location[0]))
    sums = stages[-1]
    num = math.ceil(result.num_replicates / _CHUNK) * _CHUNK
    point_checks = (structure, *_state_checks(sums, max(cache_errors)), nan_check)
    tests = _statistical_checks(described, sums, num, result)
    power = _power(plan, sums, num, dim, len(described), num_steps)
    broken = [check for check in point_checks if not check.passed]
    moved = float(sums.num_moved) / num
    verdict, worst = _conclusion(result, broken, tests, moved, num_steps)
    checks = (*point_checks, *tests)
    return ExactStart(verdict, checks, worst, power, float(np.mean(acceptances)), in_lanes)


def _short(described: _Described) -> str:
    return described.words.removeprefix("the mean of ").removeprefix("the ")


def _conclusion(result, broken, tests, moved, num_steps) -> tuple[str, str]:
    worst = min(tests, key=_by_plainness if result.verdict == "fail" else _by_strength)
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


def _by_strength(check: Check) -> tuple:
    return check.p_value, -abs(check.statistic or 0.0)


def _by_plainness(check: Check) -> tuple:
    """Put first what failed and says most; flows tell only where nothing else does."""
    rank = 2 * check.name.startswith("the flow") + ("feature" in check.name)
    return check.passed, rank, *_by_strength(check)


def _statistical_checks(described, sums: _Sums, num: int, result) -> tuple[Check, ...]:
    checks = []
    for i, (words, unit) in enumerate(described):
        effect = sums.total[i] / num * unit
        size = math.sqrt(max(float(sums.squares[i]), 1e-300))
        error = size / num * abs(unit)
        statistic = sums.total[i] / size
        if words.startswith("the flow"):
            say = f"{words} is {_plus_minus(effect, error)} instead of 0"
        else:
            direction = "large" if effect > 0 else "small"
            say = f"{words} is {_plus_minus(abs(effect), error)} too {direction}"
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


def _plus_minus(value: float, error: float) -> str:
    """Write a value and its error with two digits of the error."""
    if not error > 0 or not math.isfinite(value):
        return f"{value:.3g} ± {error:.1g}"
    digits = 1 - math.floor(math.log10(error))
    if not 0 <= digits <= 6:
        return f"{value:.3g} ± {error:.2g}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _power(plan, sums, num, dim, num_tests, num_steps) -> Power:
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


# ---------------------------------------------------------------- checks without chance


def _check_pilot(target: Target, pilot: tuple) -> None:
    """Refuse draws that cannot come from the density."""
    x, log_density, _ = pilot
    if not np.isfinite(x).all():
        first = int(np.argmin(np.isfinite(x).all(axis=1)))
        raise ValueError(
            f"sample_exact of {target.name} gave a position that is not finite (draw {first} "
            f"of {len(x)}): repair the sampler first"
        )
    if not np.isfinite(log_density).all():
        bad = ~np.isfinite(log_density)
        raise ValueError(
            f"the log density of {target.name} is {log_density[bad][0]} at {bad.sum()} of "
            f"{len(x)} of its own exact draws (the first is draw {int(np.argmax(bad))}): "
            "sample_exact and the density do not belong together"
        )


def default_tuning(kernel: Any, dim: int) -> Any:
    """Return a kernel's own tuning, None for a kernel that has none."""
    if not hasattr(kernel, "default_tuning"):
        return None
    return kernel.default_tuning(dim, jnp.result_type(float))


def _pilot_tuning(kernel: Any, x: np.ndarray) -> Any:
    """Return the default tuning of a kernel, moved to where the target lies."""
    dim = x.shape[1]
    tuning = default_tuning(kernel, dim)
    if not isinstance(tuning, Tuning):
        return tuning
    location, scale = _robust(x)
    centred = scale * np.clip((x - location) / scale, -_CLIP, _CLIP)
    covariance = np.cov(centred.T).reshape(dim, dim)
    factor = np.linalg.cholesky(covariance + 1e-9 * np.diag(scale**2))
    mean = location + centred.mean(axis=0)
    return tuning._replace(mean=jnp.asarray(mean), factor=jnp.asarray(factor))


def _leaf_specs(tree: Any) -> dict[str, tuple]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path).strip(".") or "state": (leaf.shape, str(leaf.dtype))
        for path, leaf in leaves
    }


def _trace_step(kernel, target, tuning, dim, in_lanes):
    density = target.density()
    spec = jax.ShapeDtypeStruct((dim,), jnp.result_type(float))
    base = accel.as_key(0)
    key = LaneKey(base, jnp.zeros((), jnp.uint32)) if in_lanes else base

    def both(k, x):
        state = kernel.init(x, density)
        return state, kernel.step(k, state, density, tuning)[0]

    return jax.eval_shape(both, key, spec)


def _structure_check(kernel, target, tuning, dim) -> tuple[Check, bool]:
    """Check that a step keeps shapes and dtypes; tell whether it can draw in lanes."""
    in_lanes = True
    try:
        before, after = _trace_step(kernel, target, tuning, dim, True)
    except TypeError as error:
        if "LaneKey" not in str(error):
            raise
        in_lanes = False
        before, after = _trace_step(kernel, target, tuning, dim, False)
    return _same_structure("a state keeps its shapes and dtypes", before, after), in_lanes


def _same_structure(name: str, before: Any, after: Any) -> Check:
    old, new = _leaf_specs(before), _leaf_specs(after)
    for place in [*old, *new]:
        if old.get(place) != new.get(place):
            words = (
                f"a step turns {place} from {_spec_words(old.get(place))} into "
                f"{_spec_words(new.get(place))}: a state must keep leaves, shapes and dtypes"
            )
            return Check(name=name, passed=False, words=words)
    return Check(name=name, passed=True, words="kept")


def _spec_words(spec: tuple | None) -> str:
    return "nothing" if spec is None else f"{spec[1]} of shape {spec[0]}"


def _state_checks(sums: _Sums, error: float) -> tuple[Check, ...]:
    lost, outside = int(sums.num_not_finite), int(sums.num_off_support)
    return (
        Check(
            name="cached values equal recomputed ones",
            passed=error <= _CACHE_TOLERANCE,
            discrepancy=error,
            words=f"values cached in the state differ from recomputed ones by {error:.2g}: "
            "after a step, refresh(state) must equal state",
        ),
        Check(
            name="positions stay finite",
            passed=lost == 0,
            discrepancy=float(lost),
            words=f"{lost} replicates ended at a position that is not finite",
        ),
        Check(
            name="positions stay inside the support",
            passed=outside == 0,
            discrepancy=float(outside),
            words=f"{outside} replicates ended where the density is zero or NaN",
        ),
    )


def _nan_check(move: Callable, key: Any, target: Target, edge: float) -> Check:
    """Check that no step ends where the density is NaN, by making it NaN on one half."""
    name = "no step ends where the density is NaN"
    start_key, move_key = random.split(key)
    plain = _guarded(target, math.inf)
    x = _exact_draws(start_key, plain)
    end = np.asarray(move(move_key, x, _guarded(target, edge)).position)
    crossed = int(((np.asarray(x)[:, 0] <= edge) & ~(end[:, 0] <= edge)).sum())
    if crossed and np.array_equal(end, move(move_key, x, plain).position):
        # A kernel that never looks at the density cannot know where it is NaN.
        return Check(name=name, passed=True, words="the kernel never looks at the density")
    words = (
        f"{crossed} replicates moved to a point with x[0] > {edge:.3g} although the log "
        "density was set to NaN there: a proposal with a NaN density must be rejected"
    )
    return Check(name=name, passed=crossed == 0, discrepancy=float(crossed), words=words)
