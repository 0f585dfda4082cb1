"""Random-walk Metropolis with a second, shorter try after a rejection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["DelayedRejection"]


@dataclass(frozen=True)
class DelayedRejection(Kernel):
    r"""Propose boldly and, where that is rejected, once more from close by.

    The first proposal is :math:`y_1 = x + h L \varepsilon_1`, accepted with probability
    :math:`\alpha_1(x, y_1) = \min(1, \gamma(y_1) / \gamma(x))`. After a rejection
    :math:`y_2 = x + s h L \varepsilon_2` is proposed and accepted with probability

    .. math::
        \alpha_2 = \min\left(1, \frac{\gamma(y_2)\, q_1(y_2, y_1)\, [1 - \alpha_1(y_2, y_1)]}
        {\gamma(x)\, q_1(x, y_1)\, [1 - \alpha_1(x, y_1)]}\right) :

    on the way back :math:`y_1` would have been proposed from :math:`y_2` and rejected. The
    density of the second proposal is symmetric and cancels.

    Parameters
    ----------
    shrink : float in (0, 1]
        Length s of the second proposal relative to the first.

    Raises
    ------
    ValueError
        For a ``shrink`` outside (0, 1].

    Notes
    -----
    Two density evaluations a step, whether or not the second is needed: many particles move
    together. It pays where the right step size differs from place to place. The acceptance that
    is reported and adapted is that of either proposal.

    References
    ----------
    Tierney & Mira (1999); Green & Mira (2001), *Delayed rejection in reversible jump
    Metropolis-Hastings*.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import DelayedRejection
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> kernel = DelayedRejection()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.position.shape
    (2,)
    """

    shrink: float = 0.2

    name: ClassVar[str] = "delayed rejection"
    target_acceptance: ClassVar[float] = 0.7

    def __post_init__(self):
        if not 0 < self.shrink <= 1:
            raise ValueError(f"shrink must be in (0, 1], got {self.shrink!r}")

    def default_step_size(self, dim):
        """Return 2.38 / sqrt(dim)."""
        return 2.38 / math.sqrt(dim)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, accept_key, second_noise_key, second_accept_key = random.split(key, 4)
        x = state.position
        noise = random.normal(noise_key, x.shape, x.dtype)
        shorter = self.shrink * random.normal(second_noise_key, x.shape, x.dtype)

        def at(z):
            position = x + tuning.step_size * tuning.scale(z)
            return PointState(position, density.components(position))

        first, second = at(noise), at(shorter)
        here, there_1, there_2 = (
            density.combine(point.components) for point in (state, first, second)
        )
        log_second_ratio = (
            there_2
            - 0.5 * jnp.sum((noise - shorter) ** 2)
            + self._log_rejection(there_1 - there_2, first)
            - here
            + 0.5 * jnp.sum(noise**2)
            - self._log_rejection(there_1 - here, first)
        )
        after, info = metropolis(
            accept_key, state, first, there_1 - here, not_usable(first.components)
        )
        again, more = metropolis(
            second_accept_key, state, second, log_second_ratio, not_usable(second.components)
        )
        rejected = ~info.accepted
        after = jax.tree.map(lambda a, b: jnp.where(rejected, b, a), after, again)
        return after, info._replace(
            acceptance=info.acceptance + (1.0 - info.acceptance) * more.acceptance,
            accepted=info.accepted | more.accepted,
            not_finite=info.not_finite | (rejected & more.not_finite),
        )

    def _log_rejection(self, log_ratio: jax.Array, proposal: PointState) -> jax.Array:
        """Return log(1 - min(1, r)) of the first proposal; what is not usable is rejected."""
        certain = not_usable(proposal.components)
        log_ratio = jnp.where(certain, -jnp.inf, jnp.minimum(log_ratio, 0.0))
        return jnp.log1p(-jnp.exp(log_ratio))
