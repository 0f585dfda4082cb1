"""One policy for random keys: what users may pass as a seed, and which generator it gets."""

from __future__ import annotations

import functools
import operator
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel import sharding
from bayeskit.errors import BayeskitWarning

__all__ = ["as_key"]

# Philox needs fewer integer operations than Threefry for numbers that pass the same tests
# (Salmon, Moraes, Dror & Shaw 2011).
_PREFERRED_IMPLEMENTATIONS = ("philox4x32", "threefry2x32")
_HARDWARE_IMPLEMENTATIONS = ("rbg", "unsafe_rbg")
_LARGEST_SEED = 2**63 - 1


def as_key(seed: Any) -> jax.Array:
    """Return a typed JAX key for a seed, an old-style key or a typed key.

    Parameters
    ----------
    seed : int, uint32 array or typed key
        An integer in [0, 2**63), NumPy integers included, starts the fastest counter-based
        generator of the installed JAX (Philox, else Threefry; Threefry inside
        :func:`~bayeskit.accel.on_mesh` and in a program of several processes). A raw key array
        from ``jax.random.PRNGKey`` keeps the generator that JAX made it for. A typed key is
        returned unchanged.

    Returns
    -------
    () typed key

    Raises
    ------
    TypeError
        For anything else: floats, booleans, strings, None, a traced integer.
    ValueError
        For a negative or too large integer, an array of several keys, or a Philox key on a
        mesh of several devices.

    Warns
    -----
    BayeskitWarning
        Once for each of the generators ``rbg`` and ``unsafe_rbg``: under ``vmap`` they draw
        from the first key only, so chains are not independent.

    Notes
    -----
    The key does not depend on whether 64-bit mode is on: seeds above 2**32 stay distinct.

    Examples
    --------
    >>> import jax
    >>> key = as_key(42)
    >>> as_key(key) is key
    True
    >>> as_key(jax.random.PRNGKey(0)).shape
    ()
    """
    if isinstance(seed, jax.Array) and _is_typed_key(seed):
        return _checked_typed_key(seed)
    if isinstance(seed, bool | np.bool_):
        raise TypeError("seed must be an integer or a JAX key, got a boolean")
    if isinstance(seed, jax.Array | np.ndarray) and seed.ndim > 0:
        return _from_raw_key(seed)
    if isinstance(seed, jax.core.Tracer):
        raise TypeError(
            "seed must be known when the function is traced. "
            "Make the key outside of jit with as_key and pass the key"
        )
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(
            f"seed must be a nonnegative integer or a JAX key, got {type(seed).__name__}"
        ) from None
    if not 0 <= number <= _LARGEST_SEED:
        raise ValueError(f"seed must be in [0, 2**63), got {number}")
    # In 32-bit mode JAX drops the upper half of the seed. At once, also inside jit: a 32-bit
    # program cannot hold the 64-bit seed.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return jax.random.key(number, impl=_default_implementation(_may_be_spread()))


def require_key(key: Any) -> jax.Array:
    """Return a key as a typed key; unlike :func:`as_key`, refuse integers.

    Functions that draw take keys: an integer there would be the same seed at every call.
    """
    is_array = isinstance(key, jax.Array | np.ndarray)
    # A scalar of numbers is a seed, a scalar of key dtype is a key.
    if not is_array or (key.ndim == 0 and not _is_typed_key(key)):
        raise TypeError(
            f"key must be a JAX key, got {type(key).__name__}. Make one with as_key(seed)"
        )
    return as_key(key)


def _is_typed_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _may_be_spread() -> bool:
    # A mesh of one device counts, so that a seed means the same on any mesh.
    return sharding.current_mesh() is not None or jax.process_count() > 1


@functools.cache
def _default_implementation(spread: bool = False) -> str:
    if spread:
        # XLA cannot spread Philox over devices (jaxlib 0.10): it knows no name for the upper
        # half of a product there.
        return _PREFERRED_IMPLEMENTATIONS[-1]
    for name in _PREFERRED_IMPLEMENTATIONS[:-1]:
        try:
            jax.random.key(0, impl=name)
        except ValueError:
            continue
        return name
    return _PREFERRED_IMPLEMENTATIONS[-1]


def _checked_typed_key(key: jax.Array) -> jax.Array:
    if key.ndim > 0:
        raise ValueError(
            f"expected one key, got a batch of shape {key.shape}. Map over it with jax.vmap"
        )
    name = str(jax.random.key_impl(key))
    if name.startswith("philox") and sharding.num_shards() > 1:
        raise ValueError(
            f"the key uses the generator {name!r}, which XLA cannot spread over "
            f"{sharding.num_shards()} devices. Pass a seed, or "
            "jax.random.key(seed, impl='threefry2x32')"
        )
    if name in _HARDWARE_IMPLEMENTATIONS:
        _warn_of_hardware_keys(name)
    return key


@functools.cache
def _warn_of_hardware_keys(name: str) -> None:
    warnings.warn(
        f"the key uses the generator {name!r}: under jax.vmap only the first key of a batch "
        "counts, so that chains are not independent, and on a CPU it is ten times slower. "
        "Use as_key(seed)",
        BayeskitWarning,
        stacklevel=4,
    )


def _from_raw_key(words: Any) -> jax.Array:
    if words.dtype != jnp.uint32:
        raise TypeError(
            f"a key made of numbers must have dtype uint32, got dtype {words.dtype} of shape "
            f"{words.shape}. Make a key with as_key(seed)"
        )
    if words.ndim > 1:
        raise ValueError(
            f"expected one key, got raw keys of shape {words.shape}. "
            "Map over them with jax.vmap"
        )
    try:
        key = jax.random.wrap_key_data(jnp.asarray(words))
    except (TypeError, ValueError):
        raise ValueError(
            f"a uint32 array of shape {words.shape} is no key of JAX's default generator. "
            "Wrap it with jax.random.wrap_key_data(words, impl=...)"
        ) from None
    return _checked_typed_key(key)
