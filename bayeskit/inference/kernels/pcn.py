"""The preconditioned Crank-Nicolson proposal, for normal priors of any dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.kernels.normal_prior import (
    NormalPrior,
    NormalPriorKernel,
)
from bayeskit.inference.measure import PointState

__all__ = ["PCN", "rotation"]


def rotation(step_size):
    """Return the sine and the cosine of the turn towards new noise; a sine is at most 1."""
    sine = jnp.minimum(step_size, 1.0)
    return sine, jnp.sqrt(1.0 - sine**2)


@dataclass(frozen=True)
class PCN(NormalPriorKernel):
    r"""Turn from the current point towards a draw from the normal prior.

    The proposal :math:`x' = m + \sqrt{1 - \beta^2}\,(x - m) + \beta \xi`, with :math:`\xi
    \sim N(0, \Sigma)`, is reversible for the prior. So the log acceptance ratio is that of the
    likelihoods, :math:`c\,(\ell(x') - \ell(x))` at inverse temperature c.

    Parameters
    ----------
    prior : NormalPrior
        The very prior that ``log_prior`` of the target is the density of.

    Raises
    ------
    TypeError
        For a target without prior and likelihood of its own, or of another dimension.

    Notes
    -----
    One likelihood evaluation a step. The step size is :math:`\beta`, at most 1; the metric of
    the tuning is not used. The acceptance does not fall with the number of dimensions, if a
    finer discretisation is what adds them. Where the likelihood is informative
    :math:`\beta` must be small and :class:`InfinityMALA` is better. A prior other than the
    target's gives wrong answers without a warning.

    References
    ----------
    Cotter, Roberts, Stuart & White (2013), *MCMC methods for functions*.

    Examples
    --------
    Of a thousand dimensions the likelihood looks at none, and no proposal is rejected:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum(x**2), log_likelihood=lambda x: jnp.zeros(())
    ... )
    >>> kernel = bi.PCN(bi.NormalPrior(jnp.zeros(1000), scale=jnp.ones(1000)))
    >>> density = target.density()
    >>> state = kernel.init(jnp.zeros(1000), density)
    >>> _, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(1000))
    >>> float(info.acceptance)
    1.0
    """

    prior: NormalPrior

    name: ClassVar[str] = "preconditioned Crank-Nicolson"
    target_acceptance: ClassVar[float] = 0.3
    max_step_size: ClassVar[float] = 1.0

    def default_step_size(self, dim):
        """Return 0.5."""
        return 0.5

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, accept_key = random.split(key)
        x = state.position
        relative = self.relative(density)
        mean = jnp.asarray(self.prior.mean, x.dtype)
        sine, cosine = rotation(tuning.step_size)
        noise = self.prior.scaled(random.normal(noise_key, x.shape, x.dtype))
        position = mean + cosine * (x - mean) + sine * noise
        proposal = PointState(position, density.components(position))
        log_ratio = relative.combine(proposal.components) - relative.combine(state.components)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
