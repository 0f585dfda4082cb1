"""What a resampling scheme is: a deterministic function of uniforms, and a draw of them.

The split lets other code supply the uniforms: it can draw them from a key of its own, or go
through all cells between the ``breaks`` of a scheme and so compute exact laws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel import sharding
from bayeskit.accel._checks import as_count, as_log_array, refuse_bad_weights
from bayeskit.accel.noise import fold_words
from bayeskit.accel.offspring import scaled_cdf_and_verdict
from bayeskit.accel.prng import require_key
from bayeskit.accel.weights import normalize_checked

__all__ = [
    "NUM_FOR_TWO_WORDS",
    "Ancestors",
    "Scheme",
    "draw",
    "draw_checked",
    "draw_uniforms",
    "fraction",
    "inner",
    "offspring_count",
]


@dataclass(frozen=True)
class Scheme:
    """A resampling scheme as a deterministic function of uniforms.

    ``breaks`` and ``ancestors`` take one row of scaled cumulative weights, ``cdf``
    (num_particles,), made by :func:`scaled_cdf` for the same ``num``, and may be mapped over
    more with ``jax.vmap``. They compute in 64-bit precision whatever the caller's mode.

    Parameters
    ----------
    name : str
    uniform_shape : callable, (num_particles, num) -> tuple of int
        Shape of the uniforms that the scheme consumes.
    breaks : callable, (cdf, num) -> (*uniform_shape, B) float64 array in [0, 1]
        Not sorted. The ancestors depend on each uniform only through the cell between
        neighbouring breaks that holds it.
    ancestors : callable, (cdf, u, num) -> (num,) int32 array
    is_sorted : bool
        Whether the ancestors are non-decreasing. Otherwise all or the last of them are
        independent draws in the order in which they were made.
    inverts_cdf : bool
        Whether a uniform stands for the whole range of particles, so that its resolution
        limits the smallest probability. See :func:`multinomial`.
    keeps_number : bool
        Whether there must be as many offspring as particles.

    Examples
    --------
    Weights 1/4 and 3/4, two offspring: the uniform decides only below or above 1/2.

    >>> import jax.numpy as jnp
    >>> from bayeskit import accel
    >>> scheme = accel.SCHEMES["systematic"]
    >>> cdf = accel.scaled_cdf(jnp.log(jnp.array([0.25, 0.75])), 2)
    >>> scheme.breaks(cdf, 2).tolist()
    [0.5]
    >>> [scheme.ancestors(cdf, jnp.array(u), 2).tolist() for u in (0.1, 0.9)]
    [[0, 1], [1, 1]]
    """

    name: str
    uniform_shape: Callable[[int, int], tuple[int, ...]]
    breaks: Callable[[jax.Array, int], jax.Array]
    ancestors: Callable[[jax.Array, jax.Array, int], jax.Array]
    is_sorted: bool = True
    inverts_cdf: bool = False
    keeps_number: bool = False


class Ancestors(NamedTuple):
    """The outcome of resampling.

    Parameters
    ----------
    index : (..., num) int32 array in [0, num_particles)
        The particle that each offspring copies. It has no gradient: JAX takes its derivative
        as zero and does not say so.
    log_mean : (...) array
        Logarithm of the mean of the unnormalised weights, the factor of an evidence
        estimate. Its gradient is the normalised weights.
    effective_sample_size : (...) array in [1, num_particles], 0 where ``ok`` is False
    ok : (...) bool array
        False where no particle could be chosen; ``index`` then counts through the particles.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import accel
    >>> drawn = accel.systematic(jax.random.key(0), jnp.log(jnp.array([2.0, 4.0, 2.0])), 4)
    >>> drawn.index.tolist(), round(float(jnp.exp(drawn.log_mean)), 4)
    ([0, 1, 1, 2], 2.6667)
    """

    index: jax.Array  # type: ignore[assignment]
    log_mean: jax.Array
    effective_sample_size: jax.Array
    ok: jax.Array


def offspring_count(scheme: Scheme, num_particles: int, num: int | None) -> int:
    """Return the number of offspring, the number of particles by default, or refuse it."""
    num = as_count(num_particles if num is None else num)
    if scheme.keeps_number and num != num_particles:
        raise ValueError(
            f"{scheme.name} resampling makes as many offspring as there are particles, "
            f"{num_particles}, got num={num}: leave num out or choose another scheme"
        )
    return num


def inner(cdf: jax.Array) -> jax.Array:
    """Leave out the last value, ``num`` exactly: its break at 0 or 1 bounds no cell."""
    return cdf[: max(cdf.shape[0] - 1, 1)]


def fraction(values: jax.Array) -> jax.Array:
    """Return the fractional parts of values >= 0, exactly. To be called in a 64-bit scope."""
    # Truncation is floor here, and a third of the time on a CPU.
    return values - values.astype(jnp.int32).astype(values.dtype)


# ------------------------------------------------------------ drawing

# A grid of 2**-32 moves a probability by up to 2**-32, hence an expected number of
# offspring by up to num 2**-32: 2e-4 at a million, from where two words are drawn.
NUM_FOR_TWO_WORDS = 10**6


def draw_uniforms(key: jax.Array, shape: tuple[int, ...], two_words: bool) -> jax.Array:
    """Return float64 uniforms strictly inside (0, 1), the midpoints of a fine grid."""
    # A 32-bit program cannot draw inside a 64-bit scope (JAX 0.10), and 32-bit words are
    # the same in both modes.
    with jax.enable_x64(False):
        if not two_words:
            drawn = jax.random.bits(key, shape or (4,), jnp.uint32)
            words = drawn if shape else fold_words(drawn)
        else:
            # Two draws: slicing one of double length would make XLA compute it four times.
            keys = jax.random.split(key)
            words, more_words = (jax.random.bits(keys[i], shape, jnp.uint32) for i in (0, 1))
    with jax.enable_x64(True):
        if not two_words:
            return (words.astype(jnp.float64) + 0.5) * 2.0**-32
        # 52 bits, so that adding one half is exact and the result stays below 1.
        low = (more_words >> jnp.uint32(12)).astype(jnp.float64) + 0.5
        return words.astype(jnp.float64) * 2.0**-32 + low * 2.0**-52


@functools.partial(jax.jit, static_argnames=("scheme", "num"))
def draw_checked(key: jax.Array, log_weights: jax.Array, scheme: Scheme, num: int) -> Ancestors:
    """Return :func:`draw` of checked input; never raises."""
    *batch, num_particles = log_weights.shape
    two_words = scheme.inverts_cdf and max(num, num_particles) >= NUM_FOR_TWO_WORDS
    shape = scheme.uniform_shape(num_particles, num)
    u = draw_uniforms(key, (*batch, *shape), two_words)
    cdf, ok = scaled_cdf_and_verdict(lax.stop_gradient(log_weights), num)
    ancestors: Callable = functools.partial(scheme.ancestors, num=num)  # type: ignore[call-arg]
    for _ in batch:
        ancestors = jax.vmap(ancestors)
    unchanged = jnp.arange(num, dtype=jnp.int32) % num_particles
    summary = normalize_checked(log_weights)
    index = jnp.where(ok[..., None], ancestors(cdf, u), unchanged)
    return Ancestors(
        # A row of independent draws would stay together on a mesh.
        index=index if batch else sharding.spread(index),
        log_mean=summary.log_mean,
        effective_sample_size=summary.effective_sample_size,
        ok=ok,
    )


def draw(
    scheme: Scheme, key: Any, log_weights: Any, num: int | None, nan: str = "refuse"
) -> Ancestors:
    """Check the input, draw the uniforms and return the ancestors with their summaries."""
    key = require_key(key)
    log_weights = as_log_array(log_weights, "log_weights", nan)
    num = offspring_count(scheme, log_weights.shape[-1], num)
    result = draw_checked(key, log_weights, scheme, num)
    refuse_bad_weights(log_weights, result.ok, "log_weights")
    return result
