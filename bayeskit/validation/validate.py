"""Check a block, a kernel, a function or a resampling scheme against the law it claims."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.errors import LawMismatch
from bayeskit.inference import random
from bayeskit.inference.blocks import Block, Resample
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.kernels import DiscreteMetropolis
from bayeskit.inference.kernels.product_space import ProductSpaceKernel
from bayeskit.inference.law import (
    CONDITIONAL_RESAMPLING,
    CONSISTENT,
    COUPLED,
    DRAWS,
    REVERSIBLE,
    SAME_LAW,
    UNBIASED_ESTIMATE,
    UNBIASED_RESAMPLING,
    LawKind,
)
from bayeskit.inference.maps import Bijector, Involution
from bayeskit.inference.measure import Target
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel, battery
from bayeskit.validation.calibration import validate_estimator
from bayeskit.validation.conditional import validate_conditional_scheme
from bayeskit.validation.coupling import validate_coupling
from bayeskit.validation.density import validate_target
from bayeskit.validation.evidence import validate_estimate, validate_population
from bayeskit.validation.exact import Atoms, Enumeration
from bayeskit.validation.exact_checks import (
    checked_atoms,
    claimed_law,
    validate_block,
    validate_finite_kernel,
    validate_scheme,
    validate_step,
)
from bayeskit.validation.findings import Findings, Request, law_kind, name_of
from bayeskit.validation.growth import validate_growth
from bayeskit.validation.joint import validate_joint
from bayeskit.validation.paired import LEVELS, Level, statistical_level
from bayeskit.validation.pointwise import validate_bijector, validate_involution
from bayeskit.validation.quadrature import validate_by_quadrature
from bayeskit.validation.ranks import validate_by_ranks
from bayeskit.validation.report import Check, Report
from bayeskit.validation.same_law import validate_draws, validate_same_law
from bayeskit.validation.scale import validate_scheme_at_scale
from bayeskit.validation.statistical import ExactStart, KernelSteps, exact_start

__all__ = ["validate"]
# Ways to check that are chosen by name in place of an amount of work.
_METHODS = ("exact", "quadrature", "ranks", "scale")
# Names of the checks of a law that have no p-value; the others hold for every kernel.
_WITHOUT_CHANCE = ("the mean of", "the measure is invariant")


def validate(
    block: Any,
    target: Any = None,
    *,
    law: LawKind | str | None = None,
    models: Iterable[Any] | None = None,
    expected: Any = None,
    start: Any = None,
    observed: Callable | None = None,
    level: str | Level = "quick",
    alpha: float = 1e-6,
    key: Any = 0,
    budget_s: float | None = None,
    tuning: Any = None,
    num_steps: int | None = None,
    max_paths: int = exact.MAX_PATHS,
) -> Report:
    r"""Check a block against its law, and say how small an error would have been found.

    What is checked, and how, depends on what is given:

    - a kernel, with a target that has ``sample_exact`` or alone (then on the battery models
      that fit): statistically, :math:`E[f(x') - f(x)] = 0` from exact draws, and without
      chance what belongs to every kernel (cached values, keys, support, NaN, shapes);
    - a kernel on a finite space, with ``start`` or alone: exactly, :math:`\pi K = \pi`;
    - a function ``step(key, state) -> state``: exactly with ``start=Atoms(...)``, and with
      a sampler ``start(key) -> state`` statistically, on any state that can be drawn;
    - a composed block that starts from nothing:
      :math:`E[\hat Z \sum_i W_i f(x_i)] = \gamma(f)` for every f, exactly with ``expected``
      or a finite model, by means of many runs with a continuous model of known evidence;
    - a function ``estimate(key)`` of the log evidence, with ``law="unbiased"``;
    - a function ``sampler(key)``, with ``law="draws"`` and a target or Atoms, or with
      ``law="same"`` and another sampler;
    - a function ``build(num_particles)`` of blocks, with ``law="consistent"``: whether its
      error vanishes as particles are added;
    - a pair of chains, as a coupled transition or a function ``step(key, (x, y))`` with
      ``law="coupled"``: exactly, with the states of one chain as ``start=Atoms(...)``;
    - a resampling scheme, by its name or as a function ``ancestors(key, log_weights, num)``
      with ``law="resampling"``: exactly, the mean number of offspring is num W_i; with
      ``level="scale"`` a million particles in float32;
    - ``ancestors(key, log_weights, num, slot, ancestor)`` with
      ``law="conditional resampling"``, against the scheme ``expected``;
    - a Target or battery model: whether sampler, gradient and constant fit the density;
    - a Bijector or Involution, at points drawn by ``start``;
    - an estimator with ``fit``, where ``start(key)`` simulates parameters and data:
      simulation-based calibration.

    Exact means that every path of the random draws is enumerated.

    Parameters
    ----------
    block : object
        What is validated, one of the above.
    target : Target or BatteryModel, optional
        What a kernel leaves invariant, a sampler draws from or weighted particles stand for.
    law : LawKind or str, optional
        ``"invariant"``, ``"reversible"``, ``"swaps"``, ``"draws"``, ``"same"``,
        ``"unbiased"``, ``"consistent"``, ``"coupled"``, ``"resampling"`` or
        ``"conditional resampling"``. Default: what the block declares; for a step, invariance.
    models : iterable of str or BatteryModel, optional
        Which models of :func:`~bayeskit.validation.battery` a kernel without target is
        validated on. Default: all that fit.
    expected : Atoms, float or callable, optional
        The unnormalised measure γ that particles stand for, the log evidence, or the other
        sampler or scheme.
    start : Atoms or callable, optional
        The measure that a step leaves invariant, state by state, or a function of a key that
        draws what the check starts from.
    observed : callable, optional
        The part of particles or states to compare. In exact mode it is called with all of
        them, (num, ...), otherwise with one. Default: the position where there is one, else
        all.
    level : str or Level
        How many replicates: ``"quick"``, 1e5 at first, or ``"full"``, 4e5. Or how to look:
        ``"exact"`` enumerates, ``"quadrature"`` integrates a kernel on a line, ``"ranks"``
        follows chains through exact draws, ``"scale"`` tries a resampling scheme on a million
        particles.
    alpha : float in (0, 1)
        Bound on the probability that what is correct fails, all tests and models together.
    key : int or JAX key
    budget_s : float, optional
        CPU seconds of the statistical tests. The first stage always runs; what is then
        undecided makes the verdict ``"inconclusive"``.
    tuning : Tuning, optional
        Parameters of the kernel. Default: its own, moved to the centre and scale of each
        target by pilot draws.
    num_steps : int, optional
        Steps between the compared points of the statistical tests. Default: 2.
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

    As with ``jax.jit``, programs are kept for the function that they were compiled from. After
    a change of a global variable that a function looks at, define the function anew.

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
    # A report keeps keys as lists of integers.
    key = jnp.asarray(key, jnp.uint32) if isinstance(key, list) else key
    request = Request(
        law=law_kind(law), target=target, models=_listed(models), expected=_number(expected),
        start=start, observed=_function(observed, "observed"), level=_known_level(level),
        alpha=_probability(alpha), key=key, budget_s=_budget(budget_s), tuning=tuning,
        num_steps=None if num_steps is None else _count(num_steps, "num_steps"),
        enumeration=Enumeration(max_paths),
    )  # fmt: skip
    route = _route(block, request)
    _refuse_surplus(request, route)
    request = request._replace(num_steps=request.num_steps or 2)
    return route.check(block, request).report(key, began)


