"""Whether states travel along the ladder of parallel tempering."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, MUTED, headline, new_axes, panel_above, tidy

__all__ = ["temperature_ladder"]

_MAX_MARKED = 60


def temperature_ladder(result: Any, *, ax: Any = None) -> Any:
    """Draw the inverse temperatures, and how often neighbours fail to exchange their states.

    Rates that are alike let states travel best; their mean is the grey line. A rate near 1 cuts
    the ladder in two. A round trip leads a state from the prior to the posterior and back.

    Parameters
    ----------
    result : Posterior or fitted estimator
        From ``ParallelTempering``.
    ax : matplotlib Axes, optional
        Default: those of a new figure. A second panel, for the inverse temperatures, takes the
        upper part of their place.

    Returns
    -------
    matplotlib Axes
        Of the lower panel: rates of rejection.

    Raises
    ------
    ValueError
        If the result has no ladder.

    References
    ----------
    Syed, Bouchard-Côté, Deligiannidis & Doucet (2022), *Non-reversible parallel tempering*.

    Examples
    --------
    >>> import bayeskit as bk
    >>> import numpyro
    >>> import numpyro.distributions as dist
    >>> from bayeskit import plots
    >>> def model(y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0, 3))
    ...     numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> engine = bk.ParallelTempering(num_draws=500, num_temperatures=4)
    >>> est = bk.BayesianModel(model, inference=engine, random_state=0).fit(y=1.0)
    >>> plots.temperature_ladder(est).get_xlabel()
    'rung of the ladder'
    """
    posterior = getattr(result, "result_", result)
    history = getattr(posterior, "history", {})
    if "ladder" not in history:
        raise ValueError(
            "the result has no ladder of temperatures: temperature_ladder is for results of "
            "ParallelTempering"
        )
    from matplotlib.ticker import NullLocator

    ladder, rejection = (np.asarray(history[name]) for name in ("ladder", "rejection"))
    rung = np.arange(len(ladder))
    ax = new_axes(7.2, 4.2) if ax is None else ax
    marks = {"marker": "o", "markersize": 4.2} if len(ladder) <= _MAX_MARKED else {}

    above = panel_above(ax, 0.8)
    # The prior, at 0, has no place on a logarithmic axis.
    seen = ladder > 0
    above.plot(rung[seen], ladder[seen], color=COLORS[2], linewidth=1.6, **marks)
    above.set_yscale("log")
    above.yaxis.set_major_formatter("{x:g}")
    above.yaxis.set_minor_locator(NullLocator())
    of_prior = "; the first is 0, the prior" if not seen.all() else ""
    headline(above, f"inverse temperature{of_prior}")
    tidy(above)

    ax.bar(rung[:-1] + 0.5, rejection, 0.72, color=COLORS[0], alpha=0.55, linewidth=0)
    ax.axhline(rejection.mean(), color=MUTED, linewidth=0.9)
    ax.set_ylim(0.0, 1.04)
    ax.set_xlim(-0.3, len(ladder) - 0.7)
    ax.set_xlabel("rung of the ladder")
    ax.xaxis.get_major_locator().set_params(integer=True)
    trips = int(np.sum(history.get("round_trips", 0)))
    headline(ax, f"exchanges that neighbours reject; {trips} round trips")
    tidy(ax)
    return ax
