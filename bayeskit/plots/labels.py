"""Regressions on predicted labels: beside comparators, with more labels, and label errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, INK, MUTED, headline, new_axes, plain, short, tidy

__all__ = ["compare_coefficients", "label_errors", "power_curve"]

_NAMES = {
    "dsl": "DSL",
    "gold": "labels alone",
    "semi_supervised": "predictions alone\n(interval not valid)",
    "surrogate": "surrogates alone\n(interval not valid)",
}
_ROW_HEIGHT = 0.42
_NAME_WIDTH = 30
# Quantile groups of predictions, with labels enough in each to have a mean.
_NUM_GROUPS = 10


def compare_coefficients(
    table: Any, *, terms: Sequence[str] | None = None, truth: Any = None, ax: Any = None
) -> Any:
    """Draw the estimates and intervals of several methods side by side.

    Parameters
    ----------
    table : DataFrame
        By method and term, with columns estimate, lower and upper, as from
        ``DSLRegressor.compare()``.
    terms : sequence of str, optional
        From top to bottom. Default: all.
    truth : mapping of str to float, optional
        Values to mark, by term.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import pandas as pd
    >>> from bayeskit import plots
    >>> rows = [("dsl", "age", 0.5, 0.2, 0.8), ("gold", "age", 0.6, 0.1, 1.1)]
    >>> table = pd.DataFrame(rows, columns=["method", "term", "estimate", "lower", "upper"])
    >>> ax = plots.compare_coefficients(table.set_index(["method", "term"]), truth={"age": 0.4})
    >>> ax.get_legend_handles_labels()[1]
    ['DSL', 'labels alone', 'truth']
    """
    methods = list(table.index.get_level_values(0).unique())
    chosen = list(table.loc[methods[0]].index) if terms is None else list(terms)
    if ax is None:
        ax = new_axes(7.2, 1.1 + _ROW_HEIGHT * len(chosen))
    ax.axvline(0.0, color=MUTED, linewidth=0.9, zorder=1)
    offsets = np.linspace(-0.3, 0.3, len(methods)) if len(methods) > 1 else [0.0]
    rows = np.arange(len(chosen))
    for i, method in enumerate(methods):
        part = table.loc[method].loc[chosen]
        y, color = rows + offsets[i], COLORS[i % len(COLORS)]
        ax.hlines(y, part["lower"], part["upper"], color=color, linewidth=1.8, zorder=2)
        ax.plot(
            part["estimate"],
            y,
            "o",
            color=color,
            markersize=5.0,
            markeredgecolor="white",
            markeredgewidth=0.8,
            zorder=3,
            label=_NAMES.get(method, plain(str(method))),
        )
    if truth is not None:
        known = [i for i, term in enumerate(chosen) if term in truth]
        values = [truth[chosen[i]] for i in known]
        low, high = np.array(known) - 0.42, np.array(known) + 0.42
        ax.vlines(values, low, high, color=INK, linewidth=1.4, zorder=4, label="truth")
    ax.set_yticks(rows, [short(str(term), _NAME_WIDTH, 2) for term in chosen])
    ax.set_ylim(len(chosen) - 0.45, -0.55)
    ax.set_xlabel("estimate and interval")
    tidy(ax, "x")
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        borderaxespad=0.2,
    )
    return ax


def power_curve(
    table: Any,
    *,
    terms: Sequence[str] | None = None,
    target_se: float | None = None,
    ax: Any = None,
) -> Any:
    """Draw the standard errors to expect by the number of labels.

    Parameters
    ----------
    table : DataFrame
        By number of labels, a column for each term, as from ``DSLRegressor.power()``; the first
        row is the fit itself.
    terms : sequence of str, optional
        Default: all.
    target_se : float, optional
        Drawn as a line.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import pandas as pd
    >>> from bayeskit import plots
    >>> errors = pd.DataFrame({"age": [0.2, 0.14, 0.1]}, index=[100, 200, 400])
    >>> ax = plots.power_curve(errors, target_se=0.12)
    >>> ax.get_xlabel(), ax.lines[0].get_ydata().tolist()
    ('number of labels (dot: those there are)', [0.2, 0.14, 0.1])
    """
    if ax is None:
        ax = new_axes(7.2, 3.4)
    now, rows = table.index[0], table.sort_index(kind="stable")
    for i, term in enumerate(table.columns if terms is None else terms):
        color = COLORS[i % len(COLORS)]
        ax.plot(rows.index, rows[term], color=color, linewidth=1.6, label=plain(str(term)))
        ax.plot(now, table[term].iloc[0], "o", color=color, markersize=5.5)
    if target_se is not None:
        ax.axhline(target_se, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel("number of labels (dot: those there are)")
    ax.set_ylabel("standard error")
    tidy(ax)
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    return ax


def label_errors(
    predictions: Any, labels: Any, *, num_groups: int = _NUM_GROUPS, ax: Any = None
) -> Any:
    """Draw mean labels against mean predictions, by groups of like predictions.

    On the diagonal predictions are right on average. DSL is valid wherever the points lie; the
    closer they are to the diagonal, and the wider they spread along it, the more do
    predictions help.

    Parameters
    ----------
    predictions : (rows) array
        Of the labelled rows, cross-fitted, such as from ``DSLRegressor.label_diagnostics()``.
    labels : (rows) array
    num_groups : int
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    Predictions that are 0.1 too low:

    >>> import numpy as np
    >>> from bayeskit import plots
    >>> predictions = np.linspace(0.0, 1.0, 40)
    >>> ax = plots.label_errors(predictions, predictions + 0.1, num_groups=4)
    >>> ax.get_title(loc="left")
    '40 labelled rows in 4 groups'
    """
    predictions, labels = np.asarray(predictions, float), np.asarray(labels, float)
    if ax is None:
        ax = new_axes(4.6, 4.2)
    edges = np.unique(np.quantile(predictions, np.linspace(0, 1, num_groups + 1)))
    group = np.clip(np.searchsorted(edges, predictions, "right") - 1, 0, max(len(edges) - 2, 0))
    codes, counts = np.unique(group, return_counts=True)
    centre = np.array([predictions[group == g].mean() for g in codes])
    mean = np.array([labels[group == g].mean() for g in codes])
    spread = np.array([labels[group == g].std() for g in codes])
    error = 1.96 * spread / np.sqrt(counts)
    ends = [min(centre.min(), mean.min()), max(centre.max(), mean.max())]
    ax.plot(ends, ends, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    ax.errorbar(
        centre,
        mean,
        yerr=error,
        fmt="o",
        color=COLORS[0],
        markersize=5.0,
        elinewidth=1.4,
        zorder=3,
    )
    ax.set_xlabel("mean prediction")
    ax.set_ylabel("mean label, 95 % interval")
    headline(ax, f"{len(labels)} labelled rows in {len(codes)} groups")
    tidy(ax)
    return ax
