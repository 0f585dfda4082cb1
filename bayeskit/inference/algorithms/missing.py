"""Missing observations: NaN means that nothing was seen."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["ignore_missing"]


def ignore_missing(log_likelihood: Callable, stand_in: float = 0.0) -> Callable:
    r"""Return the log likelihood of the coordinates of y that are not NaN.

    .. math:: \log g(x) = \sum_{i : y_i \text{ seen}} \log g_i(y_i \mid x)

    A coordinate that was not seen tells nothing: its potential is 1, not 0.

    Parameters
    ----------
    log_likelihood : callable (x, y) -> array of the shape of y
        One term for each coordinate of y, which must be independent given x.
    stand_in : float
        What the function is called with in place of NaN. Any value at which it can be
        computed and differentiated will do.

    Returns
    -------
    callable (x, y) -> () array

    Raises
    ------
    ValueError
        When it is called, if there is not one term for each coordinate.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> log_g = bi.ignore_missing(lambda x, y: -0.5 * (y - x) ** 2)
    >>> log_g(0.0, jnp.array([2.0, jnp.nan]))
    Array(-2., dtype=float32)
    """

    def seen_only(x, y) -> jax.Array:
        y = jnp.asarray(y)
        seen = ~jnp.isnan(y)
        terms = log_likelihood(x, jnp.where(seen, y, jnp.asarray(stand_in, y.dtype)))
        if jnp.shape(terms) != y.shape:
            raise ValueError(
                f"log_likelihood must return one term for each coordinate of y, shape "
                f"{y.shape}, got {jnp.shape(terms)}: do not sum it"
            )
        return jnp.sum(jnp.where(seen, terms, 0.0))

    return seen_only
