"""Processes of this machine (loky), of a Dask cluster, of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor

from bayeskit.errors import MissingDependencyError
from bayeskit.models.many_fits.task import Task, run_task
from bayeskit.models.many_fits.workers import Pool, WorkerDied

__all__ = ["POOLS", "DaskPool", "LokyPool", "RayPool"]

# As in joblib: idle processes stay for so many seconds, with what they have compiled.
_IDLE_SECONDS = 300
# Tasks sent for each worker: one that runs and one that waits.
_TASKS_PER_WORKER = 2


class LokyPool(Pool):
    """Processes of this machine, those that joblib uses too."""

    # All futures break with the process that dies.
    names_culprit = False

    def __init__(self, common: bytes, n_jobs: int | None):
        self._num_workers = joblib.cpu_count() if n_jobs is None else _counted(n_jobs)
        self.num_slots = _TASKS_PER_WORKER * self._num_workers
        # Read once by each worker, and not sent with each task.
        descriptor, name = tempfile.mkstemp(prefix="bayeskit-", suffix=".pickle")
        self._common = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(common)

    def submit(self, task: Task) -> Any:
        # Asked for each time: a pool that broke is replaced by a new one.
        executor = get_reusable_executor(self._num_workers, timeout=_IDLE_SECONDS)
        return executor.submit(run_task, self._common, task)

    def wait(self, handles: list[Any]) -> Iterable[Any]:
        return wait(handles, return_when=FIRST_COMPLETED).done

    def result(self, handle: Any) -> bytes:
        try:
            return handle.result()
        except BrokenExecutor as error:
            raise WorkerDied(_exit_codes(str(error))) from None

    def close(self, *, abandoned: list[Any]) -> None:
        if abandoned:
            get_reusable_executor(self._num_workers, timeout=_IDLE_SECONDS).shutdown(
                wait=False, kill_workers=True
            )
        self._common.unlink(missing_ok=True)


def _exit_codes(message: str) -> str:
    """Return what is of use in loky's long message."""
    found = re.search(r"exit codes of the workers are \{(.*?)\}", message)
    return found.group(1) if found else message.split(".")[0]


def _counted(n_jobs: int) -> int:
    """Return how many processes a number in joblib's sense stands for."""
    return n_jobs if n_jobs > 0 else max(1, joblib.cpu_count() + 1 + n_jobs)


class DaskPool(Pool):
    """Workers of the Dask cluster whose client is at hand."""

    # The scheduler tries a task on other workers before it blames it.
    names_culprit = True

    def __init__(self, common: bytes, n_jobs: int | None):
        distributed = _imported("distributed", "dask")
        try:
            self._client = distributed.get_client()
        except ValueError as error:
            raise RuntimeError(
                'backend="dask" found no client of a Dask cluster. Make one before: '
                "client = distributed.Client(address), or distributed.Client(n_workers=2, "
                "threads_per_worker=1) for this machine"
            ) from error
        threads = self._client.nthreads()
        if not threads:
            self._client.wait_for_workers(1, timeout=30)
            threads = self._client.nthreads()
        available = sum(threads.values())
        self.num_slots = _slots(n_jobs, available)
        self._killed: Any = distributed.KilledWorker
        self._lost: Any = (distributed.client.FutureCancelledError,)
        self._wait = distributed.wait
        # A task and not scattered data, which would be gone with its worker.
        self._common = self._client.submit(_same, common, pure=False)

    def submit(self, task: Task) -> Any:
        return self._client.submit(run_task, self._common, task, pure=False)

    def wait(self, handles: list[Any]) -> Iterable[Any]:
        return self._wait(handles, return_when="FIRST_COMPLETED").done

    def result(self, handle: Any) -> bytes:
        try:
            return handle.result()
        except (self._killed, *self._lost) as error:
            raise WorkerDied(str(error)) from None

    def close(self, *, abandoned: list[Any]) -> None:
        self._client.cancel([*abandoned, self._common])


def _same(value: bytes) -> bytes:
    return value


class RayPool(Pool):
    """Workers of the Ray cluster that this process is connected to."""

    names_culprit = True

    def __init__(self, common: bytes, n_jobs: int | None):
        self._ray = _imported("ray", "ray")
        if not self._ray.is_initialized():
            raise RuntimeError(
                'backend="ray" found no cluster. Connect before: ray.init(address="auto"), '
                "or ray.init(num_cpus=2) for this machine"
            )
        available = int(self._ray.cluster_resources().get("CPU", 1))
        self.num_slots = _slots(n_jobs, available)
        self._remote = self._ray.remote(run_task).options(num_cpus=1, max_retries=1)
        self._common = self._ray.put(common)

    def submit(self, task: Task) -> Any:
        return self._remote.remote(self._common, task)

    def wait(self, handles: list[Any]) -> Iterable[Any]:
        return self._ray.wait(handles, num_returns=1)[0]

    def result(self, handle: Any) -> bytes:
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayError as error:
            text = str(error).splitlines()[0]
            raise WorkerDied(f"{type(error).__name__}: {text}") from None

    def close(self, *, abandoned: list[Any]) -> None:
        for handle in abandoned:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(handle, force=True)


def _slots(n_jobs: int | None, available: int) -> int:
    """Return how many tasks are sent: all the cluster takes, or as many as the user allows."""
    return n_jobs if n_jobs is not None and n_jobs > 0 else _TASKS_PER_WORKER * available


def _imported(module: str, package: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise MissingDependencyError(
            f'backend="{package}" needs {package}, which is not installed: '
            'pip install "bayeskit[cluster]"'
        ) from error


POOLS: dict[str, Callable[[bytes, int | None], Pool]] = {
    "loky": LokyPool,
    "dask": DaskPool,
    "ray": RayPool,
}
