"""Workers die: the fit that did it is named, all others are done, whatever the order."""

import itertools

import cloudpickle
import pytest

from bayeskit.errors import WorkerDiedError
from bayeskit.models.many_fits.outcome import Outcome
from bayeskit.models.many_fits.task import Task
from bayeskit.models.many_fits.workers import Pool, WorkerDied, outcomes


class FakePool(Pool):
    """Runs nothing. Certain tasks end their worker, and all that was sent with them."""

    names_culprit = False

    def __init__(self, deadly, num_slots=4, last_first=False):
        self.deadly, self.num_slots, self.last_first = set(deadly), num_slots, last_first
        self.running, self.broken = {}, set()
        self.numbers = itertools.count()
        self.most_sent, self.num_runs = 0, 0
        self.abandoned = None

    def submit(self, task):
        handle = next(self.numbers)
        self.running[handle] = task
        self.num_runs += 1
        self.most_sent = max(self.most_sent, len(self.running))
        return handle

    def wait(self, handles):
        handle = max(handles) if self.last_first else min(handles)
        if handle not in self.broken and self.running[handle].index in self.deadly:
            self.broken |= set(self.running)
        return [handle]

    def result(self, handle):
        task = self.running.pop(handle)
        if handle in self.broken:
            raise WorkerDied("SIGKILL(-9)")
        return cloudpickle.dumps(Outcome(task.index, result=task.index**2))

    def close(self, *, abandoned):
        self.abandoned = abandoned


def tasks(num):
    return (Task(i, 0, b"") for i in range(num))


@pytest.mark.parametrize("last_first", [False, True])
@pytest.mark.parametrize("deadly", [[], [0], [5], [3, 4], [11], [0, 1, 2, 3], range(12)])
def test_only_what_ends_its_worker_fails(deadly, last_first):
    pool = FakePool(deadly, last_first=last_first)
    found = {outcome.index: outcome for outcome in outcomes(pool, tasks(12))}
    assert sorted(found) == list(range(12))
    assert {i for i, o in found.items() if o.failure is not None} == set(deadly)
    assert all(found[i].result == i**2 for i in set(range(12)) - set(deadly))
    for i in deadly:
        assert isinstance(found[i].failure, WorkerDiedError) and found[i].failure.index == i
        assert f"fit {i} ended its worker each time it ran (SIGKILL" in str(found[i].failure)
    assert pool.most_sent <= 4 and pool.abandoned == []
    # A death costs the repetition of what was sent with it.
    assert pool.num_runs <= 12 + 4 * len(set(deadly))


def test_planted_bug_blames_the_innocent():
    pool = FakePool([5])
    pool.names_culprit = True
    failed = [o.index for o in outcomes(pool, tasks(12)) if o.failure is not None]
    assert failed != [5]


def test_no_result_is_kept_and_no_task_made_ahead():
    made = []
    pool = FakePool([], num_slots=2)
    found = outcomes(pool, (made.append(i) or Task(i, 0, b"") for i in range(100)))
    next(found)
    assert len(made) == 2
    found.close()
    assert len(pool.abandoned) == 1
