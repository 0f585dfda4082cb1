"""One fit, as a worker runs it."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import jax
from sklearn.base import clone
from threadpoolctl import threadpool_limits

import bayeskit
from bayeskit.errors import BayeskitWarning, FitFailedError
from bayeskit.models.many_fits.outcome import Outcome

__all__ = [
    "Common",
    "Task",
    "fit_one",
    "jax_settings",
    "run_task",
    "versions",
]

# Settings of JAX that change numbers, or where compiled programs are kept.
_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_compilation_cache",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_platforms",
    "jax_threefry_partitionable",
)
# What Python does not show either.
_UNSEEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
# Recording warnings is a matter of the whole process, and workers of Dask may have threads.
_one_at_a_time = threading.Lock()
# What was last unpickled, so that models keep their compiled programs from fit to fit, and from
# call to call. The latest only: data may be large.
_latest: dict[str, tuple[bytes, Any]] = {}


@dataclasses.dataclass(frozen=True)
class Common:
    """What all fits of one call share; what comes from the user is pickled.

    All estimators are in one piece, so that a model that several of them name is one object in
    the worker too, with one set of compiled programs.
    """

    estimators: bytes
    # Data of all fits, if they are the same, and what is called with a fitted estimator.
    data_and_keep: bytes
    num_threads: int
    settings: dict[str, Any]
    versions: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Task:
    """One fit: where its estimator stands in what is shared, and what is its own, pickled."""

    index: int
    estimator: int
    data_and_state: bytes


def jax_settings() -> dict[str, Any]:
    """Return the settings of JAX that workers take over."""
    return {name: getattr(jax.config, name) for name in _SETTINGS if hasattr(jax.config, name)}


def fit_one(
    index: int,
    estimator: Any,
    data: Any,
    random_state: Any,
    keep: Callable[[Any], Any] | None,
) -> Outcome:
    """Fit a clone of an estimator and record what happens.

    Parameters
    ----------
    data : dict, tuple, function of no arguments that returns them, or one argument of ``fit``
    random_state : tuple
        Empty, or with the random state of this fit.
    """
    start = time.monotonic()
    result, failure = None, None
    with _one_at_a_time, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            fitted = clone(estimator)
            if random_state:
                fitted.set_params(random_state=random_state[0])
            found = data() if callable(data) else data
            if isinstance(found, dict):
                fitted.fit(**found)
            else:
                fitted.fit(*(found if isinstance(found, tuple) else (found,)))
            result = fitted if keep is None else keep(fitted)
        except (Exception, SystemExit) as error:
            failure = as_failure(index, error)
    seen = tuple((w.category, str(w.message)) for w in caught if not _is_unseen(w.category))
    return Outcome(index, result, failure, seen, time.monotonic() - start)


def _is_unseen(category: type[Warning]) -> bool:
    return issubclass(category, _UNSEEN) and not issubclass(category, BayeskitWarning)


def as_failure(index: int, error: BaseException) -> FitFailedError:
    """Return the failure of a fit, with the traceback as text."""
    failure = FitFailedError(f"fit {index} raised {type(error).__name__}: {error}")
    failure.index = index
    failure.traceback = "".join(traceback.format_exception(error))
    return failure


def run_task(common: bytes | Path, task: Task) -> bytes:
    """Run one fit in a worker; return its pickled outcome. Raises nothing on purpose.

    Everything comes pickled, so that threads are limited before anything starts JAX, and so
    that what cannot be pickled or unpickled is the failure of one fit.
    """
    try:
        shared: Common = _unpickled("common", common)
        # XLA reads it once, when the first array is made: maybe while unpickling.
        os.environ.setdefault("PJRT_NPROC", str(shared.num_threads))
        _take_over(shared.settings)
        with threadpool_limits(limits=shared.num_threads):
            estimator = _unpickled("estimators", shared.estimators)[task.estimator]
            common_data, keep = _unpickled("data and keep", shared.data_and_keep)
            data, random_state = cloudpickle.loads(task.data_and_state)
            data = data if common_data is None else common_data
            outcome = fit_one(task.index, estimator, data, random_state, keep)
        if shared.versions != versions():
            outcome = _with_warning_of_versions(outcome, shared.versions)
        return cloudpickle.dumps(outcome)
    except Exception as error:
        return cloudpickle.dumps(Outcome(task.index, failure=as_failure(task.index, error)))


def _unpickled(kind: str, payload: bytes | Path) -> Any:
    """Return what was pickled: the same object as last time, if the bytes are the same."""
    with _one_at_a_time:
        if isinstance(payload, Path):
            payload = payload.read_bytes()
        if kind not in _latest or _latest[kind][0] != payload:
            _latest[kind] = payload, cloudpickle.loads(payload)
        return _latest[kind][1]


def _take_over(settings: dict[str, Any]) -> None:
    """Set JAX as it is where the call was made, for as long as the worker lives."""
    for name, value in settings.items():
        if value is not None and getattr(jax.config, name) != value:
            jax.config.update(name, value)


def versions() -> tuple[str, str]:
    """Return the versions that decide whether two machines compute the same numbers."""
    return bayeskit.__version__, jax.__version__


def _with_warning_of_versions(outcome: Outcome, expected: tuple[str, str]) -> Outcome:
    text = (
        "a worker has versions {} of bayeskit and {} of JAX, where {} and {} were expected: "
        "its numbers may differ in the last digits"
    ).format(*versions(), *expected)
    warned = ((BayeskitWarning, text),)
    return dataclasses.replace(outcome, warnings=outcome.warnings + warned)
