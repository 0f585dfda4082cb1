"""What a validation found, test by test."""

from __future__ import annotations

import math
from typing import Any

from bayeskit.plots._look import COLORS, INK, MUTED, headline, new_axes, tidy

__all__ = ["validation_report"]

# Inches.
_ROW_HEIGHT = 0.24
_LONGEST_LABEL = 60
# A discrepancy of exactly 0 is drawn at the resolution of a double.
_SMALLEST, _LARGEST = 1e-17, 1e3


def validation_report(report: Any, *, num_rows: int = 12, ax: Any = None) -> Any:
    """Draw the most suspicious tests of a report.

    Statistics of statistical tests are drawn in standard errors, discrepancies of exact checks
    on a logarithmic axis; what failed is filled and red, what passed is blue. A report with
    both shows its statistics, and names the exact checks that failed.

    Parameters
    ----------
    report : Report
    num_rows : int
        Most tests to draw.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If no test of the report has a number to draw.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, validate
    >>> step = lambda key, x: (x + random.categorical(key, jnp.zeros(2))) % 3
    >>> report = validate(step, start=Atoms(np.arange(3), np.array([2.0, 1.0, 1.0])))
    >>> ax = plots.validation_report(report)
    >>> [name.get_text() for name in ax.get_yticklabels()], ax.get_xlabel()
    (['the measure is invariant'], 'discrepancy, with its tolerance')
    """
    statistical = [check for check in report.tests if check.statistic is not None]
    exact = [check for check in report.tests if check.discrepancy is not None]
    shown = statistical or exact
    if not shown:
        raise ValueError(f"the report on {report.block} has no number to draw")
    if num_rows < 1:
        raise ValueError(f"num_rows must be at least 1, got {num_rows}")
    if statistical:
        values = [_finite(check.statistic) for check in shown]
        sizes = [-abs(value) for value in values]
        label = "statistic, in standard errors"
    else:
        values = [max(_finite(check.discrepancy), _SMALLEST) for check in shown]
        sizes = [-value for value in values]
        label = "discrepancy, with its tolerance"
    # What failed comes first.
    order = sorted(range(len(shown)), key=lambda i: (shown[i].passed, sizes[i]))[:num_rows]
    if ax is None:
        ax = new_axes(7.6, 1.1 + _ROW_HEIGHT * len(order))
    for row, i in enumerate(order):
        color = COLORS[0] if shown[i].passed else COLORS[1]
        start = 0.0 if statistical else _SMALLEST
        ax.hlines(row, start, values[i], color=color, linewidth=1.6)
        ax.plot(values[i], row, "o", color=color, markersize=5.5)
    if statistical:
        ax.axvline(0.0, color=MUTED, linewidth=0.9, zorder=1)
        reach = 1.15 * max(4.0, *(abs(values[i]) for i in order))
        ax.set_xlim(-reach, reach)
    else:
        ax.set_xscale("log")
        ax.set_xlim(_SMALLEST, max(10.0, 2.0 * max(values[i] for i in order)))
        for row, i in enumerate(order):
            tolerance = max(shown[i].tolerance or _SMALLEST, _SMALLEST)
            ax.plot([tolerance] * 2, [row - 0.4, row + 0.4], color=MUTED, linewidth=0.9)
    ax.set_yticks(range(len(order)), [_label(shown[i]) for i in order])
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xlabel(label)
    tidy(ax, "x")
    hidden = len(shown) - len(order)
    more = f", {hidden} less suspicious ones not shown" if hidden else ""
    broken = [check.name for check in exact if not check.passed] if statistical else []
    also = f"; also failed: {', '.join(broken)}" if broken else ""
    headline(ax, f"{report.verdict}: {_short(report.block)}{more}{also}")
    ax.title.set_color(INK)
    return ax


def _finite(value: float) -> float:
    """Return a number that an axis can hold: what is infinite or NaN is drawn far out."""
    return value if math.isfinite(value) else math.copysign(_LARGEST, value)


def _label(check: Any) -> str:
    return _short(f"{check.model}: {check.name}" if check.model else check.name)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
