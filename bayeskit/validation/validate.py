"""Check a block, a kernel, a function or a resampling scheme against the law it claims."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks import Block, Resample
from bayeskit.inference.kernels import DiscreteMetropolis
from bayeskit.inference.law import (
    INVARIANT,
    REVERSIBLE,
    UNBIASED_RESAMPLING,
    LawKind,
)
from bayeskit.inference.measure import FeynmanKac, Target
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel, battery
from bayeskit.validation.exact import Atoms, Enumeration
from bayeskit.validation.exact_checks import (
    Findings,
    checked_atoms,
    claimed_law,
    name_of,
    validate_block,
    validate_finite_kernel,
    validate_scheme,
    validate_step,
)
from bayeskit.validation.report import Check, Report, plain_key
from bayeskit.validation.statistical import (
    LEVELS,
    ExactStart,
    Level,
    exact_start,
)

__all__ = ["validate"]
_LAWS = {"invariant": INVARIANT, "reversible": REVERSIBLE, "resampling": UNBIASED_RESAMPLING}


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
        found = validate_scheme(block, enumeration)
    elif isinstance(block, Block):
        _refuse(given, ("target", "expected", "observed"), "a composed block")
        found = validate_block(block, target, kind, expected, observed, enumeration)
    elif _is_kernel(block):
        _refuse(given, ("target", "models", "start", "tuning"), "a kernel")
        finite = _finite_models(block, target, models, start)
        if finite:
            found = validate_finite_kernel(block, finite, kind, tuning, enumeration)
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
        found = validate_step(block, kind, start, observed, enumeration)
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
        return [BatteryModel(target.name, "", target, math.nan, 0, checked_atoms(start))]
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


def _validate_kernel(kernel, targets, kind, options, alpha, key, budget_s) -> Findings:
    kind = claimed_law(kernel, kind)
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
    return Findings(
        verdict,
        name_of(kernel),
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
