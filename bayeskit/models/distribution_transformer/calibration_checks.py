"""Counts that are binomial if posteriors are exact, over all problems and by regions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from bayeskit.models.distribution_transformer.against_refined import C2ST, ENERGY
from bayeskit.validation.ranks import binomial_p_values

__all__ = ["COLUMNS", "FEWEST_PROBLEMS", "checked", "in_words"]

# Of the distribution of ranks: shares below, and central intervals, as of any estimator.
_CUTS = np.array([0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95])
_INTERVALS = np.array([0.50, 0.80, 0.90, 0.98])
# In a region there are fewer problems, and fewer questions.
_REGION_CUTS, _REGION_INTERVALS = np.array([0.50]), np.array([0.50, 0.90])
_NUM_REGIONS = 4
_ROUNDING = 1e-9
FEWEST_PROBLEMS = 100
COLUMNS = ["region", "statistic", "check", "expected", "observed", "se", "p_value", "passed"]
_PAIRS = {
    C2ST: ("refined draws told from amortised", "refined draws are told from amortised ones"),
    ENERGY: (
        "refined draws with the larger score",
        "refined draws have a larger energy score than amortised ones",
    ),
}


def checked(
    ranks: Mapping[str, np.ndarray],
    pairs: Mapping[str, np.ndarray],
    features: Mapping[str, np.ndarray],
    alpha: float,
) -> list[tuple]:
    """Return one row of ``COLUMNS`` for each check, of which all pass but for ``alpha``.

    Parameters
    ----------
    ranks : dict of (num,) arrays
        Uniform if all is well.
    pairs : dict of (num, R) arrays of bool
        True with probability 0.5 if all is well.
    features : dict of (num,) arrays
        What regions are made of.
    """
    num = len(next(iter(ranks.values())))
    everything = [
        ("all", name, *row)
        for name, values in ranks.items()
        for row in _counted(values, _CUTS, _INTERVALS)
    ]
    everything += [("all", name, *_halved(name, hits)) for name, hits in pairs.items()]
    regions = []
    for region, chosen in _regions(features, num):
        regions += [
            (region, name, *row)
            for name, values in ranks.items()
            for row in _counted(values[chosen], _REGION_CUTS, _REGION_INTERVALS)
        ]
        regions += [
            (region, name, *_halved(name, hits[chosen])) for name, hits in pairs.items()
        ]
    table = []
    for rows in (everything, regions):
        # Half of alpha for each kind, and for each row of it an equal part.
        table += [(*row, bool(row[-1] > 0.5 * alpha / len(rows))) for row in rows]
    return table


def _counted(ranks: np.ndarray, cuts: np.ndarray, intervals: np.ndarray) -> list[tuple]:
    below = [(f"below {cut:.0%}", cut, ranks < cut) for cut in cuts]
    inside = [
        (f"central {width:.0%} interval", width, np.abs(2.0 * ranks - 1.0) < width)
        for width in intervals
    ]
    return [(words, *_frequency(hits, float(share))) for words, share, hits in below + inside]


def _halved(name: str, hits: np.ndarray) -> tuple:
    return (_PAIRS[name][0], *_frequency(hits, 0.5))


def _frequency(hits: np.ndarray, expected: float) -> tuple[float, float, float, float]:
    """Return expected and observed frequency, standard error, and exact binomial p-value."""
    count, num = int(hits.sum()), hits.size
    p_value = float(binomial_p_values(np.array(count), num, np.array(expected)))
    return expected, count / num, math.sqrt(expected * (1.0 - expected) / num), p_value


def _regions(features: Mapping[str, np.ndarray], num: int) -> list[tuple[str, np.ndarray]]:
    """Return the quarters of each feature, with their names."""
    found = []
    for name, values in features.items():
        values = np.asarray(values, np.float64)
        ends = np.unique(np.quantile(values, np.linspace(0, 1, _NUM_REGIONS + 1)))
        # Ends that are as good as equal would name a region of rounding errors.
        ends = ends[np.append(True, np.diff(ends) > _ROUNDING * (1.0 + np.abs(ends[1:])))]
        for i, (low, high) in enumerate(pairwise(ends)):
            last = i == len(ends) - 2
            chosen = (values >= low) & ((values <= high) if last else (values < high))
            # A quarter of few problems cannot fail, and costs power.
            if len(ends) > 2 and chosen.sum() >= FEWEST_PROBLEMS / _NUM_REGIONS:
                right = "]" if last else ")"
                found.append((f"{name} in [{low:.3g}, {high:.3g}{right}", chosen))
    return found


def in_words(row: tuple) -> str:
    """Return what a row of the table says."""
    region, statistic, check, expected, observed, error, p_value, _ = row
    where = "" if region == "all" else f", where {region}"
    numbers = f"{observed:.1%} ± {error:.1%}"
    rest = f"instead of {expected:.0%}{where} (p = {p_value:.2g})"
    if statistic in _PAIRS:
        return f"{_PAIRS[statistic][1]} in {numbers} of pairs {rest}"
    what = (
        f"the {check} of {statistic} covers the truth"
        if check.startswith("central") and statistic.startswith("x[")
        else f"the rank of {statistic} is {check.replace('central', 'in the central')}"
    )
    return f"{what} in {numbers} of problems {rest}"
