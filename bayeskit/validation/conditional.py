r"""Conditional resampling against Bayes' rule, by enumeration.

A conditional particle filter keeps one trajectory alive: at each time the slot k must hold the
given ancestor b, and the other slots must be drawn *given that*. The right law is that of the
unconditional scheme with its slots in random order,

.. math:: P(A = a \mid A_k = b) = \frac{P(A = a)\, 1\{a_k = b\}}{P(A_k = b)} .

For independent draws this changes nothing in the other slots. For every other scheme it does:
writing b over the slot k of a systematic draw is a mistake.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks import draw_ancestors
from bayeskit.inference.law import CONDITIONAL_RESAMPLING
from bayeskit.validation import exact
from bayeskit.validation.exact import Atoms, Enumeration
from bayeskit.validation.exact_checks import TOLERANCE, exact_findings, traced
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.report import Check

__all__ = ["validate_conditional_scheme"]

# Uneven weights, in no order, with a zero at either end.
_CASES: tuple[np.ndarray, ...] = (
    np.array([[0.3, 0.7], [0.55, 0.45]]),
    np.array([[0.5, 0.3, 0.2], [0.0, 0.35, 0.65], [0.15, 0.8, 0.05]]),
    np.array([[0.05, 0.15, 0.8, 0.0], [0.41, 0.09, 0.33, 0.17]]),
)


def validate_conditional_scheme(scheme: Any, request: Request) -> Findings:
    """Check ``ancestors(key, log_weights, num, slot, ancestor)`` against Bayes' rule."""
    unconditional, other = _unconditional(request.expected)
    name = name_of(scheme)
    checks, words = [], []
    for table in _CASES:
        more, found = _checks(scheme, unconditional, table, request.enumeration, name)
        checks += more
        words += found
    law = f"{CONDITIONAL_RESAMPLING}: {CONDITIONAL_RESAMPLING.statement}, for {other}"
    return exact_findings(name, law, checks, words, request.enumeration)


def _unconditional(scheme: Any) -> tuple[Callable, str]:
    if isinstance(scheme, str) and scheme in accel.SCHEMES:
        return functools.partial(_by_name, scheme=scheme), f"the scheme {scheme!r}"
    if callable(scheme):
        return scheme, name_of(scheme)
    raise TypeError(
        "a conditional scheme needs expected=, the scheme that it is a condition of: one of "
        f"{sorted(accel.SCHEMES)} or a function ancestors(key, log_weights, num); got "
        f"{scheme!r}"
    )


def _by_name(key, log_weights, num, *, scheme):
    return draw_ancestors(key, log_weights, scheme, num)


def _conditioned(
    unconditional: Callable, table: np.ndarray, enumeration: Enumeration
) -> tuple[Atoms, Atoms]:
    """Return what to condition on, each once, and the law of the ancestors given that.

    States are (case, slot, ancestor) and, in the law, the vector of ancestors.
    """
    num = table.shape[1]

    def shuffled(key, state):
        case, log_weights = state
        draw_key, order_key = random.split(key)
        index = unconditional(draw_key, log_weights, num)
        return case, index[random.permutation(order_key, num)]

    cases = np.arange(len(table))
    with jax.enable_x64(True):
        traced(shuffled, (cases[0], _log(table[0])), "expected")
    law = exact.enumerate_paths(
        shuffled, Atoms((cases, _log(table)), np.ones(len(table))), enumeration
    )
    case, ancestors = law.state
    conditions, pieces = [], []
    for condition in np.ndindex(len(table), num, num):
        this_case, slot, ancestor = condition
        chosen = (case == this_case) & (ancestors[:, slot] == ancestor)
        mass = law.mass[chosen]
        if not mass.sum() > 0:
            continue
        conditions.append(condition)
        repeated = np.tile(condition, (len(mass), 1))
        pieces.append(Atoms((repeated, ancestors[chosen]), mass / mass.sum()))
    given = Atoms(np.array(conditions, np.int32), np.ones(len(conditions)))
    states = tuple(
        np.concatenate(leaves) for leaves in zip(*(p.state for p in pieces), strict=True)
    )
    return given, Atoms(states, np.concatenate([p.mass for p in pieces]))


def _log(table: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(table)


def _checks(scheme, unconditional, table, enumeration, name):
    """Check all weights of one length, slots and ancestors, as one compiled program."""
    num = table.shape[1]
    log_weights = _log(table)

    def drawn(key, state):
        condition, weights = state
        return condition, scheme(key, weights, num, condition[1], condition[2])

    with jax.enable_x64(True):
        state = (np.zeros(3, np.int32), log_weights[0])
        _, index = traced(drawn, state, name)
        shape, dtype = getattr(index, "shape", None), getattr(index, "dtype", type(index))
        if shape != (num,) or not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(
                f"{name} must return {num} whole numbers, the ancestors, for num={num}; got "
                f"{dtype} of shape {shape}"
            )
    given, wanted = _conditioned(unconditional, table, enumeration)
    start = Atoms((given.state, log_weights[given.state[:, 0]]), given.mass)
    found = exact.enumerate_paths(drawn, start, enumeration)

    condition, ancestors = found.state
    free = ancestors[np.arange(len(ancestors)), condition[:, 1]] != condition[:, 2]
    lost = float(found.mass[free].sum()) / len(given.mass)
    label = f"{num} particles"
    checks = [
        _check(
            "the slot holds its ancestor",
            lost,
            f"the slot does not hold its ancestor with probability {lost:.3g} ({label})",
            label,
        )
    ]
    counts_gap, text = _gap(found, wanted, table, lambda index: np.sort(index, axis=1))
    text += ", in any order"
    checks.append(_check("the numbers of offspring", counts_gap, text, label))
    gap, text = _gap(found, wanted, table, lambda index: index)
    if counts_gap <= TOLERANCE:
        text += ": the numbers of offspring are right, so put the other slots in random order"
    checks.append(_check("the ancestors, slot by slot", gap, text, label))
    return checks, [check.words for check in checks if not check.passed]


def _gap(found: Atoms, wanted: Atoms, table: np.ndarray, seen: Callable) -> tuple[float, str]:
    """Return the largest difference of two conditional probabilities, and where it is."""
    rows = np.concatenate(
        [np.concatenate([law.state[0], seen(law.state[1])], axis=1) for law in (found, wanted)]
    )
    places, group = np.unique(rows, axis=0, return_inverse=True)
    group = group.ravel()
    num_found = len(found.mass)
    here = np.bincount(group[:num_found], found.mass, minlength=len(places))
    there = np.bincount(group[num_found:], wanted.mass, minlength=len(places))
    worst = int(np.argmax(np.abs(here - there)))
    case, slot, ancestor, *index = places[worst].tolist()
    words = (
        f"with weights {table[case].tolist()}, given ancestor {ancestor} in slot {slot}, the "
        f"probability of the ancestors {index} is {here[worst]:.4g} instead of "
        f"{there[worst]:.4g}"
    )
    return float(np.abs(here - there)[worst]), words


def _check(name: str, error: float, words: str, label: str) -> Check:
    passed = error <= TOLERANCE
    return Check(
        name=name,
        passed=passed,
        discrepancy=error,
        words="" if passed else words,
        model=label,
    )
