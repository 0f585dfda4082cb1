"""Data that several files of tests share."""

import numpy as np
import pandas as pd


def documents(n=400, seed=0, share=0.3):
    """A table with a covariate and an outcome that are labelled in some rows only."""
    generator = np.random.default_rng(seed)
    x, z = generator.normal(size=(2, n))
    group = generator.choice(["a", "b", "c"], n)
    eta = 0.4 + 0.8 * x - 0.5 * z
    y = (generator.random(n) < 1 / (1 + np.exp(-eta))).astype(float)
    labeled = generator.random(n) < share
    frame = pd.DataFrame(
        {
            "y_true": y,
            "x_true": x,
            "z": z,
            "group": group,
            "cluster": generator.integers(0, 60, n),
            "y_model": np.where(generator.random(n) < 0.8, y, 1 - y),
            "x_model": 0.7 * x + 0.5 * generator.normal(size=n),
            "count_true": generator.poisson(np.exp(0.3 * x + 0.2)).astype(float),
        }
    )
    for name in ("y", "x", "count"):
        frame[name] = np.where(labeled, frame[f"{name}_true"], np.nan)
    frame["count_model"] = frame["count_true"] + generator.integers(0, 2, n)
    return frame


def unbalanced_panel(seed=1):
    """A panel with holes: state, year, covariates, an outcome labelled in some rows."""
    generator = np.random.default_rng(seed)
    state, year = (a.ravel() for a in np.meshgrid(np.arange(15), np.arange(8)))
    kept = generator.random(state.size) < 0.75
    state, year = state[kept], year[kept]
    n = len(state)
    x, z = generator.normal(size=(2, n)) + 0.3 * state + 0.2 * year
    y = 0.5 * x - 0.2 * z + 0.4 * state - 0.1 * year**2 + generator.normal(size=n)
    labeled = generator.random(n) < 0.5
    return pd.DataFrame(
        {
            "state": state,
            "year": year,
            "x": np.where(labeled, x, np.nan),
            "x_true": x,
            "x_model": x + generator.normal(size=n),
            "z": z,
            "y": np.where(labeled, y, np.nan),
            "y_true": y,
            "y_model": y + generator.normal(size=n),
        }
    )


def least_squares(X, y, cluster=None):
    """Coefficients and their standard errors HC0, or by cluster without a factor."""
    inverse = np.linalg.inv(X.T @ X)
    coef = inverse @ X.T @ y
    scores = X * (y - X @ coef)[:, None]
    if cluster is not None:
        scores = np.stack([scores[cluster == c].sum(axis=0) for c in np.unique(cluster)])
    return coef, np.sqrt(np.diag(inverse @ scores.T @ scores @ inverse))
