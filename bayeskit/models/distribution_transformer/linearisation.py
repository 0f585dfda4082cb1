r"""Where the network starts without a log likelihood: statistical linearisation.

The rows of a source are replaced by a few numbers s that predict the latent best, linear in
features of the rows, and simulations tell how these depend on the latent:

.. math:: \bar s = \frac1n \sum_{j=1}^n B^\top \varphi(z_j) \approx G u + b + e, \qquad
          e \sim N\!\left(0,\, A + \tfrac1n I\right), \quad A \text{ diagonal},

with A what rows of one data set have in common. Each component is updated with that as by a
Kalman filter. Where data are linear in the latent and normal, nothing is lost: s is sufficient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.distribution_transformer.warm_start import (
    Tilted,
    linear_gaussian_update,
)

__all__ = ["Linearisation", "Summary", "linearisations", "linearised_update", "nothing"]

# Products of numbers of a row are features of rows with at most so many numbers, else squares.
_MOST_IN_PRODUCTS = 8
# Of longer rows nothing is summarised.
_MOST_NUMBERS = 512
# A start knows no summary better than to this share of its standard deviation, so that single
# precision has digits left for its own variance, the square of that.
_LEAST_NOISE = 1e-3
# Latents this many standard deviations from the centre count half.
_FAR = 3.0


class Summary(NamedTuple):
    """The summary of the rows of one source, of unit noise for a single row.

    Attributes
    ----------
    centre, scale : (m,) arrays
        Of the numbers of a row.
    weights : (f, d) array
        B, for the features of a row.
    offset : (d,) array
    operator : (d, d) array
        G.
    common : (d,) array
        Diagonal of A.
    """

    centre: Any
    scale: Any
    weights: Any
    offset: Any
    operator: Any
    common: Any


Linearisation = dict[str, Summary]


def nothing(row_sizes: dict[str, int], d: int) -> Linearisation:
    """Return summaries that are 0 for all data: posteriors are then the priors."""
    return {
        name: Summary(
            np.zeros(m),
            np.ones(m),
            np.zeros((_num_features(m), d)),
            np.zeros(d),
            np.zeros((d, d)),
            np.zeros(d),
        )
        for name, m in row_sizes.items()
    }


def linearised_update(
    linear: Linearisation,
    rows: dict[str, jax.Array],
    masks: dict[str, jax.Array],
    mean: jax.Array,
    factor: jax.Array,
) -> Tilted:
    """Return the update of one component by the summaries of all sources, one after another.

    Parameters
    ----------
    linear : dict of str to Summary
    rows, masks : dicts of str to (n, m) and (n,) arrays
    mean, factor : (d,) and (d, d) arrays

    Notes
    -----
    The evidence is that of the summaries: it compares components, not models.
    """
    log_evidence = jnp.zeros((), mean.dtype)
    for name, summary in linear.items():
        own = Summary(*(jnp.asarray(leaf, mean.dtype) for leaf in summary))
        mask = masks[name]
        count = jnp.maximum(mask.sum(), 1).astype(mean.dtype)
        features = _features(rows[name], own.centre, own.scale)
        average = jnp.where(mask[:, None], features, 0.0).sum(axis=0) / count
        sd = jnp.sqrt(own.common + 1.0 / count)
        # Sums, and no product of matrices: some devices round those to fewer digits.
        row = ((average[:, None] * own.weights).sum(axis=0) - own.offset) / sd
        is_there = mask.any()[None]
        found = linear_gaussian_update(
            mean, factor, own.operator / sd[:, None], row[None], is_there
        )
        log_evidence = log_evidence + found.log_evidence
        mean, factor = found.mean, found.factor
    return Tilted(log_evidence, mean, factor, jnp.zeros(0, mean.dtype))


def _num_features(m: int) -> int:
    return 2 * m + (m * (m + 1) // 2 if m <= _MOST_IN_PRODUCTS else m)


def _features(rows: Any, centre: Any, scale: Any) -> Any:
    """Return each number, its arcsinh, and the products of these, (..., f)."""
    xp = np if isinstance(rows, np.ndarray) else jnp
    z = (rows - centre) / scale
    # Large numbers are not to decide about all others.
    bent = xp.arcsinh(z)
    m = z.shape[-1]
    i, j = np.triu_indices(m) if m <= _MOST_IN_PRODUCTS else (np.arange(m),) * 2
    return xp.concatenate([z, bent, bent[..., i] * bent[..., j]], axis=-1)


# ---------------------------------------------------------------- regression, on the host


def linearisations(
    rows: dict[str, np.ndarray], masks: dict[str, np.ndarray], u: np.ndarray
) -> Iterator[Linearisation]:
    """Return linearisations to choose from, the simplest first.

    By the numbers of rows alone or by all features; with noise that averages out over rows, or
    with a part of it that does not.

    Parameters
    ----------
    rows, masks : dicts of str to (num, n, m) and (num, n) arrays
        Of simulated data.
    u : (num, d) array
        The latents that made them.
    """
    d = u.shape[1]
    sizes = {name: z.shape[-1] for name, z in rows.items()}
    usable = {name: m for name, m in sizes.items() if m <= _MOST_NUMBERS}
    varies = any(len(np.unique(mask.sum(axis=1))) > 1 for mask in masks.values())
    if not usable:
        return
    for only_numbers in (True, False):
        for has_common in (False, True) if varies else (False,):
            found = nothing(sizes, d)
            for name in usable:
                found[name] = _summary(rows[name], masks[name], u, only_numbers, has_common)
            yield found


def _summary(
    rows: np.ndarray, mask: np.ndarray, u: np.ndarray, only_numbers: bool, has_common: bool
) -> Summary:
    is_used = mask.any(axis=1) & (np.isfinite(rows) | ~mask[..., None]).all(axis=(1, 2))
    is_used &= np.isfinite(u).all(axis=1)
    rows, mask, u = (np.asarray(a[is_used]) for a in (rows, mask, u))
    m, d = rows.shape[-1], u.shape[1]
    if len(u) < 4 * (_num_features(m) + d):
        return nothing({"": m}, d)[""]
    rows, u = rows.astype(np.float64), u.astype(np.float64)
    count = mask.sum(axis=1)
    trust = np.sqrt(_trust(u))[:, None]
    centre, scale = _middle(rows[mask])
    average = _averages(rows, mask, centre, scale)
    if only_numbers:
        average[:, m:] = 0.0
    weights = _slopes(average, u, trust)
    # Directions in which summaries do not vary are left out.
    s = average @ weights
    variance, directions = np.linalg.eigh(_second_moment(s - s.mean(axis=0), trust))
    is_known = variance > 1e-10 * max(variance.max(), 1e-300)
    weights = weights @ (directions * is_known / np.sqrt(np.where(is_known, variance, 1.0)))
    s = average @ weights
    slopes = _slopes(u, s, trust)
    offset = ((s - u @ slopes) * trust**2).sum(axis=0) / (trust**2).sum()
    error = s - u @ slopes - offset
    common = np.zeros((d, d))
    noise = _second_moment(error * np.sqrt(count)[:, None], trust)
    if has_common and (count > 1).any():
        within = np.zeros((d, d))
        for first in range(0, len(rows), 1024):
            part = slice(first, first + 1024)
            each = _features(rows[part], centre, scale) @ weights
            each = (each - s[part, None])[mask[part]]
            within += each.T @ each
        noise = within / (count - 1).sum()
        mean_share = (trust[:, 0] ** 2 / count).sum() / (trust**2).sum()
        common = _second_moment(error, trust) - noise * mean_share
    root = np.linalg.cholesky(noise + _LEAST_NOISE**2 * np.eye(d))
    white = np.linalg.solve(root, np.linalg.solve(root, common).T)
    shared, turn = np.linalg.eigh(0.5 * (white + white.T))
    to_white = np.linalg.solve(root, np.eye(d)).T @ turn
    return Summary(
        centre,
        scale,
        weights @ to_white,
        offset @ to_white,
        (slopes @ to_white).T,
        np.maximum(shared, 0.0),
    )


def _middle(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return medians and half of the distance between the quantiles at one sigma."""
    low, middle, high = np.quantile(values, [0.159, 0.5, 0.841], axis=0)
    spread = 0.5 * (high - low)
    sd = values.std(axis=0)
    return middle, np.where(spread > 0, spread, np.where(sd > 0, sd, 1.0))


