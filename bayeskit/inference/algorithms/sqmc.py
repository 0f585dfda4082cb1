"""Sequential quasi-Monte Carlo."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.algorithms.uniform_filter import (
    filter_from_uniforms,
    num_uniforms,
    spatial_order,
)
from bayeskit.inference.blocks.base import Block, set_law
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["shifted_points", "sqmc"]


@functools.cache
def _sobol_words(num: int, dim: int) -> np.ndarray:
    """Return the first points of the Sobol' sequence as 32-bit binary fractions (num, dim).

    They are sorted by their first coordinate, which is 0, 1/num, 2/num, ...
    """
    from scipy.stats import qmc

    points = qmc.Sobol(dim, scramble=False, bits=32).random(num)
    return (points[np.argsort(points[:, 0])] * 2.0**32).astype(np.uint32)


def shifted_points(key: Any, shape: tuple[int, int, int]) -> jax.Array:
    """Return Sobol' points (num_sets, num, dim) in (0, 1), each set shifted by digits.

    Every binary digit of a coordinate is flipped or not, for all points of a set alike. A
    point alone is then uniform on the cube; together they stay as even as they were. Each set
    is sorted by the first coordinate. ``num`` is a power of 2.
    """
    num_sets, num, dim = shape
    return points_shifted_by(random.bits(key, (num_sets, dim)), num)


def points_shifted_by(shifts: jax.Array, num: int) -> jax.Array:
    """Return Sobol' points shifted by given digits, 32 in each of shifts (num_sets, dim)."""
    dim, shifts = shifts.shape[-1], shifts[:, None, :]
    # Of num points the first digits count from 0 to num - 1. Flipping some moves a point to
    # another place in the order, and flipping them again tells which point a place has.
    leading = jnp.right_shift(shifts[:, :, 0], jnp.uint32(32 - num.bit_length() + 1))
    places = jnp.arange(num, dtype=jnp.uint32) ^ (leading if num > 1 else jnp.uint32(0))
    words = jnp.asarray(_sobol_words(num, dim))[places.astype(jnp.int32)] ^ shifts
    dtype = jnp.result_type(float)
    # As many digits as the format holds, or the largest would round to 1.
    digits = 32 if dtype == jnp.float64 else 23
    return ((words >> (32 - digits)).astype(dtype) + 0.5) * 2.0**-digits


@dataclass(frozen=True, eq=False, repr=False)
class SQMC(Block):
    """Sequential quasi-Monte Carlo. See :func:`sqmc`."""

    model: FeynmanKac
    num_particles: int
    order: Callable

    def __post_init__(self):
        set_law(self, self.arrow(None))

    @property
    def name(self):
        return f"sqmc({self.num_particles})"

    def run(self, key, population=None):
        shape = num_uniforms(self.model, self.num_particles)
        # Sorted by what chooses ancestors, neighbours in the cloud meet neighbours.
        points = shifted_points(key, shape)
        return filter_from_uniforms(self.model, points, self.order), {}

    def arrow(self, law):
        # Its mean is that of a filter whose particles have independent uniforms.
        filtered: Any = particle_filter(
            self.model, self.num_particles, scheme="multinomial", ess_below=None
        ).law
        return filtered._replace(
            derivation=(
                "by Sobol' points, shifted at random and anew at each time:",
                "each point alone is uniform given the past, so each particle has the law that",
                "it has here, and a sum over particles has the same mean given the past:",
                *("    " + line for line in filtered.derivation),
            )
        )


def sqmc(model: FeynmanKac, num_particles: int, *, order: Callable = spatial_order) -> Block:
    r"""Return sequential quasi-Monte Carlo: a filter driven by evenly spread points.

    Parameters
    ----------
    model : FeynmanKac with initial_from_uniforms and kernel_from_uniforms
    num_particles : int
        A power of 2 keeps the Sobol' points balanced.
    order : callable (particles) -> (num_particles,) array
        What to sort particles by, before ancestors are chosen. Default: their place along the
        Hilbert curve, :func:`bayeskit.accel.hilbert_order`, which for one coordinate is the
        coordinate. Any order is exact; it is the closeness of neighbours that lowers the error.

    Returns
    -------
    Block
        The evidence is unbiased (law L2), as each point alone is uniform under the shift.

    Raises
    ------
    MissingDensityError
        If the model does not say how uniforms move its particles.
    ValueError
        If ``num_particles`` is not a power of 2; when it runs without ``order``, for particles
        of more than 16 coordinates.

    Notes
    -----
    O(num_steps num_particles log(num_particles)). The error falls faster than
    :math:`N^{-1/2}` where a step is smooth in its uniforms and of few dimensions. For 10
    observations in the plane, the log evidence had 0.47 of the standard deviation of
    :func:`particle_filter` with 256 particles, and 0.32 with 1024.

    References
    ----------
    Gerber & Chopin (2015), *Sequential quasi-Monte Carlo*; Owen (1995) on shifted nets;
    Skilling (2004), *Programming the Hilbert curve*.

    Examples
    --------
    >>> import jax
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=5,
    ...     initial_from_uniforms=lambda u: jax.scipy.special.ndtri(u[0]),
    ...     kernel_from_uniforms=lambda t, x, u: x + jax.scipy.special.ndtri(u[0]),
    ... )
    >>> bi.run(bi.sqmc(walk, 128), key=0).log_weights.shape
    (128,)
    """
    num_uniforms(model, num_particles)
    if num_particles < 1 or num_particles & (num_particles - 1):
        raise ValueError(f"num_particles must be a power of 2, got {num_particles!r}")
    return SQMC(model, num_particles, order)
