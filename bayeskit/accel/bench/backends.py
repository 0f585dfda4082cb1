"""The implementations of our functions that can run here, each measured as a row of its own."""

from __future__ import annotations

from collections.abc import Callable

from bayeskit import accel
from bayeskit.accel.bench.contender import Contender

__all__ = ["backends", "ours"]


def backends() -> tuple[str, ...]:
    """Return ``"xla"``, which runs everywhere, and the kinds of kernels in use here."""
    # What is not in use says why, in several words.
    kinds = {kind for kind in accel.backend_report().values() if " " not in kind}
    return ("xla", *sorted(kinds - {"xla"}))


def ours(name: str, function: Callable) -> list[Contender]:
    """Return our function once for each backend; that of XLA has the plain name."""
    return [
        Contender(
            "bayeskit", name if kind == "xla" else f"{name}, {kind}", _under(kind, function)
        )
        for kind in backends()
    ]


def _under(kind: str, function: Callable) -> Callable:
    def run(*arguments):
        # The choice is made while a program is traced.
        with accel.backend(kind):
            return function(*arguments)

    return run
