"""Fit many estimators, or one to many data sets, on as many workers as there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle

from bayeskit.errors import UnfinishedRunError
from bayeskit.inference.progress import ProgressLine
from bayeskit.models.many_fits.door import (
    checked_num_fits,
    chosen_pool,
    listed_data_sets,
    listed_estimators,
    refuse_mesh,
)
from bayeskit.models.many_fits.outcome import ManyFits, Outcome
from bayeskit.models.many_fits.pools import POOLS
from bayeskit.models.many_fits.task import (
    Common,
    Task,
    as_failure,
    fit_one,
    jax_settings,
    versions,
)
from bayeskit.models.many_fits.workers import outcomes

__all__ = ["fit_many"]


def fit_many(
    estimator: Any,
    data: Any = (),
    *,
    random_states: Sequence[Any] | None = None,
    keep: Callable[[Any], Any] | None = None,
    n_jobs: int | None = None,
    backend: str | None = None,
    num_threads: int = 1,
    progress: str | bool = "auto",
) -> ManyFits:
    """Fit an estimator to many data sets, from many seeds, or many estimators.

    Fit i is ``clone(estimator).fit(data[i])`` with ``random_states[i]``, wherever it runs: a
    loop, processes of this machine, a Dask or a Ray cluster give the same bits, if they run on
    the same kind of processor and use as many threads. Where one of the three is not a
    sequence, all fits share it.

    Parameters
    ----------
    estimator : estimator, or sequence of estimators
        Any with scikit-learn's manners. What is given is cloned and stays unfitted.
    data : dict, tuple, or list of data sets
        A dict holds arguments of ``fit`` by name, a tuple in their order: one data set for all
        fits. A list has a data set for each fit: dicts, tuples, single arguments, or functions
        of no arguments that return one of these and are called by the worker, so that large
        files are read where they are needed.
    random_states : sequence, optional
        Set as ``random_state`` of each fit. Default: that of the estimator, the same for all.
    keep : callable, optional
        Called with the fitted estimator by the worker; what it returns is sent back in place
        of the estimator. It bounds the memory that many results take.
    n_jobs : int, optional
        Processes; -1 means one for each core. For Dask and Ray: how many fits are sent at a
        time, by default two for each thread or CPU of the cluster. Default: that of
        ``joblib.parallel_config``, else one, or all if ``backend="loky"``.
    backend : {"loky", "dask", "ray"}, optional
        Processes of this machine; the workers of the ``distributed.Client`` at hand; the
        cluster that ``ray.init`` connected to. Default: that of ``joblib.parallel_config``,
        else loky for several jobs, and no other process for one.
    num_threads : int
        Threads of XLA and of linear algebra in each worker. A worker that has used JAX before
        keeps the threads of XLA it has. Not for one job without a worker.
    progress : "auto" or bool

    Returns
    -------
    ManyFits
        Results in the order of the fits; failures and warnings by the number of the fit.

    Raises
    ------
    TypeError, ValueError
        For lengths that differ, arrays in place of lists, no fits, objects that cannot be
        pickled; inside of :func:`~bayeskit.accel.on_mesh`.
    MissingDependencyError, RuntimeError
        Where Dask or Ray is not installed or not connected.

    Warns
    -----
    FitFailedWarning
        Names the fits that raised or ended their worker. All others are returned.
    Warning
        One of each category that fits issued, with their numbers.

    Notes
    -----
    Workers unpickle a model once a call and compile it once for each shape of data; programs
    are kept on disk as by ``fit`` itself, so that the other workers of a machine load them.
    Estimators of this package pad data to few sizes where they can; a NumPyro model of your own
    is compiled for each size of its data.

    Ctrl-C ends the fits that run; those that were done are returned, and the others are
    failures.

    Examples
    --------
    >>> import numpy as np
    >>> import bayeskit as bk
    >>> rng = np.random.default_rng(0)
    >>> t = np.arange(8.0)
    >>> series = [dict(X=t, y=np.sin(t) + 0.1 * rng.normal(size=8)) for _ in range(3)]
    >>> model = bk.MarkovGPRegressor(random_state=0)
    >>> fits = bk.fit_many(model, series, keep=lambda est: est.log_evidence_)
    >>> len(fits), len(fits.failures)
    (3, 0)
    """
    refuse_mesh()
    estimators = listed_estimators(estimator)
    data_sets = listed_data_sets(data)
    states = [()] if random_states is None else [(state,) for state in random_states]
    num_fits = checked_num_fits(estimators, data_sets, states)
    backend, n_jobs = chosen_pool(backend, n_jobs)
    if not isinstance(num_threads, int) or num_threads < 1:
        raise ValueError(f"num_threads must be a positive integer, got {num_threads!r}")
    if keep is not None and not callable(keep):
        raise TypeError(
            "keep must be a function of a fitted estimator, such as lambda est: "
            f"est.log_evidence_, got {keep!r}"
        )
    plan = _Plan(estimators, data_sets, states, keep, num_fits)
    if backend is None:
        found: Iterator[Outcome] = plan.run_here()
    else:
        found = plan.run_on(backend, n_jobs, num_threads)
    fits = ManyFits(_collected(found, num_fits, progress))
    fits.warn(stacklevel=2)
    return fits


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The fits to make; lists of length one hold what all of them share."""

    estimators: Sequence[Any]
    data_sets: Sequence[Any]
    states: Sequence[tuple]
    keep: Callable[[Any], Any] | None
    num_fits: int

    def run_here(self) -> Iterator[Outcome]:
        for i in range(self.num_fits):
            estimator, data = _of(self.estimators, i), _of(self.data_sets, i)
            yield fit_one(i, estimator, data, _of(self.states, i), self.keep)

    def run_on(self, backend: str, n_jobs: int | None, num_threads: int) -> Iterator[Outcome]:
        shared_data = self.data_sets[0] if len(self.data_sets) == 1 else None
        common = Common(
            _pickled(self.estimators, "estimator"),
            _pickled((shared_data, self.keep), "data or keep"),
            num_threads,
            jax_settings(),
            versions(),
        )
        payload = cloudpickle.dumps(common)
        refused: list[Outcome] = []
        pool = POOLS[backend](payload, n_jobs)
        for outcome in outcomes(pool, self._tasks(refused)):
            yield self._with_own_parameters(outcome)
            while refused:
                yield refused.pop()
        yield from refused

    def _tasks(self, refused: list[Outcome]) -> Iterator[Task]:
        for i in range(self.num_fits):
            own = None if len(self.data_sets) == 1 else self.data_sets[i]
            try:
                payload = cloudpickle.dumps((own, _of(self.states, i)))
            except Exception as error:
                refused.append(Outcome(i, failure=as_failure(i, error)))
                continue
            yield Task(i, i if len(self.estimators) > 1 else 0, payload)

    def _with_own_parameters(self, outcome: Outcome) -> Outcome:
        """Put the user's model in place of the worker's copy: it has its programs here."""
        given = _of(self.estimators, outcome.index)
        if self.keep is None and type(outcome.result) is type(given):
            for name, value in given.get_params(deep=False).items():
                if name != "random_state":
                    setattr(outcome.result, name, value)
        return outcome


