"""A file that a run is continued from: whose it is, who holds it, and the last good one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayeskit import container
from bayeskit.errors import (
    CheckpointLockedError,
    CheckpointMismatchError,
    CheckpointWarning,
    CorruptFileError,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["CheckpointFile", "array_fingerprint", "code_fingerprint"]

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
# What the compiler makes of the same program: compared only between equal versions.
_CODE = "model"


def array_fingerprint(values: Any) -> str:
    """Return dtype, shape and hash of an array, the same for the same numbers."""
    if isinstance(values, jax.Array) and jax.dtypes.issubdtype(
        values.dtype, jax.dtypes.prng_key
    ):
        kind = str(jax.random.key_impl(values))
        return f"{kind} {array_fingerprint(jax.random.key_data(values))}"
    array = np.ascontiguousarray(values)
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return f"{array.dtype} {array.shape} {digest[:16]}"


def code_fingerprint(function: Callable, *arguments: Any) -> str:
    """Return the hash of what a function computes, its enclosed constants included.

    Parameters
    ----------
    function : callable
        Traced, never run.
    *arguments : pytrees of arrays or jax.ShapeDtypeStruct
    """
    traced = jax.make_jaxpr(function)(*arguments)
    digest = hashlib.sha256(plain_text(traced).encode())
    for constant in traced.consts:
        digest.update(array_fingerprint(constant).encode())
    return digest.hexdigest()[:16]


def plain_text(value: object) -> str:
    """Return the text of an object without addresses, which no other process shares."""
    return _ADDRESS.sub("0x", str(value))


class CheckpointFile:
    """Arrays of a run in one container, held by one process at a time.

    Parameters
    ----------
    path : str or path-like
    fingerprint : mapping of str to str
        What the run is: settings, data, key. A file with another is refused, and the first
        field that differs is named. A field ``"model"`` is not compared with the file of
        another version of JAX or this package, which may compile the same model differently.
    title : str
        How messages call the run.

    Notes
    -----
    Beside the file stand ``<path>.prev``, the checkpoint before the last one, and while a run
    goes on ``<path>.lock`` with the number of the process. The operating system frees the lock
    of a process that dies, however it dies.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from bayeskit.inference import CheckpointFile
    >>> path = os.path.join(tempfile.mkdtemp(), "run.bkit")
    >>> with CheckpointFile(path, {"rate": "0.1"}) as file:
    ...     file.read(), file.write({"step": np.array(3)})
    (None, True)
    >>> with CheckpointFile(path, {"rate": "0.1"}) as file:
    ...     int(file.read()["step"])
    3
    """

    def __init__(
        self, path: str | os.PathLike[str], fingerprint: Mapping[str, str], title: str = "run"
    ):
        self.path = Path(os.path.abspath(os.fsdecode(path)))
        self._fingerprint = dict(fingerprint)
        self._title = title
        self._lock: int | None = None
        self._has_warned = False

    def __enter__(self) -> CheckpointFile:
        self._acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    # ------------------------------------------------------------ reading and writing

    def read(self) -> dict[str, np.ndarray] | None:
        """Return the arrays of the last good checkpoint, or None if there is none.

        Raises
        ------
        CheckpointMismatchError
            If it is of another run.
        CorruptFileError
            If neither the file nor the one before it can be read.
        """
        previous = self.path.with_name(f"{self.path.name}.prev")
        try:
            found = container.read_container(self.path, kinds={"Checkpoint"})
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            if not previous.exists():
                raise CorruptFileError(
                    f"{error}. There is no checkpoint before it; delete {self.path} to start "
                    "anew"
                ) from error
            found = container.read_container(previous, kinds={"Checkpoint"})
            self._warn(f"{error}. The run goes on from the checkpoint before it, {previous}")
        self._check(found.parameters)
        return found.arrays

    def write(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Replace the checkpoint and return whether that worked; warn if it did not.

        A full disk or a folder that cannot be written to is no reason to lose a run.
        """
        parameters = {"fingerprint": self._fingerprint, "made_by": _versions()}
        try:
            container.write_container(
                self.path, "Checkpoint", parameters, arrays, keep_previous=True
            )
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                self._warn(
                    f"the checkpoint {self.path} could not be written ({error}). The run goes "
                    "on and tries again; what is there stays as it was"
                )
            return False
        return True

    def _check(self, parameters: dict[str, Any]) -> None:
        """Refuse the file of another run, with the first field that differs."""
        then, now = parameters.get("fingerprint"), self._fingerprint
        if not isinstance(then, dict):
            raise CorruptFileError(f"{self.path} holds no checkpoint of an engine")
        versions, found = _versions(), parameters.get("made_by")
        for name in {**now, **then}:
            if name == _CODE and found != versions:
                continue
            if then.get(name) != now.get(name):
                raise CheckpointMismatchError(
                    f"the checkpoint {self.path} is of another {self._title}: {name} is "
                    f"{then.get(name, 'absent')} in the file and {now.get(name, 'absent')} "
                    "now. Restore what it was, give another path, or delete the file to start "
                    "anew" + _HINTS.get(name, "")
                )
        if found != versions:
            self._warn(
                f"the checkpoint {self.path} was made by {found}, this is {versions}: the run "
                "goes on with the same law, but perhaps not to the same bits"
            )

    def _warn(self, text: str) -> None:
        warnings.warn(text, CheckpointWarning, stacklevel=6)

    # ------------------------------------------------------------ lock

    def _acquire(self) -> None:
        """Hold the lock, or refuse to run beside the process that holds it."""
        if fcntl is None:
            return
        path = f"{self.path}.lock"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                self._warn(
                    f"no lock for the checkpoint {self.path} could be made ({error}): see that "
                    "no second process uses it"
                )
                return
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise CheckpointLockedError(
                    f"process {holder or 'unknown'} is using the checkpoint {self.path}: wait "
                    "for it, stop it, or give another path"
                ) from None
            except OSError as error:
                os.close(descriptor)
                self._warn(
                    f"this file system has no locks ({error}): see that no second process uses "
                    f"the checkpoint {self.path}"
                )
                return
            if _is_at(descriptor, path):
                break
            # Whoever held it has just removed it: what we hold has no name any more.
            os.close(descriptor)
        self._lock = descriptor
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def _release(self) -> None:
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(f"{self.path}.lock")
        os.close(self._lock)
        self._lock = None


_HINTS = {
    "key": ". Without a random_state (or key) of your own every call has a new key",
}


def _is_at(descriptor: int, path: str) -> bool:
    """Say whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _versions() -> dict[str, str]:
    """Return what the bits of a run may depend on beside its fingerprint."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"jax": jax.__version__, "numpy": np.__version__}
    with contextlib.suppress(PackageNotFoundError):
        found["bayeskit"] = version("bayeskit")
    return {**found, "platform": jax.default_backend()}
