"""The standard error of the evidence of a long filter from a single run."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference.lineage import Lineage
from bayeskit.inference.population import Population

__all__ = ["WindowedLineage", "in_precision_of_weights"]

# With fewer groups than this, each about equal, the spread between them says little.
_MIN_GROUPS = 32


class WindowedLineage(NamedTuple):
    r"""Two generations of groups, so that a long run is not left with a single one.

    Let :math:`V_n(s)` be the variance that particles of time n show between the descendants of
    the particles of time s, as in :class:`Lineage`. It estimates
    :math:`\sum_{p=s}^n v_{p,n}`, with :math:`v_{p,n}` what the randomness of time p adds to the
    relative variance of the evidence at time n. Once those before
    the last window do not change any more, they are added up: when the younger generation b has
    become few,

    .. math:: V_n(a) - V_n(b) = \sum_{p=a}^{b-1} v_{p,n}

    is settled, b takes the place of a, and the particles of the next resampling start a new
    generation.

    Parameters
    ----------
    older, younger : Lineage
    settled : () array

    Notes
    -----
    Consistent as the number of particles grows if the filter forgets within a window.

    References
    ----------
    Lee & Whiteley (2018), *Variance estimation in the particle filter*; Olsson & Douc (2019),
    *Numerically stable online estimation of variance in particle filters*, for fixed lags.
    """

    older: Lineage
    younger: Lineage
    settled: jax.Array

    @classmethod
    def founders(cls, num_particles: int) -> WindowedLineage:
        """Return the lineage of independent particles."""
        founders = Lineage.founders(num_particles)
        return cls(founders, founders, jnp.zeros(()))

    @property
    def label(self) -> jax.Array:
        """Groups of the older generation, by which a resampling counts what it loses."""
        return self.older.label

    @property
    def total_variance(self) -> jax.Array:
        """Estimated variance of the log evidence."""
        return self.settled + self.older.variance

    def weighed(self, log_weights: jax.Array) -> WindowedLineage:
        """Return the lineage with the variances that normalised weights imply."""
        return self._replace(
            older=self.older.weighed(log_weights), younger=self.younger.weighed(log_weights)
        )

    def resampled(
        self, ancestors: jax.Array, lost_pairs: jax.Array | float = 0.0
    ) -> WindowedLineage:
        """Return the lineage of the offspring, of a new generation where it is time.

        Pairs of the younger generation are taken to be lost at the rate of the older. That is
        so for all schemes but killing and residual_multinomial, where it is an approximation.
        """
        num = ancestors.shape[0]
        older = self.older.resampled(ancestors, lost_pairs)
        younger = self.younger.resampled(ancestors, lost_pairs)
        # K equal groups out of many show a variance of about 1/K.
        is_few = self.younger.variance > 1.0 / min(_MIN_GROUPS, max(2, num // 4))
        gained = jnp.maximum(self.older.variance - self.younger.variance, 0.0)
        aged = WindowedLineage(younger, Lineage.founders(num), self.settled + gained)
        aged = aged._replace(settled=aged.settled.astype(self.settled.dtype))
        kept = WindowedLineage(older, younger, self.settled)
        return jax.tree.map(lambda a, b: jnp.where(is_few, a, b.astype(a.dtype)), aged, kept)


def in_precision_of_weights(population: Population) -> Population:
    """Return the population with its lineage in the precision of its weights, for loops."""
    dtype = population.log_weights.dtype
    lineage = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        population.lineage,
    )
    return population._replace(lineage=lineage)
