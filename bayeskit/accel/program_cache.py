"""Keep compiled programs on disk while an estimator fits: the next session starts fast."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from bayeskit.accel.mapped_memory import make_room

__all__ = ["ENVIRONMENT", "processor_name", "program_cache", "user_folder"]

ENVIRONMENT = "BAYESKIT_PROGRAM_CACHE"
_OFF = ("0", "off", "false", "no")
# Folders above this many bytes lose their oldest programs at the start of a session.
_MAX_BYTES = 500_000_000
_lock = threading.Lock()
_users = 0
_before: dict[str, Any] = {}
_pruned: set[Path] = set()


@contextlib.contextmanager
def program_cache() -> Iterator[None]:
    """Within this context JAX keeps compiled programs in a folder of the user's.

    Whoever configured JAX's own cache (``JAX_COMPILATION_CACHE_DIR`` or ``jax.config``) keeps
    it, and nothing happens here. Otherwise settings of JAX are changed while the context
    lasts, and are then as they were. Before, programs in memory are forgotten if they leave no
    room for more. ``BAYESKIT_PROGRAM_CACHE`` names another folder, or turns
    it off with ``off``.

    Notes
    -----
    The folder is readable by the user alone, since whoever writes to it can run code, and it
    belongs to one kind of processor and one version of XLA: programs made for another may use
    instructions that this one lacks. While the context lasts, programs that other threads
    compile are kept as well.
    """
    make_room()
    folder = _folder()
    if folder is None:
        yield
        return
    _enter(folder)
    try:
        yield
    finally:
        _leave()


def _folder() -> Path | None:
    """Return the folder to use; None leaves everything as it is."""
    with _lock:
        configured = _users == 0 and _setting("jax_compilation_cache_dir") is not None
    wanted = os.environ.get(ENVIRONMENT, "")
    if configured or not _setting("jax_enable_compilation_cache") or wanted.lower() in _OFF:
        return None
    folder = (Path(wanted) if wanted else user_folder("programs")) / processor_name()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
        _prune(folder)
    except OSError:
        # A folder that cannot be used only costs time.
        return None
    return folder


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


def user_folder(kind: str) -> Path:
    """Return the folder for one kind of what is compiled on a user's machine."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "bayeskit" / kind


@functools.cache
def processor_name() -> str:
    """Return a name for this kind of processor and this version of XLA."""
    facts = [platform.machine(), platform.processor(), jax.__version__, jaxlib.__version__]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts += [line for line in lines if line.startswith(("model name", "flags"))][:2]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _prune(folder: Path) -> None:
    """Delete the programs that were used longest ago, once a session, until half fits."""
    if folder in _pruned:
        return
    _pruned.add(folder)
    files = [(file.stat(), file) for file in folder.iterdir() if file.is_file()]
    total = sum(stat.st_size for stat, _ in files)
    if total <= _MAX_BYTES:
        return
    for stat, file in sorted(files, key=lambda pair: pair[0].st_mtime):
        file.unlink(missing_ok=True)
        total -= stat.st_size
        if total <= _MAX_BYTES // 2:
            break


def _enter(folder: Path) -> None:
    global _users
    with _lock:
        _users += 1
        if _users > 1:
            return
        wanted = {
            "jax_compilation_cache_dir": str(folder),
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        for name, value in wanted.items():
            _before[name] = _setting(name)
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        for name, value in _before.items():
            jax.config.update(name, value)
        # JAX would else go on with the folder that it opened.
        compilation_cache.reset_cache()
