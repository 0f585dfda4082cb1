"""What all array functions of this folder demand of their arguments."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError

# Indices are int32, so neither particles nor offspring may need a 32nd bit.
LARGEST_COUNT = 2**31 - 1


def as_log_array(values: Any, name: str, nan: str = "refuse") -> jax.Array:
    """Return ``values`` as float32 or float64 (..., num_particles), or refuse them.

    Half precision is raised to float32: it could not tell 1000 from 1001 particles. With
    ``nan="drop"`` each NaN becomes -inf; else it stays, for a later check to find.
    """
    if nan not in ("refuse", "drop"):
        raise ValueError(f"nan must be 'refuse' or 'drop', got {nan!r}")
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be real floating-point numbers, got dtype {array.dtype} of shape "
            f"{array.shape}. Convert with jnp.asarray({name}, float)"
        )
    if array.ndim == 0:
        raise ValueError(f"{name} must have a last axis of particles, got a scalar")
    if not 1 <= array.shape[-1] <= LARGEST_COUNT:
        raise ValueError(
            f"{name} must hold at least 1 and fewer than 2**31 particles on its last axis, "
            f"got shape {array.shape}"
        )
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return jnp.where(jnp.isnan(array), -jnp.inf, array) if nan == "drop" else array


def as_count(num: Any, name: str = "num") -> int:
    """Return a static number of offspring as an int, or refuse it."""
    if isinstance(num, jax.core.Tracer):
        raise TypeError(
            f"{name} fixes a shape, so it must be a Python integer, not a traced value. "
            f"Mark it static (static_argnames={name!r})"
        )
    try:
        count = operator.index(num)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(num).__name__}") from None
    if not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"{name} must be in [0, 2**31), got {count}")
    return count


def is_traced(*values: Any) -> bool:
    """Tell whether any of the values is unknown at this moment (inside jit, vmap, grad)."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def largest(values: jax.Array) -> jax.Array:
    """Return the largest value of each row with its axis kept; NaN if any value is NaN.

    XLA's own maximum overlooks NaN among some thousand numbers on a CPU (jaxlib 0.10.2).
    """
    # A sum of floats takes a fifth of the time of one of integers; only zero must be exact.
    num_nan = jnp.sum(jnp.isnan(values), axis=-1, keepdims=True, dtype=values.dtype)
    return jnp.where(num_nan > 0, jnp.nan, jnp.max(values, axis=-1, keepdims=True))


def refuse_bad_weights(log_weights: jax.Array, ok: jax.Array, name: str) -> None:
    """Raise for log-weights that no resampling can use, where values are known.

    Inside a traced function nothing is raised: there ``ok`` tells.

    Parameters
    ----------
    log_weights : (..., num_particles) array
    ok : (...) bool array
        The verdict that the compiled function returned, so that good input costs no pass.
    name : str

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf.
    DegenerateWeightsError
        If all log-weights of a row are -inf.
    """
    if is_traced(log_weights, ok) or bool(np.all(ok)):
        return
    refuse_invalid_values(log_weights, name)
    rows = np.asarray(~np.asarray(ok))
    where = "" if rows.ndim == 0 else f" in row {_first_place(rows)} ({rows.sum()} such rows)"
    raise DegenerateWeightsError(
        f"all {log_weights.shape[-1]} values of {name} are -inf{where}: no particle can be "
        "chosen. The step before left no particle with positive weight: look at its "
        "potential, or use more particles"
    )


def refuse_invalid_values(values: jax.Array, name: str) -> None:
    """Raise InvalidWeightsError if any known value is +inf or NaN."""
    if is_traced(values):
        return
    known = np.asarray(values)
    kinds: dict[str, Callable] = {"nan": np.isnan, "+inf": np.isposinf}
    for kind, test in kinds.items():
        bad = test(known)
        if bad.any():
            raise InvalidWeightsError(
                f"{name} contains {kind}: {bad.sum()} of {bad.size} values, the first at "
                f"index {_first_place(bad)}. A weight of zero is -inf; find out why the "
                "density is not finite there"
            )


def _first_place(flags: np.ndarray) -> int | tuple[int, ...]:
    place = tuple(int(i) for i in np.argwhere(flags)[0])
    return place[0] if len(place) == 1 else place
