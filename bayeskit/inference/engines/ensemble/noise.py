"""The noise of the chains, drawn on the host, the same however iterations are cut."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeskit.inference import random

__all__ = ["CHUNK", "Noise", "draw_noise", "golden_phases"]

# Iterations between two returns to the host. The numbers do not depend on it.
CHUNK = 25
_GOLDEN = (5**0.5 - 1) / 2


class Noise(NamedTuple):
    """Standard normal momenta (CHUNK, chain, dim) and log uniforms (CHUNK, chain)."""

    momentum: Any
    log_uniform: Any


def golden_phases(first: int, num: int) -> np.ndarray:
    """Return elements of the golden-ratio sequence, which fills [0, 1) most evenly."""
    return np.modf(_GOLDEN * np.arange(first + 1, first + num + 1))[0]


def draw_noise(key: Any, first: int, num_chains: int, dim: int) -> Noise:
    """Return the noise of CHUNK iterations from number ``first`` on.

    It is drawn in blocks that do not depend on where the chunks are cut.
    """
    block, offset = divmod(first, CHUNK)
    parts = [_block(key, block, num_chains, dim)]
    if offset:
        parts.append(_block(key, block + 1, num_chains, dim))
    joined = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
    return Noise(*(leaf[offset : offset + CHUNK] for leaf in joined))


def _block(key: Any, number: int, num_chains: int, dim: int) -> Noise:
    generator = random.host_generator(key, number)
    momentum = generator.standard_normal((CHUNK, num_chains, dim))
    # An exponential variable is minus the logarithm of a uniform one.
    return Noise(momentum, -generator.standard_exponential((CHUNK, num_chains)))
