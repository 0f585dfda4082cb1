"""Copy particles of any structure to the slots of their offspring."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

__all__ = ["take_particles"]


def take_particles(tree: Any, ancestors: Any) -> Any:
    r"""Return the particles with the given indices: leaf by leaf, :math:`x'_m = x_{a_m}`.

    Parameters
    ----------
    tree : pytree of (num_particles, ...) arrays
        Leaves of any dtype: floats, integers, booleans and typed random keys.
    ancestors : (num,) integer array in [0, num_particles)

    Returns
    -------
    pytree of (num, ...) arrays of the same structure and dtypes

    Raises
    ------
    TypeError
        For ancestors that are not integers.
    ValueError
        For ancestors that are not one-dimensional, or leaves whose leading axes disagree;
        the message names the leaf.

    Notes
    -----
    O(num) for each leaf. Indices out of range are not looked for; they take the nearest
    particle.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> take_particles({"x": jnp.array([1.0, 2.0, 3.0])}, jnp.array([2, 2, 0]))
    {'x': Array([3., 3., 1.], dtype=float32)}
    """
    if "index" in getattr(ancestors, "_fields", ()):
        raise TypeError(
            f"ancestors must be integers, got {type(ancestors).__name__}: pass its field index"
        )
    ancestors = jnp.asarray(ancestors)
    if not jnp.issubdtype(ancestors.dtype, jnp.integer):
        raise TypeError(f"ancestors must be integers, got dtype {ancestors.dtype}")
    if ancestors.ndim != 1:
        raise ValueError(
            f"ancestors must have one axis, got shape {ancestors.shape}. "
            "Map over further axes with jax.vmap"
        )
    leaves, structure = tree_flatten_with_path(tree)
    _require_one_leading_axis(leaves)
    return jax.tree.unflatten(structure, _taken([leaf for _, leaf in leaves], ancestors))


@jax.jit
def _taken(leaves: list[jax.Array], ancestors: jax.Array) -> list[jax.Array]:
    # Not as in NumPy, where -1 is the last: the kernels and torch do not count from the end.
    return [leaf.at[ancestors].get(mode="clip", wrap_negative_indices=False) for leaf in leaves]


def _require_one_leading_axis(leaves: list[tuple[Any, Any]]) -> None:
    first_size = None
    for path, leaf in leaves:
        name = f"tree{keystr(path)}"
        shape = jnp.shape(leaf)
        if not shape:
            raise ValueError(f"{name} is a scalar: every leaf needs a leading particle axis")
        if first_size is None:
            first_size, first_name = shape[0], name
        elif shape[0] != first_size:
            raise ValueError(
                f"{name} has {shape[0]} particles on its leading axis, but {first_name} has "
                f"{first_size}"
            )
