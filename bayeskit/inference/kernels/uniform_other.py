"""Metropolis-Hastings with a uniform proposal of another value of one coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.kernels.product_space import ProductSpaceKernel
from bayeskit.inference.measure import PointState

__all__ = ["UniformOther"]


@dataclass(frozen=True)
class UniformOther(ProductSpaceKernel):
    r"""Propose one of the other values of one coordinate, both chosen uniformly.

    From x the proposal has probability :math:`1 / (d\,(K_i - 1))`, where coordinate i has
    :math:`K_i` values, and so has the way back. The log acceptance ratio is
    :math:`\log\gamma(x') - \log\gamma(x)`.

    Parameters
    ----------
    num_states : tuple of int
        Coordinate i takes the values 0 .. num_states[i] - 1.

    Raises
    ------
    ValueError
        Unless every coordinate has at least two values.

    Notes
    -----
    One density evaluation a step. Of two values it mixes at least as well as
    :class:`DiscreteGibbs`; with many values most proposals are rejected.

    References
    ----------
    Liu (1996), *Peskun's theorem and a modified discrete-state Gibbs sampler*.

    Examples
    --------
    Of two values with probabilities 3/4 and 1/4, the likelier one is left one time in three:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: jnp.log(jnp.array([0.75, 0.25]))[x[0]]).density()
    >>> kernel = bi.UniformOther(num_states=(2,))
    >>> state = kernel.init(jnp.array([0]), density)
    >>> _, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(1))
    >>> round(float(info.acceptance), 3)
    0.333
    """

    name: ClassVar[str] = "uniform other value"

    def step(self, key, state, density, tuning):
        """Return the next state and its info; the tuning is not looked at."""
        coordinate_key, value_key, accept_key = random.split(key, 3)
        coordinate = random.categorical(coordinate_key, jnp.zeros(self.dim))
        here = state.position[coordinate]
        there = self._other(value_key, coordinate, here)
        position = state.position.at[coordinate].set(there.astype(here.dtype))
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )

    def _other(self, key, coordinate, here):
        """Return a uniform value of a coordinate other than the one it has."""
        num_others = jnp.asarray(self.num_states)[coordinate] - 1
        places = jnp.arange(self.most_states - 1)
        number = random.categorical(key, jnp.where(places < num_others, 0.0, -jnp.inf))
        return number + (number >= here)
