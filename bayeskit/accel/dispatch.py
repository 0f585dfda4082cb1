"""Which implementation of an array function runs: chosen by platform when a program is lowered.

Every function has an implementation in plain XLA, which runs everywhere. Faster ones are
registered beside it, for the platforms that they know, and must give the same bits, so that the
choice cannot change a result. The order is

1. the backend of :func:`backend`, else
2. the environment variable ``BAYESKIT_ACCEL``, in capitals or not, read once a process, else
   ``"auto"``;
3. under ``"auto"`` the first registered kernel that is installed, supports the arrays and
   compiles; under ``"triton"`` or ``"ffi"`` the first of that kind; under ``"xla"`` none;
4. XLA, also where the backend asked for has no kernel for a function or a platform.

The choice is made while a program is traced, and the program holds one branch for each
platform: it can be lowered for several, and nothing calls back into Python when it runs.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from bayeskit.accel.sharding import current_mesh
from bayeskit.errors import BayeskitWarning, MissingDependencyError

__all__ = [
    "BACKENDS",
    "ENVIRONMENT",
    "FastKernel",
    "backend",
    "backend_report",
    "dispatch",
    "register",
    "wanted_backend",
]

BACKENDS = ("auto", "xla", "triton", "ffi")
ENVIRONMENT = "BAYESKIT_ACCEL"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Part of the key under which jit keeps programs: another backend is another program.
_chosen = jax.make_user_context(default_value=None)


@dataclass(frozen=True)
class FastKernel:
    """A faster implementation of one array function for some platforms.

    Parameters
    ----------
    function : str
        The name under which :func:`dispatch` looks for it.
    backend : str
        "triton" or "ffi".
    platforms : tuple of str
        As in ``jax.lax.platform_dependent``: "cpu", "cuda", "rocm".
    supports : callable, (*shapes_and_dtypes, **static) -> bool
        Takes what ``dispatch`` was given, with ``jax.ShapeDtypeStruct`` in place of arrays.
    load : callable, () -> implementation
        Imports what the kernel needs. The implementation takes the arrays and the static
        arguments, may be mapped by ``vmap``, and returns the same bits as the XLA path.
    missing : callable, () -> str or None
        What has to be installed before it can run; None if nothing. Must be quick.
    """

    function: str
    backend: str
    platforms: tuple[str, ...]
    supports: Callable[..., bool]
    load: Callable[[], Callable]
    missing: Callable[[], str | None]


_kernels: list[FastKernel] = []
# Whether a kernel compiled for a platform, asked once. Kept by kernel, so that a failure is
# reported once and no later program waits for another.
_compiles: dict[tuple[FastKernel, str], bool] = {}


def register(kernel: FastKernel) -> None:
    """Add a fast kernel, at import: programs that were traced before do not see it.

    Parameters
    ----------
    kernel : FastKernel

    Raises
    ------
    ValueError
        For a backend that takes no kernels.
    """
    if kernel.backend not in BACKENDS[2:]:
        raise ValueError(f"backend must be one of {BACKENDS[2:]}, got {kernel.backend!r}")
    _kernels.append(kernel)


def backend(name: str) -> AbstractContextManager:
    """Choose the backend of array functions inside a ``with`` statement.

    Parameters
    ----------
    name : {"auto", "xla", "triton", "ffi"}

    Returns
    -------
    context manager
        For the thread that enters it. Programs compiled under another backend are not reused.

    Raises
    ------
    ValueError
        For an unknown name.
    MissingDependencyError
        For a backend none of whose kernels can run: the message says what to install.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import accel
    >>> with accel.backend("xla"):
    ...     accel.offspring_to_ancestors(jnp.array([2, 2, 5]), 5).tolist()
    [0, 0, 2, 2, 2]
    """
    _require_usable(name, "name")
    return _chosen(name)


def _require_usable(name: str, source: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name in ("auto", "xla"):
        return
    reasons = {kernel.missing() for kernel in _kernels if kernel.backend == name}
    if None not in reasons:
        raise MissingDependencyError(
            f"{source}={name!r} asks for kernels that cannot run here: "
            f"{'; '.join(sorted(filter(None, reasons))) or 'there are none'}. "
            "Or choose 'auto'"
        )


@functools.cache
def _of_environment() -> str:
    name = os.environ.get(ENVIRONMENT, "").strip().lower() or "auto"
    _require_usable(name, ENVIRONMENT)
    return name


def wanted_backend() -> str:
    """Return the name that the user chose, here or in the environment."""
    return _chosen.value or _of_environment()


def dispatch(function: str, xla: Callable, *arrays: jax.Array, **static: Any) -> Any:
    """Call the implementation that fits the platform, the arrays and the user's choice.

    Parameters
    ----------
    function : str
        Name of the array function in the registry.
    xla : callable, (*arrays, **static)
        The reference, for every platform that no kernel is chosen for.
    *arrays : arrays
    **static
        Python values.

    Returns
    -------
    What ``xla`` returns.

    Notes
    -----
    To be called inside ``jit``: outside, the branches are compiled at each call.
    """
    wanted = wanted_backend()
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    branches: dict[str, Callable] = {}
    for kernel in _kernels:
        if kernel.function != function or wanted not in ("auto", kernel.backend):
            continue
        if kernel.missing() is not None or not kernel.supports(*shapes, **static):
            continue
        for platform in kernel.platforms:
            if platform in branches or not _can_compile(kernel, platform, shapes, static):
                continue
            branches[platform] = functools.partial(kernel.load(), **static)
    default = functools.partial(xla, **static)
    # To XLA a kernel is a closed box: it would bring all particles to every device of a mesh.
    if not branches or current_mesh() is not None:
        return default(*arrays)
    return lax.platform_dependent(*arrays, **branches, default=default)


def _can_compile(kernel: FastKernel, platform: str, shapes: list, static: dict) -> bool:
    """Return whether a kernel compiles by itself; a failure raises if it was asked for by name.

    The program around it is lowered by code of others, where no failure could be caught.
    """
    if (kernel, platform) not in _compiles:
        try:
            implementation = functools.partial(kernel.load(), **static)
            traced = jax.jit(implementation).trace(*shapes)
            if _is_present(platform):
                with jax.default_device(jax.devices(platform)[0]):
                    traced.lower(lowering_platforms=(platform,)).compile()
        except Exception as error:
            if wanted_backend() != "auto":
                raise
            _compiles[kernel, platform] = False
            warnings.warn(
                f"the {kernel.backend} kernel of {kernel.function} does not compile for "
                f"{platform}, the XLA path is taken instead: {type(error).__name__}: {error}. "
                "Results are the same",
                BayeskitWarning,
                stacklevel=2,
            )
        else:
            _compiles[kernel, platform] = True
    if not _compiles[kernel, platform] and wanted_backend() != "auto":
        # It failed under "auto" before: fail again, with the whole error.
        del _compiles[kernel, platform]
        return _can_compile(kernel, platform, shapes, static)
    return _compiles[kernel, platform]


def _is_present(platform: str) -> bool:
    try:
        return bool(jax.devices(platform))
    except RuntimeError:
        return False


def backend_report(platform: str | None = None) -> dict[str, str]:
    """Return which kernel each function uses in new programs, and why not a faster one.

    Parameters
    ----------
    platform : {"cpu", "cuda", "rocm", "tpu"}, optional
        Default: the one that JAX computes on.

    Returns
    -------
    dict from names of functions to text

    Raises
    ------
    ValueError
        For an unknown platform.

    Examples
    --------
    >>> from bayeskit import accel
    >>> with accel.backend("xla"):
    ...     set(accel.backend_report("cpu").values()) <= {"xla"}
    True
    """
    wanted = wanted_backend()
    if platform not in (None, *_PLATFORMS):
        raise ValueError(f"platform must be one of {', '.join(_PLATFORMS)}, got {platform!r}")
    if platform is None:
        platform = jax.default_backend()
        if platform == "gpu":
            platform = "cuda" if _is_present("cuda") else "rocm"
    report: dict[str, str] = {}
    for kernel in _kernels:
        current = report.setdefault(kernel.function, "xla")
        if wanted not in ("auto", kernel.backend) or platform not in kernel.platforms:
            continue
        if current in BACKENDS[2:]:
            continue
        missing = kernel.missing()
        if missing is None and _compiles.get((kernel, platform), True):
            report[kernel.function] = kernel.backend
        else:
            reason = missing or "it does not compile"
            report[kernel.function] = f"xla ({kernel.backend}: {reason})"
    return report
