"""Two parameters at a time: points or densities, and where transitions diverged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.plots._density import curve_of, plane_density, view_of
from bayeskit.plots._look import COLORS, INK, MUTED, few_ticks, given_axes, short, tidy
from bayeskit.plots._results import Draws, Entry, draws_of, entries_of, weighted_quantiles
from bayeskit.plots.posterior import draw_curve

__all__ = ["pair"]

_KINDS = ("auto", "scatter", "density")
# More panels in a row cannot be read.
_MOST = 12
# Points of a panel that can be told apart.
_MOST_POINTS = 1000
_MOST_DIVERGENT = 500
# Masses within the lines of a density, from the outermost to the innermost.
_MASSES = (0.95, 0.8, 0.5, 0.2)
# Inches.
_SIDE, _LEFT, _BOTTOM, _GAP, _TOP = 1.55, 0.85, 0.6, 0.12, 0.35
_NAME_WIDTH, _NAME_LINES = 20, 2
_POINT_AREA = 9.0


def pair(
    result: Any,
    *,
    parameters: Sequence[str] | str | None = None,
    kind: str = "auto",
    axes: Any = None,
) -> Any:
    """Draw each pair of scalar parameters, and the density of each on the diagonal.

    Points of weighted draws have areas in proportion to the weights. The lines of a density
    hold 95 %, 80 %, 50 % and 20 % of the mass. Whole numbers, which have no density, are drawn
    as a map of masses. Draws at which a transition diverged are orange crosses.

    Parameters
    ----------
    result : Posterior, fitted estimator, ArviZ object, RefinedPosterior or Population
    parameters : sequence of str, optional
        Two to twelve parameters, or single entries such as ``"theta[2]"``. Default: all.
    kind : {"auto", "scatter", "density"}
        ``"auto"``: points up to 1000 draws, densities of more. ``"scatter"`` draws every
        draw, however many there are.
    axes : (num, num) array of matplotlib Axes, optional
        Those above the diagonal are left alone; they may be None. Default: those of a new
        figure.

    Returns
    -------
    array (num, num) of matplotlib Axes
        None above the diagonal of a new figure.

    Raises
    ------
    ValueError
        For one parameter or more than twelve, draws that are not finite, and as many axes as do
        not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.interop.arviz import to_arviz
    >>> draws = np.random.default_rng(0).normal(size=(4, 100, 2))
    >>> result = to_arviz({"posterior": {"theta": draws}})
    >>> plots.pair(result).shape
    (2, 2)
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {_KINDS}, got {kind!r}")
    draws = draws_of(result)
    entries = entries_of(draws, parameters)
    num = len(entries)
    if not 2 <= num <= _MOST:
        what = ", ".join(entry.label for entry in entries[:3]) + (", ..." if num > 3 else "")
        raise ValueError(
            f"pair draws 2 to {_MOST} scalar parameters, got {num} ({what}): choose with "
            "parameters=[...]"
        )
    if axes is None:
        axes = _new_grid(num)
    else:
        axes = given_axes(axes, num * num, "pair of parameters").reshape(num, num)
    views = [_padded(view_of(entry.values, draws.weights)) for entry in entries]
    points = kind == "scatter" or (kind == "auto" and entries[0].values.size <= _MOST_POINTS)
    for row in range(num):
        for column in range(row):
            chosen = (entries[column], entries[row])
            _draw_pair(axes[row, column], chosen, draws, (views[column], views[row]), points)
        _draw_diagonal(axes[row, row], entries[row], draws, views[row])
    _label(axes, entries)
    return axes


def _new_grid(num: int) -> Any:
    import matplotlib.pyplot as plt

    width = _LEFT + num * _SIDE + (num - 1) * _GAP + 0.15
    height = _BOTTOM + num * _SIDE + (num - 1) * _GAP + _TOP
    figure = plt.figure(figsize=(width, height))
    axes = np.full((num, num), None, object)
    for row in range(num):
        for column in range(row + 1):
            left = _LEFT + column * (_SIDE + _GAP)
            bottom = _BOTTOM + (num - 1 - row) * (_SIDE + _GAP)
            axes[row, column] = figure.add_axes(
                (left / width, bottom / height, _SIDE / width, _SIDE / height)
            )
    return axes


def _padded(view: tuple[float, float]) -> tuple[float, float]:
    """Return ends of an axis with some room for points, and for a constant."""
    low, high = view
    room = 0.04 * (high - low) or 0.5 * abs(low) or 0.5
    return low - room, high + room


