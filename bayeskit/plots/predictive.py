"""Whether data look like what the fitted model draws: posterior predictive checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeskit.plots._density import curve_of, view_of
from bayeskit.plots._look import (
    COLORS,
    INK,
    few_ticks,
    headline,
    legend_above,
    new_axes,
    plain,
    tidy,
)

__all__ = ["posterior_predictive"]

_KINDS = ("auto", "density", "counts", "ecdf")
_LEVELS = (0.05, 0.5, 0.95)
# Densities are drawn of so many replicas; bands rest on so many at most.
_NUM_LINES = 50
_MOST_REPLICAS = 500
# Of fewer values a density is a guess.
_LEAST_SMOOTHED = 30
# More whole numbers than that have no bar each: their distribution function tells more.
_MOST_BARS = 40
_MOST_STEPS = 400


def posterior_predictive(
    result: Any,
    variable: str | None = None,
    *,
    observed: Any = None,
    kind: str = "auto",
    ax: Any = None,
) -> Any:
    """Draw data over replicas of them that the posterior predicts.

    ``"density"`` draws the density of the data and of 50 replicas; ``"counts"`` how often each
    whole number was seen, with the median and the interval from 5 % to 95 % over replicas;
    ``"ecdf"`` the distribution function of the data and the band from 5 % to 95 % of those of
    replicas, point by point. Where an observation is NaN, the replicas of it are left out, too.

    Parameters
    ----------
    result : fitted estimator, ArviZ object, or dict of arrays (draw, ...)
        With the groups posterior_predictive and observed_data. A dict as from
        ``BayesianModel.sample_predictive`` needs ``observed``.
    variable : str, optional
        Default: the only one.
    observed : array (...), optional
        Default: those of the result.
    kind : {"auto", "density", "counts", "ecdf"}
        ``"auto"``: counts of up to 40 whole numbers; a density of 30 and more values that are
        no whole numbers; else the distribution function.
    ax : matplotlib Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If there are no replicas, several variables and none is chosen, shapes that do not fit,
        replicas that are not finite, or counts of what is no whole number.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> counts = np.random.default_rng(0).poisson(2.0, (101, 40))
    >>> ax = plots.posterior_predictive({"count": counts[1:]}, observed=counts[0])
    >>> int(sum(bar.get_height() for bar in ax.patches))
    40
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {_KINDS}, got {kind!r}")
    name, replicas, data = _read(result, variable, observed)
    whole = _is_whole(data) and _is_whole(replicas)
    if kind == "auto":
        low, high = min(data.min(), replicas.min()), max(data.max(), replicas.max())
        if whole:
            kind = "counts" if high - low < _MOST_BARS else "ecdf"
        else:
            kind = "density" if len(data) >= _LEAST_SMOOTHED else "ecdf"
    if kind == "counts" and not whole:
        raise ValueError(
            f"{name} has values that are no whole numbers: take kind='density' or 'ecdf'"
        )
    ax = new_axes(6.4, 3.4) if ax is None else ax
    {"density": _densities, "counts": _counts, "ecdf": _functions}[kind](ax, replicas, data)
    few_ticks(ax.xaxis, 7, whole=whole)
    ax.set_xlabel(plain(name))
    legend_above(ax, 2)
    tidy(ax, "x" if kind == "density" else "both" if kind == "ecdf" else "y")
    return ax


