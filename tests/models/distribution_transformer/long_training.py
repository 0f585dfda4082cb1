"""A small training; as a program, one with a checkpoint at every piece, which tests kill.

``python long_training.py PATH`` trains with a checkpoint, prints "ready" after the first piece,
and prints a hash of the result.
"""

import hashlib
import sys

import jax
import numpy as np

import bayeskit as bk
from bayeskit.inference import long_run
from tests.models.distribution_transformer.conftest import LINEAR, META_PRIOR, SMALL

SETTINGS = {**SMALL, "warm_start": False}


def digest(estimator):
    """Return a hash of the weights and of the losses."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(estimator.weights_):
        found.update(np.ascontiguousarray(leaf).tobytes())
    for name in ("step", "loss", "evaluated_loss", "skipped"):
        found.update(np.ascontiguousarray(estimator.history_[name].to_numpy(float)).tobytes())
    return found.hexdigest()


def main(path):
    long_run._FIRST_PIECE = 3
    long_run._PIECE_SECONDS = 1e-9
    reached, count = long_run.LongRun.reached, iter(range(10**6))

    def saying(run, part, state):
        stopped = reached(run, part, state)
        if next(count) == 0:
            print("ready", flush=True)
        return stopped

    long_run.LongRun.reached = saying
    estimator = bk.DistributionTransformer(
        LINEAR, META_PRIOR, checkpoint=path, checkpoint_every=0, **SETTINGS
    )
    print(digest(estimator.fit()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
