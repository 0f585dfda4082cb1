"""Bootstrap filters side by side: CPU seconds, ratios, and the error of the log evidence.

    python benchmarks/particle_filters.py [--num-particles 10000] [--repeats 5] [--out FILE]

Two models, a thousand times each: a linear Gaussian one, whose evidence is known, and
stochastic volatility. Systematic resampling below half of the particles everywhere. One core:
where XLA has more, its idle threads wait by spinning, and CPU seconds count that as work. Calls
of the packages take turns, so that all meet the same load of the machine; each figure is the
quickest of the repeats after a first call that compiles. A package that is not installed is
left out: `pip install particles cuthbert`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

# Before JAX and NumPy are loaded.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

NUM_STEPS = 1000
_LOG_2_PI = float(np.log(2 * np.pi))


def normal_log_density(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * _LOG_2_PI


# ---------------------------------------------------------------- models and their data


class LinearGaussian:
    """x_t = 0.9 x_(t-1) + noise, y_t = x_t + noise, stationary start."""

    name = "linear Gaussian"

    def __init__(self):
        rng = np.random.default_rng(0)
        x = np.empty(NUM_STEPS)
        x[0] = rng.normal() / np.sqrt(1 - 0.81)
        for t in range(1, NUM_STEPS):
            x[t] = 0.9 * x[t - 1] + rng.normal()
        self.y = x + rng.normal(size=NUM_STEPS)
        self.start_scale = 1 / np.sqrt(1 - 0.81)
        self.exact = self._kalman()

    def _kalman(self) -> float:
        mean, variance, total = 0.0, self.start_scale**2, 0.0
        for t, y in enumerate(self.y):
            if t:
                mean, variance = 0.9 * mean, 0.81 * variance + 1.0
            spread = variance + 1.0
            total += normal_log_density(y, mean, np.sqrt(spread))
            mean, variance = mean + variance / spread * (y - mean), variance / spread
        return total

    def start(self, noise):
        return self.start_scale * noise

    def move(self, x, noise):
        return 0.9 * x + noise

    def log_g(self, x, y, xp):
        return -0.5 * (y - x) ** 2 - 0.5 * _LOG_2_PI


class StochasticVolatility:
    """x_t = mu + rho (x_(t-1) - mu) + sigma noise, y_t = exp(x_t / 2) noise."""

    name = "stochastic volatility"
    exact = None
    mu, rho, sigma = -1.0, 0.95, 0.3

    def __init__(self):
        rng = np.random.default_rng(1)
        x = self.start(rng.normal())
        self.y = np.empty(NUM_STEPS)
        for t in range(NUM_STEPS):
            x = self.move(x, rng.normal()) if t else x
            self.y[t] = np.exp(0.5 * x) * rng.normal()

    def start(self, noise):
        return self.mu + self.sigma / np.sqrt(1 - self.rho**2) * noise

    def move(self, x, noise):
        return self.mu + self.rho * (x - self.mu) + self.sigma * noise

    def log_g(self, x, y, xp):
        return -0.5 * (x + y**2 * xp.exp(-x)) - 0.5 * _LOG_2_PI


# ---------------------------------------------------------------- packages

Run = Callable[[int], float]  # seed -> log evidence


def ours(model, num: int, dtype) -> Run:
    from bayeskit import FeynmanKac
    from bayeskit import inference as bi

    y = jnp.asarray(model.y, dtype)
    noise = lambda key: bi.random.normal(key, (), dtype)
    fk = FeynmanKac(
        initial=lambda key: model.start(noise(key)),
        log_g0=lambda x: model.log_g(x, y[0], jnp),
        kernel=lambda key, t, x: model.move(x, noise(key)),
        log_g=lambda t, x_previous, x: model.log_g(x, y[t], jnp),
        num_steps=NUM_STEPS,
    )
    block = bi.particle_filter(fk, num)
    return lambda seed: float(bi.run(block, seed).log_evidence)


def of_cuthbert(model, num: int, dtype) -> Run:
    from cuthbert import filter as run_filter
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import systematic
    from cuthbertlib.resampling.adaptive import ess_decorator

    y = jnp.asarray(model.y, dtype)
    built = particle_filter.build_filter(
        init_sample=lambda key: model.start(jax.random.normal(key, (), dtype)),
        propagate_sample=lambda key, x, t: jnp.where(
            t == 0, x, model.move(x, jax.random.normal(key, (), dtype))
        ),
        log_potential=lambda x_previous, x, t: model.log_g(x, y[t], jnp),
        n_filter_particles=num,
        resampling_fn=ess_decorator(systematic.resampling, 0.5),
    )

    @jax.jit
    def run(key):
        start_key, key = jax.random.split(key)
        start = built.init_prepare(key=start_key)
        states = run_filter(built, jnp.arange(NUM_STEPS), start, key=key)
        return states.log_normalizing_constant[-1]

    return lambda seed: float(run(jax.random.key(seed)))


def of_particles(model, num: int, dtype) -> Run:
    import particles
    from particles import FeynmanKac

    class Bootstrap(FeynmanKac):
        def M0(self, N):
            return model.start(np.random.normal(size=N))  # noqa: NPY002

        def M(self, t, xp):
            return model.move(xp, np.random.normal(size=xp.shape))  # noqa: NPY002

        def logG(self, t, xp, x):
            return model.log_g(x, model.y[t], np)

    def run(seed):
        np.random.seed(seed)  # noqa: NPY002, its resampling draws from the global state
        algorithm = particles.SMC(
            fk=Bootstrap(T=NUM_STEPS), N=num, resampling="systematic", ESSrmin=0.5
        )
        algorithm.run()
        return float(algorithm.logLt)

    return run


PACKAGES = {
    "bayeskit float32": ("bayeskit", ours, jnp.float32),
    "bayeskit float64": ("bayeskit", ours, jnp.float64),
    "particles float64": ("particles", of_particles, jnp.float64),
    "cuthbert float32": ("cuthbert", of_cuthbert, jnp.float32),
    "cuthbert float64": ("cuthbert", of_cuthbert, jnp.float64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-particles", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for model in (LinearGaussian(), StochasticVolatility()):
        rows += compare(model, arguments.num_particles, arguments.repeats)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


def use_precision(dtype) -> None:
    # The global flag, since cuthbert calls back to NumPy, where a local scope is not seen.
    jax.config.update("jax_enable_x64", dtype == jnp.float64)


def compare(model, num: int, repeats: int) -> list[dict]:
    runs: dict[str, Run] = {}
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    for name, (_, build, dtype) in PACKAGES.items():
        use_precision(dtype)
        began = time.process_time()
        try:
            runs[name] = build(model, num, dtype)
        except ImportError as missing:
            print(f"{name}: left out, {missing}")
            continue
        values[name] = [runs[name](0)]
        first[name] = time.process_time() - began
        times[name] = []
    for seed in range(1, repeats + 1):
        for name, run in runs.items():
            use_precision(PACKAGES[name][2])
            began = time.process_time()
            values[name].append(run(seed))
            times[name].append(time.process_time() - began)
    # Where no value is known, the mean of all runs of doubles stands for it.
    doubles = [np.mean(v) for n, v in values.items() if n.endswith("64")]
    exact = model.exact if model.exact is not None else float(np.mean(doubles))
    rows = []
    for name in runs:
        row = {
            "model": model.name,
            "package": name,
            "version": importlib.metadata.version(PACKAGES[name][0]),
            "jax": jax.__version__,
            "num_particles": num,
            "cpu_s": round(min(times[name]), 4),
            "ns_per_particle_step": round(min(times[name]) / num / NUM_STEPS * 1e9, 1),
            "ratio_to_ours_float64": round(
                min(times[name]) / min(times["bayeskit float64"]), 2
            ),
            "ratio_to_ours_float32": round(
                min(times[name]) / min(times["bayeskit float32"]), 2
            ),
            "first_call_s": round(first[name], 2),
            "mean_log_evidence_error": round(float(np.mean(values[name])) - exact, 3),
            "sd_log_evidence": round(float(np.std(values[name], ddof=1)), 3),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
