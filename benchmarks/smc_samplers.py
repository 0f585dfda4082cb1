"""Tempered SMC beside other packages: CPU seconds, and the error of the log evidence.

    python benchmarks/smc_samplers.py [--seeds 5] [--num-particles 1000] [--out FILE]

The posterior is the logistic regression on the breast cancer data: 569 rows, 30 predictors
scaled to a standard deviation of 0.5, prior standard deviation 20 for the intercept and 5 for
the coefficients. Its log evidence is -58.68. Everything runs in float64 on one thread, and
seconds are those after a first run, which compiles. `particles` and BlackJAX move by 10 steps
of a random walk with the covariance of the particles; PyMC has its defaults, and builds its
functions in every call, within its seconds. A package that is not installed is left out:
`pip install blackjax particles pymc`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

# Before NumPy and JAX are imported.
for name, value in {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.scipy.stats import norm  # noqa: E402

from benchmarks.evidence_coverage import REFERENCES, load  # noqa: E402

NUM_STEPS = 10
Run = Callable[[int], tuple[float, float]]  # seed -> log evidence and standard error, or NaN


def posterior() -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the design, signed by their labels, and the prior sd (31,)."""
    X, y = load("breast_cancer")
    design = np.column_stack([np.ones(len(X)), X]) * (2 * y - 1)[:, None]
    return design, np.array([20.0] + [5.0] * X.shape[1])


# ---------------------------------------------------------------- packages


def ours(**settings) -> Run:
    import bayeskit as bk
    from bayeskit.inference import random

    design, spread = posterior()
    target = bk.Target(
        log_prior=lambda x: norm.logpdf(x, 0.0, spread).sum(),
        log_likelihood=lambda x, design: jax.nn.log_sigmoid(design @ x).sum(),
        sample_prior=lambda key: spread * random.normal(key, spread.shape),
        data=(design,),
    )
    engine = bk.SMC(progress=False, **settings)

    def run(seed):
        found = engine.run(target, key=seed)
        return found.log_evidence, found.log_evidence_se

    return run


