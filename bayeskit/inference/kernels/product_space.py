"""Vectors of whole numbers, each with a number of values of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference.kernels.base import Kernel, not_usable
from bayeskit.inference.measure import Density, PointState

__all__ = ["ProductSpaceKernel"]


@dataclass(frozen=True)
class ProductSpaceKernel(Kernel):
    """What kernels that change one coordinate of a finite product space share.

    Parameters
    ----------
    num_states : tuple of int
        Coordinate i takes the values 0 .. num_states[i] - 1.

    Raises
    ------
    ValueError
        Unless every coordinate has at least two values.
    """

    num_states: tuple[int, ...]

    def __post_init__(self):
        if isinstance(self.num_states, int | np.integer):
            raise ValueError(
                f"num_states holds one number for each coordinate, got {self.num_states}: "
                f"write ({self.num_states},) * dim"
            )
        numbers = tuple(int(num) for num in self.num_states)
        if not numbers or min(numbers) < 2:
            raise ValueError(
                f"each coordinate needs at least 2 values to move between, got {numbers}"
            )
        object.__setattr__(self, "num_states", numbers)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.num_states)

    @property
    def most_states(self) -> int:
        """Largest number of values of a coordinate."""
        return max(self.num_states)

    def init(self, position: jax.Array, density: Density) -> PointState:
        """Return the state at a position.

        Raises
        ------
        TypeError
            Unless positions are vectors of integers with one entry for each coordinate.
        """
        dtype = getattr(position, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(
                f"{self.name} moves vectors of integers, got a position of dtype "
                f"{dtype or type(position).__name__}. Use a kernel for real vectors"
            )
        if jnp.shape(position) != (self.dim,):
            raise TypeError(
                f"{self.name} has num_states for {self.dim} coordinates, got a position of "
                f"shape {jnp.shape(position)}"
            )
        return PointState(position, density.components(position))

    def default_step_size(self, dim: int) -> float:
        """Return 1: there is nothing to tune."""
        return 1.0

    def exists(self) -> jax.Array:
        """Return which values (dim, most_states) the coordinates have."""
        return jnp.arange(self.most_states) < jnp.asarray(self.num_states)[:, None]

    def along(
        self, position: jax.Array, coordinate: Any, density: Density
    ) -> tuple[jax.Array, jax.Array]:
        """Return the components and log densities of all values of one coordinate.

        Parameters
        ----------
        position : (dim,) integer array
        coordinate : () integer array
        density : Density

        Returns
        -------
        components : (most_states, J) array
        log_density : (most_states,) array
            -inf for values that the coordinate does not have, and where the density is NaN or
            +inf.
        """

        def at(value):
            return density.components(position.at[coordinate].set(value))

        components = jax.vmap(at)(jnp.arange(self.most_states, dtype=position.dtype))
        usable = self.exists()[coordinate] & ~not_usable(components)
        return components, jnp.where(usable, density.combine(components), -jnp.inf)
