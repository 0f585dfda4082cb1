r"""Identities that hold at every point: involutions, bijections, and keys that are used once.

They are checked in double precision at a few hundred points. A map that satisfies an identity
does so to rounding, at any point; a mistake shows at almost every one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit import accel
from bayeskit.errors import KeyReuseError, LawMismatch, TraceLevelError
from bayeskit.inference.keys import EnumerationKey, Tape
from bayeskit.inference.law import BIJECTION, INVOLUTION, LawKind
from bayeskit.validation.exact import Atoms
from bayeskit.validation.findings import Findings, Request
from bayeskit.validation.report import Check, Power

__all__ = ["key_reuse_check", "largest_difference", "validate_bijector", "validate_involution"]

_NUM_POINTS = 256
# Relative; constants of a map that were made in single precision must not count as mistakes.
_TOLERANCE = 1e-6
# Rounding errors of a map that is computed in some hundred operations.
_ROUNDING = 1e3 * float(np.finfo(np.float64).eps)
# Points at which rounding alone may reach this are left out.
_LARGEST_ROUNDING = 1e-3


# ---------------------------------------------------------------- the two kinds of map


def validate_bijector(bijector: Any, request: Request) -> Findings:
    """Check a bijector at points u that ``request.start`` draws."""
    _require_law(BIJECTION, request, "a bijector")
    forward, inverse, support = bijector.forward, bijector.inverse, bijector.support
    with jax.enable_x64(True):
        u = _points(request, "a bijector", "u")
        checks = _structure_checks(forward, inverse, bijector.log_det, u, "u")
        if all(check.passed for check in checks):
            checks += _map_checks(forward, inverse, bijector.log_det, u, "u", support)
            checks.append(_range_check(forward, inverse, support, u))
    return _findings(bijector.name, BIJECTION, checks)


def validate_involution(involution: Any, request: Request) -> Findings:
    """Check an involution at points z that ``request.start`` draws."""
    _require_law(INVOLUTION, request, "an involution")
    phi = involution.phi
    log_det = involution.log_abs_det or (lambda z: jnp.zeros(()))
    with jax.enable_x64(True):
        z = _points(request, "an involution", "z")
        checks = _structure_checks(phi, phi, log_det, z, "z")
        notes: tuple[str, ...] = ()
        if all(check.passed for check in checks):
            checks += _map_checks(phi, phi, log_det, z, "z")
            if involution.log_density is not None:
                more, notes = _density_checks(phi, log_det, involution.log_density, z)
                checks += more
    return _findings(involution.name, INVOLUTION, checks, notes)


def _require_law(kind: LawKind, request: Request, what: str) -> None:
    if request.law not in (None, kind):
        raise LawMismatch(f"{what} states the law {kind}, not {request.law}: leave law= out")


def _points(request: Request, what: str, letter: str) -> Any:
    """Return points to look at, with a leading axis, in double precision."""
    start = request.start
    if isinstance(start, Atoms):
        points = start.state
    elif callable(start):
        keys = jax.random.split(accel.as_key(request.key), _NUM_POINTS)
        points = jax.vmap(start)(keys)
    else:
        raise TypeError(
            f"{what} needs start=, a function of a key that draws one point {letter} of the "
            "right shape, such as lambda key: random.normal(key, (2,)); "
            f"got {'nothing' if start is None else type(start).__name__}"
        )
    points = jax.tree.map(_in_double_precision, points)
    for place, leaf in jax.tree_util.tree_leaves_with_path(points):
        if not np.isfinite(np.asarray(leaf)).all():
            where = jax.tree_util.keystr(place) or letter
            raise ValueError(f"start drew a point that is not finite (in {where})")
    return points


def _in_double_precision(leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _findings(name, kind, checks, notes=()) -> Findings:
    failed = [check for check in checks if not check.passed]
    largest = max((check.discrepancy or 0.0 for check in checks), default=0.0)
    words = f"finds any relative error above {_TOLERANCE:g} that shows at one of the points"
    return Findings(
        "fail" if failed else "pass",
        name,
        f"{kind}: {kind.statement}",
        tuple(checks),
        failed[0].words if failed else f"nothing found; the largest error is {largest:.1g}",
        Power(_TOLERANCE, 1.0, 0.0, (), len(checks), words),
        notes=notes,
    )


# ---------------------------------------------------------------- shapes


def _structure_checks(forward, inverse, log_det, points, letter) -> list[Check]:
    """Check shapes and dtypes, by which all else would fail with an obscure message."""
    spec = jax.eval_shape(lambda p: jax.tree.map(lambda x: x[0], p), points)
    image = jax.eval_shape(forward, spec)
    back = jax.eval_shape(inverse, image)
    declared = jax.eval_shape(log_det, spec)
    there, here = _num_real(image), _num_real(spec)
    shape = getattr(declared, "shape", None)
    return [
        _stated(
            "the image has as many coordinates",
            there == here,
            f"a point of {here} real coordinates is mapped to {there}: a Jacobian needs as "
            "many. Leave out coordinates that the others determine, such as the last of a "
            "simplex",
        ),
        _stated(
            f"shapes and dtypes of {letter} come back",
            _specs(back) == _specs(spec),
            f"a point {_specs(spec)} comes back as {_specs(back)}",
        ),
        _stated(
            "the declared log determinant is one number",
            shape == (),
            f"the log determinant has shape {shape}, not (): sum over the coordinates",
        ),
    ]


def _stated(name: str, holds: bool, words: str) -> Check:
    return Check(name=name, passed=holds, words="" if holds else words)


def _specs(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree))


def _num_real(spec: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(spec) if _is_real(leaf))


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


# ---------------------------------------------------------------- identities of a map


class _Evaluated(NamedTuple):
    """What a map does at one point."""

    finite: jax.Array
    round_trip: jax.Array
    declared: jax.Array
    found: jax.Array
    rounding: jax.Array
    inside: jax.Array


def _real_coordinates(point: Any) -> tuple[jax.Array, Callable]:
    """Return the floating-point leaves as one vector, and the way back to the whole point."""
    leaves, structure = jax.tree.flatten(point)
    vector, unravel = ravel_pytree([leaf for leaf in leaves if _is_real(leaf)])

    def rebuild(changed):
        real = iter(unravel(changed))
        return jax.tree.unflatten(
            structure, [next(real) if _is_real(leaf) else leaf for leaf in leaves]
        )

    return vector, rebuild


def _evaluate(forward, inverse, log_det, support, point) -> _Evaluated:
    image = forward(point)
    vector, rebuild = _real_coordinates(point)
    mapped = _real_coordinates(image)[0]
    found, rounding = jnp.zeros(()), jnp.zeros(())
    if vector.size:
        jacobian = jax.jacfwd(lambda v: _real_coordinates(forward(rebuild(v)))[0])(vector)
        found = jnp.linalg.slogdet(jacobian)[1]
        rounding = _rounding_error(jacobian, vector, mapped)
    declared = log_det(point)
    return _Evaluated(
        finite=jnp.all(jnp.isfinite(mapped)) & jnp.isfinite(declared),
        round_trip=largest_difference(inverse(image), point),
        declared=declared,
        found=found,
        rounding=rounding,
        inside=jnp.asarray(True) if support is None else support(image),
    )


def _rounding_error(jacobian, point, image) -> jax.Array:
    """Return how far rounding may carry a round trip and a determinant, to first order.

    Entry by entry, so that coordinates of very different scale do no harm.
    """
    inverse = jnp.abs(jnp.linalg.inv(jacobian))
    jacobian, point, image = jnp.abs(jacobian), jnp.abs(point), jnp.abs(image)
    terms = (
        jnp.sum(inverse.T * jacobian),
        jnp.max(inverse @ image / (1.0 + point)),
        jnp.max(jacobian @ point / (1.0 + image)),
    )
    return jnp.nan_to_num(_ROUNDING * sum(terms), nan=jnp.inf, posinf=jnp.inf)


def _map_checks(forward, inverse, log_det, points, letter, support=None) -> list[Check]:
    def at(point):
        return _evaluate(forward, inverse, log_det, support, point)

    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(at))(points))
    num = len(seen.rounding)
    regular = seen.rounding <= _LARGEST_ROUNDING
    # A determinant of 0 and an overflow give NaN, which no check takes for a pass.
    with np.errstate(invalid="ignore"):
        error = np.abs(seen.declared - seen.found) / (1.0 + np.abs(seen.found)) - seen.rounding
        round_trip = seen.round_trip - seen.rounding
    there_and_back = "φ(φ(z))" if inverse is forward else "inverse(forward(u))"
    return [
        _at_worst(
            "images and determinants are finite",
            np.where(seen.finite, 0.0, np.inf),
            lambda i: (
                f"at {letter} = {_written(points, i)}, the image or the declared log "
                "determinant is not finite"
            ),
        ),
        _stated(
            "the Jacobian is not singular",
            regular.sum() >= num / 2,
            f"at {num - regular.sum()} of {num} points the Jacobian is singular to double "
            "precision: the map is no bijection there, or start= lies too far out, or it "
            "overwrites coordinates that are not in use, which it must carry along",
        ),
        _at_worst(
            f"{there_and_back} = {letter}",
            np.where(regular, round_trip, 0.0),
            lambda i: (
                f"at {letter} = {_written(points, i)}, {there_and_back} differs from "
                f"{letter} by {seen.round_trip[i]:.2g}, relatively"
            ),
        ),
        _at_worst(
            "the log determinant is that of the Jacobian",
            np.where(regular, error, 0.0),
            lambda i: (
                f"at {letter} = {_written(points, i)}, the declared log determinant is "
                f"{seen.declared[i]:.4g}, that of the Jacobian is {seen.found[i]:.4g}"
            ),
        ),
        _at_worst(
            "images lie in the declared support",
            np.where(regular & ~seen.inside, np.inf, 0.0),
            lambda i: f"{letter} = {_written(points, i)} is mapped out of the declared support",
        ),
    ]


def _at_worst(name: str, error: np.ndarray, words: Callable[[int], str]) -> Check:
    """Return the check that no error exceeds the tolerance, described where it is largest."""
    error = np.maximum(np.where(np.isnan(error), np.inf, error), 0.0)
    worst = int(np.argmax(error))
    passed = bool(error[worst] <= _TOLERANCE)
    return Check(
        name=name,
        passed=passed,
        discrepancy=float(error[worst]),
        words="" if passed else words(worst),
    )


def _written(points: Any, i: int) -> str:
    """Return a point in a few digits; a long one is cut short."""
    numbers = np.concatenate([np.ravel(np.asarray(x)[i]) for x in jax.tree.leaves(points)])
    more = ", ..." if len(numbers) > 6 else ""
    return "(" + ", ".join(f"{number:.4g}" for number in numbers[:6]) + more + ")"


# ---------------------------------------------------------------- ranges and densities


def _range_check(forward, inverse, support, points) -> Check:
    """Check forward(inverse(x)) = x also at points of the support that forward did not give.

    They lie beyond one image as seen from another, so that a declared support which is larger
    than the range of the map shows.
    """

    def at(x):
        point = inverse(x)
        inside = jnp.asarray(True) if support is None else support(x)
        vector, rebuild = _real_coordinates(point)
        jacobian = jax.jacfwd(lambda v: _real_coordinates(forward(rebuild(v)))[0])(vector)
        rounding = _rounding_error(jacobian, vector, _real_coordinates(x)[0])
        return largest_difference(forward(point), x), inside, rounding

    def images(points):
        x = jax.vmap(forward)(points)
        if support is None:
            return x
        neighbours = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), x)
        return jax.tree.map(lambda a, b: 1.5 * a - 0.5 * b, x, neighbours)

    x = jax.jit(images)(points)
    error, inside, rounding = (np.asarray(leaf) for leaf in jax.jit(jax.vmap(at))(x))
    # Outside of the range the inverse may give anything: an error that is NaN counts.
    counted = np.reshape(inside, -1) & ~((rounding > _LARGEST_ROUNDING) & np.isfinite(error))
    return _at_worst(
        "forward(inverse(x)) = x",
        np.where(counted, error - np.minimum(rounding, _LARGEST_ROUNDING), 0.0),
        lambda i: (
            f"at x = {_written(x, i)}, forward(inverse(x)) differs from x by "
            f"{error[i]:.2g}, relatively"
        ),
    )


def _density_checks(phi, log_det, log_density, points) -> tuple[list[Check], tuple[str, ...]]:
    def at(z):
        there = phi(z)
        here, mapped, back = log_density(z), log_density(there), log_density(phi(there))
        log_r = mapped - here + log_det(z)
        log_r_back = back - mapped + log_det(there)
        return here, mapped, log_r + log_r_back

    here, mapped, total = (np.asarray(x) for x in jax.jit(jax.vmap(at))(points))
    usable = np.isfinite(here) & np.isfinite(mapped)
    with np.errstate(invalid="ignore"):
        error = np.abs(total) / (1.0 + np.abs(here) + np.abs(mapped))
    checks = [
        _at_worst(
            "start lies where the density is positive",
            np.where(np.isfinite(here), 0.0, np.inf),
            lambda i: (
                f"start drew z = {_written(points, i)}, where the log density is {here[i]}"
            ),
        ),
        _at_worst(
            "the density of an image is no NaN and no infinity",
            np.where(np.isnan(mapped) | (mapped == np.inf), np.inf, 0.0),
            lambda i: f"at z = {_written(points, i)}, the log density of φ(z) is {mapped[i]}",
        ),
        _at_worst(
            "r(φ(z)) r(z) = 1",
            np.where(usable, error, 0.0),
            lambda i: (
                f"at z = {_written(points, i)}, r(φ(z)) r(z) is "
                f"exp({total[i]:.4g}) instead of 1"
            ),
        ),
    ]
    num_lost = int(np.sum(mapped == -np.inf))
    note = (
        f"{num_lost} of {len(mapped)} points are mapped to where the density is zero; such "
        "moves must be rejected"
    )
    return checks, (note,) if num_lost else ()


# ---------------------------------------------------------------- keys


def largest_difference(one: Any, other: Any) -> jax.Array:
    """Return the largest relative difference of two states; equal NaN or infinities are 0.

    Whole numbers, truth values and keys are equal or differ by 1.
    """

    def leaf(a, b):
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.max((a != b).astype(float), initial=0.0)
        same = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
        difference = jnp.abs(a - b) / (1.0 + jnp.abs(b))
        difference = jnp.where(jnp.isnan(difference), jnp.inf, difference)
        return jnp.max(jnp.where(same, 0.0, difference), initial=0.0)

    leaves = jax.tree.map(lambda a, b: leaf(jnp.asarray(a), jnp.asarray(b)), one, other)
    return functools.reduce(jnp.maximum, jax.tree.leaves(leaves), jnp.zeros(()))


def key_reuse_check(function: Callable, *specs: Any, strict: bool = True) -> Check:
    """Check that a function of a key uses each key once, without running it.

    The function is traced with a key that follows every split and every draw of
    :mod:`bayeskit.inference.random` and refuses to be used twice. Enumeration does the same
    for finite draws; here continuous draws are allowed as well.

    Parameters
    ----------
    function : callable (key, *args) -> any
    *specs : pytrees of arrays or jax.ShapeDtypeStruct
        The other arguments, by shape and dtype.
    strict : bool
        Whether a draw inside a raw ``jit``, ``vmap``, ``scan`` or ``cond`` fails. Some of them
        are right, and which cannot be told from here; otherwise they count as not checked.

    Returns
    -------
    Check
        Failed if a key is used twice, or if one draw inside a raw transformation might stand
        for many. What draws with ``jax.random`` cannot be followed:
        then the check passes, and its words say what was not checked.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation.pointwise import key_reuse_check
    >>> def twice(key, x):
    ...     return x + random.normal(key) * random.uniform(key)
    >>> key_reuse_check(twice, jnp.zeros(3)).passed
    False
    >>> def once(key, x):
    ...     first, second = random.split(key)
    ...     return x + random.normal(first) * random.uniform(second)
    >>> key_reuse_check(once, jnp.zeros(3)).passed
    True
    """
    name = "each key is used once"
    tape = Tape(keys_only=True)
    try:
        jax.eval_shape(lambda *args: function(EnumerationKey(tape), *args), *specs)
    except KeyReuseError as error:
        return Check(name=name, passed=False, words=str(error))
    except TraceLevelError as error:
        words = str(error) if strict else f"not checked: {error}"
        return Check(name=name, passed=not strict, words=words)
    except Exception as error:
        # A mistake that has nothing to do with the kind of key is raised here again.
        jax.eval_shape(function, accel.as_key(0), *specs)
        reason = str(error).splitlines()[0]
        words = f"not checked: draws outside of bayeskit.inference.random ({reason})"
        return Check(name=name, passed=True, words=words)
    unseen = "; ".join(dict.fromkeys(tape.unseen))
    return Check(name=name, passed=True, words=f"not checked: {unseen}" if unseen else "")
