r"""Chains of normal numbers times factors of the networks: messages, conditionals, divergences.

A chain :math:`x_n \sim N(a_n x_{n-1} + b_n, d_n^2)` times a factor :math:`N(x_n; m_n, v_n)` for
each row is the posterior. What the factors from row n on say of :math:`x_n` is a normal factor
too, the message, found from the last row to the first. Forwards then

.. math::
    q(x_n \mid x_{n-1}) \propto N(x_n; \mu, d^2)\,N(x_n; m, v)
        = N\bigl(\mu + (1 - r)(m - \mu),\; r\,d^2\bigr), \qquad r = \frac{v}{d^2 + v} ,

    KL\bigl(q \,\|\, N(\mu, d^2)\bigr) = \tfrac12 \Bigl( r - 1 - \log r
        + \frac{d^2 (m - \mu)^2}{(d^2 + v)^2} \Bigr)

with the message N(m, v). Nothing is divided by d: where the law is a point, q is that point and
the divergence is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.models.knowledge_tracing.amortized.networks import Site

__all__ = ["Conditional", "conditional", "messages"]


class Conditional(NamedTuple):
    """Mean and standard deviation of q, and its divergence from the law."""

    mean: Any
    sd: Any
    divergence: Any


def conditional(mean: Any, sd: Any, site: Site) -> Conditional:
    """Return q for laws of any shape, entry by entry."""
    variance = sd**2
    total = variance + site.variance
    share, away = site.variance / total, (site.mean - mean) / total
    divergence = 0.5 * (share - 1.0 + jnp.log1p(variance / site.variance) + (sd * away) ** 2)
    return Conditional(mean + variance * away, sd * jnp.sqrt(share), divergence)


def messages(site: Site, real: Any, slope: Any, offset: Any, variance: Any) -> Site:
    """Return what the factors from each row on say of it, as a factor.

    Parameters
    ----------
    site : Site of (rows, ...)
        What the networks say of each row.
    real : (rows, ...) array
        1 for a row, 0 for padding, which comes last.
    slope, offset, variance : (rows, ...) arrays
        Of the step from the row before; all shapes broadcast.
    """

    def one(later: tuple, row: tuple) -> tuple:
        (mean, spread), here, slope, offset, variance = row
        precision, shift = later[0] + 1.0 / spread, later[1] + mean / spread
        message = Site(shift / precision, 1.0 / precision)
        total = message.variance + variance
        back = (slope**2 / total, slope * (message.mean - offset) / total)
        return tuple(jnp.where(here > 0, b, 0.0) for b in back), message

    parts = (site.mean, real, slope, offset, variance)
    shape = jnp.broadcast_shapes(*(part.shape[1:] for part in parts))
    nothing = jnp.zeros(shape, site.mean.dtype)
    return jax.lax.scan(one, (nothing, nothing), (tuple(site), *parts[1:]), reverse=True)[1]
