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

__all__ = ["GroupMeanEffect", "MainEffect", "ModeKernel", "WithinGroup", "covariance", "on"]


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


@dataclass(frozen=True, eq=False)
class ModeKernel:
    """A sum of products of kernels of single modes.

    Parameters
    ----------
    products : tuple of tuples of (mode, kernel)
        The outer tuple is summed, the inner ones are multiplied. In a product, a standard
        deviation of None is 1 but for the first factor: only their product is known.
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

    def covariance(self, x: Sequence[Any], z: Sequence[Any]) -> jax.Array:
        """Return the covariance (n, m) of points given by one (n) and (m) array a mode."""
        place = {mode: i for i, mode in enumerate(self.modes)}

        def factor(part: tuple[Hashable, Any]) -> Any:
            mode, kernel = part
            return covariance(kernel, x[place[mode]], z[place[mode]])

        return sum(math.prod(factor(part) for part in product) for product in self.products)  # type: ignore[return-value]


def covariance(kernel: Any, x: Any, z: Any) -> jax.Array:
    """Return the covariance (n, m) of a function at coordinates x (n) and z (m)."""
    return jax.vmap(lambda a: jax.vmap(lambda b: kernel.evaluate(a, b))(z))(x)


def _flatten(kernel: ModeKernel) -> tuple:
    leaves = [
        (jax.tree_util.GetAttrKey("*".join(str(m) for m, _ in product) + f".{mode}"), part)
        for product in kernel.products
        for mode, part in product
    ]
    return leaves, tuple(tuple(m for m, _ in product) for product in kernel.products)


def _unflatten(modes: tuple, kernels: Any) -> ModeKernel:
    given = iter(kernels)
    return ModeKernel(tuple(tuple((m, next(given)) for m in product) for product in modes))


jax.tree_util.register_pytree_with_keys(ModeKernel, _flatten, _unflatten)


def on(mode: Hashable, kernel: Any) -> ModeKernel:
    """Return a kernel of one mode as a part of a kernel of several.

    Examples
    --------
    >>> kernel = on("a", 1) + on("a", 2) * on("b", 3)
    >>> kernel.products
    ((('a', 1),), (('a', 2), ('b', 3)))
    """
    return ModeKernel((((mode, kernel),),))
