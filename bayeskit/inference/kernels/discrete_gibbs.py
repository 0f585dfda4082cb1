"""Gibbs sampling of one coordinate of a finite product space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import StepInfo
from bayeskit.inference.kernels.product_space import ProductSpaceKernel
from bayeskit.inference.measure import PointState

__all__ = ["DiscreteGibbs"]


@dataclass(frozen=True)
class DiscreteGibbs(ProductSpaceKernel):
    r"""Draw one coordinate, chosen uniformly, from its conditional law given all others.

    The density is evaluated at every value v of the coordinate, and v is drawn with probability
    :math:`\propto \gamma(x_1, \dots, v, \dots, x_d)`. There is no acceptance ratio.

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
    As many density evaluations a step as the coordinate has values. A value whose density is
    NaN or +inf is never drawn. Coordinates that hang together strongly mix slowly one by one.

    References
    ----------
    Geman & Geman (1984); Liu, Wong & Kong (1995) on the random choice of coordinates.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import DiscreteGibbs
    >>> target = Target(log_density=lambda x: 0.5 * x[0] * x[1], has_gradient=False)
    >>> kernel = DiscreteGibbs((2, 3))
    >>> state = kernel.init(jnp.array([0, 2]), target.density())
    >>> state, _ = kernel.step(jax.random.key(0), state, target.density(), None)
    >>> state.position.shape
    (2,)
    """

    name: ClassVar[str] = "discrete Gibbs"
    # Every step draws afresh: there is nothing to adapt.
    target_acceptance: ClassVar[float] = 1.0

    def step(self, key, state, density, tuning):
        """Return the next state and its info; the tuning is not looked at."""
        coordinate_key, value_key = random.split(key)
        coordinate = random.categorical(coordinate_key, jnp.zeros(self.dim))
        components, log_density = self.along(state.position, coordinate, density)
        value = random.categorical(value_key, log_density)
        position = state.position.at[coordinate].set(value.astype(state.position.dtype))
        changed = jnp.any(position != state.position)
        missing = ~(jnp.max(log_density) > -jnp.inf)
        never = jnp.asarray(False)
        info = StepInfo(jnp.ones_like(log_density[0]), changed, missing, never)
        return PointState(position, components[value]), info
