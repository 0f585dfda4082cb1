"""Whether a model is one of Pyro's, read from its code.

Neither torch nor Pyro is loaded here.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bayeskit.errors import MissingDependencyError
from bayeskit.interop.called_model import name_of

__all__ = ["GivenPyroModel", "from_pyro", "is_pyro_model", "require_pyro"]


def from_pyro(model: Callable) -> GivenPyroModel:
    """Say that a model is one of Pyro's, where that cannot be read from its code.

    :class:`~bayeskit.BayesianModel` takes a Pyro model as it is if its code, or that of a
    function it calls, names something of ``pyro``, and not of ``numpyro``.

    Parameters
    ----------
    model : callable

    Returns
    -------
    GivenPyroModel
        For :class:`~bayeskit.BayesianModel`.

    Raises
    ------
    MissingDependencyError
        Without torch and Pyro.
    TypeError
        For what is not callable.

    Examples
    --------
    >>> import functools
    >>> import pyro, pyro.distributions as dist
    >>> from bayeskit.interop.pyro import from_pyro
    >>> def scaled(sample, y=None):
    ...     mean = sample("mean", dist.Normal(0.0, 1.0))
    ...     sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> given = from_pyro(functools.partial(scaled, pyro.sample))
    """
    if not callable(model):
        raise TypeError(f"from_pyro takes a Pyro model, got {type(model).__name__}")
    require_pyro()
    return GivenPyroModel(model)


@dataclass(frozen=True)
class GivenPyroModel:
    """A model of which the user says that it is one of Pyro's. See :func:`from_pyro`.

    Parameters
    ----------
    model : callable

    Examples
    --------
    >>> from bayeskit.interop.pyro import GivenPyroModel
    >>> GivenPyroModel(len).__name__
    'len'
    """

    model: Callable

    @property
    def __name__(self) -> str:
        return name_of(self.model)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the model."""
        return self.model(*arguments, **keywords)


def require_pyro() -> None:
    """Raise a MissingDependencyError without torch and Pyro."""
    missing = [n for n in ("torch", "pyro") if importlib.util.find_spec(n) is None]
    if missing:
        raise MissingDependencyError(
            f"Pyro models need {' and '.join(missing)}, not installed here: "
            "pip install 'bayeskit[torch]'"
        )


# ---------------------------------------------------------------- whose model it is


def is_pyro_model(model: Any) -> bool:
    """Return whether a callable is a Pyro model, from what its code names; it is not run.

    Parameters
    ----------
    model : anything

    Returns
    -------
    bool
        False without Pyro: who wrote a Pyro model has imported it.

    Examples
    --------
    >>> import numpyro, pyro
    >>> from bayeskit.interop.pyro import is_pyro_model
    >>> is_pyro_model(lambda law: pyro.sample("mean", law))
    True
    >>> is_pyro_model(lambda law: numpyro.sample("mean", law))
    False
    """
    if isinstance(model, GivenPyroModel):
        return True
    if "pyro" not in sys.modules:
        return False
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return True
    owners = _owners(model, set())
    return "pyro" in owners and "numpyro" not in owners


def _owners(thing: Any, seen: set[int]) -> set[str]:
    """Return which of Pyro and NumPyro a function's code names, that of its helpers too."""
    if isinstance(thing, functools.partial):
        return _owners(thing.func, seen)
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if not isinstance(thing, types.FunctionType | types.MethodType | types.ModuleType | type):
        thing = vars(type(thing)).get("__call__")
    owner = getattr(thing, "__module__", None) or getattr(thing, "__name__", "")
    root = str(owner).split(".")[0]
    if isinstance(thing, types.ModuleType):
        root = thing.__name__.split(".")[0]
    if root in ("pyro", "numpyro"):
        return {root}
    function = getattr(thing, "__func__", thing)
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return set()
    seen.add(id(function))
    found: set[str] = set()
    names = _names_in(function.__code__)
    cells = [c.cell_contents for c in function.__closure__ or () if _is_set(c)]
    values = [function.__globals__[n] for n in names if n in function.__globals__]
    for value in (*cells, *values):
        found |= _owners(value, seen)
    return found | (names & {"pyro", "numpyro"} & _imported_in(function.__code__))


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names_in(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names_in, inner))


def _imported_in(code: types.CodeType) -> set[str]:
    """Return local names, such as those of imports inside a function."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_varnames + code.co_cellvars).union(*map(_imported_in, inner))
