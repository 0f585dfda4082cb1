"""Filters of a moving latent: predict each component, then one step of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.distribution_transformer import programs
from bayeskit.models.distribution_transformer.correcting import check_likelihood
from bayeskit.models.distribution_transformer.door import checked_parameters, checked_series
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.guided_filter import (
    RefinedFilterResult,
    Series,
    filtered_by_particles,
    guided_by_network,
)
from bayeskit.models.distribution_transformer.mixture_arrays import (
    Mixture,
    extended,
    without_absent,
)
from bayeskit.models.distribution_transformer.mixture_checks import finite_array
from bayeskit.models.distribution_transformer.ranges import Seen, sound_alarms

__all__ = ["FilterResult", "guided_model", "run_filter"]


@dataclass(frozen=True)
class FilterResult:
    """Laws of a moving latent.

    Attributes
    ----------
    posterior : GaussianMixture
        Batch shape (time,) or (batch, time): given the data up to and at each time.
    predicted : GaussianMixture
        Given the data before each time.
    log_evidence : float or (batch,) array, or None
        Exact where ``is_exact``; else as far as components after the data are Gaussian. None
        where the likelihood is not known.
    is_exact : bool

    Examples
    --------
    A random walk that starts at N(0, 1), seen once a step with noise N(0, 1):

    >>> import bayeskit as bk
    >>> from bayeskit.models.distribution_transformer import (
    ...     GaussianMixtureMetaPrior,
    ...     LinearGaussian,
    ... )
    >>> dt = bk.DistributionTransformer(
    ...     simulator=LinearGaussian(1.0, 1.0, num_observations=(1, 10)),
    ...     meta_prior=GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
    ...     random_state=0,
    ... ).fit()
    >>> start = bk.GaussianMixture([1.0], [0.0], [1.0])
    >>> result = dt.filter([0.5, 1.0], A=1.0, Q=1.0, x0=start)
    >>> [law.mean[:, 0].round(3).tolist() for law in (result.predicted, result.posterior)]
    [[0.0, 0.333], [0.333, 0.75]]
    >>> round(result.log_evidence, 3), result.is_exact
    (-3.003, True)
    """

    posterior: GaussianMixture
    predicted: GaussianMixture
    log_evidence: Any
    is_exact: bool


def _square(value: Any, name: str, d: int) -> np.ndarray:
    array = finite_array(name, value)
    array = array.reshape(1, 1) if array.ndim == 0 and d == 1 else array
    if array.shape != (d, d):
        raise InvalidDataError(f"{name} must be a ({d}, {d}) matrix, got shape {array.shape}")
    return array


def _noise_factor(Q: np.ndarray) -> np.ndarray:
    """Return G with G G' = Q, of any rank."""
    if not np.allclose(Q, Q.T, rtol=1e-8, atol=1e-12):
        raise InvalidDataError("Q must be symmetric")
    values, vectors = np.linalg.eigh(Q)
    if values.min() < -1e-10 * max(1.0, values.max()):
        raise InvalidDataError(
            f"Q must be positive semi-definite, got the eigenvalue {values.min():g}"
        )
    return vectors * np.sqrt(np.maximum(values, 0.0))


class _Given(NamedTuple):
    """What a filter is asked, checked, with a batch axis and in double precision."""

    prior: Mixture
    motion: Any
    rows: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    vector: np.ndarray
    is_batch: bool

    @property
    def length(self) -> int:
        """Number of times."""
        return len(next(iter(self.rows.values())))


def _given(
    estimator: Any, zs: Any, A: Any, Q: Any, x0: Any, c: Any, parameters: Any, missing: str
) -> _Given:
    """Check what a filter is asked; observations that are not there are ordinary ones."""
    task, d = estimator.task_, estimator.task_.dim
    prior, many_priors = task.meta_prior.checked(x0)
    matrix, noise = _square(A, "A", d), _noise_factor(_square(Q, "Q", d))
    offset = np.zeros(d) if c is None else np.atleast_1d(finite_array("c", c))
    if offset.shape != (d,):
        raise InvalidDataError(f"c must have shape ({d},), got {offset.shape}")
    rows, masks, many_series = checked_series(zs, estimator.row_sizes_, missing)
    task.simulator.check_rows(rows, masks)
    vector, many_vectors = checked_parameters(parameters, task.simulator)
    lengths = [len(prior.means), len(vector), *(a.shape[1] for a in rows.values())]
    batch = max(lengths)
    if set(lengths) - {1, batch}:
        raise InvalidDataError(f"batches of zs, x0 and parameters differ: {lengths}")
    for name, example in estimator.range_.example.items():
        length = len(rows[name])
        full = np.broadcast_to(rows[name], (length, batch, *rows[name].shape[2:]))
        masks[name] = np.broadcast_to(masks[name], (length, batch, 1))
        rows[name] = np.where(masks[name][..., None], full, example)
    motion: Any = programs.Motion(*(np.asarray(a) for a in (matrix, offset, noise)))  # type: ignore[arg-type]
    return _Given(
        Mixture(*(np.broadcast_to(a, (batch, *a.shape[1:])) for a in prior)),
        motion,
        rows,
        masks,
        np.broadcast_to(vector, (batch, vector.shape[1])),
        many_priors or many_series or many_vectors,
    )


