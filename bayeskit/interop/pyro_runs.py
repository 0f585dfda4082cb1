"""What torch computes of a Pyro model for batches of points, as functions of NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeskit.interop.called_model import name_of
from bayeskit.interop.host_calls import Batched, one_by_one
from bayeskit.interop.torch_tensors import mapped, seeded, tensor_of, torch_scope

if TYPE_CHECKING:
    from bayeskit.interop.pyro import PyroModel

__all__ = ["Draws", "LogParts", "Values"]


@dataclass(frozen=True)
class LogParts:
    """The log prior and the log likelihood as a function of tensors, from one trace."""

    model: PyroModel

    @property
    def __name__(self) -> str:
        return name_of(self.model.model)

    def __call__(self, x: Any, *tensors: Any) -> Any:
        """Return the log prior and the log likelihood (2,) at a tensor."""
        import torch

        from bayeskit.interop import pyro_host

        with pyro_host.without_validation():
            sites, log_jacobian = self.model.trace(x, tensors)
            latent = [site.name for site in self.model.sites]
            # What has no latent variable in it has a gradient as well, of zero.
            nothing = 0.0 * x.sum()
            sums = [
                nothing + sum(pyro_host.log_prob(sites[name]).sum() for name in names)
                for names in (latent, self.model.observed)
            ]
        return torch.stack([sums[0] + log_jacobian, sums[1]])


@dataclass(frozen=True)
class Values:
    """What a model gives at points without drawing anything."""

    model: PyroModel
    kind: str

    def __call__(self, num_points: int, x: Batched, *data: Batched) -> tuple:
        """Return one array a site, (num_points, ...); of new sites, mean and variance."""
        import torch

        if any(not d.is_shared for d in data):
            pieces = [self(1, x.row(i), *(d.row(i) for d in data)) for i in range(num_points)]
            return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
        points = np.broadcast_to(x.rows, (num_points, *x.rows.shape[1:]))
        with torch_scope(x.rows.dtype), seeded(np.zeros(2, np.uint32)), torch.no_grad():
            tensors = [tensor_of(d.rows[0], x.rows.dtype) for d in data]
            values = self._all(points, tensors)
            return tuple(v.cpu().numpy() for v in values)

    def _all(self, points: np.ndarray, tensors: list) -> tuple:
        import torch

        from bayeskit.interop import pyro_host

        follows = [self.kind != "new"]  # new sites are drawn to find their distribution
        leaves = [torch.from_numpy(np.array(points))]
        with pyro_host.without_validation():
            return mapped(lambda point: self._one(point, tensors), leaves, follows)

    def _one(self, point: Any, tensors: list) -> tuple:
        import torch

        from bayeskit.interop import pyro_host

        sites, _ = self.model.trace(point, tensors)
        found = [(f, sites[f.name]) for f in self.model.of_kind(self.kind)]
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
class Draws:
    """What a model draws, each from a seed of its own."""

    model: PyroModel
    kind: str
    dtype: str

    def __call__(self, num_points: int, seeds: Batched, *rows: Batched) -> tuple:
        """Return one array a site, (num_points, ...); of the prior, unconstrained vectors."""
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
        with pyro_host.without_validation():
            sites, _ = model.trace(tensors[0], tensors[1:])
        found = [sites[f.name] for f in model.of_kind(self.kind)]
        return [s["fn"].sample() if self.kind == "observed" else s["value"] for s in found]
