"""Small runs of every engine with a loop; as a program, one of them with a checkpoint.

``python long_runs.py NAME PATH`` compiles, prints "ready", runs with a checkpoint at every
piece, and prints a hash of the result. It is what tests kill.
``python long_runs.py NAME PATH N`` compiles nothing before, prints "writing" in the middle of
checkpoint N, and waits to be killed.
"""

import hashlib
import os
import signal
import sys

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import bayeskit as bk
from bayeskit.inference import Rows, StateSpaceTarget, random

Y = np.linspace(-1.0, 2.0, 20).astype(np.float32)


def log_prior(x):
    return -0.5 * jnp.sum(x**2) - jnp.log(2 * jnp.pi)


def log_likelihood(x, y):
    return -20.0 * jnp.sum((y - x[0] - x[1] * y**2) ** 2)


def sample_prior(key):
    return random.normal(key, (2,))


def target(y=Y, **changes):
    parts = {
        "log_prior": log_prior,
        "log_likelihood": log_likelihood,
        "sample_prior": sample_prior,
    }
    return bk.Target(**{**parts, **changes}, data=(y,))


SMC = {"num_particles": 192, "ess": 0.8}
ENGINES = {
    "smc": lambda **more: bk.SMC(progress=False, **SMC, **more),
    "bridge": lambda **more: bk.SMC(progress=False, bridge=True, **SMC, **more),
    "unbiased": lambda **more: bk.SMC(
        progress=False, unbiased=True, keep_ancestors=True, **SMC, **more
    ),
    "ensemble": lambda **more: bk.EnsembleHMC(
        num_chains=8, num_warmup=75, num_draws=90, progress=False, mapping="together", **more
    ),
    "ensemble to an ESS": lambda **more: bk.EnsembleHMC(
        num_chains=8,
        num_warmup=75,
        target_ess=1500,
        progress=False,
        mapping="together",
        **more,
    ),
    "nuts": lambda **more: bk.NUTS(120, 60, 2, progress=False, **more),
    "pmmh": lambda **more: bk.PMMH(20, 80, 40, 2, progress=False, **more),
    "gibbs": lambda **more: bk.ParticleGibbs(5, 80, 40, 2, progress=False, **more),
    "smc2": lambda **more: bk.SMC2(16, 10, progress=False, **more),
    "unbiased smc2": lambda **more: bk.SMC2(
        16, 10, progress=False, unbiased=True, keep_ancestors=True, **more
    ),
    "tempering": lambda **more: bk.ParallelTempering(4, 80, 40, 2, progress=False, **more),
}


LEVEL = bk.StateSpaceModel(
    initial=lambda p: dist.Normal(0.0, 1.5),
    transition=lambda p, x, t: dist.Normal(p["rho"] * x, 1.0),
    observation=lambda p, x, t: dist.Normal(x, 0.8),
    params={"rho": dist.Uniform(-1.0, 1.0)},
)
OF_STATE_SPACE = ("pmmh", "gibbs", "smc2", "unbiased smc2")


def target_of(name):
    if name in OF_STATE_SPACE:
        return StateSpaceTarget.of(LEVEL, Rows(Y))
    return target()


def digest(posterior):
    """Return a hash of all numbers of a result but its timing."""
    _, arrays = posterior.pack()
    found = hashlib.sha256(posterior.law.encode())
    for name in sorted(arrays):
        found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def stop_while_writing(number):
    """Stop in the middle of a checkpoint, with half of its file there."""
    # Each asks twice that bytes be kept: those of the file, and then its name in the folder.
    fsync, calls = os.fsync, iter(range(1, 2 * number))

    def stopping(descriptor):
        if next(calls) == 2 * number - 1:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            print("writing", flush=True)
            signal.pause()
        fsync(descriptor)

    os.fsync = stopping


def main(name, path, number=None):
    if number is None:
        ENGINES[name]().run(target_of(name), key=3)
        print("ready", flush=True)
    else:
        stop_while_writing(int(number))
    result = ENGINES[name](checkpoint=path, checkpoint_every=0).run(target_of(name), key=3)
    print(digest(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
