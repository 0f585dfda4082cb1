r"""Whether the density of a target, its gradient, its constant and its sampler agree.

On a finite space all of it is checked exactly, but for a sampler whose draws cannot be
enumerated, which is drawn from often. Elsewhere the gradient is compared with finite
differences, the log evidence with a quadrature in one or two dimensions, and the sampler with
the density by a random walk, which is a right kernel: if it moves exact draws to another law,
they were no draws from that density.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.kernels import RandomWalk
from bayeskit.inference.measure import Target
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel
from bayeskit.validation.exact import Atoms
from bayeskit.validation.exact_checks import checked_atoms, shapes_of
from bayeskit.validation.findings import Findings, Request
from bayeskit.validation.paired import statistical_level
from bayeskit.validation.ranks import binomial_p_values
from bayeskit.validation.report import Check, Power
from bayeskit.validation.statistical import exact_start

__all__ = ["validate_target"]

# Relative: identities between finite sums of doubles.
_TOLERANCE = 1e-10
_NUM_DRAWS = 20_000
# Draws of a sampler of states that cannot be enumerated.
_NUM_STATES_DRAWN = 100_000
# Draws at which the gradient is compared.
_NUM_GRADIENTS = 256
# Central differences in units of the scale of a coordinate: truncation and rounding balance.
_STEP = float(np.finfo(np.float64).eps) ** (1 / 3)
_GRADIENT_TOLERANCE = 1e-4
# Of a log evidence, besides the error that the quadrature states for itself.
_EVIDENCE_TOLERANCE = 1e-3
# The grid is x = location + scale * sinh(t), |t| below this: it holds tails of any kind.
_REACH = 12.0


def validate_target(target: Any, request: Request) -> Findings:
    """Check a target, or a battery model, against its own samplers and constants."""
    target, atoms, log_evidence = _stated(target, request.expected)
    if atoms is not None:
        return _finite_findings(target, atoms, log_evidence, request)
    with jax.enable_x64(True):
        return _continuous_findings(target, log_evidence, request)


def _stated(block: Any, expected: Any) -> tuple[Target, Atoms | None, float | None]:
    """Return the target, its masses if it is finite, and its log evidence if that is known."""
    if isinstance(block, BatteryModel):
        if not isinstance(block.target, Target):
            raise TypeError(
                f"{block.name} is a Feynman-Kac model: build a block from it and pass "
                "expected=model.atoms"
            )
        if expected is not None:
            raise TypeError("a BatteryModel states its evidence itself: leave expected= out")
        return block.target, block.atoms, block.log_evidence
    if expected is None:
        return block, None, None
    if isinstance(expected, Atoms):
        return block, checked_atoms(expected, "expected"), None
    if not isinstance(expected, float) or not np.isfinite(expected):
        raise TypeError(
            f"expected must be the log evidence as a float, or Atoms(states, masses) for a "
            f"finite target; got {expected!r}"
        )
    return block, None, expected


def _law(*parts: str) -> str:
    """State that these parts are those of the density."""
    *others, last = parts
    words = f"{', '.join(others)} and {last}" if others else last
    return f"density: {words} {'are those' if others else 'is that'} of the density"


def _log_density(target: Target) -> Callable:
    density = target.density()
    return lambda x: density(x)


# A second call for the same target compiles none of these again. They run for milliseconds.
_quickest_jit = functools.partial(quick_jit, optimised=False)


@_quickest_jit(static_argnames="sampler")
def _drawn(keys: Any, sampler: Callable) -> Any:
    return jax.vmap(sampler)(keys)


@_quickest_jit
def _values(x: jax.Array, target: Target) -> jax.Array:
    return jax.vmap(_log_density(target))(x)


@_quickest_jit
def _slopes(x: jax.Array, target: Target, scale: jax.Array) -> tuple[jax.Array, ...]:
    """Return gradients in units of a scale, and central differences at two steps."""
    density = _log_density(target)

    def at(one):
        def difference(step):
            moves = jnp.diag(step * scale)
            rise = jax.vmap(lambda move: density(one + move) - density(one - move))(moves)
            return rise / (2 * step)

        return scale * jax.grad(density)(one), difference(_STEP), difference(_STEP / 2)

    return jax.vmap(at)(x)


@quick_jit
def _integrand(
    points: jax.Array, target: Target, location: Any, scale: Any, height: Any
) -> jax.Array:
    """Return the density, over exp(height), at ``location + scale * sinh(t)``."""
    density = _log_density(target)

    def at(t):
        x = location + scale * jnp.sinh(t)
        return jnp.exp(density(x) - height + jnp.sum(jnp.log(scale * jnp.cosh(t))))

    return jax.vmap(at)(points)


# ---------------------------------------------------------------- finite spaces


def _finite_findings(target, atoms, log_evidence, request) -> Findings:
    with jax.enable_x64(True):
        states = jax.tree.map(jnp.asarray, atoms.state)
        components = np.asarray(jax.vmap(target.components)(states))
        density = np.exp(np.asarray(jax.vmap(_log_density(target))(states)))
    total = atoms.mass.sum()
    worst = int(np.argmax(np.abs(density - atoms.mass)))
    checks = [
        _exact_check(
            "exp(log density) is the mass of each state",
            np.abs(density - atoms.mass).max() / total,
            f"the density of state number {worst} is {density[worst]:.4g}, its mass is "
            f"{atoms.mass[worst]:.4g}",
        )
    ]
    if log_evidence is not None and np.isfinite(log_evidence):
        words = f"the log evidence is stated as {log_evidence:.6g}, it is {np.log(total):.6g}"
        checks.append(
            _exact_check("the log evidence", abs(np.log(total) - log_evidence), words)
        )
    samplers = []
    if target.sample_exact is not None:
        law = Atoms(atoms.state, density / density.sum())
        samplers.append(("sample_exact", target.sample_exact, law))
    if target.has_prior and target.sample_prior is not None:
        law = Atoms(atoms.state, np.exp(components[:, 0]))
        samplers.append(("sample_prior", target.draw_prior, law))
    level = request.alpha / max(len(samplers), 1)
    keys = random.split(accel.as_key(request.key), 2)
    checks += [
        _sampler_check(*sampler, request, key, level)
        for sampler, key in zip(samplers, keys, strict=False)
    ]
    parts = ["the mass of each state"]
    parts += ["the sampler"] * bool(samplers)
    parts += ["the evidence"] * (log_evidence is not None)
    drawn = any(check.p_value is not None for check in checks)
    failed = [check for check in checks if not check.passed]
    largest = max(check.discrepancy or 0.0 for check in checks)
    words = f"nothing found; the largest discrepancy is {largest:.1g}"
    if drawn:
        tested = [check for check in checks if check.p_value is not None]
        words += f", and of frequencies: {min(tested, key=lambda c: c.p_value or 0.0).words}"
    return Findings(
        "fail" if failed else "pass",
        target.name,
        _law(*parts),
        tuple(checks),
        failed[0].words if failed else words,
        _finite_power(len(atoms.mass), len(checks), level if drawn else None),
        request.alpha if drawn else 0.0,
        _DRAWN_NOTE if drawn else (),
    )


def _finite_power(num_states: int, num_checks: int, level: float | None) -> Power:
    """Return what is found: with certainty, and at a level where a sampler was drawn from."""
    words = f"finds any error above {_TOLERANCE:g}"
    if level is None:
        return Power(_TOLERANCE, 1.0, 0.0, (), num_checks, words)
    effect = float(stats.norm.isf(level / (2 * num_states)) + stats.norm.isf(0.01))
    # No frequency has a larger standard deviation than that of 1/2.
    shift = 0.5 * effect / np.sqrt(_NUM_STATES_DRAWN)
    words = (
        f"{words} of the masses, and with probability 0.99 a sampler under which the "
        f"probability of a state is wrong by {shift:.2g}"
    )
    replicates = (_NUM_STATES_DRAWN,)
    return Power(effect, 0.99, 0.0, replicates, num_checks - 1 + num_states, words)


_DRAWN_NOTE = (
    f"a sampler draws outside of bayeskit.inference.random, so {_NUM_STATES_DRAWN} draws were "
    "counted: with the primitives its law is checked exactly",
)


def _exact_check(name: str, discrepancy: float, words: str) -> Check:
    # A NaN must not pass.
    passed = bool(discrepancy <= _TOLERANCE)
    words = "" if passed else words
    return Check(name=name, passed=passed, discrepancy=float(discrepancy), words=words)


def _sampler_check(
    name: str, sampler: Callable, law: Atoms, request: Request, key: Any, level: float
) -> Check:
    """Compare the law of a sampler with the density, by walking all its paths or by draws."""
    what = f"{name} draws from the density"
    nothing = Atoms(np.zeros((1, 1)), np.ones(1))
    try:
        drawn = exact.enumerate_paths(lambda key, _: sampler(key), nothing, request.enumeration)
    except TypeError:
        # A mistake that has nothing to do with the kind of key is raised here again.
        jax.eval_shape(sampler, accel.as_key(0))
        return _frequency_check(name, sampler, law, key, level)
    gap = exact.discrepancy(drawn.state, drawn.mass, law)
    words = f"the probability of a state under {name} differs from its density by {gap:.3g}"
    return _exact_check(what, gap, words)


def _frequency_check(name: str, sampler: Callable, law: Atoms, key: Any, level: float) -> Check:
    """Count how often a sampler draws each state; counts are binomial."""
    with jax.enable_x64(True):
        keys = jax.random.split(key, _NUM_STATES_DRAWN)
        drawn = _drawn(keys, sampler)
    if shapes_of(drawn) != shapes_of(law.state):
        raise ValueError(
            f"{name} draws states with leaves of shape {shapes_of(drawn)}, those of expected "
            f"have {shapes_of(law.state)}: list the states as {name} draws them"
        )
    draws, states = (
        np.concatenate(
            [np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)],
            axis=1,
        )
        for tree in (drawn, law.state)
    )
    # Samplers may round to single precision.
    equal = [np.isclose(draws, state, rtol=1e-6, atol=1e-10).all(axis=1) for state in states]
    counts = np.sum(equal, axis=1)
    p_values = binomial_p_values(counts, len(draws), np.clip(law.mass, 0.0, 1.0))
    place = int(np.argmin(p_values))
    strangers = ~np.any(equal, axis=0)
    if strangers.any():
        words = (
            f"{name} draws {_written(draws[np.argmax(strangers)])}, which is no listed state, "
            f"as in {strangers.sum()} of {len(draws)} draws"
        )
    else:
        words = (
            f"{name} draws the state {_written(states[place])} in {counts[place]} of "
            f"{len(draws)} draws, and its density says {law.mass[place] * len(draws):.6g}"
        )
    return Check(
        name=f"{name} draws from the density",
        passed=not strangers.any() and bool(p_values[place] > level / len(states)),
        p_value=float(p_values[place]),
        words=words,
    )


# ---------------------------------------------------------------- continuous spaces


class _Claim(NamedTuple):
    """A density on vectors with a sampler that claims to draw from it."""

    target: Target
    # Densities with the logarithm of their integral, where it is known.
    integrals: tuple[tuple[Target, float], ...]


def _continuous_findings(target, log_evidence, request) -> Findings:
    began = time.process_time()
    level = statistical_level(request.level)
    claims = _claims(target, log_evidence)
    checks: list[Check] = []
    walks = {}
    for claim, key in zip(claims, random.split(accel.as_key(request.key), 2), strict=False):
        draw_key, walk_key = random.split(key)
        draws = _draws(draw_key, claim.target)
        finite = _finite_check(claim.target, draws)
        checks.append(finite)
        if not finite.passed:
            continue
        if claim.target.has_gradient:
            checks.append(_gradient_check(claim.target, draws))
        checks += [_evidence_check(one, draws, known) for one, known in claim.integrals]
        left = None
        if request.budget_s is not None:
            left = max(request.budget_s - (time.process_time() - began), 0.0)
        walk = exact_start(
            RandomWalk(),
            claim.target,
            level=level,
            alpha=request.alpha / len(claims),
            key=walk_key,
            budget_s=left,
        )
        walks[claim.target.name] = walk
        checks += [Check(**{**vars(one), "model": claim.target.name}) for one in walk.checks]
    return _verdict(target, checks, walks, request)


def _verdict(target, checks, walks, request) -> Findings:
    """Put first what was found without chance, then what the random walk found."""
    failed = [check.words for check in checks if not check.passed and not check.model]
    for name, walk in walks.items():
        if walk.verdict == "fail":
            failed.append(
                f"the sampler and the density of {name} do not belong together: random-walk "
                f"Metropolis moves its draws to another law; {walk.worst}"
            )
    unchecked = [check.words for check in checks if check.words.startswith("not checked")]
    evidence = f"the log evidence of {target.name}"
    seen = {check.name for check in checks if check.words not in unchecked}
    # Without exact draws it is the prior that was looked at.
    place = target.name if target.sample_exact is not None else f"the prior of {target.name}"
    whose = " of the prior" if target.sample_exact is None else ""
    parts = [f"the sampler{whose}"]
    parts += [f"the gradient{whose}"] * (f"the gradient of {place}" in seen)
    parts += ["the evidence"] * (evidence in seen)
    undecided = [walk.worst for walk in walks.values() if walk.verdict == "inconclusive"]
    if request.expected is not None and evidence not in seen:
        reasons = [words for words in unchecked if evidence in words]
        undecided[:0] = [
            f"{words}. Leave expected= out, or test an estimate of it: validate(estimate, "
            "target, expected=..., law='unbiased')"
            for words in reasons
        ]
    quiet = [f"nothing found; the largest deviation: {walk.worst}" for walk in walks.values()]
    powers = [walk.power for walk in walks.values() if walk.power is not None]
    return Findings(
        "fail" if failed else "inconclusive" if undecided else "pass",
        target.name,
        _law(*parts),
        tuple(checks),
        (failed or undecided or quiet)[0],
        max(powers, key=lambda power: power.in_standard_deviations, default=None),
        request.alpha,
        tuple(unchecked),
    )


def _claims(target: Target, log_evidence: float | None) -> list[_Claim]:
    """Return the target with its exact sampler, and its prior with the sampler of the prior."""
    has_prior = target.has_prior and target.sample_prior is not None
    sampler = target.sample_exact or (target.draw_prior if has_prior else None)
    if sampler is None:
        raise ValueError(
            f"the target {target.name} has no sampler to compare its density with: give "
            "Target(sample_exact=...), or log_prior with sample_prior"
        )
    spec = jax.eval_shape(sampler, accel.as_key(0))
    leaves = jax.tree.leaves(spec)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise TypeError(
            f"the sampler of {target.name} draws positions of dtype {leaves[0].dtype}: for a "
            "finite target pass expected=Atoms(states, masses)"
        )
    target = target.on_vectors(spec)
    known = () if log_evidence is None else ((target, log_evidence),)
    claims = [] if target.sample_exact is None else [_Claim(target, known)]
    if has_prior:
        prior = Target(
            log_density=target.log_prior,
            sample_exact=target.draw_prior,
            data=target.data if target.prior_takes_data else (),
            has_gradient=target.has_gradient,
            name=f"the prior of {target.name}",
        )
        claims.append(_Claim(prior, ((prior, 0.0), *(() if claims else known))))
    return claims


class _Draws(NamedTuple):
    """Exact draws with their log densities."""

    x: np.ndarray  # (num, dim)
    log_density: np.ndarray  # (num,)


def _draws(key: Any, target: Target) -> _Draws:
    assert target.sample_exact is not None
    # One ordinary key a draw: samplers of users may call jax.random directly.
    keys = jax.random.split(key, _NUM_DRAWS)
    x = _drawn(keys, target.sample_exact).astype(jnp.float64)
    return _Draws(np.asarray(x), np.asarray(_values(x, target)))


def _finite_check(target: Target, draws: _Draws) -> Check:
    """Check that no draw lies where the density is zero, infinite or NaN."""
    lost = ~(np.isfinite(draws.x).all(axis=1) & np.isfinite(draws.log_density))
    first = int(np.argmax(lost))
    return Check(
        name=f"the density of {target.name} is positive at its own draws",
        passed=not lost.any(),
        discrepancy=float(lost.sum()),
        words=""
        if not lost.any()
        else f"the log density of {target.name} is {draws.log_density[first]} at the draw "
        f"{_written(draws.x[first])}, as at {lost.sum()} of {len(lost)} draws: the sampler and "
        "the density do not belong together",
    )


def _written(x: np.ndarray) -> str:
    more = ", ..." if len(x) > 6 else ""
    return "(" + ", ".join(f"{number:.4g}" for number in x[:6]) + more + ")"


def _scale(x: np.ndarray) -> np.ndarray:
    """Return the normal-consistent interquartile range of each coordinate."""
    low, high = np.quantile(x, (0.25, 0.75), axis=0)
    # The interquartile range of a standard normal variable is 1.349.
    return np.where(high > low, (high - low) / 1.349, 1.0)


# ---------------------------------------------------------------- gradient


def _gradient_check(target: Target, draws: _Draws) -> Check:
    """Compare the gradient with central differences, coordinate by coordinate."""
    scale = jnp.asarray(_scale(draws.x))
    x = draws.x[:_NUM_GRADIENTS]
    gradient, coarse, fine = map(np.asarray, _slopes(x, target, scale))
    size = 1.0 + np.abs(fine)
    # At an edge or a kink two steps give different slopes, and neither is a derivative.
    with np.errstate(invalid="ignore"):
        settled = np.abs(coarse - fine) <= 0.1 * _GRADIENT_TOLERANCE * size
    error = np.where(settled, np.abs(gradient - fine) / size, 0.0)
    error = np.where(np.isfinite(gradient), error, np.inf)
    draw, place = np.unravel_index(int(np.argmax(error)), error.shape)
    passed = bool(error[draw, place] <= _GRADIENT_TOLERANCE)
    slopes = np.array([gradient[draw, place], fine[draw, place]]) / float(scale[place])
    words = ""
    if not passed:
        words = (
            f"at {_written(x[draw])}, the derivative of the log density of {target.name} along "
            f"x[{place}] is {slopes[0]:.4g} by differentiation and {slopes[1]:.4g} by finite "
            "differences"
        )
    elif settled.mean() < 0.5:
        words = (
            f"not checked: finite differences of {target.name} are too rough to compare with"
        )
    return Check(
        name=f"the gradient of {target.name}",
        passed=passed,
        discrepancy=float(error[draw, place]),
        words=words,
    )


# ---------------------------------------------------------------- evidence


def _evidence_check(target: Target, draws: _Draws, log_evidence: float) -> Check:
    """Compare a stated log evidence with an adaptive quadrature of the density."""
    name = f"the log evidence of {target.name}"
    dim = draws.x.shape[1]
    if dim > 2:
        words = f"not checked: {name}, as a quadrature needs at most 2 dimensions, here {dim}"
        return Check(name=name, passed=True, words=words)
    location, scale = np.median(draws.x, axis=0), _scale(draws.x)
    # Keeps the integrand within the range of a double.
    height = float(np.max(draws.log_density[:_NUM_GRADIENTS]))
    height = height if np.isfinite(height) else 0.0
    found = integrate.cubature(
        lambda t: np.asarray(_integrand(t, target, location, scale, height)),
        [-_REACH] * dim,
        [_REACH] * dim,
        rule="gk15",
        rtol=0.1 * _EVIDENCE_TOLERANCE,
        atol=0.0,
        max_subdivisions=2000,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        error = float(found.error / found.estimate)
        gap = abs(float(np.log(found.estimate)) + height - log_evidence)
    if not error <= 10 * _EVIDENCE_TOLERANCE:
        words = f"not checked: {name}, as its quadrature did not settle"
        return Check(name=name, passed=True, words=words)
    passed = bool(gap <= _EVIDENCE_TOLERANCE + 10 * error)
    integral = float(np.log(found.estimate)) + height
    words = "" if passed else f"{name} is {integral:.5g}, stated is {log_evidence:.5g}"
    return Check(name=name, passed=passed, discrepancy=gap, words=words)
