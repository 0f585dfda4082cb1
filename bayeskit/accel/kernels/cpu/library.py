"""Compile the kernels for this machine, and load them where they have been compiled."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import jax

from bayeskit.accel.exponential import (
    COEFFICIENTS,
    LARGEST_EXPONENT,
    SCALE,
    SHIFTS,
)
from bayeskit.accel.program_cache import processor_name, user_folder
from bayeskit.errors import KernelBuildError

__all__ = ["build_cpu_kernels", "missing", "target"]

_SOURCE = Path(__file__).with_name("particles.cc")
_KERNELS = (
    "scaled_cdf",
    "cdf_of_weights",
    "offspring_to_ancestors",
    "ancestors_at_levels",
)
_CONSTANTS = {
    "SCALE": SCALE.hex(),
    "LARGEST_EXPONENT": str(LARGEST_EXPONENT),
    "COEFFICIENTS": ",".join(map(str, COEFFICIENTS)),
    "SHIFTS": ",".join(map(str, SHIFTS)),
}
# Rounding is that of the source: no contraction, no reordering. The last two flags let loops
# with `ceil` and choices become vector instructions, and change no value.
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-shared",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-fno-math-errno",
)
# From the quickest code to what any compiler takes.
_TUNING = (("-march=native", "-mprefer-vector-width=512"), ("-mcpu=native",), ())
_SECONDS_TO_COMPILE = 300
_registered: set[str] = set()  # versions: XLA takes no second library for a name


def build_cpu_kernels() -> Path:
    """Compile the resampling kernels for this machine's processor and use them from now on.

    Later sessions find and use them by themselves. They return the same ancestors as the XLA
    programs, bit for bit. Programs that were compiled before in this session go on without
    them, and ``accel.backend("xla")`` compiles others without them: ``jax.export`` writes no
    program that calls code of this machine.

    Returns
    -------
    Path
        The shared library, in a folder of the user's. It is compiled again for another
        processor, another JAX, or another version of this package.

    Raises
    ------
    KernelBuildError
        If there is no C++ compiler (of C++17, named by ``CXX`` or ``c++``, ``g++`` or
        ``clang++``), if it fails, or if the folder cannot be used.

    Notes
    -----
    Some seconds, once.

    Examples
    --------
    >>> from bayeskit import accel
    >>> path = accel.build_cpu_kernels()  # doctest: +SKIP
    """
    path = _library_path()
    if not _is_trusted(path):
        _compile(path)
    if not _register(path):
        if not _is_trusted(path):
            raise KernelBuildError(
                f"others may write to {path.parent}, so that nothing is loaded from there. "
                "Make it your own and writable by you alone (chmod go-w)"
            )
        raise KernelBuildError(f"{path} was compiled but cannot be loaded; delete it")
    return path


def missing() -> str | None:
    """Return what has to be done before the kernels can run; None if nothing."""
    if _register(_library_path()):
        return None
    return "accel.build_cpu_kernels() compiles them, which takes a C++ compiler"


def _register(path: Path) -> bool:
    """Make the kernels of a library known to XLA; return whether there are any."""
    if _version() in _registered:
        return True
    if not _is_trusted(path):
        return False
    try:
        library = ctypes.CDLL(str(path))
        for name in _KERNELS:
            function = jax.ffi.pycapsule(getattr(library, f"bayeskit_{name}"))
            jax.ffi.register_ffi_target(target(name), function, platform="cpu")
    except (OSError, AttributeError):
        # A file that another system wrote, or only half of one.
        return False
    _registered.add(_version())
    return True


def target(name: str) -> str:
    """Return the name by which XLA knows a kernel.

    It tells versions of the source apart, since compiled programs outlive a session.
    """
    return f"bayeskit_{name}_{_version()}"


@functools.cache
def _version() -> str:
    text = _SOURCE.read_text() + repr((_CONSTANTS, _FLAGS, _TUNING))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _library_path() -> Path:
    return user_folder("kernels") / processor_name() / f"particles-{_version()}.so"


def _is_trusted(path: Path) -> bool:
    """Return whether there is a library that nobody but the user can have written."""
    try:
        facts = [path.stat(), path.parent.stat()]
    except OSError:
        return False
    if os.name == "nt":
        return True
    writable_by_others = stat.S_IWGRP | stat.S_IWOTH
    return all(f.st_uid == os.getuid() and not f.st_mode & writable_by_others for f in facts)


def _compiler() -> list[str]:
    """Return the command that compiles; empty if there is none."""
    wanted = os.environ.get("CXX", "")
    try:
        chosen = shlex.split(wanted)
    except ValueError as error:
        raise KernelBuildError(f"CXX is {wanted!r}, which is no command: {error}") from error
    names = ("c++", "g++", "clang++")
    return chosen or [found for name in names if (found := shutil.which(name))][:1]


def _compile(path: Path) -> None:
    compiler = _compiler()
    if not compiler:
        raise KernelBuildError(
            "no C++ compiler found: CXX is not set, and c++, g++ and clang++ are not on the "
            "PATH. Install one, or go on without; the ancestors are the same"
        )
    if not shutil.which(compiler[0]):
        raise KernelBuildError(
            f"CXX is {shlex.join(compiler)!r}, but there is no program {compiler[0]!r}. Name a "
            "C++ compiler, or unset CXX"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KernelBuildError(
            f"the folder {path.parent} cannot be made: {error}. XDG_CACHE_HOME names another "
            "place (LOCALAPPDATA on Windows)"
        ) from error
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            new = Path(folder) / path.name
            for tuning in _TUNING:
                command = [
                    *compiler,
                    *_FLAGS,
                    *tuning,
                    *(f"-DBAYESKIT_{name}={value}" for name, value in _CONSTANTS.items()),
                    f"-I{jax.ffi.include_dir()}",
                    str(_SOURCE),
                    "-o",
                    str(new),
                ]
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_SECONDS_TO_COMPILE
                )
                if done.returncode == 0:
                    new.chmod(0o500)
                    # At once, so that another process sees all of it or nothing.
                    new.replace(path)
                    return
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelBuildError(
            f"the kernels could not be compiled in {path.parent}: {error}"
        ) from error
    raise KernelBuildError(
        f"{shlex.join(compiler)} does not compile the kernels; the end of what it says:\n"
        f"{done.stderr[-1000:]}"
    )
