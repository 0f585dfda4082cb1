"""Pyro models as targets, split into prior and likelihood; torch computes, JAX samples.

torch and Pyro are loaded when a model is used, not when this module is imported.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import BayeskitError
from bayeskit.inference.measure import Target
from bayeskit.interop.host_calls import Result, host_call
from bayeskit.interop.numpyro import Site, check_signature
from bayeskit.interop.pyro_owner import GivenPyroModel, from_pyro, is_pyro_model, require_pyro
from bayeskit.interop.pyro_runs import Draws, LogParts, Values
from bayeskit.interop.torch import TorchLogDensity
from bayeskit.interop.torch_tensors import (
    name_of,
    seed_of,
    seeded,
    tensor_of,
    torch_scope,
    unchanged,
)

if TYPE_CHECKING:
    from bayeskit.interop.pyro_host import Fact

__all__ = ["GivenPyroModel", "PyroModel", "from_pyro", "is_pyro_model"]


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
        Structure of the call: ``(True, number)`` for an array, ``(False, value)`` for the rest.
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
        require_pyro()
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
        dtype = _floatname_of()
        with torch_scope(dtype), seeded(np.zeros(2, np.uint32)), _explained(model, dtype):
            tensors = [tensor_of(np.asarray(d), dtype) for d in data]
            with unchanged(tensors, model):
                sites = pyro_host.prior_trace(model, *bare.filled(tensors))
            facts = pyro_host.facts_of(sites)
        _refuse(facts)
        return replace(bare, facts=facts), tuple(data)

    # ------------------------------------------------------------ sites

    def of_kind(self, kind: str) -> tuple[Fact, ...]:
        """Return sites by kind, or those that are "named" in a posterior, or "new"."""
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

    def filled(self, tensors: Any) -> tuple[tuple, dict[str, Any]]:
        """Return arguments and keywords of the call with the data in their places."""

        def fill(slot):
            is_array, value = slot
            return tensors[value] if is_array else value

        return tuple(fill(a) for a in self.arguments), {n: fill(v) for n, v in self.keywords}

    def trace(self, x: Any, tensors: Any) -> tuple[dict[str, Any], Any]:
        """Return all sites at a tensor of unconstrained values, and the log Jacobian."""
        from bayeskit.interop import pyro_host

        return pyro_host.posterior_trace(self.model, *self.filled(tensors), self.unpack(x))

    # ------------------------------------------------------------ densities and draws, in JAX

    def log_parts(self, x: jax.Array, *data: Any) -> jax.Array:
        """Return the log prior and the log likelihood (2,) of the unconstrained vector."""
        return TorchLogDensity(LogParts(self), shape=(2,))(x, *data)

    def log_prior(self, x: jax.Array, *data: Any) -> jax.Array:
        """Return the log prior density of the unconstrained vector."""
        return self.log_parts(x, *data)[0]

    def log_likelihood(self, x: jax.Array, *data: Any) -> jax.Array:
        """Return the sum of the log probabilities of the observed sites and factors."""
        return self.log_parts(x, *data)[1]

    def constrain(self, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return latent and deterministic values by name."""
        facts = self.of_kind("named")
        results = tuple(_result(f.shape, f.dtype, x) for f in facts)
        return _named(facts, host_call(Values(self, "named"), results, x, *data))

    def sample_prior(self, key: Any, *data: Any) -> jax.Array:
        """Return one prior draw as an unconstrained vector."""
        results = (Result((self.dim,), _floatname_of()),)
        return host_call(Draws(self, "prior", results[0].dtype), results, seed_of(key), *data)[
            0
        ]

    def pointwise_log_likelihood(self, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return the log probability of each observation, by site."""
        facts = self.of_kind("observed")
        results = tuple(Result(f.rows, x.dtype.name) for f in facts)
        return _named(facts, host_call(Values(self, "observed"), results, x, *data))

    def replicate(self, key: Any, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return one draw of each observed site given x, in place of the data."""
        facts = self.of_kind("observed")
        results = tuple(_result(f.drawn, f.dtype, x) for f in facts)
        drawn = host_call(
            Draws(self, "observed", x.dtype.name), results, seed_of(key), x, *data
        )
        return _named(facts, drawn)

    def predict(self, key: Any, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return one draw of each site that is neither latent nor given."""
        facts = self.of_kind("new")
        results = tuple(_result(f.shape, f.dtype, x) for f in facts)
        return _named(
            facts, host_call(Draws(self, "new", x.dtype.name), results, seed_of(key), x, *data)
        )

    def predictive_moments(
        self, x: jax.Array, *data: Any
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Return mean and variance of each site that is neither latent nor given."""
        facts = self.of_kind("new")
        results = tuple(Result(f.drawn, x.dtype.name) for f in facts for _ in range(2))
        found = host_call(Values(self, "new"), results, x, *data)
        return _named(facts, zip(found[::2], found[1::2], strict=True))

    # ------------------------------------------------------------ facts

    def observed_values(self, *data: Any) -> dict[str, np.ndarray]:
        """Return the data of each observed site."""
        from bayeskit.interop import pyro_host

        dtype = _floatname_of()
        with torch_scope(dtype), seeded(np.zeros(2, np.uint32)):
            tensors = [tensor_of(np.asarray(d), dtype) for d in data]
            sites = pyro_host.prior_trace(self.model, *self.filled(tensors))
            return {f.name: sites[f.name]["value"].numpy() for f in self.of_kind("observed")}

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
        return _JointTarget(
            log_prior=_Bound(self, "log_prior"),
            log_likelihood=_Bound(self, "log_likelihood"),
            sample_prior=_Bound(self, "sample_prior") if self.proper_prior else None,
            constrain=_Bound(self, "constrain"),
            data=data,
            prior_takes_data=True,
            name=name_of(self.model),
        )


_FIELDS = [each.name for each in fields(Target) if each.name != "data"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["data"], meta_fields=_FIELDS)
@dataclass(frozen=True, kw_only=True, eq=False)
class _JointTarget(Target):
    """A target whose prior and likelihood come from one run of the model."""

    def components(self, x: Any) -> jax.Array:
        """Return (log_prior, log_likelihood) at one point."""
        return self.log_prior.model.log_parts(x, *self.data)  # type: ignore[union-attr]


@dataclass(frozen=True)
class _Bound:
    """A method of a model that is equal for equal models, as bound methods are not."""

    model: PyroModel
    method: str

    def __call__(self, *arguments):
        return getattr(self.model, self.method)(*arguments)


def _refuse(facts: tuple[Fact, ...]) -> None:
    for fact in facts:
        if fact.kind == "parameter":
            raise ValueError(
                f"the model has the parameter {fact.name!r} (pyro.param or an nn.Parameter), "
                "which has no prior: write it as pyro.sample(name, distribution), or as "
                "PyroSample in a PyroModule, or give its value as an argument"
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
                f"This came from running {name_of(model)} once, in Pyro. Data reach it as "
                f"tensors of {dtype} and int64, and what it makes itself is {dtype}; tensors "
                "that it takes from outside keep their own type: give them to fit instead."
            )
        raise


def _is_array(value: Any) -> bool:
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(value, torch.Tensor)
    return is_tensor or isinstance(value, np.ndarray | jax.Array)


def _floatname_of() -> str:
    """Return the floating-point type of the precision in which the caller computes."""
    return jnp.zeros(()).dtype.name


def _result(shape: tuple[int, ...], dtype: str, x: jax.Array) -> Result:
    """Return how JAX takes a tensor: floats as those of x, whole numbers as its own."""
    if dtype == "bool":
        return Result(shape, dtype)
    return Result(shape, x.dtype.name if "float" in dtype else jnp.zeros((), int).dtype.name)


def _named(facts: tuple[Fact, ...], values: Any) -> dict[str, Any]:
    return {fact.name: value for fact, value in zip(facts, values, strict=True)}