def _read(
    result: Any, variable: str | None, observed: Any
) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the name, replicas (draw, num) and data (num,)."""
    if isinstance(result, Mapping) and not hasattr(result, "posterior_predictive"):
        replicas = {name: np.asarray(v) for name, v in result.items()}
        data = {}
    else:
        groups: Any = result if _has_groups(result) else getattr(result, "posterior_", None)
        if not _has_groups(groups):
            raise ValueError(
                "the result has no group posterior_predictive: give a fitted BayesianModel of "
                "a NumPyro model, its posterior_, or replicas as a dict of arrays"
            )
        replicas = {
            str(k): _joined_chains(v) for k, v in groups.posterior_predictive.data_vars.items()
        }
        found = getattr(groups, "observed_data", None)
        data = {} if found is None else {str(k): v.values for k, v in found.data_vars.items()}
    if variable is None and len(replicas) != 1:
        raise ValueError(f"choose a variable: there are {', '.join(replicas) or 'none'}")
    variable = next(iter(replicas)) if variable is None else variable
    if variable not in replicas:
        raise ValueError(f"there is no variable {variable!r}, only {', '.join(replicas)}")
    if observed is None and variable not in data:
        raise ValueError(f"the result has no data of {variable}: give observed=")
    seen = np.asarray(data[variable] if observed is None else observed)
    drawn = replicas[variable]
    if drawn.shape[1:] != seen.shape:
        raise ValueError(
            f"replicas of {variable} have shape {drawn.shape[1:]}, and the data {seen.shape}"
        )
    return variable, *_finite(variable, drawn.reshape(len(drawn), -1), seen.ravel())


def _has_groups(result: Any) -> bool:
    return hasattr(result, "posterior_predictive") and hasattr(
        result.posterior_predictive, "data_vars"
    )


def _joined_chains(variable: Any) -> np.ndarray:
    others = [axis for axis in variable.dims if axis not in ("chain", "draw")]
    values = variable.transpose("chain", "draw", *others).values
    return values.reshape(-1, *values.shape[2:])


def _finite(name: str, replicas: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    as_int = lambda v: v.astype(int) if v.dtype.kind == "b" else v
    replicas, data = as_int(replicas), as_int(data)
    seen = ~np.isnan(data) if data.dtype.kind == "f" else np.ones(len(data), bool)
    if not seen.any() or not len(replicas):
        raise ValueError(f"there are no data or no replicas of {name} to compare")
    replicas, data = replicas[:, seen], data[seen]
    step = -(-len(replicas) // _MOST_REPLICAS)
    replicas = replicas[::step]
    for what, values in (("data", data[None]), ("replicas", replicas)):
        bad = ~np.isfinite(values)
        if bad.any():
            row, place = np.argwhere(bad)[0].tolist()
            raise ValueError(
                f"{bad.sum()} values of the {what} of {name} are not finite, first "
                f"{values[row, place]} at place {int(np.flatnonzero(seen)[place])}"
            )
    return replicas, data


def _is_whole(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" or bool(np.all(values == np.round(values)))


def _densities(ax: Any, replicas: np.ndarray, data: np.ndarray) -> None:
    lines = replicas[:: -(-len(replicas) // _NUM_LINES)].astype(float)
    low, high = view_of(np.concatenate([lines.ravel(), np.repeat(data, len(lines))]))
    for i, line in enumerate(lines):
        curve = curve_of(line, None, (low, high))
        label = f"{len(lines)} replicas" if i == 0 else None
        ax.plot(*_outline(curve), color=COLORS[0], lw=0.6, alpha=0.35, label=label)
    curve = curve_of(data.astype(float), None, (low, high))
    ax.plot(*_outline(curve), color=INK, linewidth=1.8, label="data", zorder=4)
    ax.set_ylim(0.0)
    ax.set_yticks([])
    headline(ax, "densities")


def _outline(curve: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a density, or a spike at each of a few values."""
    if not curve.is_discrete:
        return curve.x, curve.height
    return np.repeat(curve.x, 3), np.stack(
        [0 * curve.height, curve.height, np.full(len(curve.x), np.nan)], axis=1
    ).ravel()


def _counts(ax: Any, replicas: np.ndarray, data: np.ndarray) -> None:
    low = int(min(data.min(), replicas.min()))
    num = int(max(data.max(), replicas.max())) - low + 1
    tally = lambda row: np.bincount(row.astype(int) - low, minlength=num)
    x = low + np.arange(num)
    ax.bar(x, tally(data), 0.8, color=INK, alpha=0.22, linewidth=0, label="data")
    ends = np.quantile([tally(row) for row in replicas], _LEVELS, axis=0)
    ax.vlines(x, ends[0], ends[2], color=COLORS[0], linewidth=1.6, zorder=3)
    ax.plot(x, ends[1], "o", color=COLORS[0], ms=4.4, label="replicas, 5 % to 95 %", zorder=4)
    ax.set_ylim(0.0)
    headline(ax, "how often each number is seen")


def _functions(ax: Any, replicas: np.ndarray, data: np.ndarray) -> None:
    low, high = view_of(np.concatenate([replicas.ravel(), np.repeat(data, len(replicas))]))
    if _is_whole(data) and _is_whole(replicas):
        step = max(1, int((high - low) // _MOST_STEPS))
        x = np.arange(np.floor(low) - 1, np.ceil(high) + 1 + step, step)
    else:
        room = 0.03 * (high - low) or 0.5 * abs(low) or 0.5
        x = np.linspace(low - room, high + room, _MOST_STEPS)
    share = lambda row: np.searchsorted(np.sort(row), x, side="right") / len(row)
    ends = np.quantile([share(row) for row in replicas], _LEVELS, axis=0)
    ax.fill_between(
        x,
        ends[0],
        ends[2],
        step="post",
        color=COLORS[0],
        alpha=0.22,
        linewidth=0,
        label="replicas, 5 % to 95 %",
    )
    ax.plot(x, ends[1], drawstyle="steps-post", color=COLORS[0], linewidth=1.0)
    seen = share(data)
    ax.plot(x, seen, drawstyle="steps-post", color=INK, linewidth=1.6, label="data")
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(-0.02, 1.02)
    headline(ax, "share of values up to each")
