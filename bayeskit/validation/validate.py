"""Check a block, a kernel, a function or a resampling scheme against the law it claims."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.errors import BayeskitError, LawMismatch, UnenumerableDrawError
from bayeskit.inference import random
from bayeskit.inference.blocks import Block, Resample, draw_ancestors
from bayeskit.inference.kernels import DiscreteMetropolis
from bayeskit.inference.keys import EnumerationKey, Tape
from bayeskit.inference.law import (
    CONSISTENT,
    INVARIANT,
    REVERSIBLE,
    UNBIASED_RESAMPLING,
    UNKNOWN,
    LawKind,
)
from bayeskit.inference.measure import FeynmanKac, PointState, Target
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel, battery
from bayeskit.validation.exact import Atoms, Enumeration
from bayeskit.validation.report import Check, Power, Report, plain_key
from bayeskit.validation.statistical import (
    LEVELS,
    ExactStart,
    Level,
    default_tuning,
    exact_start,
    largest_difference,
)

__all__ = ["validate"]

# Relative: identities between finite sums of doubles.
_TOLERANCE = 1e-10
_LAWS = {"invariant": INVARIANT, "reversible": REVERSIBLE, "resampling": UNBIASED_RESAMPLING}
# Uneven weights, with zeros at the ends and inside, for numbers of particles and offspring.
_RESAMPLING_CASES = {
    (3, 3): ((0.5, 0.3, 0.2), (0.0, 0.35, 0.65), (0.9, 0.0, 0.1)),
    (4, 4): ((0.05, 0.15, 0.8, 0.0), (0.41, 0.09, 0.33, 0.17), (0.0, 0.25, 0.0, 0.75)),
    (3, 2): ((0.2, 0.7, 0.1), (0.6, 0.4, 0.0)),
}


def validate(
    block: Any,
    target: Any = None,
    *,
    law: LawKind | str | None = None,
    models: Iterable[Any] | None = None,
    expected: Atoms | None = None,
    start: Atoms | None = None,
    observed: Callable | None = None,
    level: str | Level = "quick",
    alpha: float = 1e-6,
    key: Any = 0,
    budget_s: float | None = None,
    tuning: Any = None,
    num_steps: int = 2,
    max_paths: int = exact.MAX_PATHS,
) -> Report:
    r"""Check a block against its law, and say how small an error would have been found.

    What is checked, and how, depends on what is given:

    - a kernel, with a target that has ``sample_exact`` or alone (then on the battery models
      that fit): statistically, :math:`E[f(x') - f(x)] = 0` from exact draws, and without
      chance what belongs to every kernel (cached values, support, NaN, shapes);
    - a kernel on a finite space, with ``start`` or alone: exactly, :math:`\pi K = \pi`;
    - a composed block that starts from nothing, with ``expected``: exactly,
      :math:`E[\hat Z \sum_i W_i f(x_i)] = \gamma(f)` for every f;
    - a function ``step(key, state) -> state``, with ``start``: exactly, :math:`\pi K = \pi`;
    - a resampling scheme, by its name or as a function ``ancestors(key, log_weights, num)``
      with ``law="resampling"``: exactly, the mean number of offspring is num W_i.

    Exact means that every path of the random draws is enumerated.

    Parameters
    ----------
    block : Kernel, Block, callable or str
    target : Target or BatteryModel, optional
        What a kernel leaves invariant. For a composed block, a finite battery model stands
        for its atoms.
    law : LawKind or {"invariant", "reversible", "resampling"}, optional
        Default: what the block declares; for a function, invariance.
    models : iterable of str or BatteryModel, optional
        Which models of :func:`~bayeskit.validation.battery` a kernel without target is
        validated on. Default: all that fit.
    expected : Atoms, optional
        The unnormalised measure γ that the particles of a composed block stand for.
    start : Atoms, optional
        The measure that a step leaves invariant, state by state.
    observed : callable, optional
        The part of particles or states (num, ...) to compare. Default: the position where
        there is one, else all.
    level : {"quick", "full"} or Level
        Replicates of the statistical tests: 1e5 at first, or 4e5.
    alpha : float in (0, 1)
        Bound on the probability that a correct kernel fails, all tests and models together.
    key : int or JAX key
    budget_s : float, optional
        CPU seconds of the statistical tests. What is then undecided makes the verdict
        ``"inconclusive"``.
    tuning : Tuning, optional
        Parameters of the kernel. Default: its own, moved to the centre and scale of each
        target by pilot draws.
    num_steps : int
        Kernel steps between the compared points of the statistical tests.
    max_paths : int
        Refuse to enumerate more.

    Returns
    -------
    Report
        Verdict, each test, the worst sign in words, the power. A statistical ``"pass"`` says
        that nothing was found by tests of that power.

    Raises
    ------
    TypeError, ValueError
        For what does not fit together; the message says what to pass instead.
    UnenumerableDrawError, TraceLevelError, KeyReuseError, TooManyPathsError, LawMismatch
        For what cannot be enumerated, or claims no law.

    Notes
    -----
    An adaptive block keeps only law L10. Its exact bias is reported, and the verdict is
    ``"inconclusive"`` unless there is none: freeze what adapts to have a law to check.

    References
    ----------
    Gandy & Scott (2020), *Unit testing for MCMC and other Monte Carlo methods*.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, validate
    >>> step = lambda key, x: (x + random.categorical(key, jnp.zeros(2))) % 3
    >>> validate(step, start=Atoms(np.arange(3), np.ones(3))).verdict
    'pass'
    >>> print(validate(step, start=Atoms(np.arange(3), np.array([2.0, 1.0, 1.0]))).worst)
    one step changes the mass of the state 0 from 0.5 to 0.375
    """
    began = time.process_time()
    given = {
        "target": target, "models": models, "expected": expected, "start": start,
        "tuning": tuning, "observed": observed,
    }  # fmt: skip
    kind = _law_kind(law)
    enumeration = Enumeration(max_paths)
    if isinstance(block, str | Resample) or kind is UNBIASED_RESAMPLING:
        _refuse(given, (), "a resampling scheme")
        found = _validate_scheme(block, enumeration)
    elif isinstance(block, Block):
        _refuse(given, ("target", "expected", "observed"), "a composed block")
        found = _validate_block(block, target, kind, expected, observed, enumeration)
    elif _is_kernel(block):
        _refuse(given, ("target", "models", "start", "tuning"), "a kernel")
        finite = _finite_models(block, target, models, start)
        if finite:
            found = _validate_finite_kernel(block, finite, kind, tuning, enumeration)
        else:
            options = {
                "tuning": tuning,
                "num_steps": _count(num_steps, "num_steps"),
                "level": _level(level),
            }
            chosen = _continuous_models(block, target, models)
            found = _validate_kernel(block, chosen, kind, options, alpha, key, budget_s)
    elif callable(block):
        _refuse(given, ("start", "observed"), "a function")
        found = _validate_step(block, kind, start, observed, enumeration)
    else:
        raise TypeError(
            f"cannot validate an object of type {type(block).__name__}: pass a kernel (with "
            "init, step and refresh), a block, a function step(key, state), or the name of a "
            "resampling scheme"
        )
    return Report(
        verdict=found.verdict,
        block=found.block,
        law=found.law,
        tests=found.checks,
        worst=found.worst,
        power=found.power,
        alpha=found.alpha,
        seconds=time.process_time() - began,
        key=plain_key(key),
        notes=found.notes,
    )


class _Findings(NamedTuple):
    verdict: str
    block: str
    law: str
    checks: tuple[Check, ...]
    worst: str
    power: Power | None
    alpha: float = 0.0
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- what was asked for


def _refuse(given: dict[str, Any], allowed: tuple[str, ...], what: str) -> None:
    surplus = [name for name, value in given.items() if value is not None]
    surplus = [name for name in surplus if name not in allowed]
    if surplus:
        fits = " and ".join(f"{name}=" for name in allowed) or "nothing"
        raise TypeError(
            f"{surplus[0]}= means nothing for {what}, which takes {fits}: leave it out"
        )


def _law_kind(law: Any) -> LawKind | None:
    if law is None or isinstance(law, LawKind):
        return law
    if law not in _LAWS:
        raise ValueError(f"law must be one of {sorted(_LAWS)} or a LawKind, got {law!r}")
    return _LAWS[law]


def _level(level: Any) -> Level:
    if isinstance(level, Level):
        return level
    if level == "exact":
        raise ValueError(
            "level='exact' needs a finite space: pass start=Atoms(...), or validate on finite "
            "battery models"
        )
    if level not in LEVELS:
        raise ValueError(f"level must be one of {sorted(LEVELS)} or a Level, got {level!r}")
    return LEVELS[level]


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def _is_kernel(block: Any) -> bool:
    return all(callable(getattr(block, name, None)) for name in ("init", "step", "refresh"))


def _kernel_law(kernel: Any, kind: LawKind | None) -> LawKind:
    kind = kind or getattr(kernel, "law_kind", INVARIANT)
    if kind not in (INVARIANT, REVERSIBLE):
        raise ValueError(
            f"a kernel is invariant or reversible, got the law {kind}: pass law='invariant'"
        )
    return kind


def _named(models: Iterable[Any]) -> list[BatteryModel]:
    known = battery()
    chosen = []
    for model in [models] if isinstance(models, str | BatteryModel) else models:
        if not isinstance(model, BatteryModel) and model not in known:
            raise ValueError(f"unknown model {model!r}: choose from {sorted(known)}")
        chosen.append(model if isinstance(model, BatteryModel) else known[model])
    if not chosen:
        raise ValueError(f"models is empty: choose from {sorted(known)}")
    return chosen


def _finite_models(kernel, target, models, start) -> list[BatteryModel]:
    """Return the finite models that were asked for, or that a discrete kernel needs."""
    if target is not None and models is not None:
        raise TypeError("give target= or models=, not both")
    if start is not None:
        if not isinstance(target, Target):
            raise TypeError(
                "start= lists the states of a finite target: pass the Target as well, "
                "validate(kernel, target, start=Atoms(...))"
            )
        return [BatteryModel(target.name, "", target, math.nan, 0, _checked_atoms(start))]
    if isinstance(target, BatteryModel):
        chosen = [target]
    elif models is not None:
        chosen = _named(models)
    elif target is None and isinstance(kernel, DiscreteMetropolis):
        chosen = [
            model
            for model in battery("finite").values()
            if isinstance(model.target, Target)
            and model.atoms is not None
            and len(model.atoms.mass) == len(kernel.proposal)
        ]
        if not chosen:
            raise ValueError(
                f"no battery model has {len(kernel.proposal)} states: pass your own target "
                "and its measure, validate(kernel, target, start=Atoms(...))"
            )
    else:
        return []
    for model in chosen:
        if isinstance(model.target, FeynmanKac):
            raise TypeError(
                f"{model.name} is a Feynman-Kac model, which no kernel moves on: build a block "
                "from it and pass expected=model.atoms"
            )
    finite = [model for model in chosen if model.dim == 0]
    if finite and len(finite) < len(chosen):
        raise ValueError("models mixes finite and continuous ones: validate them apart")
    return finite


def _continuous_models(kernel, target, models) -> list[Target]:
    if isinstance(target, BatteryModel):
        return [target.target]
    if models is not None:
        return [model.target for model in _named(models)]
    if target is None:
        return [
            model.target
            for model in battery("continuous").values()
            if model.target.has_gradient or not getattr(kernel, "needs_gradient", False)
        ]
    if not isinstance(target, Target):
        raise TypeError(
            f"target must be a Target or a BatteryModel, got {type(target).__name__}: wrap a "
            "log density as Target(log_density=..., sample_exact=...)"
        )
    if target.sample_exact is None:
        raise ValueError(
            f"the target {target.name} has no sample_exact, and the test starts from exact "
            "draws: give Target(sample_exact=...), or leave the target out to validate "
            "the kernel on the models of the battery"
        )
    spec = jax.eval_shape(target.sample_exact, accel.as_key(0))
    shapes = jax.tree.leaves(spec)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in shapes):
        raise TypeError(
            f"sample_exact of {target.name} draws {shapes[0].dtype} positions, and the "
            "statistical test compares real vectors: on a finite space pass start=Atoms(...)"
        )
    return [target.on_vectors(spec)]


# ---------------------------------------------------------------- statistically


def _validate_kernel(kernel, targets, kind, options, alpha, key, budget_s) -> _Findings:
    kind = _kernel_law(kernel, kind)
    try:
        hash(kernel)
    except TypeError:
        raise TypeError(
            f"{type(kernel).__name__} cannot be hashed, so its compiled program cannot be "
            "found again: make it a dataclass(frozen=True) of plain settings"
        ) from None
    began = time.process_time()
    keys = random.split(accel.as_key(key), len(targets))
    results: dict[str, ExactStart] = {}
    notes = []
    for target, model_key in zip(targets, keys, strict=True):
        left = None if budget_s is None else budget_s - (time.process_time() - began)
        if results and left is not None and left <= 0:
            names = [t.name for t in targets[len(results) :]]
            notes.append(f"the budget ended before {', '.join(names)}")
            break
        results[target.name] = exact_start(
            kernel,
            target,
            reversible=kind is REVERSIBLE,
            alpha=alpha / len(targets),
            key=model_key,
            budget_s=left,
            **options,
        )
    verdicts = [result.verdict for result in results.values()]
    complete = len(results) == len(targets)
    if "fail" in verdicts:
        verdict = "fail"
    else:
        verdict = "pass" if complete and set(verdicts) == {"pass"} else "inconclusive"
    name, worst = _worst_model(results, verdict)
    rates = [f"{n} {r.acceptance:.2f}" for n, r in results.items()]
    notes.append(f"mean acceptance: {', '.join(rates)}")
    if not all(result.in_lanes for result in results.values()):
        notes.append(
            "the kernel draws with jax.random, so it runs one particle at a time and cannot be "
            "enumerated: draw through bayeskit.inference.random"
        )
    if verdict == "inconclusive" and worst.verdict == "pass":
        words = notes[0]
    else:
        prefix = "nothing found; the largest deviation: " if verdict == "pass" else ""
        words = f"{prefix}on {name}, {worst.worst}"
    checks = tuple(
        Check(**{**vars(check), "model": model})
        for model, result in results.items()
        for check in result.checks
    )
    powers = [result.power for result in results.values() if result.power is not None]
    return _Findings(
        verdict,
        _name_of(kernel),
        f"{kind}: {kind.statement}, on {', '.join(t.name for t in targets)}",
        checks,
        words,
        max(powers, key=lambda p: p.in_standard_deviations, default=None),
        alpha,
        tuple(notes),
    )


def _worst_model(results: dict[str, ExactStart], verdict: str) -> tuple[str, ExactStart]:
    """Return the model that decided the verdict, or the most suspicious one."""

    def smallest_p(item):
        values = [check.p_value for check in item[1].checks if check.p_value is not None]
        return min(values, default=0.0)

    deciding = [item for item in results.items() if item[1].verdict == verdict]
    return min(deciding or list(results.items()), key=smallest_p)


def _name_of(block: Any) -> str:
    if dataclasses.is_dataclass(block):
        return repr(block)
    return getattr(block, "__name__", type(block).__name__)


# ---------------------------------------------------------------- exactly


def _exact_power() -> Power:
    words = f"finds any relative error above {_TOLERANCE:g}, with certainty"
    return Power(_TOLERANCE, 1.0, 0.0, (), 1, words)


def _checked_atoms(atoms: Any, name: str = "start") -> Atoms:
    if not isinstance(atoms, Atoms):
        raise TypeError(
            f"{name} must be Atoms(state, mass), got {type(atoms).__name__}: list every state "
            "along a leading axis, and its mass"
        )
    mass = np.asarray(atoms.mass, float)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(atoms.state)}
    if mass.ndim != 1 or sizes != {mass.shape}:
        raise ValueError(
            f"{name}: each leaf of the states needs a leading axis of {mass.size} atoms like "
            f"the masses, got {sorted(sizes)}"
        )
    if not (np.isfinite(mass) & (mass >= 0)).all() or not mass.sum() > 0:
        bad = int(np.argmin(np.isfinite(mass) & (mass >= 0)))
        raise ValueError(
            f"{name}: masses must be finite, not negative and not all zero; number {bad} is "
            f"{mass[bad]}"
        )
    return Atoms(jax.tree.map(np.asarray, atoms.state), mass)


def _trace(function: Callable, state: Any, what: str) -> Any:
    """Return the shape of a result on an enumerating key, or say why there is none."""

    def run(one):
        return function(EnumerationKey(Tape(None)), one)

    try:
        return jax.eval_shape(run, state)
    except TypeError as error:
        if isinstance(error, BayeskitError) or "EnumerationKey" not in str(error):
            raise
        raise UnenumerableDrawError(
            f"{what} draws outside of bayeskit.inference.random, where the exact mode cannot "
            f"see it ({str(error).splitlines()[0]}). Draw through its primitives, or validate "
            "statistically"
        ) from None


def _position(particles: Any) -> Any:
    return particles.position if isinstance(particles, PointState) else particles


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [tuple(np.shape(leaf))[1:] for leaf in jax.tree.leaves(tree)]


def _worst_state(states: Any, mass: np.ndarray, expected: Atoms) -> tuple[str, float, float]:
    """Return the state at which two measures differ most, and its mass in either."""
    rows = len(mass)
    both = [
        np.concatenate([np.asarray(a, float), np.asarray(b, float)])
        for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(expected.state), strict=True)
    ]
    found = exact.merge(Atoms(both, np.concatenate([mass, np.zeros(len(expected.mass))])))
    wanted = exact.merge(Atoms(both, np.concatenate([np.zeros(rows), expected.mass])))
    place = int(np.argmax(np.abs(found.mass - wanted.mass)))
    values = [np.asarray(leaf)[place].tolist() for leaf in jax.tree.leaves(found.state)]
    text = ", ".join(str(value) for value in map(_whole, values))
    return text, float(found.mass[place]), float(wanted.mass[place])


def _whole(value: Any) -> Any:
    """Print whole numbers without a decimal point."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if float(value).is_integer() else round(value, 4)


