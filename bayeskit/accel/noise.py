"""Random words, and random numbers as functions of them."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit.accel._checks import as_numbers
from bayeskit.accel.prng import require_key
from bayeskit.accel.storing import stored

__all__ = ["fold_words", "normal_of_words", "random_normals", "random_words"]

# Philox-2x32-10 of Salmon et al. (2011): multiplier, what is added to the key, and rounds.
_MULTIPLIER = 0xD256D193
_WEYL = 0x9E3779B9
_NUM_ROUNDS = 10
# Below this number the loops of a program cost more than the words.
_FEWEST = 256


def random_words(key: Any, shape: tuple[int, ...] = ()) -> jax.Array:
    """Return random 32-bit words.

    Parameters
    ----------
    key : typed key
    shape : tuple of int

    Returns
    -------
    shape uint32 array

    Raises
    ------
    TypeError
        For what is no key, such as a seed.

    Notes
    -----
    From 256 words on, a key of Philox draws by Philox-2x32 with ten rounds: one half of the key
    is its key, the other stands in the counter beside the number of the block. Both words
    of a block are used, where ``jax.random.bits`` folds the four of a block of Philox-4x32 into
    one: 1.1 ns a word on one core instead of 2.6. Fewer words, and those of other keys, are
    those of ``jax.random.bits``.

    References
    ----------
    Salmon, Moraes, Dror & Shaw (2011), *Parallel random numbers: as easy as 1, 2, 3*.

    Examples
    --------
    >>> import jax
    >>> random_words(jax.random.key(0), (2, 500)).shape
    (2, 500)
    """
    key = require_key(key)
    num = math.prod(shape)
    if _FEWEST <= num < 2**32 and str(jax.random.key_impl(key)) == "philox4x32":
        first, second = jax.random.key_data(key)
        return philox_words(first, second, num).reshape(shape)
    # Lowering a 32-bit draw fails inside a 64-bit scope of a 32-bit program (JAX 0.10).
    with jax.enable_x64(False):
        return jax.random.bits(key, shape, jnp.uint32)


def philox_words(key: jax.Array, stream: jax.Array, num: int) -> jax.Array:
    """Return ``num`` words of Philox-2x32-10 for the counters (stream, 0), (stream, 1), ..."""
    with jax.enable_x64(True):
        numbers = lax.iota(jnp.uint64, -(-num // 2))
        blocks = (numbers << np.uint64(32)) | stream.astype(jnp.uint64)
        blocks = lax.platform_dependent(
            blocks,
            key,
            # A loop of two turns, as in stored(), which it would be but for the key.
            cpu=functools.partial(_in_turns, num_turns=2),
            default=functools.partial(_in_turns, num_turns=1),
        )
        return lax.bitcast_convert_type(blocks, jnp.uint32).reshape(-1)[:num]


def _in_turns(blocks: jax.Array, key: jax.Array, num_turns: int) -> jax.Array:
    def turn(_, carry):
        blocks, key = carry
        for _ in range(_NUM_ROUNDS // num_turns):
            # The halves of a block of 64 bits trade places, which is why one product of 32 by
            # 32 bits gives all that is new.
            product = (blocks >> np.uint64(32)) * np.uint64(_MULTIPLIER)
            left = (product >> np.uint64(32)) ^ _low(blocks) ^ key.astype(jnp.uint64)
            blocks = (left << np.uint64(32)) | _low(product)
            key = key + np.uint32(_WEYL)
        return blocks, key

    return lax.fori_loop(0, num_turns, turn, (blocks, key))[0]


def _low(blocks: jax.Array) -> jax.Array:
    return blocks & np.uint64(2**32 - 1)


# z / x as a quotient of polynomials in w = -log(1 - x^2), highest power first, up to the w of
# the last word. Fitted to the inverse in double precision for the smallest largest relative
# error, 1.1e-7. No coefficient is negative, so that no digits cancel.
_NUMERATOR = (
    2.92884788e-05,
    0.000999408531,
    0.0118749450,
    0.0898297711,
    0.452393361,
    1.25331428,
)
_DENOMINATOR = (
    1.00842129e-06,
    0.000169785664,
    0.00227979964,
    0.0326706662,
    0.0991610564,
    1.0,
)


def normal_of_words(words: Any) -> jax.Array:
    r"""Return standard normal numbers from random words, by the inverse distribution function.

    .. math:: z = \Phi^{-1}\bigl((w + \tfrac12)\, 2^{-32}\bigr)

    Parameters
    ----------
    words : (...) uint32 array

    Returns
    -------
    (...) float32 array
        Between -6.34 and 6.34, symmetric about 0. The relative error is about 1e-6.

    Raises
    ------
    TypeError
        If words are not uint32.

    Notes
    -----
    Both tails are as fine as the words: the smaller of the two tail probabilities is formed
    from the integers, where a uniform in single precision would end at 5.4 and be coarse
    before. In double precision the inverse would cost three times as much as the words, and no
    sample that fits a computer could tell: the distribution functions differ by less than 1e-6.

    References
    ----------
    Giles (2012), *Approximating the erfinv function*, for the variable w.

    Examples
    --------
    >>> import numpy as np
    >>> normal_of_words(np.array([0, 2**31, 2**32 - 1], np.uint32)).tolist()
    [-6.338..., 2.9...e-10, 6.338...]
    """
    words = as_numbers(words, "words", draw="random_words(key, shape)")
    if words.dtype != jnp.uint32:
        raise TypeError(f"words must be uint32, got dtype {words.dtype}")
    # In single precision in either mode: the constants must not be promoted.
    with jax.enable_x64(False):
        is_negative = words < jnp.uint32(2**31)
        magnitude = jnp.where(is_negative, words, ~words)  # below 2^31
        tail = (magnitude.astype(jnp.float32) + 0.5) * np.float32(2.0**-32)  # in (0, 1/2]
        # 1 - 2 tail, from the integers: a difference of floats would be coarse near 0.
        x = ((jnp.uint32(2**31 - 1) - magnitude).astype(jnp.float32) + 0.5) * np.float32(
            2.0**-31
        )
        w = -jnp.log(4.0 * tail * (1.0 - tail))
        z = x * (_polynomial(_NUMERATOR, w) / _polynomial(_DENOMINATOR, w))
        return jnp.where(is_negative, -z, z)


def _polynomial(coefficients: tuple[float, ...], w: jax.Array) -> jax.Array:
    value = jnp.full_like(w, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * w + np.float32(coefficient)
    return value


def random_normals(key: Any, shape: tuple[int, ...] = ()) -> jax.Array:
    """Return :func:`normal_of_words` of :func:`random_words`.

    Parameters
    ----------
    key : typed key
    shape : tuple of int

    Returns
    -------
    shape float32 array

    Examples
    --------
    >>> import jax
    >>> random_normals(jax.random.key(0), (2, 500)).shape
    (2, 500)
    """
    words = random_words(key, shape)
    return normal_of_words(words) if words.size < _FEWEST else stored(normal_of_words, words)


def fold_words(words: Any) -> jax.Array:
    """Return the exclusive or of all words, as random as each of them.

    Parameters
    ----------
    words : (n,) uint32 array

    Returns
    -------
    () uint32 array

    Notes
    -----
    For a single word that many elements are compared with. XLA draws a word anew for each
    element that uses it (33 ns on a CPU, for each of 10 000 particles) but never repeats a
    reduction.

    Examples
    --------
    >>> import numpy as np
    >>> int(fold_words(np.array([5, 1], np.uint32)))
    4
    """
    words = as_numbers(words, "words", draw="random_words(key, shape)")
    return lax.reduce(words, np.zeros((), words.dtype), lax.bitwise_xor, (0,))
