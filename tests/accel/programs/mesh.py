"""Prints one JSON object: names of the bits that come out on meshes of 1, 2, 4 and 8 devices.

``mesh.py`` does so in one process, ``mesh.py ADDRESS I`` as process I of two, and
``mesh.py BUG`` with a planted bug. ``everything`` as the first argument asks for all schemes
and blocks, which take long to compile; without it there is one of each kind.
"""

# ruff: noqa: E402

import hashlib
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

ARGUMENTS = [word for word in sys.argv[1:] if word != "everything"]
IS_EVERYTHING = "everything" in sys.argv
IN_PROCESSES = __name__ == "__main__" and len(ARGUMENTS) == 2
# Not where tests are collected, which imports this file.
if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4 if IN_PROCESSES else 8)
if IN_PROCESSES:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(ARGUMENTS[0], num_processes=2, process_id=int(ARGUMENTS[1]))

from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.accel import sharding

NUM = 4096
# A generator that XLA spreads over processes.
KEY = jax.random.key(3, impl="threefry2x32")
SEED = 3


def digest(tree):
    """Name the bits of all arrays, wherever their parts lie."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    text = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        text.update(np.asarray(leaf).tobytes())
    return text.hexdigest()[:16]


def ancestors(log_weights, schemes):
    found = {
        name: jax.jit(getattr(accel, name))(KEY, accel.spread(log_weights)).index
        for name in schemes
    }
    mesh = accel.current_mesh()
    for name, index in found.items():
        share = index.addressable_shards[0].data.shape[0]
        assert share == NUM // (1 if mesh is None else mesh.size), name
    return found


def totals(log_weights):
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    return [accel.total(weights**power) for power in np.linspace(0.1, 2, 20, dtype=np.float32)]


def particle_filter(**options):
    y = jnp.asarray(np.random.default_rng(1).normal(size=20), jnp.float32)
    model = bi.FeynmanKac(
        initial=lambda key: bi.random.normal(key, ()),
        log_g0=lambda x: -0.5 * (y[0] - x) ** 2,
        kernel=lambda key, t, x: 0.9 * x + 0.5 * bi.random.normal(key, ()),
        log_g=lambda t, _, x: -0.5 * (y[t] - x) ** 2,
        num_steps=20,
    )
    return bi.particle_filter(model, NUM, ess_below=0.5, **options)


# Groups are part of the algorithm: as many on any number of devices.
IN_GROUPS = {
    "ring": bi.resample_in_groups(16),
    "butterfly": bi.resample_butterfly(8),
}
if not IS_EVERYTHING:
    del IN_GROUPS["butterfly"]
SCHEMES = (
    sorted({*accel.SCHEME_NAMES} - {"ssp"}) if IS_EVERYTHING else ["residual", "systematic"]
)


def communicated(block):
    """Return how many bytes come out of each kind of communication between devices."""
    start = bi.spawn(lambda key: bi.random.normal(key, (3,)), NUM)
    lowered = jax.jit(lambda key, p: block.run(key, p)[0]).lower(KEY, bi.run(start, KEY))
    found = {}
    pattern = r"= (\w)(\d+)\[([\d,]*)\]\S* (all-\w+|collective-permute)\("
    for _, bits, shape, kind in re.findall(pattern, lowered.compile().as_text()):
        size = int(bits) // 8 * np.prod([int(n) for n in shape.split(",") if n], dtype=int)
        found[kind] = found.get(kind, 0) + int(size)
    return found


def sampler(dim):
    target = bi.Target(
        log_prior=lambda x: -0.5 * jnp.sum(x**2),
        log_likelihood=lambda x: -20.0 * (jnp.sum(x**2) - 1.0) ** 2 - jnp.exp(x[0]),
        sample_prior=lambda key: bi.random.normal(key, (dim,)),
    )
    return bi.tempered_smc(target, bi.RandomWalk(), NUM)


def results(mesh, on_whole_mesh=True):
    rng = np.random.default_rng(0)
    log_weights = (3 * rng.normal(size=NUM)).astype(np.float32)
    log_weights[::7] = -np.inf
    log_weights[-100:] = -np.inf
    with accel.on_mesh(mesh):
        schemes = SCHEMES if on_whole_mesh else ["systematic"]
        found = {name: digest(x) for name, x in ancestors(log_weights, schemes).items()}
        if mesh is None:
            return found
        found["normalize"] = digest(jax.jit(accel.normalize)(accel.spread(log_weights)))
        found["totals"] = digest(jax.jit(totals)(accel.spread(log_weights)))
        if not on_whole_mesh:
            return found
        for name, block in (("filter", particle_filter()), ("sampler", sampler(1))):
            population = bi.run(block, KEY)
            leaf = jax.tree.leaves(population.particles)[0]
            assert len(leaf.sharding.device_set) == mesh.size
            assert leaf.addressable_shards[0].data.shape[0] == NUM // mesh.size
            found[name] = digest(
                (population.particles, population.log_weights, population.log_evidence)
            )
        for name, block in IN_GROUPS.items():
            if IN_PROCESSES and name == "butterfly":
                continue  # Its programs take long to compile twice.
            population = bi.run(particle_filter(scheme=block), SEED)
            found[name] = digest(
                (population.particles, population.log_weights, population.log_evidence)
            )
        # The products with matrices in these moves round as their shapes on a device demand.
        if IS_EVERYTHING and not IN_PROCESSES:
            found["evidence"] = float(bi.run(sampler(3), KEY).log_evidence)
    return found


def plant(bug):
    if bug == "float sums":
        sharding._exact_total = lambda values: jnp.sum(values, axis=-1)
    if bug == "one shard late":
        correct = jax.lax.axis_index
        jax.lax.axis_index = lambda name: correct(name) - 1


if __name__ == "__main__":
    bug = ARGUMENTS[0] if len(ARGUMENTS) == 1 else None
    plant(bug)
    assert jax.device_count() == 8
    # All processes take part in each mesh.
    sizes = [8] if IN_PROCESSES else [1, 8] if bug else [1, 2, 4, 8]
    meshes = {k: accel.particle_mesh(jax.devices()[:k]) for k in sizes}
    answer = {k: results(mesh, k in (1, 8) and not bug) for k, mesh in meshes.items()}
    if not IN_PROCESSES and not bug:
        answer["none"] = results(None)
        with accel.on_mesh(meshes[8]):
            blocks = {"systematic": bi.resample(), **IN_GROUPS}
            answer["bytes"] = {name: communicated(b) for name, b in blocks.items()}
    print(json.dumps(answer))
