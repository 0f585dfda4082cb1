"""Whether chains mix: their traces, and the ranks of their draws among all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    INK,
    MUTED,
    few_ticks,
    headline,
    legend_above,
    new_axes,
    panel_above,
    panels,
    short,
    tidy,
)
from bayeskit.plots._results import draws_of, entries_of

__all__ = ["trace", "trace_rank"]

_NUM_BINS = 20
# Inches of a panel.
_WIDTH, _HEIGHT = 3.9, 1.35
_NAME_WIDTH = 40
# Letters cannot show more points, and a panel of all chains takes as long as its points.
_MOST_POINTS = 4000
# Names of more chains would cover what they name.
_MOST_NAMED = 6


def trace(
    result: Any,
    *,
    parameters: Sequence[str] | str | None = None,
    axes: Any = None,
) -> Any:
    """Draw the draws of each scalar parameter in their order, a line for each chain.

    Divergent transitions are ticks along the lower edge. Of long chains the least and the
    largest draw of each stretch are drawn, so that no excursion is lost.

    Parameters
    ----------
    result : Posterior, fitted estimator or ArviZ object
    parameters : sequence of str, optional
        Parameters, or single entries such as ``"theta[2]"``. Default: all.
    axes : array of matplotlib Axes, optional
        One for each scalar parameter. Default: those of a new figure.

    Returns
    -------
    array (panel,) of matplotlib Axes

    Raises
    ------
    ValueError
        For a parameter that there is not, draws that are not finite, weighted draws, which
        have no order, more than 60 scalar parameters, and as many axes as do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.interop.arviz import to_arviz
    >>> draws = np.random.default_rng(0).normal(size=(4, 100, 2))
    >>> result = to_arviz({"posterior": {"theta": draws}})
    >>> plots.trace(result).shape
    (2,)
    """
    draws = draws_of(result)
    if draws.weights is not None:
        raise ValueError(
            "the draws are weighted particles, whose order says nothing: use posterior"
        )
    entries = entries_of(draws, parameters)
    axes = panels(axes, len(entries), _WIDTH, _HEIGHT, most_columns=2, left=0.62, top=0.3)
    for ax, (label, values) in zip(axes, entries, strict=True):
        num_chains, num_draws = values.shape
        for chain in range(num_chains):
            where = _extremes(values[chain], _MOST_POINTS // num_chains)
            color = COLORS[chain % len(COLORS)]
            ax.plot(where, values[chain, where], color=color, linewidth=0.5, alpha=0.75)
        if draws.diverging is not None:
            where = np.flatnonzero(draws.diverging.any(axis=0))
            ax.plot(
                where,
                np.full(len(where), 0.03),
                "|",
                color=INK,
                markersize=6,
                transform=ax.get_xaxis_transform(),
                label="divergent",
            )
        ax.set_xlim(-0.5, num_draws - 0.5)
        few_ticks(ax.xaxis, 5, whole=True)
        few_ticks(ax.yaxis)
        headline(ax, short(label, _NAME_WIDTH))
        tidy(ax)
    if draws.diverging is not None and draws.diverging.any():
        marks = [line for line in axes[0].lines if line.get_label() == "divergent"]
        axes[0].legend(
            handles=marks,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            labelcolor=MUTED,
            fontsize=8,
            borderaxespad=0.1,
        )
    return axes


def _extremes(values: np.ndarray, most: int) -> np.ndarray:
    """Return places, in order, of the least and the largest value of each stretch."""
    num = len(values)
    size = -(-2 * num // max(most, 4))
    if size <= 2:
        return np.arange(num)
    whole = num // size * size
    stretches = values[:whole].reshape(-1, size)
    start = np.arange(0, whole, size)
    ends = [start + stretches.argmin(axis=1), start + stretches.argmax(axis=1)]
    if whole < num:
        rest = values[whole:]
        ends.append(whole + np.array([rest.argmin(), rest.argmax()]))
    return np.unique(np.concatenate(ends))


def trace_rank(
    result: Any, parameter: str, index: tuple[int, ...] = (), *, ax: Any = None
) -> Any:
    """Draw one scalar parameter along each chain, and how its ranks spread over the chains.

    Chains that mix have ranks that are uniform but for noise: each line of the upper panel
    stays near the middle.

    Parameters
    ----------
    result : Posterior, fitted estimator or ArviZ object
    parameter : str
    index : tuple of int
        Entry of a vector or array parameter.
    ax : matplotlib Axes, optional
        Default: those of a new figure. The panel of ranks takes the upper part of their place.

    Returns
    -------
    matplotlib Axes
        Of the lower panel, with the traces.

    Raises
    ------
    ValueError
        For a parameter that there is not, and one that is no scalar.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit import plots
    >>> from bayeskit.interop.arviz import to_arviz
    >>> draws = np.random.default_rng(0).normal(size=(4, 100, 2))
    >>> result = to_arviz({"posterior": {"theta": draws}})
    >>> ax = plots.trace_rank(result, "theta", (1,))
    >>> ax.get_title(loc="left"), [panel.get_title(loc="left") for panel in ax.figure.axes[1:]]
    ('theta[1] along each chain', ['draws by rank, low to high'])
    """
    draws = draws_of(result).values
    if parameter not in draws:
        raise ValueError(f"there is no parameter {parameter!r}: there are {', '.join(draws)}")
    entry: tuple[Any, ...] = (slice(None), slice(None), *index)
    values = draws[parameter][entry]
    if values.ndim != 2:
        raise ValueError(
            f"{parameter!r} has shape {values.shape[2:]}: choose one entry with index=(...)"
        )
    if ax is None:
        ax = new_axes(7.2, 4.2)
    num_chains, num_draws = values.shape
    # Equal draws in random order: in that of the chains they would part chains that mix.
    order = np.lexsort((np.random.default_rng(0).random(values.size), values.ravel()))
    ranks = np.empty(values.size, int)
    ranks[order] = np.arange(values.size)
    ranks = ranks.reshape(values.shape)
    # Ranks are spread over the width of the traces, whose axis they share.
    width = num_draws / _NUM_BINS
    bins = np.minimum(ranks // (num_chains * width), _NUM_BINS - 1).astype(int)
    above = panel_above(ax, 0.55)
    above.axhline(width, color=MUTED, linewidth=0.9)
    for chain in range(num_chains):
        color = COLORS[chain % len(COLORS)]
        counts = np.bincount(bins[chain], minlength=_NUM_BINS)
        above.stairs(
            counts,
            np.arange(_NUM_BINS + 1) * width,
            color=color,
            linewidth=1.4,
            baseline=None,
            label=f"chain {chain + 1}",
        )
        where = _extremes(values[chain], _MOST_POINTS)
        ax.plot(where, values[chain, where], color=color, linewidth=0.4, alpha=0.75)
    above.set_ylim(bottom=0.0)
    headline(above, "draws by rank, low to high")
    tidy(above)
    ax.set_xlim(0, num_draws)
    ax.set_xlabel("draw")
    name = parameter + (f"[{', '.join(map(str, index))}]" if index else "")
    headline(ax, f"{short(name, _NAME_WIDTH)} along each chain")
    few_ticks(ax.yaxis, 6)
    if num_chains <= _MOST_NAMED:
        legend_above(above, num_chains)
    tidy(ax)
    return ax
