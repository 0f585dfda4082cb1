"""What tempered SMC did, stage by stage."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, INK, headline, new_axes, panel_above, tidy

__all__ = ["smc_history"]

# Points are marked as long as they can be told apart.
_MAX_MARKED = 60


def smc_history(result: Any, *, ax: Any = None) -> Any:
    """Draw inverse temperature, effective sample size and acceptance of each stage.

    Parameters
    ----------
    result : Posterior or fitted estimator
        From tempered SMC.
    ax : matplotlib Axes, optional
        Default: those of a new figure. A second panel, for the inverse temperature, takes the
        upper part of their place.

    Returns
    -------
    matplotlib Axes
        Of the lower panel: effective sample size as a fraction, and acceptance.

    Raises
    ------
    ValueError
        If the result has no history of temperatures.
    """
    posterior = getattr(result, "result_", result)
    history = getattr(posterior, "history", {})
    if "inverse_temperature" not in history:
        raise ValueError(
            "the result has no history of temperatures: smc_history is for results of SMC"
        )
    if ax is None:
        ax = new_axes(7.2, 4.2)
    temperature = np.asarray(history["inverse_temperature"])
    stage = np.arange(1, len(temperature) + 1)
    marks = {"marker": "o", "markersize": 4.2} if len(stage) <= _MAX_MARKED else {}
    style: dict[str, Any] = {"linewidth": 1.6, **marks}

    above = panel_above(ax, 0.8)
    above.plot(stage, temperature, color=COLORS[2], **style)
    above.set_yscale("log")
    headline(above, "inverse temperature")
    tidy(above)

    fraction = np.asarray(history["effective_sample_size"]) / posterior.num_draws
    ax.plot(stage, fraction, color=COLORS[0], label="effective sample size", **style)
    ax.plot(stage, history["acceptance"], color=COLORS[1], label="acceptance", **style)
    ax.set_ylim(0.0, 1.04)
    ax.set_xlabel("stage")
    headline(ax, "effective sample size (as a fraction of the particles) and acceptance")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="lower left", ncols=2, frameon=False, labelcolor=INK, fontsize=9.5)
    tidy(ax)
    return ax
