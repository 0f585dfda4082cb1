"""Models by their evidence, with what is not known about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeskit.plots._look import (
    COLORS,
    INK,
    MUTED,
    few_ticks,
    headline,
    new_axes,
    number,
    panel_right,
    short,
    tidy,
)

__all__ = ["evidence_comparison"]

_ROW_HEIGHT = 0.36
_NAME_WIDTH = 34
# Half of a 90 % interval of a normal law.
_HALF_WIDTH = 1.6448536269514722
_NUM_DRAWS = 4000


def evidence_comparison(
    results: Mapping[str, Any], *, prior: Mapping[str, float] | None = None, ax: Any = None
) -> Any:
    r"""Draw log evidences below the largest, and the posterior probability of each model.

    .. math:: p(m \mid y) = \frac{p(m)\,Z_m}{\sum_k p(k)\,Z_k} .

    Intervals have 90 %. They take errors of log evidences as normal and independent; those of
    probabilities are quantiles over 4000 draws of the errors. Models stand in the order of
    their evidence.

    Parameters
    ----------
    results : dict by name
        Of fitted estimators, posteriors, or pairs (log evidence, its standard error).
    prior : dict by name, optional
        Prior weights of the models, not negative. Default: equal ones.
    ax : matplotlib Axes, optional
        Default: those of a new figure. The probabilities take the right part of their place.

    Returns
    -------
    matplotlib Axes
        Of the left panel.

    Raises
    ------
    ValueError
        For no models, evidences that are missing or not finite, errors that are negative, and
        priors that do not fit the models.

    Notes
    -----
    A standard error that is None or NaN is taken as 0, and its model is marked by a star.

    Examples
    --------
    >>> from bayeskit import plots
    >>> ax = plots.evidence_comparison({"line": (-12.0, 0.1), "curve": (-10.5, 0.2)})
    >>> [name.get_text() for name in ax.get_yticklabels()]
    ['curve', 'line']
    """
    if not isinstance(results, Mapping) or not results:
        raise ValueError("results must be a dict of at least one model by name")
    found = {str(name): _evidence_of(name, result) for name, result in results.items()}
    log_priors = _log_prior(results, prior)
    names = sorted(found, key=lambda name: -found[name][0])
    log_z, se = (np.array([found[name][i] for name in names]) for i in (0, 1))
    is_known = np.isfinite(se)
    se = np.where(is_known, se, 0.0)
    log_prior = np.array([log_priors[name] for name in names])
    ax = new_axes(7.6, 1.1 + _ROW_HEIGHT * len(names)) if ax is None else ax
    right = panel_right(ax, 0.6)
    rows = np.arange(len(names))

    below, reach = log_z - log_z[0], _HALF_WIDTH * se
    ax.axvline(0.0, color=MUTED, linewidth=0.9, zorder=1)
    _points(ax, below, below - reach, below + reach, rows)
    stars = np.where(is_known, "", " *")
    labels = [short(name, _NAME_WIDTH) + star for name, star in zip(names, stars, strict=True)]
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(names) - 0.4, -0.6)
    few_ticks(ax.xaxis, 5)
    ax.set_xlabel("log evidence, less the largest")
    best = number(float(log_z[0]), max(float(se[0]), 1e-3))
    error = f" ± {se[0]:.2g}" if is_known[0] else ""
    headline(ax, f"largest {best}{error}" + ("" if is_known.all() else " (*: no error)"))
    tidy(ax, "both")

    shares = _probabilities(log_z + log_prior)
    low, high = _probability_intervals(log_z + log_prior, se)
    _points(right, shares, low, high, rows)
    for row, share in enumerate(shares):
        right.annotate(
            _percent(share),
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    right.set_xlim(-0.03, 1.03)
    right.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    right.set_xlabel("probability of the model")
    headline(right, "equal priors" if prior is None else "with given priors")
    tidy(right, "both")
    return ax


def _points(ax: Any, middle: Any, low: Any, high: Any, rows: np.ndarray) -> None:
    ax.hlines(rows, low, high, color=COLORS[0], linewidth=1.8, zorder=2)
    ax.plot(middle, rows, "o", color=COLORS[0], ms=5.2, mec="white", mew=0.9, zorder=3)


def _evidence_of(name: Any, result: Any) -> tuple[float, float]:
    if isinstance(result, tuple | list) and len(result) == 2:
        log_z, se = result
    elif hasattr(result, "log_evidence"):
        log_z, se = result.log_evidence, getattr(result, "log_evidence_se", None)
    elif hasattr(result, "log_evidence_"):
        log_z, se = result.log_evidence_, getattr(result, "log_evidence_se_", None)
    else:
        log_z = se = None
    if log_z is None:
        raise ValueError(
            f"{name!r} has no log evidence: fit it with an engine that estimates one, such as "
            "SMC() or EnsembleHMC(), or give a pair (log evidence, standard error)"
        )
    log_z, se = float(log_z), float("nan") if se is None else float(se)
    if not np.isfinite(log_z) or se < 0:
        raise ValueError(
            f"the log evidence of {name!r} is {log_z:g} with error {se:g}: it must be finite, "
            "and its error not negative"
        )
    return log_z, se


def _log_prior(
    results: Mapping[str, Any], prior: Mapping[str, float] | None
) -> dict[str, float]:
    if prior is None:
        return {str(name): 0.0 for name in results}
    if set(prior) != set(results):
        raise ValueError(
            f"prior must have a weight for each of {list(results)}, got {list(prior)}"
        )
    weights = np.array(list(prior.values()), float)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(f"prior weights must be finite and not negative, got {dict(prior)}")
    with np.errstate(divide="ignore"):
        return {str(name): float(np.log(w)) for name, w in prior.items()}


def _probabilities(log_joint: np.ndarray) -> np.ndarray:
    shares = np.exp(log_joint - log_joint.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _probability_intervals(log_joint: np.ndarray, se: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((_NUM_DRAWS, len(se)))
    return np.quantile(_probabilities(log_joint + se * noise), [0.05, 0.95], axis=0)


def _percent(share: float) -> str:
    if share < 0.001:
        return "< 0.001" if share > 0 else "0"
    return f"{share:.3f}" if share <= 0.999 else "> 0.999" if share < 1 else "1"
