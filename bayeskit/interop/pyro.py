"""Pyro models as targets, split into prior and likelihood; torch computes, JAX samples.

torch and Pyro are loaded when a model is used, not when this module is imported.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import BayeskitError
from bayeskit.inference.measure import Target
from bayeskit.interop.called_model import (
    Bound,
    Coordinates,
    Site,
    check_observes,
    check_same_sites,
    check_signature,
    latent_sites,
    looked_at,
    name_of,
    refuse_subsample,
)
from bayeskit.interop.host_calls import Result, host_call
from bayeskit.interop.pyro_owner import GivenPyroModel, from_pyro, is_pyro_model, require_pyro
from bayeskit.interop.pyro_runs import Draws, LogParts, Values
from bayeskit.interop.torch import TorchLogDensity
from bayeskit.interop.torch_tensors import seed_of, seeded, tensor_of, torch_scope, unchanged

if TYPE_CHECKING:
    from bayeskit.interop.pyro_host import Fact

__all__ = ["GivenPyroModel", "PyroModel", "from_pyro", "is_pyro_model"]


@dataclass(frozen=True)
class PyroModel(Coordinates):
    """A Pyro model called with arguments of a fixed structure.

    Two of them are equal if model, structure and sites are, so that fits of new data of the
    same shape share compiled programs. Arrays, tensors and floats among the arguments are data,
    and reach the model as tensors: floats in the precision of the fit, whole numbers as int64.
    Floats that the model needs as numbers of Python belong to the structure.

    Parameters
    ----------
    model : callable
    arguments, keywords : tuple
        Structure of the call: ``(True, number)`` for an array, ``(False, value)`` for the rest.
    facts : tuple of Fact
        All sites, from one trace.
    sites : tuple of Site
        The latent ones, in unconstrained coordinates.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> import pyro, pyro.distributions as dist
    >>> from bayeskit.interop.pyro import PyroModel
    >>> def model(y=None):
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(mean, 1.0).expand([2]).to_event(1), obs=y)
    >>> called, data = PyroModel.of(model, (), {"y": np.array([0.0, 1.0])})
    >>> called.dim, called.observed
    (1, ('y',))
    >>> float(called.log_prior(jnp.zeros(1), *data))
    -0.919
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
        check_observes("pyro", keywords, any(f.kind == "observed" for f in bare.facts))
        sites = latent_sites([f for f in bare.facts if f.kind == "latent"])
        return replace(bare, sites=sites), data

    @classmethod
    def _look(
        cls, model: Callable, arguments: tuple, keywords: Mapping[str, Any]
    ) -> tuple[PyroModel, tuple]:
        require_pyro()
        look = functools.partial(cls._look_with, model, arguments, keywords)
        return looked_at(look, arguments, keywords)

    @classmethod
    def _look_with(
        cls, model: Callable, arguments: tuple, keywords: Mapping[str, Any], floats: bool
    ) -> tuple[PyroModel, tuple]:
        from bayeskit.interop import pyro_host

        model = model.model if isinstance(model, GivenPyroModel) else model
        check_signature(getattr(model, "forward", model), arguments, keywords)
        data: list[Any] = []

        def slot(value):
            if _is_array(value) or (floats and isinstance(value, float)):
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
        check_same_sites(self.sites, shapes)
        return replace(other, sites=self.sites), data

    def support_is_boolean(self, name: str, data: tuple) -> bool:
        """Return whether an observed site takes the values 0 and 1 only."""
        return next(f.boolean for f in self.facts if f.name == name)

    def target(self, data: tuple) -> Target:
        """Return the model as a target on unconstrained vectors."""
        return _JointTarget(
            log_prior=Bound(self, "log_prior"),
            log_likelihood=Bound(self, "log_likelihood"),
            sample_prior=Bound(self, "sample_prior") if self.proper_prior else None,
            constrain=Bound(self, "constrain"),
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


def _refuse(facts: tuple[Fact, ...]) -> None:
    for fact in facts:
        if fact.kind == "parameter":
            raise ValueError(
                f"the model has the parameter {fact.name!r} (pyro.param or an nn.Parameter), "
                "which has no prior: write it as pyro.sample(name, distribution), or as "
                "PyroSample in a PyroModule, or give its value as an argument"
            )
        refuse_subsample(fact.name, *fact.subsample)


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
