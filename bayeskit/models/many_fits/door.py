"""What :func:`~bayeskit.fit_many` refuses, and where it runs."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
from joblib.parallel import get_active_backend

from bayeskit.accel import current_mesh
from bayeskit.models.many_fits.pools import POOLS

__all__ = [
    "checked_num_fits",
    "chosen_pool",
    "listed_data_sets",
    "listed_estimators",
    "refuse_mesh",
]

# Names that joblib's own configuration gives to what does the same.
_BACKENDS = {
    "LokyBackend": "loky",
    "DaskDistributedBackend": "dask",
    "RayBackend": "ray",
    "SequentialBackend": None,
}


def refuse_mesh() -> None:
    """Refuse to run inside of :func:`~bayeskit.accel.on_mesh`."""
    if current_mesh() is not None:
        raise ValueError(
            "fit_many was called inside accel.on_mesh, which spreads the particles of one fit; "
            "workers would not see it. Call it outside"
        )


def listed_estimators(estimator: Any) -> list[Any]:
    """Return the estimators, one for each fit or one for all."""
    given = list(estimator) if isinstance(estimator, list | tuple) else [estimator]
    for i, one in enumerate(given):
        if not hasattr(one, "fit") or isinstance(one, type):
            place = f"estimator[{i}]" if len(given) > 1 else "estimator"
            raise TypeError(
                f"{place} must have a method fit, got {type(one).__name__}: pass an instance "
                "such as BayesianModel(...)"
            )
    return given


def listed_data_sets(data: Any) -> list[Any]:
    """Return the data sets, one for each fit or one for all."""
    if isinstance(data, dict | tuple):
        return [data]
    if isinstance(data, str | bytes | np.ndarray) or hasattr(data, "columns") or callable(data):
        raise TypeError(
            f"data is of type {type(data).__name__}, which may stand for one data set or for "
            "many: pass (data,) for one, and a list for one each fit"
        )
    try:
        return list(data)
    except TypeError:
        raise TypeError(
            f"data must be a dict, a tuple or a list of data sets, got {type(data).__name__}"
        ) from None


def checked_num_fits(estimators: list, data_sets: list, states: list) -> int:
    """Return how many fits there are."""
    lengths = {
        "estimator": len(estimators),
        "data": len(data_sets),
        "random_states": len(states),
    }
    for name, length in lengths.items():
        if length == 0:
            raise ValueError(f"{name} is empty: there is nothing to fit")
    several = {name: length for name, length in lengths.items() if length > 1}
    if len(set(several.values())) > 1:
        found = " and ".join(f"{length} of {name}" for name, length in several.items())
        raise ValueError(
            f"got {found}: give as many of each, or one for all. For all combinations use "
            "itertools.product"
        )
    return max(lengths.values())


def chosen_pool(backend: str | None, n_jobs: int | None) -> tuple[str | None, int | None]:
    """Return which pool to use, None for this process alone, and how many jobs."""
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, int)):
        raise TypeError(f"n_jobs must be an integer or None, got {n_jobs!r}")
    if n_jobs == 0:
        raise ValueError("n_jobs must not be 0: pass 1, or -1 for one for each core")
    if backend is not None:
        if backend not in POOLS:
            raise ValueError(f"backend must be 'loky', 'dask', 'ray' or None, got {backend!r}")
        return backend, n_jobs
    active, active_jobs = get_active_backend()
    kind = type(active).__name__
    if kind not in _BACKENDS:
        raise ValueError(
            f"joblib is configured with {kind}: fits need processes of their own, which do not "
            'begin as copies of this one. Use "loky", "dask" or "ray"'
        )
    name = _BACKENDS[kind]
    if name in (None, "loky"):
        chosen = active_jobs if n_jobs is None else n_jobs
        return ("loky", chosen) if joblib.effective_n_jobs(chosen) > 1 else (None, None)
    return name, n_jobs
