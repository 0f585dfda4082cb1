"""What is known after a fit as plain arrays, and back: files hold numbers only."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.additive.learning import free_parameters
from bayeskit.models.functional_tucker.joint import MeanField
from bayeskit.models.functional_tucker.low_rank.beliefs import Beliefs
from bayeskit.models.functional_tucker.low_rank.chains import ModePosterior, ModeSites
from bayeskit.models.functional_tucker.low_rank.conditionals import CorePosterior
from bayeskit.models.functional_tucker.low_rank.data import tensor_data
from bayeskit.models.functional_tucker.low_rank.draws import Draws
from bayeskit.models.functional_tucker.low_rank.search import (
    Found,
    Problem,
    beliefs_without_modes,
)
from bayeskit.models.functional_tucker.sampled import Sampled, given_rows

__all__ = ["pack_posterior", "unpack_posterior"]

Arrays = dict[str, np.ndarray]


def pack_posterior(posterior: MeanField | Sampled) -> tuple[dict[str, Any], Arrays]:
    """Return settings and arrays that :func:`unpack_posterior` makes the same of."""
    if isinstance(posterior, Sampled):
        found, _ = jax.tree_util.tree_flatten_with_path(posterior.parts.parts)
        arrays = {_path(path): np.asarray(leaf) for path, leaf in found}
        arrays["log_weights"] = posterior.log_weights
        told = {
            "num_chains": posterior.num_chains,
            "log_evidence": posterior.log_evidence,
            "log_evidence_se": posterior.log_evidence_se,
        }
        return told, arrays
    beliefs, _ = jax.tree_util.tree_flatten_with_path(posterior.found.beliefs)
    arrays = {f"beliefs{_path(path)}": np.asarray(leaf) for path, leaf in beliefs}
    arrays |= {f"u{k}": np.asarray(u) for k, u in enumerate(posterior.found.u)}
    num = len(posterior.table)
    arrays |= {
        "bounds": np.asarray(posterior.found.bounds),
        "left": posterior.data.y,
        "spread": posterior.data.spread,
        "kernels": np.array(jax.tree.leaves(posterior.terms.kernels), np.float64),
        "terms:y": posterior.terms.y[:num],
        "terms:precision": posterior.terms.precision[:num],
        "term_values": np.asarray(posterior.term_values, np.float64),
    }
    names = ("is_converged", "num_epochs", "num_evaluations", "num_searched")
    return {name: getattr(posterior, name) for name in names}, arrays


def unpack_posterior(
    settings: dict[str, Any],
    arrays: Arrays,
    problem: Problem,
    design: additive.AdditiveDesign,
    noise_std: Any,
    t: np.ndarray,
    seen: np.ndarray,
) -> MeanField | Sampled:
    """Return the posterior of a model that is set up as before the fit."""
    if "log_weights" in arrays:
        prior, data = given_rows(problem, design, t, seen)
        parts: dict[str, Any] = {}
        for name, value in arrays.items():
            *path, last = name.split(".")
            inside = parts
            for step in path:
                inside = inside.setdefault(step, {})
            inside[last] = value
        draws = Draws(parts, parts.pop("log_weights"))
        return Sampled(problem, prior, data, design, draws, **settings)
    data = tensor_data(design.table, np.where(seen, t, np.nan))
    data = data._replace(y=arrays["left"], spread=arrays["spread"])
    if not problem.layout.ranks:
        data = data._replace(places=(), grids=())
    form = _form_of_beliefs(problem, data)
    paths, structure = jax.tree_util.tree_flatten_with_path(form)
    leaves = [arrays[f"beliefs{_path(path)}"] for path, _ in paths]
    beliefs = jax.tree.unflatten(structure, leaves)
    u = tuple(arrays[f"u{k}"] for k in range(problem.layout.num_modes))
    free = free_parameters(design, noise_std)
    kernels = jax.tree.unflatten(
        jax.tree.structure(free.base.kernels), list(map(float, arrays["kernels"]))
    )
    terms = additive.additive_posterior(
        design, arrays["terms:y"], arrays["terms:precision"], kernels
    )
    names = tuple(name for name in free.names if name != "noise")
    return MeanField(
        problem,
        data,
        Found(beliefs, u, arrays["bounds"]),
        terms,
        arrays["term_values"],
        names,
        **settings,
    )


def _form_of_beliefs(problem: Problem, data: Any) -> Beliefs:
    layout = problem.layout
    core = CorePosterior(0.0, 0.0) if layout.has_core and layout.ranks else None
    return beliefs_without_modes(problem, data, 1.0)._replace(
        modes=(ModePosterior(0.0, 0.0, 0.0),) * layout.num_modes,
        sites=(ModeSites(0.0, 0.0),) * layout.num_modes,
        core=core,
    )


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
