"""The Hilbert curve: one number for each point, close for points that are close."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

__all__ = ["hilbert_index", "hilbert_order"]

# A key of 32 bits is what single precision has; below two bits a coordinate it says little.
_KEY_BITS = 32
_MOST_COORDINATES = 16


def hilbert_index(cells: jax.Array, num_bits: int) -> jax.Array:
    r"""Return the place of each cell of a grid along the Hilbert curve.

    The curve visits every cell of :math:`\{0, \ldots, 2^b - 1\}^d` once, and each step goes to
    one of the cells that share a face with the last. It visits one half of the grid after the
    other, at every scale: ``index >> d`` is the place of the cell twice as wide.

    Parameters
    ----------
    cells : (..., dim) array of whole numbers in [0, 2^num_bits)
    num_bits : int
        b. At most 32 / dim.

    Returns
    -------
    (...) uint32 array

    Raises
    ------
    ValueError
        If the places do not fit into 32 bits.

    Notes
    -----
    O(num_bits dim) whole-number operations a cell.

    References
    ----------
    Skilling (2004), *Programming the Hilbert curve*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import accel
    >>> accel.hilbert_index(jnp.array([[0, 0], [0, 1], [1, 1], [1, 0]]), 1)
    Array([0, 1, 2, 3], dtype=uint32)
    """
    dim = cells.shape[-1]
    if num_bits < 1 or num_bits * dim > _KEY_BITS:
        raise ValueError(
            f"num_bits must be from 1 to {_KEY_BITS // max(dim, 1)}, so that the places of "
            f"{dim} coordinates fit into {_KEY_BITS} bits, got {num_bits!r}"
        )
    axes = [cells[..., i].astype(jnp.uint32) for i in range(dim)]
    for bit in range(num_bits - 1, 0, -1):
        low = jnp.uint32((1 << bit) - 1)
        # Undo, from the widest cubes to the narrowest, how each one is turned: a one reflects
        # the first axis within the cube, a zero exchanges it with another axis.
        for i in range(dim):
            is_one = (axes[i] >> bit) & 1 == 1
            differing = jnp.where(is_one, jnp.uint32(0), (axes[0] ^ axes[i]) & low)
            axes[0] = jnp.where(is_one, axes[0] ^ low, axes[0] ^ differing)
            axes[i] = axes[i] ^ differing if i else axes[0]
    # What is left is a Gray code in each digit.
    for i in range(1, dim):
        axes[i] = axes[i] ^ axes[i - 1]
    parity = jnp.zeros_like(axes[0])
    for bit in range(num_bits - 1, 0, -1):
        is_one = (axes[-1] >> bit) & 1 == 1
        parity = jnp.where(is_one, parity ^ jnp.uint32((1 << bit) - 1), parity)
    digits = [
        ((axis ^ parity) >> bit) & 1 for bit in range(num_bits - 1, -1, -1) for axis in axes
    ]
    return functools.reduce(lambda index, digit: (index << 1) | digit, digits)


def hilbert_order(points: jax.Array) -> jax.Array:
    r"""Return one number for each point, by which to sort: its place along the Hilbert curve.

    Coordinates are standardised and mapped to the unit cube by the logistic function; cells
    are as small as 32 bits allow. A single coordinate is returned as it is.

    Parameters
    ----------
    points : (num, dim) array, dim at most 16
        What is not finite counts as the end of its axis.

    Returns
    -------
    (num,) array

    Raises
    ------
    ValueError
        For points of another shape, and for more coordinates: cells would be too wide to tell
        points apart.

    References
    ----------
    Gerber & Chopin (2015), *Sequential quasi-Monte Carlo*, section 3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import accel
    >>> points = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    >>> jnp.argsort(accel.hilbert_order(points))
    Array([0, 2, 1, 3], dtype=int32)
    """
    points = jnp.asarray(points)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(
            f"points must have the shape (num, dim), got {points.shape}. Of one coordinate, "
            "pass points[:, None]"
        )
    dim = points.shape[-1]
    if dim > _MOST_COORDINATES:
        raise ValueError(
            f"a curve through {dim} coordinates has one bit for each: sort by at most "
            f"{_MOST_COORDINATES} of them, those that matter most for what comes next"
        )
    if dim == 1:
        return points[:, 0]
    num_bits = _KEY_BITS // dim
    finite = jnp.isfinite(points)
    count = jnp.maximum(jnp.sum(finite, axis=0), 1)
    mean = jnp.sum(jnp.where(finite, points, 0.0), axis=0) / count
    squares = jnp.where(finite, (points - mean) ** 2, 0.0)
    spread = jnp.sqrt(jnp.sum(squares, axis=0) / count)
    standard = (points - mean) / jnp.where(spread > 0, spread, 1.0)
    unit = jnp.nan_to_num(jax.nn.sigmoid(standard))
    cells = jnp.minimum(unit * 2.0**num_bits, 2.0**num_bits - 1).astype(jnp.uint32)
    return hilbert_index(cells, num_bits)