def guided_model(
    estimator: Any, zs: Any, A: Any, Q: Any, x0: Any, c: Any, parameters: Any, missing: str
) -> FeynmanKac:
    """Return what :meth:`DistributionTransformer.guided_model` does."""
    task = estimator.task_
    check_likelihood(task, "guided_model")
    given = _given(estimator, zs, A, Q, x0, c, parameters, missing)
    if given.is_batch:
        raise InvalidDataError("guided_model takes one series at a time, not a batch")
    _check_definite(given.motion.noise_factor)
    cast = estimator._in_precision
    rows, masks = (
        {name: cast(a[:, 0]) for name, a in part.items()} for part in (given.rows, given.masks)
    )
    series = Series(
        Mixture(*(cast(a[0]) for a in given.prior)),
        programs.Motion(*map(cast, given.motion)),
        rows,
        masks,
        cast(given.vector[0]),
    )
    # Particles index the times.
    series = jax.tree.map(jnp.asarray, series)
    return guided_by_network(
        task, estimator.network_, estimator.weights_, estimator.scaling_, series, given.length
    )


def run_filter(
    estimator: Any,
    zs: Any,
    A: Any,
    Q: Any,
    x0: GaussianMixture,
    c: Any,
    parameters: Any,
    missing: str,
    strict: bool,
    refine: str | None,
    num_particles: int,
    random_state: Any,
) -> Any:
    """Return what :meth:`DistributionTransformer.filter` does."""
    task = estimator.task_
    if refine not in (None, "particles"):
        raise ValueError(f"refine must be 'particles' or None in a filter, got {refine!r}")
    given = _given(estimator, zs, A, Q, x0, c, parameters, missing)
    prior, vector, length = given.prior, given.vector, given.length
    rows, masks, batch = dict(given.rows), dict(given.masks), len(given.vector)
    # Times after the end have no data: sizes are rounded so that few programs are compiled.
    extra = (1 << (length - 1).bit_length()) - length
    for name, filled in given.rows.items():
        rows[name] = np.concatenate([filled, np.repeat(filled[:1], extra, axis=0)])
        masks[name] = np.pad(given.masks[name], ((0, extra), (0, 0), (0, 0)))
    with estimator._on_device(), precision_scope(estimator.precision), program_cache():
        cast = estimator._in_precision
        initial = Mixture(*(jnp.asarray(cast(a)) for a in prior))
        num_components = initial.log_weights.shape[-1]
        # A state has as many components before each update as after it.
        initial = extended(initial, task.num_parts(num_components))
        motion = programs.Motion(*map(cast, given.motion))
        if refine is not None:
            check_likelihood(task, f"refine={refine!r}")
            _check_definite(given.motion.noise_factor)
            start = jax.tree.map(np.asarray, prior)
            data, known = jax.tree.map(cast, (rows, masks)), cast(vector)
            series = Series(start, motion, data[0], data[1], known)
            results = _refined(estimator, series, length, num_particles, random_state)
            return results if given.is_batch else results[0]
        found = programs.filtered(
            task,
            estimator.network_,
            estimator.weights_,
            estimator.scaling_,
            initial,
            motion,
            jax.tree.map(cast, (rows, masks)),
            cast(vector),
        )
        answer = programs.features_of(
            task, found.predicted, jax.tree.map(cast, rows), cast(vector)
        )
        found, answer = jax.tree.map(lambda a: np.asarray(a)[:length], (found, answer))
    features, units = answer
    flat = [a.reshape(length * batch, *a.shape[2:]) for a in (features, *units.values())]
    seen = Seen(
        flat[0],
        dict(zip(units, flat[1:], strict=True)),
        {name: masks[name][:length].reshape(length * batch, 1) for name in units},
        np.repeat(vector[None], length, axis=0).reshape(length * batch, -1),
        num_components,
    )
    sound_alarms(task, estimator.range_, seen, strict=strict, stacklevel=4)
    return _result(task, found, num_components, given.is_batch)


def _check_definite(noise: np.ndarray) -> None:
    """Refuse a motion that has no density."""
    if np.linalg.matrix_rank(noise) < len(noise):
        raise ValueError(
            "a particle filter weighs by the density of the motion, so Q must be positive "
            "definite: add a little noise to the coordinates that have none"
        )


def _refined(
    estimator: Any, all_series: Series, length: int, num: int, random_state: Any
) -> list[RefinedFilterResult]:
    """Return the guided filter of each series of a batch."""
    batch = len(all_series.vector)
    keys = random.split(as_random_key(random_state), batch)
    cast, results = estimator._in_precision, []
    for b, key in enumerate(keys):
        rows, masks = (
            {name: np.array(a[:, b]) for name, a in part.items()}
            for part in (all_series.rows, all_series.masks)
        )
        start = jax.tree.map(lambda a, b=b: cast(np.array(a[b])), all_series.initial)
        vector = np.array(all_series.vector[b])
        series = Series(start, all_series.motion, rows, masks, vector)
        results.append(
            filtered_by_particles(
                estimator.task_,
                estimator.network_,
                estimator.weights_,
                estimator.scaling_,
                series,
                length=length,
                num_particles=num,
                key=key,
            )
        )
    return results


def _result(
    task: Any, found: programs.FilterStep, num_components: int, is_batch: bool
) -> FilterResult:
    def as_user(mixture: Mixture) -> GaussianMixture:
        kept = without_absent(mixture, num_components)
        leaves = (np.moveaxis(a, 0, 1) if is_batch else a[:, 0] for a in kept)
        return GaussianMixture.of_arrays(Mixture(*leaves), task.support)

    log_evidence: Any = found.log_evidence.sum(axis=0)
    if not is_batch:
        log_evidence = float(log_evidence[0])
    return FilterResult(
        as_user(found.posterior),
        as_user(found.predicted),
        log_evidence if task.has_evidence else None,
        task.kind == "exact",
    )
