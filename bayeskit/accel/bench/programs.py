"""How long whole programs take to build: traced, lowered and compiled, beside their budgets."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.bench.clock import build
from bayeskit.accel.bench.contender import same
from bayeskit.accel.bench.volatility import VolatilityStep

__all__ = ["Program", "affine_maps", "compose", "measure_programs", "programs"]

Row = dict[str, Any]

# Builds differ by a fifth from one to the next; the quickest counts.
_REPEATS = 3


@dataclass(frozen=True)
class Program:
    """One program of one package.

    Parameters
    ----------
    kernel : str
        What is computed; all programs of a name are compared.
    package, name : str
    length : int
        Number of time steps, or of draws.
    make : callable
        Returns a function and its arguments.
    budget_s : float, optional
        CPU seconds that ours may take to build. They are of another machine, so that they are
        shown and not checked.
    in_parts : bool
        The function is no single program: then its first call is timed, less its second.
    """

    kernel: str
    package: str
    name: str
    length: int
    make: Callable[[], tuple[Callable, tuple]]
    budget_s: float | None = None
    in_parts: bool = False


def measure_programs(
    programs: Sequence[Program], facts: Row, repeats: int = _REPEATS
) -> list[Row]:
    """Build the programs of one kernel and length, and return a row for each."""
    rows: list[Row] = []
    for program in programs:
        function, arguments = program.make()
        measured = _first_calls if program.in_parts else _builds
        rows.append(
            {
                "kernel": program.kernel,
                "package": program.package,
                "name": program.name,
                "length": program.length,
                **measured(function, arguments, repeats),
                "budget_s": program.budget_s,
                **facts,
            }
        )
    _add_ratios(rows)
    return rows


def _builds(function: Callable, arguments: tuple, repeats: int) -> Row:
    builds = [build(function, *arguments) for _ in range(repeats)]
    best = min(builds, key=lambda b: b.trace_s + b.lower_s + b.compile_s)
    return {
        "trace_s": round(best.trace_s, 4),
        "lower_s": round(best.lower_s, 4),
        "compile_s": round(best.compile_s, 4),
        "first_call_s": round(best.trace_s + best.lower_s + best.compile_s, 4),
        "num_instructions": best.num_instructions,
    }


def _first_calls(function: Callable, arguments: tuple, repeats: int) -> Row:
    # What is imported at the first of all calls is no part of building.
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        jax.clear_caches()
        spent = []
        for _ in range(2):
            start = time.process_time()
            jax.block_until_ready(function(*arguments))
            spent.append(time.process_time() - start)
        seconds.append(spent[0] - spent[1])
    return {"first_call_s": round(min(seconds), 4)}


def _add_ratios(rows: list[Row]) -> None:
    """Add to our rows the ratio of the seconds to those of the best peer."""
    peers = [row for row in rows if row["package"] != "bayeskit"]
    best = min(peers, key=lambda row: row["first_call_s"], default=None)
    for row in rows:
        if row["package"] == "bayeskit":
            row["best_peer"] = best and f"{best['package']} {best['name']}"
            if best is not None:
                ratio = row["first_call_s"] / max(best["first_call_s"], 1e-6)
                row["ratio_to_best_peer"] = round(ratio, 4)


def programs(dtype: Any, lengths: Sequence[int] = (100, 1000, 10_000)) -> list[list[Program]]:
    """Return the programs that need arrays only, those to be compared together."""
    filter_ = Program(
        "filter of 100 steps", "bayeskit", "systematic", 100, _filter(dtype), budget_s=0.8
    )
    return [[filter_], *(_scans(affine_maps(length, dtype)) for length in lengths)]


def _scans(elements: tuple[np.ndarray, np.ndarray]) -> list[Program]:
    scan, name = accel.blocked_associative_scan, "blocked_associative_scan"
    ways: list[tuple[str, str, Callable, float | None]] = [
        ("bayeskit", name, lambda e: scan(compose, e), 0.8),
        ("bayeskit", f"{name}, parallel", lambda e: scan(compose, e, block=16), 0.8),
        ("jax", "lax.associative_scan", _associative_scan, None),
    ]
    return [
        Program(
            "scan of 4x4 affine maps",
            package,
            name,
            len(elements[0]),
            functools.partial(same, function, (elements,)),
            budget_s,
        )
        for package, name, function, budget_s in ways
    ]


def affine_maps(num: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return contractions A_t x + b_t of four dimensions, as arrays over t."""
    rng = np.random.default_rng(0)
    matrices = 0.3 * rng.normal(size=(num, 4, 4))
    return matrices.astype(dtype), rng.normal(size=(num, 4)).astype(dtype)


def compose(first, then):
    """Return the map that applies ``first``, then ``then``; for one map or many."""
    (a, b), (c, d) = first, then
    return c @ a, jnp.einsum("...ij,...j->...i", c, b) + d


def _associative_scan(elements):
    return lax.associative_scan(compose, elements)


def _filter(dtype: Any) -> Callable[[], tuple[Callable, tuple]]:
    step = VolatilityStep()

    def run(key, state, log_weights):
        def advance(carry, key):
            state, log_weights, _ = step.ours(key, *carry)
            return (state, log_weights), accel.log_mean_exp(log_weights)

        return lax.scan(advance, (state, log_weights), jax.random.split(key, 100))

    def make():
        state, log_weights = step.start(10_000)
        return run, (accel.as_key(0), state.astype(dtype), log_weights.astype(dtype))

    return make
