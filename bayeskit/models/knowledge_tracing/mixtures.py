"""Forecasts and traits of learners whose posterior is a mixture of Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, ndtr

from bayeskit.models.knowledge_tracing.learner import trait_names
from bayeskit.models.knowledge_tracing.moment_matching import expected_sigmoid
from bayeskit.models.knowledge_tracing.structure import Structure

__all__ = ["mixture_columns", "trait_draws", "trait_table"]

# A central 95 % interval.
_LEVELS = (0.025, 0.975)


def mixture_columns(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return probability, mean, sd and 95 % interval of queries from those of draws.

    Parameters
    ----------
    mean, variance : (queries, draws) arrays
    """
    variance = np.maximum(variance, 0.0)
    p = expected_sigmoid(mean, variance).mean(axis=1)
    centre = mean.mean(axis=1)
    sd = np.sqrt(variance.mean(axis=1) + mean.var(axis=1))
    pairs = list(zip(mean, variance, strict=True))
    lower, upper = np.array([[_quantile(m, v, q) for q in _LEVELS] for m, v in pairs]).T
    return np.stack([p, centre, sd, expit(lower), expit(upper)], axis=-1)


def _quantile(mean: np.ndarray, variance: np.ndarray, level: float) -> float:
    """Return a quantile of an even mixture of normals, by bisection."""
    sd = np.sqrt(variance) + 1e-12
    low, high = np.min(mean - 9 * sd), np.max(mean + 9 * sd)
    for _ in range(60):
        middle = 0.5 * (low + high)
        if ndtr((middle - mean) / sd).mean() < level:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def trait_draws(
    mixtures: dict[int, Any], structure: Structure, num_draws: int, generator: Any
) -> dict[str, np.ndarray]:
    """Return joint draws of abilities and traits by name, (1, num_draws, learners)."""
    names = ["ability" if part == "static" else "drift" for part in structure.ability]
    found: dict[str, list] = {name: [] for name in (*names, *trait_names(structure))}
    for code in sorted(mixtures):
        traits, _, belief = mixtures[code]
        chosen = generator.integers(len(traits), size=num_draws)
        parts = len(names)
        mean, covariance = (
            belief.mean[chosen, :parts],
            belief.covariance[chosen, :parts, :parts],
        )
        if parts:
            values, vectors = np.linalg.eigh(covariance)
            noise = np.sqrt(np.maximum(values, 0.0)) * generator.standard_normal(mean.shape)
            mean = mean + np.einsum("nij,nj->ni", vectors, noise)
        for name, column in zip(found, np.hstack([mean, traits[chosen]]).T, strict=True):
            found[name].append(column)
    return {name: np.stack(columns, axis=-1)[None] for name, columns in found.items()}


def trait_table(table: Any, mixtures: dict[int, Any], structure: Structure) -> Any:
    """Return the table of abilities and traits from draws."""
    names = ["ability" if part == "static" else "drift" for part in structure.ability]
    codes = sorted(mixtures)
    rows = table.index[codes]
    for number, name in enumerate(names):
        means = [mixtures[c].belief.mean[:, number] for c in codes]
        variances = [mixtures[c].belief.covariance[:, number, number] for c in codes]
        _fill(table, rows, name, means, variances)
    for number, name in enumerate(trait_names(structure)):
        draws = [mixtures[c].traits[:, number] for c in codes]
        _fill(table, rows, name, draws, [np.zeros_like(d) for d in draws])
    return table


def _fill(table: Any, rows: Any, name: str, means: list, variances: list) -> None:
    spread = [np.sqrt(v.mean() + m.var()) for m, v in zip(means, variances, strict=True)]
    ends = [
        [_quantile(m, v, q) for q in _LEVELS] for m, v in zip(means, variances, strict=True)
    ]
    table.loc[rows, name] = [m.mean() for m in means]
    table.loc[rows, f"{name}_sd"] = spread
    table.loc[rows, f"{name}_lower"] = [low for low, _ in ends]
    table.loc[rows, f"{name}_upper"] = [high for _, high in ends]