def _draw_pair(
    ax: Any, chosen: tuple[Entry, Entry], draws: Draws, views: Any, points: bool
) -> None:
    x, y = (np.ravel(entry.values) for entry in chosen)
    weights = None if draws.weights is None else np.ravel(draws.weights)
    discrete = [entry.values.dtype.kind in "iu" for entry in chosen]
    constant = any(values.min() == values.max() for values in (x, y))
    if any(discrete) and not constant:
        _draw_masses(ax, (x, y), weights, views, discrete)
    elif points or constant:
        area = _POINT_AREA if weights is None else _POINT_AREA * weights / weights.mean()
        ax.scatter(x, y, area, color=COLORS[0], alpha=0.35, linewidth=0, rasterized=True)
    else:
        inner = [
            (max(v.min(), low), min(v.max(), high))
            for v, (low, high) in zip((x, y), views, strict=True)
        ]
        _draw_contours(ax, *plane_density(x, y, weights, (inner[0], inner[1])), weights)
    if draws.diverging is not None:
        where = np.flatnonzero(draws.diverging.ravel())
        where = where[:: -(-len(where) // _MOST_DIVERGENT) or 1]
        ax.plot(x[where], y[where], "x", color=COLORS[1], markersize=3.6, markeredgewidth=0.9)
    ax.set(xlim=views[0], ylim=views[1])


def _draw_contours(
    ax: Any,
    x: np.ndarray,
    y: np.ndarray,
    height: np.ndarray,
    at_draws: np.ndarray,
    weights: np.ndarray | None,
) -> None:
    """Draw regions of the highest density that hold given masses of draws."""
    levels = np.unique(weighted_quantiles(at_draws, weights, 1.0 - np.array(_MASSES)))
    # Of heavy tails more than a twentieth may be out of view.
    levels = levels[levels > 0]
    colors = [(*_rgb(COLORS[0]), alpha) for alpha in np.linspace(0.14, 0.75, len(levels))]
    ax.contourf(x, y, height, [*levels, 1.01 * height.max()], colors=colors)
    ax.contour(x, y, height, levels[:1], colors=[COLORS[0]], linewidths=0.7)


def _rgb(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(color)


def _draw_masses(
    ax: Any, values: Any, weights: np.ndarray | None, views: Any, discrete: list[bool]
) -> None:
    """Draw masses in cells, of one or a few whole numbers each, as shades of blue."""
    edges = []
    for part, (low, high), whole in zip(values, views, discrete, strict=True):
        inside = part[(part >= low) & (part <= high)]
        if whole:
            step = -(-int(inside.max() - inside.min() + 1) // 40)
            edges.append(np.arange(inside.min(), inside.max() + step + 1, step) - 0.5)
        else:
            edges.append(np.linspace(inside.min(), inside.max(), 31))
    masses, _ = np.histogramdd(np.stack(values, axis=1), bins=edges, weights=weights)
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", ["white", COLORS[0]])
    ax.pcolormesh(*edges, masses.T, cmap=shades, rasterized=True)


def _draw_diagonal(ax: Any, entry: Entry, draws: Draws, view: tuple[float, float]) -> None:
    draw_curve(ax, curve_of(entry.values, draws.weights, view), COLORS[0])
    ax.set_xlim(view)
    ax.set_ylim(0.0)
    ax.set_yticks([])


def _label(axes: Any, entries: list[Entry]) -> None:
    num = len(entries)
    for row in range(num):
        for column in range(row + 1):
            ax = axes[row, column]
            tidy(ax, "x" if row == column else "both")
            few_ticks(ax.xaxis, 3, whole=entries[column].values.dtype.kind in "iu")
            is_last = row == num - 1
            ax.tick_params(labelbottom=is_last, labelleft=column == 0 and row > 0)
            if is_last:
                ax.set_xlabel(short(entries[column].label, _NAME_WIDTH, _NAME_LINES))
            else:
                ax.xaxis.get_offset_text().set_visible(False)
            if row > column:
                few_ticks(ax.yaxis, 3, whole=entries[row].values.dtype.kind in "iu")
                if column:
                    ax.yaxis.get_offset_text().set_visible(False)
            if column == 0 and row > 0:
                ax.set_ylabel(short(entries[row].label, _NAME_WIDTH, _NAME_LINES))
            for label in (ax.xaxis.label, ax.yaxis.label):
                label.set(color=INK, size=9)
            if row == column:
                ax.set_title(
                    short(entries[row].label, _NAME_WIDTH), fontsize=8.5, color=MUTED, pad=3
                )
