"""What sequential Monte Carlo did, stage by stage or time by time."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    INK,
    headline,
    legend_above,
    new_axes,
    panel_above,
    short_dates,
    tidy,
)

__all__ = ["smc_history"]

# Points are marked as long as they can be told apart.
_MAX_MARKED = 60
_LOW = 0.02


def smc_history(result: Any, *, times: Any = None, ax: Any = None) -> Any:
    """Draw effective sample size, acceptance, and temperature or log evidence along a run.

    Parameters
    ----------
    result : Posterior or fitted estimator
        From tempered SMC, a particle filter, or SMC2.
    times : array, optional
        Of a filter or SMC2; dates are fine. Default: 0, 1, ...
    ax : matplotlib Axes, optional
        Default: those of a new figure. A second panel takes the upper part of their place: the
        inverse temperature of tempered SMC, the log evidence so far of others.

    Returns
    -------
    matplotlib Axes
        Of the lower panel: effective sample size as a fraction, and acceptance where there are
        moves. Times at which a filter resampled are ticks along the lower edge.

    Raises
    ------
    ValueError
        If the result has no history of effective sample sizes, or times do not fit it.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> from bayeskit import plots
    >>> def coin(y=None):
    ...     p = numpyro.sample("p", dist.Beta(2.0, 5.0))
    ...     with numpyro.plate("flips", 10):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> y = np.array([1, 0, 0, 1, 0, 0, 0, 1, 0, 0])
    >>> inference = bk.SMC(num_particles=1000)
    >>> est = bk.BayesianModel(coin, inference=inference, random_state=0).fit(y=y)
    >>> ax = plots.smc_history(est)
    >>> ax.get_xlabel(), ax.get_legend_handles_labels()[1]
    ('stage', ['effective sample size', 'acceptance'])
    """
    posterior = getattr(result, "result_", result)
    history = getattr(posterior, "history", {})
    if "effective_sample_size" not in history:
        raise ValueError(
            "the result has no history of effective sample sizes: smc_history is for results "
            "of SMC, ParticleFilter and SMC2"
        )
    from matplotlib.ticker import LogLocator, NullLocator

    size = np.asarray(history["effective_sample_size"])
    tempered = "inverse_temperature" in history
    along = _along(len(size), tempered, times)
    ax = new_axes(7.2, 4.2) if ax is None else ax
    marks = {"marker": "o", "markersize": 4.2} if len(size) <= _MAX_MARKED else {}
    style: dict[str, Any] = {"linewidth": 1.6, **marks}

    above = panel_above(ax, 0.8)
    name = "inverse_temperature" if tempered else "log_evidence"
    values = np.asarray(history[name])
    above.plot(along, values, color=COLORS[2], **style)
    if tempered:
        above.set_yscale("log")
        # A tick a decade is none at all where the first temperature is high.
        subs = (1.0,) if np.min(values) < _LOW else (1.0, 2.0, 5.0)
        above.yaxis.set_major_locator(LogLocator(subs=subs))
        above.yaxis.set_major_formatter("{x:g}")
        above.yaxis.set_minor_locator(NullLocator())
    headline(above, "inverse temperature" if tempered else "log evidence of the data so far")
    tidy(above)

    fraction = size / _num_particles(posterior)
    ax.plot(along, fraction, color=COLORS[0], label="effective sample size", **style)
    if "acceptance" in history:
        moved = np.asarray(history.get("moved", np.ones(len(size), bool)), bool)
        acceptance = np.asarray(history["acceptance"])[moved]
        # Moves that are rare have points alone.
        joined = style if moved.all() else {"linestyle": "none", "marker": "o", "markersize": 4}
        ax.plot(along[moved], acceptance, color=COLORS[1], label="acceptance", **joined)
    if "resampled" in history:
        when = along[np.asarray(history["resampled"], bool)]
        ax.plot(when, np.full(len(when), 0.02), "|", color=INK, markersize=6, label="resampled")
    ax.set_ylim(0.0, 1.04)
    ax.set_xlabel("stage" if tempered else "time")
    headline(
        ax,
        "as shares of particles and of proposals",
    )
    if along.dtype.kind == "M":
        short_dates(ax, along)
    else:
        ax.xaxis.get_major_locator().set_params(integer=tempered or times is None)
    legend_above(ax, 3)
    tidy(ax)
    return ax


def _along(num: int, tempered: bool, times: Any) -> np.ndarray:
    if times is None:
        return np.arange(num) + int(tempered)
    times = np.asarray(times)
    if times.shape != (num,):
        raise ValueError(f"times must be {num}, one for each, got shape {times.shape}")
    return times


def _num_particles(posterior: Any) -> int:
    """Return the number of particles, which are the draws unless a filter drew paths."""
    ancestors = posterior.history.get("ancestors")
    return posterior.num_draws if ancestors is None else np.shape(ancestors)[1]
