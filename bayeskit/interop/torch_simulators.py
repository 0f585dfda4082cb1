"""Simulators written in torch as functions of a key in JAX.

torch is needed when they are made, not when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeskit.interop.called_model import name_of
from bayeskit.interop.host_calls import Batched, Method, Result, host_call, one_by_one
from bayeskit.interop.torch_tensors import (
    as_float,
    require_torch,
    seed_of,
    seeded,
    tensor_of,
    torch_scope,
)

__all__ = ["TorchSimulator", "simulator_from_torch"]


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
    require_torch("simulator_from_torch")
    if not callable(fn):
        raise TypeError(
            f"simulator_from_torch takes a function of a tensor, got {type(fn).__name__}"
        )
    return TorchSimulator(fn, tuple(int(n) for n in result_shape), bool(parameters))


@dataclass(frozen=True)
class TorchSimulator:
    """A simulator in torch. See :func:`simulator_from_torch`.

    Parameters
    ----------
    fn : callable (x) -> tensor
    result_shape : tuple of int
    parameters : bool
        As there.

    Raises
    ------
    TypeError
        At a call, for results of another shape.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, torch
    >>> from bayeskit.interop.torch import TorchSimulator
    >>> simulate = TorchSimulator(lambda x: x + 0 * torch.randn(2), (2,))
    >>> simulate(jax.random.key(0), jnp.array([1.0, 2.0]))
    Array([1., 2.], dtype=float32)
    """

    fn: Callable
    result_shape: tuple[int, ...] = ()
    parameters: bool = False

    def __call__(self, key: Any, x: jax.Array, parameters: Any = None) -> jax.Array:
        """Return one draw."""
        x = as_float(x)
        names = tuple(sorted(parameters)) if self.parameters and parameters else ()
        more = [as_float(parameters[name]) for name in names]
        results = (Result(self.result_shape, x.dtype.name),)
        function = Method(self, "draws", names)
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
