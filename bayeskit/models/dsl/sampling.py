"""Probabilities of being labelled."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.dsl.clusters import codes_of

__all__ = ["labeling_probabilities", "stratified_probabilities", "unit_probabilities"]

NORMALIZATIONS = ("mean", "none", "strata")
# Rounding of probabilities that were computed or stored as text.
_ROUNDING = 1e-9


def labeling_probabilities(
    given: np.ndarray | None,
    labeled: np.ndarray,
    *,
    normalize: str = "mean",
    strata: np.ndarray | None = None,
) -> np.ndarray:
    r"""Return the probability :math:`\pi_i` (units) with which each unit was to be labelled.

    Parameters
    ----------
    given : (units) array in (0, 1], or None for equal probabilities
    labeled : (units) array of bool
    normalize : {"mean", "none", "strata"}
        ``"mean"`` scales to the mean n_R/n (Hajek); ``"none"`` takes them as they are
        (Horvitz-Thompson), and n_R/n where none are given; ``"strata"`` takes n_Rh/n_h of each
        stratum, for labels drawn in blocks of fixed size.
    strata : (units) array, optional
        Default: the distinct probabilities.

    Raises
    ------
    InvalidDataError
        For probabilities that are NaN, not positive or above 1, and strata without labels.
    """
    n, num_labeled = len(labeled), int(labeled.sum())
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize must be one of {NORMALIZATIONS}, got {normalize!r}")
    if given is not None:
        _check(given)
    if normalize == "strata":
        if strata is None and given is None:
            raise InvalidDataError(
                "normalize='strata' needs strata=, or sample_prob= whose values tell them apart"
            )
        codes, levels = codes_of(given if strata is None else strata)
        sizes = np.bincount(codes)
        found = np.bincount(codes[labeled], minlength=len(sizes))
        if (found == 0).any():
            level = levels[int(np.argmin(found))]
            raise InvalidDataError(
                f"stratum {level!r} has {sizes[np.argmin(found)]} units and no label: label "
                "some, or join it to another stratum"
            )
        return (found / sizes)[codes]
    if given is None:
        return np.full(n, num_labeled / n)
    if normalize == "none":
        return np.asarray(given, float).copy()
    scaled = given * (num_labeled / n / given.mean())
    above = scaled > 1.0 + _ROUNDING
    if above.any():
        warnings.warn(
            f"{int(above.sum())} probabilities exceed 1, the largest is {scaled.max():.4g}, "
            f"once scaled to the mean n_R/n = {num_labeled / n:.4g}: sample_prob has the mean "
            f"{given.mean():.4g}. Pass normalize='none' if they are the true ones",
            BayeskitWarning,
            stacklevel=3,
        )
    return np.where(above, scaled, np.minimum(scaled, 1.0))


def _check(given: np.ndarray) -> None:
    bad = ~((given > 0) & (given <= 1.0 + _ROUNDING))
    if bad.any():
        place = int(np.argmax(bad))
        raise InvalidDataError(
            f"sample_prob must be above 0 and at most 1, but row {place} has {given[place]} "
            f"({int(bad.sum())} of {len(given)} rows). A unit that can never be labelled is "
            "not covered by the design: drop such units and speak of the others"
        )


def unit_probabilities(document_probability: Any, unit: Any) -> Any:
    r"""Return the probability that at least one document of a unit is labelled.

    :math:`1 - \prod_d (1 - p_d)` over the documents d of the unit, for analyses of units such
    as authors whose documents are labelled independently. Aggregate labels over the labelled
    documents only.

    Parameters
    ----------
    document_probability : (documents) array in [0, 1]
    unit : (documents) array of labels

    Returns
    -------
    pandas.Series, by unit in sorted order

    Raises
    ------
    InvalidDataError
        For a probability outside of [0, 1].

    Examples
    --------
    >>> unit_probabilities([0.5, 0.5, 0.1], ["a", "a", "b"]).round(3).to_dict()
    {'a': 0.75, 'b': 0.1}
    """
    import pandas as pd

    p = np.asarray(document_probability, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise InvalidDataError("document_probability must lie between 0 and 1")
    codes, levels = codes_of(unit)
    with np.errstate(divide="ignore"):
        missed = np.bincount(codes, np.log1p(-p), minlength=len(levels))
    return pd.Series(-np.expm1(missed), index=levels, name="sample_prob")


def stratified_probabilities(strata: Any, budget: float, shares: Any) -> np.ndarray:
    """Return probabilities that spend given shares of a budget of labels in each stratum.

    Parameters
    ----------
    strata : (units) array of labels, such as a surrogate
    budget : float
        Expected number of labels.
    shares : mapping of stratum to share of the budget
        Scaled to the sum 1. A stratum smaller than its share is labelled whole, and the others
        take what is left.

    Returns
    -------
    (num_units,) array in (0, 1]

    Raises
    ------
    InvalidDataError
        For a stratum without a share, shares that are not positive, or a budget beyond all
        units.

    Examples
    --------
    >>> stratified_probabilities([0, 0, 0, 0, 1, 1], 2, {0: 0.5, 1: 0.5}).round(2).tolist()
    [0.25, 0.25, 0.25, 0.25, 0.5, 0.5]
    """
    codes, levels = codes_of(strata)
    missing = [level for level in levels.tolist() if level not in shares]
    if missing:
        raise InvalidDataError(f"shares has no entry for stratum {missing[0]!r}")
    share = np.array([float(shares[level]) for level in levels.tolist()])
    sizes = np.bincount(codes).astype(float)
    if not (share > 0).all() or not 0 < budget <= sizes.sum():
        raise InvalidDataError(
            f"shares must be positive and budget between 0 and {sizes.sum():.0f}, got "
            f"{dict(shares)} and {budget}"
        )
    full = np.zeros(len(sizes), bool)
    while True:
        rest = budget - sizes[full].sum()
        spent = np.where(full, sizes, rest * share / share[~full].sum())
        over = ~full & (spent > sizes)
        if not over.any():
            return (spent / sizes)[codes]
        full |= over
