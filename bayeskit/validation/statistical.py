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
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.kernels.base import Tuning
from bayeskit.inference.keys import LaneKey
from bayeskit.inference.law import INVARIANT
from bayeskit.inference.measure import Target
from bayeskit.validation.features import (
    CLIP,
    Features,
    describe,
    evaluate,
    features_from,
    robust_scale,
)
from bayeskit.validation.paired import (
    LEVELS,
    Level,
    PairSums,
    conclusion,
    describe_currents,
    pair_sums,
    power_of,
    statistical_checks,
)
from bayeskit.validation.pointwise import key_reuse_check, largest_difference
from bayeskit.validation.report import Check, Power
from bayeskit.validation.sequential import (
    sequential_test,
    symmetric_p_value,
)

__all__ = [
    "ExactStart",
    "KernelSteps",
    "default_tuning",
    "exact_start",
    "pilot_tuning",
]

# Replicates of one compiled program; stages are multiples of it.
_CHUNK = 20_000
# A recomputed value may be compiled in another order of operations.
_CACHE_TOLERANCE = 1e-8


# ---------------------------------------------------------------- functions to compare


def _pilot(key: Any, target: Target) -> tuple[np.ndarray, ...]:
    """Return exact draws with their log densities and gradients."""
    x = _exact_draws(key, target)
    return tuple(np.asarray(leaf) for leaf in (x, *_values(x, target)))


def _extras(pilot: tuple, has_gradient: bool) -> np.ndarray:
    """Return the numbers that join the test functions, as :func:`_evaluate` orders them."""
    x, log_density, gradient = pilot
    if not has_gradient:
        return log_density[:, None]
    _, scale = robust_scale(x)
    return np.stack([np.sum((scale * gradient) ** 2, axis=1), log_density], axis=1)


def _extra_words(has_gradient: bool) -> tuple[str, ...]:
    words = ("the mean squared scaled gradient", "the mean log density")
    return words if has_gradient else words[1:]


def _evaluate(features: Features, density: Any, x: jax.Array) -> jax.Array:
    """Return the values (num_functions,) of all test functions at one position."""
    if not density.target.has_gradient:
        return evaluate(features, x, density(x)[None])
    components, gradient = density.components_and_gradient(x)
    squared = jnp.sum((features.scale * gradient) ** 2)
    return evaluate(features, x, jnp.stack([squared, density.combine(components)]))


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


@dataclass(frozen=True)
class _Unguarded:
    """A function of a prior that takes the data, which the threshold now leads."""

    function: Callable

    def __call__(self, first, threshold, *data):
        return self.function(first, *data)


def _guarded(target: Target, threshold: float) -> Target:
    data = (jnp.asarray(threshold, float), *target.data)
    if target.prior_takes_data:
        priors: dict[str, Any] = {
            name: _Unguarded(function)
            for name in ("log_prior", "sample_prior")
            if (function := getattr(target, name)) is not None
        }
        target = replace(target, **priors)
    if target.log_likelihood is not None:
        return replace(target, data=data, log_likelihood=_Guarded(target.log_likelihood))
    assert target.log_density is not None
    return replace(target, data=data, log_density=_Guarded(target.log_density))


# Exact draws and test functions belong to the target alone, so they are programs of their own,
# which all kernels share. They run for milliseconds: compiling them fast saves more.
_quickest_jit = functools.partial(quick_jit, optimised=False)


@_quickest_jit
def _exact_draws(key: Any, target: Target) -> jax.Array:
    assert target.sample_exact is not None
    # One ordinary key a draw: samplers of users may call jax.random directly.
    x = jax.vmap(target.sample_exact)(jax.random.split(key, _CHUNK))
    return x.astype(jnp.result_type(float))


@_quickest_jit
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


@quick_jit(static_argnames=("kernel", "num_steps", "in_lanes"))
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


@_quickest_jit(static_argnames="reversible")
def _sums(x, compared, moved, target, functions, *, reversible) -> PairSums:
    density = target.density()
    evaluate = jax.vmap(lambda one: _evaluate(functions, density, one))
    before, after = evaluate(compared), evaluate(moved)
    return pair_sums(
        before,
        after,
        functions,
        reversible=reversible,
        num_moved=jnp.sum(jnp.any(moved != x, axis=1)),
        num_not_finite=jnp.sum(~jnp.all(jnp.isfinite(moved), axis=1)),
        num_off_support=jnp.sum(~(jax.vmap(lambda one: density(one))(moved) > -jnp.inf)),
    )


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
        functions = features_from(
            frequency_key,
            pilot[0],
            _extras(pilot, target.has_gradient),
            level.num_frequencies,
        )
        if tuning is None:
            tuning = pilot_tuning(kernel, pilot[0])
        dim = pilot[0].shape[1]
        structure, keys, in_lanes = _trace_checks(kernel, target, tuning, dim)
        for traced in (structure, keys):
            if not traced.passed:
                return ExactStart("fail", (structure, keys), traced.words, None)
        move = functools.partial(
            _move, tuning=tuning, kernel=kernel, num_steps=num_steps, in_lanes=in_lanes
        )
        cache_errors, acceptances = [], []
        stages: list[PairSums] = []

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

        described = describe(functions, _extra_words(target.has_gradient))
        if reversible:
            described += describe_currents(functions, described)
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
    point_checks = (structure, keys, *_state_checks(sums, max(cache_errors)), nan_check)
    tests = statistical_checks(described, sums, num, result)
    power = power_of(plan, sums, num, dim, len(described), num_steps)
    broken = [check for check in point_checks if not check.passed]
    moved = float(sums.num_moved) / num
    verdict, worst = conclusion(result, broken, tests, moved, num_steps)
    checks = (*point_checks, *tests)
    return ExactStart(verdict, checks, worst, power, float(np.mean(acceptances)), in_lanes)


