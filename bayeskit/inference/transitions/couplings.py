"""Couplings of two draws: each has the law that it should have, and often they are equal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Tuning

__all__ = ["maximal_categorical", "reflected_normal"]


def maximal_categorical(
    key: Any, first_logits: jax.Array, second_logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    r"""Draw from two distributions on K outcomes so that the draws are equal most often.

    They are equal with probability :math:`s = \sum_i \min(p_i, q_i)`, and then drawn from the
    overlap :math:`\min(p, q)/s`; otherwise from what p and q have beyond it.

    Parameters
    ----------
    key : JAX key, lane key or enumerating key
    first_logits, second_logits : (K,) arrays, any normalisation

    Returns
    -------
    first, second : () int32 arrays

    References
    ----------
    Thorisson (2000), *Coupling, stationarity, and regeneration*.

    Examples
    --------
    Probabilities that overlap in 0.1 + 0.5 make draws that are equal six times in ten:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> p, q = jnp.log(jnp.array([0.5, 0.5, 0.0])), jnp.log(jnp.array([0.1, 0.5, 0.4]))
    >>> draw = lambda key, _: bi.maximal_categorical(key, p, q)
    >>> pairs = jax.jit(lambda key: bi.random.lanes(draw, key, jnp.arange(10_000)))
    >>> first, second = pairs(jax.random.key(0))
    >>> round(float(jnp.mean(first == second)), 1)
    0.6
    """
    same_key, common_key, first_key, second_key = random.split(key, 4)
    p, q = jax.nn.softmax(first_logits), jax.nn.softmax(second_logits)
    overlap = jnp.minimum(p, q)
    same = random.accept(same_key, jnp.log(jnp.sum(overlap)))
    shared = random.categorical(common_key, jnp.log(overlap))
    first = random.categorical(first_key, jnp.log(p - overlap))
    second = random.categorical(second_key, jnp.log(q - overlap))
    return jnp.where(same, shared, first), jnp.where(same, shared, second)


def reflected_normal(
    key: Any, first: jax.Array, second: jax.Array, tuning: Tuning
) -> tuple[jax.Array, jax.Array]:
    r"""Draw from :math:`N(x, h^2 L L')` and :math:`N(y, h^2 L L')`, equal or mirrored.

    With :math:`z = L^{-1}(x - y)/h` and noise ε the two are equal, at
    :math:`x + h L \varepsilon`, with probability :math:`\min(1, \phi(\varepsilon + z)/
    \phi(\varepsilon))`; otherwise y moves by the noise reflected in the plane between them. The
    draws are equal as often as can be.

    Parameters
    ----------
    key : JAX key
    first, second : (dim,) arrays
        Means x and y.
    tuning : Tuning
        Step size h and factor L.

    Returns
    -------
    two (dim,) arrays

    References
    ----------
    Bou-Rabee, Eberle & Zimmer (2020); Jacob, O'Leary & Atchadé (2020), section 4.

    Examples
    --------
    Draws with equal means are equal; those with means far apart, 0 and 40, are mirrored at 20:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> tuning = bi.RandomWalk().default_tuning(1)
    >>> near, far = jnp.array([0.0]), jnp.array([40.0])
    >>> first, second = bi.reflected_normal(jax.random.key(0), near, near, tuning)
    >>> (second - first).tolist()
    [0.0]
    >>> first, second = bi.reflected_normal(jax.random.key(0), near, far, tuning)
    >>> ((first + second) / 2).round(3).tolist()
    [20.0]
    """
    noise_key, same_key = random.split(key)
    h = tuning.step_size
    noise = random.normal(noise_key, first.shape, first.dtype)
    apart = (tuning.whiten(first) - tuning.whiten(second)) / h
    log_ratio = 0.5 * jnp.sum(noise**2) - 0.5 * jnp.sum((noise + apart) ** 2)
    same = random.accept(same_key, log_ratio)
    square = jnp.sum(apart**2)
    along = jnp.sum(apart * noise) / jnp.where(square > 0, square, 1.0)
    mirrored = noise - 2.0 * along * apart
    moved = first + h * tuning.scale(noise)
    return moved, jnp.where(same, moved, second + h * tuning.scale(mirrored))
