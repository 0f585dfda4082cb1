"""NumPyro models as targets, split into prior and likelihood."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference.measure import Target
from bayeskit.inference.random import real_key
from bayeskit.inference.tracing import explained
from bayeskit.interop.called_model import (
    Bound,
    Coordinates,
    Site,
    check_broadcasting,
    check_observes,
    check_same_sites,
    check_signature,
    is_improper,
    latent_sites,
    looked_at,
    name_of,
    refuse_subsample,
)

__all__ = ["NumPyroModel", "Site"]

# NumPyro's handlers stand in one list of the process: two threads in models mix their sites.
_LOCK = threading.RLock()


def trace_of(model: Callable, *arguments: Any, **keywords: Any) -> dict[str, Any]:
    """Return the sites of a NumPyro model by name, while no other thread runs one here."""
    from numpyro import handlers

    with _LOCK:
        return handlers.trace(model).get_trace(*arguments, **keywords)


class _Slot(NamedTuple):
    """Place of an array among the arguments of a model."""

    number: int


@dataclass(frozen=True)
class NumPyroModel(Coordinates):
    """A NumPyro model called with arguments of a fixed structure.

    Two of them are equal if model, structure and sites are, so that fits of new data of the
    same shape share compiled programs. Arrays among the arguments are data, and so are floats
    unless the model needs to know them, as in ``if``; everything else, such as the number of
    groups or None, belongs to the structure.

    Parameters
    ----------
    model : callable
    arguments, keywords : tuple
        Structure of the call, with a slot for each array.
    sites : tuple of Site
    observed : tuple of str
        Names of the observed sites.
    proper_prior : bool

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from bayeskit.interop.numpyro import NumPyroModel
    >>> def line(x, y=None):
    ...     slope = numpyro.sample("slope", dist.Normal(0, 1))
    ...     noise = numpyro.sample("noise", dist.HalfNormal(1))
    ...     numpyro.sample("y", dist.Normal(slope * x, noise), obs=y)
    >>> called, data = NumPyroModel.of(line, (np.arange(3.0),), {"y": np.zeros(3)})
    >>> called.unpack(np.array([0.5, -1.0])), called.observed, len(data)
    ({'slope': array(0.5), 'noise': array(-1.)}, ('y',), 2)
    """

    model: Callable
    arguments: tuple
    keywords: tuple[tuple[str, Any], ...]
    sites: tuple[Site, ...] = ()
    observed: tuple[str, ...] = ()
    proper_prior: bool = True

    @classmethod
    def of(
        cls, model: Callable, arguments: tuple, keywords: Mapping[str, Any]
    ) -> tuple[NumPyroModel, tuple]:
        """Return the model with the sites it has for these arguments, and the data.

        Nothing is computed: the model is traced with abstract values.

        Raises
        ------
        TypeError
            If the model cannot be called like this.
        ValueError
            If it has no latent variables, discrete ones, or subsamples.
        """
        bare, data, facts = cls._look(model, arguments, keywords)
        check_observes("numpyro", keywords, any(f.kind == "observed" for f in facts))
        sites, observed, proper = _inspect(facts)
        return replace(bare, sites=sites, observed=observed, proper_prior=proper), data

    @classmethod
    def _look(
        cls, model: Callable, arguments: tuple, keywords: Mapping[str, Any]
    ) -> tuple[NumPyroModel, tuple, list[_Fact]]:
        """Return the model without its sites, the data, and the facts of its sites."""
        look = partial(cls._look_with, model, arguments, keywords)
        return looked_at(look, arguments, keywords)

    @classmethod
    def _look_with(
        cls, model: Callable, arguments: tuple, keywords: Mapping[str, Any], floats: bool
    ) -> tuple[NumPyroModel, tuple, list[_Fact]]:
        data: list[Any] = []

        def slot(value):
            if floats and isinstance(value, float):
                # Those of NumPy, too, so that they follow the precision of what they meet.
                value = jnp.asarray(float(value))
            if isinstance(value, np.ndarray | jax.Array):
                data.append(jnp.asarray(value))
                return _Slot(len(data) - 1)
            return value

        slots = tuple(slot(a) for a in arguments)
        named = tuple((name, slot(value)) for name, value in keywords.items())
        bare = cls(model, slots, named)
        check_signature(model, arguments, keywords)
        facts: list[_Fact] = []

        def look(key, *arrays):
            # Only plain facts leave the abstract evaluation; its values must not.
            facts.extend(map(_fact, bare._prior_trace(key, arrays).values()))
            return jnp.zeros(())

        with explained(f"the model {name_of(model)}"):
            jax.eval_shape(look, jax.random.key(0), *data)
        return bare, tuple(data), facts

    # ------------------------------------------------------------ running the model

    def _call(self, model: Callable, data: tuple, **changed: Any) -> dict[str, Any]:
        def fill(value):
            return data[value.number] if isinstance(value, _Slot) else value

        keywords = {name: fill(value) for name, value in self.keywords}
        return trace_of(model, *[fill(a) for a in self.arguments], **{**keywords, **changed})

    def _prior_trace(self, key: Any, data: tuple) -> dict[str, Any]:
        from numpyro import handlers

        model = handlers.substitute(self.model, substitute_fn=_feasible)
        return self._call(handlers.seed(model, key), data)

    def _posterior_trace(
        self, x: jax.Array, data: tuple, key: Any = None
    ) -> tuple[dict[str, Any], jax.Array]:
        """Return the trace at unconstrained ``x`` and the log Jacobian of its transform."""
        from numpyro import handlers
        from numpyro.distributions.transforms import biject_to

        values = self.unpack(x)
        log_jacobians = [jnp.zeros((), x.dtype)]

        def fill(site):
            if site["type"] != "sample" or site["name"] not in values:
                return None
            transform = biject_to(site["fn"].support)
            unconstrained = values[site["name"]]
            value = transform(unconstrained)
            log_det = jnp.sum(transform.log_abs_det_jacobian(unconstrained, value))
            scale = site["scale"]
            log_jacobians.append(log_det if scale is None else scale * log_det)
            return value

        model = handlers.substitute(self.model, substitute_fn=fill)
        if key is not None:
            model = handlers.seed(model, key)
        trace = self._call(model, data)
        return trace, sum(log_jacobians[1:], start=log_jacobians[0])

    # ------------------------------------------------------------ coordinates

    def constrain(self, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return latent and deterministic values by name."""
        trace, _ = self._posterior_trace(x, data)
        names = {site.name for site in self.sites}
        return {
            name: jnp.asarray(site["value"])
            for name, site in trace.items()
            if name in names or site["type"] == "deterministic"
        }

    # ------------------------------------------------------------ densities and draws

    def log_prior(self, x: jax.Array, *data: Any) -> jax.Array:
        """Return the log prior density of the unconstrained vector."""
        trace, log_jacobian = self._posterior_trace(x, data)
        # In the order of the sites: that of a set differs from process to process, and with it
        # the last bits of the sum.
        return log_jacobian + sum(_log_prob(trace[site.name]).sum() for site in self.sites)

    def log_likelihood(self, x: jax.Array, *data: Any) -> jax.Array:
        """Return the sum of the log probabilities of the observed sites and factors."""
        trace, _ = self._posterior_trace(x, data)
        return sum(
            (_log_prob(trace[name]).sum() for name in self.observed), jnp.zeros((), x.dtype)
        )

    def sample_prior(self, key: Any, *data: Any) -> jax.Array:
        """Return one prior draw as an unconstrained vector."""
        from numpyro.distributions.transforms import biject_to

        trace = self._prior_trace(real_key(key), data)
        pieces = [
            jnp.ravel(biject_to(trace[s.name]["fn"].support).inv(trace[s.name]["value"]))
            for s in self.sites
        ]
        return jnp.concatenate(pieces).astype(float)

    def pointwise_log_likelihood(self, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return the log probability of each observation, by site."""
        trace, _ = self._posterior_trace(x, data)
        return {name: _log_prob(trace[name]) for name in self.observed if _is_data(trace[name])}

    def replicate(self, key: Any, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return one draw of each observed site given x, in place of the data."""
        trace, _ = self._posterior_trace(x, data)
        names = [name for name in self.observed if _is_data(trace[name])]
        keys = jax.random.split(key, max(1, len(names)))
        return {name: trace[name]["fn"].sample(k) for name, k in zip(names, keys, strict=False)}

    def observed_values(self, *data: Any) -> dict[str, jax.Array]:
        """Return the data of each observed site."""
        trace = self._prior_trace(jax.random.key(0), data)
        return {name: trace[name]["value"] for name in self.observed if _is_data(trace[name])}

    def for_arguments(
        self, arguments: tuple, keywords: Mapping[str, Any]
    ) -> tuple[NumPyroModel, tuple]:
        """Return the model with the same latent sites for other arguments, and the data.

        Raises
        ------
        TypeError
            If the model cannot be called like this.
        ValueError
            If the latent variables would have other shapes.
        """
        other, data, facts = NumPyroModel._look(self.model, arguments, keywords)
        check_same_sites(self.sites, {fact.name: fact.free_shape for fact in facts})
        return replace(other, sites=self.sites), data

    def predict(self, key: Any, x: jax.Array, *data: Any) -> dict[str, jax.Array]:
        """Return one draw of each site that is neither latent nor given."""
        trace, _ = self._posterior_trace(x, data, key)
        return {name: jnp.asarray(site["value"]) for name, site in self._new_sites(trace)}

    def predictive_moments(
        self, x: jax.Array, *data: Any
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Return mean and variance of each site that is neither latent nor given."""
        trace, _ = self._posterior_trace(x, data, jax.random.key(0))
        return {
            name: (site["fn"].mean, site["fn"].variance)
            for name, site in self._new_sites(trace)
        }

    def _new_sites(self, trace: dict[str, Any]) -> list[tuple[str, Any]]:
        latent = {site.name for site in self.sites}
        return [
            (name, site)
            for name, site in trace.items()
            if site["type"] == "sample" and name not in latent and not site["is_observed"]
        ]

    def support_is_boolean(self, name: str, data: tuple) -> bool:
        """Return whether an observed site takes the values 0 and 1 only."""
        from numpyro.distributions import constraints

        found: dict[str, Any] = {}

        def look(x, *arrays):
            found["support"] = self._posterior_trace(x, arrays)[0][name]["fn"].support
            return jnp.zeros(())

        jax.eval_shape(look, jnp.zeros(self.dim), *data)
        support = found["support"]
        return getattr(support, "base_constraint", support) is constraints.boolean

    def target(self, data: tuple) -> Target:
        """Return the model as a target on unconstrained vectors."""
        return Target(
            log_prior=Bound(self, "log_prior"),
            log_likelihood=Bound(self, "log_likelihood"),
            sample_prior=Bound(self, "sample_prior") if self.proper_prior else None,
            constrain=Bound(self, "constrain"),
            data=data,
            prior_takes_data=True,
            name=name_of(self.model),
        )


def _log_prob(site: dict[str, Any]) -> jax.Array:
    if site["intermediates"]:
        log_prob = site["fn"].log_prob(site["value"], site["intermediates"])
    else:
        log_prob = site["fn"].log_prob(site["value"])
    return log_prob if site["scale"] is None else site["scale"] * log_prob


def _is_data(site: dict[str, Any]) -> bool:
    """Return whether an observed site holds data; numpyro.factor only adds a number."""
    return type(site["fn"]).__name__ != "Unit"


class _Fact(NamedTuple):
    """What an abstract trace tells about one site."""

    name: str
    kind: str  # "latent", "observed", "plate" or "other"
    free_shape: tuple[int, ...] = ()  # of the unconstrained value
    family: str = ""
    discrete: bool = False
    proper: bool = True
    subsample: tuple[Any, Any] = (None, None)


def _fact(site: dict[str, Any]) -> _Fact:
    from numpyro.distributions.transforms import biject_to

    name = site["name"]
    if site["type"] == "plate":
        return _Fact(name, "plate", subsample=site["args"])
    if site["type"] != "sample":
        return _Fact(name, "other")
    if site["is_observed"]:
        if _is_data(site):
            check_broadcasting(name, jnp.shape(site["value"]), site["fn"])
        return _Fact(name, "observed")
    distribution = site["fn"]
    family = type(distribution).__name__
    if distribution.support is None or distribution.support.is_discrete:
        return _Fact(name, "latent", family=family, discrete=True)
    shape = jax.eval_shape(biject_to(distribution.support).inv, site["value"]).shape
    return _Fact(name, "latent", tuple(shape), family, proper=not is_improper(distribution))


def _feasible(site: dict[str, Any]) -> Any:
    """Return some value for a site that cannot be drawn, so that the model can be traced."""
    if site["type"] != "sample" or site["is_observed"] or not is_improper(site["fn"]):
        return None
    return site["fn"].support.feasible_like(jnp.zeros(site["fn"].shape()))


def _inspect(facts: list[_Fact]) -> tuple[tuple[Site, ...], tuple[str, ...], bool]:
    for fact in facts:
        refuse_subsample(fact.name, *fact.subsample)
    latent = [fact for fact in facts if fact.kind == "latent"]
    observed = tuple(fact.name for fact in facts if fact.kind == "observed")
    return latent_sites(latent), observed, all(fact.proper for fact in latent)
