"""What all engines share."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.measure import Target

__all__ = ["constrained_draws", "prepared_target"]


def prepared_target(target: Target, data: tuple | None, spec: Any = None) -> Target:
    """Return the target with its data, on vectors.

    Parameters
    ----------
    target : Target
    data : tuple of arrays, or None to keep the data of the target
    spec : pytree, optional
        Shapes of a position, for targets without ``sample_prior``.
    """
    if data is not None:
        target = target.with_data(*data)
    return target.on_vectors(target.position_spec() if spec is None else spec)


@quick_jit
def _constrain(target: Target, positions: jax.Array) -> dict[str, jax.Array]:
    flat = positions.reshape(-1, positions.shape[-1])
    named = jax.vmap(lambda x: target.constrain(x, *target.data))(flat)  # type: ignore[misc]
    return {
        name: values.reshape(*positions.shape[:2], *values.shape[1:])
        for name, values in named.items()
    }


def constrained_draws(target: Target, positions: Any) -> dict[str, np.ndarray]:
    """Return draws (chain, draw, ...) in the user's coordinates from positions."""
    return {name: np.asarray(v) for name, v in _constrain(target, positions).items()}
