"""Neighbours: one file each, loaded when it is first used."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["arviz", "blackjax", "numpyro", "numpyro_kernels", "posteriordb", "pyro", "torch"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'bayeskit.interop' has no attribute {name!r}")
    return importlib.import_module(f"bayeskit.interop.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
