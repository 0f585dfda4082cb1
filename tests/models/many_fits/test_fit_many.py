"""Many fits: the numbers of a loop, failures and warnings by number, nothing else lost."""

import threading
import warnings

import cloudpickle
import joblib
import numpy as np
import pytest
from sklearn.base import clone

import bayeskit as bk
from bayeskit import accel
from bayeskit.errors import (
    BayeskitWarning,
    ConvergenceWarning,
    FitFailedError,
    FitFailedWarning,
    InvalidDataError,
    MissingDependencyError,
)
from bayeskit.models.many_fits import pools, task
from bayeskit.models.many_fits.door import chosen_pool
from tests.models.many_fits import problems


@pytest.fixture
def mean():
    return problems.mean_estimator()


def test_data_sets_one_after_another(mean):
    data = [{"y": [1.0, 2.0]}, ([3.0],), np.array([4.0, 6.0]), lambda: {"y": [7.0]}]
    fits = bk.fit_many(mean, data)
    noise = np.random.default_rng(0).normal()
    assert [est.mean_ - noise for est in fits] == pytest.approx([1.5, 3.0, 5.0, 7.0])
    assert len(fits) == 4 and not hasattr(mean, "mean_")
    assert all(seconds >= 0 for seconds in fits.seconds)


def test_seeds_and_estimators(mean):
    seeds = bk.fit_many(mean, ([1.0],), random_states=range(5))
    assert [est.random_state for est in seeds] == list(range(5))
    assert len({est.mean_ for est in seeds}) == 5
    grid = [clone(mean).set_params(shift=shift) for shift in (0.0, 2.0)]
    fits = bk.fit_many(grid, {"y": [1.0]}, keep=lambda est: est.mean_)
    assert fits[1] - fits[0] == pytest.approx(2.0)
    # All three, each with one element for each fit.
    both = bk.fit_many(grid, [[1.0], [5.0]], random_states=[3, 3], keep=lambda est: est.mean_)
    assert both[1] - both[0] == pytest.approx(6.0)


