"""Arrays as tensors, torch's types and random numbers, and functions mapped over points."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import InvalidDataError, MissingDependencyError
from bayeskit.inference import random
from bayeskit.interop.called_model import name_of

__all__ = [
    "as_float",
    "mapped",
    "require_torch",
    "seed_of",
    "seeded",
    "tensor_of",
    "torch_scope",
    "unchanged",
]

# torch's default type and its random numbers, and the handlers of Pyro, belong to the process.
_LOCK = threading.RLock()


def require_torch(what: str) -> None:
    """Raise a MissingDependencyError without torch."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f"{what} needs torch, which is not installed: pip install 'bayeskit[torch]'"
        )


def as_float(leaf: Any) -> jax.Array:
    """Return an array of floating-point numbers."""
    array = jnp.asarray(leaf)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


@contextlib.contextmanager
def torch_scope(dtype: Any) -> Iterator[None]:
    """Within this context new tensors have a precision, and no other thread runs torch here."""
    import torch

    with _LOCK:
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, np.dtype(dtype).name))
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextlib.contextmanager
def seeded(words: np.ndarray) -> Iterator[None]:
    """Within this context torch draws from a seed (2,) uint32; then goes on as before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        yield


def seed_of(key: Any) -> jax.Array:
    """Return a seed for torch, two words of 32 bits, drawn with a key."""
    return jax.random.bits(random.threefry(random.real_key(key)), (2,), jnp.uint32)


def tensor_of(array: np.ndarray, dtype: Any) -> Any:
    """Return a tensor of its own memory: floats in a precision, whole numbers as int64."""
    import torch

    kind = array.dtype.kind
    wanted = dtype if kind == "f" else (np.int64 if kind in "iu" else array.dtype)
    return torch.from_numpy(np.array(array, dtype=wanted))


@contextlib.contextmanager
def unchanged(tensors: list, fn: Any) -> Iterator[None]:
    """Refuse code that changes tensors in place, which the next point would see.

    Raises
    ------
    InvalidDataError
        At the end of the context.
    """
    before = [t._version for t in tensors]
    yield
    for tensor, version in zip(tensors, before, strict=True):
        if tensor._version != version:
            raise InvalidDataError(
                f"{name_of(fn)} changes one of its arguments in place (shape "
                f"{tuple(tensor.shape)}), so that the next evaluation would see other data: "
                "write y = y - m instead of y -= m, or work on y.clone()"
            )


def mapped(one: Callable, leaves: list, follows: list) -> Any:
    """Map a function over the leading axis of tensors; ``follows[0]`` says whether vmap can."""
    import torch

    if len(leaves[0]) == 1:  # cheaper without vmap
        values = one(*(leaf[0] for leaf in leaves))
        return torch.utils._pytree.tree_map(lambda v: v[None], values)
    if follows[0]:
        # What fails for another reason than vmap fails once more below.
        with contextlib.suppress(Exception):
            return torch.func.vmap(one)(*leaves)
    pieces = [one(*(leaf[i] for leaf in leaves)) for i in range(len(leaves[0]))]
    follows[0] = False
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *pieces)
