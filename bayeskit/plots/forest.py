"""Medians and intervals of many parameters, side by side for several results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, MUTED, legend_above, new_axes, tidy

__all__ = ["forest"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Inches.
_ROW_HEIGHT = 0.2
_RESULT_HEIGHT = 0.08


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
    results : Posterior, fitted estimator, or dict of them by name
        Several results are drawn side by side, with a legend.
    parameters : sequence of str, optional
        Parameters to draw, from top to bottom. Default: all of the first result.
    labels : mapping of str to sequence of str, optional
        Names of the entries of vector parameters. Default: those of the estimator.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a result lacks one of the parameters, or has it in another shape.
    """
    several = dict(results) if isinstance(results, Mapping) else {"": results}
    if not several:
        raise ValueError("results is empty: give at least one posterior")
    if labels is None:
        labels = _labels_of(next(iter(several.values())))
    draws = {name: _draws_of(result) for name, result in several.items()}
    first = next(iter(draws.values()))
    parameters = list(first) if parameters is None else list(parameters)
    _check_parameters(draws, parameters)
    rows = [
        (name, index) for name in parameters for index in np.ndindex(np.shape(first[name])[2:])
    ]
    if ax is None:
        row_height = _ROW_HEIGHT + _RESULT_HEIGHT * (len(several) - 1)
        ax = new_axes(7.2, 0.9 + row_height * len(rows))
    ax.axvline(0.0, color=MUTED, linewidth=0.9, zorder=1)
    # Closer to one another than to the next row.
    spread = 0.3 * (1.0 - 1.0 / len(several))
    offsets = np.linspace(-spread, spread, len(several))
    for i, (result_name, named) in enumerate(draws.items()):
        values = [named[name][(slice(None), slice(None), *index)] for name, index in rows]
        _draw_intervals(ax, values, offsets[i], COLORS[i % len(COLORS)], result_name)
    ax.set_yticks(range(len(rows)), [_row_label(*row, labels) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("median, 50 % and 90 % interval")
    tidy(ax, "both")
    if len(several) > 1:
        legend_above(ax, len(several))
    return ax


def _draw_intervals(
    ax: Any, values: list[np.ndarray], offset: float, color: str, label: str
) -> None:
    low, lower, middle, upper, high = np.quantile(
        np.stack([np.ravel(v) for v in values]), _QUANTILES, axis=1
    )
    y = np.arange(len(values)) + offset
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


def _draws_of(result: Any) -> Mapping[str, np.ndarray]:
    posterior = getattr(result, "result_", result)
    if not hasattr(posterior, "draws"):
        raise TypeError(
            "results must be a Posterior, a fitted estimator or a dict of them, got "
            f"{type(result).__name__}"
        )
    return posterior.draws


def _labels_of(result: Any) -> dict[str, Sequence[str]]:
    coords = getattr(result, "coords", None) or {}
    dims = getattr(result, "dims", None) or {}
    return {
        name: coords[axes[0]]
        for name, axes in dims.items()
        if len(axes) == 1 and axes[0] in coords
    }


def _check_parameters(
    draws: Mapping[str, Mapping[str, np.ndarray]], parameters: Sequence[str]
) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for result_name, named in draws.items():
        for name in parameters:
            if name not in named:
                raise ValueError(
                    f"the result {result_name!r} has no parameter {name!r}: it has "
                    f"{', '.join(named)}"
                )
            shape = np.shape(named[name])[2:]
            if shapes.setdefault(name, shape) != shape:
                raise ValueError(
                    f"the parameter {name!r} has shape {shape} in the result {result_name!r} "
                    f"and {shapes[name]} in another: compare results of one model"
                )


def _row_label(name: str, index: tuple[int, ...], labels: Mapping[str, Sequence[str]]) -> str:
    if not index:
        return name
    if name in labels and len(index) == 1:
        return str(labels[name][index[0]])
    return f"{name}[{', '.join(map(str, index))}]"
