"""Functional tensors: functions of a mode, the core that joins them, and how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    INK,
    MUTED,
    headline,
    legend_above,
    new_axes,
    plain,
    short,
    short_dates,
    tidy,
)

__all__ = ["bound_over_rounds", "core_entries", "factor_functions", "observed_predicted"]

# Of a normal law: from 5 % to 95 %.
_HALF_WIDTH = 1.6448536269514722
# Values of a category that have a tick.
_MOST_TICKS = 15
_TICK_WIDTH = 24
# That have room side by side below the axis.
_MOST_LETTERS = 60
# Entries of a core that are written as numbers.
_MOST_WRITTEN = 40


def factor_functions(
    grid: Any,
    mean: Any,
    std: Any,
    *,
    names: Sequence[str] | None = None,
    joined: bool = True,
    label: str = "x",
    value_label: str = "function",
    ax: Any = None,
) -> Any:
    """Draw the functions of one mode with their bands from 5 % to 95 %.

    Parameters
    ----------
    grid : (points,) array
    mean, std : (points, rank) arrays
        As from ``FunctionalTucker.factors``.
    names : sequence of str, optional
        One for each function. Default: their numbers.
    joined : bool
        False draws a point and an interval for each value, as they come: of a category.
    label, value_label : str
        Of the coordinate, and of the functions.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For means and standard deviations that do not fit the grid.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> hours = np.linspace(0.0, 24.0, 25)
    >>> mean = np.column_stack([np.sin(hours / 4.0), np.cos(hours / 4.0)])
    >>> ax = plots.factor_functions(hours, mean, np.full((25, 2), 0.1), label="hour")
    >>> ax.get_xlabel(), ax.get_legend_handles_labels()[1]
    ('hour', ['function 0', 'function 1'])
    """
    grid, mean, std = np.asarray(grid), np.asarray(mean), np.asarray(std)
    if mean.shape != std.shape or mean.ndim != 2 or len(grid) != len(mean):
        raise ValueError(
            "mean and std must have a row for each point of the grid and a column for each "
            f"function, got shapes {mean.shape} and {std.shape} for {len(grid)} points"
        )
    if ax is None:
        ax = new_axes(7.2, 3.2)
    rank = mean.shape[1]
    names = (
        [f"function {r}" for r in range(rank)]
        if names is None
        else [plain(str(name)) for name in names]
    )
    ax.axhline(0.0, color=MUTED, linewidth=0.9, zorder=1)
    order = np.argsort(grid, kind="stable") if joined else np.arange(len(grid))
    for r, name in enumerate(names):
        color, half = COLORS[r % len(COLORS)], _HALF_WIDTH * std[:, r]
        x, middle = grid[order], mean[order, r]
        low, high = middle - half[order], middle + half[order]
        if joined:
            ax.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
            ax.plot(x, middle, color=color, linewidth=1.6, label=name)
            continue
        shifted = np.arange(len(x)) + 0.5 * ((r + 0.5) / rank - 0.5)
        ax.vlines(shifted, low, high, color=color, linewidth=1.2)
        ax.plot(shifted, middle, "o", color=color, markersize=4.8, label=name)
    if joined:
        short_dates(ax, grid)
    else:
        step = -(-len(grid) // _MOST_TICKS)
        ticks = [short(_tick(value), _TICK_WIDTH) for value in grid[::step]]
        ax.set_xticks(range(0, len(grid), step), ticks)
        if sum(map(len, ticks)) > _MOST_LETTERS:
            # Side by side they would run into one another.
            ax.tick_params(axis="x", rotation=30)
            for name in ax.get_xticklabels():
                name.set(ha="right", rotation_mode="anchor")
    ax.set_xlabel(label)
    ax.set_ylabel(value_label)
    legend_above(ax, min(rank, 4))
    tidy(ax)
    return ax


def core_entries(core: Any, *, names: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw the entries of a core: bars for a diagonal, a map of colours for a full one.

    Parameters
    ----------
    core : (R,) or (R_1, ..., R_K) array
        Of three and more axes, the first is drawn downwards, all others to the right, the last
        one fastest.
    names : sequence of str, optional
        Of the modes.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For no entries.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> ax = plots.core_entries(np.array([[2.0, 0.0], [0.5, -1.0]]), names=["day", "place"])
    >>> ax.get_ylabel(), [text.get_text() for text in ax.texts]
    ('function of day', ['2', '0', '0.5', '−1'])
    """
    core = np.asarray(core, float)
    if not core.ndim or not core.size:
        raise ValueError(f"core must be an array with entries, got shape {core.shape}")
    if core.ndim == 1:
        return _bars(core, ax)
    names = [f"mode {k}" for k in range(core.ndim)] if names is None else list(names)
    columns = list(np.ndindex(core.shape[1:]))
    flat = core.reshape(len(core), -1)
    if ax is None:
        ax = new_axes(min(1.8 + 0.5 * flat.shape[1], 9.0), 1.2 + 0.42 * len(flat))
    most = np.abs(flat).max() or 1.0
    image = ax.imshow(flat, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    ax.set_yticks(range(len(flat)))
    ax.set_xticks(range(len(columns)), [", ".join(map(str, index)) for index in columns])
    if len(columns) > 12:
        ax.tick_params(axis="x", labelrotation=90)
    if flat.size <= _MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(flat):
            color = "white" if abs(value) > 0.6 * most else INK
            text = f"{value:.2g}".replace("-", "−") if abs(value) > 1e-3 * most else "0"
            ax.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
    ax.set_ylabel(f"function of {names[0]}")
    ax.set_xlabel("function of " + ", ".join(map(str, names[1:])))
    tidy(ax)
    ax.grid(False)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=INK)
    return ax


