"""Random-walk Metropolis."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["RandomWalk"]


@dataclass(frozen=True)
class RandomWalk(Kernel):
    r"""Propose :math:`x' = x + h L \varepsilon` with symmetric noise.

    The proposal is symmetric, so the log acceptance ratio is
    :math:`\log \gamma(x') - \log \gamma(x)`.

    Parameters
    ----------
    degrees_of_freedom : int, optional
        Student-t noise in place of normal noise: now and then a long step.
    scales : tuple of float
        The step size is multiplied by one of them, chosen uniformly: steps of several orders of
        length where the right one is not known.
    blocks : tuple of tuples of int
        Each step changes the coordinates of one block alone, chosen uniformly. Default: all.

    Raises
    ------
    ValueError
        For degrees of freedom below 1, scales that are not positive, or an empty block.

    Notes
    -----
    One density evaluation a step. Step size :math:`2.38/\sqrt{d}` and acceptance 0.234 are
    optimal for many independent coordinates (Roberts, Gelman & Gilks 1997), d being the size of
    a block. Tails heavier than normal make it mix slowly, unless the noise has such tails too
    (Jarner & Roberts 2007).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import RandomWalk
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> kernel = RandomWalk(degrees_of_freedom=3, scales=(0.1, 1.0))
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.position.shape
    (2,)
    """

    degrees_of_freedom: int | None = None
    scales: tuple[float, ...] = (1.0,)
    blocks: tuple[tuple[int, ...], ...] = ()

    name: ClassVar[str] = "random-walk Metropolis"

    def __post_init__(self):
        nu = self.degrees_of_freedom
        if nu is not None and (not isinstance(nu, int | np.integer) or nu < 1):
            raise ValueError(f"degrees_of_freedom must be a whole number >= 1, got {nu!r}")
        scales = tuple(float(scale) for scale in self.scales)
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, got {self.scales!r}")
        blocks = tuple(tuple(int(i) for i in block) for block in self.blocks)
        if any(not block or min(block) < 0 for block in blocks):
            raise ValueError(f"each block holds at least one coordinate >= 0, got {blocks}")
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "blocks", blocks)

    def __repr__(self):
        chosen = [
            f"{option.name}={getattr(self, option.name)!r}"
            for option in fields(self)
            if getattr(self, option.name) != option.default
        ]
        return f"{type(self).__name__}({', '.join(chosen)})"

    def default_step_size(self, dim):
        """Return 2.38 / sqrt(dim), of the largest block if there are blocks."""
        return 2.38 / math.sqrt(max(map(len, self.blocks), default=dim))

    def init(self, position, density):
        """Return the state at a position.

        Raises
        ------
        ValueError
            If a block names a coordinate that positions do not have.
        """
        state = super().init(position, density)
        last = max((i for block in self.blocks for i in block), default=0)
        if last >= len(position):
            raise ValueError(
                f"blocks name the coordinate {last}, but positions have {len(position)}"
            )
        return state

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        noise_key, accept_key = random.split(key)
        x = state.position
        position = x + tuning.step_size * self._noise(noise_key, x, tuning)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )

    def _noise(self, key, x, tuning):
        """Return symmetric noise (dim,) with the metric, before the step size."""
        normal_key, tail_key, scale_key, block_key = random.split(key, 4)
        noise = tuning.scale(random.normal(normal_key, x.shape, x.dtype))
        if self.degrees_of_freedom is not None:
            # A chi-square with whole degrees of freedom is a sum of squares of normals.
            squares = random.normal(tail_key, (self.degrees_of_freedom,), x.dtype) ** 2
            noise = noise / jnp.sqrt(jnp.mean(squares))
        chosen = random.categorical(scale_key, jnp.zeros(len(self.scales)))
        noise = jnp.asarray(self.scales, x.dtype)[chosen] * noise
        if self.blocks:
            members = np.zeros((len(self.blocks), len(x)), bool)
            for block, row in zip(self.blocks, members, strict=True):
                row[list(block)] = True
            chosen = random.categorical(block_key, jnp.zeros(len(self.blocks)))
            noise = jnp.where(jnp.asarray(members)[chosen], noise, 0.0)
        return noise
