r"""A normal law times a factor of the network: the conditional posterior and its divergence.

.. math::
    q(x) \propto N(x; m, d^2)\,N(x; a, v) = N\bigl(m + (1 - r)(a - m),\; r\,d^2\bigr), \qquad
    r = \frac{v}{d^2 + v} ,

    KL(q \,\|\, N(m, d^2)) = \tfrac12 \Bigl( r - 1 - \log r
        + \frac{d^2 (a - m)^2}{(d^2 + v)^2} \Bigr) .

Nothing is divided by d: where the law is a point, q is that point and the divergence is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from bayeskit.models.knowledge_tracing.amortized.networks import Site

__all__ = ["Conditional", "conditional"]


class Conditional(NamedTuple):
    """Mean and standard deviation of q, its divergence from the law, and r."""

    mean: Any
    sd: Any
    divergence: Any
    share: Any


def conditional(mean: Any, sd: Any, site: Site) -> Conditional:
    """Return q for laws of any shape, entry by entry."""
    variance = sd**2
    total = variance + site.variance
    share = site.variance / total
    away = (site.mean - mean) / total
    divergence = 0.5 * (share - 1.0 + jnp.log1p(variance / site.variance) + (sd * away) ** 2)
    return Conditional(mean + variance * away, sd * jnp.sqrt(share), divergence, share)
