"""Ranks of simulated tensors by the evidence of sequential Monte Carlo.

Data sets are simulated with known ranks, and the evidence of each candidate is estimated with
its standard error. Amplitudes of functions are fixed at 1: where they are learned, a component
too many can be switched off at the cost of about one nat (``--learned``), so that higher ranks
tie with the true ones.

The choice is the candidate with the fewest functions and entries of the core among those whose
log evidence is within 3 of the highest, the least that Kass & Raftery (1995) call strong. CPU
seconds hold compilation where a candidate is met first.

    python benchmarks/tensor_ranks.py                 # prints a table
    python benchmarks/tensor_ranks.py --out FILE      # also stores it as JSON
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import numpy as np

from bayeskit.inference.gp_kernels import Matern32
from bayeskit.models.base import precision_scope
from bayeskit.models.functional_tucker.low_rank.data import tensor_data
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior
from bayeskit.models.functional_tucker.low_rank.posterior import Prior
from bayeskit.models.functional_tucker.low_rank.priors import kernels_of_modes, mode_parameters
from bayeskit.models.functional_tucker.low_rank.smc import run_smc

CANDIDATES = {
    "CP 1": Layout((1, 1, 1), "diagonal"),
    "CP 2": Layout((2, 2, 2), "diagonal"),
    "CP 3": Layout((3, 3, 3), "diagonal"),
    "Tucker (2, 2, 1)": Layout((2, 2, 1)),
    "Tucker (2, 2, 2)": Layout((2, 2, 2)),
}
_STRONG = 3.0
TRUTHS = ("CP 1", "CP 2", "CP 3", "Tucker (2, 2, 2)")


def simulated(layout: Layout, num_rows: int, noise: float, seed: int) -> tuple:
    """Return coordinates (rows, 3) and a scaled target with smooth random functions."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 10, (num_rows, 3)) / 9.0
    x = np.arange(10) / 9.0
    t = np.sqrt(3.0) * np.abs(x[:, None] - x) / 0.4
    root = np.linalg.cholesky((1.0 + t) * np.exp(-t) + 1e-10 * np.eye(10))
    # Orthogonal functions of equal size: no component is nearly one of the others.
    factors = []
    for k, rank in enumerate(layout.ranks):
        q, _ = np.linalg.qr(root @ rng.normal(size=(10, rank)))
        factors.append(np.sqrt(10.0) * q[np.rint(9 * table[:, k]).astype(int)])
    core = np.zeros(layout.ranks)
    if layout.has_core:
        # The slices have no real eigenvectors in common: no CP model of rank 2 is the same.
        core[..., 0], core[..., 1] = np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]])
    else:
        core[np.diag_indices(layout.ranks[0], 3)] = 1.0
    f = np.einsum("ijk,ni,nj,nk->n", core, *factors)
    y = f / f.std() + noise * rng.normal(size=num_rows)
    # Not centred: less its mean, the product would have one rank more.
    return table, y / y.std()


def evidence(layout: Layout, table, y, key, num_particles: int, learned: bool) -> tuple:
    """Return log evidence, standard error and CPU seconds."""
    kernels = kernels_of_modes(Matern32(std=None if learned else 1.0), range(3))
    prior = Prior(mode_parameters(layout, kernels, table), 1.0, NoisePrior(Gamma(1.0, 0.01)))
    data = tensor_data(table, y)
    start = time.process_time()
    _, value, error = run_smc(layout, prior, data, key, num_particles=num_particles)
    return value, error, time.process_time() - start


def choices(found: dict) -> tuple[str, str]:
    """Return the candidate of highest evidence, and the smallest that is as good."""
    value = lambda name: found[name]["log_evidence"]
    highest = max(found, key=value)
    size = lambda name: sum(CANDIDATES[name].ranks) + CANDIDATES[name].core_size
    good = [name for name in found if value(name) > value(highest) - _STRONG]
    return highest, min(good, key=size)


def main(arguments=None) -> list[dict]:
    """Run all candidates on all data sets and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--learned", action="store_true", help="learn the amplitudes")
    parser.add_argument("--truths", nargs="*", default=TRUTHS)
    options = parser.parse_args(arguments)
    results = []
    with precision_scope("float64"):
        for truth in options.truths:
            seed = TRUTHS.index(truth)
            table, y = simulated(CANDIDATES[truth], options.rows, options.noise, seed)
            row = {
                "truth": truth,
                "num_rows": options.rows,
                "noise": options.noise,
                "learned": options.learned,
            }
            row |= {"num_particles": options.particles, "candidates": {}}
            for name, layout in CANDIDATES.items():
                value, error, cpu = evidence(
                    layout, table, y, jax.random.key(seed), options.particles, options.learned
                )
                row["candidates"][name] = {
                    "log_evidence": round(value, 2),
                    "log_evidence_se": round(error, 2),
                    "cpu_s": round(cpu, 1),
                }
                print(
                    f"{truth:18s} {name:18s} {value:9.2f} ± {error:.2f} {cpu:6.1f} s",
                    flush=True,
                )
            row["highest"], row["chosen"] = choices(row["candidates"])
            print(f"{truth:18s} chosen: {row['chosen']}", flush=True)
            results.append(row)
    if options.out:
        with open(options.out, "w") as file:
            json.dump(results, file, indent=1)
    return results


if __name__ == "__main__":
    main()
