"""Scans of associative operations: sequential on a CPU, in blocks elsewhere."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = [
    "METHODS",
    "block_of",
    "blocked_associative_scan",
    "by_method",
    "check_method",
    "method_here",
    "parallel_block",
]

METHODS = ("auto", "sequential", "parallel")

# Enough blocks to fill an accelerator; more only make the tree over their totals deeper.
_MAX_BLOCKS = 4096


def blocked_associative_scan(
    op: Callable, elements: Any, block: int | str = "auto", *, reverse: bool = False
) -> Any:
    r"""Return all products of an associative operation up to each time.

    .. math:: s_t = e_0 \circ e_1 \circ \dots \circ e_t, \qquad
        \text{reverse: } s_t = e_t \circ e_{t+1} \circ \dots \circ e_{T-1}

    Elements are cut into blocks. Each block is scanned step by step, all blocks at once; the
    totals of the blocks are combined in a tree; each block then takes the total of those
    before it. The program has one loop over the steps of a block and one over the levels of the
    tree, so that neither its size nor its compile time grows with the number of elements.

    Parameters
    ----------
    op : callable (earlier, later) -> element
        Written for one element; associative. Operands come in the order of time in both
        directions.
    elements : pytree of (num_steps, ...) arrays
    block : int or "auto"
        Number of elements in a block. 1 gives a tree over all elements, num_steps or more one
        sequential loop. ``"auto"`` is decided when the program is lowered for a platform:
        sequential on a CPU, at most 4096 blocks elsewhere.
    reverse : bool

    Returns
    -------
    pytree of (num_steps, ...) arrays

    Raises
    ------
    ValueError
        For a block below 1, leaves without a common leading axis, or no elements.

    Notes
    -----
    One operation an element in the sequential form. With B blocks two an element and
    :math:`B \log_2 B` for the totals, in :math:`T / B + \log_2 B + 1` steps one after another.
    Unlike ``jax.lax.associative_scan``, operands of a reverse scan are not swapped.

    References
    ----------
    Hillis & Steele (1986), *Data parallel algorithms*; Blelloch (1990), *Prefix sums and their
    applications*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit.accel import blocked_associative_scan
    >>> x = jnp.array([3, 1, 4, 1, 5])
    >>> blocked_associative_scan(jnp.add, x, block=2)
    Array([ 3,  4,  8,  9, 14], dtype=int32)
    >>> blocked_associative_scan(jnp.maximum, x, reverse=True)
    Array([5, 5, 5, 5, 5], dtype=int32)
    """
    elements = jax.tree.map(jnp.asarray, elements)
    num_steps = _common_length(elements)
    if block == "auto":
        return by_method(
            "auto",
            lambda e: _sequential(op, e, reverse),
            lambda e: _blocked(op, e, parallel_block(num_steps), reverse),
            elements,
        )
    try:
        length = operator.index(block)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"block must be an integer or 'auto', got {block!r}") from None
    if length < 1:
        raise ValueError(f"block must be at least 1, got {length}")
    if length >= num_steps:
        return _sequential(op, elements, reverse)
    return _blocked(op, elements, length, reverse)


def check_method(method: str) -> None:
    """Refuse a method that does not exist."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")


def method_here(method: str) -> str:
    """Return the method for the platform at hand, so that only one form is traced."""
    check_method(method)
    if method != "auto":
        return method
    return "sequential" if jax.default_backend() == "cpu" else "parallel"


def by_method(method: str, sequential: Callable, parallel: Callable, *args: Any) -> Any:
    """Call one of two forms; ``"auto"`` is decided when the program is lowered."""
    check_method(method)
    if method == "auto":
        return lax.platform_dependent(*args, cpu=sequential, default=parallel)
    return sequential(*args) if method == "sequential" else parallel(*args)


def parallel_block(num_steps: int) -> int:
    """Return the length of a block that gives enough of them."""
    return max(-(-num_steps // _MAX_BLOCKS), 1)


def block_of(method: str, num_steps: int) -> int | str:
    """Return the block of :func:`blocked_associative_scan` that a method stands for."""
    if method == "auto":
        return "auto"
    return num_steps if method == "sequential" else parallel_block(num_steps)


def _common_length(elements: Any) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(elements)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"every leaf of elements needs the same leading axis of time, got shapes {shapes}"
        )
    (length,) = lengths.pop()
    if length == 0:
        raise ValueError("elements must hold at least one element, got none")
    return length


def _sequential(op: Callable, elements: Any, reverse: bool) -> Any:
    first = jax.tree.map(lambda x: x[-1] if reverse else x[0], elements)
    others = jax.tree.map(lambda x: x[:-1] if reverse else x[1:], elements)

    def advance(total, element):
        total = op(element, total) if reverse else op(total, element)
        return total, total

    products = lax.scan(advance, first, others, reverse=reverse)[1]
    join = (lambda a, b: [b, a[None]]) if reverse else (lambda a, b: [a[None], b])
    return jax.tree.map(lambda a, b: jnp.concatenate(join(a, b)), first, products)


def _blocked(op: Callable, elements: Any, length: int, reverse: bool) -> Any:
    """Scan in blocks; a reverse scan is that of the mirrored elements."""
    num_steps = jax.tree.leaves(elements)[0].shape[0]
    num_blocks = -(-num_steps // length)
    ordered = jax.vmap((lambda a, b: op(b, a)) if reverse else op)
    mirrored = jax.tree.map(lambda x: x[::-1], elements) if reverse else elements

    # Axes (step in block, block). Places that fill the last block keep its total.
    def cut(x):
        padding = [(0, num_blocks * length - num_steps)] + [(0, 0)] * (x.ndim - 1)
        filled = jnp.pad(x, padding, mode="edge")
        return jnp.moveaxis(filled.reshape(num_blocks, length, *x.shape[1:]), 1, 0)

    blocks = jax.tree.map(cut, mirrored)

    def advance(total, step_and_element):
        step, element = step_and_element
        is_real = step + length * jnp.arange(num_blocks) < num_steps
        total = _select(is_real, ordered(total, element), total)
        return total, total

    if length == 1:
        totals = jax.tree.map(lambda x: x[0], blocks)
        products = jax.tree.map(lambda x: x[None], _tree(ordered, totals, num_blocks))
    else:
        first = jax.tree.map(lambda x: x[0], blocks)
        others = (jnp.arange(1, length), jax.tree.map(lambda x: x[1:], blocks))
        totals, inner = lax.scan(advance, first, others)
        inner = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, inner)
        totals = _tree(ordered, totals, num_blocks)
        before = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), totals)
        has_before = jnp.arange(num_blocks) > 0
        products = jax.vmap(lambda x: _select(has_before, ordered(before, x), x))(inner)

    def joined(x):
        flat = jnp.moveaxis(x, 0, 1).reshape(num_blocks * length, *x.shape[2:])[:num_steps]
        return flat[::-1] if reverse else flat

    return jax.tree.map(joined, products)


def _tree(op: Callable, totals: Any, num: int) -> Any:
    """Combine each total with that 1, 2, 4, ... places before; one body for all levels."""

    def level(k, current):
        place = jnp.arange(num)
        distance = jnp.left_shift(1, k)
        earlier = jax.tree.map(lambda x: x[jnp.maximum(place - distance, 0)], current)
        return _select(place >= distance, op(earlier, current), current)

    return lax.fori_loop(0, (num - 1).bit_length(), level, totals)


def _select(chosen: jax.Array, new: Any, old: Any) -> Any:
    def leaf(a, b):
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(leaf, new, old)
