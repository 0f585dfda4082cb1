"""Is the reported standard error of the log evidence honest? Many seeds, one number known.

Fits a logistic regression (predictors scaled to sd 0.5, prior sd 20 for the intercept and 5 for
the coefficients) with tempered SMC and compares the log evidence with a reference:

- breast cancer, 569 rows, 30 predictors: -58.68, on which importance sampling with 100 000
  draws (-58.679, standard error 0.007) and bridge sampling (-58.682, -58.684) agree;
- Pima, 768 rows, 8 predictors: -392.8665, standard error 0.0014, by importance sampling;
- sonar, 208 rows, 60 predictors: -125.46, standard error 0.03, by bridge and importance
  sampling around long chains.

``--bridge`` starts from a Student-t distribution with the moments of a pilot run instead of the
prior. Prints one JSON line for each seed and one that sums up: errors, how many of the
intervals "estimate ± 2 standard errors" hold the reference, and the ratio of the spread over
seeds to the mean reported standard error, which is 1 for an honest one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(REFERENCES), default="breast_cancer")
    parser.add_argument("--num-chains", type=int, help="chains of a waste-free move")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--num-particles", type=int, default=20_000)
    parser.add_argument("--keep-last", action="store_true", help="standard SMC, no waste-free")
    parser.add_argument("--bridge", action="store_true", help="SMC(bridge=True)")
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
        bridge=arguments.bridge,
        progress=False,
    )
    warnings.simplefilter("ignore")
    errors, reported, seconds = [], [], []
    for seed in range(arguments.seeds):
        start = time.process_time()
        model = bk.BayesianModel(logistic, inference=engine, random_state=seed)
        posterior = model.fit(X, y).result_
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
        "bridge": arguments.bridge,
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
