"""Functions of one coordinate with their bands."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, INK, legend_above, new_axes, short_dates, tidy

__all__ = ["function_bands"]


def function_bands(
    bands: Any, *, observations: Any = None, label: str | None = None, ax: Any = None
) -> Any:
    """Draw the median of a function and a band between two of its quantiles.

    Parameters
    ----------
    bands : pandas.DataFrame
        By coordinate, with columns such as 5%, median and 95%, as from
        ``MarkovGPRegressor.bands``. The band goes from the first to the last that ends in %.
    observations : tuple of arrays (x, y), optional
        Drawn as points.
    label : str, optional
        Default: the names of the columns.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        Without the columns of a band.

    Examples
    --------
    >>> import pandas as pd
    >>> from bayeskit import plots
    >>> columns = {"5%": [-1.0, 0.0], "median": [0.0, 1.0], "95%": [1.0, 2.0]}
    >>> ax = plots.function_bands(pd.DataFrame(columns, index=[0.0, 1.0]))
    >>> ax.get_legend_handles_labels()[1]
    ['median, 5 % to 95 %']
    """
    ends = [name for name in bands.columns if str(name).endswith("%")]
    if len(ends) < 2 or "median" not in bands.columns:
        raise ValueError(
            "bands must have a column median and two whose names end in %, such as 5% and 95%, "
            f"got {list(bands.columns)}"
        )
    low, high = ends[0], ends[-1]
    if label is None:
        label = f"median, {low[:-1]} % to {high[:-1]} %"
    if ax is None:
        ax = new_axes(7.2, 3.2)
    rows = bands.sort_index()
    x = rows.index.to_numpy()
    ax.fill_between(x, rows[low], rows[high], color=COLORS[0], alpha=0.18, linewidth=0)
    ax.plot(x, rows["median"], color=COLORS[0], linewidth=1.6, label=label)
    if observations is not None:
        seen_x, seen_y = (np.asarray(v) for v in observations)
        ax.plot(seen_x, seen_y, ".", color=INK, markersize=4.0, label="observed", zorder=3)
    short_dates(ax, rows.index)
    ax.set_xlabel("x")
    legend_above(ax, 2)
    tidy(ax)
    return ax