def observed_predicted(
    y: Any, mean: Any, low: Any, high: Any, *, level: float | None = None, ax: Any = None
) -> Any:
    """Draw observations against their predictions with intervals.

    Parameters
    ----------
    y : (rows,) array
        NaN is not drawn.
    mean, low, high : (rows,) arrays
        Of the predictions. Observations outside of their interval have another colour.
    level : float, optional
        Probability of the intervals, for the legend.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For arrays of different shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> mean = np.array([0.0, 1.0, 2.0])
    >>> ax = plots.observed_predicted([0.1, 1.9, 2.2], mean, mean - 0.5, mean + 0.5, level=0.9)
    >>> ax.get_legend_handles_labels()[1]
    ['inside of the 90 % interval (2)', 'outside (1)']
    """
    y, mean, low, high = (np.asarray(part, float) for part in (y, mean, low, high))
    if not y.shape == mean.shape == low.shape == high.shape or y.ndim != 1:
        raise ValueError(
            "y, mean, low and high must have one value for each row, got shapes "
            f"{y.shape}, {mean.shape}, {low.shape} and {high.shape}"
        )
    seen = ~np.isnan(y)
    y, mean, low, high = y[seen], mean[seen], low[seen], high[seen]
    if ax is None:
        ax = new_axes(5.0, 4.4)
    ax.vlines(mean, low, high, color=COLORS[0], alpha=0.16, linewidth=1.4, zorder=1)
    ends = (mean.min(), mean.max()) if len(mean) else (0.0, 1.0)
    ax.plot(ends, ends, color=MUTED, linewidth=0.9, zorder=2)
    inside = (low <= y) & (y <= high)
    interval = "interval" if level is None else f"{100 * level:g} % interval"
    for rows, color, name in (
        (inside, INK, f"inside of the {interval} ({inside.sum()})"),
        (~inside, COLORS[1], f"outside ({(~inside).sum()})"),
    ):
        ax.plot(mean[rows], y[rows], ".", color=color, markersize=4.0, label=name, zorder=3)
    ax.set_xlabel("predicted")
    ax.set_ylabel("observed")
    legend_above(ax, 2)
    tidy(ax, "both")
    return ax


def bound_over_rounds(bounds: Any, *, ax: Any = None) -> Any:
    """Draw how far the lower bound of the evidence was below its last value.

    Parameters
    ----------
    bounds : (rounds,) array
        Such as ``elbo_``.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For no bounds, or more than one axis.

    Examples
    --------
    >>> from bayeskit import plots
    >>> ax = plots.bound_over_rounds([-50.0, -41.0, -40.1, -40.0])
    >>> ax.get_title(loc="left"), ax.lines[0].get_ydata().tolist()
    ('nats below the last lower bound, -40.0', [10.0, 1.0, 0.1])
    """
    bounds = np.asarray(bounds, float)
    if bounds.ndim != 1 or not len(bounds):
        raise ValueError(f"bounds must be one value for each round, got shape {bounds.shape}")
    if ax is None:
        ax = new_axes(7.2, 2.6)
    below = bounds[-1] - bounds[:-1]
    rounds = np.arange(1, len(bounds))
    shown = below > 0
    ax.plot(rounds[shown], below[shown], "o-", color=COLORS[0], linewidth=1.6, markersize=3.6)
    if shown.any():
        ax.set_yscale("log")
    ax.set_xlim(0, len(bounds))
    ax.set_xlabel("round")
    headline(ax, f"nats below the last lower bound, {bounds[-1]:.1f}")
    tidy(ax)
    return ax


def _tick(value: Any) -> str:
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, "D"))
    return str(value) if isinstance(value, str) else f"{value:g}"


def _bars(sizes: np.ndarray, ax: Any) -> Any:
    if ax is None:
        ax = new_axes(5.0, 0.9 + 0.32 * len(sizes))
    places = np.arange(len(sizes))
    ax.barh(places, sizes, height=0.6, color=COLORS[0])
    ax.axvline(0.0, color=MUTED, linewidth=0.9)
    ax.set_yticks(places, [f"component {r}" for r in places])
    ax.set_ylim(len(sizes) - 0.4, -0.6)
    ax.set_xlabel("size")
    tidy(ax, "x")
    return ax
