"""Figure 1(a) of the DSL paper: bias, coverage and error by the accuracy of the surrogate.

    python benchmarks/dsl_figure1.py
    python benchmarks/dsl_figure1.py --runs 100 --accuracies 0.5 0.9

2000 runs at each of five accuracies: 5000 rows, ten normal covariates, a tenth of the
outcomes labelled at random, and the logit of y on X1, X1^2, X2 and X4, which is not the true
model. As in the paper the learner sees the surrogate and X8, in 2 folds, once; here it is least
squares. All runs of a batch are solved at once by the package's Newton solver. Compared are
surrogates alone, labels alone, DSL, and DSL with power tuning. Bias is the root mean square
over coefficients of the mean error, over that of the truth; coverage and RMSE are means over
the five coefficients.

The published results, as stored by the authors, are looked for in $BAYESKIT_REFERENCE_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from bayeskit.models.dsl.links import LINKS
from bayeskit.models.dsl.moments import Rows, jacobian, row_moments, total_moment
from bayeskit.models.dsl.newton import find_roots

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "dsl_figure1.json"
ACCURACIES = (0.5, 0.7, 0.8, 0.9, 0.95)
NUM_ROWS, SHARE, NUM_FOLDS, BATCH = 5000, 0.1, 2, 25
TERMS = ("Intercept", "X1", "X1^2", "X2", "X4")
LOGIT = LINKS["logit"]


def covariates(generator, shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the design, the probability of y = 1, and X8."""
    X = generator.normal(size=(*shape, 10))
    X1, X2, X3, X4, X6 = (X[..., j - 1] for j in (1, 2, 3, 4, 6))
    eta = (
        -1.0
        + 0.1 / (1 + np.exp(0.5 * X3 - 0.5 * X2))
        + 1.3 * X4 / (1 + np.exp(-0.1 * X2))
        + 1.5 * X4 * X6
        + 0.5 * X1 * X2
        + 0.3 * X1
        + 0.2 * X2
    )
    design = np.stack([np.ones_like(X1), X1, X1**2, X2, X4], axis=-1)
    return design, 1 / (1 + np.exp(-eta)), X[..., 7]


def solve(x, y, weight, start=None):
    """Return the roots (runs, parameters) of all runs at once."""
    rows = Rows(x, x, y[..., None])
    start = np.zeros((len(x), x.shape[-1])) if start is None else start
    n = x.shape[1]
    found = find_roots(
        lambda theta: total_moment(LOGIT, theta, rows, weight) / n,
        lambda theta: jacobian(LOGIT, theta, rows, weight) / n,
        start,
    )
    if not found.converged.all():
        raise RuntimeError(f"{int((~found.converged).sum())} runs have no solution")
    return found.theta


def true_coefficients(num_parts: int = 20, num_rows: int = 1_000_000) -> np.ndarray:
    """Return what the regression tends to, from probabilities in place of outcomes."""
    generator = np.random.default_rng(2023)
    found = []
    for _ in range(num_parts):
        x, probability, _ = covariates(generator, (1, num_rows))
        found.append(solve(x, probability, np.ones((1, num_rows)))[0])
    return np.mean(found, axis=0)


def cross_fitted(features, y, labeled, folds):
    """Return least-squares predictions (runs, rows) from the labels of other folds."""
    guess = np.empty(y.shape)
    for k in range(NUM_FOLDS):
        train = (labeled & (folds != k)).astype(float)
        transposed = (train[..., None] * features).transpose(0, 2, 1)
        right = (transposed @ y[..., None])[..., 0]
        coef = np.linalg.solve(transposed @ features, right[..., None])
        guess = np.where(folds == k, (features @ coef)[..., 0], guess)
    return guess


def fit(x, y, guess, ratio, power):
    """Return estimates, standard errors, and what lambda is chosen from, for all runs.

    The moments are linear in the outcome, so that labels and predictions of a row are one row:
    with weights v = lambda (1 - R/pi) + R/pi, and v times the outcome mixed likewise.
    """
    n = x.shape[1]
    ahead = power * (1 - ratio)
    weight = ahead + ratio
    total = ahead * guess + ratio * np.where(ratio > 0, y, 0.0)
    mixed = np.where(weight != 0, total / np.where(weight != 0, weight, 1.0), 0.0)
    theta = solve(x, mixed, weight)
    rows = Rows(x, x, mixed[..., None])
    moments = weight[..., None] * row_moments(LOGIT, theta, rows)
    bread = np.linalg.inv(jacobian(LOGIT, theta, rows, weight) / n)
    meat = moments.transpose(0, 2, 1) @ moments / n
    variance = bread @ meat @ bread.transpose(0, 2, 1) / n
    return theta, np.sqrt(np.diagonal(variance, axis1=1, axis2=2)), bread


def best_power(x, y, guess, labeled, theta, bread, share):
    """Return the lambda (runs, 1) with the least trace of the variance, 0 where it is noise."""
    p = LOGIT.mean(np.einsum("rnp,rp->rn", x, theta)[..., None])[..., 0]
    # Rows times the bread, so that the trace is a sum of squares.
    scaled = x @ bread.transpose(0, 2, 1)
    rest = np.sum(scaled**2, axis=-1) * (guess - p) * (1 / share - 1)[:, None]
    square = rest * (guess - p)
    half = labeled * rest * (y - p) / share[:, None]
    best = (half.sum(axis=1) / square.sum(axis=1))[:, None]
    error = np.linalg.norm(half - best * square, axis=1) / square.sum(axis=1)
    return np.where(best >= 2 * error[:, None], np.clip(best, 0.0, 1.0), 0.0)