def test_a_loop_gives_the_same_bits():
    est, data = problems.bayesian_model(), problems.data_sets(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        loop = [clone(est).fit(**one) for one in data]
        fits = bk.fit_many(est, data)
    for one, other in zip(loop, fits, strict=True):
        assert np.array_equal(one.result_.positions, other.result_.positions)
        assert one.log_evidence_ == other.log_evidence_


def test_failures_lose_nothing_else(mean):
    data = [[1.0], "words", [3.0], lambda: 1 / 0]
    with pytest.warns(FitFailedWarning, match=r"2 of 4 fits \(1, 3\) failed. .* fit 1 raised"):
        fits = bk.fit_many(mean, data, keep=lambda est: est.mean_)
    assert list(fits.succeeded) == [0, 2] and fits[2] - fits[0] == pytest.approx(2.0)
    with pytest.raises(FitFailedError, match="fit 3 raised ZeroDivisionError") as caught:
        _ = fits[3]
    assert caught.value.index == 3 and "1 / 0" in caught.value.traceback
    with pytest.raises(FitFailedError, match="fit 1 raised"):
        fits.raise_if_failed()
    with pytest.raises(FitFailedError, match="fit 1 raised"):
        list(fits)
    assert fits[2:3] == [fits[2]]
    table = fits.table()
    assert table.index.name == "fit" and table.failure.str.len().gt(0).tolist() == [0, 1, 0, 1]
    assert repr(fits) == "ManyFits(2 succeeded, 2 failed)"


def test_warnings_are_told_once_with_the_fits(mean):
    class Doubtful(type(mean)):
        def fit(self, y):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            if y[0] > 1:
                warnings.warn(f"mean of {y}", BayeskitWarning, stacklevel=1)
            return super().fit(y)

    with pytest.warns(BayeskitWarning, match=r"2 of 3 fits \(1, 2\) warned. .* mean of \[2\]"):
        fits = bk.fit_many(Doubtful(), [[1], [2], [3]])
    assert fits.warnings == {i: [(BayeskitWarning, f"mean of [{i + 1}]")] for i in (1, 2)}
    assert "BayeskitWarning: mean of [3]" in fits.table().warnings[2]


def test_ctrl_c_returns_what_was_done(mean):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.warns(FitFailedWarning, match=r"2 of 3 fits \(1, 2\)"):
        fits = bk.fit_many(mean, [[1.0], interrupt, [3.0]])
    assert list(fits.succeeded) == [0]
    assert "Ctrl-C" in str(fits.failures[2])


def test_progress_counts_failures(mean, capsys):
    with pytest.warns(FitFailedWarning):
        bk.fit_many(mean, [[1.0], "words"], progress=True)
    shown = capsys.readouterr().err
    assert "fits: 0 of 2" in shown and "2 of 2, 1 failed" in shown
    bk.fit_many(mean, [[1.0]])
    assert not capsys.readouterr().err


def test_what_is_sent_is_as_if_it_had_stayed(mean):
    common = task.Common(
        estimators=cloudpickle.dumps([mean]),
        data_and_keep=cloudpickle.dumps((None, None)),
        num_threads=1,
        settings=task.jax_settings(),
        versions=task.versions(),
    )

    def run(common, data, index=0):
        sent = task.Task(index, 0, cloudpickle.dumps((data, (7,))))
        return cloudpickle.loads(task.run_task(cloudpickle.dumps(common), sent))

    outcome = run(common, [1.0])
    expected = bk.fit_many(mean, [[1.0]], random_states=[7])[0]
    assert outcome.result.mean_ == expected.mean_ and outcome.warnings == ()
    # The same bytes are not unpickled again: a model keeps its compiled programs.
    kept = task._latest["estimators"][1][0]
    run(common, [2.0])
    assert task._latest["estimators"][1][0] is kept
    other = task.dataclasses.replace(common, versions=("0.0.1", "0.4"))
    ((category, text),) = run(other, [1.0]).warnings
    assert category is BayeskitWarning and "0.0.1 and 0.4 were expected" in text
    broken = task.dataclasses.replace(common, estimators=b"nothing")
    assert "fit 5 raised UnpicklingError" in str(run(broken, [1.0], index=5).failure)


def test_where_it_runs():
    assert chosen_pool(None, None) == chosen_pool(None, 1) == (None, None)
    assert chosen_pool(None, 2) == ("loky", 2)
    assert chosen_pool("ray", None) == ("ray", None)
    with joblib.parallel_config(backend="loky", n_jobs=3):
        assert chosen_pool(None, None) == ("loky", 3)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        with pytest.raises(ValueError, match=r"configured with ThreadingBackend: .*processes"):
            chosen_pool(None, None)


def test_bad_input(mean):
    def refuse(error, match, *args, **kwargs):
        with pytest.raises(error, match=match):
            bk.fit_many(*args, **kwargs)

    refuse(TypeError, r"must have a method fit, got type", type(mean), [[1.0]])
    refuse(TypeError, r"estimator\[1\] must have a method fit, got int", [mean, 3], [[1.0]])
    refuse(TypeError, r"of type ndarray, .* pass \(data,\) for one", mean, np.zeros((3, 2)))
    refuse(TypeError, r"data must be a dict, a tuple or a list .* got int", mean, 3)
    refuse(ValueError, "data is empty: there is nothing to fit", mean, [])
    refuse(
        ValueError,
        r"2 of data and 3 of random_states: give as many of each",
        mean,
        [[1.0], [2.0]],
        random_states=range(3),
    )
    refuse(ValueError, "backend must be 'loky'.* got 'slurm'", mean, [[1.0]], backend="slurm")
    refuse(ValueError, "n_jobs must not be 0", mean, [[1.0]], n_jobs=0)
    refuse(TypeError, "n_jobs must be an integer or None, got 1.5", mean, [[1.0]], n_jobs=1.5)
    refuse(TypeError, "keep must be a function of a fitted estimator", mean, [[1.0]], keep=3)
    refuse(ValueError, "num_threads must be a positive", mean, [[1.0]], num_threads=0)
    refuse(
        TypeError,
        "data or keep cannot be pickled, which workers need",
        mean,
        {"y": threading.Lock()},
        backend="loky",
    )
    with accel.on_mesh(accel.particle_mesh()):
        refuse(ValueError, r"inside accel.on_mesh", mean, [[1.0]])
    with pytest.raises(MissingDependencyError, match=r'pip install "bayeskit\[cluster\]"'):
        pools._imported("no_such_module", "dask")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_without_a_cluster(mean):
    for package, backend in (("distributed", "dask"), ("ray", "ray")):
        pytest.importorskip(package)
        with pytest.raises(RuntimeError, match=f'backend="{backend}" found no'):
            bk.fit_many(mean, [[1.0]], backend=backend)


def test_two_processes_give_the_same_bits():
    est, data = problems.bayesian_model(), problems.data_sets(6)
    data[2] = {"y": np.full(problems.NUM_ROWS, np.nan)}
    data[3] = {"y": threading.Lock()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FitFailedWarning)
        before = problems.num_calls()
        here = bk.fit_many(est, data)
        calls = problems.num_calls() - before
        there = bk.fit_many(est, data, n_jobs=2)
        kept = bk.fit_many(est, data, n_jobs=2, keep=problems.about_the_worker)
        other = bk.fit_many(est, data, random_states=[1] * len(data))
    assert not problems.same_bits(here, other)
    assert list(there.failures) == [2, 3] and problems.same_bits(here, there)
    assert InvalidDataError.__name__ in str(there.failures[2])
    assert "pickle" in str(there.failures[3])
    assert there.warnings == {i: w for i, w in here.warnings.items() if i != 3}
    # The user's own model, whose programs are compiled, and not a copy for each fit.
    assert there[0].model is est.model
    assert {found["blas"] for found in kept.succeeded.values()} == {1}
    assert max(found["xla"] for found in kept.succeeded.values()) <= 1
    for i, found in kept.succeeded.items():
        assert found["evidence"] == here[i].log_evidence_
        # One call of the model a fit, and the programs are traced once in both calls together.
        assert found["calls"] <= calls + len(data)
