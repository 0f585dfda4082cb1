"""Functions of NumPy arrays as parts of JAX programs, batched and in full precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Batched", "Method", "Result", "host_call", "one_by_one"]


class Result(NamedTuple):
    """Shape and type of one result for one point."""

    shape: tuple[int, ...]
    dtype: str


class Batched(NamedTuple):
    """An argument for a batch of points: as many rows as points, or one row for all."""

    rows: np.ndarray

    @property
    def is_shared(self) -> bool:
        """Whether all points have this argument in common."""
        return len(self.rows) == 1

    def row(self, i: int) -> Batched:
        """Return the argument of one point."""
        return self if self.is_shared else Batched(self.rows[i : i + 1])


@dataclass(frozen=True)
class Method:
    """A method with its first argument, equal for equal objects, as bound methods are not."""

    owner: Any
    name: str
    first: Any

    def __call__(self, num_points: int, *rows: Batched) -> tuple:
        """Call the method."""
        return getattr(self.owner, self.name)(self.first, num_points, *rows)


def host_call(function: Callable, results: tuple[Result, ...], *arguments: Any) -> tuple:
    """Call a function of NumPy arrays from within a JAX program.

    Parameters
    ----------
    function : callable (num_points, one Batched an argument) -> tuple of arrays
        Arrays (num_points, ...), one a result. It is called once for all points that
        ``jax.vmap`` maps over. It must give the same results for the same arguments, and be
        equal for equal functions, so that programs are shared.
    results : tuple of Result
        For one point.
    *arguments : arrays

    Returns
    -------
    tuple of JAX arrays

    Notes
    -----
    Numbers of 64 bits travel as pairs of words, both ways. Where JAX runs a callback in a
    thread of its own, a local scope of double precision does not reach that thread, and they
    would be cut to single precision.
    """
    arrays = [jnp.asarray(a) for a in arguments]
    layouts = tuple(Result(tuple(a.shape), a.dtype.name) for a in arrays)
    found = jax.pure_callback(
        _HostFunction(function, layouts, results),
        tuple(map(_bits_spec, results)),
        *map(_bits, arrays),
        vmap_method="expand_dims",  # data that all particles share are not repeated
    )
    return tuple(
        jax.lax.bitcast_convert_type(bits, jnp.dtype(result.dtype))
        if _is_wide(result)
        else bits
        for bits, result in zip(found, results, strict=True)
    )


def one_by_one(function: Callable, num_points: int, *arguments: Batched) -> list:
    """Return the results of a function of single points, one after the other."""
    return [
        function(*(a.rows[0 if a.is_shared else i] for a in arguments))
        for i in range(num_points)
    ]


def _is_wide(result: Result) -> bool:
    return np.dtype(result.dtype).itemsize == 8


def _bits_spec(result: Result) -> jax.ShapeDtypeStruct:
    if _is_wide(result):
        return jax.ShapeDtypeStruct((*result.shape, 2), jnp.uint32)
    return jax.ShapeDtypeStruct(result.shape, jnp.dtype(result.dtype))


def _bits(array: jax.Array) -> jax.Array:
    if array.dtype.itemsize < 8:
        return array
    return jax.lax.bitcast_convert_type(array, jnp.uint32)


def _from_bits(bits: Any, layout: Result) -> np.ndarray:
    array = np.asarray(bits)
    if not _is_wide(layout):
        return array
    return np.asarray(array, order="C").view(layout.dtype)[..., 0]


def _to_bits(array: np.ndarray, result: Result) -> np.ndarray:
    if not _is_wide(result):
        return array
    return np.asarray(array, order="C")[..., None].view(np.uint32)


@dataclass(frozen=True)
class _HostFunction:
    """What JAX calls: takes bits with any number of mapped axes, and flattens those to one."""

    function: Callable
    layouts: tuple[Result, ...]
    results: tuple[Result, ...]

    def __call__(self, *bits: Any) -> tuple[np.ndarray, ...]:
        arrays = [_from_bits(b, a) for b, a in zip(bits, self.layouts, strict=True)]
        leading = [
            a.shape[: a.ndim - len(layout.shape)]
            for a, layout in zip(arrays, self.layouts, strict=True)
        ]
        batch = np.broadcast_shapes(*leading)
        num_points = int(np.prod(batch))
        batched = []
        for array, axes, layout in zip(arrays, leading, self.layouts, strict=True):
            if int(np.prod(axes)) != 1:
                array = np.broadcast_to(array, batch + layout.shape)
            batched.append(Batched(array.reshape(-1, *layout.shape)))
        values = self.function(num_points, *batched)
        return tuple(
            _to_bits(np.asarray(v, dtype=r.dtype).reshape(batch + r.shape), r)
            for v, r in zip(values, self.results, strict=True)
        )
