"""Tables of means, standard deviations and quantiles over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["bands_of_draws", "bands_of_moments"]

#: Quantiles of a band, as in a summary.
LEVELS = (0.05, 0.5, 0.95)


def _label(level: float) -> str:
    return "median" if level == 0.5 else f"{100 * level:g}%"


def bands_of_draws(draws: Mapping[str, np.ndarray], times: Any) -> Any:
    """Return mean, sd and quantiles of draws (draw, time, ...) at each time.

    Returns
    -------
    pandas.DataFrame
        One row for each variable and time, which are its index; vectors have a variable for
        each entry, such as ``x[0]``.
    """
    mean = {name: values.mean(axis=0) for name, values in draws.items()}
    sd = {name: values.std(axis=0, ddof=1) for name, values in draws.items()}
    quantiles = {n: np.quantile(v, LEVELS, axis=0).swapaxes(0, 1) for n, v in draws.items()}
    return bands_of_moments(mean, sd, quantiles, LEVELS, times)


def bands_of_moments(
    mean: Mapping[str, np.ndarray],
    sd: Mapping[str, np.ndarray],
    quantiles: Mapping[str, np.ndarray],
    levels: Sequence[float],
    times: Any,
) -> Any:
    """Return the same table from moments (time, ...) and quantiles (time, level, ...)."""
    import pandas as pd

    tables = {}
    for name, values in mean.items():
        for index in np.ndindex(values.shape[1:]):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            columns = {
                "mean": values[(slice(None), *index)],
                "sd": sd[name][(slice(None), *index)],
            }
            for i, level in enumerate(levels):
                columns[_label(level)] = quantiles[name][(slice(None), i, *index)]
            tables[label] = pd.DataFrame(columns, index=pd.Index(times))
    return pd.concat(tables, names=["variable", "time"])
