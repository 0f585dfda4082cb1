"""Forget compiled programs before the operating system has no room for more of them.

Linux allows a process some 65 000 mappings of memory, and a compiled program takes several.
Where none is left, XLA ends the process without an error that Python could catch. JAX itself
keeps thousands of programs: those of a few hundred models that were made anew for each fit are
too many.
"""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import jax

__all__ = ["make_room"]

_LIMIT = Path("/proc/sys/vm/max_map_count")
_MAPS = Path("/proc/self/maps")
# Counting takes 2 ms, and this many fits make far fewer mappings than are left above the share.
_EVERY = 16
_SHARE = 0.6
# What has not grown by this share since programs were forgotten holds no programs.
_GROWTH = 0.1

_lock = threading.Lock()
_calls = 0
_left = 0


def make_room() -> bool:
    """Forget all compiled programs where few mappings are left; return whether it was done.

    Programs that are used again are compiled again, or read from disk. To be called before each
    fit; most calls do nothing.
    """
    global _calls, _left
    with _lock:
        _calls += 1
        if _calls % _EVERY:
            return False
        try:
            limit, num = int(_LIMIT.read_text()), _MAPS.read_bytes().count(b"\n")
        except (OSError, ValueError):
            # Another operating system.
            return False
        if num < _SHARE * limit or num - _left < _GROWTH * limit:
            return False
        jax.clear_caches()
        gc.collect()
        _left = _MAPS.read_bytes().count(b"\n")
        return True
