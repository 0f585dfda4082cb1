"""The Langevin proposal that keeps a normal prior, for any dimension."""

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
from bayeskit.inference.kernels.pcn import rotation
from bayeskit.inference.measure import PointState

__all__ = ["InfinityMALA"]


@dataclass(frozen=True)
class InfinityMALA(NormalPriorKernel):
    r"""Turn towards noise that is shifted along the gradient of the likelihood.

    With the log likelihood :math:`\ell` at its inverse temperature, :math:`\beta = \sin
    \varphi`, :math:`\rho = \cos \varphi` and :math:`a = \tan(\varphi / 2)`,

    .. math::
        x' = m + \rho\,(x - m) + \beta w, \qquad
        w = \xi + a \Sigma \nabla \ell(x), \qquad \xi \sim N(0, \Sigma).

    The way back takes :math:`w' = \beta (x - m) - \rho w`. With :math:`T(x, w) = a \langle
    \nabla\ell(x), w \rangle - \tfrac12 a^2 |\Sigma^{1/2} \nabla\ell(x)|^2`, the log density of
    the shift, the log acceptance ratio is :math:`\ell(x') - \ell(x) + T(x', w') - T(x, w)`.

    Parameters
    ----------
    prior : NormalPrior
        The very prior that ``log_prior`` of the target is the density of.

    Raises
    ------
    TypeError
        For a target without prior and likelihood of its own, or of another dimension.
    MissingGradientError
        For a target without gradient.

    Notes
    -----
    One gradient a step, and no linear system. The step size is :math:`\beta`, at most 1; the
    metric of the tuning is not used. The acceptance does not fall as a discretisation is
    refined. Cached is the gradient relative to the prior.

    References
    ----------
    Beskos, Roberts, Stuart & Voss (2008), *MCMC methods for diffusion bridges*; Cotter et al.
    (2013), section 4.3.

    Examples
    --------
    A log-likelihood that is linear only shifts the prior, and the proposal follows it exactly:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum(x**2), log_likelihood=lambda x: 3.0 * jnp.sum(x)
    ... )
    >>> kernel = bi.InfinityMALA(bi.NormalPrior(jnp.zeros(2), scale=jnp.ones(2)))
    >>> density = target.density()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> _, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> round(float(info.acceptance), 3)
    1.0
    """

    prior: NormalPrior

    name: ClassVar[str] = "infinity-MALA"
    needs_gradient: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.574
    max_step_size: ClassVar[float] = 1.0

    def default_step_size(self, dim):
        """Return 0.7."""
        return 0.7

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, accept_key = random.split(key)
        x, prior = state.position, self.prior
        relative = self.relative(density)
        mean = jnp.asarray(prior.mean, x.dtype)
        sine, cosine = rotation(tuning.step_size)
        drift = sine / (1.0 + cosine)
        slope = prior.scaled_transposed(state.gradient)
        w = prior.scaled(random.normal(noise_key, x.shape, x.dtype) + drift * slope)
        position = mean + cosine * (x - mean) + sine * w
        proposal = PointState(position, *relative.components_and_gradient(position))
        w_back = sine * (x - mean) - cosine * w
        slope_back = prior.scaled_transposed(proposal.gradient)
        log_ratio = (
            relative.combine(proposal.components)
            - relative.combine(state.components)
            + drift * (proposal.gradient @ w_back - state.gradient @ w)
            - 0.5 * drift**2 * (slope_back @ slope_back - slope @ slope)
        )
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
