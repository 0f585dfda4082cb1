"""Look levels up among sorted values: how multinomial resampling finds its particles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel.scan import prefix_sum

__all__ = ["count_at_most", "spread"]


def spread(u: jax.Array, total: jax.Array) -> jax.Array:
    """Return ``u * total``, which rounding must not raise to ``total`` itself."""
    return jnp.minimum(jnp.asarray(u, jnp.float64) * total, jnp.nextafter(total, 0.0))


def count_at_most(values: jax.Array, levels: jax.Array, num: int) -> jax.Array:
    """Return for each level in [0, num) how many of the sorted ``values`` are at most that.

    A guide table (Chen & Asau 1974) holds the numbers of values below 0, 1, ..., num. With
    even weights it leaves about one candidate a level, and bisection among the few. To be
    called in a 64-bit scope.
    """
    cell_of_value = jnp.floor(values).astype(jnp.int32)
    guide = prefix_sum(jnp.zeros(num + 1, jnp.int32).at[cell_of_value + 1].add(1, mode="drop"))
    if levels.shape[0] <= _FEW_LEVELS:
        return _bisect(values, guide, levels)
    return lax.platform_dependent(values, guide, levels, cpu=_bisect_in_blocks, default=_bisect)


# On a CPU, levels are searched in blocks. A cell with thousands of candidates (a run of dead
# particles, say) is met by few levels, and then only their neighbours wait for them. Also, the
# loop over blocks makes XLA store the levels; else it may draw them anew at each use. The size
# is large against the cost of starting a loop and small against the cache.
_SEARCH_BLOCK = 2**14
_FEW_LEVELS = 2**10


def _bisect_in_blocks(values, guide, levels):
    num = levels.shape[0]
    # A loop with one turn would be dissolved.
    num_blocks = max(-(-num // _SEARCH_BLOCK), 2)
    size = -(-num // num_blocks)

    def search(block, found):
        # The last block overlaps the one before, so that all have the same size.
        start = jnp.minimum(block * size, num - size)
        part = lax.dynamic_slice(levels, (start,), (size,))
        return lax.dynamic_update_slice(found, _bisect(values, guide, part), (start,))

    # With 64-bit bounds, vmap makes gathers that JAX 0.10 to 0.12 cannot lower in a 32-bit
    # program.
    first, end = jnp.int32(0), jnp.int32(num_blocks)
    return lax.fori_loop(first, end, search, jnp.zeros(num, jnp.int32))


def _bisect(values, guide, levels):
    def is_open(bracket):
        low, high = bracket
        return jnp.any(low < high)

    def halve(bracket):
        low, high = bracket
        middle = low + ((high - low) >> 1)  # low + high may need a 32nd bit
        below = (low < high) & (values[middle] <= levels)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    cell = jnp.floor(levels).astype(jnp.int32)
    return lax.while_loop(is_open, halve, (guide[cell], guide[cell + 1]))[0]
