"""The Barker proposal, whose direction follows the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["Barker"]


@dataclass(frozen=True)
class Barker(Kernel):
    r"""Propose a normal step whose signs are chosen by the gradient, and accept or reject.

    In coordinates whitened by the metric, :math:`x = L z`, with :math:`g(x) = L' \nabla \log
    \gamma(x)`: coordinate i moves by :math:`w_i = \pm h |\varepsilon_i|`, upwards with
    probability :math:`\sigma(h |\varepsilon_i| g_i(x))`, where :math:`\sigma` is the logistic
    function. The log acceptance ratio is

    .. math::
        \log\gamma(x') - \log\gamma(x)
        + \sum_i \log\sigma(-w_i g_i(x')) - \log\sigma(w_i g_i(x)) .

    Notes
    -----
    One gradient a step, as :class:`MALA`. The gradient decides about signs and never about
    lengths, so a step that is too large for one coordinate, or a gradient that explodes, costs
    acceptance and does not throw the chain away. Where the scales are right :class:`MALA` mixes
    faster by a constant. Acceptance between 0.4 and 0.57 is close to the optimum.

    References
    ----------
    Livingstone & Zanella (2022), *The Barker proposal*; Vogrinc, Livingstone & Zanella (2023).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import Barker
    >>> density = Target(log_density=lambda x: -jnp.sum(jnp.cosh(x))).density()
    >>> kernel = Barker()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.gradient.shape
    (2,)
    """

    name: ClassVar[str] = "Barker"
    needs_gradient: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.5

    def default_step_size(self, dim):
        """Return 1.5 dim^(-1/6): acceptance about one half for standard normal coordinates."""
        return 1.5 * dim ** (-1 / 6)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, sign_key, accept_key = random.split(key, 3)
        x = state.position
        length = tuning.step_size * random.normal(noise_key, x.shape, x.dtype)
        slope = tuning.scale_transposed(state.gradient)
        kept = random.accept(sign_key, jax.nn.log_sigmoid(length * slope))
        move = jnp.where(kept, length, -length)
        position = x + tuning.scale(move)
        proposal = PointState(position, *density.components_and_gradient(position))
        slope_there = tuning.scale_transposed(proposal.gradient)
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            + jnp.sum(jax.nn.log_sigmoid(-move * slope_there))
            - jnp.sum(jax.nn.log_sigmoid(move * slope))
        )
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
