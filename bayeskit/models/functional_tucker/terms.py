r"""The terms of an additive mean, and the kernels of processes within groups.

A term adds one latent Gaussian function to the model of a row. Modes are named by their column
in a DataFrame, or by their position.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from bayeskit.models.markov_gp.settings import as_kernel

__all__ = [
    "GroupMeanEffect",
    "MainEffect",
    "ModeKernel",
    "WithinGroup",
    "check_terms",
    "covariance",
    "on",
    "term_label",
]


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

    Examples
    --------
    Warm days may differ from cool ones by more than the temperature of each row explains:

    >>> import bayeskit as bk
    >>> terms = [bk.MainEffect("temperature"), bk.GroupMeanEffect("temperature", by="day")]
    >>> est = bk.FunctionalCP(rank=0, mean=terms)  # and then est.fit(X, y)
    >>> est.mean[1].mode, est.mean[1].by
    ('temperature', 'day')
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

        return sum(math.prod(factor(part) for part in product) for product in self.products)


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

    Parameters
    ----------
    mode : hashable
        Name or place of the column.
    kernel : StateSpaceKernel, or whatever one mode takes

    Returns
    -------
    ModeKernel

    Examples
    --------
    >>> kernel = on("a", 1) + on("a", 2) * on("b", 3)
    >>> kernel.products
    ((('a', 1),), (('a', 2), ('b', 3)))
    """
    return ModeKernel((((mode, kernel),),))


def term_label(term: Any) -> str:
    """Return what a term is called in results, such as GroupMeanEffect(temp by day)."""
    if isinstance(term, WithinGroup):
        return f"WithinGroup({term.by})"
    if isinstance(term, GroupMeanEffect):
        return f"GroupMeanEffect({term.mode} by {term.by})"
    return f"MainEffect({term.mode})"


def check_terms(terms: Sequence[Any], names: Sequence[Hashable]) -> tuple[Any, ...]:
    """Return terms whose modes are positions or columns as terms of columns.

    Raises
    ------
    TypeError
        For what is no term, or no kernel.
    ValueError
        For modes that are not there, or terms that cannot stand together.
    """
    found = tuple(_with_names(term, names) for term in terms)
    within = [term for term in found if isinstance(term, WithinGroup)]
    if len(within) > 1:
        raise ValueError(
            "at most one WithinGroup is possible: give it a sum of kernels, "
            "on(mode, kernel) + on(other, kernel)"
        )
    labels = [term_label(term) for term in found]
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise ValueError(
            f"{twice[0]} is given twice, and only the sum of the two is a function that data "
            "tell of: give one term a sum of kernels, such as Matern32() + White()"
        )
    for term in within:
        others = [name for name in names if name != term.by]
        if not others:
            raise ValueError(f"{term_label(term)} needs another mode beside {term.by!r}")
    return found


def _with_names(term: Any, names: Sequence[Hashable]) -> Any:
    if not isinstance(term, MainEffect | GroupMeanEffect | WithinGroup):
        raise TypeError(
            "a term must be a MainEffect, GroupMeanEffect or WithinGroup, got "
            f"{type(term).__name__}"
        )
    changes: dict[str, Any] = {
        field: _name_of(getattr(term, field), names, term)
        for field in ("mode", "by")
        if hasattr(term, field)
    }
    if len(set(changes.values())) < len(changes):
        raise ValueError(
            f"{term_label(term)}: the mean of a mode over its own groups is itself"
        )
    num_knots = getattr(term, "num_knots", None)
    if num_knots is not None and not (isinstance(num_knots, int) and num_knots >= 2):
        raise ValueError(f"num_knots must be a whole number >= 2, got {num_knots!r}")
    kernel = term.kernel
    if isinstance(term, WithinGroup):
        if kernel is not None:
            if not isinstance(kernel, ModeKernel):
                raise TypeError(
                    f"the kernel of {term_label(term)} must be made of on(mode, kernel), got "
                    f"{type(kernel).__name__}"
                )
            kernel = ModeKernel(
                tuple(
                    tuple(
                        (_name_of(mode, names, term), as_kernel(part)) for mode, part in product
                    )
                    for product in kernel.products
                )
            )
            if changes["by"] in kernel.modes:
                raise ValueError(
                    f"{term_label(term)}: the kernel is one of the other modes; add a "
                    f"MainEffect of {term.by!r} for a function of the groups"
                )
    elif kernel is not None:
        kernel = as_kernel(kernel)
    return replace(term, **changes, kernel=kernel)


def _name_of(mode: Hashable, names: Sequence[Hashable], term: Any) -> Hashable:
    if mode in names:
        return mode
    if isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode < len(names):
        return names[mode]
    raise ValueError(f"{term_label(term)}: there is no mode {mode!r}; there are {list(names)}")
