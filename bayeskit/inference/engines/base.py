"""What all engines share."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.measure import Target

__all__ = ["as_chains", "as_named_states", "constrained_draws", "prepared_target"]


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


def as_named_states(states: Any) -> dict[str, Any]:
    """Return states by name: a dict as it is, anything else as ``"x"``, ``"x[0]"``, ..."""
    if isinstance(states, dict):
        return dict(states)
    leaves = jax.tree.leaves(states)
    if len(leaves) == 1:
        return {"x": leaves[0]}
    return {f"x[{i}]": leaf for i, leaf in enumerate(leaves)}


def as_chains(values: np.ndarray) -> np.ndarray:
    """Return independent draws (num, ...) as four chains, or one where they are few.

    Neighbours may stem from the same particle, so that each chain takes every fourth draw.
    """
    num_chains = 4 if len(values) % 4 == 0 and len(values) >= 16 else 1
    return np.ascontiguousarray(
        np.swapaxes(values.reshape(-1, num_chains, *values.shape[1:]), 0, 1)
    )
