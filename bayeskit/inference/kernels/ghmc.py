"""Hamiltonian Monte Carlo that keeps part of its momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import Density

__all__ = ["GHMC", "MomentumState"]

# Energy errors beyond this mark a trajectory as divergent, as in Stan.
_MAX_ENERGY_ERROR = 1000.0


class MomentumState(NamedTuple):
    """A position that goes on with the momentum it has.

    Parameters
    ----------
    position : (dim,) array
    components : (J,) array
        Components of the log density.
    gradient : (dim,) array
        Gradient of the log density.
    momentum : (dim,) array
        In whitened coordinates.
    has_momentum : () bool array
        False until the first step, which draws the momentum from its law.

    Examples
    --------
    The first step draws a momentum, and later ones keep part of it:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> state = bi.GHMC().init(jnp.array([1.0, 2.0]), density)
    >>> state.gradient.tolist(), state.momentum.tolist(), bool(state.has_momentum)
    ([-1.0, -2.0], [0.0, 0.0], False)
    """

    position: jax.Array
    components: jax.Array
    gradient: jax.Array
    momentum: jax.Array
    has_momentum: jax.Array


@dataclass(frozen=True)
class GHMC(Kernel):
    r"""Renew a part of the momentum, follow Hamilton's equations, flip it on rejection.

    The target is extended to :math:`\gamma(x)\,N(p; 0, I)` in whitened coordinates. A step
    draws :math:`p \leftarrow \alpha p + \sqrt{1 - \alpha^2}\,\xi`, makes ``num_steps`` leapfrog
    steps of size h, and accepts with the log ratio :math:`-\Delta H`. A rejected step returns
    x with the momentum *reversed*: leapfrog followed by a flip is the involution, a second flip
    keeps accepted moves going, and what is rejected is left with that second flip.

    Parameters
    ----------
    persistence : float in [0, 1)
        The part :math:`\alpha` of the momentum that is kept; 0 draws it anew.
    num_steps : int
        Leapfrog steps.

    Raises
    ------
    ValueError
        For a persistence outside [0, 1) or fewer than one step.

    Notes
    -----
    ``num_steps`` gradients a step. The kernel leaves the extended target invariant and is not
    reversible. Each rejection turns the particle round, so that acceptance must be high for
    the momentum to be of use. A state from :meth:`init` has no momentum yet: its first step
    draws it. Populations keep positions alone, and each move starts with new momenta.

    References
    ----------
    Horowitz (1991), *A generalized guided Monte Carlo algorithm*; Neal (2011), section 5.5.3.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import GHMC
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> kernel = GHMC()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, _ = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> bool(state.has_momentum)
    True
    """

    persistence: float = 0.9
    num_steps: int = 1

    name: ClassVar[str] = "generalised HMC"
    reversible: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.95

    def __post_init__(self):
        if not 0 <= self.persistence < 1:
            raise ValueError(f"persistence must be in [0, 1), got {self.persistence!r}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps!r}")

    def default_step_size(self, dim):
        """Return 0.8 dim^(-1/6): acceptance about 0.95 of one leapfrog step on a normal."""
        return 0.8 * dim ** (-1 / 6)

    def init(self, position, density):
        """Return the state at a position, without a momentum yet."""
        point = super().init(position, density)
        return MomentumState(*point, jnp.zeros_like(position), jnp.asarray(False))

    def refresh(self, state, density):
        """Return the state with its cached values recomputed and its momentum kept."""
        fresh = self.init(state.position, density)
        if not isinstance(state, MomentumState):
            return fresh
        return fresh._replace(momentum=state.momentum, has_momentum=state.has_momentum)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        momentum_key, accept_key = random.split(key)
        state = self._renewed(momentum_key, state)
        h = tuning.step_size

        def leapfrog(_, now):
            half = now.momentum + 0.5 * h * tuning.scale_transposed(now.gradient)
            position = now.position + h * tuning.scale(half)
            components, gradient = density.components_and_gradient(position)
            full = half + 0.5 * h * tuning.scale_transposed(gradient)
            return now._replace(
                position=position, components=components, gradient=gradient, momentum=full
            )

        end = lax.fori_loop(0, self.num_steps, leapfrog, state)
        log_ratio = self._log_mass(end, density) - self._log_mass(state, density)
        divergent = ~(log_ratio > -_MAX_ENERGY_ERROR)
        not_finite = not_usable(end.components)
        stays = self._turned(state)
        return metropolis(accept_key, stays, end, log_ratio, not_finite, divergent)

    def _renewed(self, key: Any, state: MomentumState) -> MomentumState:
        """Return the state with a part of its momentum drawn anew, all of it at first."""
        noise = random.normal(key, state.position.shape, state.position.dtype)
        new_part = (1.0 - self.persistence**2) ** 0.5
        mixed = self.persistence * state.momentum + new_part * noise
        momentum = jnp.where(state.has_momentum, mixed, noise)
        return state._replace(momentum=momentum, has_momentum=jnp.asarray(True))

    def _turned(self, state: MomentumState) -> MomentumState:
        """Return the state with its momentum reversed."""
        return state._replace(momentum=-state.momentum)

    @staticmethod
    def _log_mass(state: MomentumState, density: Density) -> jax.Array:
        return density.combine(state.components) - 0.5 * jnp.sum(state.momentum**2)