def _trust(u: np.ndarray) -> np.ndarray:
    """Return weights (num,): a prior is not to be known by its heavy tails only."""
    centre, scale = _middle(u)
    return 1.0 / (1.0 + (((u - centre) / scale) ** 2).mean(axis=1) / _FAR**2)


def _averages(
    rows: np.ndarray, mask: np.ndarray, centre: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    parts = []
    for first in range(0, len(rows), 1024):
        part = slice(first, first + 1024)
        there = mask[part, :, None]
        features = _features(rows[part], centre, scale)
        parts.append(np.where(there, features, 0.0).sum(axis=1) / there.sum(axis=1))
    return np.concatenate(parts)


def _slopes(x: np.ndarray, y: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Return the slopes (p, q) of a regression of y (num, q) on x (num, p)."""
    share = trust**2 / (trust**2).sum()
    x, y = ((a - (share * a).sum(axis=0)) * trust for a in (x, y))
    size = np.sqrt((x**2).mean(axis=0))
    size = np.where(size > 0, size, 1.0)
    return np.linalg.lstsq(x / size, y, rcond=1e-8)[0] / size[:, None]


def _second_moment(values: np.ndarray, trust: np.ndarray) -> np.ndarray:
    weighted = values * trust
    return weighted.T @ weighted / (trust**2).sum()
