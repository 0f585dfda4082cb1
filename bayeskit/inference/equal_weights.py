"""Draws of equal weight in place of weighted ones, on the host."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.blocks.resampling import draw_ancestors

__all__ = ["equally_weighted"]


@quick_jit(static_argnames="num", optimised=False)
def _systematic(key: Any, log_weights: jax.Array, num: int) -> jax.Array:
    return draw_ancestors(key, log_weights, "systematic", num)


def equally_weighted(key: Any, log_weights: np.ndarray, num: int) -> np.ndarray:
    """Return the places (num,) of draws that stand for weighted ones, in random order.

    By systematic resampling: a draw of weight w is there num w times, up to less than one.

    Parameters
    ----------
    key : JAX key
    log_weights : (draws,) array
        Up to a constant. In the precision of the scope.
    num : int

    Examples
    --------
    >>> import jax
    >>> import numpy as np
    >>> places = equally_weighted(jax.random.key(0), np.log([0.5, 0.25, 0.25]), 8)
    >>> np.bincount(places)
    array([4, 2, 2])
    """
    choice_key, order_key = random.split(key)
    places = np.asarray(_systematic(choice_key, log_weights, num))
    # Neighbours in order of their places would be copies of each other.
    return random.host_generator(order_key).permutation(places)
