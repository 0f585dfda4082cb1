"""Prints one JSON object: names of the bits that engines give on meshes of 1 and 4 devices.

``engines_on_a_mesh.py`` does so in one process, ``engines_on_a_mesh.py ADDRESS I`` as process I
of two with two devices each, where the clock of one says that time is over.
"""

# ruff: noqa: E402

import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

IN_PROCESSES = __name__ == "__main__" and len(sys.argv) == 3
# Not where tests are collected, which imports this file.
if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2 if IN_PROCESSES else 4)
if IN_PROCESSES:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))

import numpyro
import numpyro.distributions as dist

import bayeskit as bk
from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.errors import UnfinishedRunError

NUM = 512
Y = np.random.default_rng(0).normal(1.0, 1.0, size=20)


def digest(*trees):
    """Name the bits of all arrays, which every process has whole."""
    text = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        text.update(np.asarray(leaf).tobytes())
    return text.hexdigest()[:16]


def state_space():
    model = bk.StateSpaceModel(
        initial=lambda p: dist.Normal(0.0, 1.0),
        transition=lambda p, x, t: dist.Normal(0.9 * x, 0.5),
        observation=lambda p, x, t: dist.Normal(x, 1.0),
    )
    return model, bk.ParticleFilter(NUM, num_paths=32)


def one_number(**limits):
    target = bk.Target(
        log_prior=lambda x: -0.5 * jnp.sum(x**2) - 0.5 * jnp.log(2 * jnp.pi),
        log_likelihood=lambda x, y: -0.5 * jnp.sum((y - x[0]) ** 2),
        sample_prior=lambda key: bi.random.normal(key, (1,)),
    )
    return target, bk.SMC(
        num_particles=NUM, kernel=bi.RandomWalk(), keep_ancestors=True, **limits
    )


def two_numbers():
    def model(y=None):
        mean = numpyro.sample("mean", dist.Normal(0, 10))
        scale = numpyro.sample("scale", dist.HalfNormal(2))
        with numpyro.plate("rows", len(Y)):
            numpyro.sample("y", dist.Normal(mean, scale), obs=y)

    return model, bk.SMC(num_particles=NUM)


def fitted(model, engine, random_state=0):
    return bk.BayesianModel(model, inference=engine, random_state=random_state).fit(y=Y)


def results(mesh, random_state=0):
    found = {}
    with accel.on_mesh(mesh):
        est = fitted(*state_space(), random_state)
        found["paths"] = digest(est.result_.draws, est.result_.log_evidence)
        found["filter mean"] = est.result_.history["filter_mean/x"].tolist()
        smc = fitted(*one_number(), random_state)
        ancestors = smc.result_.history["ancestors"]
        found["one number"] = digest(smc.result_.positions, smc.log_evidence_, ancestors)
        if mesh is not None and mesh.size == 4:
            # Products with matrices round as the number of particles on a device demands.
            smc = fitted(*two_numbers(), random_state)
            found["two numbers"] = digest(smc.result_.positions, smc.log_evidence_)
    return found


def stopped():
    """Return what the run says of which one process alone finds that time is over."""
    limits = {"max_seconds": 1e-9} if jax.process_index() == 1 else {}
    with accel.on_mesh(accel.particle_mesh()):
        try:
            fitted(*one_number(**limits))
        except UnfinishedRunError as error:
            return str(error)
    return ""


def refused():
    with accel.on_mesh(accel.particle_mesh()):
        try:
            fitted(*one_number(checkpoint="never_written.bkit"))
        except ValueError as error:
            return str(error)
    return ""


if __name__ == "__main__":
    assert jax.device_count() == 4
    answer = {"4": results(accel.particle_mesh())}
    if IN_PROCESSES:
        answer |= {"stopped": stopped(), "refused": refused()}
    else:
        answer["1"] = results(accel.particle_mesh(jax.devices()[:1]))
        answer["none"] = results(None, jax.random.key(0, impl="threefry2x32"))
    # Each says so: all have the whole result.
    print(json.dumps(answer))
