"""The functions of a state whose means the statistical tests compare.

Coordinates, squares, products, tail probabilities and random Fourier features, all bounded and
standardised by a pilot sample, so that heavy tails do not drown in their own variance. Further
numbers, such as the log density, may join as they are needed.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random

__all__ = ["Described", "Features", "describe", "evaluate", "features_from", "robust_scale"]

# Coordinates beyond this many robust standard deviations are clipped. Any function may be
# tested; bounded ones have moments of every order.
CLIP = 10.0
# All products of coordinates up to here, beyond it those of neighbours.
_MAX_ALL_PRODUCTS = 6


class Features(NamedTuple):
    """Numbers that define the test functions, all from a pilot sample of exact draws."""

    location: jax.Array  # (dim,)
    scale: jax.Array  # (dim,)
    whitening: jax.Array  # (dim, dim)
    low: jax.Array  # (dim,)
    high: jax.Array  # (dim,)
    frequencies: jax.Array  # (num_frequencies, dim)
    extra_location: jax.Array  # (num_extras,)
    extra_scale: jax.Array  # (num_extras,)

    @property
    def num_functions(self) -> int:
        """How many values :func:`evaluate` returns."""
        dim = len(self.location)
        products = len(products_of(dim))
        return 4 * dim + products + len(self.extra_scale) + 2 * len(self.frequencies)


class Described(NamedTuple):
    """A statistic in words, and what one unit of it is in the user's own units."""

    words: str
    unit: float = 1.0


def products_of(dim: int) -> list[tuple[int, int]]:
    """Return the pairs of coordinates whose products are test functions."""
    if dim <= _MAX_ALL_PRODUCTS:
        return list(itertools.combinations(range(dim), 2))
    return [(i, i + 1) for i in range(dim - 1)]


def _clipped(values: jax.Array, location: jax.Array, scale: jax.Array) -> jax.Array:
    standardised = jnp.nan_to_num((values - location) / scale, nan=CLIP)
    return jnp.clip(standardised, -CLIP, CLIP)


def evaluate(features: Features, x: jax.Array, extras: jax.Array) -> jax.Array:
    """Return the values of all test functions at one state.

    Parameters
    ----------
    features : Features
    x : (dim,) array
    extras : (num_extras,) array
        Further numbers that belong to the state, such as its log density.
    """
    u = _clipped(x, features.location, features.scale)
    first, second = np.array(products_of(len(u)), int).reshape(-1, 2).T
    low = (x < features.low).astype(u.dtype)
    high = (x > features.high).astype(u.dtype)
    angle = features.frequencies @ (features.whitening @ u)
    more = _clipped(extras, features.extra_location, features.extra_scale)
    columns = [u, u**2, u[first] * u[second], more, low, high, jnp.cos(angle), jnp.sin(angle)]
    return jnp.concatenate(columns)


def describe(features: Features, extra_words: tuple[str, ...] = ()) -> list[Described]:
    """Return the words for each value of :func:`evaluate`, in the same order."""
    dim = len(features.location)
    m, s = np.asarray(features.location), np.asarray(features.scale)
    num = len(features.frequencies)
    words = [Described(f"the mean of x[{i}]", s[i]) for i in range(dim)]
    words += [Described(f"the mean of (x[{i}] - {m[i]:.3g})²", s[i] ** 2) for i in range(dim)]
    words += [
        Described(f"the mean of (x[{i}] - {m[i]:.3g})(x[{j}] - {m[j]:.3g})", s[i] * s[j])
        for i, j in products_of(dim)
    ]
    units = np.asarray(features.extra_scale).tolist()
    words += [Described(text, unit) for text, unit in zip(extra_words, units, strict=True)]
    for sign, bound in (("<", features.low), (">", features.high)):
        words += [Described(f"P(x[{i}] {sign} {bound[i]:.3g})") for i in range(dim)]
    for name in ("cos", "sin"):
        words += [Described(f"the mean of {name} feature {k}") for k in range(num)]
    return words


def current_pairs(features: Features) -> np.ndarray:
    """Return indices (2, num_pairs) of functions between which a current might flow.

    A kernel may leave a target invariant and still move round in circles; then the mean of
    g(x) h(x') - h(x) g(x') differs from 0 for some pair of functions.
    """
    dim = len(features.location)
    num_frequencies = len(features.frequencies)
    pairs = [(i, dim + i) for i in range(dim)]
    pairs += products_of(dim)
    if len(features.extra_scale):
        last_extra = 2 * dim + len(products_of(dim)) + len(features.extra_scale) - 1
        pairs = [(i, last_extra) for i in range(dim)] + pairs
    cosine = features.num_functions - 2 * num_frequencies
    pairs += [(cosine + k, cosine + num_frequencies + k) for k in range(num_frequencies)]
    return np.array(pairs).T


def robust_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median and normal-consistent interquartile range over the first axis."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    # The interquartile range of a standard normal variable is 1.349.
    scale = (high - low) / 1.349
    return middle, np.where(scale > 0, scale, np.maximum(values.std(axis=0), 1e-12))


def features_from(
    key: Any, pilot: np.ndarray, extras: np.ndarray, num_frequencies: int
) -> Features:
    """Return the test functions that suit a pilot sample of exact draws.

    Parameters
    ----------
    key : key
    pilot : (num, dim) array
    extras : (num, num_extras) array
    num_frequencies : int
        Random frequencies, each with a cosine and a sine.
    """
    location, scale = robust_scale(pilot)
    dim = pilot.shape[1]
    u = np.clip((pilot - location) / scale, -CLIP, CLIP)
    factor = np.linalg.cholesky(np.cov(u.T).reshape(dim, dim) + 1e-9 * np.eye(dim))
    low, high = np.quantile(pilot, (0.05, 0.95), axis=0)
    # Three widths, from features that see the whole to such that see details.
    width = np.resize([0.5, 1.0, 2.0], num_frequencies)[:, None]
    noise = np.asarray(random.normal(key, (num_frequencies, dim)))
    extra_location, extra_scale = robust_scale(extras)
    return Features(
        location=jnp.asarray(location),
        scale=jnp.asarray(scale),
        whitening=jnp.asarray(np.linalg.inv(factor)),
        low=jnp.asarray(low),
        high=jnp.asarray(high),
        frequencies=jnp.asarray(width * noise),
        extra_location=jnp.asarray(extra_location),
        extra_scale=jnp.asarray(extra_scale),
    )
