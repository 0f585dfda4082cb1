"""Whether chains mix: their traces, and the ranks of their draws among all."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, INK, MUTED, headline, new_axes, panel_above, tidy

__all__ = ["trace_rank"]

_NUM_BINS = 20
# Names of more chains would cover what they name.
_MOST_NAMED = 6


def trace_rank(
    result: Any, parameter: str, index: tuple[int, ...] = (), *, ax: Any = None
) -> Any:
    """Draw one scalar parameter along each chain, and how its ranks spread over the chains.

    Chains that mix have ranks that are uniform but for noise: each line of the upper panel
    stays near the middle.

    Parameters
    ----------
    result : Posterior or fitted estimator
    parameter : str
    index : tuple of int
        Entry of a vector or array parameter.
    ax : matplotlib Axes, optional
        Default: those of a new figure. The panel of ranks takes the upper part of their place.

    Returns
    -------
    matplotlib Axes
        Of the lower panel, with the traces.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), section 4.
    """
    posterior = getattr(result, "result_", result)
    if parameter not in posterior.draws:
        raise ValueError(
            f"there is no parameter {parameter!r}: there are {', '.join(posterior.draws)}"
        )
    entry: tuple[Any, ...] = (slice(None), slice(None), *index)
    values = np.asarray(posterior.draws[parameter])[entry]
    if values.ndim != 2:
        raise ValueError(
            f"{parameter!r} has shape {values.shape[2:]}: choose one entry with index=(...)"
        )
    if ax is None:
        ax = new_axes(7.2, 4.2)
    num_chains, num_draws = values.shape
    ranks = np.argsort(np.argsort(values, axis=None)).reshape(values.shape)
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
        ax.plot(values[chain], color=color, linewidth=0.4, alpha=0.75)
    above.set_ylim(bottom=0.0)
    headline(above, "draws of each chain by their rank among all, from low to high")
    tidy(above)
    ax.set_xlim(0, num_draws)
    ax.set_xlabel("draw")
    name = parameter + (f"[{', '.join(map(str, index))}]" if index else "")
    headline(ax, f"{name} along each chain")
    if num_chains <= _MOST_NAMED:
        above.legend(
            loc="lower right", ncols=num_chains, frameon=False, labelcolor=INK, fontsize=9.5
        )
    tidy(ax)
    return ax
