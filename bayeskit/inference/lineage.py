"""Who descends from whom: the standard error of the evidence from a single run."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Lineage"]


class Lineage(NamedTuple):
    r"""Groups of particles that are independent of one another, and what they tell.

    With :math:`S_k` the total weight of the descendants of group k out of K, the relative
    variance of the evidence estimate is estimated by

    .. math::
        V = 1 - c\,\frac{K}{K-1}\Bigl(1 - \sum_k S_k^2\Bigr),

    where c makes up for the pairs of different groups that each resampling loses in the mean: a
    factor N/(N-1) for multinomial, for which V, before it is cut off at 0, is unbiased,
    :math:`E[\hat Z^2 V] = \operatorname{Var} \hat Z`. For killing and residual_multinomial the
    factor depends on the weights and treats all pairs alike, which makes up for nearly all of
    the loss. For systematic, stratified, residual and ssp, whose numbers of offspring vary
    less, the factor is 1, and V errs on the safe side. Where particles start new independent
    groups, as the chains of a waste-free move do, V is added to ``settled`` and the labels
    start anew.

    Parameters
    ----------
    label : (num_particles,) int32 array in [0, num_particles)
    num_groups : () int32 array
    log_correction : () array
        Logarithm of c.
    variance : () array
        V at the last weighing.
    settled : () array
        Sum of V over the generations of groups before this one.

    References
    ----------
    Lee & Whiteley (2018), *Variance estimation in the particle filter*; Dau & Chopin (2022),
    *Waste-free sequential Monte Carlo*, section 4.

    Examples
    --------
    Four independent particles show no error of the evidence if they weigh the same, and a
    relative variance of 0.36 if they do not. Then three of four descend from the first:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> lineage = bi.Lineage.founders(4)
    >>> round(float(lineage.weighed(jnp.log(jnp.full(4, 0.25))).total_variance), 4)
    0.0
    >>> uneven = jnp.log(jnp.array([0.7, 0.1, 0.1, 0.1]))
    >>> round(float(lineage.weighed(uneven).total_variance), 4)
    0.36
    >>> lineage.resampled(jnp.array([0, 0, 0, 3])).label.tolist()
    [0, 0, 0, 3]
    """

    label: jax.Array
    num_groups: jax.Array
    log_correction: jax.Array
    variance: jax.Array
    settled: jax.Array

    @classmethod
    def founders(cls, num_particles: int) -> Lineage:
        """Return the lineage of independent particles, a group each."""
        zero = jnp.zeros(())
        label = jnp.arange(num_particles, dtype=jnp.int32)
        return cls(label, jnp.asarray(num_particles, jnp.int32), zero, zero, zero)

    @property
    def total_variance(self) -> jax.Array:
        """Estimated variance of the log evidence."""
        return self.settled + self.variance

    def weighed(self, log_weights: jax.Array) -> Lineage:
        """Return the lineage with the variance that normalised weights imply."""
        num_labels = self.label.shape[0]
        totals = (
            jnp.zeros(num_labels, log_weights.dtype).at[self.label].add(jnp.exp(log_weights))
        )
        groups = self.num_groups.astype(log_weights.dtype)
        # One group tells nothing about its own spread: the variance is then unknown.
        inflation = jnp.where(groups > 1, groups / jnp.maximum(groups - 1, 1), jnp.nan)
        inflation = inflation * jnp.exp(self.log_correction)
        variance = 1.0 - inflation * (1.0 - jnp.sum(totals**2))
        return self._replace(variance=jnp.maximum(variance, 0.0))

    def resampled(self, ancestors: jax.Array, lost_pairs: jax.Array | float = 0.0) -> Lineage:
        """Return the lineage of the offspring.

        Parameters
        ----------
        ancestors : (num,) int array
        lost_pairs : () array in [0, 1)
            Which share of the pairs of different groups resampling loses in the mean.
        """
        label = self.label[ancestors]
        num_before, num = self.label.shape[0], ancestors.shape[0]
        if num < num_before:
            # A group is named after its first member, so that names stay below num.
            slots = jnp.arange(num, dtype=jnp.int32)
            label = jnp.zeros(num_before, jnp.int32).at[label].max(num - 1 - slots)[label]
            label = num - 1 - label
        correction = self.log_correction - jnp.log1p(-jnp.asarray(lost_pairs))
        return self._replace(label=label, log_correction=correction)

    def restarted(self, label: jax.Array, num_groups: int) -> Lineage:
        """Return the lineage after new independent groups took over."""
        zero = jnp.zeros_like(self.variance)
        return Lineage(
            label,
            jnp.asarray(num_groups, jnp.int32),
            zero,
            zero,
            self.settled + self.variance,
        )
