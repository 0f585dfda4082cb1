"""Gradient engines side by side: CPU seconds to a thousand independent draws, and errors.

    python benchmarks/gradient_engines.py --seeds 3 --out gradient_engines.json
    python benchmarks/gradient_engines.py --cases arK,kidiq --engines "bayeskit NUTS,nutpie JAX"

Each engine runs on each case in a process of its own, on one thread and in float64, all seeds
in it. The cost of a run is

    seconds = warm-up + sampling * 1000 / ESS,

CPU seconds without compilation, and without diagnosis and log evidence at the end, where ESS
is the worst over the parameters of bulk, tail and squared-deviation effective sample size. A
run counts if R-hat <= 1.05 and no z exceeds 4; the cost of one that does not is infinite. The
median over the seeds is compared. BlackJAX comes with the extra ``bench``; nutpie runs where
it is installed (``pip install nutpie pymc``).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TARGET_ESS = 1000.0
MAX_RHAT, MAX_Z = 1.05, 4.0
# What needs no import of JAX in the process that only starts the others.
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
}
PACKAGES = (
    "bayeskit",
    "jax",
    "jaxlib",
    "numpy",
    "numpyro",
    "blackjax",
    "nutpie",
    "pymc",
    "arviz",
)

# ---------------------------------------------------------------- one engine on one case


def work(case_name: str, engine_name: str, arguments: argparse.Namespace) -> None:
    """Print one JSON line a seed."""
    import warnings

    from benchmarks.posteriordb.cases import CASES, HARD_CASES, reported
    from benchmarks.posteriordb.compare import compare, worst_ess
    from benchmarks.posteriordb.engines import ENGINES, Settings, Unsuitable

    warnings.simplefilter("ignore")
    case = {**CASES, **HARD_CASES}[case_name]
    settings = Settings(
        num_chains=arguments.num_chains,
        num_warmup=arguments.num_warmup,
        num_draws=arguments.num_draws,
        seeds=tuple(range(1, arguments.seeds + 1)),
    )
    try:
        for run in ENGINES[engine_name](case, settings):
            reference = case.known()
            row = {
                "seed": run.seed,
                "compile_s": run.compile_s,
                "warmup_s": run.warmup_s,
                "sampling_s": run.sampling_s,
                "num_gradients": run.num_gradients,
                **run.notes,
            }
            if reference is None:
                row["ess"] = min(worst_ess(reported(run.draws)).values())
            else:
                found = compare(reported(run.draws, reference.names), reference)
                row |= {
                    "ess": found.ess,
                    "r_hat": found.r_hat,
                    "max_z": found.max_z,
                    "bias_sd": found.bias,
                    "ks": found.ks,
                    "reasons": found.reasons,
                }
            emit(row)
    except (Unsuitable, ImportError) as reason:
        emit({"skipped": str(reason)})


def emit(row: dict[str, Any]) -> None:
    print(json.dumps({name: plain(value) for name, value in row.items()}), flush=True)


def plain(value: Any) -> Any:
    """Return what JSON can hold: None for a number that is not finite."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


# ---------------------------------------------------------------- all of them


