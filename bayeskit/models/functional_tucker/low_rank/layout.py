"""The static form of a multilinear model: ranks, and which entries its core has."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Layout"]


class Layout(NamedTuple):
    r"""How latent functions of the modes are contracted.

    .. math:: f_n = \sum_{r_1 \dots r_K} G_{r_1 \dots r_K} \prod_k u^k_{r_k}(x_{nk})

    Parameters
    ----------
    ranks : tuple of int
        Number of functions of each mode.
    core : {"full", "diagonal"}
        A diagonal core is the indicator of :math:`r_1 = \dots = r_K`, the CP decomposition, and
        has nothing to infer.
    """

    ranks: tuple[int, ...]
    core: str = "full"

    @property
    def num_modes(self) -> int:
        """K."""
        return len(self.ranks)

    @property
    def has_core(self) -> bool:
        """Whether the core is inferred."""
        return self.core == "full"

    @property
    def core_size(self) -> int:
        """Entries of the core that are inferred."""
        return math.prod(self.ranks) if self.has_core else 0

    @property
    def packed(self) -> tuple[int, ...]:
        """Number of distinct second moments of the functions of each mode."""
        return tuple(rank * (rank + 1) // 2 for rank in self.ranks)

    @property
    def widest(self) -> int:
        """Most numbers that one row needs at a time."""
        if not self.has_core:
            return max(self.packed)
        # The core's precision is summed with one mode apart, messages with one left out.
        return math.prod(self.packed) // min(self.packed)
