"""Scans over time: CPU seconds to compile and to run, with the error beside each time.

    python benchmarks/time_scans.py [--long] [--out FILE]

One JSON line a row, on one thread and without any cache of compiled programs. ``first_s`` is
the first call, compilation included; ``run_s`` the quickest of the later ones. Errors are
relative to the largest value in float64: of a loop in NumPy for products of maps, of the
sequential filter in covariances for chains. ``--long`` adds a million steps.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for name, value in {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
}.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402

from bayeskit import accel  # noqa: E402


def timed(function: Callable, *args: Any, repeats: int = 5) -> tuple[Any, dict[str, float]]:
    """Return a result, and CPU seconds of the first call and of the quickest later one."""
    compiled = jax.jit(function)
    start = time.process_time()
    result = jax.block_until_ready(compiled(*args))
    first = time.process_time() - start
    later = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(compiled(*args))
        later.append(time.process_time() - start)
    return result, {"first_s": round(first, 3), "run_s": round(min(later), 6)}


def relative_error(found: Any, exact: np.ndarray) -> float:
    error = np.max(np.abs(np.asarray(found, np.float64) - exact)) / np.max(np.abs(exact))
    return float(f"{error:.2g}")


def products_of_maps() -> Iterator[dict]:
    """Products of 4 x 4 affine maps in float32."""

    def op(earlier, later):
        return later[0] @ earlier[0], later[0] @ earlier[1] + later[1]

    scans = {
        "auto": lambda e: accel.blocked_associative_scan(op, e),
        "tree": lambda e: accel.blocked_associative_scan(op, e, 1),
        "blocks of 128": lambda e: accel.blocked_associative_scan(op, e, 128),
        "lax.associative_scan": lambda e: lax.associative_scan(jax.vmap(op), e),
    }
    for num_steps in (100, 1000, 10_000):
        rng = np.random.default_rng(0)
        maps, shifts = 0.3 * rng.normal(size=(num_steps, 4, 4)), rng.normal(size=(num_steps, 4))
        exact = np.empty_like(shifts)
        x = np.zeros(4)
        for t in range(num_steps):
            exact[t] = x = maps[t] @ x + shifts[t]
        elements = (jnp.asarray(maps, jnp.float32), jnp.asarray(shifts, jnp.float32))
        for name, scan in scans.items():
            found, seconds = timed(scan, elements)
            error = relative_error(found[1], exact)
            row = {"part": "maps", "scan": name, "num_steps": num_steps}
            yield {**row, **seconds, "error": error}


def chains(num_steps: int) -> Iterator[dict]:
    """A Matérn 3/2 process seen with noise: log evidence, and the smoother (error of means)."""
    gap, rate = 0.1, np.sqrt(3.0)
    u = rate * gap
    transition = np.exp(-u) * np.array([[1 + u, gap], [-(rate**2) * gap, 1 - u]])
    stationary = np.diag([1.0, rate**2])
    noise = stationary - transition @ stationary @ transition.T
    chain = accel.GaussianChain(np.zeros(2), stationary, transition, noise)
    rng = np.random.default_rng(1)
    y = np.sin(gap * np.arange(num_steps)) + 0.1 * rng.normal(size=num_steps)
    seen = accel.LinearObservations(y[:, None], np.array([[1.0, 0.0]]), np.array([[0.01]]))
    work = {
        "log evidence": accel.kalman_log_evidence,
        "smoother": accel.kalman_smoother,
    }
    for task, function in work.items():
        exact = None
        for dtype, method, form in itertools.product(
            ("float64", "float32"), ("sequential", "parallel"), ("covariance", "square_root")
        ):
            if task == "smoother" and num_steps > 10**5 and method == "parallel":
                continue  # JAX 0.10 may hang, see kalman_filter
            with jax.enable_x64(dtype == "float64"):
                data = jax.tree.map(functools.partial(jnp.asarray, dtype=dtype), (chain, seen))
                way = functools.partial(function, method=method, form=form)
                found, seconds = timed(way, *data, repeats=2)
            judged = np.asarray(found if task == "log evidence" else found.mean)
            exact = judged if exact is None else exact
            row = {"part": task, "num_steps": num_steps, "dtype": dtype}
            row |= {"method": method, "form": form}
            yield {**row, **seconds, "error": relative_error(judged, exact)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jax.block_until_ready(jnp.ones(2) + 1)
    parts = [products_of_maps, lambda: chains(1000)]
    if options.long:
        parts.append(lambda: chains(1_000_000))
    for part in parts:
        for row in part():
            line = json.dumps(row)
            print(line, flush=True)
            if options.out is not None:
                with options.out.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
