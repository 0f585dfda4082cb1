"""Functional models of Beijing's PM2.5: honest splits, with trivial baselines beside them.

    python benchmarks/beijing_pm25.py
    python benchmarks/beijing_pm25.py --splits days --models 'main effects' --folds 0

Twelve stations report each day, so a random split leaks the day: three splits are reported,
rows, whole days and whole blocks of 14 days. Folds 0 and 1 of each are shipped with the data;
2 to 4 are drawn like them with one seed. Every fold learns its transform and its scales on its
own training rows. Scores are for y in standard deviations of all rows, as published scores are:
RMSE of the predictive mean, MAE of the predictive median, negative log predictive density, and
the coverage of 95 % and 50 % intervals.

The data file is looked for in $BAYESKIT_REFERENCE_DATA, then beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "beijing_pm25.json"
SPLITS = ("random", "days", "blocks")
NAMES = ("temp", "pres", "day")


def load() -> tuple[Any, np.ndarray, dict[str, list[np.ndarray]]]:
    """Return coordinates, target, and five test masks a split."""
    import pandas as pd

    places = [os.environ.get("BAYESKIT_REFERENCE_DATA"), ROOT / ".." / "shared" / "data"]
    places += [ROOT / ".." / ".." / "shared" / "data"]
    found = [
        Path(place) / "funbat" / "beijing_pm25.npz"
        for place in places
        if place and (Path(place) / "funbat" / "beijing_pm25.npz").exists()
    ]
    if not found:
        raise SystemExit("beijing_pm25.npz was not found: set BAYESKIT_REFERENCE_DATA")
    data = np.load(found[0])
    X = pd.DataFrame(
        {
            "temp": np.round(data["temp_c"].astype(float), 1),
            "pres": np.round(data["pres_hpa"].astype(float), 1),
            "day": data["day"].astype(float),
        }
    )
    y = data["pm25"].astype(float)
    generator = np.random.default_rng(5)
    masks = {}
    for split in SPLITS:
        shipped = np.unpackbits(data[f"test_{split}"], axis=1)[:, : len(y)].astype(bool)
        unit = {"random": np.arange(len(y)), "days": X["day"], "blocks": X["day"] // 14}[split]
        masks[split] = [*shipped, *_more_folds(np.asarray(unit), shipped, split, generator)]
    return X, y, masks


def _more_folds(unit, shipped, split, generator) -> list[np.ndarray]:
    if split == "random":
        size = shipped[0].sum()
        return [
            np.isin(unit, generator.choice(len(unit), size, replace=False)) for _ in range(3)
        ]
    rest = np.unique(unit[~shipped.any(axis=0)])
    parts = np.array_split(generator.permutation(rest), 3)
    return [np.isin(unit, part) for part in parts]


def models() -> dict[str, Any]:
    """Return functions that build the models, each as a user would state it."""
    import bayeskit as bk
    from bayeskit.inference.gp_kernels import Matern32, Periodic, White

    def day():
        return bk.MainEffect("day", Matern32() + Periodic(period=365.25) + White())

    effects = [bk.MainEffect("temp"), bk.MainEffect("pres")]
    between = [bk.GroupMeanEffect("temp", by="day"), bk.GroupMeanEffect("pres", by="day")]
    within = [bk.WithinGroup("day")]

    def model(terms, transform):
        return lambda: bk.FunctionalCP(rank=0, mean=terms, transform=transform)

    return {
        "main effects": model([*effects, day()], None),
        "with group means and within-day process": model(
            [*effects, *between, day(), *within], bk.BoxCox(0.25)
        ),
    }


def scores(y, mean, median, scale) -> dict[str, float]:
    return {
        "rmse": float(np.sqrt(np.mean((y - mean) ** 2)) / scale),
        "mae": float(np.mean(np.abs(y - median)) / scale),
    }


def baselines(X, y, test, scale) -> dict[str, dict[str, float]]:
    """Return the scores of the global mean, and of the day mean, interpolated over days."""
    days = np.asarray(X["day"])
    known, index = np.unique(days[~test], return_inverse=True)
    means = np.bincount(index, y[~test]) / np.bincount(index)
    by_day = np.interp(days[test], known, means)
    everywhere = np.full(test.sum(), y[~test].mean())
    return {
        "global mean": scores(y[test], everywhere, everywhere, scale),
        "day mean": scores(y[test], by_day, by_day, scale),
    }


def evaluate(model, X, y, test, scale) -> list[dict[str, Any]]:
    """Fit once, and score the predictions with both kinds of context."""
    start = time.process_time()
    model.fit(X[~test], y[~test])
    fit_s = time.process_time() - start
    rows = []
    for context in ("given", "training"):
        model.set_params(context=context)
        start = time.process_time()
        mean = model.predict(X[test])
        low, lower, median, upper, high = model.predict_quantiles(
            X[test], [0.025, 0.25, 0.5, 0.75, 0.975]
        )
        row = scores(y[test], mean, median, scale)
        log_density = model.log_density(X[test], y[test]) + np.log(scale)
        row |= {
            "context": context,
            "nlpd": float(-log_density.mean()),
            "coverage_95": float(np.mean((y[test] >= low) & (y[test] <= high))),
            "coverage_50": float(np.mean((y[test] >= lower) & (y[test] <= upper))),
            "fit_cpu_s": fit_s,
            "compile_s": model.timing_["compile_s"],
            "predict_cpu_s": time.process_time() - start,
            "evaluations": model.n_evaluations_,
            "log_evidence": model.log_evidence_,
        }
        rows.append(row)
        if not any(hasattr(term, "by") for term in model.terms_):
            break
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return means and standard deviations over the folds of every model and split."""
    found = []
    keys = dict.fromkeys((r["split"], r["model"], r.get("context")) for r in rows)
    for split, model, context in keys:
        own = [
            r
            for r in rows
            if (r["split"], r["model"], r.get("context")) == (split, model, context)
        ]
        line: dict[str, Any] = {"split": split, "model": model, "context": context}
        line["folds"] = len(own)
        for name in ("rmse", "mae", "nlpd", "coverage_95", "coverage_50", "fit_cpu_s"):
            if name in own[0]:
                values = np.array([r[name] for r in own])
                line[name] = round(float(values.mean()), 4)
                line[f"{name}_sd"] = round(float(values.std()), 4)
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", default=",".join(SPLITS))
    parser.add_argument("--models", default=None, help="names separated by ';', default all")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    X, y, masks = load()
    scale = float(y.std(ddof=1))
    known = models()
    chosen = arguments.models.split(";") if arguments.models else list(known)
    rows: list[dict[str, Any]] = []
    for split in arguments.splits.split(","):
        for fold in map(int, arguments.folds.split(",")):
            test = masks[split][fold]
            for name, row in baselines(X, y, test, scale).items():
                rows.append({"split": split, "fold": fold, "model": name, **row})
            for name in chosen:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    found = evaluate(known[name](), X, y, test, scale)
                for row in found:
                    rows.append({"split": split, "fold": fold, "model": name, **row})
                    rows[-1]["warnings"] = len(caught)
                    print(json.dumps(rows[-1]), flush=True)
    lines = summary(rows)
    for line in lines:
        print(json.dumps(line))
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps({"summary": lines, "folds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
