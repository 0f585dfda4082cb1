r"""Does a pair of chains move by one kernel each, and stay together? By enumeration.

From every pair (x, y) of states each of the two must move as it does alone: with
:math:`K(x, \cdot)` the law of the first chain from (x, x),

.. math:: P(x' \mid x, y) = K(x, x'), \qquad P(y' \mid x, y) = K(y, y'), \qquad \pi K = \pi,

and from (x, x) nothing but equal states may come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.law import COUPLED
from bayeskit.inference.transitions import Pair, Transition
from bayeskit.validation import exact
from bayeskit.validation.exact import Atoms
from bayeskit.validation.exact_checks import (
    TOLERANCE,
    checked_atoms,
    exact_findings,
    traced,
)
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.report import Check

__all__ = ["validate_coupling"]


def validate_coupling(block: Any, request: Request) -> Findings:
    """Check a coupled transition, or ``step(key, (x, y)) -> (x', y')``, from all pairs."""
    start = checked_atoms(request.start)
    step, name = _on_values(block), name_of(block)
    num = len(start.mass)
    i, j = np.divmod(np.arange(num * num), num)
    values = Pair(*(jax.tree.map(lambda leaf, k=k: leaf[k], start.state) for k in (i, j)))

    def moved(key, state):
        return state[0], state[1], *step(key, state[2])

    with jax.enable_x64(True):
        traced(moved, jax.tree.map(lambda x: x[0], (i, j, values)), name)
    law = exact.enumerate_paths(
        moved, Atoms((i, j, values), np.ones(num * num)), request.enumeration
    )
    before_first, before_second, first, second = law.state
    alone = before_first == before_second
    kernel = Atoms(
        (before_first[alone], jax.tree.map(lambda x: x[alone], first)), law.mass[alone]
    )

    def error_of(place: np.ndarray, other: np.ndarray, value: Any) -> float:
        """Compare one chain with the kernel, wherever the other one stands."""
        rows = np.tile(np.arange(len(kernel.mass)), num)
        expected = Atoms(
            (
                kernel.state[0][rows],
                np.repeat(np.arange(num), len(kernel.mass)),
                jax.tree.map(lambda x: x[rows], kernel.state[1]),
            ),
            kernel.mass[rows],
        )
        # Relative to the mass of one start, not of all of them.
        return num * num * exact.discrepancy((place, other, value), law.mass, expected)

    share = start.mass / start.mass.sum()
    after = Atoms(kernel.state[1], kernel.mass * share[kernel.state[0]])
    found = {
        "the first chain moves as it does alone": error_of(before_first, before_second, first),
        "the second chain moves as the first does": error_of(
            before_second, before_first, second
        ),
        "the kernel leaves the measure invariant": exact.discrepancy(
            after.state, after.mass, Atoms(start.state, share)
        ),
        "chains that have met stay together": _parted(first, second, alone, law.mass),
    }
    checks = [
        Check(
            name=claim,
            passed=error <= TOLERANCE,
            discrepancy=error,
            tolerance=TOLERANCE,
            words="" if error <= TOLERANCE else f"it is not true that {claim}",
        )
        for claim, error in found.items()
    ]
    words = [
        f"it is not true that {claim}: probabilities are off by up to {error:.2g}"
        for claim, error in found.items()
        if error > TOLERANCE
    ]
    return exact_findings(
        name, f"{COUPLED}: {COUPLED.statement}", checks, words, request.enumeration
    )


def _on_values(block: Any) -> Callable:
    """Return the step of a pair of values; a transition makes its states of them."""
    if not isinstance(block, Transition):
        return block

    def step(key, values):
        init_key, step_key = random.split(key)
        return block.value(block.step(step_key, block.init(init_key, values))[0])

    return step


def _parted(first: Any, second: Any, alone: np.ndarray, mass: np.ndarray) -> float:
    differs = np.zeros(len(mass), bool)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        differs |= np.any((np.asarray(a) != np.asarray(b)).reshape(len(mass), -1), axis=1)
    return float(np.max(mass * (differs & alone)))
