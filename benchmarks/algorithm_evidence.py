"""Does each engine give what it promises? Ranks of the truth, and errors of known evidences.

    python benchmarks/algorithm_evidence.py [--num 200] [--only SMC,NUTS] [--out FILE]

Parameters are drawn from the prior and data given them, many times; each data set is fitted. If
the draws come from the posterior, the rank of the truth among 99 of them is uniform on 0..99
(simulation-based calibration). The log evidence of every data set is known here, so that each
fit has an error as well, to be held against the standard error that it reports.

Two families, neither of which is symmetric:

- *pairs*: a Poisson rate with a Gamma prior and a coin with a Beta prior, ten observations of
  each. Evidence in closed form.
- *walk*: a hidden walk with an unknown decay, uniform on (0, 1), and 15 noisy observations.
  Evidence by a Kalman filter on a grid of decays; with the decay given, by one Kalman filter.

Ranks are those of parameters, of the first and the last state, and of the log-likelihood: ranks
of parameters alone cannot tell a posterior from a prior. CPU seconds are those of a fit after
the first, whose programs are compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Before JAX and NumPy are loaded: idle threads wait by spinning, which counts as work.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from scipy import special, stats  # noqa: E402

import bayeskit as bk  # noqa: E402

NUM_RANKED = 99
NUM_STEPS = 15
NOISE = 0.7
GRID = (np.arange(400) + 0.5) / 400


@dataclass(frozen=True)
class Case:
    """Data that can be simulated, a model for them, and what is known of it.

    Parameters
    ----------
    model : NumPyro model or StateSpaceModel
    simulate : callable (generator) -> (truth, data)
        Two dicts of arrays.
    log_evidence : callable (data) -> float
    log_likelihood : callable (draws, data) -> (num,) array, or None where nothing is unknown
    """

    name: str
    model: object
    simulate: Callable
    log_evidence: Callable
    log_likelihood: Callable


# ---------------------------------------------------------------- pairs


def pairs_model(counts, flips):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    share = numpyro.sample("share", dist.Beta(2.0, 5.0))
    with numpyro.plate("observation", 10):
        numpyro.sample("counts", dist.Poisson(rate), obs=counts)
        numpyro.sample("flips", dist.Bernoulli(share), obs=flips)


def simulate_pairs(rng):
    truth = {"rate": rng.gamma(2.0, 1.0), "share": rng.beta(2.0, 5.0)}
    counts, flips = rng.poisson(truth["rate"], 10), rng.random(10) < truth["share"]
    return truth, {"counts": counts, "flips": flips.astype(int)}


def log_evidence_of_pairs(data):
    n, heads = data["counts"].sum(), data["flips"].sum()
    # The Gamma prior has rate 1 and Gamma(2) = 1; ten observations add 10 to the rate.
    counts = special.gammaln(2 + n) - (2 + n) * np.log(11.0)
    counts -= special.gammaln(data["counts"] + 1).sum()
    return counts + special.betaln(2 + heads, 15 - heads) - special.betaln(2, 5)


def log_likelihood_of_pairs(draws, data):
    counts = stats.poisson.logpmf(data["counts"], np.asarray(draws["rate"])[:, None])
    flips = stats.bernoulli.logpmf(data["flips"], np.asarray(draws["share"])[:, None])
    return counts.sum(axis=1) + flips.sum(axis=1)


# ---------------------------------------------------------------- walk


def walk_model(decay):
    return bk.StateSpaceModel(
        initial=lambda p: dist.Normal(0.0, 1.0),
        transition=lambda p, x, t: dist.Normal(p["decay"] * x, 1.0),
        observation=lambda p, x, t: dist.Normal(x, NOISE),
        params={"decay": decay},
        name="walk",
    )


def simulate_walk(rng, decay=None):
    decay = rng.uniform() if decay is None else decay
    x = np.empty(NUM_STEPS)
    x[0] = rng.normal()
    for t in range(1, NUM_STEPS):
        x[t] = decay * x[t - 1] + rng.normal()
    truth = {"decay": decay, "first": x[0], "last": x[-1]}
    return truth, {"y": x + NOISE * rng.normal(size=NUM_STEPS)}


def kalman(decay, y):
    """Return the log-likelihood of each decay, (num,)."""
    mean, variance = np.zeros_like(decay), np.ones_like(decay)
    total = np.zeros_like(decay)
    for t, value in enumerate(y):
        if t:
            mean, variance = decay * mean, decay**2 * variance + 1.0
        spread = variance + NOISE**2
        total = total + stats.norm.logpdf(value, mean, np.sqrt(spread))
        gain = variance / spread
        mean, variance = mean + gain * (value - mean), variance * (1.0 - gain)
    return total


def log_evidence_of_walk(data):
    # The midpoint rule on the support of the uniform prior.
    return float(special.logsumexp(kalman(GRID, data["y"])) - np.log(len(GRID)))


def log_likelihood_of_walk(draws, data):
    return kalman(np.asarray(draws["decay"], float), data["y"])


PAIRS = Case(
    "pairs", pairs_model, simulate_pairs, log_evidence_of_pairs, log_likelihood_of_pairs
)
WALK = Case(
    "walk",
    walk_model(dist.Uniform(0.0, 1.0)),
    simulate_walk,
    log_evidence_of_walk,
    log_likelihood_of_walk,
)
GIVEN = Case(
    "walk, decay 0.8 given",
    walk_model(0.8),
    lambda rng: simulate_walk(rng, 0.8),
    lambda data: float(kalman(np.array(0.8), data["y"])),
    lambda draws, data: None,
)
SILENT = {"progress": False}
RUNS = {
    "EnsembleHMC": (PAIRS, bk.EnsembleHMC(**SILENT)),
    "NUTS": (PAIRS, bk.NUTS(num_warmup=500, num_draws=500, **SILENT)),
    "SMC": (PAIRS, bk.SMC(num_particles=2000, **SILENT)),
    "SMC unbiased": (PAIRS, bk.SMC(num_particles=2000, unbiased=True, **SILENT)),
    "ParallelTempering": (PAIRS, bk.ParallelTempering(num_draws=500, **SILENT)),
    "ParticleFilter": (GIVEN, bk.ParticleFilter(500, num_paths=NUM_RANKED, **SILENT)),
    "PMMH": (WALK, bk.PMMH(num_particles=100, num_draws=1000, **SILENT)),
    "ParticleGibbs": (WALK, bk.ParticleGibbs(num_particles=20, num_draws=1000, **SILENT)),
    "SMC2": (WALK, bk.SMC2(num_parameters=400, num_particles=100, **SILENT)),
}


# ---------------------------------------------------------------- many fits


def draws_of(est, seed):
    """Return 99 draws of each named quantity that the engine has."""
    draws = dict(est.sample(NUM_RANKED, random_state=seed))
    if "x" in draws:
        draws["first"], draws["last"] = draws["x"][:, 0], draws["x"][:, -1]
    elif "x_last" in draws:
        draws["last"] = draws["x_last"]
    return draws


def one_fit(case, engine, seed):
    rng = np.random.default_rng([seed, 7])
    truth, data = case.simulate(rng)
    start = time.process_time()
    est = bk.BayesianModel(case.model, inference=engine, random_state=seed)
    est.fit(**data)
    seconds = time.process_time() - start
    draws = draws_of(est, seed)
    pairs = {name: (value, draws[name]) for name, value in truth.items() if name in draws}
    likelihoods = case.log_likelihood(draws, data)
    if likelihoods is not None:
        scalars = {name: np.array([value]) for name, value in truth.items()}
        pairs["log-likelihood"] = (case.log_likelihood(scalars, data)[0], likelihoods)
    ranks = {}
    for name, (value, others) in pairs.items():
        ties = int(np.sum(others == value))
        ranks[name] = int(np.sum(others < value)) + int(rng.integers(0, ties + 1))
    result = est.result_
    error = stated = None
    if result.log_evidence is not None:
        error = float(result.log_evidence - case.log_evidence(data))
        stated = result.log_evidence_se
    return ranks, error, stated, seconds


def measure(name, num):
    case, engine = RUNS[name]
    warnings.simplefilter("ignore", bk.errors.BayeskitWarning)
    fits = [one_fit(case, engine, seed) for seed in range(num)]
    row = {
        "engine": name,
        "case": case.name,
        "settings": repr(engine),
        "num": num,
        "ranks": {key: [fit[0][key] for fit in fits] for key in fits[0][0]},
        "cpu_s": round(float(np.median([fit[3] for fit in fits[1:]])), 3),
        "version": bk.__version__,
    }
    if fits[0][1] is not None:
        row["errors"] = [round(fit[1], 5) for fit in fits]
    if fits[0][2] is not None:
        row["stated"] = [round(float(fit[2]), 5) for fit in fits]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        row = measure(name, arguments.num)
        line = json.dumps(row)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(line + "\n")
        errors = np.array(row.get("errors", [np.nan]))
        print(
            f"{name:18} {row['cpu_s']:.3f} s a fit, log evidence: bias {errors.mean():.4f}, "
            f"rms {np.sqrt(np.mean(errors**2)):.4f}, "
            f"stated {np.mean(row.get('stated', [np.nan])):.4f}; p-values of ranks "
            + ", ".join(
                f"{key} {stats.chisquare(np.histogram(r, 10, (0, 100))[0]).pvalue:.3f}"
                for key, r in row["ranks"].items()
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
