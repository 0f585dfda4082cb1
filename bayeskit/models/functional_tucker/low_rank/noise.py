r"""Noise of rows: a learned precision, and for Student-t noise a weight for each row.

.. math:: \varepsilon_n \sim N(0, 1/(\tau w_n)), \qquad \tau \sim \mathrm{Gamma}(a_0, b_0),
    \quad w_n \sim \mathrm{Gamma}(\nu/2, \nu/2)

With weights integrated out, :math:`\sqrt{\tau}\,\varepsilon_n` has a Student-t law with
:math:`\nu` degrees of freedom; without weights the noise is normal. Gamma laws are given by
shape and rate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

__all__ = ["Gamma", "NoisePrior", "noise_posterior", "weight_posterior"]


class Gamma(NamedTuple):
    """A Gamma law, or an array of independent ones."""

    shape: Any
    rate: Any

    @property
    def mean(self) -> Any:
        """Shape over rate."""
        return self.shape / self.rate

    @property
    def mean_log(self) -> jax.Array:
        """The expectation of the logarithm."""
        return digamma(self.shape) - jnp.log(self.rate)

    def divergence(self, other: Gamma) -> jax.Array:
        """Return the Kullback-Leibler divergence from another Gamma law."""
        a, b = self
        a0, b0 = other
        return (
            (a - a0) * digamma(a)
            - gammaln(a)
            + gammaln(a0)
            + a0 * (jnp.log(b) - jnp.log(b0))
            + a * (b0 - b) / b
        )


class NoisePrior(NamedTuple):
    """What is assumed of the noise.

    Parameters
    ----------
    precision : Gamma, or a float where it is known
    degrees : float, optional
        Degrees of freedom of Student-t noise; None is normal noise.
    """

    precision: Any
    degrees: Any = None

    @property
    def is_known(self) -> bool:
        """Whether the precision is a number."""
        return not isinstance(self.precision, Gamma)


def noise_posterior(prior: NoisePrior, count: Any, squares: Any) -> Gamma:
    """Return the law of the precision.

    Parameters
    ----------
    count : float
        Number of observations.
    squares : float
        Sum of their expected squared errors, times expected weights.
    """
    shape, rate = prior.precision
    return Gamma(shape + 0.5 * count, rate + 0.5 * squares)


def weight_posterior(degrees: Any, precision: Any, squares: Any) -> Gamma:
    """Return the laws of the weights of rows (rows,) under Student-t noise."""
    return Gamma(
        jnp.full_like(squares, 0.5 * (degrees + 1.0)), 0.5 * (degrees + precision * squares)
    )
