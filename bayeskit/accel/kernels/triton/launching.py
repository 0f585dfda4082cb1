"""How a kernel is started: by JAX inside a program, or by torch at once.

The kernels are the same. A plan, such as :func:`bayeskit.accel.kernels.triton.cdf.scaled_cdf`,
is written once and is handed a launcher. Arguments of a kernel come in the order arrays,
numbers, results; then the constants by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

__all__ = ["MAX_TILE", "Launcher", "num_tiles", "tile_size", "with_jax", "with_torch"]

#: Elements that one program handles, if there are that many.
MAX_TILE = 2048
_MIN_TILE = 32
# A product and a sum are rounded apart, as on every other platform.
_ROUNDING = {"enable_fp_fusion": False}


class Launcher(Protocol):
    """Start ``grid`` programs of a kernel; ``results`` are the shapes and dtypes to return."""

    def __call__(
        self,
        kernel: Any,
        grid: int,
        *arguments: Any,
        results: Sequence[tuple[tuple[int, ...], str]],
        **constants: Any,
    ) -> tuple[Any, ...]:
        """Return the results."""
        ...


def tile_size(num: int) -> int:
    """Return the power of two at which ``num`` elements are cut into tiles."""
    return max(_MIN_TILE, min(MAX_TILE, 1 << max(num - 1, 0).bit_length()))


def num_tiles(num: int, tile: int) -> int:
    """Return how many tiles hold ``num`` elements."""
    return -(-num // tile)


def with_jax(kernel, grid, *arguments, results, **constants):
    """Put a call of the kernel into the program that is traced, in a 64-bit scope."""
    import jax
    import jax_triton

    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    options: dict[str, Any] = {"out_shape": shapes, **_ROUNDING}
    if "out_type" in inspect.signature(jax_triton.triton_call).parameters:  # since 0.4
        options = {"out_type": shapes, "backend_options": _ROUNDING}
    call = jax_triton.triton_call
    return tuple(call(*arguments, kernel=kernel, grid=(grid,), **options, **constants))


def with_torch(kernel, grid, *arguments, results, **constants):
    """Run the kernel on the device of the first argument."""
    import torch

    device = arguments[0].device
    made = tuple(
        torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        for shape, dtype in results
    )
    on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with on_device:
        kernel[(grid,)](*arguments, *made, **constants, **_ROUNDING)
    return made
