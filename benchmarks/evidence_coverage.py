"""Is the reported standard error of the log evidence honest? Many seeds, one number known.

Fits a logistic regression (predictors scaled to sd 0.5, prior sd 20 for the intercept and 5 for
the coefficients) with tempered SMC and compares the log evidence with a reference:

- breast cancer, 569 rows, 30 predictors: -58.68, on which importance sampling with 100 000
  draws (-58.679, standard error 0.007) and bridge sampling (-58.682, -58.684) agree;
- Pima, 768 rows, 8 predictors: -392.8665, standard error 0.0014, by importance sampling;
- sonar, 208 rows, 60 predictors: -125.46, standard error 0.03, by bridge and importance
  sampling around long chains.

Prints one JSON line for each seed and one that sums up: errors, how many of the intervals
"estimate ± 2 standard errors" hold the reference, and the ratio of the spread over seeds to the
mean reported standard error, which is 1 for an honest one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REFERENCES = {"breast_cancer": -58.68, "pima": -392.8665, "sonar": -125.46}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled predictors and labels; all but breast cancer are reference data."""
    if name == "breast_cancer":
        from sklearn.datasets import load_breast_cancer

        X, y = load_breast_cancer(return_X_y=True)
    else:
        beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
        folder = Path(os.environ.get("BAYESKIT_REFERENCE_DATA", beside))
        table = np.genfromtxt(folder / "core" / f"{name}.csv", delimiter=",")
        table = table[~np.isnan(table).any(axis=1)]  # without the names of the columns
        X, y = table[:, :-1], table[:, -1]
    return (X - X.mean(axis=0)) / X.std(axis=0) * 0.5, y


def bridged_fit(X: np.ndarray, y: np.ndarray, pilot: Any, engine: Any) -> Callable:
    """Return a function of a seed: a pilot run, then tempering from a distribution like it."""
    import jax
    import jax.numpy as jnp
    from jax.scipy.special import gammaln
    from jax.scipy.stats import norm

    import bayeskit as bk
    from bayeskit import inference as bi

    design = np.column_stack([np.ones(len(X)), X]) * (2 * y - 1)[:, None]
    dim, freedom = design.shape[1], 5
    spread = np.array([20.0] + [5.0] * (dim - 1))
    target = bk.Target(
        log_prior=lambda x: norm.logpdf(x, 0.0, spread).sum(),
        log_likelihood=lambda x, design: jax.nn.log_sigmoid(design @ x).sum(),
        sample_prior=lambda key: spread * bi.random.normal(key, (dim,)),
        data=(design,),
    )

    def log_student(x, mean, factor):
        z = jax.scipy.linalg.solve_triangular(factor, x - mean, lower=True)
        power = (freedom + dim) / 2
        constant = gammaln(power) - gammaln(freedom / 2) - dim / 2 * jnp.log(freedom * jnp.pi)
        log_det = jnp.log(jnp.diagonal(factor)).sum()
        return constant - log_det - power * jnp.log1p(z @ z / freedom)

    def draw_student(key, mean, factor):
        normal_key, scale_key = bi.random.split(key)
        scale = jnp.mean(bi.random.normal(scale_key, (freedom,)) ** 2)
        return mean + factor @ bi.random.normal(normal_key, (dim,)) / jnp.sqrt(scale)

    def fit(seed):
        with jax.enable_x64(True):
            pilot_key, key = jax.random.split(jax.random.key(seed))
            draws = pilot.run(target, key=pilot_key).positions.reshape(-1, dim)
            moments = (draws.mean(axis=0), np.linalg.cholesky(np.cov(draws.T)))
            bridge = bi.geometric_bridge(target, log_student, draw_student, moments)
            return engine.run(bridge, key=key)

    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(REFERENCES), default="breast_cancer")
    parser.add_argument("--num-chains", type=int, help="chains of a waste-free move")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--num-particles", type=int, default=20_000)
    parser.add_argument("--keep-last", action="store_true", help="standard SMC, no waste-free")
    parser.add_argument(
        "--pilot",
        type=int,
        metavar="NUM",
        help="start from a Student-t distribution with the moments of a run of NUM particles",
    )
    arguments = parser.parse_args()

    import numpyro
    import numpyro.distributions as dist

    import bayeskit as bk

    X, y = load(arguments.data)

    def logistic(X, y=None):
        intercept = numpyro.sample("intercept", dist.Normal(0.0, 20.0))
        prior = dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1)
        coefficients = numpyro.sample("coefficients", prior)
        numpyro.sample("y", dist.Bernoulli(logits=intercept + X @ coefficients), obs=y)

    engine = bk.SMC(
        num_particles=arguments.num_particles,
        waste_free=not arguments.keep_last,
        num_chains=arguments.num_chains,
        progress=False,
    )
    warnings.simplefilter("ignore")
    if arguments.pilot:
        fit = bridged_fit(X, y, bk.SMC(num_particles=arguments.pilot, progress=False), engine)
    else:
        fit = lambda seed: (
            bk.BayesianModel(logistic, inference=engine, random_state=seed).fit(X, y).result_
        )
    errors, reported, seconds = [], [], []
    for seed in range(arguments.seeds):
        start = time.process_time()
        posterior = fit(seed)
        seconds.append(time.process_time() - start)
        errors.append(posterior.log_evidence - REFERENCES[arguments.data])
        reported.append(posterior.log_evidence_se)
        row = {
            "seed": seed,
            "log_evidence": posterior.log_evidence,
            "se": posterior.log_evidence_se,
            "stages": len(posterior.history["inverse_temperature"]),
            "cpu_s": round(seconds[-1], 2),
        }
        print(json.dumps(row), flush=True)
    errors, reported = np.array(errors), np.array(reported)
    summary = {
        "data": arguments.data,
        "pilot": arguments.pilot,
        "num_particles": arguments.num_particles,
        "waste_free": not arguments.keep_last,
        "seeds": arguments.seeds,
        "mean_error": errors.mean(),
        "max_abs_error": np.abs(errors).max(),
        "within_0.1": int((np.abs(errors) <= 0.1).sum()),
        "covered_by_2_se": int((np.abs(errors) <= 2 * reported).sum()),
        "sd_over_seeds": errors.std(ddof=1),
        "mean_reported_se": reported.mean(),
        "spread_over_reported": errors.std(ddof=1) / reported.mean(),
        "cpu_s_after_first": float(np.median(seconds[1:])) if len(seconds) > 1 else None,
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
