r"""One answer and one Gaussian: the moments of their product.

.. math:: y \sim \text{Bernoulli}(\sigma(\eta)), \qquad \eta \sim N(m, v)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["expected_sigmoid", "tilted_moments"]

# Moments by 16 nodes err by less than 1e-3 for v up to 4, and 1e-6 for v up to 1.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())
# The trapezoid rule for a normal density times a function with poles at a distance d from the
# axis errs by about exp(-2 π d / step): 4e-12 for v = 9, where d = π / sqrt(v).
_STEP = 0.25
# Rows at once, so that nodes times rows stay in the cache.
_ROWS = 4096
_GRID = np.arange(-9.0, 9.0 + _STEP / 2, _STEP)
_DENSITY = np.exp(-0.5 * _GRID**2)
_DENSITY /= _DENSITY.sum()


def tilted_moments(y: Any, m: Any, v: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Return log p(y), and mean and variance of η given y, by quadrature.

    Parameters
    ----------
    y : () array
        0 or 1.
    m, v : () arrays
        Mean and variance of η before the answer; v > 0.

    Examples
    --------
    >>> log_z, mean, variance = tilted_moments(1.0, 0.0, 1.0)
    >>> bool(abs(log_z - jnp.log(0.5)) < 1e-6)
    True
    """
    eta = m + jnp.sqrt(v) * jnp.asarray(_NODES, jnp.result_type(m))
    log_terms = jnp.asarray(_LOG_WEIGHTS, eta.dtype) + jax.nn.log_sigmoid((2.0 * y - 1.0) * eta)
    log_z = jax.nn.logsumexp(log_terms)
    weights = jnp.exp(log_terms - log_z)
    mean = weights @ eta
    return log_z, mean, weights @ (eta - mean) ** 2


def expected_sigmoid(m: Any, v: Any) -> np.ndarray:
    r"""Return :math:`E\,\sigma(\eta)` to about 1e-10 for variances up to 9.

    Parameters
    ----------
    m, v : arrays of one shape

    Examples
    --------
    >>> float(expected_sigmoid(0.5, 1.0))
    0.602027132...
    """
    from scipy.special import expit

    m, v = np.broadcast_arrays(np.asarray(m, np.float64), np.asarray(v, np.float64))
    means, sds = m.ravel(), np.sqrt(v).ravel()
    found = np.empty(len(means))
    for begin in range(0, len(means), _ROWS):
        part = slice(begin, begin + _ROWS)
        found[part] = expit(means[part, None] + sds[part, None] * _GRID) @ _DENSITY
    return found.reshape(m.shape)
