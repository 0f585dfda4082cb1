"""What state-space models and their data are refused for, before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.inference.observing import is_distribution

__all__ = [
    "check_function",
    "check_observations",
    "check_parameter",
    "check_states",
    "optional_names",
]

# What the functions of a model may take beside parameters, state and time.
_OPTIONAL = ("u", "dt")


def optional_names(function: Callable) -> list[str]:
    """Return what a function of a model takes beside parameters, state and time."""
    names = inspect.signature(function).parameters
    return [name for name in _OPTIONAL if name in names]


def check_function(function: Any, role: str, names: tuple[str, ...]) -> None:
    """Refuse what cannot be called with these arguments."""
    takes = f"({', '.join(names)})"
    if is_distribution(function):
        raise TypeError(
            f"{role} must be a function {takes} that returns a distribution, got a "
            f"{type(function).__name__} itself: write lambda {takes[1:-1]}: ..."
        )
    if not callable(function):
        raise TypeError(f"{role} must be a function {takes}, got {function!r}")
    try:
        options = dict.fromkeys(optional_names(function), 0)
        inspect.signature(function).bind(*names, **options)
    except TypeError as error:
        raise TypeError(
            f"{role} must take {takes}, and u and dt by name where it needs "
            f"them, got {inspect.signature(function)}: {error}"
        ) from error


def check_parameter(name: str, value: Any) -> None:
    """Refuse what is neither a number, an array nor a proper continuous prior."""
    if is_distribution(value):
        base = value
        while hasattr(base, "base_dist"):
            base = base.base_dist
        if value.support is None or value.support.is_discrete:
            raise ValueError(f"the prior of {name!r} is discrete ({type(value).__name__})")
        if type(base).__name__ == "ImproperUniform":
            raise ValueError(
                f"the prior of {name!r} is improper: particle methods start from its draws"
            )
        return
    try:
        finite = np.isfinite(np.asarray(value, float)).all()
    except (TypeError, ValueError):
        raise TypeError(
            f"params[{name!r}] must be a number, an array or a NumPyro distribution, got "
            f"{type(value).__name__}"
        ) from None
    if not finite:
        raise ValueError(f"params[{name!r}] must be finite, got {value!r}")


def check_states(role: str, start: Any, later: Any) -> None:
    """Refuse states of another shape than the first."""
    shapes = [jax.tree.map(lambda s: s.shape, tree) for tree in (start, later)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"initial draws a state of shape {shapes[0]} and {role} one of shape "
            f"{shapes[1]}: they must agree"
        )


def check_observations(y: np.ndarray, found: dict[str, Any]) -> None:
    """Refuse observations that the model cannot have made."""
    if y.shape[1:] != tuple(found["shape"]):
        wanted = ", ".join(["num_steps", *map(str, found["shape"])])
        raise InvalidDataError(
            f"y must have shape ({wanted}{'' if found['shape'] else ','}), as observation "
            f"returns {found['family']} of shape {tuple(found['shape'])}; got {y.shape}"
        )
    missing = np.isnan(y) if y.dtype.kind == "f" else np.zeros(y.shape, bool)
    if found["discrete"] and np.any(y[~missing] != np.round(y[~missing])):
        place = int(np.argwhere((y != np.round(y)) & ~missing)[0][0])
        raise InvalidDataError(
            f"y must hold whole numbers for {found['family']}, got {y[place]} at time {place}"
        )
    if found["support"] is not None:
        outside = ~np.asarray(found["support"](y)) & ~missing
        if outside.any():
            where = tuple(map(int, np.argwhere(outside)[0]))
            raise InvalidDataError(
                f"y must lie in the support of {found['family']}, got {y[where]} at time "
                f"{where[0]}: correct it, or NaN where nothing was seen"
            )
    rows = missing.reshape(len(y), -1)
    partial = rows.any(axis=1) & ~rows.all(axis=1)
    if found["dependent"] and partial.any():
        raise InvalidDataError(
            f"y has missing coordinates at time {int(np.argmax(partial))}, and those of "
            f"{found['family']} depend on one another: give all of a row or none of it"
        )