def run_all(cases: list[str], engines: list[str], arguments: argparse.Namespace) -> list[dict]:
    rows = []
    passed_on = [
        f"--{name.replace('_', '-')}={getattr(arguments, name)}"
        for name in ("seeds", "num_chains", "num_warmup", "num_draws")
    ]
    for case in cases:
        for engine in engines:
            command = [sys.executable, __file__, "--worker", case, engine, *passed_on]
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": path}
            try:
                done = subprocess.run(
                    command,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=arguments.timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                lines = [{"skipped": f"took longer than {arguments.timeout:.0f} s"}]
            else:
                lines = [
                    json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"
                ]
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    lines.append({"failed": last[:300]})
            for line in lines:
                row = {"case": case, "engine": engine, **line}
                row["cost_s"] = plain(cost(row))
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def cost(row: dict[str, Any]) -> float:
    """Return the CPU seconds to ESS 1000 of one run, infinite if it did not converge."""
    if not row.get("ess"):
        return np.inf
    converged = "r_hat" not in row or (row["r_hat"] is not None and row["r_hat"] <= MAX_RHAT)
    right = (row.get("max_z") or 0.0) < MAX_Z
    if not (converged and right):
        return np.inf
    return row["warmup_s"] + row["sampling_s"] * TARGET_ESS / row["ess"]


def summarise(rows: list[dict], cases: list[str], engines: list[str]) -> dict[str, Any]:
    """Return median costs, and for each engine of ours how many times dearer others are."""
    median = {
        case: {
            engine: float(np.median([r["cost_s"] or np.inf for r in found]))
            for engine in engines
            if (found := [r for r in rows if r["case"] == case and r["engine"] == engine])
        }
        for case in cases
    }
    peers = [e for e in engines if not e.startswith("bayeskit")]
    others = {peer: [peer] for peer in peers} | {"best other package": peers}
    ratios: dict[str, Any] = {}
    for ours in (e for e in engines if e.startswith("bayeskit")):
        for label, group in others.items():
            found = {}
            for case, costs in median.items():
                best = min((costs.get(e, np.inf) for e in group), default=np.inf)
                if np.isfinite(best) and np.isfinite(costs.get(ours, np.inf)):
                    found[case] = best / costs[ours]
            if found:
                ratios.setdefault(ours, {})[label] = {
                    "geometric_mean": plain(float(np.exp(np.mean(np.log([*found.values()]))))),
                    "num_cases": len(found),
                    "by_case": {case: plain(ratio) for case, ratio in found.items()},
                }
    costs = {c: {e: plain(v) for e, v in by.items()} for c, by in median.items()}
    return {"median_cost_s": costs, "ratios": ratios}


def table(summary: dict[str, Any], engines: list[str]) -> str:
    """Return the median costs and the geometric means as text."""
    width = max(map(len, engines)) + 2
    text = ["CPU seconds to ESS 1000, compilation excluded; - where no run counts", ""]
    text.append(f"{'case':<24}" + "".join(f"{e:>{width}}" for e in engines))
    for case, costs in summary["median_cost_s"].items():
        cells = [costs.get(e) for e in engines]
        shown = ["-" if c is None else f"{c:.3g}" for c in cells]
        text.append(f"{case:<24}" + "".join(f"{c:>{width}}" for c in shown))
    for ours, others in summary["ratios"].items():
        for label, ratio in others.items():
            mean, count = ratio["geometric_mean"], ratio["num_cases"]
            text.append(f"{label} / {ours}: {mean:.3g} (geometric mean of {count} cases)")
    return "\n".join(text)


def machine() -> dict[str, Any]:
    """Return the versions and the processor, in words."""
    words = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        words = names[0] if names else words
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": words,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def main() -> None:
    from benchmarks.posteriordb.cases import CASES, HARD_CASES
    from benchmarks.posteriordb.engines import ENGINES

    everything = {**CASES, **HARD_CASES}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(everything)}")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-chains", type=int, default=4)
    parser.add_argument("--num-warmup", type=int, default=1000)
    parser.add_argument("--num-draws", type=int, default=1000)
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds a process")
    parser.add_argument("--out", type=Path, help="file for all runs and the table, as JSON")
    parser.add_argument(
        "--add", type=Path, nargs="*", default=[], help="such files, whose runs join the table"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker, arguments)
        return
    cases, engines = (
        [name for name in text.split(",") if name]
        for text in (arguments.cases, arguments.engines)
    )
    for chosen, known in ((cases, everything), (engines, ENGINES)):
        if unknown := sorted(set(chosen) - set(known)):
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    earlier = [row for path in arguments.add for row in json.loads(path.read_text())["runs"]]
    rows = earlier + run_all(cases, engines, arguments)
    cases = list(dict.fromkeys(row["case"] for row in rows))
    engines = [name for name in ENGINES if any(row["engine"] == name for row in rows)]
    summary = summarise(rows, cases, engines)
    print(table(summary, engines))
    if arguments.out:
        sizes = {n: getattr(arguments, n) for n in ("num_chains", "num_warmup", "num_draws")}
        result = {"machine": machine(), "settings": {**sizes, "seeds": arguments.seeds}}
        result |= {**summary, "runs": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
