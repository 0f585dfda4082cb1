"""NumPyro models as simulators: their likelihood is kept, their prior is not used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.interop.numpyro import trace_of
from bayeskit.models.distribution_transformer.known_numbers import KnownNumbers
from bayeskit.models.distribution_transformer.simulators import (
    BaseSimulator,
    _row_range,
)

__all__ = ["NumPyroSimulator"]


class NumPyroSimulator(BaseSimulator):
    """The likelihood of a NumPyro model.

    Parameters
    ----------
    model : callable
        Called without arguments, or with ``parameters`` as keywords; without ``obs``.
    observed : str or sequence of str
        The sites that are data, each a source. Their first axis counts the observations. All
        other sites are the latent, one after the other, on their own scale.
    num_observations : (int, int) or dict of them, optional
        Ranges of the numbers of observations, of which the first are kept. By default all.
    parameters : dict of str to (float, float), optional
        As for :class:`Simulator`.

    Raises
    ------
    ValueError
        For a site that the model does not have, and for a model without latent.

    Examples
    --------
    >>> import numpyro
    >>> import numpyro.distributions as dist
    >>> def model():
    ...     x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("data", 5):
    ...         numpyro.sample("z", dist.StudentT(3.0, x, 1.0))
    >>> simulator = NumPyroSimulator(model, "z", num_observations=(1, 5))
    >>> simulator.num_observations, simulator.support
    ({'z': (1, 5)}, ('real',))
    """

    has_log_likelihood = True
    has_fixed_rows = True

    def __init__(
        self,
        model: Callable,
        observed: str | tuple[str, ...],
        *,
        num_observations: Any = None,
        parameters: Mapping[str, tuple[float, float]] | None = None,
    ):
        self.model = model
        self.observed = (observed,) if isinstance(observed, str) else tuple(observed)
        self.parameters = KnownNumbers(parameters)
        sites = self._sites()
        missing = [name for name in self.observed if name not in sites]
        if missing:
            raise ValueError(f"the model has no sites {missing}: it has {sorted(sites)}")
        self.latents = {
            name: np.shape(site["value"])
            for name, site in sites.items()
            if name not in self.observed
        }
        if not self.latents:
            raise ValueError("all sites of the model are observed: there is no latent")
        self.support = tuple(
            spec for name in self.latents for spec in _support_of(sites[name], name)
        )
        self._shapes = {name: np.shape(sites[name]["value"]) for name in self.observed}
        given = num_observations
        if given is None or not isinstance(given, Mapping):
            given = dict.fromkeys(self.observed, given)
        self.num_observations = {}
        for name, shape in self._shapes.items():
            most = shape[0] if shape else 1
            found = _row_range(most if given[name] is None else given[name], name)
            if found[1] != most:
                raise ValueError(
                    f"num_observations of {name!r} must end at {most}, the length of the site, "
                    f"got {given[name]!r}"
                )
            self.num_observations[name] = found

    def _sites(self) -> dict[str, Any]:
        middle = jnp.zeros(len(self.parameters.ranges))
        return self._trace(jax.random.key(0), {}, self.parameters.of_scaled(middle))

    def _trace(self, key: Any, values: dict, arguments: dict) -> dict[str, Any]:
        from numpyro import handlers

        model = handlers.substitute(self.model, data=values)
        if key is not None:
            model = handlers.seed(model, random.threefry(key))
        traced = trace_of(model, **arguments)
        return {name: site for name, site in traced.items() if site["type"] == "sample"}

    def _latent_values(self, x: jax.Array) -> dict[str, jax.Array]:
        values, start = {}, 0
        for name, shape in self.latents.items():
            size = int(np.prod(shape))
            values[name] = x[start : start + size].reshape(shape)
            start += size
        return values

    def simulate_rows(self, key: jax.Array, x: jax.Array, vector: jax.Array) -> dict:
        """Return the largest data set of one problem."""
        arguments = self.parameters.of_scaled(vector)
        sites = self._trace(key, self._latent_values(x), arguments)
        dtype = jnp.zeros(()).dtype
        return {
            name: jnp.asarray(sites[name]["value"], dtype).reshape(self._num_rows(name), -1)
            for name in self.observed
        }

    def _num_rows(self, name: str) -> int:
        return self.num_observations[name][1]

    def log_likelihood_rows(
        self, rows: dict, masks: dict, x: jax.Array, vector: jax.Array
    ) -> jax.Array:
        """Return the log density of the rows that are there."""
        values = self._latent_values(x)
        values |= {name: rows[name].reshape(self._shapes[name]) for name in self.observed}
        sites = self._trace(None, values, self.parameters.of_scaled(vector))
        total = jnp.zeros((), x.dtype)
        for name in self.observed:
            terms = sites[name]["fn"].log_prob(values[name])
            shape = self._shapes[name][: 1 if self._shapes[name] else 0]
            by_row = jnp.broadcast_to(terms, (*shape, *terms.shape[1:])).reshape(
                self._num_rows(name), -1
            )
            total = total + jnp.where(masks[name], by_row.sum(axis=-1), 0.0).sum()
        return total


def _support_of(site: dict[str, Any], name: str) -> list[Any]:
    """Return the support of each coordinate of a site."""
    from numpyro.distributions import constraints

    names = {
        id(constraints.real): "real",
        id(constraints.positive): "positive",
        id(constraints.unit_interval): "unit",
    }
    found = site["fn"].support
    while hasattr(found, "base_constraint"):
        found = found.base_constraint
    spec: Any = names.get(id(found))
    if spec is None and hasattr(found, "lower_bound") and hasattr(found, "upper_bound"):
        spec = ("interval", float(found.lower_bound), float(found.upper_bound))
    if spec is None:
        spec = {"Real": "real", "Positive": "positive", "UnitInterval": "unit"}.get(
            type(found).__name__.strip("_")
        )
    if spec is None:
        raise ValueError(
            f"the latent {name!r} has the support {found}, which has to be one of real, "
            "positive, unit or an interval: transform it in the model"
        )
    return [spec] * int(np.prod(np.shape(site["value"])))
