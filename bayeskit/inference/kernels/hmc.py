"""Hamiltonian Monte Carlo with a fixed trajectory length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["HMC"]

# Energy errors beyond this mark a trajectory as divergent, as in Stan.
_MAX_ENERGY_ERROR = 1000.0


class _Trajectory(NamedTuple):
    position: jax.Array
    momentum: jax.Array
    components: jax.Array
    gradient: jax.Array


@dataclass(frozen=True)
class HMC(Kernel):
    r"""Follow Hamilton's equations for a fixed time and accept by the energy error.

    In coordinates whitened by the metric, :math:`x = L z`, the energy is
    :math:`H = -\log \gamma(Lz) + \tfrac12 |p|^2` with :math:`p \sim N(0, I)` drawn anew. The
    leapfrog integrator followed by a flip of the momentum is an involution that preserves
    volume, hence the log acceptance ratio is :math:`H(z, p) - H(z', p')`.

    Parameters
    ----------
    trajectory : float
        Length of a trajectory in whitened time. A quarter turn, :math:`\pi/2`, makes a
        normal target forget its start.
    jitter : float in [0, 1)
        Trajectories vary by this fraction, by ``Tuning.phase`` and never by the state.
    max_steps : int
        Most leapfrog steps of one trajectory.

    Notes
    -----
    The number of leapfrog steps depends on the tuning alone, so that many particles take the
    same number and none waits for another. One gradient a leapfrog step.

    References
    ----------
    Duane et al. (1987); Neal (2011), *MCMC using Hamiltonian dynamics*.
    """

    trajectory: float = math.pi / 2
    jitter: float = 0.3
    max_steps: int = 64

    name: ClassVar[str] = "HMC"
    needs_gradient: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.8

    def default_step_size(self, dim):
        """Return 1.3 dim^(-1/4): the energy error of a leapfrog grows as sqrt(dim) h^2."""
        return 1.3 * dim**-0.25

    def num_steps(self, tuning):
        """Return the number of leapfrog steps and the step size that fits the trajectory."""
        length = self.trajectory * (1.0 + self.jitter * (2.0 * tuning.phase - 1.0))
        num = jnp.clip(jnp.ceil(length / tuning.step_size), 1, self.max_steps)
        return num.astype(jnp.int32), jnp.minimum(tuning.step_size, length / num)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        momentum_key, accept_key = random.split(key)
        x = state.position
        momentum = random.normal(momentum_key, x.shape, x.dtype)
        num, h = self.num_steps(tuning)

        def leapfrog(_, now):
            half = now.momentum + 0.5 * h * tuning.scale_transposed(now.gradient)
            position = now.position + h * tuning.scale(half)
            components, gradient = density.components_and_gradient(position)
            full = half + 0.5 * h * tuning.scale_transposed(gradient)
            return _Trajectory(position, full, components, gradient)

        start = _Trajectory(x, momentum, state.components, state.gradient)
        end = lax.fori_loop(0, num, leapfrog, start)
        proposal = PointState(end.position, end.components, end.gradient)
        log_ratio = (
            density.combine(end.components)
            - density.combine(state.components)
            + 0.5 * jnp.sum(momentum**2)
            - 0.5 * jnp.sum(end.momentum**2)
        )
        not_finite = not_usable(end.components)
        divergent = ~(log_ratio > -_MAX_ENERGY_ERROR)
        return metropolis(accept_key, state, proposal, log_ratio, not_finite, divergent)