def of_particles(num: int, waste_free: bool) -> Run:
    import particles
    from particles import distributions, smc_samplers

    if not hasattr(np, "float"):
        # Version 0.3 uses this name of the built-in, which NumPy 1.24 removed.
        setattr(np, "float", float)  # noqa: B010, whose remedy another rule refuses

    design, spread = posterior()

    class Logistic(smc_samplers.StaticModel):
        def loglik(self, theta, t=None):
            return -np.logaddexp(0.0, -theta @ design.T).sum(axis=1)

    prior = distributions.IndepProd(*[distributions.Normal(scale=s) for s in spread])
    # A chain counts its start.
    length = NUM_STEPS if waste_free else NUM_STEPS + 1

    def run(seed):
        np.random.seed(seed)  # noqa: NPY002, the package draws from the global state
        sampler = smc_samplers.AdaptiveTempering(
            model=Logistic(data=design, prior=prior), wastefree=waste_free, len_chain=length
        )
        algorithm = particles.SMC(fk=sampler, N=num // length if waste_free else num)
        algorithm.run()
        return float(algorithm.logLt), np.nan

    return run


def of_blackjax(num: int) -> Run:
    import blackjax
    from blackjax.mcmc import random_walk
    from blackjax.smc import extend_params, resampling
    from blackjax.smc.tuning.from_particles import particles_covariance_matrix

    design, spread = posterior()
    additive = random_walk.build_additive_step()

    def walk(key, state, log_density, factor):
        return additive(key, state, log_density, random_walk.normal(factor))

    def tuned(points):
        factor = jnp.linalg.cholesky(particles_covariance_matrix(points))
        return extend_params({"factor": 2.38 / np.sqrt(len(spread)) * factor})

    def sampler(points):
        return blackjax.inner_kernel_tuning(
            smc_algorithm=blackjax.adaptive_tempered_smc,
            logprior_fn=lambda x: norm.logpdf(x, 0.0, spread).sum(),
            loglikelihood_fn=lambda x: jax.nn.log_sigmoid(design @ x).sum(),
            mcmc_step_fn=walk,
            mcmc_init_fn=random_walk.init,
            resampling_fn=resampling.systematic,
            mcmc_parameter_update_fn=lambda key, state, info: tuned(state.particles),
            initial_parameter_value=tuned(points),
            target_ess=0.5,
            num_mcmc_steps=NUM_STEPS,
        )

    @jax.jit
    def sample(key):
        start_key, key = jax.random.split(key)
        points = spread * jax.random.normal(start_key, (num, len(spread)))
        algorithm = sampler(points)

        def stage(carry):
            key, state, log_evidence = carry
            step_key, key = jax.random.split(key)
            state, info = algorithm.step(step_key, state)
            return key, state, log_evidence + info.log_likelihood_increment

        start = key, algorithm.init(points), jnp.zeros(())
        start = jax.tree.map(jnp.asarray, start)
        unfinished = lambda carry: carry[1].sampler_state.tempering_param < 1.0
        return jax.lax.while_loop(unfinished, stage, start)[2]

    return lambda seed: (float(sample(jax.random.key(seed))), np.nan)


def of_pymc() -> Run:
    import pymc

    design, spread = posterior()
    logging.getLogger("pymc").setLevel(logging.ERROR)
    with pymc.Model() as model:
        x = pymc.Normal("x", 0.0, spread)
        pymc.Bernoulli("y", logit_p=design @ x, observed=np.ones(len(design)))

    def run(seed):
        found = pymc.sample_smc(
            model=model,
            chains=1,
            cores=1,
            random_seed=seed,
            progressbar=False,
            compute_convergence_checks=False,
        )
        by_stage = found.sample_stats["log_marginal_likelihood"].values.ravel()
        return float(by_stage[-1]), np.nan

    return run


def packages(num: int) -> dict[str, tuple[str, Callable[[], Run]]]:
    """Return the package and what builds its run, for each row."""
    import bayeskit as bk

    rows: dict[str, tuple[str, Callable[[], Run]]] = {
        f"SMC standard {num}": (
            "bayeskit",
            functools.partial(ours, num_particles=num, waste_free=False),
        ),
        "SMC waste-free 10 000, the default": ("bayeskit", ours),
        f"tempering {num}": ("particles", functools.partial(of_particles, num, False)),
        f"tempering waste-free {num}": (
            "particles",
            functools.partial(of_particles, num, True),
        ),
        f"adaptive_tempered_smc {num}": ("blackjax", functools.partial(of_blackjax, num)),
        "sample_smc 2000, the default": ("pymc", of_pymc),
    }
    if "bridge" in {field.name for field in dataclasses.fields(bk.SMC)}:
        rows["SMC bridge 10 000"] = "bayeskit", functools.partial(ours, bridge=True)
    return rows


def compare(num_particles: int, seeds: int, only: Sequence[str] = ()) -> list[dict]:
    """Run and print all rows; a run that is not installed says so."""
    rows = []
    for name, (package, build) in packages(num_particles).items():
        if only and package not in only:
            continue
        row = {"part": "smc_samplers", "package": package, "engine": name}
        try:
            row["version"] = importlib.metadata.version(package)
            with jax.enable_x64(True):
                row |= measured(build(), seeds)
        except ImportError as reason:
            row["skipped"] = str(reason)
        except Exception as reason:  # of a peer: the other rows go on
            row["failed"] = f"{type(reason).__name__}: {reason}"[:300]
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def measured(run: Run, seeds: int) -> dict:
    """Return seconds and errors over the seeds; the first run only compiles."""
    seconds, found = [], []
    for seed in (-1, *range(seeds)):
        start = time.process_time()
        found.append(run(seed % 1000))
        seconds.append(time.process_time() - start)
    estimates, reported = np.array(found[1:]).T
    errors = estimates - REFERENCES["breast_cancer"]
    return {
        "first_s": round(seconds[0], 2),
        "cpu_s": round(float(np.median(seconds[1:])), 2),
        "errors": np.round(errors, 3).tolist(),
        "root_mean_squared_error": round(float(np.sqrt(np.mean(errors**2))), 3),
        "reported_se": None if np.isnan(reported).any() else round(float(reported.mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-particles", type=int, default=1000, help="where it is not fixed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--packages", nargs="*", default=(), help="default: all")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = compare(arguments.num_particles, arguments.seeds, arguments.packages)
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