def _validate_step(step, kind, start, observed, enumeration) -> _Findings:
    if start is None:
        raise TypeError(
            "a function step(key, state) needs start=Atoms(states, masses), the measure it "
            "leaves invariant. For a resampling function ancestors(key, log_weights, num) pass "
            "law='resampling'; for a continuous space write a Kernel"
        )
    kind = _kernel_law(step, kind)
    start = _checked_atoms(start)
    checks, words = _invariance_checks(
        step, start, kind, observed or _position, enumeration, _name_of(step)
    )
    name = _name_of(step)
    return _exact_findings(name, f"{kind}: {kind.statement}", checks, words, enumeration)


def _invariance_checks(step, start, kind, observed, enumeration, what, model=""):
    """Return the checks of one step, and the failures in words."""
    with jax.enable_x64(True):
        first = jax.tree.map(lambda x: x[0], start.state)
        after = _trace(step, first, what)
        before = jax.eval_shape(lambda s: s, first)
    same = len({jax.tree.structure(tree) for tree in (after, before)}) == 1
    shapes = [leaf.shape for leaf in jax.tree.leaves(after)]
    wanted = [leaf.shape for leaf in jax.tree.leaves(before)]
    if not same or shapes != wanted:
        raise ValueError(
            f"{what} returns a state with leaves of shape {shapes}, the states of start have "
            f"{wanted}: it must return a state of the same structure"
        )
    result = exact.invariance_discrepancy(step, start, enumeration, observed)
    share = Atoms(start.state, start.mass / start.mass.sum())
    words = []
    holds = result.invariance <= _TOLERANCE
    if not holds:
        moved = exact.enumerate_paths(step, share, enumeration)
        seen = Atoms(observed(share.state), share.mass)
        state, found, expected = _worst_state(observed(moved.state), moved.mass, seen)
        words.append(
            f"one step changes the mass of the state {state} from {expected:.4g} to {found:.4g}"
        )
    checks = [
        Check(
            name="the measure is invariant",
            passed=holds,
            discrepancy=result.invariance,
            words=words[0] if words else "",
            model=model,
        )
    ]
    if kind is REVERSIBLE:
        symmetric = result.reversibility <= _TOLERANCE
        checks.append(
            Check(
                name="each flow equals the flow back",
                passed=symmetric,
                discrepancy=result.reversibility,
                words="" if symmetric else "the flow between two states is not symmetric",
                model=model,
            )
        )
        if not symmetric:
            words.append(
                f"the flow between two states differs from the flow back by "
                f"{result.reversibility:.2g} of the mass: not reversible"
            )
    return checks, words


