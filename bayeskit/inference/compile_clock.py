"""Seconds that JAX spends on tracing and compiling, apart from those it runs."""

from __future__ import annotations

import threading
import time
from typing import Any

import jax

__all__ = ["CompileClock"]

_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_running = threading.local()
_registered = False
_lock = threading.Lock()


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event in _EVENTS:
        for clock in getattr(_running, "clocks", ()):
            clock._record(event, duration_secs)


class CompileClock:
    """Context that measures compile time and everything else apart.

    Attributes
    ----------
    compile_s, run_s : float
        Wall-clock seconds.
    num_compiled : int
        Programs that were compiled or read from the compilation cache.
    """

    def __init__(self) -> None:
        self._start = self._last_end = time.monotonic()
        self.compile_s = 0.0
        self.run_s = 0.0
        self.num_compiled = 0

    def _record(self, event: str, duration: float) -> None:
        self.num_compiled += event == _EVENTS[2]
        # A trace inside another is reported on its own and within the outer one: add up
        # only what happened since the end of the last event.
        now = time.monotonic()
        self.compile_s += min(duration, now - self._last_end)
        self._last_end = now

    def __enter__(self) -> CompileClock:
        global _registered
        with _lock:
            if not _registered:
                jax.monitoring.register_event_duration_secs_listener(_listen)
                _registered = True
        if not hasattr(_running, "clocks"):
            _running.clocks = []
        _running.clocks.append(self)
        self._start = self._last_end = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        _running.clocks.remove(self)
        self.run_s = time.monotonic() - self._start - self.compile_s

    def timing(self) -> dict[str, float]:
        """Return ``compile_s`` and ``run_s``."""
        return {"compile_s": self.compile_s, "run_s": self.run_s}