# ---------------------------------------------------------------- which check it is


class _Route(NamedTuple):
    """A kind of check, the arguments that mean something for it, and its ways to look."""

    what: str
    takes: tuple[str, ...]
    check: Callable[[Any, Request], Findings]
    ways: tuple[str, ...] = ()
    # None: the check itself looks whether the law fits.
    laws: tuple[LawKind | None, ...] | None = None


_SCHEME = _Route(
    "a resampling scheme",
    ("expected",),
    lambda *given: _check_scheme(*given),
    ways=("exact", "scale"),
    laws=(None, UNBIASED_RESAMPLING),
)
_EXACT_BLOCK = _Route(
    "a composed block",
    ("target", "expected", "observed"),
    lambda block, r: validate_block(
        block, r.target, r.law, r.expected, r.observed, r.enumeration
    ),
    ways=("exact",),
)
_EXACT_STEP = _Route(
    "a function with start=Atoms",
    ("start", "observed"),
    lambda step, r: validate_step(step, r.law, r.start, r.observed, r.enumeration),
    ways=("exact",),
)
_KERNEL = _Route(
    "a kernel",
    ("target", "models", "start", "tuning", "num_steps"),
    lambda *given: _check_kernel(*given),
    ways=("exact", "quadrature", "ranks"),
)
_INVOLUTION = _Route("an involution", ("start",), validate_involution)
_BIJECTOR = _Route("a bijector", ("start",), validate_bijector)
_TARGET = _Route("a target", ("expected",), validate_target, laws=(None,))
_POPULATION = _Route(
    "a composed block", ("target", "expected", "observed"), validate_population
)
_ESTIMATOR = _Route("an estimator", ("start", "observed"), validate_estimator)
_JOINT = _Route(
    "a step with a sampler start",
    ("start", "observed", "num_steps"),
    lambda step, r: _or_measured_bias(step, r, validate_joint(step, r)),
)
_COUPLING = _Route("a pair of chains", ("start",), validate_coupling, ways=("exact",))
_RANKS = _Route(
    "ranks along a chain", ("start", "observed"), validate_by_ranks, ways=("ranks",)
)
# What a function claims decides how it is called.
_BY_LAW = {
    CONDITIONAL_RESAMPLING: _Route(
        "a conditional resampling scheme",
        ("expected",),
        validate_conditional_scheme,
        ways=("exact",),
    ),
    COUPLED: _COUPLING,
    UNBIASED_ESTIMATE: _Route(
        "an estimate of the evidence",
        ("target", "expected", "observed"),
        validate_estimate,
        ways=("exact",),
    ),
    DRAWS: _Route(
        "a sampler", ("target", "expected", "observed"), validate_draws, ways=("exact",)
    ),
    SAME_LAW: _Route("a sampler", ("expected", "observed"), validate_same_law, ways=("exact",)),
    CONSISTENT: _Route(
        "a function of the number of particles",
        ("target", "expected", "observed"),
        validate_growth,
    ),
}


