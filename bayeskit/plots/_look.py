"""One look for all plots, without touching the settings of matplotlib."""

from __future__ import annotations

import math
import re
import textwrap
from typing import Any

import numpy as np

__all__ = [
    "COLORS",
    "INK",
    "MUTED",
    "few_ticks",
    "given_axes",
    "headline",
    "legend_above",
    "new_axes",
    "number",
    "panel_above",
    "panel_right",
    "panels",
    "plain",
    "short",
    "short_dates",
    "tidy",
]

# Okabe & Ito (2008): told apart with any colour vision, and in grey.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
INK = "#1f2933"
MUTED = "#66727f"
_HAIRLINE = "#e3e7eb"
_MOST_PANELS = 60


def new_axes(width: float, height: float) -> Any:
    """Return the Axes of a new figure of so many inches."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def panels(
    axes: Any,
    num: int,
    width: float,
    height: float,
    *,
    most_columns: int = 4,
    left: float = 0.16,
    top: float = 0.46,
) -> Any:
    """Return an array (num,) of Axes, one for each scalar parameter: those given, or new ones.

    Those of a new figure have so many inches each, with their margins; margins to the left and
    above are given, in inches. Places are reckoned, not found by trial: constrained layout of
    fifty panels takes longer than all that is drawn in them.

    Raises
    ------
    ValueError
        For more panels than can be looked at, and as many given Axes as do not fit.
    """
    if num > _MOST_PANELS:
        raise ValueError(
            f"there are {num} scalar parameters, more than {_MOST_PANELS} panels: choose with "
            "parameters=[...], or draw all of them as rows with forest"
        )
    if axes is not None:
        return given_axes(axes, num, "scalar parameter")
    import matplotlib.pyplot as plt

    columns = min(num, most_columns)
    rows = -(-num // columns)
    figure = plt.figure(figsize=(columns * width, rows * height))
    right, bottom = 0.16, 0.34
    axes = np.empty(num, object)
    for i in range(num):
        row, column = divmod(i, columns)
        place = (column * width + left, (rows - row - 1) * height + bottom)
        size = (width - left - right, height - top - bottom)
        axes[i] = figure.add_axes(
            (
                place[0] / (columns * width),
                place[1] / (rows * height),
                size[0] / (columns * width),
                size[1] / (rows * height),
            )
        )
    return axes


def given_axes(axes: Any, num: int, what: str) -> Any:
    """Return given Axes as an array (num,), and refuse too few or too many."""
    flat = np.array(axes, object).ravel()
    if len(flat) != num:
        raise ValueError(f"axes must be {num}, one for each {what}, got {len(flat)}")
    return flat


def few_ticks(axis: Any, most: int = 4, *, whole: bool = False) -> None:
    """Keep so few numbers along an axis that they do not touch, and what they share small."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole))
    axis.get_offset_text().set(size=8, color=MUTED)


def number(value: float, resolution: float) -> str:
    """Return a number up to the first digit that is resolved."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    least = math.floor(math.log10(resolution)) if resolution > 0 else -math.inf
    size = math.floor(math.log10(abs(value)))
    digits = int(min(max(size - least + 1, 1), 10))
    # A number in full, unless zeros would be most of it.
    if -3 <= max(size, least) < max(6, digits):
        # No more than ten digits in all.
        text = f"{value:.{int(max(min(-least, 9 - size), 0))}f}"
    else:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}")


def plain(text: str) -> str:
    r"""Return a name as it is written: dollars that mean money are no sign of mathematics.

    What is between two dollars is mathematics, such as ``$\beta_1$``, if it can be read as
    such and does not begin with a digit.
    """
    if text.count("$") < 2:
        return text
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("path").parse(text)
        readable = not re.search(r"\$\d", text)
    except ValueError:
        readable = False
    return text if readable else text.replace("$", r"\$")


def short(text: str, width: int, lines: int = 1) -> str:
    """Return a name in few lines; of one that is too long, its start and its end."""
    most = width * lines
    if len(text) > most:
        text = f"{text[: most - most // 3 - 1]}…{text[len(text) - most // 3 :]}"
    wrapped = textwrap.wrap(text, width)[:lines]
    return "\n".join(map(plain, wrapped)) or text


def panel_right(ax: Any, width: float) -> Any:
    """Return new Axes to the right of the given ones, which make room and share their y.

    Parameters
    ----------
    ax : matplotlib Axes
    width : float
        Of the new panel, in widths of the one to the left.
    """
    place = ax.get_subplotspec()
    if place is None:
        from mpl_toolkits.axes_grid1 import make_axes_locatable

        right = make_axes_locatable(ax).append_axes(
            "right", size=f"{100 * width:.0f}%", pad=0.3, sharey=ax
        )
    else:
        columns = place.subgridspec(1, 2, width_ratios=(1.0, width))
        ax.set_subplotspec(columns[0])
        right = ax.figure.add_subplot(columns[1], sharey=ax)
    right.tick_params(labelleft=False)
    return right


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
    import matplotlib as mpl

    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(_HAIRLINE)
    ax.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    ax.set_axisbelow(True)
    if mpl.rcParams["axes.grid"]:
        ax.grid(False)
    ax.grid(axis=grid, color=_HAIRLINE, linewidth=0.8)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=MUTED, size=9.5)
