"""One look for all plots, without touching the settings of matplotlib."""

from __future__ import annotations

from typing import Any

__all__ = [
    "COLORS",
    "INK",
    "MUTED",
    "headline",
    "legend_above",
    "new_axes",
    "panel_above",
    "short_dates",
    "tidy",
]

# Okabe & Ito (2008): told apart with any colour vision, and in grey.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
INK = "#1f2933"
MUTED = "#66727f"
_HAIRLINE = "#e3e7eb"


def new_axes(width: float, height: float) -> Any:
    """Return the Axes of a new figure of so many inches."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def panel_above(ax: Any, height: float) -> Any:
    """Return new Axes above the given ones, which make room for them and share their x.

    Parameters
    ----------
    ax : matplotlib Axes
    height : float
        Of the new panel, in heights of the one below.
    """
    place = ax.get_subplotspec()
    if place is None:
        from mpl_toolkits.axes_grid1 import make_axes_locatable

        above = make_axes_locatable(ax).append_axes(
            "top", size=f"{100 * height:.0f}%", pad=0.4, sharex=ax
        )
    else:
        rows = place.subgridspec(2, 1, height_ratios=(height, 1.0))
        ax.set_subplotspec(rows[1])
        above = ax.figure.add_subplot(rows[0], sharex=ax)
    above.tick_params(labelbottom=False)
    return above


def short_dates(ax: Any, x: Any) -> None:
    """Write dates along the axis no longer than they must be; leave numbers as they are."""
    from matplotlib import dates

    if getattr(x, "dtype", None) is None or x.dtype.kind != "M":
        return
    places = dates.AutoDateLocator(minticks=3, maxticks=8)
    ax.xaxis.set_major_locator(places)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(places))
    ax.xaxis.get_offset_text().set(size=9, color=MUTED)


def legend_above(ax: Any, ncols: int) -> None:
    """Name what is drawn in one row above the right end, where no data are."""
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=ncols,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
        borderaxespad=0.2,
    )


def headline(ax: Any, text: str) -> None:
    """Write what a panel shows above its left end."""
    ax.set_title(text, loc="left", fontsize=9.5, color=MUTED, pad=7)


def tidy(ax: Any, grid: str = "y") -> None:
    """Keep what helps to read: a light grid along one axis, and no box."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(_HAIRLINE)
    ax.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    ax.set_axisbelow(True)
    ax.grid(False)
    ax.grid(axis=grid, color=_HAIRLINE, linewidth=0.8)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=MUTED, size=9.5)
