"""What of a Pyro model runs in Pyro: traces, at points given as tensors.

Needs torch and Pyro when it is imported. What is called from JAX is in
:mod:`bayeskit.interop.pyro`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.distributions import biject_to, constraints

from bayeskit.interop.called_model import check_broadcasting, is_improper

__all__ = [
    "Fact",
    "facts_of",
    "log_prob",
    "posterior_trace",
    "prior_point",
    "prior_trace",
    "without_validation",
]


class Fact(NamedTuple):
    """What one trace tells about a site."""

    name: str
    kind: str  # "latent", "observed", "factor", "deterministic", "plate" or "parameter"
    shape: tuple[int, ...] = ()  # of the value
    dtype: str = ""
    drawn: tuple[int, ...] = ()  # of a draw from its distribution
    rows: tuple[int, ...] = ()  # of the log probability
    free_shape: tuple[int, ...] = ()  # of the unconstrained value
    family: str = ""
    discrete: bool = False
    proper: bool = True
    boolean: bool = False
    subsample: tuple[int, int] = (0, 0)


class _Fill(Messenger):
    """Set latent sites, from their distributions as plates have expanded them."""

    def __init__(self, values: Callable):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        value = self.values(msg)
        if value is not None:
            msg["value"], msg["done"] = value, True


def _trace(model: Callable, arguments: tuple, keywords: Mapping, values: Callable) -> dict:
    with _Fill(values):
        nodes = poutine.trace(model).get_trace(*arguments, **keywords).nodes
    return {n: s for n, s in nodes.items() if s["type"] in ("sample", "param")}


def prior_trace(model: Callable, arguments: tuple, keywords: Mapping) -> dict[str, Any]:
    """Return the sites of one prior draw by name; of improper priors, of some value."""

    def feasible(msg):
        if not is_improper(msg["fn"]):
            return None
        transform = biject_to(msg["fn"].support)
        return transform(torch.zeros(transform.inverse_shape(msg["fn"].shape())))

    return _trace(model, arguments, keywords, feasible)


def posterior_trace(
    model: Callable, arguments: tuple, keywords: Mapping, free: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Return the sites at unconstrained values, and the log Jacobian of the transforms."""
    log_jacobians = []

    def fill(msg):
        if msg["name"] not in free:
            return None
        transform, point = biject_to(msg["fn"].support), free[msg["name"]]
        value = transform(point)
        log_det = transform.log_abs_det_jacobian(point, value).sum()
        log_jacobians.append(log_det * msg["scale"])
        return value

    nodes = _trace(model, arguments, keywords, fill)
    return nodes, sum(log_jacobians)


@contextlib.contextmanager
def without_validation() -> Iterator[None]:
    """Within this context Pyro does not check values; it did so at the first trace.

    Its checks branch on values, which ``torch.func.vmap`` cannot follow, and raise where a
    sampler that goes astray is only to be sent back.
    """
    with pyro.validation_enabled(False):
        yield


def log_prob(site: dict[str, Any]) -> Any:
    """Return the log probability of a site by row, scaled and masked."""
    value = site["value"]
    if _is_boolean(site["fn"]):
        value = value.to(torch.get_default_dtype())  # torch's Bernoulli takes floats alone
    rows = site["fn"].log_prob(value, *site["args"], **site["kwargs"])
    return scale_and_mask(rows, site["scale"], site["mask"])


def prior_point(sites: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return latent values of a trace as one unconstrained vector."""
    pieces = [
        torch.ravel(biject_to(sites[name]["fn"].support).inv(sites[name]["value"]))
        for name in names
    ]
    return torch.cat(pieces)


def facts_of(sites: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Return what one trace tells.

    Raises
    ------
    InvalidDataError
        For data that would be compared with every row.
    """
    return tuple(_fact(name, site) for name, site in sites.items())


def _fact(name: str, site: dict[str, Any]) -> Fact:
    if site["type"] == "param":
        return Fact(name, "parameter")
    fn, value = site["fn"], site["value"]
    if site_is_subsample(site):
        return Fact(name, "plate", subsample=(fn.size, fn.subsample_size or fn.size))
    family = _family(fn)
    value = torch.as_tensor(value)
    common: dict[str, Any] = {
        "shape": tuple(value.shape),
        "dtype": str(value.dtype).removeprefix("torch."),
        "family": family,
        "drawn": tuple(fn.shape()),
    }
    if site["infer"].get("_deterministic"):
        return Fact(name, "deterministic", **common)
    if site["is_observed"]:
        if family == "Unit":
            return Fact(name, "factor", **common)
        check_broadcasting(name, tuple(site["value"].shape), fn)
        return Fact(
            name,
            "observed",
            rows=tuple(log_prob(site).shape),
            boolean=_is_boolean(fn),
            **common,
        )
    discrete = bool(fn.support is None or fn.support.is_discrete)
    proper = not is_improper(fn) and site["mask"] in (None, True) and family != "Masked"
    free = () if discrete else tuple(biject_to(fn.support).inv(value).shape)
    return Fact(
        name,
        "latent",
        free_shape=free,
        discrete=discrete,
        # What is scaled or masked is not drawn from its own density.
        proper=bool(proper and np.all(np.asarray(site["scale"]) == 1)),
        boolean=_is_boolean(fn),
        **common,
    )


def _family(fn: Any) -> str:
    """Return the name of the distribution within those that only reshape it."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        if type(fn).__name__ == "MaskedDistribution":
            return "Masked"
        fn = fn.base_dist
    return type(fn).__name__


def _is_boolean(fn: Any) -> bool:
    support = fn.support
    return getattr(support, "base_constraint", support) is constraints.boolean