def _pickled(value: Any, name: str) -> bytes:
    try:
        return cloudpickle.dumps(value)
    except Exception as error:
        raise TypeError(
            f"{name} cannot be pickled, which workers need ({type(error).__name__}: {error}). "
            "Without workers it can be used as it is"
        ) from error


def _of(values: Sequence[Any], index: int) -> Any:
    return values[index] if len(values) > 1 else values[0]


def _collected(found: Iterator[Outcome], num_fits: int, progress: str | bool) -> list[Outcome]:
    """Return one outcome for each fit in their order, also after Ctrl-C."""
    done: dict[int, Outcome] = {}
    line = ProgressLine("fits", progress)

    def status() -> str:
        num_failed = sum(outcome.failure is not None for outcome in done.values())
        return f"{len(done)} of {num_fits}" + (f", {num_failed} failed" if num_failed else "")

    line.show(status(), force=True)
    try:
        for outcome in found:
            done[outcome.index] = outcome
            line.show(status())
    except KeyboardInterrupt:
        for i in set(range(num_fits)) - set(done):
            stopped = UnfinishedRunError("Ctrl-C came before its end")
            done[i] = Outcome(i, failure=as_failure(i, stopped))
    finally:
        line.close(status())
    return [done[i] for i in range(num_fits)]
