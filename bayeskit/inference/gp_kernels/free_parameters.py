r"""Hyper-parameters to be learned as one vector of standard normal numbers.

A hyper-parameter :math:`h \sim \mathrm{LogNormal}(m, s)` is :math:`h = m\,e^{s u}` with
:math:`u \sim N(0, 1)`, so that no step of an optimiser or a sampler leaves its support, and the
prior keeps it from running to zero or infinity.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference.gp_kernels.hyperparametric import LogNormal, is_free

__all__ = ["FreeParameters"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "median", "spread"],
    meta_fields=["free", "names"],
)
@dataclass(frozen=True, eq=False)
class FreeParameters:
    """Where the learned hyper-parameters of a pytree of kernels stand, and their priors.

    Parameters
    ----------
    base : pytree
        The kernels with numbers: fixed ones, and the medians of those to be learned.
    median, spread : (num_free,) arrays
    free : tuple of int
        Places of the learned ones among the leaves.
    names : tuple of str
        Paths of the learned ones, such as ``kernel.left.std``.

    Examples
    --------
    >>> from bayeskit.inference.gp_kernels import Matern12
    >>> free = FreeParameters.of({"kernel": Matern12(LogNormal(2.0, 1.0), 0.5)})
    >>> free.names
    ('kernel.std',)
    >>> free.fill([0.0])["kernel"].std
    Array(2., dtype=float32...)
    """

    base: Any
    median: Any
    spread: Any
    free: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, tree: Any, dtype: Any = float) -> FreeParameters:
        """Take a pytree of kernels with numbers and priors apart; no leaf may be None."""
        found, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_free)
        free = tuple(i for i, (_, leaf) in enumerate(found) if is_free(leaf))
        priors = [found[i][1] for i in free]
        names = tuple(
            jax.tree_util.keystr(found[i][0], simple=True, separator=".") for i in free
        )
        numbers = [
            np.asarray(leaf.median if isinstance(leaf, LogNormal) else leaf, dtype)
            for _, leaf in found
        ]
        return cls(
            jax.tree.unflatten(structure, numbers),
            np.asarray([p.median for p in priors], dtype),
            np.asarray([p.spread for p in priors], dtype),
            free,
            names,
        )

    @property
    def num_free(self) -> int:
        """How many hyper-parameters are learned."""
        return len(self.free)

    def values(self, u: Any) -> Any:
        """Return the learned hyper-parameters in the user's units, (num_free,)."""
        if isinstance(u, np.ndarray):
            # On the host: nothing to compile, and double precision in any scope.
            return self.median * np.exp(self.spread * u)
        return self.median * jnp.exp(self.spread * jnp.asarray(u))

    def fill(self, u: Any) -> Any:
        """Return the pytree with numbers for standard normal numbers u (num_free,)."""
        return self.at(self.values(u))

    def at(self, values: Any) -> Any:
        """Return the pytree with the given values (num_free,) in place of the learned ones."""
        leaves, structure = jax.tree.flatten(self.base)
        values = values if isinstance(values, np.ndarray) else jnp.asarray(values)
        for place, index in enumerate(self.free):
            leaves[index] = values[place]
        return jax.tree.unflatten(structure, leaves)

    def with_all_free(self) -> FreeParameters:
        """Return parameters among which the fixed numbers stand as well, with a spread of zero.

        Kernels of one form then share their programs, whatever is learned of them. Places of u
        are those of the leaves.
        """
        leaves = jax.tree.leaves(self.base)
        median = np.array(leaves, self.median.dtype)
        spread = np.zeros_like(median)
        median[list(self.free)], spread[list(self.free)] = self.median, self.spread
        num = len(leaves)
        names = tuple(map(str, range(num)))
        return FreeParameters(self.base, median, spread, tuple(range(num)), names)

    def coordinates(self, values: Any) -> np.ndarray:
        """Return the standard normal numbers that give these values."""
        return np.log(np.asarray(values) / self.median) / self.spread
