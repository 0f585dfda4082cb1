"""Independent Metropolis-Hastings with a Student-t proposal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["Independent"]


@dataclass(frozen=True)
class Independent(Kernel):
    r"""Propose from a multivariate Student-t, whatever the current position.

    The proposal has centre ``mean`` and scale ``h L`` of the tuning,
    :math:`q(x) \propto (1 + |z|^2/\nu)^{-(\nu+d)/2}` with
    :math:`z = L^{-1}(x - m)/h`. The log acceptance ratio is
    :math:`\log\gamma(x') - \log\gamma(x) - \log q(x') + \log q(x)`.

    Parameters
    ----------
    degrees_of_freedom : int
        Small, so that the proposal has heavier tails than the target.

    Notes
    -----
    One density evaluation a step. Good in few dimensions, hopeless in many. Where the target
    has heavier tails than the proposal, a particle that gets out there stays for a time without
    bound, and no rate of convergence holds (Mengersen & Tweedie 1996).

    Examples
    --------
    A target that is the proposal itself, a Student-t with five degrees of freedom:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: -3.0 * jnp.log1p(x[0] ** 2 / 5)).density()
    >>> kernel = bi.Independent(degrees_of_freedom=5)
    >>> state = kernel.init(jnp.array([3.0]), density)
    >>> step, tuning = jax.jit(kernel.step), kernel.default_tuning(1)
    >>> _, info = step(jax.random.key(0), state, density, tuning)
    >>> round(float(info.acceptance), 3)
    1.0
    """

    degrees_of_freedom: int = 5

    name: ClassVar[str] = "independent Metropolis-Hastings"
    target_acceptance: ClassVar[float] = 0.5

    def default_step_size(self, dim):
        """Return 1: the proposal has the scale of the metric."""
        return 1.0

    def _log_proposal(self, position, tuning):
        z = tuning.whiten(position) / tuning.step_size
        nu, dim = self.degrees_of_freedom, position.shape[-1]
        return -0.5 * (nu + dim) * jnp.log1p(jnp.sum(z**2) / nu)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, scale_key, accept_key = random.split(key, 3)
        x = state.position
        noise = random.normal(noise_key, x.shape, x.dtype)
        # A chi-square with whole degrees of freedom is a sum of squares of normals.
        squares = random.normal(scale_key, (self.degrees_of_freedom,), x.dtype) ** 2
        z = noise / jnp.sqrt(jnp.mean(squares))
        position = tuning.mean + tuning.step_size * tuning.scale(z)
        proposal = PointState(position, density.components(position))
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            - self._log_proposal(position, tuning)
            + self._log_proposal(x, tuning)
        )
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
