"""Log densities written in torch as log densities in JAX; simulators stand beside them.

torch is needed when they are made, not when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.interop.called_model import name_of
from bayeskit.interop.host_calls import Batched, Method, Result, host_call
from bayeskit.interop.torch_simulators import TorchSimulator, simulator_from_torch
from bayeskit.interop.torch_tensors import (
    as_float,
    mapped,
    require_torch,
    tensor_of,
    torch_scope,
    unchanged,
)

__all__ = [
    "TorchLogDensity",
    "TorchSimulator",
    "log_density_from_torch",
    "simulator_from_torch",
]

# Numbers that a batch of points may put into one tensor; more points go in several batches.
_MAX_BATCH_NUMBERS = 4_000_000


def log_density_from_torch(fn: Callable, *, batched: bool = False) -> TorchLogDensity:
    r"""Return a log density written in torch as one that JAX can run and differentiate.

    Values come from torch, and gradients from its autograd, in the precision of the point.
    It works under ``jit``, ``vmap`` and ``grad`` and in loops, so any engine takes it, and all
    particles or chains go to torch in one call.

    Parameters
    ----------
    fn : callable (x, \*data) -> tensor with one number
        x is a tensor, or a dict, list or tuple of tensors; so are the data.
    batched : bool
        Whether ``fn`` takes many points at once, with a leading axis on each tensor of x, and
        returns (num_points,) values. By default ``torch.func.vmap`` makes it do so; where that
        cannot follow the code, because it branches on values, points go one by one.

    Returns
    -------
    TorchLogDensity
        Called with JAX arrays. Equal for equal ``fn``, so that compiled programs are shared.

    Raises
    ------
    MissingDependencyError
        Without torch.
    TypeError
        For what is not callable.

    Notes
    -----
    A call into torch costs about 0.1 ms, and about 0.3 ms with the gradient, beside the work
    itself: little for a model of a millisecond, or for many particles; much for a small model
    with few chains, which is better written in JAX. There is one gradient only: no Hessian, no
    derivative with respect to the data. ``fn`` must give the same value for the same point.
    It runs on the CPU, and moves tensors to another device itself.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, torch
    >>> import bayeskit as bk
    >>> from bayeskit.interop.torch import log_density_from_torch
    >>> density = log_density_from_torch(lambda x: -0.5 * torch.sum(x**2))
    >>> jax.grad(density)(jnp.array([1.0, -2.0]))
    Array([-1.,  2.], dtype=float32)
    >>> target = bk.Target(log_density=density)
    """
    require_torch("log_density_from_torch")
    if not callable(fn):
        raise TypeError(
            f"log_density_from_torch takes a function of tensors, got {type(fn).__name__}"
        )
    return TorchLogDensity(fn, bool(batched))


# ---------------------------------------------------------------- log densities


class _Structure(NamedTuple):
    """How leaves make up the point and the data, hashable."""

    point: Any
    data: Any
    num_leaves: int


@dataclass(frozen=True)
class TorchLogDensity:
    r"""A log density in torch. See :func:`log_density_from_torch`.

    Parameters
    ----------
    fn : callable (x, \*data) -> tensor
    batched : bool
        As in :func:`log_density_from_torch`.
    shape : tuple of int
        With (k,) the function returns k numbers, such as the parts of a density that share
        their work, each with its gradient.

    Raises
    ------
    TypeError
        At a call, for a point without arrays, and for results that are no tensor, of another
        shape, or without a gradient.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, torch
    >>> from bayeskit.interop.torch import TorchLogDensity
    >>> parts = TorchLogDensity(lambda x: torch.stack([-(x**2), -x]), shape=(2,))
    >>> jax.jacobian(parts)(jnp.array(3.0)).tolist()
    [-6.0, -1.0]
    """

    fn: Callable
    batched: bool = False
    shape: tuple[int, ...] = ()
    # Whether vmap could not follow; found at the first call.
    _follows: list = field(default_factory=lambda: [True], compare=False, repr=False)

    def __call__(self, x: Any, *data: Any) -> jax.Array:
        """Return the log density at one point, a pytree of arrays, as ``shape`` says."""
        found, point = jax.tree.flatten(x)
        leaves = tuple(as_float(leaf) for leaf in found)
        if not leaves:
            raise TypeError("the point has no arrays")
        more, others = jax.tree.flatten(data)
        structure = _Structure(point, others, len(leaves))
        return _log_density(self, structure, leaves, tuple(map(jnp.asarray, more)))

    def values(
        self, structure: _Structure, num_points: int, *rows: Batched
    ) -> tuple[np.ndarray]:
        """Return the log densities (num_points, ...) of a batch of points."""
        import torch

        with torch_scope(rows[0].rows.dtype), torch.no_grad():
            return (self._evaluate(structure, num_points, rows, False)[0],)

    def values_and_gradients(
        self, structure: _Structure, num_points: int, *rows: Batched
    ) -> tuple[np.ndarray, ...]:
        """Return the same, and the gradient with respect to each leaf of the point."""
        import torch

        with torch_scope(rows[0].rows.dtype), torch.enable_grad():
            return self._evaluate(structure, num_points, rows, True)

    def _evaluate(
        self, structure: _Structure, num_points: int, rows: tuple, with_gradient: bool
    ) -> tuple[np.ndarray, ...]:
        num = structure.num_leaves
        whole = [a for a in rows[num:] if not a.is_shared]
        if whole:  # each point with its own data
            pieces = [
                self._evaluate(
                    structure,
                    1,
                    tuple(a.row(i) for a in rows),
                    with_gradient,
                )
                for i in range(num_points)
            ]
            return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
        points = [np.broadcast_to(a.rows, (num_points, *a.rows.shape[1:])) for a in rows[:num]]
        data = [tensor_of(a.rows[0], rows[0].rows.dtype) for a in rows[num:]]
        size = max(1, sum(t.numel() for t in data), sum(p[0].size for p in points))
        step = max(1, _MAX_BATCH_NUMBERS // size)
        pieces = [
            self._one_batch(structure, [p[i : i + step] for p in points], data, with_gradient)
            for i in range(0, num_points, step)
        ]
        return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))

    def _one_batch(
        self, structure: _Structure, points: list, data: list, with_gradient: bool
    ) -> tuple[np.ndarray, ...]:
        import torch

        leaves = [torch.from_numpy(np.array(p)).requires_grad_(with_gradient) for p in points]
        with unchanged(data, self.fn), unchanged(leaves, self.fn):
            values = self._all_points(structure, leaves, data)
        result = [values.detach().cpu().numpy()]
        if with_gradient:
            if not values.requires_grad:
                raise TypeError(
                    f"the value of {name_of(self.fn)} does not depend on x for torch's "
                    "autograd: leave out detach(), item(), no_grad() and NumPy; a constant is "
                    "written as constant + 0 * x.sum()"
                )
            # Points do not depend on one another: the gradient of the sum holds that of each.
            totals = values.reshape(len(values), -1).sum(0)
            rows = [
                torch.autograd.grad(t, leaves, retain_graph=True, allow_unused=True)
                for t in totals
            ]
            for point, parts in zip(points, zip(*rows, strict=True), strict=True):
                each = [np.zeros_like(point) if g is None else g.cpu().numpy() for g in parts]
                own = (len(point), *self.shape, *point.shape[1:])
                result.append(np.stack(each, axis=1).reshape(own))
        return tuple(result)

    def _all_points(self, structure: _Structure, leaves: list, data: list) -> Any:

        arguments = jax.tree.unflatten(structure.data, data)

        def one(*point):
            value = self.fn(jax.tree.unflatten(structure.point, list(point)), *arguments)
            return self._checked(value)

        if self.batched:
            values = self.fn(jax.tree.unflatten(structure.point, leaves), *arguments)
            if tuple(values.shape) != (len(leaves[0]), *self.shape):
                raise TypeError(
                    f"{name_of(self.fn)} with batched=True must return one number a point, "
                    f"shape ({len(leaves[0])},), got {tuple(values.shape)}"
                )
            return values
        return mapped(one, leaves, self._follows)

    def _checked(self, value: Any) -> Any:
        import torch

        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"{name_of(self.fn)} must return a tensor with one number, got "
                f"{type(value).__name__}"
            )
        if value.numel() != int(np.prod(self.shape)):
            raise TypeError(
                f"{name_of(self.fn)} must return one number, got shape {tuple(value.shape)}: "
                "sum over observations"
            )
        return value.reshape(self.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_density(
    density: TorchLogDensity, structure: _Structure, leaves: tuple, data: tuple
) -> jax.Array:
    results = (Result(density.shape, leaves[0].dtype.name),)
    function = Method(density, "values", structure)
    return host_call(function, results, *leaves, *data)[0]


def _forward(density: TorchLogDensity, structure: _Structure, leaves: tuple, data: tuple):
    if any(d.perturbed for d in data):
        raise TypeError(
            "a log density in torch has a gradient with respect to the point, not to the data"
        )
    points = tuple(leaf.value for leaf in leaves)
    own = tuple(Result((*density.shape, *p.shape), p.dtype.name) for p in points)
    results = (Result(density.shape, points[0].dtype.name), *own)
    function = Method(density, "values_and_gradients", structure)
    value, *gradients = host_call(function, results, *points, *(d.value for d in data))
    return value, tuple(gradients)


def _backward(density: Any, structure: Any, gradients: tuple, cotangent: Any) -> tuple:
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None
    along = cotangent.ndim
    return tuple(jnp.tensordot(cotangent, g, along) for g in gradients), None


_log_density.defvjp(_forward, _backward, symbolic_zeros=True)
