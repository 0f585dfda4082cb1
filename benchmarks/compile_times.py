"""How long the first call of whole algorithms takes to build, beside other packages.

    python benchmarks/compile_times.py [--repeats 3] [--out FILE] [--check FILE]

CPU seconds of one thread without any cache of compiled programs, and the budget for ours, which
was set on another machine. A NUTS step is one program; of the other algorithms the first call
is timed, less the second. `python -m bayeskit.accel.bench --kernels programs` has programs on
plain arrays. A package that is not installed is left out: `pip install blackjax cuthbert`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.bench import stored
from bayeskit.accel.bench.machine import describe, use_one_thread
from bayeskit.accel.bench.peers import is_installed
from bayeskit.accel.bench.programs import Program, measure_programs
from bayeskit.accel.bench.table import render

Made = tuple[Callable, tuple]
DIM = 5


def logistic_data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, DIM))
    return X, (rng.random(100) < 1 / (1 + np.exp(-X @ np.ones(DIM)))).astype(float)


def log_prior(x):
    return -0.5 * jnp.sum(x**2) - 0.5 * DIM * np.log(2 * np.pi)


def log_likelihood(x, X, y):
    logits = X @ x
    return jnp.sum(y * logits - jnp.logaddexp(0.0, logits))


def logistic_target():
    import bayeskit as bk
    from bayeskit.inference import random

    return bk.Target(
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        sample_prior=lambda key: random.normal(key, (DIM,)),
        data=logistic_data(),
    )


def log_posterior(x):
    return log_prior(x) + log_likelihood(x, *logistic_data())


# ---------------------------------------------------------------- one NUTS step


def nuts_step() -> Made:
    from bayeskit.inference import NoUTurn
    from bayeskit.inference.measure import Density

    kernel, target = NoUTurn(), logistic_target()

    def step(key, x):
        density = Density(target, jnp.ones(target.num_components, x.dtype))
        tuning = kernel.default_tuning(DIM, x.dtype)
        return kernel.step(key, kernel.init(x, density), density, tuning)[0].position

    return step, (jax.random.key(0), np.zeros(DIM, np.float32))


def quick_nuts_step() -> Made:
    """As the engines compile it."""
    from bayeskit.accel.compilation import quick_jit

    step, arguments = nuts_step()
    return quick_jit(step), arguments


def nuts_step_of_blackjax() -> Made:
    import blackjax

    sampler = blackjax.nuts(log_posterior, 0.5, jnp.ones(DIM))
    step = lambda key, x: sampler.step(key, sampler.init(x))[0].position
    return step, (jax.random.key(0), np.zeros(DIM, np.float32))


# ---------------------------------------------------------------- tempered SMC, HMC moves


def tempered() -> Made:
    from bayeskit import inference as bi

    block = bi.tempered_smc(logistic_target(), bi.HMC(), 1000)
    return lambda key: bi.run(block, key).log_evidence, (jax.random.key(0),)


def tempered_of_blackjax() -> Made:
    import blackjax
    from blackjax.smc import extend_params, resampling

    parameters = {
        "step_size": 0.3,
        "inverse_mass_matrix": jnp.ones(DIM),
        "num_integration_steps": 5,
    }
    X, y = logistic_data()
    sampler = blackjax.adaptive_tempered_smc(
        log_prior,
        lambda x: log_likelihood(x, X, y),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        extend_params(parameters),
        resampling.systematic,
        0.5,
        num_mcmc_steps=5,
    )

    @jax.jit
    def run(key):
        start_key, key = jax.random.split(key)
        points = jax.random.normal(start_key, (1000, DIM))

        def stage(carry):
            key, state, log_evidence = carry
            step_key, key = jax.random.split(key)
            state, info = sampler.step(step_key, state)
            return key, state, log_evidence + info.log_likelihood_increment

        start = jax.tree.map(jnp.asarray, (key, sampler.init(points), jnp.zeros(())))
        return jax.lax.while_loop(lambda c: c[1].tempering_param < 1.0, stage, start)[2]

    return run, (jax.random.key(0),)


# ---------------------------------------------------------------- a bootstrap filter


def particle_filter() -> Made:
    from benchmarks.particle_filters import StochasticVolatility, ours

    return ours(StochasticVolatility(), 10_000, jnp.float32), (0,)


def particle_filter_of_cuthbert() -> Made:
    from benchmarks.particle_filters import StochasticVolatility, of_cuthbert

    return of_cuthbert(StochasticVolatility(), 10_000, jnp.float32), (0,)


# ---------------------------------------------------------------- NUTS, 500 + 500


def nuts() -> Made:
    import bayeskit as bk

    engine = bk.NUTS(num_warmup=500, num_draws=500, num_chains=1, progress=False)
    target = logistic_target()
    return lambda seed: engine.run(target, key=seed).num_draws, (0,)


def nuts_of_numpyro() -> Made:
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    X, y = (jnp.asarray(a, jnp.float32) for a in logistic_data())

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([DIM]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=X @ x), obs=y)

    def run(seed):
        mcmc = MCMC(NUTS(model), num_warmup=500, num_samples=500, progress_bar=False)
        mcmc.run(jax.random.key(seed))
        return mcmc.get_samples()

    return run, (0,)


GROUPS = {
    "NUTS step, logistic": [
        ("bayeskit", "NoUTurn", 1, nuts_step, 0.9, False),
        ("bayeskit", "NoUTurn, quick_jit", 1, quick_nuts_step, 0.9, True),
        ("blackjax", "nuts", 1, nuts_step_of_blackjax, None, False),
    ],
    "tempered SMC, HMC, 1000 particles": [
        ("bayeskit", "tempered_smc", 1, tempered, 2.0, True),
        ("blackjax", "adaptive_tempered_smc", 1, tempered_of_blackjax, None, True),
    ],
    "bootstrap filter, 10 000 particles": [
        ("bayeskit", "particle_filter", 1000, particle_filter, 0.8, True),
        ("cuthbert", "particle_filter", 1000, particle_filter_of_cuthbert, None, True),
    ],
    "NUTS 500 + 500, logistic": [
        ("bayeskit", "NUTS", 1000, nuts, 3.0, True),
        ("numpyro", "NUTS", 1000, nuts_of_numpyro, None, True),
    ],
}


def measure(name: str, facts: dict, repeats: int) -> list[dict]:
    """Return a row for each package of a group that is installed."""
    programs = [
        Program(name, package, of_package, length, make, budget, in_parts)
        for package, of_package, length, make, budget, in_parts in GROUPS[name]
        if is_installed(package)
    ]
    return measure_programs(programs, facts, repeats)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", nargs="*", default=GROUPS, choices=GROUPS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    before = stored.read(arguments.check) if arguments.check else []
    use_one_thread()
    facts = {**describe(np.float32), "mode": "first call"}
    rows = [row for name in arguments.groups for row in measure(name, facts, arguments.repeats)]
    print(render(rows))
    if arguments.out:
        stored.write(rows, arguments.out)
    if not arguments.check:
        return 0
    found = stored.compare(rows, before)
    for slower in found.slower:
        print(f"slower: {slower}", file=sys.stderr)
    return 1 if found.slower else 0


if __name__ == "__main__":
    sys.exit(main())
