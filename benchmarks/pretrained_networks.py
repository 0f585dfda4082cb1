"""Train the networks that come with the package, and write what they are worth beside them.

    python -m benchmarks.pretrained_networks [NAME ...] [--steps N] [--judge] [--out FOLDER]

Each is trained for some minutes of one core. Weights are stored in half precision, and what was
stored is loaded again before it is judged: by the divergence of exact posteriors, from
quadrature, over problems that training has not seen, and by ``calibrate``. The report is a JSON
file beside the network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before NumPy and JAX are imported.
for variable, value in {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(variable, value)

import jax  # noqa: E402
import numpy as np  # noqa: E402

import bayeskit as bk  # noqa: E402
from bayeskit.errors import OutOfMetaPriorWarning  # noqa: E402
from bayeskit.models.distribution_transformer.likelihoods import LIKELIHOODS  # noqa: E402
from bayeskit.models.distribution_transformer.pretrained import NETWORKS  # noqa: E402
from benchmarks import exact_posteriors  # noqa: E402

SETTINGS: dict[str, Any] = {
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "d_hidden": 32,
    "batch_size": 256,
    "lr": 3e-3,
    "budget_seconds": None,
    "random_state": 1,
}
STEPS = {"normal": 300, "poisson": 300, "weibull": 3000}
NUM_PROBLEMS, NUM_CALIBRATED = 300, 500
# Other problems than those of the tests.
SEED = 11


def trained(name: str, steps: int) -> Any:
    """Return an estimator that was trained for some steps."""
    known = LIKELIHOODS[name]
    return bk.DistributionTransformer(
        known.simulator, known.meta_prior, support=known.support, max_steps=steps, **SETTINGS
    ).fit()


def divergences(estimator: Any, name: str, num: int, seed: int) -> np.ndarray:
    """Return how far posteriors of fresh problems are from the exact ones."""
    known = LIKELIHOODS[name]
    most = known.simulator.num_observations["z"][1]
    prior, rows = exact_posteriors.problems(name, known.meta_prior, most, num, seed)
    with warnings.catch_warnings():
        # A few of so many priors are beyond the range that is remembered.
        warnings.simplefilter("ignore", OutOfMetaPriorWarning)
        found = estimator.posterior(
            rows,
            prior=bk.GaussianMixture.of_arrays(prior.mixture, support=known.support),
            missing="mask",
        )
    unconstrained = bk.GaussianMixture.of_arrays(found.mixture)
    return exact_posteriors.divergences(name, prior, rows, unconstrained)


def summary(kl: np.ndarray) -> dict[str, float]:
    """Return what is written of divergences."""
    found = {
        "mean": kl.mean(),
        "median": np.median(kl),
        "p95": np.quantile(kl, 0.95),
        "max": kl.max(),
    }
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def report(name: str, estimator: Any, untrained: np.ndarray) -> dict:
    """Return what is known about a network, as plain values."""
    kl = divergences(estimator, name, NUM_PROBLEMS, SEED)
    found = estimator.calibrate(NUM_CALIBRATED, random_state=SEED)
    kept = ("central", "refined")
    overall = [row for row in found.table if row[0] == "all" and row[2].startswith(kept)]
    simulator, seen = estimator.task_.simulator, estimator.range_
    ends = np.round(seen.prior.T, 3).tolist()
    return {
        "name": name,
        "range": {
            "num_observations": list(simulator.num_observations["z"]),
            "prior": dict(zip(estimator.meta_prior.feature_names(), ends, strict=True)),
        },
        "meta_prior": estimator.meta_prior.plain(),
        "steps": estimator.n_steps_,
        "batch_size": estimator.batch_size,
        "seconds": {key: round(value) for key, value in estimator.timing_.items()},
        "num_weights": int(sum(leaf.size for leaf in jax.tree.leaves(estimator.weights_))),
        "kl": {"num_problems": len(kl), **summary(kl)},
        "untrained_kl": {"num_problems": len(untrained), **summary(untrained)},
        "calibration": {
            "num_problems": found.num_problems,
            "alpha": found.alpha,
            "verdict": found.verdict,
            "largest_deviation": found.worst,
            "mean_log_density": round(found.mean_log_density, 4),
            "expected_and_observed": {
                f"{statistic}, {check}": f"{expected:.3f} {observed:.3f}"
                for _, statistic, check, expected, observed, *_ in overall
                if statistic.startswith(("x[", "C2ST", "energy"))
            },
        },
        "versions": {
            "bayeskit": bk.__version__,
            "jax": version("jax"),
            "python": platform.python_version(),
        },
    }


def made(name: str, steps: int, folder: Path) -> dict:
    """Train a network, write it and its report, and return the report."""
    estimator = trained(name, steps)
    halved = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), estimator.weights_)
    estimator.weights_ = halved
    estimator.save(folder / f"{name}.bkit")
    return judged(name, folder)


def judged(name: str, folder: Path) -> dict:
    """Write the report of a network that is there, and return it."""
    path = folder / f"{name}.bkit"
    stored = bk.DistributionTransformer.load(path, simulator=LIKELIHOODS[name].simulator)
    weights = stored.weights_
    # The last layer is zero at first: without it the network changes nothing.
    stored.weights_ = weights | {"head": jax.tree.map(np.zeros_like, weights["head"])}
    untrained = divergences(stored, name, NUM_PROBLEMS, SEED)
    stored.weights_ = weights
    found = report(name, stored, untrained)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(LIKELIHOODS))
    parser.add_argument("--steps", type=int, help="instead of those of each network")
    parser.add_argument("--judge", action="store_true", help="only write the reports anew")
    parser.add_argument("--out", type=Path, default=NETWORKS)
    arguments = parser.parse_args()
    for name in arguments.names:
        steps = STEPS[name] if arguments.steps is None else arguments.steps
        if arguments.judge:
            found = judged(name, arguments.out)
        else:
            found = made(name, steps, arguments.out)
        print(name, found["untrained_kl"], found["kl"], found["calibration"]["verdict"])


if __name__ == "__main__":
    main()
