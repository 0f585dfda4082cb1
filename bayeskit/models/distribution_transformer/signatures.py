"""What simulators take and return, found out by abstract calls before anything is compiled."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["checked_sizes"]


def checked_sizes(simulator: Any, dim: int) -> dict[str, int]:
    """Return the numbers m of one row of each source of a simulator.

    Raises
    ------
    TypeError
        If the simulator or its log likelihood cannot be called, or does not return rows of
        numbers and one number.
    IndexError
        If they read coordinates of a latent or of an observation that are not there.
    """
    vector = jax.ShapeDtypeStruct((len(simulator.parameters.ranges),), jnp.float32)
    latent = jax.ShapeDtypeStruct((dim,), jnp.float32)
    try:
        rows = jax.eval_shape(simulator.simulate_rows, jax.random.key(0), latent, vector)
    except Exception as error:
        given = simulator.parameters.ranges
        called = "(key, x, parameters)" if given else "(key, x)"
        hint = "" if given else "; a third argument takes parameters= of the Simulator"
        raise TypeError(
            f"the simulator cannot be called with a key and a latent of shape ({dim},). It "
            f"must be a JAX function {called} -> (m,) array{hint}. It raised "
            f"{_first_line(error)}"
        ) from error
    sizes = {}
    for name, leaf in rows.items():
        if leaf.ndim != 2 or not leaf.shape[1]:
            raise TypeError(
                f"the simulator must return rows (n, m) of numbers for {name!r}, "
                f"got shape {leaf.shape}"
            )
        sizes[name] = leaf.shape[1]
    if simulator.has_log_likelihood:
        _check_log_likelihood(simulator, rows, latent, vector)
    _refuse_far_indices(simulator, rows, dim)
    return sizes


def _check_log_likelihood(simulator: Any, rows: dict, latent: Any, vector: Any) -> None:
    """Refuse a log likelihood that cannot be called, or returns no single number."""
    masks = {n: jax.ShapeDtypeStruct((a.shape[0],), jnp.bool_) for n, a in rows.items()}
    shapes = {name: leaf.shape for name, leaf in rows.items()}
    try:
        jax.eval_shape(simulator.log_likelihood_rows, rows, masks, latent, vector)
    except Exception as error:
        raise TypeError(
            f"the log likelihood cannot be called with observations of shapes (n, m) "
            f"{shapes} and a latent of shape {latent.shape}, or returns more than one number. "
            "It must be a JAX function (z, x) -> number of one observation z (m,), or (rows, "
            f"masks, x) -> number of a JointSimulator. It raised {_first_line(error)}"
        ) from error


def _refuse_far_indices(simulator: Any, rows: dict, dim: int) -> None:
    """Refuse ``x[3]`` of a latent with fewer coordinates, for which JAX takes the last one.

    NumPy raises there, and functions of JAX take its arrays. What else may go wrong with them
    is no concern of ours.
    """
    x = np.full(dim, 0.5, np.float32)
    arrays = {name: np.full(leaf.shape, 0.5, np.float32) for name, leaf in rows.items()}

    def call(key: jax.Array) -> None:
        simulator.probe(key, x, arrays)

    try:
        with contextlib.suppress(TypeError, ValueError, AttributeError, ArithmeticError):
            with np.errstate(all="ignore"):
                jax.eval_shape(call, jax.random.key(0))
    except IndexError as error:
        raise IndexError(
            f"the simulator or its log likelihood reads a coordinate that is not there: the "
            f"latent has shape ({dim},), and observations (n, m) have "
            f"{ {name: leaf.shape for name, leaf in rows.items()} }. NumPy says: "
            f"{_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