def _route(block: Any, request: Request) -> _Route:
    if isinstance(block, Involution):
        return _INVOLUTION
    if isinstance(block, Bijector):
        return _BIJECTOR
    if isinstance(block, Target | BatteryModel):
        return _TARGET
    if isinstance(block, str | Resample) or request.law is UNBIASED_RESAMPLING:
        return _SCHEME
    if isinstance(block, Block):
        finite = isinstance(request.target, BatteryModel) and request.target.atoms is not None
        is_number = isinstance(request.expected, int | float)
        statistical = not finite and (request.target is not None or is_number)
        return _POPULATION if statistical else _EXACT_BLOCK
    if not isinstance(block, type) and _is_kernel(block):
        return _KERNEL
    if isinstance(block, type) and (_is_kernel(block) or hasattr(block, "fit")):
        raise TypeError(
            f"{block.__name__} is a class: pass an object of it, {block.__name__}(...)"
        )
    if callable(getattr(block, "fit", None)):
        return _ESTIMATOR
    if not callable(block):
        if hasattr(block, "init") and hasattr(block, "step"):
            raise TypeError(
                f"{type(block).__name__} has init and step but no refresh: wrap a sampler of "
                "BlackJAX with bayeskit.interop.blackjax.from_blackjax"
            )
        raise TypeError(
            f"cannot validate an object of type {type(block).__name__}: pass a kernel (with "
            "init, step and refresh), a block, a function step(key, state), an estimator with "
            "fit, a Target, a Bijector, an Involution, or the name of a resampling scheme"
        )
    if getattr(block, "law_kind", None) is COUPLED and isinstance(request.start, Atoms):
        return _COUPLING
    if request.law in _BY_LAW:
        return _BY_LAW[request.law]
    if callable(request.start):
        return _RANKS if request.level == "ranks" else _JOINT
    if request.start is None:
        raise TypeError(
            f"what is {name_of(block)}? A step(key, state) needs start=: Atoms(states, masses) "
            "on a finite space, or a function of a key that draws a state exactly. Otherwise "
            "say what the function claims: law='draws' for sampler(key), law='same' beside "
            "another sampler, law='unbiased' for an estimate(key) of the log evidence, "
            "law='resampling' for ancestors(key, log_weights, num), law='consistent' for "
            "build(num_particles)"
        )
    return _EXACT_STEP


def _refuse_surplus(request: Request, route: _Route) -> None:
    for name in ("target", "models", "expected", "start", "tuning", "observed", "num_steps"):
        if getattr(request, name) is not None and name not in route.takes:
            fits = " and ".join(f"{name}=" for name in route.takes) or "nothing"
            raise TypeError(
                f"{name}= means nothing for {route.what}, which takes {fits}: leave it out"
            )
    if request.level in _METHODS and request.level not in route.ways:
        ways = [*LEVELS, *route.ways]
        raise ValueError(
            f"level={request.level!r} does not fit {route.what}: choose one of {ways}"
        )
    if route.laws is not None and request.law not in route.laws:
        raise LawMismatch(f"{route.what} cannot have the law {request.law}: leave law= out")


