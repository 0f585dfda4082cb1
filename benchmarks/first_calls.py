"""What a notebook feels: CPU seconds of the first fit, compilation included, and of the second.

    python benchmarks/first_calls.py --repeats 3 --out first_calls.json

Each fit runs in a process of its own, on one thread and without any cache of compiled
programs, after all imports. The second fit is one of other data of the same shapes, or with
another key. ``compiled`` counts the programs that it compiles. Cases of posteriordb need
``BAYESKIT_REFERENCE_DATA`` to name the folder of the reference data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
    "BAYESKIT_PROGRAM_CACHE": "off",
}


def ensemble(case_name: str) -> Any:
    """EnsembleHMC with its defaults."""
    import bayeskit as bk
    from benchmarks.posteriordb.cases import CASES

    case = CASES[case_name]
    target, starts = case.target(), np.random.default_rng(0).uniform(-1, 1, (4, case.dim))
    engine = bk.EnsembleHMC(progress=False)
    initial = None if case.proper else starts
    return lambda seed: engine.run(target, key=seed, initial_positions=initial)


def numpyro_nuts(case_name: str) -> Any:
    """NUTS of NumPyro with its defaults, one chain of 1000 + 1000, on the same density."""
    import jax
    from numpyro.infer import MCMC, NUTS

    from benchmarks.posteriordb.cases import CASES

    case = CASES[case_name]
    target, start = case.target(), np.random.default_rng(0).uniform(-1, 1, case.dim)

    def run(seed):
        kernel = NUTS(potential_fn=lambda x: -target.components(x).sum())
        chains = MCMC(kernel, num_warmup=1000, num_samples=1000, progress_bar=False)
        chains.run(jax.random.key(seed), init_params=start)
        return jax.block_until_ready(chains.get_samples())

    return run


def tempered_smc() -> Any:
    """Logistic regression with 31 coefficients by SMC, 2000 particles."""
    import bayeskit as bk
    from benchmarks.run import _breast_cancer, _logistic

    X, y = _breast_cancer()
    model = bk.BayesianModel(_logistic, inference=bk.SMC(num_particles=2000, progress=False))
    return lambda seed: model.set_params(random_state=seed).fit(X, y)


def particle_filter() -> Any:
    """Stochastic volatility filtered with 2000 particles, 200 steps."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeskit as bk

    rho, sigma = 0.95, 0.3
    rng = np.random.default_rng(0)
    volatility = bk.StateSpaceModel(
        initial=lambda p: dist.Normal(0.0, sigma / np.sqrt(1 - rho**2)),
        transition=lambda p, x, t: dist.Normal(rho * x, sigma),
        observation=lambda p, x, t: dist.Normal(0.0, jnp.exp(x / 2)),
        name="volatility",
    )
    model = bk.BayesianModel(volatility, inference=bk.ParticleFilter(2000))
    return lambda seed: model.set_params(random_state=seed).fit(rng.normal(size=200))


FITS = {
    "EnsembleHMC kidiq": lambda: ensemble("kidiq"),
    "EnsembleHMC garch11": lambda: ensemble("garch11"),
    "EnsembleHMC eight_schools": lambda: ensemble("eight_schools"),
    "NumPyro NUTS kidiq": lambda: numpyro_nuts("kidiq"),
    "NumPyro NUTS garch11": lambda: numpyro_nuts("garch11"),
    "NumPyro NUTS eight_schools": lambda: numpyro_nuts("eight_schools"),
    "SMC logistic": tempered_smc,
    "ParticleFilter": particle_filter,
}


def work(name: str) -> None:
    """Print the seconds of a first and a second fit."""
    from bayeskit.inference.compile_clock import CompileClock

    fit = FITS[name]()
    row: dict[str, Any] = {"fit": name}
    for part, seed in (("first", 1), ("second", 2)):
        with CompileClock() as clock:
            start = time.process_time()
            fit(seed)
            row[f"{part}_s"] = round(time.process_time() - start, 3)
        row["compiled"] = clock.num_compiled
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fits", default=",".join(FITS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker)
    rows = []
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
    for _ in range(arguments.repeats):
        for name in arguments.fits.split(","):
            command = [sys.executable, __file__, "--worker", name]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    table = []
    for name in arguments.fits.split(","):
        runs = [row for row in rows if row["fit"] == name]
        medians = {
            part: round(float(np.median([row[part] for row in runs])), 3)
            for part in ("first_s", "second_s")
        }
        table.append({"fit": name, **medians, "compiled": max(r["compiled"] for r in runs)})
        print(f"{name:28s} {medians['first_s']:8.2f} {medians['second_s']:8.2f}")
    if arguments.out:
        arguments.out.write_text(json.dumps({"runs": rows, "median": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