def _exact_findings(name, law, checks, words, enumeration, verdict=None, notes=()) -> _Findings:
    failed = not all(check.passed for check in checks)
    largest = max(check.discrepancy for check in checks)
    return _Findings(
        verdict or ("fail" if failed else "pass"),
        name,
        law,
        tuple(checks),
        words[0] if words else f"nothing found; the largest discrepancy is {largest:.1g}",
        _exact_power(),
        notes=(f"{enumeration.num_paths} paths enumerated", *notes),
    )


def _validate_finite_kernel(kernel, models, kind, tuning, enumeration) -> _Findings:
    kind = _kernel_law(kernel, kind)
    name = _name_of(kernel)
    checks, words = [], []
    for model in models:
        with jax.enable_x64(True):
            frozen = default_tuning(kernel, 1) if tuning is None else tuning

        def move(key, position, target=model.target, frozen=frozen):
            density = target.density()
            state = kernel.init(position, density)
            state = kernel.step(key, state, density, frozen)[0]
            refreshed = kernel.refresh(state, density)
            return state.position, largest_difference(state, refreshed)

        def step(key, position, move=move):
            return move(key, position)[0]

        more, found = _invariance_checks(
            step, model.atoms, kind, _position, enumeration, name, model.name
        )
        share = Atoms(model.atoms.state, model.atoms.mass / model.atoms.mass.sum())
        error = float(np.max(exact.enumerate_paths(move, share, enumeration).state[1]))
        stale = Check(
            name="cached values equal recomputed ones",
            passed=error <= _TOLERANCE,
            discrepancy=error,
            words=f"values cached in the state differ from recomputed ones by {error:.2g}: "
            "after a step, refresh(state) must equal state",
            model=model.name,
        )
        checks += [*more, stale]
        words += [f"on {model.name}, {text}" for text in found]
        words += [] if stale.passed else [f"on {model.name}, {stale.words}"]
    law = f"{kind}: {kind.statement}, on {', '.join(model.name for model in models)}"
    return _exact_findings(name, law, checks, words, enumeration)


