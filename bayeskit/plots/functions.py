"""Functions of one coordinate with their bands."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, INK, new_axes, tidy

__all__ = ["function_bands"]


def function_bands(
    bands: Any, *, observations: Any = None, label: str = "median, 5 % to 95 %", ax: Any = None
) -> Any:
    """Draw the median of a function and the band from 5 % to 95 %.

    Parameters
    ----------
    bands : pandas.DataFrame
        By coordinate, with columns 5%, median and 95%, as from ``MarkovGPRegressor.bands``.
    observations : tuple of arrays (x, y), optional
        Drawn as points.
    label : str
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes
    """
    if ax is None:
        ax = new_axes(7.2, 3.2)
    rows = bands.sort_index()
    x = rows.index.to_numpy()
    ax.fill_between(x, rows["5%"], rows["95%"], color=COLORS[0], alpha=0.18, linewidth=0)
    ax.plot(x, rows["median"], color=COLORS[0], linewidth=1.6, label=label)
    if observations is not None:
        seen_x, seen_y = (np.asarray(v) for v in observations)
        ax.plot(seen_x, seen_y, ".", color=INK, markersize=4.0, label="observed", zorder=3)
    ax.set_xlabel("x")
    ax.legend(loc="best", ncols=2, frameon=False, labelcolor=INK, fontsize=9.5)
    tidy(ax)
    return ax
