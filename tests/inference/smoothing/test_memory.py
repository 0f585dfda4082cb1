"""A million particles in memory that does not grow with the number of times."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys, time
import jax.numpy as jnp
from bayeskit import inference as bi

num_particles, num_steps = map(int, sys.argv[1:])
model = bi.FeynmanKac(
    initial=lambda key: bi.random.normal(key),
    log_g0=lambda x: -0.5 * x**2,
    kernel=lambda key, t, x: 0.9 * x + bi.random.normal(key),
    log_g=lambda t, before, x: -0.5 * (x - jnp.sin(0.1 * t)) ** 2,
    num_steps=num_steps,
)
block = bi.particle_filter(model, num_particles)
population = bi.run(block, 0)
population.log_evidence.block_until_ready()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
begin = time.process_time()
bi.run(block, 1).log_evidence.block_until_ready()
print(json.dumps({"peak": peak, "cpu": time.process_time() - begin}))
"""


def measured(num_particles, num_steps):
    arguments = [sys.executable, "-c", PROGRAM, str(num_particles), str(num_steps)]
    # Compiling takes 100 MB, so both must compile.
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run(
        arguments, check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_time():
    short, long = measured(10**6, 50), measured(10**6, 1000)
    print(short, long)
    # A history would take 4 MB a time, 3.8 GB more.
    assert long["peak"] - short["peak"] < 100e6
    assert long["peak"] < 2e9
