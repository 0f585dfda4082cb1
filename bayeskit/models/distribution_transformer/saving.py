"""Files of trained estimators: numbers and text only."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayeskit import container
from bayeskit.errors import CorruptFileError
from bayeskit.models.distribution_transformer.linear_gaussian import LinearGaussian
from bayeskit.models.distribution_transformer.linearisation import Summary, nothing
from bayeskit.models.distribution_transformer.meta_priors import GaussianMixtureMetaPrior
from bayeskit.models.distribution_transformer.network import Widths
from bayeskit.models.distribution_transformer.parametric_priors import ParametricMetaPrior
from bayeskit.models.distribution_transformer.ranges import TrainedRange
from bayeskit.models.distribution_transformer.settings import PLAIN_SETTINGS
from bayeskit.models.distribution_transformer.tokens import Scaling
from bayeskit.models.distribution_transformer.training_progress import HISTORY, Progress

__all__ = ["load", "save"]

# Of what stands in the container; a reader refuses any other.
_VERSION = 3
# Files before linearised starts hold nothing else that has changed.
_READABLE = (2, 3)
_KIND = "DistributionTransformer"
_SETTINGS = (*PLAIN_SETTINGS, "budget_seconds", "precision")


def _flat(tree: Any, name: str) -> dict[str, np.ndarray]:
    """Return the leaves of nested dicts and lists by their path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {name + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _nested(arrays: dict[str, np.ndarray], like: Any, name: str) -> Any:
    """Return a tree like another one with leaves from the arrays.

    Raises
    ------
    CorruptFileError
        For a leaf that is missing or has another shape.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    found = []
    for path, leaf in leaves:
        key = name + jax.tree_util.keystr(path)
        if key not in arrays or arrays[key].shape != np.shape(leaf):
            raise CorruptFileError(
                f"the file lacks the array {key!r} of shape {np.shape(leaf)}"
            )
        found.append(arrays[key])
    return jax.tree_util.tree_unflatten(structure, found)


def _plain_number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _plain_support(spec: Any) -> Any:
    """Return a support with lists in place of tuples and text in place of infinities."""
    if isinstance(spec, list | tuple):
        return [_plain_support(entry) for entry in spec]
    return str(spec) if isinstance(spec, float) and math.isinf(spec) else spec


def save(estimator: Any, path: str | Path) -> None:
    """Write an estimator; see :meth:`DistributionTransformer.save`."""
    task, seen = estimator.task_, estimator.range_
    simulator = task.simulator.plain() if isinstance(task.simulator, LinearGaussian) else None
    is_mixture = isinstance(task.meta_prior, GaussianMixtureMetaPrior)
    parameters = {
        "version": _VERSION,
        "settings": {name: _plain_number(getattr(estimator, name)) for name in _SETTINGS},
        "support": _plain_support(task.support.spec) if is_mixture else None,
        "meta_prior": {
            "class": "mixture" if is_mixture else "parametric",
            **task.meta_prior.plain(),
        },
        "simulator": simulator,
        "row_sizes": dict(estimator.row_sizes_),
        "kind": task.kind,
        "timing": estimator.timing_,
        "progress": [estimator.n_steps_, estimator.train_seconds_],
        "interrupted": estimator.interrupted_,
    }
    arrays = _flat(estimator.weights_, "weights")
    if estimator.weights_:
        arrays |= _flat(estimator.scaling_._asdict(), "scaling")
    arrays |= {"range:prior": seen.prior}
    for name in seen.rows:
        arrays[f"range:rows:{name}"] = seen.rows[name]
        arrays[f"range:example:{name}"] = seen.example[name]
    history = estimator.history_
    arrays |= {f"history:{name}": history[name].to_numpy(float) for name in history}
    container.write_container(path, _KIND, parameters, arrays)


def load(cls: type, path: str | Path, simulator: Any) -> Any:
    """Return an estimator; see :meth:`DistributionTransformer.load`."""
    return from_container(cls, container.read_container(path, kinds={_KIND}), simulator)


def from_container(cls: type, read: container.Container, simulator: Any) -> Any:
    """Return the estimator in a container.

    Raises
    ------
    CorruptFileError
        For a version that is not known.
    ValueError
        Without the simulator, where the file does not hold it.
    """
    found, arrays = read.parameters, read.arrays
    if found.get("version") not in _READABLE:
        raise CorruptFileError(
            f"the file has version {found.get('version')!r} of the Distribution Transformer, "
            f"this bayeskit reads versions {_READABLE[0]} to {_READABLE[-1]}"
        )
    if simulator is None and found.get("simulator") is None:
        raise ValueError(
            "the file does not hold the simulator, which is code: pass that of training "
            "as simulator= (or model= in bayeskit.load)"
        )
    with container.unpacking(_KIND):
        estimator = _configured(cls, found, simulator)
    # Errors of a simulator that was given are the user's, and say what is wrong with it.
    with contextlib.nullcontext() if simulator is not None else container.unpacking(_KIND):
        task = estimator._task()
        # Which of two starts was the better one was found out by training.
        if found["kind"] == "linearised" and task.kind != "exact":
            task = dataclasses.replace(task, linearises=True)
        sizes = task.simulator.row_sizes(task.support.constrained_dim)
        if sizes != found["row_sizes"]:
            raise ValueError(
                f"the simulator gives observations of sizes {sizes}, in training they were "
                f"{found['row_sizes']}"
            )
        if task.kind != found["kind"]:
            raise ValueError(
                "the simulator has no log likelihood, or has one, other than that of training: "
                "the network starts from what it gives"
            )
    with container.unpacking(_KIND):
        _check_widths(found["settings"], arrays)
        estimator.task_, estimator.row_sizes_ = task, sizes
        estimator.network_ = estimator._network(task)
        _fill(estimator, arrays)
        _restore_progress(estimator, found, arrays)
    return estimator


def _configured(cls: type, found: dict[str, Any], simulator: Any) -> Any:
    """Return an estimator with the settings of the file, and nothing learned."""
    if simulator is None:
        simulator = LinearGaussian(**found["simulator"])
    described = dict(found["meta_prior"])
    if described.pop("class") == "mixture":
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
        meta_prior: Any = GaussianMixtureMetaPrior(**values)
    else:
        meta_prior = ParametricMetaPrior.from_plain(described)
    if set(found["settings"]) != set(_SETTINGS):
        raise ValueError("the file lacks settings, or has others")
    return cls(
        simulator, meta_prior, support=_as_support_spec(found["support"]), **found["settings"]
    )


def _check_widths(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Refuse a network that is larger than the weights in the file, before it is made."""
    stored = sum(v.size for name, v in arrays.items() if name.startswith("weights"))
    wanted = settings["n_layers"] * settings["d_model"] * settings["d_hidden"]
    if stored and wanted > stored:
        raise ValueError(f"the settings want {wanted} weights or more, the file has {stored}")


def _restore_progress(estimator: Any, found: dict, arrays: dict[str, np.ndarray]) -> None:
    progress = Progress(int(found["progress"][0]), float(found["progress"][1]))
    progress.history = np.stack([arrays[f"history:{name}"] for name in HISTORY], axis=1)
    losses = progress.history[:, HISTORY.index("evaluated_loss")]
    progress.best_loss = float(losses.min(initial=math.inf))
    estimator._keep_progress(progress)
    estimator.interrupted_ = bool(found.get("interrupted", False))
    estimator.timing_ = found["timing"]


def _as_support_spec(spec: Any) -> Any:
    """Return a support as :func:`as_support` takes it, intervals as tuples again."""
    if not isinstance(spec, list):
        return spec
    return [tuple(entry) if isinstance(entry, list) else entry for entry in spec]


def _fill(estimator: Any, arrays: dict[str, np.ndarray]) -> None:
    """Give an estimator its weights and ranges."""
    task = estimator.task_
    estimator.range_ = TrainedRange(
        arrays["range:prior"],
        {name: arrays[f"range:rows:{name}"] for name in estimator.row_sizes_},
        {name: arrays[f"range:example:{name}"] for name in estimator.row_sizes_},
    )
    if task.kind == "exact":
        estimator.weights_, estimator.scaling_ = {}, ()
        return
    rows: Any = {
        name: tuple(arrays[f"scaling['rows']['{name}'][{i}]"] for i in (0, 1))
        for name in estimator.row_sizes_
    }
    context: Any = tuple(arrays[f"scaling['context'][{i}]"] for i in (0, 1))
    linear = None
    if task.linearises:
        linear = {
            name: Summary(
                *(arrays[f"scaling['linear']['{name}'].{a}"] for a in Summary._fields)
            )
            for name in estimator.row_sizes_
        }
        like_nothing = nothing(estimator.row_sizes_, task.dim)
        if jax.tree.map(np.shape, linear) != jax.tree.map(np.shape, like_nothing):
            raise CorruptFileError("the file has a linearisation of other shapes")
    estimator.scaling_ = Scaling(context, rows, linear)
    weights = {k: v for k, v in arrays.items() if k.startswith("weights")}
    like = estimator.network_.initial(
        np.random.default_rng(0),
        _widths(weights, len(context[0]), list(estimator.row_sizes_)),
    )
    found = _nested(weights, like, "weights")
    # Files may hold them in half precision.
    estimator.weights_ = jax.tree.map(lambda leaf: leaf.astype(np.float32), found)


def _widths(weights: dict[str, np.ndarray], context: int, sources: list[str]) -> Widths:
    """Return the widths of tokens that these weights embed."""
    components = len(weights["weights['components']['first']['w']"])
    rows = {name: len(weights[f"weights['rows']['{name}']['first']['w']"]) for name in sources}
    return Widths(components, context, rows)
