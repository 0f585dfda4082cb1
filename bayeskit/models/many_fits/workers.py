"""Send fits to workers and collect what comes back, also when a worker dies."""

from __future__ import annotations

import abc
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import cloudpickle

from bayeskit.errors import WorkerDiedError
from bayeskit.models.many_fits.outcome import Outcome
from bayeskit.models.many_fits.task import Task

__all__ = ["Pool", "outcomes"]


class Pool(abc.ABC):
    """Processes that run tasks: the part that differs between loky, Dask and Ray.

    Attributes
    ----------
    num_slots : int
        So many tasks are sent ahead. It bounds the data that wait and the results that have
        come back.
    names_culprit : bool
        Whether it is known which task a worker died of. If not, the death of one worker loses
        all tasks that were sent.
    """

    num_slots: int
    names_culprit: bool

    @abc.abstractmethod
    def submit(self, task: Task) -> Any:
        """Send a task and return a handle."""

    @abc.abstractmethod
    def wait(self, handles: list[Any]) -> Iterable[Any]:
        """Return handles of some tasks that ended, at least one."""

    @abc.abstractmethod
    def result(self, handle: Any) -> bytes:
        """Return the pickled outcome of a task; raise WorkerDied where there is none."""

    @abc.abstractmethod
    def close(self, *, abandoned: list[Any]) -> None:
        """Give everything back; stop the tasks that nobody waits for any more."""


class WorkerDied(Exception):
    """The process that ran a task is gone."""


def outcomes(pool: Pool, tasks: Iterable[Task]) -> Iterator[Outcome]:
    """Run tasks and yield their outcomes as they come.

    Where the pool cannot tell which task a worker died of, all that were lost with it are run
    again one by one: a task that ends its worker even then is the one.
    """
    rest = iter(tasks)
    sent: dict[Any, Task] = {}
    try:
        while True:
            lost = yield from _until_lost(pool, rest, sent)
            if not lost:
                return
            for task in lost:
                sent[pool.submit(task)] = task
                if (yield from _collected(pool, sent, final=True)):
                    raise AssertionError("a task was lost twice")
    finally:
        pool.close(abandoned=list(sent))


def _until_lost(
    pool: Pool, rest: Iterator[Task], sent: dict[Any, Task]
) -> Generator[Outcome, None, list[Task]]:
    """Run tasks side by side until none is left or some are lost, which are returned."""
    while True:
        while len(sent) < pool.num_slots and (task := next(rest, None)) is not None:
            sent[pool.submit(task)] = task
        if not sent:
            return []
        if lost := (yield from _collected(pool, sent, final=pool.names_culprit)):
            # The others were lost with it, but for those that had just ended.
            while sent:
                lost += yield from _collected(pool, sent, final=False)
            return sorted(lost, key=lambda task: task.index)


def _collected(
    pool: Pool, sent: dict[Any, Task], *, final: bool
) -> Generator[Outcome, None, list[Task]]:
    """Yield outcomes of tasks that ended; return those that were lost, unless that is final."""
    lost = []
    for handle in pool.wait(list(sent)):
        task = sent.pop(handle)
        try:
            yield cloudpickle.loads(pool.result(handle))
        except WorkerDied as death:
            if final:
                yield Outcome(task.index, failure=_death(task.index, death))
            else:
                lost.append(task)
    return lost


def _death(index: int, death: WorkerDied) -> WorkerDiedError:
    failure = WorkerDiedError(
        f"fit {index} ended its worker each time it ran ({death}). Most often memory ran out: "
        "use fewer workers, or keep= to return less"
    )
    failure.index, failure.traceback = index, ""
    return failure
