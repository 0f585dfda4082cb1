"""What the pages of this folder show of benchmarks/results/algorithm_evidence.jsonl."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

NUM_RANKS = 100
NUM_BINS = 10
CUTS = np.array([5, 10, 25, 50, 75, 90, 95])
BLUE, GREY, INK = "#0072b2", "#8a8f98", "#444a52"


def results(name: str) -> list[dict]:
    """Return the lines of a stored result, wherever in the repository a page runs."""
    here = Path(__file__).resolve()
    path = here.parents[2] / "benchmarks" / "results" / name
    return [json.loads(line) for line in path.read_text().splitlines()]


@cache
def stored() -> dict[str, dict]:
    """Return what was measured, by the name of the engine."""
    return {row["engine"]: row for row in results("algorithm_evidence.jsonl")}


def rank_p_value(ranks: list[int]) -> float:
    """Return a p-value of uniform ranks on 0..99: exact at seven cuts, times their number."""
    ranks, shares = np.asarray(ranks), CUTS / NUM_RANKS
    below = np.sum(ranks[:, None] < CUTS, axis=0)
    low = stats.binom.cdf(below, len(ranks), shares)
    high = stats.binom.sf(below - 1, len(ranks), shares)
    return float(min(1.0, len(CUTS) * np.min(2 * np.minimum(low, high))))


def rank_figure(name: str):
    """Draw the histogram of the ranks of each quantity, and the band of uniform ones."""
    row = stored()[name]
    ranks, num = row["ranks"], row["num"]
    # All bars of all panels stay inside with probability 0.95 or more.
    tail = 0.025 / (NUM_BINS * len(ranks))
    low, high = stats.binom.ppf([tail, 1 - tail], num, 1 / NUM_BINS)
    figure, axes = plt.subplots(
        1, len(ranks), figsize=(2.3 * len(ranks) + 0.6, 2.3), sharey=True, layout="constrained"
    )
    for ax, (quantity, values) in zip(np.atleast_1d(axes), ranks.items(), strict=True):
        ax.hist(values, bins=np.linspace(0, NUM_RANKS, NUM_BINS + 1), color=BLUE, alpha=0.7)
        ax.axhspan(low, high, color=GREY, alpha=0.25, linewidth=0)
        ax.axhline(num / NUM_BINS, color=INK, linewidth=0.8)
        ax.set_ylim(0, 1.3 * high)
        ax.set_title(quantity, fontsize=10, loc="left", color=INK)
        ax.set_xlim(0, NUM_RANKS)
        ax.set_xlabel("rank", fontsize=9, color=INK)
        ax.tick_params(labelsize=8, colors=INK)
        ax.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel(f"of {num} data sets", fontsize=9, color=INK)
    return figure


def numbers(*names: str) -> pd.DataFrame:
    """Return a row for each engine: errors of the log evidence, ranks, seconds."""
    rows = {}
    for name in names:
        row = stored()[name]
        errors = np.array(row.get("errors", [np.nan]))
        stated = np.array(row.get("stated", [np.nan]))
        rows[name] = {
            "data sets": row["num"],
            "mean error": errors.mean(),
            "rms error": np.sqrt(np.mean(errors**2)),
            "stated error": np.sqrt(np.mean(stated**2)),
            "smallest p-value of ranks": min(map(rank_p_value, row["ranks"].values())),
            "CPU s a fit": row["cpu_s"],
        }
    return pd.DataFrame(rows).T.astype({"data sets": int})


def check(name: str) -> None:
    """Assert what a page says of an engine: uniform ranks and an honest error.

    False alarms: below 1e-6 for ranks of an exact sampler. A chain of finite length and a
    population of finite size are biased a little, which this number of data sets does not see.
    """
    row = stored()[name]
    for quantity, ranks in row["ranks"].items():
        assert len(ranks) == row["num"] >= 200
        assert rank_p_value(ranks) > 1e-6, (name, quantity)
    if "stated" in row:
        errors, stated = np.array(row["errors"]), np.array(row["stated"])
        ratio = np.sqrt(np.mean(errors**2) / np.mean(stated**2))
        assert 0.5 < ratio < 2.0, (name, ratio)
        z = errors.mean() / (errors.std() / np.sqrt(len(errors)))
        # The logarithm of an unbiased estimate is too low by half its variance.
        assert (
            abs(errors.mean() + 0.5 * errors.var()) < 6 * errors.std() / len(errors) ** 0.5
        ), z
