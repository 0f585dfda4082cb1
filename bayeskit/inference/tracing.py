"""What JAX says of a user's function that it cannot trace, in words for the user."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["explained", "scalar_density"]

_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_LIBRARIES = ("/jax/", "/numpy/", "/numpyro/", "/bayeskit/", "/contextlib.py")


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Say where and why a function cannot be compiled, in place of the tracer's own error.

    Parameters
    ----------
    name : str
        What the user calls the function.

    Raises
    ------
    TypeError
        With the line in which NumPy, ``float()`` or ``if`` met a value that is not known yet.
    """
    try:
        yield
    except _UNTRACEABLE as error:
        what = str(error).partition("\n")[0]
        raise TypeError(
            f"{name} cannot be compiled{_place(error)}: {what}. Use jax.numpy (jnp) in place "
            "of numpy, jnp.where or jax.lax.cond in place of if, and no float() or int()"
        ) from error


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not any(part in one.filename for part in _LIBRARIES)]
    if not own:
        return ""
    return f" (in {own[-1].filename}, line {own[-1].lineno}: {own[-1].line:.80})"


def scalar_density(value: Any, name: str) -> jax.Array:
    """Return the value of a log density, or refuse what is no real number.

    Parameters
    ----------
    value : () array
    name : str
        What the user calls the function.

    Raises
    ------
    TypeError
        With the shape or the kind of what was found.
    """
    if not isinstance(value, jax.Array | float | int) and not hasattr(value, "dtype"):
        raise TypeError(
            f"{name} must return one number, got {type(value).__name__}: return an array of "
            "shape ()"
        )
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != ():
        raise TypeError(
            f"{name} must return one number, shape (), got shape {shape}: add up the terms, "
            "for example with jnp.sum"
        )
    # A number of Python stands for a constant of any kind.
    if not isinstance(value, float | int) and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must return a real floating-point number, got dtype {dtype}"
            + (": take the real part" if jnp.iscomplexobj(value) else ": convert it to float")
        )
    return jnp.asarray(value)
