"""Whether amortised posteriors are calibrated: ranks, and how often the truth is covered."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, INK, MUTED, headline, new_axes, plain, tidy

__all__ = ["expected_coverage", "rank_distributions"]

# Of a legend, one below the other.
_MOST_NAMES = 14
_NAMES = {"log density": "highest density", "distance": "balls around random points (TARP)"}
# Colours that are far from each other; more lines are dashed.
_NUM_SOLID = 4


def _check_report(report: Any) -> None:
    if not (hasattr(report, "band") and hasattr(report, "ranks")):
        raise TypeError(
            "report must be a CalibrationReport, as DistributionTransformer.calibrate() "
            f"returns it, got {type(report).__name__}"
        )


def _title(report: Any, what: str, shown: Collection[str]) -> str:
    """Return the verdict with what is drawn, or what a report fails by that is not drawn."""
    failed = sorted((row for row in report.table if not row[-1]), key=lambda row: row[-2])
    words = f"{what} of {report.num_problems} truths"
    if failed and not any(row[1] in shown for row in failed):
        return f"{words}; the report fails by {failed[0][1]}"
    return f"{report.verdict}: {words}"


def _draw_band(ax: Any, expected: np.ndarray, half_width: float) -> None:
    """Draw what is expected from 0 to 1, given at both ends, and how far exact lines stray."""
    ends = np.array([0.0, 1.0])
    low, high = expected - half_width, expected + half_width
    ax.fill_between(ends, low, high, color=MUTED, alpha=0.14, linewidth=0)
    ax.plot(ends, expected, color=MUTED, linewidth=0.9)
    ax.set_xlim(0.0, 1.0)


def rank_distributions(report: Any, *, ax: Any = None) -> Any:
    """Draw the distribution function of each rank, less that of a uniform one.

    Lines of exact posteriors all stay inside the grey band with probability 0.95. A hill means
    truths that lie too low, a valley too high; a hill before a valley means posteriors that are
    too narrow, a valley before a hill too wide.

    Parameters
    ----------
    report : CalibrationReport
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        For anything but a report.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.models.distribution_transformer import CalibrationReport
    >>> ranks = {"x[0]": (np.arange(100) + 0.5) / 100}
    >>> ax = plots.rank_distributions(CalibrationReport("pass", 0.001, ranks, [], -1.2))
    >>> ax.get_title(loc="left"), round(float(np.abs(ax.lines[1].get_ydata()).max()), 3)
    ('pass: ranks of 100 truths', 0.005)
    """
    _check_report(report)
    ax = ax or new_axes(7.2, 3.8)
    _draw_band(ax, np.zeros(2), report.band())
    for i, (name, ranks) in enumerate(report.ranks.items()):
        values = np.sort(ranks)
        heights = np.arange(1, len(values) + 1) / len(values) - values
        color, style = COLORS[i % _NUM_SOLID], "-" if i < _NUM_SOLID else "--"
        ax.plot(values, heights, style, color=color, linewidth=1.4, label=plain(name))
    reach = 1.15 * max(
        report.band(), *(np.abs(line.get_ydata()).max() for line in ax.lines[1:])
    )
    ax.set_ylim(-reach, reach)
    ax.set_xlabel("rank")
    ax.set_ylabel("share of ranks below, less what is expected")
    tidy(ax)
    headline(ax, _title(report, "ranks", report.ranks))
    # Beside the panel, where it hides neither a line nor the edge of the band.
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
        ncols=-(-len(report.ranks) // _MOST_NAMES),
    )
    return ax


def expected_coverage(report: Any, *, ax: Any = None) -> Any:
    """Draw how often credible sets cover the truth against how often they say so.

    Below the diagonal posteriors are too sure of themselves, above it too cautious.

    Parameters
    ----------
    report : CalibrationReport
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        For anything but a report.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.models.distribution_transformer import CalibrationReport
    >>> ranks = {"log density": (np.arange(100) + 0.5) / 100, "distance": np.full(100, 0.4)}
    >>> ax = plots.expected_coverage(CalibrationReport("fail", 0.001, ranks, [], -1.2))
    >>> ax.get_legend_handles_labels()[1]
    ['highest density', 'balls around random points (TARP)']
    """
    _check_report(report)
    ax = ax or new_axes(4.6, 4.4)
    _draw_band(ax, np.array([0.0, 1.0]), report.band())
    for color, (name, label) in zip(COLORS, _NAMES.items(), strict=False):
        levels, covered = report.coverage(name)
        ax.plot(levels, covered, color=color, linewidth=1.6, label=label)
    ax.set_ylim(0.0, 1.0)
    ax.set_aspect("equal")
    ax.set_xlabel("level of the credible set")
    ax.set_ylabel("share of truths inside")
    tidy(ax, "both")
    headline(ax, _title(report, "coverage", _NAMES))
    ax.legend(frameon=False, fontsize=8.5, loc="upper left", labelcolor=INK)
    return ax
