r"""The terms of an additive mean, and the kernels of processes within groups.

A term adds one latent Gaussian function to the model of a row. Modes are named by their column
in a DataFrame, or by their position.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

__all__ = ["GroupMeanEffect", "MainEffect", "ModeKernel", "WithinGroup", "on"]


@dataclass(frozen=True)
class MainEffect:
    """Add a function of one mode, f(x), a Gaussian process.

    Parameters
    ----------
    mode : column name or position
    kernel : kernel, optional
        Covariance of the function; sums and products of kernels are kernels. Default: Matern
        3/2. What is left None in a kernel is learned from the data.
    num_knots : int, optional
        The function is linear between this many equidistant knots. Default: all distinct values
        of the mode where they are at most 100, else 30 knots.

    Examples
    --------
    >>> MainEffect("temperature").mode
    'temperature'
    """

    mode: Hashable
    kernel: Any = None
    num_knots: int | None = None


@dataclass(frozen=True)
class GroupMeanEffect:
    """Add a function of the mean of a mode over all rows of a group, such as all rows of a day.

    An effect of a coordinate between groups and one within groups are different things. A
    main effect alone is dominated by the many contrasts within groups, and predicts groups that
    it has not seen badly; with this term the two are told apart.

    Parameters
    ----------
    mode : column name or position
        Whose mean is taken.
    by : column name or position
        The mode that groups: rows with equal values of it form a group.
    kernel : kernel, optional
        Default: Matern 3/2.
    num_knots : int, optional
        As in :class:`MainEffect`.
    """

    mode: Hashable
    by: Hashable
    kernel: Any = None
    num_knots: int | None = None


@dataclass(frozen=True)
class WithinGroup:
    """Add an independent Gaussian process of the other modes to every group.

    The covariance of two rows of one group is the kernel, that of rows of different groups is
    zero: a sum of products (white kernel of the grouping mode) x (kernels of other modes), the
    limit of infinitely many multilinear components with an exchangeable factor over groups.

    Parameters
    ----------
    by : column name or position
    kernel : ModeKernel, optional
        Sums and products of ``on(mode, kernel)``. Default: a Matern 1/2 kernel of each other
        mode, and of their product where there are several.

    Examples
    --------
    >>> WithinGroup("day", on("temperature", "a kernel")).by
    'day'
    """

    by: Hashable
    kernel: Any = None


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class ModeKernel:
    """A sum of products of kernels of single modes.

    Parameters
    ----------
    products : tuple of tuples of (mode, kernel)
        The outer tuple is summed, the inner ones are multiplied.
    """

    products: tuple[tuple[tuple[Hashable, Any], ...], ...]

    def __add__(self, other: ModeKernel) -> ModeKernel:
        if not isinstance(other, ModeKernel):
            return NotImplemented
        return ModeKernel(self.products + other.products)

    def __mul__(self, other: ModeKernel) -> ModeKernel:
        if not isinstance(other, ModeKernel):
            return NotImplemented
        return ModeKernel(tuple(a + b for a in self.products for b in other.products))

    @property
    def modes(self) -> tuple[Hashable, ...]:
        """The modes, each once, in the order of their first use."""
        return tuple(dict.fromkeys(m for product in self.products for m, _ in product))

    def covariance(self, x: Sequence[Any], z: Sequence[Any]) -> Any:
        """Return the covariance of points x and z, given by one (..., points) array a mode."""
        place = {mode: i for i, mode in enumerate(self.modes)}

        def factor(part: tuple[Hashable, Any]) -> Any:
            mode, kernel = part
            return kernel.covariance(x[place[mode]], z[place[mode]])

        return sum(math.prod(factor(part) for part in product) for product in self.products)

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """Split into kernels and modes, for JAX."""
        kernels = tuple(k for product in self.products for _, k in product)
        return kernels, tuple(tuple(m for m, _ in product) for product in self.products)

    @classmethod
    def tree_unflatten(cls, modes: Any, kernels: Any) -> ModeKernel:
        """Put kernels and modes together again."""
        given = iter(kernels)
        return cls(tuple(tuple((m, next(given)) for m in product) for product in modes))


def on(mode: Hashable, kernel: Any) -> ModeKernel:
    """Return a kernel of one mode as a part of a kernel of several.

    Examples
    --------
    >>> kernel = on("a", 1) + on("a", 2) * on("b", 3)
    >>> kernel.products
    ((('a', 1),), (('a', 2), ('b', 3)))
    """
    return ModeKernel((((mode, kernel),),))
