"""What the functions of this folder demand of their arguments: as in ``accel._checks``."""

from __future__ import annotations

from typing import Any

import torch

from bayeskit.accel._checks import LARGEST_COUNT
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError

__all__ = [
    "as_log_tensor",
    "as_uniforms",
    "largest",
    "refuse_bad_weights",
    "refuse_invalid_values",
]


def as_log_tensor(values: Any, name: str, nan: str = "refuse") -> torch.Tensor:
    """Return ``values`` as float32 or float64 (..., num_particles), or refuse them.

    With ``nan="drop"`` each NaN becomes -inf; else it stays, for a later check to find.
    """
    if nan not in ("refuse", "drop"):
        raise ValueError(f"nan must be 'refuse' or 'drop', got {nan!r}")
    tensor = torch.as_tensor(values)
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must be real floating-point numbers, got dtype {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}. Convert with {name}.float()"
        )
    if tensor.ndim == 0:
        raise ValueError(f"{name} must have a last axis of particles, got a scalar")
    if not 1 <= tensor.shape[-1] <= LARGEST_COUNT:
        raise ValueError(
            f"{name} must hold at least 1 and fewer than 2**31 particles on its last axis, "
            f"got shape {tuple(tensor.shape)}"
        )
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    return torch.where(torch.isnan(tensor), -torch.inf, tensor) if nan == "drop" else tensor


def as_uniforms(u: Any, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return ``u`` as float64 of a shape, or refuse it."""
    uniforms = torch.as_tensor(u, dtype=torch.float64, device=device)
    if uniforms.shape != shape:
        raise ValueError(f"u must have shape {shape}, got {tuple(uniforms.shape)}")
    if not bool(((uniforms >= 0) & (uniforms < 1)).all()):
        raise ValueError("u must be in [0, 1)")
    return uniforms


def largest(values: torch.Tensor) -> torch.Tensor:
    """Return the largest value of each row with its axis kept; NaN if any value is NaN."""
    return values.amax(-1, keepdim=True)


def refuse_bad_weights(log_weights: torch.Tensor, ok: torch.Tensor, name: str) -> None:
    """Raise for log-weights that no resampling can use.

    Parameters
    ----------
    log_weights : (..., num_particles) tensor
    ok : (...) bool tensor
        Whether the largest of each row is finite.
    name : str
    """
    if bool(ok.all()):
        return
    refuse_invalid_values(log_weights, name)
    bad = ~ok
    where = "" if bad.ndim == 0 else f" in row {_first_place(bad)} ({int(bad.sum())} such rows)"
    raise DegenerateWeightsError(
        f"all {log_weights.shape[-1]} values of {name} are -inf{where}: no particle can be "
        "chosen. The step before left no particle with positive weight: look at its "
        "potential, or use more particles"
    )


def refuse_invalid_values(values: torch.Tensor, name: str) -> None:
    """Raise InvalidWeightsError if any value is +inf or NaN."""
    kinds = {"nan": torch.isnan, "+inf": torch.isposinf}
    for kind, test in kinds.items():
        bad = test(values)
        if bool(bad.any()):
            raise InvalidWeightsError(
                f"{name} contains {kind}: {int(bad.sum())} of {bad.numel()} values, the first "
                f"at index {_first_place(bad)}. A weight of zero is -inf; find out why the "
                "density is not finite there"
            )


def _first_place(flags: torch.Tensor) -> int | tuple[int, ...]:
    place = tuple(flags.nonzero()[0].tolist())
    return place[0] if len(place) == 1 else place
