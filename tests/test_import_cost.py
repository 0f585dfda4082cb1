"""`import bayeskit` is quick, and leaves what it may not need for later."""

import json
import subprocess
import sys

import pytest

HEAVY = ("arviz", "matplotlib", "numpyro", "pandas", "pyro", "sklearn", "torch", "triton")


def in_fresh_process(code: str):
    """Return what the code prints, read as JSON."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("package", ["bayeskit", "bayeskit.accel"])
def test_heavy_packages_are_not_imported(package):
    code = f"import json, sys, {package}; print(json.dumps(sorted(sys.modules)))"
    imported = set(in_fresh_process(code))
    assert package in imported
    assert not imported.intersection(HEAVY)


def test_import_costs_little_more_than_jax():
    # Processor time of this process alone, so that other work on the machine is not
    # counted; taken in one process, so that the cost of JAX itself drops out exactly.
    code = (
        "import json, time, jax, jax.numpy\n"
        "start = time.process_time()\n"
        "import bayeskit\n"
        "print(json.dumps(time.process_time() - start))\n"
    )
    seconds = min(in_fresh_process(code) for _ in range(3))
    assert seconds <= 0.3
