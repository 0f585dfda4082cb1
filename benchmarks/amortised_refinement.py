"""How close do refined posteriors come to reference draws, from an ordinary start?

For each task of the benchmark of simulation-based inference in ``$BAYESKIT_REFERENCE_DATA``,
the start is a mixture of five Gaussians that was fitted to the prior and knows nothing of the
data. ``refine="auto"`` corrects it. Printed is one JSON line for each observation: the accuracy
of a classifier that tells draws and reference apart (C2ST; 0.5 is the best), before and after,
what was used, and CPU seconds. ``--store`` writes them to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

from bayeskit.models.base import precision_scope
from bayeskit.models.distribution_transformer.fit_mixture import fit_mixture
from bayeskit.models.distribution_transformer.refine import Refinement, refine
from benchmarks.sbi_tasks import TASKS, c2st, observed


class LogLikelihood:
    """That of a task, at unconstrained parameters; equal for equal tasks."""

    def __init__(self, name: str, support):
        self.name, self.support = name, support

    def __call__(self, u, y):
        return TASKS[self.name].log_likelihood(self.support.constrain(u), y)

    def __eq__(self, other):
        return isinstance(other, LogLikelihood) and self.name == other.name

    def __hash__(self):
        return hash(self.name)


def prepared(name: str):
    """Return the mixture that stands for the prior of a task."""
    task = TASKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_mixture(task.prior(), 5, task.support)


def refined(name: str, fitted, y, num_draws: int, seed: int):
    """Return the posterior of one observation, refined from the prior."""
    support = fitted.mixture.support
    with precision_scope("float64"):
        refinement = Refinement(
            fitted.mixture.mixture, fitted.law, LogLikelihood(name, support), y, support
        )
    return refine(refinement, "auto", num_draws, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--num-draws", type=int, default=10_000)
    parser.add_argument("--first-only", action="store_true", help="one observation a task")
    parser.add_argument("--store", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.tasks:
        fitted = prepared(name)
        numbers = TASKS[name].observations
        for number in numbers[:1] if arguments.first_only else numbers:
            y, reference = observed(name, number)
            began = time.process_time()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = refined(name, fitted, y, arguments.num_draws, number)
            seconds = time.process_time() - began
            before = fitted.mixture.sample(len(reference), 0)
            row = {
                "task": name,
                "observation": number,
                "c2st_before": round(c2st(before, reference), 3),
                "c2st": round(c2st(found.sample(len(reference), 0), reference), 3),
                "method": found.method,
                "ess": round(found.ess),
                "khat": round(float(found.khat), 2),
                "log_evidence": round(found.log_evidence, 3),
                "log_evidence_se": round(found.log_evidence_se, 3),
                "reliable": found.reliable,
                "warnings": [str(one.message)[:160] for one in caught],
                "cpu_s": round(seconds, 1),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    worst = max(row["c2st"] for row in rows)
    print(
        json.dumps(
            {"worst_c2st": worst, "mean_c2st": float(np.mean([r["c2st"] for r in rows]))}
        )
    )
    if arguments.store:
        path = Path(__file__).parent / "results" / "amortised_refinement.json"
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
