"""Knowledge tracing of statistics practice: five folds over learners, baselines beside it.

    python benchmarks/statpractice.py
    python benchmarks/statpractice.py --models 'tracer, versions' --folds 0
    python benchmarks/statpractice.py --engines --folds 0

320 learners of 122 trials each, scored one step ahead on all answered trials of learners that
the fit has not seen. Two kinds of models that must not be compared with one another: those that
see only the component of a trial, and those that also see which word of it is blanked.

Times in the file are those at which answers end, and so contain how long an answer took, which
tells something of it. All forecasts here are made for the time at which the trial was shown:
the end of the trial before plus the median time until the next answer ends, by the outcome of
the trial before, unless the gap is longer than 120 seconds: then the time in the file. The
medians are those of the learners of the fit (about 24.7, 7.8 and 8.3 seconds after a wrong
answer, a correct one and a study trial).

The data file is looked for in $BAYESKIT_REFERENCE_DATA, then beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "statpractice.json"
ENGINE_RESULTS = RESULTS.with_name("statpractice_engines.json")
LONGEST_MINUTES = 2.0
# Of the networks: one or two minutes of training on one processor.
EPOCHS = 60
GROUPS = ("first encounter", "< 1 min", "1-10 min", "10 min-12 h", "> 12 h")


def load() -> pd.DataFrame:
    """Return the table with times in minutes at which trials ended."""
    places = [os.environ.get("BAYESKIT_REFERENCE_DATA"), ROOT / ".." / "shared" / "data"]
    name = Path("psi-kt") / "statpractice_interactions.csv"
    found = [Path(p) / name for p in places if p and (Path(p) / name).exists()]
    if not found:
        raise SystemExit(f"{name.name} was not found: set BAYESKIT_REFERENCE_DATA")
    raw = pd.read_csv(found[0])
    return pd.DataFrame(
        {
            "learner": raw["learner"],
            "kc": raw["kc"],
            "item": 8 * raw["kc"] + 4 * raw["form"] + raw["version"],
            "version": raw["version"],
            "time": raw["time_s"] / 60.0,
            "correct": pd.to_numeric(raw["outcome"], errors="coerce"),
        }
    )


def shown(table: pd.DataFrame, is_fitted: np.ndarray) -> pd.DataFrame:
    """Return the table with the times at which trials were shown, by the rows of the fit."""
    from bayeskit.datasets import presentation_pauses, presentation_times

    pauses = presentation_pauses(table[is_fitted], longest=LONGEST_MINUTES)
    return presentation_times(table, longest=LONGEST_MINUTES, pauses=pauses)


def models() -> dict[str, tuple[bool, Any]]:
    """Return whether a model sees versions, and a function that builds it."""
    import bayeskit as bk
    from bayeskit.models.knowledge_tracing import baselines

    unit = {"time_unit": "minute"}
    return {
        "mean of the component": (False, lambda: baselines.MeanTracer(**unit)),
        "PFA": (False, lambda: baselines.PerformanceFactors(recency=False, **unit)),
        "PFA with recency": (False, lambda: baselines.PerformanceFactors(**unit)),
        "BKT with forgetting": (False, lambda: baselines.BayesianKnowledgeTracing(**unit)),
        "tracer": (False, lambda: bk.KnowledgeTracer(num_steps=150, random_state=0, **unit)),
        "PFA with recency, items": (
            True,
            lambda: baselines.PerformanceFactors(items=True, **unit),
        ),
        "tracer, versions": (True, lambda: bk.KnowledgeTracer(random_state=0, **unit)),
    }


def engines() -> dict[str, tuple[bool, Any]]:
    """Return the arms of inference: the tracer, its published dynamics, and networks."""
    import bayeskit as bk
    from bayeskit.models.knowledge_tracing import AmortizedVariational

    settings: dict[str, Any] = {"time_unit": "minute", "random_state": 0}
    published = {
        "traits": "none",
        "kc_scales": 1,
        "item_effects": False,
        "practice_gain": False,
        "rate_change": False,
    }

    def amortized(objective: str) -> Any:
        engine = AmortizedVariational(objective=objective, num_epochs=EPOCHS)
        return lambda: bk.KnowledgeTracer(inference=engine, **settings)

    return {
        "adf": (False, lambda: bk.KnowledgeTracer(**settings)),
        "adf, published dynamics": (
            False,
            lambda: bk.KnowledgeTracer(**published, **settings),
        ),
        "amortized, elbo": (False, amortized("elbo")),
        "amortized, published objective": (False, amortized("published")),
    }


def scores(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    return {
        "accuracy": float(np.mean((p > 0.5) == (y == 1))),
        "auc": float(roc_auc_score(y, p)),
        "log_loss": float(-np.mean(np.log(np.where(y == 1, p, 1 - p)))),
        "brier": float(np.mean((p - y) ** 2)),
    }


def calibration(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Return slope of the logits, and the expected calibration error over ten equal bins."""
    from sklearn.linear_model import LogisticRegression

    logit = np.log(p / (1 - p))[:, None]
    slope = LogisticRegression(C=np.inf).fit(logit, y).coef_[0, 0]
    bins = np.digitize(p, np.quantile(p, np.arange(0.1, 1.0, 0.1)))
    error = sum(abs((y - p)[bins == b].sum()) for b in range(10)) / len(y)
    return {"slope": float(slope), "calibration_error": float(error)}


