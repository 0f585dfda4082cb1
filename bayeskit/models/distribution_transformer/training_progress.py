"""How long training lasts, how far it has come, and what a checkpoint keeps of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from bayeskit.errors import NumericalWarning
from bayeskit.inference.long_run import LongRunSettings

__all__ = ["HISTORY", "Progress", "Training", "kept", "restored", "warn_of_skipped"]

HISTORY = ("step", "seconds", "loss", "evaluated_loss", "skipped")
_NUMBERS = ("step", "seconds", "best_loss", "since_best", "first_skipped")


@dataclass(frozen=True, kw_only=True)
class Training(LongRunSettings):
    """How long to train, and at what rate.

    Parameters
    ----------
    lr : float
        Largest step size.
    max_steps, budget_seconds : int and float, optional
        At least one of them.
    patience : int, optional
        Evaluations without a better loss.
    """

    lr: float
    max_steps: int | None
    budget_seconds: float | None
    patience: int | None

    def used_up(self, step: int, seconds: float) -> float:
        """Return how much of what was allowed is used up, 1 at the end."""
        of_steps = 0.0
        if self.max_steps is not None:
            of_steps = step / self.max_steps if self.max_steps else 1.0
        return max(of_steps, seconds / self.budget_seconds if self.budget_seconds else 0.0)

    def progress_in_words(self, step: int, seconds: float) -> str:
        """Return where training stands, and where it is to end."""
        words = (
            f"{step} steps" if self.max_steps is None else f"{step} of {self.max_steps} steps"
        )
        if self.budget_seconds is None:
            return words
        return f"{words}, {seconds:.0f} of {self.budget_seconds:.0f} s of training"


@dataclass
class Progress:
    """Where training stands, on the host.

    Attributes
    ----------
    step : int
    seconds : float
        Spent on steps, without compiling.
    best_loss : float
        Smallest loss on the problems that are followed, and the weights that gave it.
    since_best : int
        Evaluations since then.
    first_skipped : int
        The first step that was left out for NaN; -1 if there is none.
    history : (num, 5) array
        Columns of ``HISTORY``.
    chunk : (num, 2) array
        Loss of each step since the last row of the history, and whether it was left out.
    """

    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_weights: Any = None
    since_best: int = 0
    first_skipped: int = -1
    history: np.ndarray = field(default_factory=lambda: np.zeros((0, len(HISTORY))))
    chunk: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def start_loss(self) -> float:
        """Loss before training; NaN where nothing is trained."""
        return (
            float(self.history[0, HISTORY.index("evaluated_loss")])
            if len(self.history)
            else math.nan
        )


def warn_of_skipped(progress: Progress) -> None:
    """Warn if steps were left out because the loss was NaN."""
    if progress.first_skipped < 0:
        return
    count = int(progress.history[:, 4].sum() + progress.chunk[:, 1].sum())
    warnings.warn(
        f"the loss was not finite at {count} of {progress.step} steps, first at step "
        f"{progress.first_skipped}; those steps were left out and the last good weights kept. "
        "Look for a simulator or a log likelihood that gives NaN, or priors without bounds",
        NumericalWarning,
        stacklevel=4,
    )


def kept(state: Any, progress: Progress) -> dict[str, Any]:
    """Return all that training goes on from, as arrays."""
    facts = {
        name: np.asarray(getattr(progress, name)) for name in (*_NUMBERS, "history", "chunk")
    }
    best = state.weights if progress.best_weights is None else progress.best_weights
    return {"state": state, "best_weights": jax.tree.map(np.asarray, best), **facts}


def restored(saved: dict[str, Any]) -> Progress:
    """Return the progress that was kept."""
    numbers = {name: saved[name].item() for name in _NUMBERS}
    has_best = numbers["best_loss"] < math.inf
    return Progress(
        **numbers,
        best_weights=saved["best_weights"] if has_best else None,
        history=saved["history"],
        chunk=saved["chunk"],
    )
