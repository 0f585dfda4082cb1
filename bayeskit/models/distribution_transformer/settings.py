"""Settings of the estimator, checked before anything is compiled."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayeskit.inference.checkpoint import plain_text
from bayeskit.models.base import precision_scope
from bayeskit.models.distribution_transformer.training_progress import Training

__all__ = [
    "PLAIN_SETTINGS",
    "check_settings",
    "device_scope",
    "identity_of_training",
    "training_of",
]

# Plain values that the numbers depend on: all but how long, how fast and where.
PLAIN_SETTINGS = (
    "n_components",
    "warm_start",
    "d_model",
    "n_layers",
    "n_heads",
    "d_hidden",
    "batch_size",
    "n_draws",
    "lr",
    "max_steps",
    "patience",
)
_COUNTS = {
    "n_components": 1,
    "d_model": 1,
    "n_layers": 1,
    "n_heads": 1,
    "d_hidden": 1,
    "batch_size": 1,
    "n_draws": 0,
}


def check_settings(estimator: Any) -> None:
    """Refuse settings that cannot be used.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
    """
    given = estimator.get_params(deep=False)
    for name, least in _COUNTS.items():
        _check_count(name, given[name], least)
    for name, least in {"max_steps": 0, "patience": 1}.items():
        if given[name] is not None:
            _check_count(name, given[name], least, "None or ")
    if given["d_model"] % given["n_heads"]:
        raise ValueError(
            "d_model must be a multiple of n_heads, got "
            f"{given['d_model']} and {given['n_heads']}"
        )
    for name in ("lr", "budget_seconds"):
        value, may_lack = given[name], name == "budget_seconds"
        if value is None and may_lack:
            continue
        if not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value!r}")
    if given["max_steps"] is None and given["budget_seconds"] is None:
        raise ValueError("give max_steps or budget_seconds: training would never end")
    if not isinstance(given["warm_start"], bool | np.bool_):
        raise ValueError(f"warm_start must be True or False, got {given['warm_start']!r}")
    precision_scope(given["precision"])
    device_scope(given["device"])
    training_of(estimator)
    folder = Path(given["checkpoint"] or ".").absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"checkpoint={str(given['checkpoint'])!r}: there is no folder {folder}. Make it "
            "first, or give another path"
        )


def _check_count(name: str, value: Any, least: int, also: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be {also}a whole number >= {least}, got {value!r}")


def device_scope(device: str | None) -> Any:
    """Return a context in which JAX computes on a kind of device.

    Raises
    ------
    ValueError
        If this machine has none of that kind.
    """
    if device is None:
        return jax.default_device(None)
    try:
        return jax.default_device(jax.devices(device)[0])
    except RuntimeError as error:
        raise ValueError(
            f"device must be None or a kind of device that JAX has here, such as "
            f"{jax.default_backend()!r}; got {device!r}"
        ) from error


def training_of(estimator: Any) -> Training:
    """Return how long to train; checks what it is made of."""
    return Training(
        checkpoint=estimator.checkpoint,
        checkpoint_every=estimator.checkpoint_every,
        max_seconds=estimator.max_seconds,
        lr=estimator.lr,
        max_steps=estimator.max_steps,
        budget_seconds=estimator.budget_seconds,
        patience=estimator.patience,
    )


def identity_of_training(estimator: Any) -> dict[str, str]:
    """Return what must be the same for a checkpoint to be used, beside simulator and key."""
    names = ("support", *PLAIN_SETTINGS)
    given = {name: plain_text(repr(getattr(estimator, name))) for name in names}
    return {**given, "meta_prior": plain_text(estimator.meta_prior.plain())}
