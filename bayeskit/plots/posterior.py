"""Densities of scalar parameters with intervals and a point estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.plots._density import Curve, curve_of, highest_density_interval, view_of
from bayeskit.plots._look import (
    COLORS,
    INK,
    MUTED,
    few_ticks,
    headline,
    number,
    panels,
    short,
    tidy,
)
from bayeskit.plots._results import draws_of, entries_of, prior_of, weighted_quantiles

__all__ = ["draw_curve", "posterior"]

_POINTS = ("median", "mean", "mode")
_INTERVALS = ("equal-tailed", "hdi")
# Inches of a panel.
_WIDTH, _HEIGHT = 2.5, 1.75
_NAME_WIDTH = 27
_NUM_POINTS = 200
# Letters of a headline that fit in a panel; longer ones are smaller.
_HEADLINE_WIDTH = 35
# Less than this is not worth to be told.
_LEAST_HIDDEN = 0.002
_FILL = 0.2


def posterior(
    result: Any,
    *,
    parameters: Sequence[str] | str | None = None,
    point: str = "median",
    interval: str = "equal-tailed",
    level: float = 0.9,
    prior: Any = None,
    axes: Any = None,
) -> Any:
    """Draw the density of each scalar parameter with its interval and a point estimate.

    Weighted draws count by their weights. The density of draws is estimated between the least
    and the largest: none lies where no draw can be. Whole numbers, and parameters that take few
    values, have a bar for the mass of each. Tails so long that they would hide the middle
    leave the panel, which then says what share does, if more than 0.2 %.

    Parameters
    ----------
    result : Posterior, fitted estimator, ArviZ object, RefinedPosterior or Population
        Of a Population the weighted particles are drawn.
    parameters : sequence of str, optional
        Parameters, or single entries such as ``"theta[2]"``. Default: all.
    point : {"median", "mean", "mode"}
        Marked by a dot. The mode is that of the density that is drawn.
    interval : {"equal-tailed", "hdi"}
        The thin line; the thick one is the interval of the same kind with half of the mass.
        ``"hdi"``: the shortest.
    level : float in (0, 1)
        Mass of the interval.
    prior : True, or any of what ``result`` may be, optional
        Draws of the prior, whose density is a grey line as far as it is in view. True: those
        of the result, which has them if it is a fitted estimator of a NumPyro model or an ArviZ
        object with a group ``prior``.
    axes : array of matplotlib Axes, optional
        One for each scalar parameter. Default: those of a new figure.

    Returns
    -------
    array (panel,) of matplotlib Axes

    Raises
    ------
    ValueError
        For a parameter that there is not, draws that are not finite, more than 60 scalar
        parameters, and as many axes as do not fit.

    Notes
    -----
    O(num log num) for each parameter, since draws are sorted.

    References
    ----------
    Botev, Grotowski & Kroese (2010), for the bandwidth.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.interop.arviz import to_arviz
    >>> draws = np.random.default_rng(0).normal(size=(4, 100, 2))
    >>> result = to_arviz({"posterior": {"theta": draws}})
    >>> plots.posterior(result).shape
    (2,)
    """
    for name, value, known in (("point", point, _POINTS), ("interval", interval, _INTERVALS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    draws = draws_of(result)
    entries = entries_of(draws, parameters)
    before = None
    if prior is not None and prior is not False:
        before = prior_of(result) if prior is True else draws_of(prior)
        before = before._replace(labels=draws.labels)
        labels = [entry.label for entry in entries]
        before_entries = entries_of(before, labels, "the prior")
    axes = panels(axes, len(entries), _WIDTH, _HEIGHT)
    for i, (ax, (label, values)) in enumerate(zip(axes, entries, strict=True)):
        _draw_panel(ax, label, values, draws.weights, point, interval, level)
        if before is not None:
            _draw_prior(ax, before_entries[i].values, before.weights, i == 0)
    return axes


def _draw_panel(
    ax: Any,
    label: str,
    values: np.ndarray,
    weights: np.ndarray | None,
    point: str,
    interval: str,
    level: float,
) -> None:
    view = view_of(values, weights)
    curve = curve_of(values, weights, view)
    draw_curve(ax, curve, COLORS[0])
    low, high = _interval(values, weights, interval, level)
    inner = _interval(values, weights, interval, 0.5)
    middle = _point(values, weights, point, curve)
    top = float(curve.height.max())
    below = -0.1 * top
    # What is cut off at an end of the panel goes on.
    ax.plot([low, high], [below] * 2, color=COLORS[0], lw=1.2, solid_capstyle="butt")
    ax.plot(inner, [below] * 2, color=COLORS[0], lw=3.6, solid_capstyle="butt")
    ax.plot(middle, below, "o", color=COLORS[0], ms=5.2, mec="white", mew=0.9, zorder=4)
    ax.set_ylim(-0.22 * top, 1.06 * top)
    _set_view(ax, view, curve)
    ax.set_yticks([])
    few_ticks(ax.xaxis, whole=values.dtype.kind in "iu")
    tidy(ax, "x")
    ends = (float(low), float(high))
    headline(ax, _sentence(values, float(middle), ends, point, level))
    text = ax.get_title(loc="left")
    ax._left_title.set_size(8 if len(text) <= _HEADLINE_WIDTH else 6.8)
    ax.annotate(
        short(label, _NAME_WIDTH),
        (0.0, 1.0),
        xytext=(0.0, 19.0),
        xycoords="axes fraction",
        textcoords="offset points",
        color=INK,
        fontsize=9.5,
        va="bottom",
        annotation_clip=False,
    )
    _tell_hidden(ax, values, weights, view)


def _draw_prior(ax: Any, values: np.ndarray, weights: np.ndarray | None, named: bool) -> None:
    """Draw the density of the prior within the limits of a panel, and name it once."""
    curve = curve_of(values, weights)
    low, high = ax.get_xlim()
    if curve.is_discrete:
        shown = (curve.x >= low) & (curve.x <= high)
        x, height, style = curve.x[shown], curve.height[shown], {"drawstyle": "steps-mid"}
    else:
        # The prior may be much wider than what is in view. NaN: where it has no draws.
        x, style = np.linspace(low, high, _NUM_POINTS), {}
        height = np.interp(x, curve.x, curve.height, left=np.nan, right=np.nan)
    ax.plot(x, height, color=MUTED, linewidth=1.2, zorder=1.5, **style)
    seen = np.flatnonzero(np.isfinite(height))
    if not len(seen):
        return
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, max(top, 1.06 * float(height[seen].max())))
    if named:
        place = seen[len(seen) // 8]
        ax.annotate(
            "prior",
            (x[place], height[place]),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=MUTED,
        )


def _sentence(
    values: np.ndarray, middle: float, ends: tuple[float, float], point: str, level: float
) -> str:
    if values.min() == values.max():
        return f"every draw is {float(values.flat[0]):.6g}"
    if values.dtype.kind in "iu" and all(float(v).is_integer() for v in (middle, *ends)):
        shown = [f"{v:.0f}" for v in (middle, *ends)]
    else:
        resolution = 0.03 * (ends[1] - ends[0]) or 0.1 * abs(middle) or 1.0
        shown = [number(v, resolution) for v in (middle, *ends)]
    return f"{point} {shown[0]}, {100 * level:g} % {shown[1]} to {shown[2]}"


def draw_curve(ax: Any, curve: Curve, color: str, *, sideways: bool = False) -> None:
    """Draw a density as a filled line, masses as bars."""
    if curve.is_discrete:
        # As wide as leaves a gap between neighbours.
        gap = float(np.diff(curve.x).min()) if len(curve.x) > 1 else 1.0
        ax.bar(curve.x, curve.height, 0.8 * gap, color=color, alpha=0.55, linewidth=0)
        return
    x = np.concatenate([curve.x[:1], curve.x, curve.x[-1:]])
    height = np.concatenate([[0.0], curve.height, [0.0]])
    ax.fill_between(curve.x, curve.height, color=color, alpha=_FILL, linewidth=0)
    ax.plot(x, height, color=color, linewidth=1.4)


def _set_view(ax: Any, view: tuple[float, float], curve: Curve) -> None:
    low, high = view
    if curve.is_discrete:
        gap = float(np.diff(curve.x).min()) if len(curve.x) > 1 else 1.0
        if len(curve.x) == 1:
            gap = max(1.0, abs(low)) if isinstance(curve.x[0], np.integer) else abs(low) or 1.0
        low, high = low - 0.7 * gap, high + 0.7 * gap
    margin = 0.03 * (high - low)
    ax.set_xlim(low - margin, high + margin)


def _interval(
    values: np.ndarray, weights: np.ndarray | None, kind: str, level: float
) -> tuple[float, float]:
    if kind == "hdi":
        return highest_density_interval(values, weights, level)
    ends = (0.5 - 0.5 * level, 0.5 + 0.5 * level)
    low, high = weighted_quantiles(values, weights, ends)
    return float(low), float(high)


def _point(values: np.ndarray, weights: np.ndarray | None, kind: str, curve: Curve) -> float:
    if kind == "mean":
        return float(np.average(values, weights=weights))
    if kind == "mode":
        return float(curve.x[np.argmax(curve.height)])
    return float(weighted_quantiles(values, weights, 0.5))


def _tell_hidden(
    ax: Any, values: np.ndarray, weights: np.ndarray | None, view: tuple[float, float]
) -> None:
    outside = (values < view[0]) | (values > view[1])
    share = float(np.average(outside, weights=weights))
    if share < _LEAST_HIDDEN:
        return
    ax.annotate(
        f"{100 * share:.2g} % beyond",
        (1.0, 1.0),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=7.5,
        color=MUTED,
    )
