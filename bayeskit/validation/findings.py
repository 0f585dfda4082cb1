"""What validate hands to one kind of check, and what it gets back."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bayeskit.inference.law import (
    CONDITIONAL_RESAMPLING,
    CONSISTENT,
    COUPLED,
    DRAWS,
    INVARIANT,
    REVERSIBLE,
    SAME_LAW,
    SWAPS,
    UNBIASED_ESTIMATE,
    UNBIASED_RESAMPLING,
    LawKind,
)
from bayeskit.validation.exact import Enumeration
from bayeskit.validation.report import Check, Power, Report, plain_key

__all__ = ["Findings", "Request", "law_kind", "name_of"]


_LAWS = {
    "invariant": INVARIANT,
    "reversible": REVERSIBLE,
    "resampling": UNBIASED_RESAMPLING,
    "conditional resampling": CONDITIONAL_RESAMPLING,
    "unbiased": UNBIASED_ESTIMATE,
    "draws": DRAWS,
    "same": SAME_LAW,
    "swaps": SWAPS,
    "consistent": CONSISTENT,
    "coupled": COUPLED,
}


def law_kind(law: Any) -> LawKind | None:
    """Return the law that a name stands for."""
    if law is None or isinstance(law, LawKind):
        return law
    if not isinstance(law, str) or law not in _LAWS:
        raise ValueError(f"law must be one of {sorted(_LAWS)} or a LawKind, got {law!r}")
    return _LAWS[law]


class Request(NamedTuple):
    """The arguments of :func:`bayeskit.validate`, checked as far as that needs no more.

    ``level`` is still what the user gave: ``"quick"``, ``"full"``, a
    :class:`~bayeskit.validation.Level`, ``"exact"``, ``"quadrature"`` or ``"ranks"``.
    """

    law: LawKind | None = None
    target: Any = None
    models: Any = None
    expected: Any = None
    start: Any = None
    observed: Callable | None = None
    level: Any = "quick"
    alpha: float = 1e-6
    key: Any = 0
    budget_s: float | None = None
    tuning: Any = None
    num_steps: int | None = 2
    enumeration: Enumeration = Enumeration()


class Findings(NamedTuple):
    """What a check found, before it becomes a report."""

    verdict: str
    block: str
    law: str
    checks: tuple[Check, ...]
    worst: str
    power: Power | None
    alpha: float = 0.0
    notes: tuple[str, ...] = ()

    def report(self, key: Any, began: float) -> Report:
        """Return the report of a check that began at a value of ``time.process_time()``."""
        return Report(
            verdict=self.verdict,
            block=self.block,
            law=self.law,
            tests=self.checks,
            worst=self.worst,
            power=self.power,
            alpha=self.alpha,
            seconds=time.process_time() - began,
            key=plain_key(key),
            notes=self.notes,
        )


def name_of(block: Any) -> str:
    """Return how a block is printed in a report."""
    if dataclasses.is_dataclass(block):
        return repr(block)
    if isinstance(block, functools.partial):
        return name_of(block.func)
    return getattr(block, "__name__", type(block).__name__)
