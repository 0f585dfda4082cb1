"""Copy particles of any structure to the slots of their offspring, in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from bayeskit.accel.torch import resampling
from bayeskit.accel.torch._checks import as_log_tensor
from bayeskit.accel.torch._kernels import by_kernel_or_plain
from bayeskit.accel.torch.resampling import Ancestors

__all__ = ["resample_and_gather", "take_particles"]


def take_particles(tree: Any, ancestors: Any) -> Any:
    r"""Return the particles with the given indices: leaf by leaf, :math:`x'_m = x_{a_m}`.

    Parameters
    ----------
    tree : tensor, or dict, list, tuple or named tuple of such
        Leaves (num_particles, ...) of any dtype.
    ancestors : (num,) integer tensor in [0, num_particles)

    Returns
    -------
    The same structure, leaves (num, ...)

    Raises
    ------
    TypeError
        For ancestors that are not integers, or leaves that are not tensors.
    ValueError
        For ancestors that are not one-dimensional, or leaves whose leading axes disagree; the
        message names the leaf.

    Notes
    -----
    O(num) for each leaf, differentiable in it. Indices out of range take the nearest particle.

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import take_particles
    >>> take_particles({"x": torch.tensor([1.0, 2.0, 3.0])}, torch.tensor([2, 2, 0]))
    {'x': tensor([3., 3., 1.])}
    """
    ancestors = torch.as_tensor(ancestors)
    if ancestors.is_floating_point() or ancestors.dtype == torch.bool:
        raise TypeError(f"ancestors must be integers, got dtype {ancestors.dtype}")
    if ancestors.ndim != 1:
        raise ValueError(f"ancestors must have one axis, got shape {tuple(ancestors.shape)}")
    sizes: dict[str, int] = {}
    _map("tree", tree, functools.partial(_note_size, sizes=sizes))
    return _map("tree", tree, lambda path, leaf: _take(leaf, ancestors))


def _note_size(path: str, leaf: Any, sizes: dict[str, int]) -> None:
    if not isinstance(leaf, torch.Tensor):
        raise TypeError(f"{path} must be a tensor, got {type(leaf).__name__}")
    if leaf.ndim == 0:
        raise ValueError(f"{path} is a scalar: every leaf needs a leading particle axis")
    sizes[path] = leaf.shape[0]
    first = next(iter(sizes))
    if sizes[path] != sizes[first]:
        raise ValueError(
            f"{path} has {sizes[path]} particles on its leading axis, but {first} has "
            f"{sizes[first]}"
        )


def _take(leaf: torch.Tensor, ancestors: torch.Tensor) -> torch.Tensor:
    index = ancestors.to(leaf.device).clamp(0, max(leaf.shape[0] - 1, 0))

    def plain(x: torch.Tensor) -> torch.Tensor:
        return x.index_select(0, index)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        from bayeskit.accel.kernels.triton.gather import gather_rows
        from bayeskit.accel.kernels.triton.launching import with_torch

        rows = x.reshape(x.shape[0], -1).contiguous()
        dtype = str(x.dtype).removeprefix("torch.")
        taken = gather_rows(with_torch, rows, index.to(torch.int32).contiguous(), dtype)
        return taken.reshape(index.shape + x.shape[1:])

    if leaf.requires_grad or leaf.dtype not in _COPIED or not leaf.numel() or not index.numel():
        return plain(leaf)
    return by_kernel_or_plain("take_particles", kernel, plain, leaf)


_COPIED = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
)


def _map(path: str, tree: Any, function: Callable[[str, Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _map(f"{path}[{key!r}]", part, function) for key, part in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [_map(f"{path}[{i}]", part, function) for i, part in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return function(path, tree)


def resample_and_gather(
    log_weights: Any,
    tree: Any,
    scheme: str = "systematic",
    num: int | None = None,
    *,
    u: Any = None,
    generator: torch.Generator | None = None,
    nan: str = "refuse",
) -> tuple[Any, Ancestors]:
    """Resample, and return the copied particles with their ancestors.

    Parameters
    ----------
    log_weights : (num_particles,) tensor, real or -inf, any normalisation
        One row; loop over more.
    tree : tensor, or dict, list, tuple or named tuple of such
        Leaves (num_particles, ...).
    scheme : str
        "systematic", "stratified", "multinomial", "residual" or "residual_multinomial".
    num : int, optional
        Number of offspring. Default: as many as there are particles.
    u, generator, nan
        As for :func:`systematic`.

    Returns
    -------
    particles : as ``tree``, leaves (num, ...)
    ancestors : Ancestors

    Raises
    ------
    InvalidWeightsError, DegenerateWeightsError, TypeError, ValueError
        As for the scheme and :func:`take_particles`, and for more than one row, leaves whose
        leading axis is not ``num_particles``, or an unknown scheme.

    Notes
    -----
    O(N + num).

    Examples
    --------
    >>> import pytest
    >>> torch = pytest.importorskip("torch")
    >>> from bayeskit.accel.torch import resample_and_gather
    >>> x = torch.tensor([1.0, 2.0, 3.0])
    >>> resample_and_gather(torch.tensor([0.0, -torch.inf, 0.0]), x, num=4)[0].tolist()
    [1.0, 1.0, 3.0, 3.0]
    """
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}, got {scheme!r}")
    log_weights = as_log_tensor(log_weights, "log_weights", nan)
    if log_weights.ndim != 1:
        raise ValueError(f"log_weights must be one row, got shape {tuple(log_weights.shape)}")
    _map("tree", tree, functools.partial(_note_size, sizes={"log_weights": len(log_weights)}))
    draw = getattr(resampling, scheme)
    ancestors = draw(log_weights, num, u=u, generator=generator)
    return take_particles(tree, ancestors.index), ancestors


_SCHEMES = ("systematic", "stratified", "multinomial", "residual", "residual_multinomial")
