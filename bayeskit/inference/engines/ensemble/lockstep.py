"""Several searches at once, whose questions are answered together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["in_lockstep"]


class _Stopped(Exception):
    """Ends a search whose answer will not come."""


def in_lockstep(search: Callable, starts: Sequence[Any], evaluate: Callable) -> list[Any]:
    """Return ``search(value, start)`` for each start, all of them run at the same time.

    A search asks for one point after another, and a call of the compiled program costs as much
    for one point as for some dozen. So each search, an optimiser of SciPy say, runs in a
    thread that waits at its question until all others have asked theirs; the caller's thread
    answers all in one call. Which points meet in a call does not depend on the timing.

    Parameters
    ----------
    search : callable (value, start) -> result
        Its argument ``value`` is a callable (dim,) -> answer.
    starts : sequence
    evaluate : callable (num, dim) -> (answers,) * num
        Called in the thread of the caller.

    Raises
    ------
    Exception
        The first that a search or ``evaluate`` raised; all threads have ended by then.
    """
    asked: queue.SimpleQueue = queue.SimpleQueue()
    answers: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in starts]
    results: list[Any] = [None] * len(starts)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        def value(point: np.ndarray) -> Any:
            asked.put((number, np.array(point)))
            answer = answers[number].get()
            if answer is _Stopped:
                raise _Stopped
            return answer

        try:
            results[number] = search(value, starts[number])
        except _Stopped:
            pass
        except BaseException as error:
            errors.append(error)
        asked.put((number, None))

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(starts))]
    for thread in threads:
        thread.start()
    num_running = len(threads)
    try:
        while num_running and not errors:
            questions = [asked.get() for _ in range(num_running)]
            waiting = sorted((i, point) for i, point in questions if point is not None)
            num_running = len(waiting)
            if waiting and not errors:
                points = np.stack([point for _, point in waiting])
                for (i, _), answer in zip(waiting, evaluate(points), strict=True):
                    answers[i].put(answer)
    finally:
        for answer in answers:
            answer.put(_Stopped)
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results
