"""What models of NumPyro and of Pyro have in common once they are called with data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bayeskit.errors import InvalidDataError

__all__ = [
    "Bound",
    "Coordinates",
    "Site",
    "check_broadcasting",
    "check_observes",
    "check_same_sites",
    "check_signature",
    "is_improper",
    "latent_sites",
    "looked_at",
    "name_of",
    "refuse_subsample",
]


_Found = TypeVar("_Found")


class Site(NamedTuple):
    """A latent variable: its name and its shape in unconstrained coordinates.

    Parameters
    ----------
    name : str
    shape : tuple of int

    Examples
    --------
    Three probabilities that add up to 1 have two unconstrained coordinates:

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from bayeskit.interop.numpyro import NumPyroModel
    >>> def colours(y=None):
    ...     p = numpyro.sample("p", dist.Dirichlet(np.ones(3)))
    ...     numpyro.sample("y", dist.Categorical(p), obs=y)
    >>> called, _ = NumPyroModel.of(colours, (), {"y": np.array([0, 2])})
    >>> called.sites
    (Site(name='p', shape=(2,)),)
    """

    name: str
    shape: tuple[int, ...]


class Coordinates:
    """The unconstrained coordinates of a model with ``sites``, in one vector."""

    sites: tuple[Site, ...]

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return sum(math.prod(site.shape) for site in self.sites)

    def unpack(self, x: Any) -> dict[str, Any]:
        """Return unconstrained values by site from one vector, array or tensor."""
        values, start = {}, 0
        for site in self.sites:
            size = math.prod(site.shape)
            values[site.name] = x[start : start + size].reshape(site.shape)
            start += size
        return values


@dataclass(frozen=True)
class Bound:
    """A method of a model that is equal for equal models, as bound methods are not."""

    model: Any
    method: str

    def __call__(self, *arguments: Any) -> Any:
        """Call the method."""
        return getattr(self.model, self.method)(*arguments)


def name_of(fn: Any) -> str:
    """Return what messages call a function."""
    return str(getattr(fn, "__name__", type(fn).__name__))


def looked_at(
    look: Callable[[bool], _Found], arguments: tuple, keywords: Mapping[str, Any]
) -> _Found:
    """Return what a look at a model finds, floats among its arguments as data if it may.

    Other values of data need no other program. Whole numbers are the sizes of things, and
    belong to the structure.

    Parameters
    ----------
    look : callable (whether floats are data) -> anything
    arguments, keywords
        Of the model.
    """
    if any(isinstance(value, float) for value in (*arguments, *keywords.values())):
        try:
            return look(True)
        except Exception:
            # A model may compare or round a number as Python does. Where something else is
            # wrong, the other look says what.
            pass
    return look(False)


# ---------------------------------------------------------------- what cannot be used


def check_signature(model: Callable, arguments: tuple, keywords: Mapping[str, Any]) -> None:
    """Refuse arguments that a model does not have.

    Raises
    ------
    TypeError
        With the signature of the model.
    """
    signature = inspect.signature(model)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        name = getattr(model, "__name__", "the model")
        hint = ""
        if "X" in keywords and "X" not in signature.parameters:
            hint = ". What fit(X, y) is given goes to arguments named X and y: call them so"
        raise TypeError(
            f"{name}{signature} cannot take what fit or predict was given "
            f"({', '.join(keywords) or 'nothing'}): {error}{hint}"
        ) from error


def check_observes(package: str, keywords: Mapping[str, Any], observes: bool) -> None:
    """Refuse y where a model has no observed site."""
    if keywords.get("y") is not None and not observes:
        raise ValueError(
            "y was given, but the model observes nothing: write obs=y in the site that "
            f"holds the data, {package}.sample(name, distribution, obs=y)"
        )


def check_same_sites(sites: tuple[Site, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse arguments for which the latent variables have other shapes than in the fit."""
    for site in sites:
        if site.name not in shapes:
            raise ValueError(f"for these arguments the model has no variable {site.name!r}")
        shape = shapes[site.name]
        if shape != site.shape:
            raise ValueError(
                f"for these arguments {site.name!r} has shape {shape}, but it was fitted "
                f"with shape {site.shape}: parameters must not depend on the rows of X"
            )


def check_broadcasting(name: str, shape: tuple[int, ...], distribution: Any) -> None:
    """Refuse data that would be compared with every row, and not each with its own.

    Parameters
    ----------
    name : str
        Of the observed site.
    shape : tuple of int
        Of its data.
    distribution : of NumPyro or Pyro
    """
    rows = tuple(shape)[: len(shape) - distribution.event_dim]
    own = tuple(distribution.batch_shape)
    both = np.broadcast_shapes(rows, own)
    if both not in (rows, own):
        raise InvalidDataError(
            f"the data of {name!r} have shape {rows}, its distribution {own}: together they "
            f"would be {both}, each value compared with all rows. Give y one value a row, such "
            "as y.ravel() or a column of a data frame"
        )


def refuse_subsample(name: str, size: Any, subsample: Any) -> None:
    """Refuse a plate with fewer rows than there are."""
    if subsample is not None and size != subsample:
        raise ValueError(
            f"the plate {name!r} subsamples {subsample} of {size} rows: exact inference needs "
            "all of them. Remove subsample_size"
        )


def latent_sites(latent: list[Any]) -> tuple[Site, ...]:
    """Return the sites of what traces tell of latent variables; refuse none, and discrete ones.

    Parameters
    ----------
    latent : list of facts
        With ``name``, ``free_shape``, ``family`` and ``discrete``.
    """
    for fact in latent:
        if fact.discrete:
            raise ValueError(
                f"the latent variable {fact.name!r} is discrete ({fact.family}): gradient "
                "engines cannot move it. Sum it out, for example with a mixture distribution"
            )
    if not latent:
        raise ValueError("the model has no latent variables: there is nothing to infer")
    return tuple(Site(fact.name, fact.free_shape) for fact in latent)


def is_improper(distribution: Any) -> bool:
    """Return whether a distribution of NumPyro or Pyro cannot be drawn from."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__ == "ImproperUniform"