def _validate_block(block, target, kind, expected, observed, enumeration) -> _Findings:
    if expected is None and isinstance(target, BatteryModel):
        expected = target.atoms
    elif target is not None:
        raise TypeError(
            "a composed block is compared with a finite measure: pass expected=Atoms(...) or a "
            "finite BatteryModel, not a target"
        )
    if expected is None:
        raise TypeError(
            f"{block.name} needs expected=Atoms(states, masses), the unnormalised measure its "
            "particles stand for, state by state"
        )
    expected = _checked_atoms(expected, "expected")
    if block.law is None:
        raise LawMismatch(f"{block.name} waits for a population: begin with spawn(...)")
    if block.law.kind is UNKNOWN:
        raise LawMismatch(f"{block.name} has an undeclared part, so there is no law to check")
    if kind is not None and kind != block.law.kind:
        raise LawMismatch(
            f"{block.name} states the law {block.law.kind}, not {kind}: leave law= out"
        )
    observed = observed or _position
    with jax.enable_x64(True):
        try:
            nothing = Atoms(np.zeros((1, 1)), np.ones(1))
            result = exact.push(block, nothing, enumeration)
        except TypeError as error:
            if isinstance(error, BayeskitError) or "EnumerationKey" not in str(error):
                raise
            raise UnenumerableDrawError(
                f"{block.name} draws outside of bayeskit.inference.random, where the exact "
                f"mode cannot see it ({str(error).splitlines()[0]}). Draw through its "
                "primitives"
            ) from None
        population = result.state
        mass = (result.mass[:, None] * np.exp(population.log_weights)).ravel()
        states = observed(
            jax.tree.map(
                lambda x: np.asarray(x).reshape(-1, *np.shape(x)[2:]), population.particles
            )
        )
    if _shapes(states) != _shapes(expected.state):
        raise ValueError(
            f"the particles of {block.name} have leaves of shape {_shapes(states)}, the states "
            f"of expected have {_shapes(expected.state)}: choose the part to compare with "
            "observed="
        )
    gap = exact.discrepancy(states, mass, expected)
    bias = float(mass.sum() / expected.mass.sum()) - 1.0
    holds = gap <= _TOLERANCE
    words = []
    if not holds:
        state, found, wanted = _worst_state(states, mass, expected)
        words.append(
            f"the expected weight of the state {state} is {found:.4g} instead of {wanted:.4g}; "
            f"E Ẑ / Z - 1 is {bias:.4g}"
        )
    adaptive = block.law.kind is CONSISTENT
    verdict = None
    if adaptive and not holds:
        verdict = "inconclusive"
        words = [
            "a part adapts, so the law allows a bias that vanishes as particles are added: "
            f"here E Ẑ / Z - 1 is exactly {bias:.4g}, and {words[0].split(';')[0]}. "
            "Freeze what adapts (a ladder, a tuning) to have an exact law to check"
        ]
    checks = [
        Check(
            name="E[Ẑ Σ W f] = γ(f) for every f",
            passed=holds or adaptive,
            discrepancy=gap,
            words=words[0] if words else "",
        ),
        Check(
            name="E Ẑ = Z",
            passed=abs(bias) <= _TOLERANCE or adaptive,
            discrepancy=abs(bias),
            words=f"E Ẑ / Z - 1 is {bias:.4g}",
        ),
    ]
    law = f"{block.law.kind}: {block.law.kind.statement}, for {block.law.measure}"
    return _exact_findings(block.name, law, checks, words, enumeration, verdict)


