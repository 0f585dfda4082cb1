"""The same fits on real processes, on a Dask cluster and on a Ray cluster of this machine.

One of the fits kills its worker, another raises: the rest must come back with the bits of the
loop. Run by ``make test-cluster``.
"""

import socket
import warnings

import joblib
import numpy as np
import pytest

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning, FitFailedWarning, WorkerDiedError
from tests.models.many_fits import problems

# Starting a cluster takes longer than what is tested.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::bayeskit.errors.ConvergenceWarning"),
]
RAISES, DIES = 2, 4


@pytest.fixture(scope="module")
def fits():
    """What is fitted, and what comes out here."""
    est, data = problems.bayesian_model(), problems.data_sets(7)
    data[RAISES] = {"y": np.full(problems.NUM_ROWS, np.nan)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FitFailedWarning)
        before = problems.num_calls()
        here = bk.fit_many(est, data)
        calls = problems.num_calls() - before
    data[DIES] = problems.suicide()
    del here.succeeded[DIES]
    return est, data, here, calls


@pytest.fixture(scope="module")
def loopback():
    """Skips where no process may listen."""
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
    except OSError as error:
        pytest.skip(f"no sockets here: {error}")


@pytest.fixture(scope="module")
def dask_client(loopback):
    distributed = pytest.importorskip("distributed")
    import dask

    settings = {"distributed.scheduler.allowed-failures": 1}
    with dask.config.set(settings):
        cluster = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=50,
        )
        with cluster, distributed.Client(cluster) as client:
            yield client


@pytest.fixture(scope="module")
def ray_cluster(loopback):
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()


def check(found, here):
    assert list(found.failures) == [RAISES, DIES]
    assert "InvalidDataError" in found.failures[RAISES].traceback
    assert isinstance(found.failures[DIES], WorkerDiedError)
    assert problems.same_bits(here, found)
    assert {i: w for i, w in here.warnings.items() if i != DIES} == found.warnings


def check_the_workers(est, data, here, calls, **where):
    good = [i for i in range(len(data)) if i not in (RAISES, DIES)]
    chosen = [data[i] for i in good]
    found = bk.fit_many(est, chosen, keep=problems.about_the_worker, **where)
    assert {one["blas"] for one in found} == {1}
    assert max(one["xla"] for one in found) <= 1
    for i, one in zip(good, found, strict=True):
        assert np.array_equal(one["positions"], here[i].result_.positions)
        # One call of the model a fit, and the programs are traced once in all calls together.
        assert one["calls"] <= calls + len(data)


def test_processes(fits):
    est, data, here, calls = fits
    with pytest.warns(FitFailedWarning, match=r"2 of 7 fits \(2, 4\) failed"):
        found = bk.fit_many(est, data, n_jobs=2)
    check(found, here)
    check_the_workers(est, data, here, calls, n_jobs=2)


def test_dask(fits, dask_client):
    est, data, here, calls = fits
    with pytest.warns(FitFailedWarning, match=r"2 of 7 fits \(2, 4\) failed"):
        found = bk.fit_many(est, data, backend="dask")
    check(found, here)
    # In scikit-learn's manner, and few at a time.
    with joblib.parallel_config(backend="dask"):
        check_the_workers(est, data, here, calls, n_jobs=2)


def test_ray(fits, ray_cluster):
    est, data, here, calls = fits
    with pytest.warns(FitFailedWarning, match=r"2 of 7 fits \(2, 4\) failed"):
        found = bk.fit_many(est, data, backend="ray")
    check(found, here)
    check_the_workers(est, data, here, calls, backend="ray", n_jobs=2)
