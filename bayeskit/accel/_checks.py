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
    array = as_numbers(values, name)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be real floating-point numbers, got dtype {array.dtype} of shape "
            f"{array.shape}. {_advice(array.dtype, name)}"
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


def _advice(dtype: Any, name: str) -> str:
    if jnp.issubdtype(dtype, jnp.bool_):
        return f"Weights of 1 and 0 are jnp.where({name}, 0.0, -jnp.inf)"
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "If the imaginary parts are rounding errors, pass the real parts"
    return f"Convert with jnp.asarray({name}, float)"


def as_numbers(values: Any, name: str, *, draw: str = "") -> jax.Array:
    """Return ``values`` as an array of numbers, or refuse them by name.

    Parameters
    ----------
    values : array-like
    name : str
    draw : str
        How numbers are drawn from a key, for the message if ``values`` is one.
    """
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError) as error:
        # As JAX says it, nobody learns which argument is meant.
        kind = type(values).__name__
        dtype = f" of dtype {values.dtype}" if isinstance(values, np.ndarray) else ""
        raise TypeError(f"{name} must be an array of numbers, got {kind}{dtype}") from error
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        advice = f". Draw with {draw}" if draw else ""
        raise TypeError(f"{name} must be an array of numbers, got a random key{advice}")
    return array


def refuse_where(
    bad: Any, values: Any, rule: str, error: type[ValueError] = ValueError
) -> None:
    """Raise an error with the rule and the first of the known values that breaks it."""
    flags = np.asarray(bad)
    if flags.any():
        place = tuple(int(i) for i in np.argwhere(flags)[0])
        where = f" at index {_first_place(flags)}" if place else ""
        raise error(f"{rule}, got {np.asarray(values)[place]}{where}")


def refuse_outside_unit_interval(
    values: jax.Array, name: str, error: type[ValueError] = ValueError
) -> None:
    """Raise an error if a known value is not in [0, 1)."""
    if not is_traced(values):
        known = np.asarray(values)
        refuse_where(~((known >= 0) & (known < 1)), known, f"{name} must be in [0, 1)", error)


def as_count(num: Any, name: str = "num") -> int:
    """Return a static number of offspring as an int, or refuse it."""
    if isinstance(num, jax.core.Tracer):
        raise TypeError(
            f"{name} fixes a shape, so it must be a Python integer, not a traced value. "
            f"Mark it static (static_argnames={name!r})"
        )
    if isinstance(num, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got a boolean")
    try:
        count = operator.index(num)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(num).__name__}") from None
    if not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"{name} must be in [0, 2**31), got {count}")
    return count


def as_indices(ancestors: Any) -> jax.Array:
    """Return ancestors as an integer array, or refuse them."""
    if "index" in getattr(ancestors, "_fields", ()):
        raise TypeError(
            f"ancestors must be integers, got {type(ancestors).__name__}: pass its field index"
        )
    array = as_numbers(ancestors, "ancestors")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"ancestors must be integers, got dtype {array.dtype}")
    return array


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
