"""What a call costs: seconds to build its program, and seconds to run it."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = [
    "Program",
    "Timing",
    "build",
    "clock",
    "count_instructions",
    "looped",
    "time_in_turns",
]

# One measurement lasts at least this long, so that the clock's own cost does not count.
_SHORTEST = 1e-3
_FEWEST_REPEATS = 3


class Program(NamedTuple):
    """A compiled program and what it took to make.

    Parameters
    ----------
    call : callable
    trace_s, lower_s, compile_s : float
        CPU seconds.
    num_instructions : int
        Of the program before the compiler works on it; compile time follows it.
    """

    call: Callable
    trace_s: float
    lower_s: float
    compile_s: float
    num_instructions: int


def build(function: Callable, *arguments: Any) -> Program:
    """Trace, lower and compile a function, as for its first call in a fresh process."""
    # What was traced for others would be missing from the sum.
    jax.clear_caches()
    start = time.process_time()
    traced = jax.jit(function).trace(*arguments)
    after_trace = time.process_time()
    lowered = traced.lower()
    after_lower = time.process_time()
    call = lowered.compile()
    return Program(
        call=call,
        trace_s=after_trace - start,
        lower_s=after_lower - after_trace,
        compile_s=time.process_time() - after_lower,
        num_instructions=count_instructions(lowered),
    )


def count_instructions(lowered: Any) -> int:
    """Return the number of StableHLO instructions of a lowered function."""
    return len(
        re.findall(r"^\s*(?:%|stablehlo\.|return|func\.return)", lowered.as_text(), re.M)
    )


def looped(function: Callable, num_turns: int) -> Callable:
    """Return a function that calls another ``num_turns`` times within one program.

    On a GPU it takes longer to launch a kernel than to run it. Each turn has keys of its own,
    and its last argument is that of the turn before plus zero, a zero that depends on the
    result of that turn: nothing can be left out or done once for all.

    Parameters
    ----------
    function : callable, (*arguments) -> pytree of arrays
        Its last argument is an array of numbers.
    num_turns : int
    """

    def varied(number, zero, arguments):
        *first, last = (
            jax.random.fold_in(a, number) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
            for a in map(jnp.asarray, arguments)
        )
        is_key = jnp.issubdtype(last.dtype, jax.dtypes.prng_key)
        return *first, last if is_key else last + zero.astype(last.dtype)

    def run(*arguments):
        def turn(number, results):
            # No result is as small as that, which the compiler cannot know.
            first = jax.tree.leaves(results)[0].ravel()[0]
            zero = (first < -(2**30)).astype(jnp.int32)
            return function(*varied(number, zero, arguments))

        return lax.fori_loop(1, num_turns, turn, function(*arguments))

    return run


class Timing(NamedTuple):
    """Seconds of one call: the quickest and the median of the repeats."""

    quickest: float
    median: float
    repeats: int


def clock(platform: str) -> Callable[[], float]:
    """Return the clock that counts: of the processor, or of the wall for an accelerator."""
    return time.process_time if platform == "cpu" else time.perf_counter


def time_in_turns(
    calls: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    seconds: float,
    now: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Time calls that take turns, so that all of them meet the same load of the machine.

    Parameters
    ----------
    calls : mapping from names to functions without arguments
        Each has been called before.
    repeats : int
        How often each is timed.
    seconds : float
        A call that needs more in all is timed less often, but three times at least.
    now : callable
        The clock.
    """
    measured: dict[str, list[float]] = {name: [] for name in calls}
    inner = {name: _calls_in(_SHORTEST, call, now) for name, call in calls.items()}
    for turn in range(repeats):
        for name, call in calls.items():
            if turn >= _FEWEST_REPEATS and sum(measured[name]) * inner[name] > seconds:
                continue
            start = now()
            for _ in range(inner[name]):
                jax.block_until_ready(call())
            measured[name].append((now() - start) / inner[name])
    return {
        name: Timing(min(times), statistics.median(times), len(times))
        for name, times in measured.items()
    }


def _calls_in(seconds: float, call: Callable[[], Any], now: Callable[[], float]) -> int:
    number = 1
    while True:
        start = now()
        for _ in range(number):
            jax.block_until_ready(call())
        spent = now() - start
        if spent >= seconds:
            return number
        number = max(2 * number, int(number * seconds / max(spent, 1e-7)))
