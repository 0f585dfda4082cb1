"""Functions written in torch as log densities and simulators in JAX.

torch is needed when they are made, not when this module is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import MissingDependencyError
from bayeskit.interop.host_calls import Batched, Result, host_call, one_by_one
from bayeskit.interop.torch_tensors import (
    mapped,
    name_of,
    seed_of,
    seeded,
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
    _require_torch("log_density_from_torch")
    if not callable(fn):
        raise TypeError(
            f"log_density_from_torch takes a function of tensors, got {type(fn).__name__}"
        )
    return TorchLogDensity(fn, bool(batched))


def simulator_from_torch(
    fn: Callable, result_shape: tuple[int, ...] = (), *, parameters: bool = False
) -> TorchSimulator:
    r"""Return a simulator written in torch as a function ``(key, x)`` in JAX.

    Parameters
    ----------
    fn : callable (x) -> tensor
        Draws with torch's own random numbers, which are seeded from the key at each call and
        are afterwards what they were before.
    result_shape : tuple of int
        Shape of what it returns for one x.
    parameters : bool
        Whether ``fn`` takes a second argument, a dict of numbers.

    Returns
    -------
    TorchSimulator
        For :class:`~bayeskit.models.distribution_transformer.Simulator` and wherever else a
        function of a key is asked for.

    Raises
    ------
    MissingDependencyError
        Without torch.
    TypeError
        For what is not callable; at a call, for results of another shape.

    Notes
    -----
    The same key gives the same draw, in whatever batch it comes. For that, each draw is a call
    of its own, of some 0.03 ms beside the work of ``fn``. There is no gradient.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, torch
    >>> from bayeskit.interop.torch import simulator_from_torch
    >>> simulate = simulator_from_torch(lambda x: x[0] + torch.randn(3), (3,))
    >>> simulate(jax.random.key(0), jnp.array([100.0])).shape
    (3,)
    """
    _require_torch("simulator_from_torch")
    if not callable(fn):
        raise TypeError(
            f"simulator_from_torch takes a function of a tensor, got {type(fn).__name__}"
        )
    return TorchSimulator(fn, tuple(int(n) for n in result_shape), bool(parameters))


def _require_torch(what: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f"{what} needs torch, which is not installed: pip install 'bayeskit[torch]'"
        )


# ---------------------------------------------------------------- log densities


class _Structure(NamedTuple):
    """How leaves make up the point and the data, hashable."""

    point: Any
    data: Any
    num_leaves: int


@dataclass(frozen=True)
class TorchLogDensity:
    """A log density in torch. See :func:`log_density_from_torch`.

    With ``shape=(k,)`` the function returns k numbers, such as the parts of a density that
    share their work, each with its gradient.
    """

    fn: Callable
    batched: bool = False
    shape: tuple[int, ...] = ()
    # Whether vmap could not follow; found at the first call.
    _follows: list = field(default_factory=lambda: [True], compare=False, repr=False)

    def __call__(self, x: Any, *data: Any) -> jax.Array:
        """Return the log density at one point, a pytree of arrays, as ``shape`` says."""
        found, point = jax.tree.flatten(x)
        leaves = tuple(_as_float(leaf) for leaf in found)
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


def _as_float(leaf: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_density(
    density: TorchLogDensity, structure: _Structure, leaves: tuple, data: tuple
) -> jax.Array:
    results = (Result(density.shape, leaves[0].dtype.name),)
    function = _Method(density, "values", structure)
    return host_call(function, results, *leaves, *data)[0]


def _forward(density: TorchLogDensity, structure: _Structure, leaves: tuple, data: tuple):
    if any(d.perturbed for d in data):
        raise TypeError(
            "a log density in torch has a gradient with respect to the point, not to the data"
        )
    points = tuple(leaf.value for leaf in leaves)
    own = tuple(Result((*density.shape, *p.shape), p.dtype.name) for p in points)
    results = (Result(density.shape, points[0].dtype.name), *own)
    function = _Method(density, "values_and_gradients", structure)
    value, *gradients = host_call(function, results, *points, *(d.value for d in data))
    return value, tuple(gradients)


def _backward(density: Any, structure: Any, gradients: tuple, cotangent: Any) -> tuple:
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None
    along = cotangent.ndim
    return tuple(jnp.tensordot(cotangent, g, along) for g in gradients), None


_log_density.defvjp(_forward, _backward, symbolic_zeros=True)


@dataclass(frozen=True)
class _Method:
    """A method with its first argument, equal for equal objects, as bound methods are not."""

    owner: Any
    name: str
    structure: Any

    def __call__(self, num_points: int, *rows: Batched) -> tuple:
        return getattr(self.owner, self.name)(self.structure, num_points, *rows)


# ---------------------------------------------------------------- simulators


@dataclass(frozen=True)
class TorchSimulator:
    """A simulator in torch. See :func:`simulator_from_torch`."""

    fn: Callable
    result_shape: tuple[int, ...] = ()
    parameters: bool = False

    def __call__(self, key: Any, x: jax.Array, parameters: Any = None) -> jax.Array:
        """Return one draw."""
        x = _as_float(x)
        names = tuple(sorted(parameters)) if self.parameters and parameters else ()
        more = [_as_float(parameters[name]) for name in names]
        results = (Result(self.result_shape, x.dtype.name),)
        function = _Method(self, "draws", names)
        fixed = [jax.lax.stop_gradient(v) for v in (x, *more)]
        return host_call(function, results, seed_of(key), *fixed)[0]

    def draws(
        self, names: tuple[str, ...], num_points: int, seeds: Batched, *rows: Batched
    ) -> tuple[np.ndarray]:
        """Return a draw for each seed."""
        import torch

        dtype = rows[0].rows.dtype

        def one(seed, x, *more):
            with seeded(seed):
                given = {n: tensor_of(v, dtype) for n, v in zip(names, more, strict=True)}
                drawn = self.fn(tensor_of(x, dtype), *([given] if self.parameters else []))
            drawn = torch.as_tensor(drawn).detach().cpu().numpy()
            if drawn.shape != self.result_shape:
                raise TypeError(
                    f"{name_of(self.fn)} returned shape {drawn.shape}, but result_shape is "
                    f"{self.result_shape}"
                )
            return drawn

        with torch_scope(dtype), torch.no_grad():
            return (np.stack(one_by_one(one, num_points, seeds, *rows)),)
