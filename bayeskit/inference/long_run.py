"""Runs that take long: checkpoints, Ctrl-C, time limits, and pieces that end in time.

An engine calls a compiled program piece by piece from a loop on the host. Between two pieces it
tells its :class:`LongRun` where it stands. Nothing here draws a number or changes one.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import container
from bayeskit.accel.sharding import agreed, current_mesh
from bayeskit.errors import CheckpointMismatchError, InterruptedRunWarning, UnfinishedRunError
from bayeskit.inference.checkpoint import (
    CheckpointFile,
    array_fingerprint,
    code_fingerprint,
    plain_text,
)
from bayeskit.inference.settings import check_kinds

__all__ = ["LEAST_DRAWS", "LongRun", "LongRunSettings", "identity_of"]

# Fewer draws of each chain say nothing, not even how little they say.
LEAST_DRAWS = 10
# Writing takes at most a hundredth of the time: after a slow one the next waits.
_MOST_SHARE = 0.01
# A piece lasts so long at most, where one iteration does not: Ctrl-C waits for its end.
_PIECE_SECONDS = 2.0
_FIRST_PIECE = 25
_ASIDE = ("progress", "checkpoint", "checkpoint_every", "max_seconds")


@dataclass(frozen=True, kw_only=True)
class LongRunSettings:
    """What every engine with a loop takes for runs that take long.

    Parameters
    ----------
    checkpoint : str or path-like, optional
        File in which the state of the run is kept. The same call again goes on from it, to the
        same bits; after the end it returns the same result at once. The file stays until it is
        deleted.
    checkpoint_every : float
        Seconds between two checkpoints. Longer, if writing would take more than a hundredth of
        the time.
    max_seconds : float, optional
        Time after which the run stops at the end of a piece, as after Ctrl-C.

    Raises
    ------
    TypeError, ValueError
        For settings that make no sense.

    Examples
    --------
    Every engine with a loop has them. They change no number, and engines that differ in them
    alone are equal:

    >>> import bayeskit as bk
    >>> bk.SMC(checkpoint="fit.ckpt", max_seconds=3600) == bk.SMC()
    True
    >>> bk.SMC(max_seconds=-1)
    Traceback (most recent call last):
        ...
    ValueError: max_seconds must be positive, got -1
    """

    # Not compared: engines that differ in these alone share their compiled programs.
    checkpoint: str | os.PathLike[str] | None = field(default=None, compare=False, repr=False)
    checkpoint_every: float = field(default=60.0, compare=False, repr=False)
    max_seconds: float | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        check_kinds(self)
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | os.PathLike):
            raise TypeError(f"checkpoint must be the path of a file, got {self.checkpoint!r}")
        if not self.checkpoint_every >= 0:
            raise ValueError(
                f"checkpoint_every must be a number of seconds >= 0, got "
                f"{self.checkpoint_every!r}"
            )
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be positive, got {self.max_seconds!r}")


def identity_of(
    engine: Any, key: Any, data: Any, code: Mapping[str, tuple], **more: Any
) -> dict[str, str]:
    """Return the fingerprint of a run: what must be the same for its checkpoint to be used.

    Parameters
    ----------
    engine : dataclass
        Its settings, but for progress and those of long runs.
    key : JAX key
    data : pytree of arrays
    code : mapping from a name to (function, *arguments)
        What the model computes, traced.
    **more : pytrees of arrays or None
        Other arguments of the call.
    """
    found = {"engine": type(engine).__name__}
    for each in fields(engine):
        if each.name not in _ASIDE:
            found[each.name] = plain_text(repr(getattr(engine, each.name)))
    found["precision"] = "float64" if jax.config.jax_enable_x64 else "float32"  # type: ignore[attr-defined]
    for name, values in {"data": data, **more}.items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
            found[name + jax.tree_util.keystr(path)] = array_fingerprint(leaf)
    found["key"] = array_fingerprint(key)
    for name, (function, *arguments) in code.items():
        found[name] = code_fingerprint(function, *arguments)
    return found


class LongRun:
    """The loop of one run, as a context: what ends it early, and where it is kept.

    Parameters
    ----------
    engine : LongRunSettings
    identity : callable () -> dict of str
        Makes the fingerprint, asked for only if there is a checkpoint.

    Attributes
    ----------
    stopped : str
        Why the run stops early: ``"Ctrl-C"``, ``"the time limit"``, ``"SIGTERM"``, or empty.

    Notes
    -----
    In the main thread the first Ctrl-C waits for the end of a piece, the second ends the run at
    once. Handlers of the caller's own for SIGINT are left alone. With a checkpoint,
    SIGTERM waits for the end of a piece, and is sent again after the checkpoint was written.

    Examples
    --------
    A loop of one's own, here one that adds up numbers:

    >>> import numpy as np
    >>> from bayeskit.inference import LongRun, LongRunSettings
    >>> def total_of(settings):
    ...     total, i = np.zeros(()), np.zeros((), int)
    ...     with LongRun(settings, lambda: {"sum": "of squares"}) as run:
    ...         state = lambda: {"total": total, "i": i}
    ...         if saved := run.resumed("sum", state):
    ...             total, i = saved["total"], saved["i"]
    ...         while i < 1000 and not run.stopped:
    ...             total, i = total + i**2, i + 1
    ...             run.reached("sum", state)
    ...     return float(total), run.stopped
    >>> total_of(LongRunSettings())
    (332833500.0, '')
    >>> total_of(LongRunSettings(max_seconds=1e-9))
    (0.0, 'the time limit')
    """

    def __init__(self, engine: LongRunSettings, identity: Callable[[], Mapping[str, str]]):
        self._engine, self._identity = engine, identity
        self._title = type(engine).__name__
        self._file: CheckpointFile | None = None
        self._saved: dict[str, np.ndarray] = {}
        self._parts: dict[str, Callable[[], Any]] = {}
        self._is_written = True
        self._handlers: dict[int, Any] = {}
        self._signal: int | None = None
        self._pace: float | None = None
        self._size = 0
        self._deadline = self._next_write = math.inf
        self.stopped = ""

    def __enter__(self) -> LongRun:
        now = time.monotonic()
        self._deadline = now + (self._engine.max_seconds or math.inf)
        self._next_write = now + self._engine.checkpoint_every
        if self._engine.checkpoint is not None:
            _refuse_processes()
            self._file = CheckpointFile(
                self._engine.checkpoint, self._identity(), f"{self._title} run"
            )
            self._file.__enter__()
            try:
                self._saved = self._file.read() or {}
            except BaseException:
                self._file.__exit__()
                raise
        self._catch_signals()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            if self._file is not None:
                self._file.__exit__()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        if self._signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    # ------------------------------------------------------------ for the loop of an engine

    def resumed(self, part: str, like: Callable[[], Any]) -> Any | None:
        """Return the state that the checkpoint has of a part of the run, or None.

        Parameters
        ----------
        part : str
        like : callable () -> pytree of arrays
            The structure of the state, with the dtypes of its arrays.
        """
        own = {name: v for name, v in self._saved.items() if name.partition("/")[0] == part}
        if not own:
            return None
        state = _unpacked(part, own, like())
        self._parts[part] = lambda: state
        return state

    def piece(self, left: int, most: int) -> int:
        """Return how many iterations to make in the next call of the program."""
        size = _FIRST_PIECE
        if self._pace is not None:
            (pace,) = agreed(self._pace)
            size = int(_PIECE_SECONDS / max(pace, _PIECE_SECONDS / most))
        self._size = max(1, min(left, most, size))
        self._began = time.monotonic()
        return self._size

    def reached(self, part: str, state: Callable[[], Any]) -> bool:
        """Note how far a part has come, keep it where it is time to, and say whether to stop.

        Parameters
        ----------
        part : str
        state : callable () -> pytree of arrays
            Called when it is written. Arrays must not be changed in place afterwards.
        """
        now = time.monotonic()
        if self._size:
            self._pace, self._size = (now - self._began) / self._size, 0
        self._parts[part], self._is_written = state, False
        number, is_over = agreed(self._signal or 0, now >= self._deadline)
        if number:
            self.stopped = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        elif is_over:
            self.stopped = "the time limit"
        if self.stopped or now >= self._next_write:
            self._write()
        return bool(self.stopped)

    def warn_partial(self, done: str) -> None:
        """Warn that the result is only a part, and say how to go on.

        Parameters
        ----------
        done : str
            Such as ``"300 of 1000 draws"``.
        """
        warnings.warn(
            f"{self._title} was stopped by {self.stopped} after {done}. The result is made of "
            f"these. {self._how_to_go_on()}",
            InterruptedRunWarning,
            stacklevel=4,
        )

    def refuse_partial(self, done: str, why: str) -> None:
        """Raise because what there is makes no result, and say how to go on.

        Parameters
        ----------
        done : str
            Where the run stands.
        why : str
            Why that is no result.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C.
        UnfinishedRunError
            After the time limit.
        """
        text = (
            f"{self._title} was stopped by {self.stopped} {done}. {why}. {self._how_to_go_on()}"
        )
        raise (KeyboardInterrupt if self.stopped == "Ctrl-C" else UnfinishedRunError)(text)

    def _how_to_go_on(self) -> str:
        if self._file is None:
            return "With checkpoint=path a run can be continued"
        if not self._is_written:
            return f"The checkpoint {self._file.path} could not be written"
        return f"The same call goes on from {self._file.path}"

    # ------------------------------------------------------------ file and signals

    def _write(self) -> None:
        """Write the newest state of all parts, and plan the next time."""
        if self._file is None or self._is_written:
            return
        began = time.monotonic()
        arrays: dict[str, np.ndarray] = {}
        for part, state in self._parts.items():
            arrays |= _packed(part, state())
        self._is_written = self._file.write(arrays)
        now = time.monotonic()
        wait = max(self._engine.checkpoint_every, (now - began) / _MOST_SHARE)
        # Zero asks for one at every piece, whatever it costs.
        self._next_write = now + (wait if self._engine.checkpoint_every > 0 else 0.0)

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_signal)
        if self._file is None:
            # Whoever ends the process has nothing to wait for.
            return
        own = signal.getsignal(signal.SIGTERM)
        # None: installed by C code, and could not be put back.
        if own is not None and own is not signal.SIG_IGN:
            with contextlib.suppress(OSError, ValueError):
                self._handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number


def _refuse_processes() -> None:
    """Refuse a checkpoint whose particles lie in several processes."""
    if current_mesh() is not None and jax.process_count() > 1:
        raise ValueError(
            f"checkpoint is for runs of one process, and {jax.process_count()} share the "
            "particles of this one: leave it out, or run on the devices of one process"
        )


def _packed(part: str, state: Any) -> dict[str, np.ndarray]:
    """Return the leaves of a state as plain arrays, named by their places."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        f"{part}/{jax.tree_util.keystr(path)}": np.asarray(
            jax.random.key_data(leaf) if _is_key(leaf) else leaf
        )
        for path, leaf in leaves
    }


def _unpacked(part: str, arrays: dict[str, np.ndarray], like: Any) -> Any:
    """Return the state that was packed, in the structure of another."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    wanted = {f"{part}/{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    if wanted.keys() != arrays.keys():
        raise CheckpointMismatchError(
            f"the checkpoint has the arrays {sorted(arrays)}, expected {sorted(wanted)}: it is "
            "of another version of bayeskit. Delete it to start anew"
        )
    found = []
    for name, leaf in wanted.items():
        values: Any = arrays[name]
        if _is_key(leaf):
            with container.unpacking("checkpoint"):
                key = jax.random.wrap_key_data(values, impl=jax.random.key_impl(leaf))
            found.append(key)
            continue
        # How many rows there are so far is the file's to say.
        if values.dtype != leaf.dtype or values.ndim != np.ndim(leaf):
            raise CheckpointMismatchError(
                f"the array {name} of the checkpoint is {values.dtype} with {values.ndim} axes"
                f", expected {leaf.dtype} with {np.ndim(leaf)}. Delete it to start anew"
            )
        found.append(jnp.asarray(values) if isinstance(leaf, jax.Array) else values)
    return jax.tree.unflatten(treedef, found)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )
