"""Objects that hold hyper-parameters: numbers, priors, or None for a prior from the data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = [
    "Hyperparametric",
    "LogNormal",
    "Scales",
    "checked_hyperparameter",
    "hyperparameter",
    "is_free",
]


class LogNormal(NamedTuple):
    r"""Prior of a positive hyper-parameter: :math:`\log h \sim N(\log m, s^2)`.

    Parameters
    ----------
    median : float
        The median m.
    spread : float
        The standard deviation s of the logarithm: 1 allows a factor of 7 either way.

    Examples
    --------
    A length scale that is learned, from about 4 to 27 with two thirds of the probability:

    >>> import math
    >>> from bayeskit.inference.gp_kernels import LogNormal, Matern32
    >>> kernel = Matern32(std=1.0, lengthscale=LogNormal(10.0, spread=1.0))
    >>> median, spread = kernel.lengthscale
    >>> [round(median * math.exp(sign * spread), 1) for sign in (-1, 1)]
    [3.7, 27.2]
    """

    median: float
    spread: float = 1.0


class Scales(NamedTuple):
    """What default priors are made of.

    Parameters
    ----------
    x : float
        Span of the coordinates.
    y : float
        Standard deviation of what the function is to explain.

    Examples
    --------
    Of data that span 10 units of x and vary by 3:

    >>> from bayeskit.inference.gp_kernels import Matern12, Scales
    >>> Matern12().with_defaults(Scales(x=10.0, y=3.0)).std
    LogNormal(median=3.0, spread=1.0)
    """

    x: float = 1.0
    y: float = 1.0


def hyperparameter(default: Any = None) -> Any:
    """Declare a field of a kernel that holds a positive number, a prior, or None."""
    return field(default=default, metadata={"hyperparameter": True})


def is_free(value: Any) -> bool:
    """Return whether a hyper-parameter is to be learned."""
    return value is None or isinstance(value, LogNormal)


@dataclass(frozen=True, eq=False)
class Hyperparametric:
    """Base of frozen dataclasses whose fields are hyper-parameters, parts, or settings.

    Each is a pytree whose leaves are its hyper-parameters, so that ``jax.vmap`` maps over many
    of one form.

    Examples
    --------
    What is None gets a prior, a number stays, and all of them are leaves of a pytree:

    >>> import jax
    >>> from bayeskit.inference.gp_kernels import Matern12, Scales
    >>> kernel = Matern12(lengthscale=5.0).with_defaults(Scales(y=3.0))
    >>> kernel.std
    LogNormal(median=3.0, spread=1.0)
    >>> jax.tree.leaves(2.0 * Matern12(std=3.0, lengthscale=5.0))
    [3.0, 5.0, 2.0]
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # Once the decorator that makes a dataclass of it has run, the fields are known.
        jax.tree_util.register_pytree_with_keys(
            cls, _flatten_with_keys, lambda static, leaves: _unflatten(cls, static, leaves)
        )

    def default_priors(self, scales: Scales) -> Mapping[str, Any]:
        """Return priors, or fixed numbers, for hyper-parameters that are None."""
        raise NotImplementedError

    def children(self) -> Iterator[tuple[str, Hyperparametric]]:
        """Iterate over the parts that this one is made of, with the names of their fields."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Hyperparametric):
                yield one.name, value

    def with_defaults(self, scales: Scales) -> Any:
        """Return it with a prior, or a number, for each hyper-parameter that is None."""
        found: dict[str, Any] = {
            name: part.with_defaults(scales) for name, part in self.children()
        }
        missing = [
            one.name
            for one in fields(self)
            if one.metadata.get("hyperparameter") and getattr(self, one.name) is None
        ]
        if missing:
            defaults = self.default_priors(scales)
            for name in missing:
                if name not in defaults:
                    raise ValueError(
                        f"{type(self).__name__} needs {name}: give a number, or a prior such "
                        f"as LogNormal(median, spread)"
                    )
                found[name] = defaults[name]
        return replace(self, **found) if found else self


def checked_hyperparameter(value: Any, where: str) -> None:
    """Refuse a hyper-parameter that is neither positive nor a prior over positive numbers.

    Raises
    ------
    ValueError
        With the kernel and the name of the hyper-parameter.
    """
    numbers = value if isinstance(value, LogNormal) else (value,)
    if any(isinstance(v, str) for v in numbers):
        raise ValueError(f"{where} must be a positive number or a prior, got {value!r}")
    if value is None or not all(isinstance(v, int | float | np.number) for v in numbers):
        # Arrays of many kernels, tracers, and placeholders of JAX pass unread.
        return
    if not all(math.isfinite(v) and v > 0 for v in numbers):
        raise ValueError(
            f"{where} must be a positive number, LogNormal(median > 0, spread > 0), or None to "
            f"learn it, got {value!r}"
        )


def _hyper_and_static(kernel: Any) -> tuple[list[str], list[str]]:
    hyper: list[str] = []
    static: list[str] = []
    for one in fields(kernel):
        is_child = isinstance(getattr(kernel, one.name), Hyperparametric)
        (hyper if is_child or one.metadata.get("hyperparameter") else static).append(one.name)
    return hyper, static


def _flatten_with_keys(kernel: Any) -> tuple[list, tuple]:
    hyper, static = _hyper_and_static(kernel)
    leaves = [(jax.tree_util.GetAttrKey(name), getattr(kernel, name)) for name in hyper]
    facts = tuple((name, getattr(kernel, name)) for name in static)
    return leaves, (tuple(hyper), facts)


def _unflatten(cls: type, static: tuple, leaves: Any) -> Any:
    # Not through __init__: JAX puts placeholders in the place of numbers.
    kernel: Any = object.__new__(cls)
    names, facts = static
    for name, value in (*zip(names, leaves, strict=True), *facts):
        object.__setattr__(kernel, name, value)
    return kernel
