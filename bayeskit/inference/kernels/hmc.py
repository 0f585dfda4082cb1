"""Hamiltonian Monte Carlo with a fixed trajectory length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, StepInfo, Tuning, not_usable, settle
from bayeskit.inference.measure import Density, PointState

__all__ = ["HMC", "INTEGRATORS"]

# Energy errors beyond this mark a trajectory as divergent, as in Stan.
_MAX_ENERGY_ERROR = 1000.0
INTEGRATORS = ("leapfrog", "rotation")


class _Trajectory(NamedTuple):
    """Where a trajectory stands; ``place`` is x for the leapfrog and z for the rotation."""

    place: jax.Array
    momentum: jax.Array
    components: jax.Array
    gradient: jax.Array
    force: jax.Array


@dataclass(frozen=True)
class HMC(Kernel):
    r"""Follow Hamilton's equations for a fixed time and accept by the energy error.

    In coordinates whitened by the metric, :math:`x = m + L z`, the energy is
    :math:`H = U(z) + \tfrac12 |p|^2` with :math:`U(z) = -\log \gamma(m + Lz)` and
    :math:`p \sim N(0, I)` drawn anew. The integrator followed by a flip of the momentum is an
    involution that preserves volume, hence the log acceptance ratio is
    :math:`H(z, p) - H(z', p')`.

    Parameters
    ----------
    trajectory : float
        Length of a trajectory in whitened time. A quarter turn, :math:`\pi/2`, makes a
        normal target forget its start.
    jitter : float in [0, 1)
        Trajectories vary by this fraction, by ``Tuning.phase`` and never by the state.
    max_steps : int
        Most integrator steps of one trajectory.
    integrator : {"leapfrog", "rotation"}
        The leapfrog kicks by :math:`-\nabla U` and drifts. The rotation kicks by
        :math:`z - \nabla U` and turns (z, p) by the angle h: it is exact, with one gradient a
        draw, where the target is normal with the mean and metric of the tuning, and sticks
        where its tails are much heavier than that.

    Raises
    ------
    ValueError
        For another integrator.

    Notes
    -----
    The number of steps depends on the tuning alone, so that many particles take the same
    number and none waits for another. One gradient a step. A step size of 0 stays put and
    evaluates the density once.

    References
    ----------
    Duane et al. (1987); Neal (2011), *MCMC using Hamiltonian dynamics*; Shahbaba, Lan, Johnson
    & Neal (2014) for the split.

    Examples
    --------
    The rotation makes no error on a normal target with the mean and metric of its tuning:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> kernel = bi.HMC(integrator="rotation")
    >>> tuning = kernel.default_tuning(2)
    >>> state = kernel.init(jnp.array([3.0, -4.0]), density)
    >>> _, info = jax.jit(kernel.step)(jax.random.key(0), state, density, tuning)
    >>> round(float(info.acceptance), 3)
    1.0
    >>> int(bi.HMC().num_steps(tuning._replace(step_size=0.5))[0])
    4
    """

    trajectory: float = math.pi / 2
    jitter: float = 0.3
    max_steps: int = 64
    integrator: str = "leapfrog"

    name: ClassVar[str] = "HMC"
    needs_gradient: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.8

    def __post_init__(self):
        if self.integrator not in INTEGRATORS:
            raise ValueError(
                f"integrator must be one of {INTEGRATORS}, got {self.integrator!r}"
            )

    def default_step_size(self, dim):
        """Return 1.3 dim^(-1/4): the energy error of a leapfrog grows as sqrt(dim) h^2."""
        return 1.3 * dim**-0.25

    def num_steps(self, tuning):
        """Return the number of integrator steps and the step size that fits the trajectory."""
        length = self.trajectory * (1.0 + self.jitter * (2.0 * tuning.phase - 1.0))
        step_size = tuning.step_size
        wanted = jnp.where(step_size > 0, jnp.ceil(length / step_size), 1)
        num = jnp.clip(wanted, 1, self.max_steps)
        return num.astype(jnp.int32), jnp.minimum(step_size, length / num)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        momentum_key, accept_key = random.split(key)
        momentum = random.normal(momentum_key, state.position.shape, state.position.dtype)

        def decide(log_ratio):
            return random.accept(accept_key, log_ratio)

        return self.transition(momentum, decide, state, density, tuning)

    def transition(
        self, momentum: jax.Array, decide, state: PointState, density: Density, tuning: Tuning
    ) -> tuple[PointState, StepInfo]:
        """Return the next state and its info, as a function of the noise.

        Parameters
        ----------
        momentum : (dim,) array
            Standard normal numbers.
        decide : callable (log_ratio) -> () bool array
            True with probability min(1, exp(log_ratio)).
        """
        end = self.integrate(state, momentum, density, tuning)
        not_finite = not_usable(end.components)
        log_ratio = (
            density.combine(end.components)
            - density.combine(state.components)
            + 0.5 * jnp.sum(momentum**2)
            - 0.5 * jnp.sum(end.momentum**2)
        )
        # A NaN, of a density or of an energy that overflowed, rejects.
        log_ratio = jnp.where(not_finite | jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        divergent = ~(log_ratio > -_MAX_ENERGY_ERROR)
        proposal = PointState(end.place, end.components, end.gradient)
        return settle(decide(log_ratio), state, proposal, log_ratio, not_finite, divergent)

    def integrate(
        self, state: PointState, momentum: jax.Array, density: Density, tuning: Tuning
    ) -> _Trajectory:
        """Return the end of the trajectory, at a position."""
        num, h = self.num_steps(tuning)
        rotate = self.integrator == "rotation"

        def position(place):
            return tuning.mean + tuning.scale(place) if rotate else place

        def one(_, now: _Trajectory) -> _Trajectory:
            place, momentum = self.drift(now.place, self.kick(now, h), h, tuning)
            components, gradient = density.components_and_gradient(position(place))
            force = tuning.scale_transposed(gradient)
            there = _Trajectory(place, momentum, components, gradient, force)
            return there._replace(momentum=self.kick(there, h))

        start = _Trajectory(
            tuning.whiten(state.position) if rotate else state.position,
            momentum,
            state.components,
            state.gradient,
            tuning.scale_transposed(state.gradient),
        )
        end = lax.fori_loop(0, num, one, start)
        return end._replace(place=position(end.place))

    def kick(self, now: _Trajectory, h: jax.Array) -> jax.Array:
        """Return the momentum after half a step under the force."""
        pull = now.place + now.force if self.integrator == "rotation" else now.force
        return now.momentum + 0.5 * h * pull

    def drift(
        self, place: jax.Array, momentum: jax.Array, h: jax.Array, tuning: Tuning
    ) -> tuple[jax.Array, jax.Array]:
        """Return place and momentum after a whole step without it."""
        if self.integrator == "leapfrog":
            return place + h * tuning.scale(momentum), momentum
        cosine, sine = jnp.cos(h), jnp.sin(h)
        return place * cosine + momentum * sine, momentum * cosine - place * sine
