"""The checks of validate that enumerate: blocks, functions, finite kernels, resampling."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.errors import BayeskitError, LawMismatch, UnenumerableDrawError
from bayeskit.inference.blocks import Resample, draw_ancestors
from bayeskit.inference.keys import EnumerationKey, Tape
from bayeskit.inference.law import (
    CONSISTENT,
    INVARIANT,
    REVERSIBLE,
    SWAPS,
    UNBIASED_RESAMPLING,
    UNKNOWN,
    Law,
    LawKind,
)
from bayeskit.inference.measure import PointState
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel
from bayeskit.validation.exact import Atoms, Enumeration
from bayeskit.validation.findings import Findings, name_of
from bayeskit.validation.pointwise import largest_difference
from bayeskit.validation.report import Check, Power
from bayeskit.validation.statistical import default_tuning

__all__ = [
    "TOLERANCE",
    "checked_atoms",
    "claimed_block_law",
    "claimed_law",
    "exact_findings",
    "exact_power",
    "position_of",
    "shapes_of",
    "traced",
    "validate_block",
    "validate_finite_kernel",
    "validate_scheme",
    "validate_step",
    "worst_state",
]

# Relative: identities between finite sums of doubles.
TOLERANCE = 1e-10
# Uneven weights, with zeros at the ends and inside, for numbers of particles and offspring.
_RESAMPLING_CASES = {
    (3, 3): ((0.5, 0.3, 0.2), (0.0, 0.35, 0.65), (0.9, 0.0, 0.1)),
    (4, 4): ((0.05, 0.15, 0.8, 0.0), (0.41, 0.09, 0.33, 0.17), (0.0, 0.25, 0.0, 0.75)),
    (3, 2): ((0.2, 0.7, 0.1), (0.6, 0.4, 0.0)),
}


# ---------------------------------------------------------------- exactly


def exact_power() -> Power:
    """Return the power of an exact check."""
    words = f"finds any relative error above {TOLERANCE:g}, with certainty"
    return Power(TOLERANCE, 1.0, 0.0, (), 1, words)


def claimed_law(kernel: Any, kind: LawKind | None) -> LawKind:
    """Return the law to check: the one asked for, or the one the kernel states."""
    kind = kind or getattr(kernel, "law_kind", INVARIANT)
    if kind not in (INVARIANT, REVERSIBLE, SWAPS, CONSISTENT):
        raise ValueError(
            f"a step is invariant or reversible, got the law {kind}: pass law='invariant'"
        )
    return kind


def claimed_block_law(block: Any, kind: LawKind | None) -> Law:
    """Return the law that a block states, or say why there is none to check."""
    if block.law is None:
        raise LawMismatch(f"{block.name} waits for a population: begin with spawn(...)")
    if block.law.kind is UNKNOWN:
        raise LawMismatch(f"{block.name} has an undeclared part, so there is no law to check")
    if kind is not None and kind != block.law.kind:
        raise LawMismatch(
            f"{block.name} states the law {block.law.kind}, not {kind}: leave law= out"
        )
    return block.law


def checked_atoms(atoms: Any, name: str = "start") -> Atoms:
    """Refuse what is no finite measure, with the reason."""
    if not isinstance(atoms, Atoms):
        raise TypeError(
            f"{name} must be Atoms(state, mass), got {type(atoms).__name__}: list every state "
            "along a leading axis, and its mass"
        )
    mass = np.asarray(atoms.mass, float)
    if isinstance(atoms.state, list):
        atoms = Atoms(np.asarray(atoms.state), atoms.mass)
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
    atoms = Atoms(jax.tree.map(np.asarray, atoms.state), mass)
    close = exact.indistinguishable(atoms)
    if close is not None:
        raise ValueError(
            f"{name}: the states number {close[0]} and {close[1]} differ by less than 1e-10, "
            "where states count as equal: give them in larger units"
        )
    return atoms


def traced(function: Callable, state: Any, what: str) -> Any:
    """Return the shape of a result on an enumerating key, or say why there is none."""

    def run(one):
        return function(EnumerationKey(Tape(None)), one)

    try:
        first, shape = jax.make_jaxpr(run, return_shape=True)(state)
        # A function of its own, since JAX remembers what it has traced.
        second = jax.make_jaxpr(lambda one: run(one))(state)
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"{what} looks a traced state up in a NumPy array: convert the table with "
            f"jnp.asarray first ({str(error).splitlines()[0]})"
        ) from None
    except TypeError as error:
        if isinstance(error, BayeskitError) or "EnumerationKey" not in str(error):
            raise
        raise UnenumerableDrawError(
            f"{what} draws outside of bayeskit.inference.random, where the exact mode cannot "
            f"see it ({str(error).splitlines()[0]}). Draw through its primitives, or pass "
            "start= as a function of a key, which is tested by sampling"
        ) from None
    _refuse_hidden_draws(first, second, what)
    return shape


# What random numbers of JAX are made of, whatever key they are made from.
_HIDDEN_DRAWS = re.compile(r"\b(random_bits|random_seed|random_wrap|threefry2x32)\b")


def _refuse_hidden_draws(first: Any, second: Any, what: str) -> None:
    """Refuse randomness that does not come from the key: it would pass for a constant."""
    hidden = _HIDDEN_DRAWS.search(str(first))
    if hidden:
        raise UnenumerableDrawError(
            f"{what} makes a key of its own ({hidden.group()}), so its draws do not come from "
            "the key that it is given: split that key and use its parts"
        )
    same = len(first.consts) == len(second.consts) and all(
        np.array_equal(a, b, equal_nan=np.issubdtype(np.asarray(a).dtype, np.inexact))
        for a, b in zip(first.consts, second.consts, strict=True)
    )
    if str(first.jaxpr) != str(second.jaxpr) or not same:
        raise UnenumerableDrawError(
            f"{what} is another program each time it is traced: random numbers of NumPy or "
            "Python are frozen when JAX compiles. Draw from the key, through "
            "bayeskit.inference.random"
        )


def position_of(particles: Any) -> Any:
    """Return what is compared where nothing else was asked for."""
    return particles.position if isinstance(particles, PointState) else particles


def shapes_of(tree: Any) -> list[tuple[int, ...]]:
    """Return the shapes of one state, leaf by leaf."""
    return [tuple(np.shape(leaf))[1:] for leaf in jax.tree.leaves(tree)]


def worst_state(states: Any, mass: np.ndarray, expected: Atoms) -> tuple[str, float, float]:
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


def validate_step(step, kind, start, observed, enumeration) -> Findings:
    """Check a function by its exact transition probabilities."""
    if start is None:
        raise TypeError(
            "a function step(key, state) needs start=Atoms(states, masses), the measure it "
            "leaves invariant. For a resampling function ancestors(key, log_weights, num) pass "
            "law='resampling'; for a continuous space write a Kernel"
        )
    kind = claimed_law(step, kind)
    start = checked_atoms(start)
    checks, words = _invariance_checks(
        step, start, kind, observed or position_of, enumeration, name_of(step)
    )
    name = name_of(step)
    return exact_findings(name, f"{kind}: {kind.statement}", checks, words, enumeration)


def _invariance_checks(step, start, kind, observed, enumeration, what, model=""):
    """Return the checks of one step, and the failures in words."""
    with jax.enable_x64(True):
        first = jax.tree.map(lambda x: x[0], start.state)
        after = traced(step, first, what)
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
    holds = result.invariance <= TOLERANCE
    if not holds:
        moved = exact.enumerate_paths(step, share, enumeration)
        seen = Atoms(observed(share.state), share.mass)
        state, found, expected = worst_state(observed(moved.state), moved.mass, seen)
        words.append(
            f"one step changes the mass of the state {state} from {expected:.4g} to {found:.4g}"
        )
    checks = [
        Check(
            name="the measure is invariant",
            passed=holds,
            discrepancy=result.invariance,
            tolerance=TOLERANCE,
            words=words[0] if words else "",
            model=model,
        )
    ]
    if kind is REVERSIBLE:
        symmetric = result.reversibility <= TOLERANCE
        checks.append(
            Check(
                name="each flow equals the flow back",
                passed=symmetric,
                discrepancy=result.reversibility,
                tolerance=TOLERANCE,
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


def exact_findings(name, law, checks, words, enumeration, verdict=None, notes=()) -> Findings:
    """Return what exact checks found."""
    failed = not all(check.passed for check in checks)
    largest = max(check.discrepancy for check in checks)
    return Findings(
        verdict or ("fail" if failed else "pass"),
        name,
        law,
        tuple(checks),
        words[0] if words else f"nothing found; the largest discrepancy is {largest:.1g}",
        exact_power(),
        notes=(f"{enumeration.num_paths} paths enumerated", *notes),
    )


def validate_finite_kernel(kernel, models, kind, tuning, enumeration) -> Findings:
    """Check a kernel on finite spaces, its cached densities included."""
    kind = claimed_law(kernel, kind)
    name = name_of(kernel)
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
            step, model.atoms, kind, position_of, enumeration, name, model.name
        )
        share = Atoms(model.atoms.state, model.atoms.mass / model.atoms.mass.sum())
        error = float(np.max(exact.enumerate_paths(move, share, enumeration).state[1]))
        stale = Check(
            name="cached values equal recomputed ones",
            passed=error <= TOLERANCE,
            discrepancy=error,
            tolerance=TOLERANCE,
            words=f"values cached in the state differ from recomputed ones by {error:.2g}: "
            "after a step, refresh(state) must equal state",
            model=model.name,
        )
        checks += [*more, stale]
        words += [f"on {model.name}, {text}" for text in found]
        words += [] if stale.passed else [f"on {model.name}, {stale.words}"]
    law = f"{kind}: {kind.statement}, on {', '.join(model.name for model in models)}"
    return exact_findings(name, law, checks, words, enumeration)


def validate_block(block, target, kind, expected, observed, enumeration) -> Findings:
    """Check what a composed block stands for, state by state."""
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
    expected = checked_atoms(expected, "expected")
    law = claimed_block_law(block, kind)
    observed = observed or position_of
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
    if shapes_of(states) != shapes_of(expected.state):
        raise ValueError(
            f"the particles of {block.name} have leaves of shape {shapes_of(states)}, the "
            f"states of expected have {shapes_of(expected.state)}: choose the part to compare "
            "with observed="
        )
    gap = exact.discrepancy(states, mass, expected)
    bias = float(mass.sum() / expected.mass.sum()) - 1.0
    holds = gap <= TOLERANCE
    words = []
    if not holds:
        state, found, wanted = worst_state(states, mass, expected)
        words.append(
            f"the expected weight of the state {state} is {found:.4g} instead of {wanted:.4g}; "
            f"E Ẑ / Z - 1 is {bias:.4g}"
        )
    adaptive = law.kind is CONSISTENT
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
            tolerance=TOLERANCE,
            words=words[0] if words else "",
        ),
        Check(
            name="E Ẑ = Z",
            passed=abs(bias) <= TOLERANCE or adaptive,
            discrepancy=abs(bias),
            tolerance=TOLERANCE,
            words=f"E Ẑ / Z - 1 is {bias:.4g}",
        ),
    ]
    # The mass of paths on which a branch was taken, and on which it was left out.
    sides = enumeration.branch_mass.items()
    notes = [f"{name} was never taken" for name, masses in sides if masses[0] == 0]
    notes += [f"{name} was taken on every path" for name, masses in sides if masses[1] == 0]
    if notes and holds:
        verdict = "inconclusive"
        words = [
            f"nothing found, but {' and '.join(notes)}, so one side of it was not looked at: "
            "choose a threshold that is crossed on some paths and not on others"
        ]
    claim = f"{law.kind}: {law.kind.statement}, for {law.measure}"
    return exact_findings(block.name, claim, checks, words, enumeration, verdict, notes)


# ---------------------------------------------------------------- resampling schemes


def validate_scheme(
    scheme: Any, enumeration: Enumeration, claimed: str | None = None
) -> Findings:
    """Check law L4 of a resampling scheme on uneven weights.

    With ``claimed``, the name of the scheme that it should be, the whole law of the numbers of
    offspring is compared too: their means leave much open.
    """
    if claimed is not None and claimed not in accel.SCHEMES:
        raise ValueError(
            f"expected= names the scheme that this one claims to be, one of "
            f"{sorted(accel.SCHEMES)}, got {claimed!r}"
        )
    if isinstance(scheme, Resample):
        if scheme.ess_below is not None:
            raise ValueError(
                f"{scheme.name} resamples under a condition: validate the scheme "
                f"{scheme.scheme!r}, and the condition in a composed block"
            )
        if scheme.rate is not None:
            raise ValueError(
                f"{scheme.name} leaves uneven weights: validate the scheme {scheme.scheme!r}, "
                "and the rate in a composed block"
            )
        scheme = scheme.scheme
    if isinstance(scheme, str):
        if scheme not in accel.SCHEMES:
            raise ValueError(
                f"unknown scheme {scheme!r}: choose one of {sorted(accel.SCHEMES)}, or pass a "
                "function ancestors(key, log_weights, num)"
            )
        name = f"resampling scheme {scheme!r}"
        ancestors = functools.partial(_named_ancestors, scheme)
    elif callable(scheme):
        name, ancestors = name_of(scheme), scheme
    else:
        raise TypeError(
            f"a resampling scheme is a name or a function ancestors(key, log_weights, num), "
            f"got {type(scheme).__name__}"
        )
    named = accel.SCHEMES.get(scheme if isinstance(scheme, str) else claimed or "")
    keeps_number = named is not None and named.keeps_number
    checks, words = [], []
    for (num_particles, num), table in _RESAMPLING_CASES.items():
        if num != num_particles and keeps_number:
            continue
        more, found = _offspring_checks(
            ancestors, np.array(table), num_particles, num, enumeration, name, claimed
        )
        checks += more
        words += found
    law = f"{UNBIASED_RESAMPLING}: {UNBIASED_RESAMPLING.statement}; none for weight zero"
    return exact_findings(name, law, checks, words, enumeration)


def _offspring_checks(ancestors, table, num_particles, num, enumeration, name, claimed):
    """Check one compiled case: all weight vectors of one length, at one number of offspring."""

    def offspring(key, state, ancestors=ancestors):
        case, log_weights = state
        index = ancestors(key, log_weights, num)
        return case, jnp.sum(index[:, None] == jnp.arange(num_particles), axis=0)

    with np.errstate(divide="ignore"):
        log_weights = np.log(table)
    with jax.enable_x64(True):
        spec = jax.ShapeDtypeStruct((num_particles,), jnp.float64)
        index = traced(lambda key, lw: ancestors(key, lw, num), spec, name)
    if getattr(index, "shape", None) != (num,) or not jnp.issubdtype(index.dtype, jnp.integer):
        found = f"{index.dtype} of shape {index.shape}" if hasattr(index, "shape") else index
        raise ValueError(
            f"{name} must return {num} whole numbers, the ancestors, for num={num}; got {found}"
        )
    cases = np.arange(len(table))
    start = Atoms((cases, log_weights), np.ones(len(table)))
    law = exact.enumerate_paths(offspring, start, enumeration)
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
    if claimed is not None:
        draw = functools.partial(_named_ancestors, claimed)
        right = functools.partial(offspring, ancestors=draw)
        wanted = exact.enumerate_paths(right, start, enumeration)
        gap = exact.discrepancy(law.state, law.mass, wanted)
        found = worst_state(law.state, law.mass, wanted)
        text = (
            f"the weights number and numbers of offspring ({found[0]}) come with probability "
            f"{found[1]:.4g} instead of {found[2]:.4g} ({label})"
        )
        checks.append(_scheme_check(f"offspring as those of {claimed!r}", gap, text, label))
    words += [check.words for check in checks if not check.passed]
    return checks, words


def _named_ancestors(scheme: str, key: Any, log_weights: jax.Array, num: int) -> jax.Array:
    return draw_ancestors(key, log_weights, scheme, num)


def _scheme_check(name: str, error: float, words: str, label: str) -> Check:
    passed = bool(error <= TOLERANCE)
    return Check(
        name=name,
        passed=passed,
        discrepancy=float(error),
        tolerance=TOLERANCE,
        words="" if passed else words,
        model=label,
    )