# ---------------------------------------------------------------- resampling schemes


def _validate_scheme(scheme: Any, enumeration: Enumeration) -> _Findings:
    if isinstance(scheme, Resample):
        if scheme.ess_below is not None:
            raise ValueError(
                f"{scheme.name} resamples under a condition: validate the scheme "
                f"{scheme.scheme!r}, and the condition in a composed block"
            )
        scheme = scheme.scheme
    if isinstance(scheme, str):
        if scheme not in accel.SCHEMES:
            raise ValueError(
                f"unknown scheme {scheme!r}: choose one of {sorted(accel.SCHEMES)}, or pass a "
                "function ancestors(key, log_weights, num)"
            )
        name = f"resampling scheme {scheme!r}"

        def ancestors(key, log_weights, num, scheme=scheme):
            return draw_ancestors(key, log_weights, scheme, num)

    elif callable(scheme):
        name, ancestors = _name_of(scheme), scheme
    else:
        raise TypeError(
            f"a resampling scheme is a name or a function ancestors(key, log_weights, num), "
            f"got {type(scheme).__name__}"
        )
    checks, words = [], []
    for (num_particles, num), table in _RESAMPLING_CASES.items():
        more, found = _offspring_checks(
            ancestors, np.array(table), num_particles, num, enumeration, name
        )
        checks += more
        words += found
    law = f"{UNBIASED_RESAMPLING}: {UNBIASED_RESAMPLING.statement}; none for weight zero"
    return _exact_findings(name, law, checks, words, enumeration)


