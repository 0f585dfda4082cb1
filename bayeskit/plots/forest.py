"""Medians and intervals of many parameters, side by side for several results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    MUTED,
    few_ticks,
    legend_above,
    new_axes,
    plain,
    short,
    tidy,
)
from bayeskit.plots._results import Entry, draws_of, entries_of, weighted_quantiles

__all__ = ["forest"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Inches.
_ROW_HEIGHT = 0.2
_RESULT_HEIGHT = 0.08
_NAME_WIDTH = 48


def forest(
    results: Any,
    *,
    parameters: Sequence[str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    ax: Any = None,
) -> Any:
    """Draw the median, the 50 % and the 90 % interval of each scalar parameter.

    Parameters
    ----------
    results : Posterior, fitted estimator, ArviZ object, RefinedPosterior or Population
        Or a dict of them by name, which are drawn side by side, with a legend. Weighted draws
        count by their weights.
    parameters : sequence of str, optional
        Parameters, or single entries such as ``"theta[2]"``, from top to bottom. Default: all
        of the first result.
    labels : mapping of str to sequence of str, optional
        Names of the entries of vector parameters. Default: those of the first result.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a result lacks one of the parameters, has it in another shape, or has draws that are
        not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.interop.arviz import to_arviz
    >>> draws = np.random.default_rng(0).normal(size=(4, 100, 2))
    >>> results = {name: to_arviz({"posterior": {"theta": draws}}) for name in ("old", "new")}
    >>> ax = plots.forest(results, parameters=["theta[1]"])
    >>> [name.get_text() for name in ax.get_yticklabels()], ax.get_legend_handles_labels()[1]
    (['theta[1]'], ['old', 'new'])
    """
    # ArviZ objects are mappings, too.
    is_dict = isinstance(results, Mapping) and not hasattr(results, "posterior")
    several = dict(results) if is_dict else {"": results}
    if not several:
        raise ValueError("results is empty: give at least one posterior")
    draws = {name: draws_of(result) for name, result in several.items()}
    first = next(iter(draws.values()))
    labels = first.labels if labels is None else labels
    if parameters is None:
        parameters = list(first.values)
    _check_shapes({name: one.values for name, one in draws.items()}, parameters)
    rows: dict[str, list[Entry]] = {}
    for name, one in draws.items():
        of = f"the result {name!r}" if name else "the result"
        rows[name] = entries_of(one._replace(labels=labels), parameters, of)
    names = [entry.label for entry in next(iter(rows.values()))]
    if ax is None:
        row_height = _ROW_HEIGHT + _RESULT_HEIGHT * (len(several) - 1)
        ax = new_axes(7.2, 0.9 + row_height * len(names))
    # Closer to one another than to the next row.
    spread = 0.3 * (1.0 - 1.0 / len(several))
    offsets = np.linspace(-spread, spread, len(several))
    for i, (name, entries) in enumerate(rows.items()):
        color = COLORS[i % len(COLORS)]
        _draw_intervals(ax, entries, draws[name].weights, offsets[i], color, plain(name))
    low, high = ax.dataLim.intervalx
    if low - (high - low) <= 0.0 <= high + (high - low):
        # Elsewhere it would hide the intervals.
        ax.axvline(0.0, color=MUTED, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(names)), [short(name, _NAME_WIDTH) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("median, 50 % and 90 % interval")
    few_ticks(ax.xaxis, 8)
    tidy(ax, "both")
    if len(several) > 1:
        legend_above(ax, len(several))
    return ax


def _draw_intervals(
    ax: Any,
    entries: list[Entry],
    weights: np.ndarray | None,
    offset: float,
    color: str,
    label: str,
) -> None:
    low, lower, middle, upper, high = np.transpose(
        [weighted_quantiles(entry.values, weights, _QUANTILES) for entry in entries]
    )
    y = np.arange(len(entries)) + offset
    ax.hlines(y, low, high, color=color, linewidth=1.1, zorder=2)
    ax.hlines(y, lower, upper, color=color, linewidth=3.4, zorder=3)
    ax.plot(
        middle,
        y,
        "o",
        color=color,
        markersize=4.8,
        markeredgecolor="white",
        markeredgewidth=0.9,
        zorder=4,
        label=label,
    )


def _check_shapes(
    draws: Mapping[str, Mapping[str, np.ndarray]], parameters: Sequence[str]
) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for result_name, named in draws.items():
        for name in parameters:
            if name not in named:
                continue
            shape = named[name].shape[2:]
            if shapes.setdefault(name, shape) != shape:
                raise ValueError(
                    f"the parameter {name!r} has shape {shape} in the result {result_name!r} "
                    f"and {shapes[name]} in another: compare results of one model"
                )
