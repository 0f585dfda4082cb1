"""Where the particles of the last time come from: how soon their ancestors become few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    INK,
    headline,
    new_axes,
    panel_above,
    short_dates,
    tidy,
)

__all__ = ["genealogy"]

# Lines that can be told apart.
_MOST_LEAVES = 250


def genealogy(result: Any, *, times: Any = None, ax: Any = None) -> Any:
    """Draw the ancestral lines of the last particles, and how many ancestors they have.

    Where the lines of a filter have become one, all paths share their past, and smoothing by
    ancestors knows a single value there; backward sampling knows more. Of tempered SMC and
    SMC2 they tell how few draws from the prior the result descends from; moves make up for
    that where they mix. The upper panel counts the ancestors of all particles, those of weight
    zero too; of more than 250 particles, 250 have a line.

    Parameters
    ----------
    result : Posterior, fitted estimator, Population or History
        Of ``ParticleFilter(num_paths=...)``, of ``SMC`` or ``SMC2`` with
        ``keep_ancestors=True``, or a population with a history.
    times : array (num_steps,), optional
        Default: 0, 1, ...; dates are fine. Of tempered SMC stages, of which 0 is the prior.
    ax : matplotlib Axes, optional
        Default: those of a new figure. The panel of counts takes the upper part of their place.

    Returns
    -------
    matplotlib Axes
        Of the lower panel, with the lines.

    Raises
    ------
    ValueError
        If the result has no ancestors, or times do not fit them.

    Notes
    -----
    O(num_steps num_particles).

    References
    ----------
    Jacob, Murray & Rubenthaler (2015), *Path storage in the particle filter*.

    Examples
    --------
    >>> import bayeskit as bk
    >>> import numpyro.distributions as dist
    >>> from bayeskit import plots
    >>> walk = bk.StateSpaceModel(
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t: dist.Normal(x, 1.0),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ... )
    >>> engine = bk.ParticleFilter(50, num_paths=10)
    >>> est = bk.BayesianModel(walk, inference=engine, random_state=0).fit([0.3, 0.8, 1.1])
    >>> plots.genealogy(est).get_xlabel()
    'time'
    """
    ancestors = _ancestors_of(result)
    num_steps, num_particles = ancestors.shape
    are_numbers = times is None
    times = np.arange(num_steps) if times is None else np.asarray(times)
    if times.shape != (num_steps,):
        raise ValueError(f"times must be {num_steps}, one for each, got shape {times.shape}")
    from matplotlib.ticker import NullLocator

    counts = _counts(ancestors)
    if ax is None:
        ax = new_axes(7.2, 4.4)
    above = panel_above(ax, 0.5)
    above.plot(times, counts, drawstyle="steps-mid", color=COLORS[0], linewidth=1.6)
    above.set_yscale("log")
    above.yaxis.set_major_formatter("{x:g}")
    above.yaxis.set_minor_locator(NullLocator())
    above.set_ylim(0.8, 1.4 * max(num_particles, 2))
    place = "stage" if _is_tempered(result) else "time"
    headline(above, f"ancestors of the {num_particles} particles of the last {place}")
    tidy(above)
    ax.plot(*_branches(ancestors, times), color=INK, linewidth=0.6, solid_capstyle="butt")
    short_dates(ax, times)
    if are_numbers:
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylim(-0.03, 1.03)
    ax.set_yticks([])
    ax.set_xlabel(place)
    one = np.flatnonzero(counts == 1)
    shared = f"a single one until {place} {times[one[-1]]}" if len(one) else ""
    headline(ax, f"ancestral lines: {shared or 'none is shared by all'}")
    tidy(ax, "x")
    return ax


def _is_tempered(result: Any) -> bool:
    history = getattr(getattr(result, "result_", result), "history", None)
    return isinstance(history, Mapping) and "inverse_temperature" in history


def _ancestors_of(result: Any) -> np.ndarray:
    """Return ancestors (num_steps, num_particles): row t holds places at time t - 1."""
    result = getattr(result, "result_", result)
    history = getattr(result, "history", None)
    if isinstance(history, Mapping):
        found = history.get("ancestors")
    else:
        found = getattr(result if history is None else history, "ancestors", None)
    if found is None or np.ndim(found) != 2:
        raise ValueError(
            "the result keeps no ancestors: fit with ParticleFilter(num_paths=...), or with "
            "keep_ancestors=True in SMC or SMC2, or write a history with inference.remember"
        )
    return np.asarray(found)


def _counts(ancestors: np.ndarray) -> np.ndarray:
    """Return how many different ancestors all of the last particles have, by time."""
    counts = np.empty(len(ancestors), int)
    places = np.arange(ancestors.shape[1])
    for time in range(len(ancestors) - 1, -1, -1):
        counts[time] = len(places)
        places = np.unique(ancestors[time, places])
    return counts


def _branches(ancestors: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return segments from each ancestor to its children, with a gap after each.

    In the order of their ancestors, oldest first, the descendants of an ancestor stand side by
    side, so that no lines cross when each ancestor stands in the middle of its own.
    """
    num_steps, num_particles = ancestors.shape
    num = min(num_particles, _MOST_LEAVES)
    lines = np.empty((num_steps, num), int)
    lines[-1] = np.linspace(0, num_particles - 1, num).astype(int)
    for time in range(num_steps - 1, 0, -1):
        lines[time - 1] = ancestors[time, lines[time]]
    lines = lines[:, np.lexsort(lines[::-1])]
    heights = np.linspace(0.0, 1.0, num) if num > 1 else np.array([0.5])
    before, x, y = None, [], []
    for time, line in enumerate(lines):
        starts = np.flatnonzero(np.diff(line, prepend=-1))
        sizes = np.diff(starts, append=num)
        middles = np.add.reduceat(heights, starts) / sizes
        now = np.repeat(middles, sizes)
        if before is not None:
            x.append(np.full((len(starts), 3), time))
            gap = np.full(len(starts), np.nan)
            y.append(np.stack([before[starts], middles, gap], axis=1))
            x[-1][:, 0] -= 1
        before = now
    if not x:
        return times[:0], np.zeros(0)
    return times[np.concatenate(x).ravel()], np.concatenate(y).ravel()
