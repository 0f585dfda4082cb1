"""Random-walk Metropolis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["RandomWalk"]


@dataclass(frozen=True)
class RandomWalk(Kernel):
    r"""Propose :math:`x' = x + h L \varepsilon` with normal noise.

    The proposal is symmetric, so the log acceptance ratio is
    :math:`\log \gamma(x') - \log \gamma(x)`.

    Notes
    -----
    One density evaluation a step. Step size :math:`2.38/\sqrt{d}` and acceptance 0.234 are
    optimal for many independent coordinates (Roberts, Gelman & Gilks 1997).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import RandomWalk
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> kernel = RandomWalk()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.position.shape
    (2,)
    """

    name: ClassVar[str] = "random-walk Metropolis"

    def default_step_size(self, dim):
        """Return 2.38 / sqrt(dim)."""
        return 2.38 / math.sqrt(dim)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, accept_key = random.split(key)
        x = state.position
        noise = random.normal(noise_key, x.shape, x.dtype)
        position = x + tuning.step_size * tuning.scale(noise)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