def by_gap(table: pd.DataFrame, p: np.ndarray) -> list[dict[str, Any]]:
    """Return mean forecast and share of correct answers by time since the component was met."""
    gap = table["time"] - table.groupby(["learner", "kc"])["time_end"].shift()
    group = np.where(gap.isna(), 0, 1 + np.digitize(gap.fillna(0), [1.0, 10.0, 720.0]))
    y = table["correct"].to_numpy()
    rows = []
    for number, name in enumerate(GROUPS):
        own = (group == number) & ~np.isnan(y)
        row: dict[str, Any] = {"group": name, "answers": int(own.sum())}
        row |= {"forecast": float(p[own].mean()), "correct": float(y[own].mean())}
        rows.append({**row, "auc": scores(y[own], p[own])["auc"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=None, help="names separated by ';', default all")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument(
        "--engines", action="store_true", help="compare engines of inference instead"
    )
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    table = load()
    fold = (np.random.default_rng(0).permutation(320) % 5)[table["learner"]]
    known = engines() if arguments.engines else models()
    out = arguments.out or (ENGINE_RESULTS if arguments.engines else RESULTS)
    chosen = arguments.models.split(";") if arguments.models else list(known)
    folds = list(map(int, arguments.folds.split(",")))
    y = table["correct"].to_numpy()
    lines, rows = [], []
    for name in chosen:
        sees_versions, build = known[name]
        seen = table if sees_versions else table.drop(columns=["item", "version"])
        p, time_shown = np.full((2, len(table)), np.nan)
        for number in folds:
            test = fold == number
            rows_of_fold = shown(seen, ~test)
            time_shown[test] = rows_of_fold["time"][test]
            start = time.process_time()
            model = build().fit(rows_of_fold[~test])
            fit_s = time.process_time() - start
            p[test] = model.predict_next(rows_of_fold[test])
            scored = test & ~np.isnan(y)
            row = {"model": name, "fold": number, **scores(y[scored], p[scored])}
            row["fit_cpu_s"] = round(fit_s, 2)
            if hasattr(model, "evidence_lower_bound_"):
                answers = int(np.sum(~test & ~np.isnan(y)))
                row["bound_per_answer"] = model.evidence_lower_bound_ / answers
            rows.append(row)
            print(json.dumps(rows[-1]), flush=True)
        own = [row for row in rows if row["model"] == name]
        line: dict[str, Any] = {"model": name, "sees_versions": sees_versions}
        for key in ("accuracy", "auc", "log_loss", "brier", "fit_cpu_s"):
            values = np.array([row[key] for row in own])
            line |= {key: round(values.mean(), 4), f"{key}_sd": round(values.std(), 4)}
        scored = ~np.isnan(p) & ~np.isnan(y)
        line |= {k: round(v, 4) for k, v in calibration(y[scored], p[scored]).items()}
        if len(folds) == 5:
            times = table.assign(time=time_shown, time_end=table["time"])
            line["by_gap"] = by_gap(times, p)
        lines.append(line)
        print(json.dumps(line), flush=True)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"summary": lines, "folds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