def _check_scheme(scheme: Any, request: Request) -> Findings:
    if request.level == "scale":
        return validate_scheme_at_scale(scheme, request)
    return validate_scheme(scheme, request.enumeration, request.expected)


def _check_kernel(kernel: Any, request: Request) -> Findings:
    return _or_measured_bias(kernel, request, _check_moves(kernel, request))


def _or_measured_bias(kernel: Any, request: Request, findings: Findings) -> Findings:
    """Turn the failure of a kernel that claims no more than law L10 into a measurement."""
    if claimed_law(kernel, request.law) is not CONSISTENT or findings.verdict != "fail":
        return findings
    failed = [check for check in findings.checks if not check.passed]
    if any(c.p_value is None and not c.name.startswith(_WITHOUT_CHANCE) for c in failed):
        return findings
    words = (
        "the kernel is approximate, so the law allows a bias that vanishes with its step size; "
        f"measured {findings.worst}"
    )
    return findings._replace(verdict="inconclusive", worst=words)


def _check_moves(kernel: Any, request: Request) -> Findings:
    finite = _finite_models(kernel, request.target, request.models, request.start)
    if finite:
        return validate_finite_kernel(
            kernel, finite, request.law, request.tuning, request.enumeration
        )
    if request.level == "quadrature":
        return validate_by_quadrature(kernel, request)
    if request.level == "ranks":
        return _rank_kernel(kernel, request)
    options = {
        "tuning": request.tuning,
        "num_steps": request.num_steps,
        "level": statistical_level(request.level),
    }
    chosen = _continuous_models(kernel, request.target, request.models)
    return _validate_kernel(
        kernel, chosen, request.law, options, request.alpha, request.key, request.budget_s
    )


# ---------------------------------------------------------------- what was asked for


def _known_level(level: Any) -> Any:
    if isinstance(level, Level) or level in (*LEVELS, *_METHODS):
        return level
    raise ValueError(f"level must be one of {[*LEVELS, *_METHODS]} or a Level, got {level!r}")


def _probability(alpha: Any) -> float:
    if not isinstance(alpha, float) or not 0 < alpha < 1:
        raise ValueError(f"alpha must be a probability in (0, 1), got {alpha!r}")
    return alpha


def _listed(models: Any) -> Any:
    """Return models as a list, so that they can be gone through more than once."""
    if models is None or isinstance(models, str | BatteryModel):
        return models
    return list(models)


def _number(expected: Any) -> Any:
    """Return a log evidence as a float, whatever kind of number it is; leave the rest."""
    is_array = isinstance(expected, np.generic | np.ndarray | jax.Array)
    if is_array and np.ndim(expected) == 0 and np.issubdtype(expected.dtype, np.number):
        return float(expected)
    return expected


def _function(value: Any, name: str) -> Any:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def _budget(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float | np.number) or not value > 0:
        raise ValueError(f"budget_s must be a positive number of CPU seconds, got {value!r}")
    return float(value)


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
    elif target is None and isinstance(kernel, DiscreteMetropolis | ProductSpaceKernel):
        chosen = [model for model in battery("finite").values() if _moves_on(kernel, model)]
        if not chosen:
            raise ValueError(
                f"no battery model has the states of {name_of(kernel)}: pass your own target "
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


def _moves_on(kernel: Any, model: BatteryModel) -> bool:
    """Return whether a finite kernel has the states of a finite model."""
    if not isinstance(model.target, Target) or model.atoms is None:
        return False
    states = np.asarray(model.atoms.state)
    if isinstance(kernel, DiscreteMetropolis):
        return len(states) == len(kernel.proposal)
    full = len(states) == math.prod(kernel.num_states)
    return states.ndim == 2 and full and tuple(states.max(axis=0) + 1) == kernel.num_states


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


def _rank_kernel(kernel: Any, request: Request) -> Findings:
    """Follow chains of a kernel on one target through exact draws of it."""
    targets = _continuous_models(kernel, request.target, request.models)
    if len(targets) > 1:
        raise ValueError(
            f"level='ranks' follows chains on one target, got {len(targets)}: pass one target, "
            "or models= with one name"
        )
    steps = KernelSteps.on(kernel, targets[0], request.tuning)
    found = validate_by_ranks(
        steps.step, request._replace(start=steps.start, observed=steps.observed)
    )
    return found._replace(block=name_of(kernel), law=f"{found.law}, on {targets[0].name}")


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
