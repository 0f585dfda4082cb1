"""Where the figures come from: versions, device, caches, and what a copy of memory costs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayeskit.accel.bench.clock import time_in_turns
from bayeskit.accel.bench.peers import PACKAGES

__all__ = ["cache_that_holds", "describe", "memory_copy_ns", "use_one_thread"]

# An array that no cache holds, 2 x 256 MiB with its copy.
_LARGE = 2**28


def use_one_thread() -> None:
    """Give XLA one thread and no stored programs; to be called before it has a backend.

    Idle threads wait by spinning, which the clock of the process would count as work, and a
    program from a cache takes no time to compile. The one thread must not wait for itself
    either: it would, in a program that calls back into Python for its own arguments, which is
    why programs run in the thread that calls them.
    """
    for name in ("NPROC", "PJRT_NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def describe(dtype: Any) -> dict[str, Any]:
    """Return what each row says about where it was measured."""
    device = jax.devices()[0]
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    for package in ("bayeskit", "jaxlib", "numpy", "numba", *PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    on_cpu = device.platform == "cpu"
    return {
        "platform": device.platform,
        "device": _processor() if on_cpu else device.device_kind,
        "clock": "processor, one thread" if on_cpu else "wall",
        "dtype": np.dtype(dtype).name,
        "versions": versions,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_that_holds(num_bytes: int) -> str:
    """Return the name of the smallest cache for so many bytes, "memory", or "" if unknown."""
    caches = []
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (folder / "type").read_text().strip() != "Instruction":
            size = (folder / "size").read_text().strip()
            level = (folder / "level").read_text().strip()
            if size.endswith("K"):
                caches.append((int(size[:-1]) * 1024, f"L{level}"))
    if not caches:
        return ""
    return next((name for size, name in sorted(caches) if num_bytes <= size), "memory")


def memory_copy_ns(dtype: Any) -> float:
    """Return the nanoseconds to copy one number between arrays that no cache holds."""
    source = np.ones(_LARGE // np.dtype(dtype).itemsize, dtype)
    target = np.ones_like(source)
    timing = time_in_turns({"copy": lambda: np.copyto(target, source)}, repeats=7, seconds=2.0)
    return timing["copy"].quickest / source.size * 1e9
