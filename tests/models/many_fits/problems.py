"""Estimators and data of the tests, made inside functions: they are then pickled by value."""

import os
import signal

import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.base import BaseEstimator

import bayeskit as bk

NUM_ROWS = 8


def normal_model():
    """Return a NumPyro model that counts how often it is traced in a process."""

    def model(y=None):
        # Not with the model, which is sent and comes back.
        numpyro.num_calls = num_calls() + 1
        mean = numpyro.sample("mean", dist.Normal(0, 10))
        with numpyro.plate("rows", NUM_ROWS):
            numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    return model


def num_calls():
    """Return how often models were traced in this process."""
    return getattr(numpyro, "num_calls", 0)


def bayesian_model():
    engine = bk.SMC(num_particles=400, progress=False)
    return bk.BayesianModel(normal_model(), inference=engine, random_state=0)


def data_sets(num):
    rng = np.random.default_rng(0)
    return [{"y": rng.normal(size=NUM_ROWS)} for _ in range(num)]


def suicide():
    """Return a function that ends the process in which it is called."""
    here = os.getpid()

    def die():
        assert os.getpid() != here, "this is no worker"
        os.kill(os.getpid(), signal.SIGKILL)

    return die


def mean_estimator():
    """Return an estimator that costs nothing."""

    class Mean(BaseEstimator):
        def __init__(self, shift=0.0, random_state=0):
            self.shift = shift
            self.random_state = random_state

        def fit(self, y):
            rng = np.random.default_rng(self.random_state)
            self.mean_ = np.mean(y) + self.shift + rng.normal()
            return self

    return Mean()


def about_the_worker(est):
    """Return the process of a fit, its calls of the model so far, and the threads it has."""
    from pathlib import Path

    from threadpoolctl import threadpool_info

    names = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]
    return {
        "pid": os.getpid(),
        "calls": getattr(numpyro, "num_calls", 0),
        "xla": sum(name.startswith("tf_XLAEigen") for name in names),
        "blas": max((pool["num_threads"] for pool in threadpool_info()), default=1),
        "evidence": est.log_evidence_,
        "positions": est.result_.positions,
    }


def same_bits(fits, others):
    """Return whether two ManyFits succeeded in the same fits, with the same bits."""
    return fits.succeeded.keys() == others.succeeded.keys() and all(
        np.array_equal(est.result_.positions, others[i].result_.positions)
        and est.log_evidence_ == others[i].log_evidence_
        for i, est in fits.succeeded.items()
    )
