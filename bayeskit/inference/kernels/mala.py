"""Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["MALA"]


@dataclass(frozen=True)
class MALA(Kernel):
    r"""Propose :math:`x' = x + \tfrac{h^2}{2} L L' \nabla \log\gamma(x) + h L \varepsilon`.

    With :math:`v(x) = \tfrac{h}{2} L' \nabla \log\gamma(x)` the noise that leads back is
    :math:`\varepsilon' = -\varepsilon - v(x) - v(x')`, and the log acceptance ratio is
    :math:`\log\gamma(x') - \log\gamma(x) + \tfrac12 |\varepsilon|^2 - \tfrac12
    |\varepsilon'|^2`: no linear system is solved.

    Notes
    -----
    One gradient a step. Optimal acceptance 0.574 (Roberts & Rosenthal 1998).

    Examples
    --------
    The density :math:`e^x` has a logarithm of constant slope, and no step is rejected:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: x[0]).density()
    >>> kernel = bi.MALA()
    >>> state = kernel.init(jnp.zeros(1), density)
    >>> _, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(1))
    >>> round(float(info.acceptance), 3)
    1.0
    >>> kernel.default_step_size(64)
    0.825
    """

    name: ClassVar[str] = "MALA"
    needs_gradient: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.574

    def default_step_size(self, dim):
        """Return 1.65 dim^(-1/6), the optimum for standard normal coordinates."""
        return 1.65 * dim ** (-1 / 6)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, accept_key = random.split(key)
        x = state.position
        h = tuning.step_size
        noise = random.normal(noise_key, x.shape, x.dtype)
        drift = 0.5 * h * tuning.scale_transposed(state.gradient)
        position = x + h * tuning.scale(drift + noise)
        proposal = PointState(position, *density.components_and_gradient(position))
        drift_back = 0.5 * h * tuning.scale_transposed(proposal.gradient)
        noise_back = -(noise + drift + drift_back)
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            + 0.5 * jnp.sum(noise**2)
            - 0.5 * jnp.sum(noise_back**2)
        )
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
