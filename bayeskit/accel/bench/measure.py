"""Measure a case: all contenders in turns, with the errors of their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from bayeskit.accel.bench.cases import Case
from bayeskit.accel.bench.clock import Program, Timing, build, clock, looped, time_in_turns
from bayeskit.accel.bench.contender import Contender
from bayeskit.accel.bench.machine import cache_that_holds, describe, memory_copy_ns

__all__ = ["Bench"]

Row = dict[str, Any]

# What a turn of a loop on an accelerator needs to outlast the launch of the loop.
_TURNS = 50


@dataclass
class Bench:
    """Measures cases, and keeps the programs that several of them share.

    Parameters
    ----------
    dtype : float dtype
    repeats : int
        How often each call is timed.
    seconds : float
        A call that needs more in all is timed less often, but three times at least.
    in_loop : bool, optional
        Time several calls inside one program, and a single call beside. Default: where the
        processor does not compute itself.
    """

    dtype: Any = np.float32
    repeats: int = 10
    seconds: float = 1.0
    in_loop: bool | None = None
    _programs: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        with self._precision():
            self.facts = describe(self.dtype)
            self.on_cpu = self.facts["platform"] == "cpu"
            if self.in_loop is None:
                self.in_loop = not self.on_cpu
            self.facts["mode"] = "loop" if self.in_loop else "single"
            self.facts["launch_us"] = self._launch_us()
            # Of the host; on an accelerator a copy of the same size says it all.
            self.memory_copy_ns = memory_copy_ns(self.dtype) if self.on_cpu else None

    def _precision(self):
        return jax.enable_x64(np.dtype(self.dtype) == np.float64)

    def _launch_us(self) -> float:
        """Return the microseconds of a call that does next to nothing."""
        one = jax.device_put(np.ones(1, self.dtype))
        program = build(lambda x: x + 1, one)
        now = clock(self.facts["platform"])
        timing = time_in_turns({"": lambda: program.call(one)}, repeats=7, seconds=1, now=now)
        return _short(timing[""].quickest * 1e6)

    def measure(self, case: Case) -> list[Row]:
        """Return a row for each contender, ours first, after one for the copy."""
        with self._precision():
            return self._measured(case)

    def _measured(self, case: Case) -> list[Row]:
        arguments = case.arguments()
        calls: dict[str, Callable] = {}
        found: dict[str, Row] = {}
        copy = "numpy copyto" if self.on_cpu else "jax copy"
        calls[copy] = self._copy(case)
        for contender in case.contenders:
            name = f"{contender.package} {contender.name}"
            call, program = self._call(case, contender, arguments)
            if program is not None:
                found[name] = {
                    "trace_s": round(program.trace_s, 4),
                    "lower_s": round(program.lower_s, 4),
                    "compile_s": round(program.compile_s, 4),
                    "num_instructions": program.num_instructions,
                }
            found.setdefault(name, {}).update(case.judge(_as_numpy(call()), arguments))
            calls[name] = call
            if self.in_loop and contender.is_jax:
                calls[f"{name} loop"] = self._loop(case, contender, arguments)
        times = time_in_turns(
            calls,
            repeats=self.repeats,
            seconds=self.seconds,
            now=clock(self.facts["platform"]),
        )
        return self._rows(case, copy, found, times)

    # ---------------------------------------------------------------- calls

    def _call(
        self, case: Case, contender: Contender, arguments: tuple
    ) -> tuple[Callable, Program | None]:
        if not contender.is_jax:
            given = contender.prepare(*arguments)
            return lambda: contender.function(*given), None
        given = jax.device_put(contender.prepare(*arguments))
        program = self._program(case, contender, contender.function, given, "single")
        return lambda: program.call(*given), program

    def _loop(self, case: Case, contender: Contender, arguments: tuple) -> Callable:
        given = jax.device_put(contender.prepare(*arguments))
        function = looped(contender.function, _TURNS)
        program = self._program(case, contender, function, given, "loop")
        return lambda: program.call(*given)

    def _program(self, case, contender, function, given, how: str) -> Program:
        # Weights of another regime are other data for the same program, keys of another
        # implementation are not.
        shapes = tuple((a.shape, str(a.dtype)) for a in given)
        kind = (case.kernel, case.num_particles, case.batch, case.dim)
        name = (*kind, contender.package, contender.name, how, shapes)
        if name not in self._programs:
            self._programs[name] = build(function, *given)
        return self._programs[name]

    def _copy(self, case: Case) -> Callable:
        num = case.num_particles * case.batch
        source = np.ones(num, self.dtype)
        if self.on_cpu:
            target = np.ones_like(source)
            return lambda: np.copyto(target, source)
        name = ("copy", num)
        given = jax.device_put(source)
        if name not in self._programs:
            self._programs[name] = build(looped(lambda x: x + 0, _TURNS), given)
        program = self._programs[name]
        return lambda: program.call(given)

    # ---------------------------------------------------------------- rows

    def _rows(self, case: Case, copy: str, found: dict, times: dict[str, Timing]) -> list[Row]:
        num = case.num_particles * case.batch
        loops = {n: t for n, t in times.items() if n.endswith(" loop")}
        seconds = {n: t.quickest for n, t in times.items() if n not in loops}
        # Where there are loops, they are what counts.
        for name, timing in loops.items():
            seconds[name.removesuffix(" loop")] = timing.quickest / _TURNS
        if not self.on_cpu:
            seconds[copy] /= _TURNS
        is_peer = {f"{c.package} {c.name}": c.is_peer for c in case.contenders}
        peers = [name for name, of_others in is_peer.items() if of_others]
        best = min(peers, key=lambda name: seconds[name], default=None)
        rows = []
        for contender in case.contenders:
            name = f"{contender.package} {contender.name}"
            single = times[name]
            row = {
                "kernel": case.kernel,
                "package": contender.package,
                "name": contender.name,
                "num_particles": case.num_particles,
                "batch": case.batch,
                "dim": case.dim,
                "regime": case.regime,
                "ns_per_particle": _short(seconds[name] / num * 1e9),
                "ns_single_call": _short(single.quickest / num * 1e9),
                "ns_median": _short(single.median / num * 1e9),
                "repeats": single.repeats,
                "ratio_to_copy": _short(seconds[name] / seconds[copy]),
                "copy_ns": _short(seconds[copy] / num * 1e9),
                "copy_in": self._where_copied(num),
                **found[name],
                **self.facts,
            }
            if self.memory_copy_ns is not None:
                in_memory = self.memory_copy_ns * num * 1e-9
                row["ratio_to_memory_copy"] = _short(seconds[name] / in_memory)
            if not contender.is_peer:
                row["best_peer"] = best
                if best is not None:
                    row["ratio_to_best_peer"] = _short(seconds[name] / seconds[best])
                    row["best_peer_wrong"] = found[best]["wrong"]
            if contender.dtype is not None:
                row["dtype"] = contender.dtype
            row["error"] = float(f"{row['error']:.6g}")
            rows.append(row)
        return rows

    def _where_copied(self, num: int) -> str:
        num_bytes = 2 * num * np.dtype(self.dtype).itemsize
        return cache_that_holds(num_bytes) if self.on_cpu else "memory"


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _as_numpy(output: Any) -> Any:
    """Return arrays of any package as those of NumPy; wait for them, too."""
    if isinstance(output, tuple):
        return tuple(_as_numpy(part) for part in output)
    for bring in ("get", "cpu"):  # CuPy's and torch's
        if hasattr(output, bring):
            output = getattr(output, bring)()
    return np.asarray(output)