def _offspring_checks(ancestors, table, num_particles, num, enumeration, name):
    """Check one compiled case: all weight vectors of one length, at one number of offspring."""

    def offspring(key, state):
        case, log_weights = state
        index = ancestors(key, log_weights, num)
        return case, jnp.sum(index[:, None] == jnp.arange(num_particles), axis=0)

    with np.errstate(divide="ignore"):
        log_weights = np.log(table)
    with jax.enable_x64(True):
        spec = jax.ShapeDtypeStruct((num_particles,), jnp.float64)
        index = _trace(lambda key, lw: ancestors(key, lw, num), spec, name)
    if getattr(index, "shape", None) != (num,) or not jnp.issubdtype(index.dtype, jnp.integer):
        found = f"{index.dtype} of shape {index.shape}" if hasattr(index, "shape") else index
        raise ValueError(
            f"{name} must return {num} whole numbers, the ancestors, for num={num}; got {found}"
        )
    cases = np.arange(len(table))
    law = exact.enumerate_paths(
        offspring, Atoms((cases, log_weights), np.ones(len(table))), enumeration
    )
    case, counts = law.state
    label = f"{num_particles} particles, {num} offspring"
    checks, words = [], []
    mean = np.zeros_like(table)
    np.add.at(mean, case, law.mass[:, None] * counts)
    error = np.abs(mean - num * table)
    place = np.unravel_index(np.argmax(error), error.shape)
    text = (
        f"with weights {table[place[0]].tolist()} and {num} offspring, particle {place[1]} has "
        f"{mean[place]:.4g} offspring on average instead of {num * table[place]:.4g}"
    )
    checks.append(_scheme_check("mean offspring", error.max() / num, text, label))
    dead = (table[case] == 0) & (counts > 0)
    born = float(law.mass[dead.any(axis=1)].sum())
    text = f"particles of weight zero have offspring with probability {born:.3g} ({label})"
    checks.append(_scheme_check("no offspring for weight zero", born, text, label))
    lost = float(law.mass[counts.sum(axis=1) != num].sum())
    text = f"ancestors lie outside of the particles with probability {lost:.3g} ({label})"
    checks.append(_scheme_check("every offspring has an ancestor", lost, text, label))
    words += [check.words for check in checks if not check.passed]
    return checks, words


def _scheme_check(name: str, error: float, words: str, label: str) -> Check:
    passed = bool(error <= _TOLERANCE)
    return Check(
        name=name,
        passed=passed,
        discrepancy=float(error),
        words="" if passed else words,
        model=label,
    )
