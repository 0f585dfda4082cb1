"""Pyro models as targets, split into prior and likelihood; torch computes, JAX samples.

torch and Pyro are loaded when a model is used, not when this module is imported.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import BayeskitError, MissingDependencyError
from bayeskit.inference.measure import Target
from bayeskit.interop.host_calls import Batched, Result, host_call, one_by_one
from bayeskit.interop.numpyro import Site, check_signature
from bayeskit.interop.torch import (
    TorchLogDensity,
    mapped,
    seed_of,
    seeded,
    tensor_of,
    torch_scope,
    unchanged,
)

if TYPE_CHECKING:
    from bayeskit.interop.pyro_host import Fact

__all__ = ["GivenPyroModel", "PyroModel", "from_pyro", "is_pyro_model"]


def from_pyro(model: Callable) -> GivenPyroModel:
    """Say that a model is one of Pyro's, where that cannot be read from its code.

    :class:`~bayeskit.BayesianModel` takes a Pyro model as it is if its code, or that of a
    function it calls, names something of ``pyro``, and not of ``numpyro``.

    Parameters
    ----------
    model : callable

    Raises
    ------
    MissingDependencyError
        Without torch and Pyro.
    TypeError
        For what is not callable.
    """
    if not callable(model):
        raise TypeError(f"from_pyro takes a Pyro model, got {type(model).__name__}")
    _require_pyro()
    return GivenPyroModel(model)


@dataclass(frozen=True)
class GivenPyroModel:
    """A model of which the user says that it is one of Pyro's. See :func:`from_pyro`."""

    model: Callable

    @property
    def __name__(self) -> str:
        return _name(self.model)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the model."""
        return self.model(*arguments, **keywords)


def _require_pyro() -> None:
    missing = [n for n in ("torch", "pyro") if importlib.util.find_spec(n) is None]
    if missing:
        raise MissingDependencyError(
            f"Pyro models need {' and '.join(missing)}, not installed here: "
            "pip install 'bayeskit[torch]'"
        )


# ---------------------------------------------------------------- whose model it is


def is_pyro_model(model: Any) -> bool:
    """Return whether a callable is a Pyro model, from what its code names; it is not run."""
    if isinstance(model, GivenPyroModel):
        return True
    if "pyro" not in sys.modules:  # who wrote a Pyro model has imported it
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
        thing = getattr(type(thing), "__call__", None)
    root = str(getattr(thing, "__module__", None) or getattr(thing, "__name__", "")).split(".")[0]
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


# ---------------------------------------------------------------- the model


@dataclass(frozen=True)
class PyroModel:
    """A Pyro model called with arguments of a fixed structure.

    Two of them are equal if model, structure and sites are, so that fits of new data of the
    same shape share compiled programs. Arrays and tensors among the arguments are data, and
    reach the model as tensors: floats in the precision of the fit, whole numbers as int64.

    Parameters
    ----------
    model : callable
    arguments, keywords : tuple
        Structure of the call: the number of its array for data, ``(False, value)`` for the rest.
    facts : tuple of Fact
        All sites, from one trace.
    sites : tuple of Site
        The latent ones, in unconstrained coordinates.
    """

    model: Callable
    arguments: tuple
    keywords: tuple[tuple[str, Any], ...]
    facts: tuple[Fact, ...] = ()
    sites: tuple[Site, ...] = ()

    @classmethod
    def of(
        cls, model: Callable, arguments: tuple, keywords: Mapping[str, Any]
    ) -> tuple[PyroModel, tuple]:
        """Return the model with the sites it has for these arguments, and the data.

        The model runs once, with a draw from its prior and with Pyro's own checks.

        Raises
        ------
        MissingDependencyError
            Without torch and Pyro.
        TypeError
            If the model cannot be called like this.
        ValueError
            If it has no latent variables, discrete ones, parameters to be optimised, or
            subsamples.
        InvalidDataError
            If it changes its data in place.
        """
        bare, data = cls._look(model, arguments, keywords)
        kinds = {fact.kind for fact in bare.facts}
        if keywords.get("y") is not None and "observed" not in kinds:
            raise ValueError(
                "y was given, but the model observes nothing: write obs=y in the site that "
                "holds the data, pyro.sample(name, distribution, obs=y)"
            )
        return replace(bare, sites=_latent_sites(bare.facts)), data

    @classmethod
    def _look(
        cls, model: Callable, arguments: tuple, keywords: Mapping[str, Any]
    ) -> tuple[PyroModel, tuple]:
        _require_pyro()
        from bayeskit.interop import pyro_host

        model = model.model if isinstance(model, GivenPyroModel) else model
        check_signature(getattr(model, "forward", model), arguments, keywords)
        data: list[Any] = []

        def slot(value):
            if _is_array(value):
                data.append(jnp.asarray(np.asarray(value)))
                return True, len(data) - 1
            return False, value

        slots = tuple(slot(a) for a in arguments)
        named = tuple((name, slot(value)) for name, value in keywords.items())
        bare = cls(model, slots, named)
        dtype = _float_name()
        with torch_scope(dtype), seeded(np.zeros(2, np.uint32)), _explained(model, dtype):
            tensors = [tensor_of(np.asarray(d), dtype) for d in data]
            with unchanged(tensors, model):
                sites = pyro_host.prior_trace(model, *bare.filled(tensors))
            facts = pyro_host.facts_of(sites)
        _refuse(facts)
        return replace(bare, facts=facts), tuple(data)

    # ------------------------------------------------------------ sites

    def _of_kind(self, kind: str) -> tuple[Fact, ...]:
        latent = {site.name for site in self.sites}
        if kind == "named":  # what a posterior holds
            return tuple(f for f in self.facts if f.name in latent or f.kind == "deterministic")
        if kind == "new":  # neither latent nor given
            return tuple(f for f in self.facts if f.kind == "latent" and f.name not in latent)
        return tuple(f for f in self.facts if f.kind == kind)

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observed sites and factors."""
        return tuple(f.name for f in self.facts if f.kind in ("observed", "factor"))

    @property
    def proper_prior(self) -> bool:
        """Whether the prior can be drawn from."""
        latent = {site.name for site in self.sites}
        return all(f.proper for f in self.facts if f.name in latent)

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

    # ------------------------------------------------------------ running the model, in torch

    def filled(self, tensors: Any) -> tuple[list, dict[str, Any]]:
        """Return arguments and keywords of the call with the data in their places."""

        def fill(slot):
            is_array, value = slot
            return tensors[value] if is_array else value

        return [fill(a) for a in self.arguments], {n: fill(v) for n, v in self.keywords}

    def trace(self, x: Any, tensors: Any) -> tuple[dict[str, Any], Any]:
        """Return all sites at a tensor of unconstrained values, and the log Jacobian."""
        from bayeskit.interop import pyro_host

        return pyro_host.posterior_trace(self.model, *self.filled(tensors), self.unpack(x))

    # ------------------------------------------------------------ densities and draws, in JAX

    def log_prior(self, x: jax.Array, *data: Any) -> jax.Array:
        """Return the log prior density of the unconstrained vector."""
        return TorchLogDensity(_LogPart(self, "prior"))(x, *data)

    def log_likelihood(self, x: jax.Array, *data: Any) -> jax.Array:
        """Return the sum of the log probabilities of the observed sites and factors."""
        return TorchLogDensity(_LogPart(self, "likelihood"))(x, *data)

    def constrain(self, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return latent and deterministic values by name."""
        facts = self._of_kind("named")
        results = tuple(_result(f.shape, f.dtype, x) for f in facts)
        return _named(facts, host_call(_Values(self, "named"), results, x, *data))

    def sample_prior(self, key: Any, *data: Any) -> jax.Array:
        """Return one prior draw as an unconstrained vector."""
        results = (Result((self.dim,), _float_name()),)
        return host_call(_Draws(self, "prior", results[0].dtype), results, seed_of(key), *data)[0]

    def pointwise_log_likelihood(self, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return the log probability of each observation, by site."""
        facts = self._of_kind("observed")
        results = tuple(Result(f.rows, x.dtype.name) for f in facts)
        return _named(facts, host_call(_Values(self, "observed"), results, x, *data))

    def replicate(self, key: Any, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return one draw of each observed site given x, in place of the data."""
        facts = self._of_kind("observed")
        results = tuple(_result(f.drawn, f.dtype, x) for f in facts)
        drawn = host_call(_Draws(self, "observed", x.dtype.name), results, seed_of(key), x, *data)
        return _named(facts, drawn)

    def predict(self, key: Any, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return one draw of each site that is neither latent nor given."""
        facts = self._of_kind("new")
        results = tuple(_result(f.shape, f.dtype, x) for f in facts)
        return _named(facts, host_call(_Draws(self, "new", x.dtype.name), results, seed_of(key), x, *data))

    def predictive_moments(
        self, x: jax.Array, *data: Any
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Return mean and variance of each site that is neither latent nor given."""
        facts = self._of_kind("new")
        results = tuple(Result(f.drawn, x.dtype.name) for f in facts for _ in range(2))
        found = host_call(_Values(self, "new"), results, x, *data)
        return _named(facts, zip(found[::2], found[1::2], strict=True))

    # ------------------------------------------------------------ facts

    def observed_values(self, *data: Any) -> dict[str, np.ndarray]:
        """Return the data of each observed site."""
        from bayeskit.interop import pyro_host

        dtype = _float_name()
        with torch_scope(dtype), seeded(np.zeros(2, np.uint32)):
            tensors = [tensor_of(np.asarray(d), dtype) for d in data]
            sites = pyro_host.prior_trace(self.model, *self.filled(tensors))
            return {
                f.name: sites[f.name]["value"].numpy() for f in self._of_kind("observed")
            }

    def for_arguments(
        self, arguments: tuple, keywords: Mapping[str, Any]
    ) -> tuple[PyroModel, tuple]:
        """Return the model with the same latent sites for other arguments, and the data.

        Raises
        ------
        TypeError
            If the model cannot be called like this.
        ValueError
            If the latent variables would have other shapes.
        """
        other, data = PyroModel._look(self.model, arguments, keywords)
        shapes = {f.name: f.free_shape for f in other.facts if f.kind == "latent"}
        for site in self.sites:
            if site.name not in shapes:
                raise ValueError(f"for these arguments the model has no variable {site.name!r}")
            if shapes[site.name] != site.shape:
                raise ValueError(
                    f"for these arguments {site.name!r} has shape {shapes[site.name]}, but it "
                    f"was fitted with shape {site.shape}: parameters must not depend on the "
                    "rows of X"
                )
        return replace(other, sites=self.sites), data

    def support_is_boolean(self, name: str, data: tuple) -> bool:
        """Return whether an observed site takes the values 0 and 1 only."""
        return next(f.boolean for f in self.facts if f.name == name)

    def target(self, data: tuple) -> Target:
        """Return the model as a target on unconstrained vectors."""
        return Target(
            log_prior=_Bound(self, "log_prior"),
            log_likelihood=_Bound(self, "log_likelihood"),
            sample_prior=_Bound(self, "sample_prior") if self.proper_prior else None,
            constrain=_Bound(self, "constrain"),
            data=data,
            prior_takes_data=True,
            name=_name(self.model),
        )


@dataclass(frozen=True)
class _Bound:
    """A method of a model that is equal for equal models, as bound methods are not."""

    model: PyroModel
    method: str

    def __call__(self, *arguments):
        return getattr(self.model, self.method)(*arguments)


# ---------------------------------------------------------------- what torch computes


@dataclass(frozen=True)
class _LogPart:
    """The log prior or the log likelihood as a function of tensors."""

    model: PyroModel
    part: str

    @property
    def __name__(self) -> str:
        return f"the log {self.part} of {_name(self.model.model)}"

    def __call__(self, x: Any, *tensors: Any) -> Any:
        from bayeskit.interop import pyro_host

        sites, total = self.model.trace(x, tensors)
        names: Any = self.model.observed
        if self.part == "prior":
            names = [site.name for site in self.model.sites]
        else:
            total = 0.0
        total = total + sum(pyro_host.log_prob(sites[name]).sum() for name in names)
        # What has no latent variable in it has a gradient as well, of zero.
        return total + 0.0 * x.sum()


@dataclass(frozen=True)
class _Values:
    """What a model gives at points without drawing anything."""

    model: PyroModel
    kind: str

    def __call__(self, num_points: int, x: Batched, *data: Batched) -> tuple:
        import torch

        if any(not d.is_shared for d in data):
            pieces = [
                self(1, Batched(one[0][None]), *(Batched(a[None]) for a in one[1:]))
                for one in one_by_one(lambda *rows: rows, num_points, x, *data)
            ]
            return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
        points = np.broadcast_to(x.rows, (num_points, *x.rows.shape[1:]))
        with torch_scope(x.rows.dtype), seeded(np.zeros(2, np.uint32)), torch.no_grad():
            tensors = [tensor_of(d.rows[0], x.rows.dtype) for d in data]
            values = mapped(
                lambda point: self._one(point, tensors),
                [torch.from_numpy(np.array(points))],
                [self.kind != "new"],  # new sites are drawn to find their distribution
            )
            return tuple(v.cpu().numpy() for v in values)

    def _one(self, point: Any, tensors: list) -> tuple:
        import torch

        from bayeskit.interop import pyro_host

        sites, _ = self.model.trace(point, tensors)
        found = [(f, sites[f.name]) for f in self.model._of_kind(self.kind)]
        if self.kind == "named":
            return tuple(torch.as_tensor(site["value"]) for _, site in found)
        if self.kind == "observed":
            return tuple(pyro_host.log_prob(site) for _, site in found)
        shapes = [f.drawn for f, _ in found]
        moments = [(site["fn"].mean, site["fn"].variance) for _, site in found]
        return tuple(
            torch.as_tensor(m).expand(shape)
            for pair, shape in zip(moments, shapes, strict=True)
            for m in pair
        )


@dataclass(frozen=True)
class _Draws:
    """What a model draws, each from a seed of its own."""

    model: PyroModel
    kind: str
    dtype: str

    def __call__(self, num_points: int, seeds: Batched, *rows: Batched) -> tuple:
        import torch

        def one(seed, *arrays):
            with seeded(seed):
                tensors = [tensor_of(a, self.dtype) for a in arrays]
                return [np.asarray(v) for v in self._one(tensors)]

        with torch_scope(self.dtype), torch.no_grad():
            drawn = one_by_one(one, num_points, seeds, *rows)
        return tuple(np.stack(values) for values in zip(*drawn, strict=True))

    def _one(self, tensors: list) -> list:
        from bayeskit.interop import pyro_host

        model = self.model
        if self.kind == "prior":
            sites = pyro_host.prior_trace(model.model, *model.filled(tensors))
            return [pyro_host.prior_point(sites, tuple(site.name for site in model.sites))]
        sites, _ = model.trace(tensors[0], tensors[1:])
        found = [sites[f.name] for f in model._of_kind(self.kind)]
        return [s["fn"].sample() if self.kind == "observed" else s["value"] for s in found]


# ---------------------------------------------------------------- what is refused


def _refuse(facts: tuple[Fact, ...]) -> None:
    for fact in facts:
        if fact.kind == "parameter":
            raise ValueError(
                f"the model has the parameter {fact.name!r} (pyro.param or an nn.Parameter), "
                "which has no prior: write it as pyro.sample(name, distribution), or PyroSample "
                "in a PyroModule, or give its value as an argument"
            )
        size, subsample = fact.subsample
        if size != subsample:
            raise ValueError(
                f"the plate {fact.name!r} subsamples {subsample} of {size} rows: exact "
                "inference needs all of them. Remove subsample_size"
            )


def _latent_sites(facts: tuple[Fact, ...]) -> tuple[Site, ...]:
    sites = []
    for fact in facts:
        if fact.kind != "latent":
            continue
        if fact.discrete:
            raise ValueError(
                f"the latent variable {fact.name!r} is discrete ({fact.family}): gradient "
                "engines cannot move it. Sum it out, for example with a mixture distribution"
            )
        sites.append(Site(fact.name, fact.free_shape))
    if not sites:
        raise ValueError("the model has no latent variables: there is nothing to infer")
    return tuple(sites)


@contextlib.contextmanager
def _explained(model: Callable, dtype: str) -> Iterator[None]:
    """Say of an error within a model where it came from."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, BayeskitError):
            error.add_note(
                f"This came from running {_name(model)} once, in Pyro. Data reach it as tensors "
                f"of {dtype} and int64, and what it makes itself is {dtype}; tensors that it "
                "takes from outside keep their own type: give them as arguments of fit instead."
            )
        raise


# ---------------------------------------------------------------- small words


def _is_array(value: Any) -> bool:
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(value, torch.Tensor)
    return is_tensor or isinstance(value, np.ndarray | jax.Array)


def _float_name() -> str:
    """Return the floating-point type of the precision in which the caller computes."""
    return jnp.zeros(()).dtype.name


def _result(shape: tuple[int, ...], dtype: str, x: jax.Array) -> Result:
    """Return how JAX takes a tensor: floats as those of x, whole numbers as its own."""
    if dtype == "bool":
        return Result(shape, dtype)
    return Result(shape, x.dtype.name if "float" in dtype else jnp.zeros((), int).dtype.name)


def _named(facts: tuple[Fact, ...], values: Any) -> dict[str, Any]:
    return {fact.name: value for fact, value in zip(facts, values, strict=True)}


def _name(model: Any) -> str:
    return str(getattr(model, "__name__", type(model).__name__))
