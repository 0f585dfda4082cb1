r"""Whether the density of a target, its gradient, its constant and its sampler agree.

On a finite space all of it is checked exactly. Elsewhere the gradient is compared with finite
differences, the log evidence with a quadrature in one or two dimensions, and the sampler with
the density by a random walk, which is a right kernel: if it moves exact draws to another law,
they were no draws from that density.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

from bayeskit import accel
from bayeskit.errors import LawMismatch
from bayeskit.inference import random
from bayeskit.inference.kernels import RandomWalk
from bayeskit.inference.measure import Target
from bayeskit.validation import exact
from bayeskit.validation.battery import BatteryModel
from bayeskit.validation.exact import Atoms
from bayeskit.validation.exact_checks import checked_atoms
from bayeskit.validation.findings import Findings, Request
from bayeskit.validation.paired import statistical_level
from bayeskit.validation.report import Check, Power
from bayeskit.validation.statistical import exact_start

__all__ = ["validate_target"]

_LAW = "density: the sampler, the gradient and the evidence are those of the density"
# Relative: identities between finite sums of doubles.
_TOLERANCE = 1e-10
_NUM_DRAWS = 20_000
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
    if request.law is not None:
        raise LawMismatch("a target is held against its own samplers: leave law= out")
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


def _log_density(target: Target) -> Callable:
    density = target.density()
    return lambda x: density(x)


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
    if target.sample_exact is not None:
        law = Atoms(atoms.state, density / density.sum())
        checks.append(_sampler_check("sample_exact", target.sample_exact, law, request))
    if target.has_prior and target.sample_prior is not None:
        law = Atoms(atoms.state, np.exp(components[:, 0]))
        checks.append(_sampler_check("sample_prior", target.draw_prior, law, request))
    failed = [check for check in checks if not check.passed]
    largest = max(check.discrepancy or 0.0 for check in checks)
    return Findings(
        "fail" if failed else "pass",
        target.name,
        _LAW,
        tuple(checks),
        failed[0].words
        if failed
        else f"nothing found; the largest discrepancy is {largest:.1g}",
        Power(_TOLERANCE, 1.0, 0.0, (), len(checks), f"finds any error above {_TOLERANCE:g}"),
    )


def _exact_check(name: str, discrepancy: float, words: str) -> Check:
    # A NaN must not pass.
    passed = bool(discrepancy <= _TOLERANCE)
    words = "" if passed else words
    return Check(name=name, passed=passed, discrepancy=float(discrepancy), words=words)


def _sampler_check(name: str, sampler: Callable, law: Atoms, request: Request) -> Check:
    """Compare the law of a sampler with the density, by walking all its paths."""
    what = f"{name} draws from the density"
    nothing = Atoms(np.zeros((1, 1)), np.ones(1))
    try:
        drawn = exact.enumerate_paths(lambda key, _: sampler(key), nothing, request.enumeration)
    except TypeError as error:
        # A mistake that has nothing to do with the kind of key is raised here again.
        jax.eval_shape(sampler, accel.as_key(0))
        words = f"not checked: its draws cannot be enumerated ({str(error).splitlines()[0]})"
        return Check(name=what, passed=True, words=words)
    gap = exact.discrepancy(drawn.state, drawn.mass, law)
    words = f"the probability of a state under {name} differs from its density by {gap:.3g}"
    return _exact_check(what, gap, words)


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
    return _verdict(target, checks, walks, request.alpha)


def _verdict(target, checks, walks, alpha) -> Findings:
    """Put first what was found without chance, then what the random walk found."""
    failed = [check.words for check in checks if not check.passed and not check.model]
    for name, walk in walks.items():
        if walk.verdict == "fail":
            failed.append(
                f"the sampler and the density of {name} do not belong together: random-walk "
                f"Metropolis moves its draws to another law; {walk.worst}"
            )
    undecided = [walk.worst for walk in walks.values() if walk.verdict == "inconclusive"]
    quiet = [f"nothing found; the largest deviation: {walk.worst}" for walk in walks.values()]
    powers = [walk.power for walk in walks.values() if walk.power is not None]
    unchecked = [check.words for check in checks if check.words.startswith("not checked")]
    return Findings(
        "fail" if failed else "inconclusive" if undecided else "pass",
        target.name,
        _LAW,
        tuple(checks),
        (failed or undecided or quiet)[0],
        max(powers, key=lambda power: power.in_standard_deviations, default=None),
        alpha,
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
    x = jax.jit(jax.vmap(target.sample_exact))(keys).astype(jnp.float64)
    return _Draws(np.asarray(x), np.asarray(jax.jit(jax.vmap(_log_density(target)))(x)))


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
    density = _log_density(target)
    scale = jnp.asarray(_scale(draws.x))

    def at(x):
        def difference(step):
            moves = jnp.diag(step * scale)
            rise = jax.vmap(lambda move: density(x + move) - density(x - move))(moves)
            return rise / (2 * step)

        return scale * jax.grad(density)(x), difference(_STEP), difference(_STEP / 2)

    x = draws.x[:_NUM_GRADIENTS]
    gradient, coarse, fine = map(np.asarray, jax.jit(jax.vmap(at))(x))
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
    density = _log_density(target)
    location, scale = np.median(draws.x, axis=0), _scale(draws.x)
    # Keeps the integrand within the range of a double.
    height = float(np.max(jax.jit(jax.vmap(density))(draws.x[:_NUM_GRADIENTS])))
    height = height if np.isfinite(height) else 0.0

    @jax.jit
    @jax.vmap
    def integrand(t):
        x = location + scale * jnp.sinh(t)
        return jnp.exp(density(x) - height + jnp.sum(jnp.log(scale * jnp.cosh(t))))

    found = integrate.cubature(
        lambda t: np.asarray(integrand(t)),
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
