"""Functional CP and Tucker models: errors on three data sets, time of an epoch, memory.

    python benchmarks/functional_tensor.py
    python benchmarks/functional_tensor.py --cases us_temp --models 'CP 5' --splits random

Cases:

- us_temp: yearly temperatures of cities by latitude, longitude and year. Splits: the shipped
  random fifth of the rows, whole years, and whole cells of latitude and longitude. Of three
  rows in four of the random split, another row of the same cell and year is known.
- synthetic: one product of two functions without noise.
- pm25: Beijing's PM2.5, fold 0 of the shipped random split; benchmarks/beijing_pm25.py has the
  other splits, and the model for these data.
- epochs: CPU seconds of an epoch on PM2.5 after compilation, and what compilation takes. An
  epoch with learning is a tenth of ten epochs and the search for hyper-parameters that follows.
- memory: peak of a process that fits ranks (7, 7, 7) to 13 572 rows.

Every fit learns everything on its training rows, and runs in a process of its own, on one
thread. Errors are those of the predictive mean (RMSE) and median (MAE), in degrees Fahrenheit,
for PM2.5 in standard deviations of all rows. Results are stored case by case, so that one case
can be run again by itself.

The data are looked for in $BAYESKIT_REFERENCE_DATA, then beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beijing_pm25
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "functional_tensor.json"
# Nothing else of the machine takes part in what is timed.
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
WITHOUT_CACHE = {"BAYESKIT_PROGRAM_CACHE": "off"}
CACHES = ("JAX_COMPILATION_CACHE_DIR",)


def data_file(name: str) -> Path:
    places = [os.environ.get("BAYESKIT_REFERENCE_DATA"), ROOT / ".." / "shared" / "data"]
    places += [ROOT / ".." / ".." / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "funbat" / name).exists():
            return Path(place) / "funbat" / name
    raise SystemExit(f"{name} was not found: set BAYESKIT_REFERENCE_DATA")


def cp(rank: int, **options: Any) -> Callable[[], Any]:
    """Return what builds a CP model, so that nothing is imported before a case runs."""

    def build() -> Any:
        import bayeskit as bk

        return bk.FunctionalCP(rank, random_state=0, **options)

    return build


def tucker(ranks: Any, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import bayeskit as bk

        return bk.FunctionalTucker(ranks, random_state=0, **options)

    return build


ROUGH = {"kernel": "matern12"}
US_TEMP = {
    "random": {
        "main effects": cp(0),
        "CP 3, constant": cp(3, mean="constant", **ROUGH),
        "CP 3": cp(3, **ROUGH),
        "CP 5, constant": cp(5, mean="constant", **ROUGH),
        "CP 5": cp(5, **ROUGH),
        "CP 7, constant": cp(7, mean="constant", **ROUGH),
        "CP 7": cp(7, **ROUGH),
        "CP 5, Student-t": cp(5, likelihood="student_t", **ROUGH),
        "Tucker 3x5x3, constant": tucker((3, 5, 3), mean="constant", **ROUGH),
        "Tucker 3x5x3": tucker((3, 5, 3), **ROUGH),
    },
    "years": {"main effects": cp(0), "CP 5": cp(5, **ROUGH)},
    "cells": {"main effects": cp(0), "CP 5": cp(5, **ROUGH)},
}
SYNTHETIC = {
    "CP 1, Matern 3/2": cp(1, mean="constant"),
    "CP 1, Matern 5/2": cp(1, mean="constant", kernel="matern52"),
    "Tucker 1x1, Matern 3/2": tucker(1, mean="constant"),
}
PM25 = {
    "main effects": cp(0),
    "CP 2, constant, Matern 1/2": cp(2, mean="constant", **ROUGH),
    "CP 2, constant": cp(2, mean="constant"),
    "CP 2": cp(2),
    "Tucker 2x2x2, constant": tucker(2, mean="constant"),
    "Tucker 2x2x2": tucker(2),
}
EPOCHS = {
    "CP 2": cp(2, mean="constant", max_iter=10, **ROUGH),
    "Tucker 2x2x2": tucker(2, mean="constant", max_iter=10, **ROUGH),
}
MEMORY = {"Tucker 7x7x7": tucker(7, mean="constant", max_iter=10, **ROUGH)}


# ---------------------------------------------------------------- data


def us_temp(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coordinates in [0, 1], degrees Fahrenheit, and the test rows of a split."""
    data = np.load(data_file("us_temp.npz"))
    index, y = data["index"].astype(int), data["y"].astype(float)
    generator = np.random.default_rng(5)
    unit = {"years": index[:, 2], "cells": index[:, 0] * 95 + index[:, 1]}.get(split)
    if unit is None:
        test = data["test_random"].astype(bool)
    else:
        units = np.unique(unit)
        test = np.isin(unit, generator.choice(units, len(units) // 5, replace=False))
    return (index + 0.5) / data["dims"], y, test


def synthetic() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = np.load(data_file("synthetic_rank1.npz"))
    X = np.concatenate([data["train_x"], data["test_x"]])
    y = np.concatenate([data["train_y"], data["test_y"]])
    return X, y, np.arange(len(y)) >= len(data["train_y"])


def pm25() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    X, y, masks = beijing_pm25.load()
    return X.to_numpy(), y, masks["random"][0], float(y.std(ddof=1))


# ---------------------------------------------------------------- baselines


def group_means(group: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the mean of the known rows of each row's group, NaN where there are none."""
    sums = np.bincount(group[known], y[known], group.max() + 1)
    counts = np.bincount(group[known], minlength=group.max() + 1)
    with np.errstate(invalid="ignore"):
        return (sums / counts)[group]


def us_temp_baselines(
    X: np.ndarray, y: np.ndarray, test: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return the scores of what needs no model."""
    _, cell = np.unique(X[:, :2], axis=0, return_inverse=True)
    _, year = np.unique(X[:, 2], return_inverse=True)
    _, both = np.unique(X, axis=0, return_inverse=True)
    known = ~test
    effect = np.zeros(len(y))
    for _ in range(20):
        level = group_means(cell, y - effect, known)
        level = np.where(np.isnan(level), np.nanmean(level[known]), level)
        effect = group_means(year, y - level, known)
        effect = np.where(np.isnan(effect), 0.0, effect)
    same = group_means(both, y, known)
    found = {
        "mean": np.full(len(y), y[known].mean()),
        "cell + year": level + effect,
        "mean of the same cell and year, else cell + year": np.where(
            np.isnan(same), level + effect, same
        ),
    }
    by_latitude = np.polyval(np.polyfit(X[known, 0], y[known], 1), X[:, 0])
    line = group_means(year, y - by_latitude, known)
    found["line in latitude + year"] = by_latitude + np.where(np.isnan(line), 0.0, line)
    return {
        name: beijing_pm25.scores(y[test], value[test], value[test], 1.0)
        for name, value in found.items()
    }


def baselines(case: str, split: str) -> dict[str, dict[str, float]]:
    if case == "us_temp":
        return us_temp_baselines(*us_temp(split))
    if case == "pm25":
        X, y, masks = beijing_pm25.load()
        return beijing_pm25.baselines(X, y, masks["random"][0], float(y.std(ddof=1)))
    if case == "synthetic":
        _, y, test = synthetic()
        mean = np.full(test.sum(), y[~test].mean())
        return {"mean": beijing_pm25.scores(y[test], mean, mean, 1.0)}
    return {}


# ---------------------------------------------------------------- one fit


def errors(build: Any, X: Any, y: np.ndarray, test: np.ndarray, scale: float) -> dict[str, Any]:
    """Fit on the rows that are known, and score the others."""
    start = time.process_time()
    model = build().fit(X[~test], y[~test])
    fit_s = time.process_time() - start
    low, lower, median, upper, high = model.predict_quantiles(
        X[test], [0.025, 0.25, 0.5, 0.75, 0.975]
    )
    target = y[test]
    row = beijing_pm25.scores(target, model.predict(X[test]), median, scale)
    density = model.log_density(X[test], target) + np.log(scale)
    row |= {
        "nlpd": -density.mean(),
        "coverage_95": np.mean((target >= low) & (target <= high)),
        "coverage_50": np.mean((target >= lower) & (target <= upper)),
        "noise_std": model.noise_std_ / scale,
        "fit_cpu_s": fit_s,
        "compile_s": model.timing_["compile_s"],
    }
    if hasattr(model, "elbo_"):
        row |= {"elbo": model.elbo_[-1], "epochs": model.n_iter_}
    return row


def epochs(build: Any) -> dict[str, Any]:
    """Time epochs of a fitted model, and the first fit beside the second."""
    from bayeskit.models.base import precision_scope
    from bayeskit.models.functional_tucker.low_rank import search

    X, y, test, _ = pm25()
    seconds = []
    for _ in range(2):
        start = time.process_time()
        model = build().fit(X[~test], y[~test])
        seconds.append(time.process_time() - start)
    posterior = model._posterior
    problem, data, found = posterior.problem, posterior.data, posterior.found
    plain, learned = [], []
    with precision_scope("float64"):
        for _ in range(5):
            start = time.process_time()
            search._run(problem, data, found.u, found.beliefs)
            plain.append((time.process_time() - start) / search.CHUNK)
            start = time.process_time()
            search.climb(problem, data, found)
            learned.append((time.process_time() - start) / search.CHUNK)
    return {
        "rows": int((~test).sum()),
        "epoch_cpu_s": np.median(plain),
        "epoch_with_learning_cpu_s": np.median(learned),
        "compile_cpu_s": seconds[0] - seconds[1],
    }


def memory(build: Any) -> dict[str, Any]:
    X, y, test, _ = pm25()
    build()
    import jax

    jax.numpy.zeros(1).block_until_ready()
    before = peak_gb()
    start = time.process_time()
    model = build().fit(X[~test], y[~test])
    return {
        "rows": int((~test).sum()),
        "peak_gb": peak_gb(),
        "peak_before_gb": before,
        "fit_cpu_s": time.process_time() - start,
        "epochs": model.n_iter_,
    }


def peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


CASES: dict[str, dict[str, dict[str, Any]]] = {
    "synthetic": {"random": SYNTHETIC},
    "pm25": {"random": PM25},
    "epochs": {"": EPOCHS},
    "memory": {"": MEMORY},
    "us_temp": US_TEMP,
}


def measure(case: str, split: str, name: str) -> dict[str, Any]:
    """Return the row of one model."""
    build = CASES[case][split][name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if case == "epochs":
            row = epochs(build)
        elif case == "memory":
            row = memory(build)
        elif case == "us_temp":
            row = errors(build, *us_temp(split), 1.0)
        elif case == "synthetic":
            row = errors(build, *synthetic(), 1.0)
        else:
            row = errors(build, *pm25())
    row["warnings"] = len(caught)
    return row


# ---------------------------------------------------------------- all


def in_own_process(case: str, split: str, name: str) -> dict[str, Any]:
    environment = {**os.environ, **ONE_THREAD}
    if case == "epochs":
        environment |= WITHOUT_CACHE
        for variable in CACHES:
            environment.pop(variable, None)
    command = [sys.executable, __file__, "--one", json.dumps([case, split, name])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case}, {split}, {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        k: float(f"{float(v):.5g}") if isinstance(v, float | np.floating) else v
        for k, v in row.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=";".join(CASES))
    parser.add_argument("--splits", default=None, help="names separated by ';', default all")
    parser.add_argument("--models", default=None, help="likewise")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(rounded(measure(*json.loads(arguments.one)))))
        return
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    rows = {(r["case"], r["split"], r["model"]): r for r in stored}
    for case in arguments.cases.split(";"):
        for split, models in CASES[case].items():
            if arguments.splits and split not in arguments.splits.split(";"):
                continue
            found = {name: rounded(row) for name, row in baselines(case, split).items()}
            for name in models:
                if arguments.models and name not in arguments.models.split(";"):
                    continue
                found[name] = in_own_process(case, split, name)
                print(json.dumps({"case": case, "split": split, "model": name, **found[name]}))
                sys.stdout.flush()
            for name, row in found.items():
                rows[case, split, name] = {"case": case, "split": split, "model": name, **row}
    order = {case: i for i, case in enumerate(CASES)}
    lines = sorted(rows.values(), key=lambda row: order[row["case"]])
    text = ",\n".join(json.dumps(line) for line in lines)
    arguments.out.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
