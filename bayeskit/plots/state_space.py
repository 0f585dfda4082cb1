"""States and observations over time, with their bands."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    INK,
    headline,
    legend_above,
    new_axes,
    short,
    short_dates,
    tidy,
)

__all__ = ["states_over_time"]

# Observations that can be told apart.
_MANY = 1000
_NAME_WIDTH = 40


def states_over_time(
    bands: Any,
    variable: str | None = None,
    *,
    observations: Any = None,
    forecast: Any = None,
    ax: Any = None,
) -> Any:
    """Draw the median of a variable over time and the band from 5 % to 95 %.

    Parameters
    ----------
    bands : pandas.DataFrame or fitted estimator
        From ``filter_``, ``smooth()`` or a forecast. An estimator stands for its ``filter_``.
    variable : str, optional
        Default: the first.
    observations : array (num_steps,), optional
        Drawn as points at the first times of the bands; NaN leaves a gap.
    forecast : pandas.DataFrame, optional
        What follows, drawn in another colour.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If the bands have no such variable, or observations are no single column.

    Examples
    --------
    >>> import pandas as pd
    >>> from bayeskit import plots
    >>> rows = [("x", 0, -1.0, 0.0, 1.0), ("x", 1, -0.5, 0.5, 1.5)]
    >>> bands = pd.DataFrame(rows, columns=["variable", "time", "5%", "median", "95%"])
    >>> bands = bands.set_index(["variable", "time"])
    >>> ax = plots.states_over_time(bands, observations=[0.2, 0.4])
    >>> ax.get_title(loc="left"), ax.get_legend_handles_labels()[1]
    ('x', ['median, 5 % to 95 %', 'observed'])
    """
    bands = getattr(bands, "filter_", bands)
    known = list(bands.index.get_level_values("variable").unique())
    variable = known[0] if variable is None else variable
    parts = [(bands, COLORS[0], "median, 5 % to 95 %")]
    if forecast is not None:
        parts.append((forecast, COLORS[1], "forecast"))
    for frame, _, what in parts:
        if variable not in frame.index.get_level_values("variable"):
            raise ValueError(f"{what}: there is no variable {variable!r}, only {known}")
    if ax is None:
        ax = new_axes(7.2, 3.2)
    for frame, color, label in parts:
        rows = frame.loc[variable]
        times = rows.index.to_numpy()
        ax.fill_between(times, rows["5%"], rows["95%"], color=color, alpha=0.18, linewidth=0)
        ax.plot(times, rows["median"], color=color, linewidth=1.6, label=label)
    if observations is not None:
        seen = np.asarray(observations, float)
        if seen.ndim != 1:
            raise ValueError(
                f"observations must be one column, got shape {seen.shape}: choose one"
            )
        times = bands.loc[variable].index.to_numpy()[: len(seen)]
        size = 4.5 if len(seen) <= _MANY else 1.5
        ax.plot(times, seen, ".", color=INK, markersize=size, label="observed", zorder=3)
    short_dates(ax, bands.loc[variable].index)
    ax.set_xlabel("time")
    headline(ax, short(variable, _NAME_WIDTH))
    legend_above(ax, 3)
    tidy(ax)
    return ax
