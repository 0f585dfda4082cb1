"""One way to compute something, ours or another package's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Contender", "same"]


def same(*arguments: Any) -> tuple:
    """Return the arguments."""
    return arguments


@dataclass(frozen=True)
class Contender:
    """One way to compute what a case asks for.

    Parameters
    ----------
    package : str
        ``"bayeskit"`` is us, all others are peers.
    name : str
        What of the package.
    function : callable
        Takes the arguments of the case, after ``prepare``.
    is_jax : bool
        Whether JAX compiles it. What is not JAX runs as it is.
    prepare : callable
        Turns NumPy arrays into what a package takes, outside of what is timed.
    dtype : str, optional
        What it computes in, where that is not the dtype of the case.
    """

    package: str
    name: str
    function: Callable
    is_jax: bool = True
    prepare: Callable[..., tuple] = same
    dtype: str | None = None

    @property
    def is_peer(self) -> bool:
        """Whether it is another package's."""
        return self.package != "bayeskit"