def simulate(num_runs: int, accuracies, seed: int = 0) -> dict[float, dict[str, Any]]:
    """Return estimates and standard errors by accuracy and method."""
    found: dict[float, dict[str, list]] = {a: {} for a in accuracies}
    for first in range(0, num_runs, BATCH):
        generator = np.random.default_rng([seed, first])
        num = min(BATCH, num_runs - first)
        x, probability, x8 = covariates(generator, (num, NUM_ROWS))
        y = (generator.random(probability.shape) < probability).astype(float)
        labeled = generator.random(y.shape) < SHARE
        share = labeled.mean(axis=1)
        ratio = labeled / share[:, None]
        folds = np.argsort(generator.random(y.shape), axis=1) % NUM_FOLDS
        noise = generator.random(y.shape)
        gold = fit(x, y, np.zeros_like(y), ratio, 0.0)
        for accuracy in accuracies:
            surrogate = np.where(noise < accuracy, y, 1 - y)
            features = np.stack([np.ones_like(y), surrogate, x8], axis=-1)
            guess = cross_fitted(features, y, labeled, folds)
            plain = fit(x, y, guess, ratio, 1.0)
            power = best_power(x, y, guess, labeled, plain[0], plain[2], share)
            tuned = fit(x, y, guess, ratio, power)
            alone = fit(x, y, surrogate, np.zeros_like(y), 1.0)
            several = {"SO": alone, "GSO": gold, "DSL": plain, "DSL tuned": tuned}
            for name, (theta, se, _) in several.items():
                found[accuracy].setdefault(name, []).append((theta, se))
            found[accuracy].setdefault("lambda", []).append(power)
    return found


def scores(theta, se, truth) -> dict[str, float]:
    error = theta - truth
    rmse = np.sqrt(np.mean(error**2, axis=0))
    return {
        "bias": float(np.sqrt(np.mean(error.mean(axis=0) ** 2) / np.mean(truth**2))),
        "coverage": float(np.mean(np.abs(error) < 1.959964 * se)),
        "rmse": float(rmse.mean()),
        "rmse_mcse": float(
            np.mean(np.std(error**2, axis=0) / np.sqrt(len(error)) / (2 * rmse))
        ),
    }


def paired(first, second) -> dict[str, float]:
    """Return the difference of two RMSE of the same runs, with its Monte-Carlo error."""
    ours, theirs = (np.sqrt(np.mean(e**2, axis=0)) for e in (first, second))
    # The derivative of a root: half of the difference of squares over the root.
    by_run = np.mean((first**2 / ours - second**2 / theirs) / 2, axis=1)
    return {
        "rmse": round(float(np.mean(ours - theirs)), 5),
        "mcse": round(float(by_run.std() / np.sqrt(len(by_run))), 5),
    }


def published() -> dict[float, dict[str, float]]:
    """Return RMSE and coverage of DSL as the authors stored them; empty if not found."""
    places = [os.environ.get("BAYESKIT_REFERENCE_DATA"), ROOT.parent / "shared" / "data"]
    for place in places:
        path = Path(place or ".") / "dsl" / "reference" / "paper_figure1a.csv"
        if place and path.exists():
            import pandas as pd

            rows = pd.read_csv(path)
            means = rows[rows.method == "DSL"].groupby("acc")[["coverage", "rmse"]].mean()
            return {float(a): {k: float(v) for k, v in r.items()} for a, r in means.iterrows()}
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--accuracies", type=float, nargs="+", default=list(ACCURACIES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    start = time.process_time()
    truth = true_coefficients()
    found = simulate(options.runs, options.accuracies)
    paper = published()
    result: dict[str, Any] = {
        "runs": options.runs,
        "truth": dict(zip(TERMS, truth.round(5).tolist(), strict=True)),
        "accuracies": {},
    }
    print(f"truth {truth.round(5).tolist()}")
    print(
        f"{'accuracy':>8}  {'method':<10} {'bias':>6} {'cover':>6} {'RMSE':>7}  published RMSE"
    )
    for accuracy, methods in found.items():
        power = np.concatenate(methods.pop("lambda"))
        entry: dict[str, Any] = {"mean_lambda": round(float(power.mean()), 4)}
        errors = {
            name: np.concatenate([p[0] for p in parts]) - truth
            for name, parts in methods.items()
        }
        entry["tuned_minus_gold"] = paired(errors["DSL tuned"], errors["GSO"])
        for name, parts in methods.items():
            theta, se = (np.concatenate(p) for p in zip(*parts, strict=True))
            entry[name] = {k: round(v, 5) for k, v in scores(theta, se, truth).items()}
            line = paper.get(accuracy, {}).get("rmse") if name == "DSL" else None
            print(
                f"{accuracy:>8}  {name:<10} {entry[name]['bias']:6.3f} "
                f"{entry[name]['coverage']:6.3f} {entry[name]['rmse']:7.4f}"
                + (f"  {line:.4f}" if line else "")
            )
        if accuracy in paper:
            entry["published DSL"] = {k: round(v, 5) for k, v in paper[accuracy].items()}
        result["accuracies"][str(accuracy)] = entry
    result["cpu_s"] = round(time.process_time() - start, 1)
    print(f"{result['cpu_s']} s of processor time")
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