class KernelSteps(NamedTuple):
    """A kernel on one target, at frozen tuning, as plain functions of a key and a state."""

    start: Callable
    step: Callable
    observed: Callable

    @classmethod
    def on(cls, kernel: Any, target: Target, tuning: Any = None) -> KernelSteps:
        """Return the functions; without tuning, that of :func:`exact_start`."""
        with jax.enable_x64(True):
            pilot = _pilot(accel.as_key(0), target)
            _check_pilot(target, pilot)
            frozen = pilot_tuning(kernel, pilot[0]) if tuning is None else tuning
        density = target.density

        def start(key):
            return kernel.init(target.sample_exact(key), density())  # type: ignore[misc]

        def step(key, state):
            return kernel.step(key, state, density(), frozen)[0]

        def observed(state):
            return state.position, density()(state.position)

        step.law_kind = getattr(kernel, "law_kind", INVARIANT)  # type: ignore[attr-defined]
        return cls(start, step, observed)


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


def pilot_tuning(kernel: Any, x: np.ndarray) -> Any:
    """Return the default tuning of a kernel, moved to where the target lies."""
    dim = x.shape[1]
    tuning = default_tuning(kernel, dim)
    if not isinstance(tuning, Tuning):
        return tuning
    location, scale = robust_scale(x)
    centred = scale * np.clip((x - location) / scale, -CLIP, CLIP)
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


def _trace_checks(kernel, target, tuning, dim) -> tuple[Check, Check, bool]:
    """Check that a step keeps shapes and dtypes and uses each key once, by tracing alone.

    Also tells whether the kernel can draw in lanes.
    """
    density = target.density()
    spec = jax.ShapeDtypeStruct((dim,), jnp.result_type(float))

    def both(key, x):
        state = kernel.init(x, density)
        return state, kernel.step(key, state, density, tuning)[0]

    base = accel.as_key(0)
    in_lanes = True
    try:
        before, after = jax.eval_shape(both, LaneKey(base, jnp.zeros((), jnp.uint32)), spec)
    except TypeError as error:
        if "LaneKey" not in str(error):
            raise
        in_lanes = False
        before, after = jax.eval_shape(both, base, spec)
    structure = _same_structure("a state keeps its shapes and dtypes", before, after)
    return structure, key_reuse_check(both, spec, strict=False), in_lanes


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


def _state_checks(sums: PairSums, error: float) -> tuple[Check, ...]:
    """Check what belongs to every state; NaN first, since it spoils all that follows."""
    lost, outside = int(sums.num_not_finite), int(sums.num_off_support)
    return (
        Check(
            name="positions stay finite",
            passed=lost == 0,
            discrepancy=float(lost),
            tolerance=0.0,
            words=f"{lost} replicates ended at a position that is not finite: reject "
            "proposals where the density is NaN",
        ),
        Check(
            name="positions stay inside the support",
            passed=outside == 0,
            discrepancy=float(outside),
            tolerance=0.0,
            words=f"{outside} replicates ended where the density is zero or NaN",
        ),
        Check(
            name="cached values equal recomputed ones",
            passed=error <= _CACHE_TOLERANCE,
            discrepancy=error,
            tolerance=_CACHE_TOLERANCE,
            words=f"values cached in the state differ from recomputed ones by {error:.2g}: "
            "after a step, refresh(state) must equal state",
        ),
    )


def _nan_check(move: Callable, key: Any, target: Target, edge: float) -> Check:
    """Check that no step ends where the density is NaN, by making it NaN on one half."""
    name = "no step ends where the density is NaN"
    start_key, move_key = random.split(key)
    plain = _guarded(target, math.inf)
    x = _exact_draws(start_key, plain)
    # No start where the density is NaN: a slice sampler would search there for ever.
    inside = np.flatnonzero(np.asarray(x)[:, 0] <= edge)
    x = x[np.resize(inside, len(x))]
    end = np.asarray(move(move_key, x, _guarded(target, edge)).position)
    crossed = int((~(end[:, 0] <= edge)).sum())
    if crossed and np.array_equal(end, move(move_key, x, plain).position):
        # A kernel that never looks at the density cannot know where it is NaN.
        return Check(name=name, passed=True, words="the kernel never looks at the density")
    words = (
        f"{crossed} replicates moved to a point with x[0] > {edge:.3g} although the log "
        "density was set to NaN there: a proposal with a NaN density must be rejected"
    )
    return Check(name=name, passed=crossed == 0, discrepancy=float(crossed), words=words)
