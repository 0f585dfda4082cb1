"""Kernels and resampling schemes of other packages under the validator.

    python benchmarks/peers_validated.py kernels --out kernels.jsonl
    python benchmarks/peers_validated.py schemes --out schemes.jsonl
    python benchmarks/peers_validated.py page kernels.jsonl schemes.jsonl

``kernels`` runs bk.validate(level="quick") over BlackJAX and NumPyro kernels on the continuous
models of the battery, with step sizes and metrics that follow the scale of each target.
``schemes`` runs resampling schemes on a million particles. Each prints and appends one JSON
line a subject; ``page`` turns the lines into Markdown tables.

A verdict speaks of the versions, the settings and the models at hand, in the float64 that
the validator uses; resampling is run in the precision that the line names.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import multivariate_normal
from numpyro.infer import HMC, NUTS, BarkerMH

import bayeskit as bk
from bayeskit import accel
from bayeskit.interop.blackjax import from_blackjax
from bayeskit.interop.numpyro_kernels import from_numpyro
from bayeskit.validation.findings import Request
from bayeskit.validation.scale import validate_scheme_at_scale

VERSIONS = {
    n: importlib.metadata.version(n) for n in ("blackjax", "numpyro", "particles", "jax")
}

# ---------------------------------------------------------------- metrics from the tuning


def factor(tuning):
    return jnp.diag(tuning.factor) if tuning.factor.ndim == 1 else tuning.factor


def covariance(tuning):
    return factor(tuning) @ factor(tuning).T


def least_scale(tuning):
    """Return the standard deviation along the narrowest direction."""
    return jnp.sqrt(jnp.linalg.eigvalsh(covariance(tuning))[0])


# ---------------------------------------------------------------- kernels of BlackJAX


def normal_random_walk(log_density, tuning):
    return blackjax.normal_random_walk(log_density, tuning.step_size * factor(tuning))


def rmh(log_density, tuning):
    """Autoregressive proposal around the mean: not symmetric."""
    rho, step = 0.8, tuning.step_size * factor(tuning)
    centre = lambda x: tuning.mean + rho * (x - tuning.mean)

    def propose(key, x):
        return centre(x) + step @ jax.random.normal(key, x.shape)

    def log_proposal(start, end):
        return multivariate_normal.logpdf(end.position, centre(start.position), step @ step.T)

    return blackjax.rmh(log_density, propose, log_proposal)


def irmh(log_density, tuning):
    wide = 2.0 * factor(tuning)

    def propose(key):
        return tuning.mean + wide @ jax.random.normal(key, tuning.mean.shape)

    def log_proposal(start, end):
        return multivariate_normal.logpdf(end.position, tuning.mean, wide @ wide.T)

    return blackjax.irmh(log_density, propose, log_proposal)


def mala(log_density, tuning):
    return blackjax.mala(log_density, 0.5 * (tuning.step_size * least_scale(tuning)) ** 2)


def barker(log_density, tuning):
    # Its proposals have the inverse of inverse_mass_matrix for a covariance.
    precision = jnp.linalg.inv(covariance(tuning))
    return blackjax.barker(log_density, tuning.step_size, precision)


def hmc(log_density, tuning, algorithm=blackjax.hmc):
    return algorithm(log_density, tuning.step_size, covariance(tuning), 4)


def dynamic_hmc(log_density, tuning):
    return blackjax.dynamic_hmc(log_density, tuning.step_size, covariance(tuning))


def nuts(log_density, tuning):
    return blackjax.nuts(log_density, tuning.step_size, covariance(tuning), max_num_doublings=6)


def rmhmc(log_density, tuning):
    """A metric that does not depend on the position, by the implicit midpoint rule."""
    precision = jnp.linalg.inv(covariance(tuning))
    return blackjax.rmhmc(log_density, tuning.step_size, lambda x: precision, 3)


def ghmc(log_density, tuning):
    # Its init draws a standard normal momentum, so the metric is the identity.
    return blackjax.ghmc(
        log_density, tuning.step_size * least_scale(tuning), 1.0, alpha=0.3, delta=0.1
    )


def adjusted_mclmc(log_density, tuning):
    return blackjax.adjusted_mclmc(
        log_density, tuning.step_size * least_scale(tuning), integration_steps_params=(4,)
    )


def adjusted_mclmc_dynamic(log_density, tuning):
    return blackjax.adjusted_mclmc_dynamic(log_density, tuning.step_size * least_scale(tuning))


def gist_step_size(log_density, tuning):
    return blackjax.gist_step_size(log_density, covariance(tuning), tuning.step_size, 3)


def gist_trajectory_length(log_density, tuning):
    return blackjax.gist_trajectory_length(
        log_density, covariance(tuning), tuning.step_size, max_num_steps=64
    )


def wide_prior(tuning):
    """Return mean and covariance of a normal prior that depends on the dimension alone."""
    dim = tuning.mean.shape[0]
    return jnp.ones(dim), jnp.diag(jnp.linspace(2.0, 9.0, dim)) + 0.5


def elliptical_slice(log_density, tuning):
    mean, prior = wide_prior(tuning)
    likelihood = lambda x: log_density(x) - multivariate_normal.logpdf(x, mean, prior)
    return blackjax.elliptical_slice(likelihood, mean=mean, cov=prior)


def mgrad_gaussian(log_density, tuning):
    mean, prior = wide_prior(tuning)
    likelihood = lambda x: log_density(x) - multivariate_normal.logpdf(x, mean, prior)
    step = (tuning.step_size * least_scale(tuning)) ** 2
    return blackjax.mgrad_gaussian(likelihood, covariance=prior, mean=mean, step_size=step)


def slice_along_directions(log_density, tuning, interval):
    proposal = blackjax.mcmc.slice.direction_proposal(covariance(tuning))
    return blackjax.slice_sampling(
        log_density, proposal_generator=proposal, width=tuning.step_size, interval=interval
    )


def slice_doubling(log_density, tuning):
    return slice_along_directions(log_density, tuning, blackjax.mcmc.slice.doubling)


def slice_stepping_out(log_density, tuning):
    return slice_along_directions(log_density, tuning, blackjax.mcmc.slice.stepping_out)


def coordinate_slice(log_density, tuning):
    widths = tuning.step_size * jnp.sqrt(jnp.diag(covariance(tuning)))
    return blackjax.coordinate_slice(log_density, initial_widths=widths)


def mhmc(log_density, tuning):
    return hmc(log_density, tuning, blackjax.mhmc)


PAIRS = {
    normal_random_walk: {"step_size": 1.5, "needs_gradient": False},
    rmh: {"step_size": 0.8, "needs_gradient": False},
    irmh: {"needs_gradient": False},
    mala: {"step_size": 1.0},
    barker: {"step_size": 1.2},
    hmc: {"step_size": 0.6},
    mhmc: {"step_size": 0.6},
    dynamic_hmc: {"step_size": 0.5},
    nuts: {"step_size": 0.6},
    rmhmc: {"step_size": 0.6},
    ghmc: {"step_size": 0.7, "reversible": False},
    adjusted_mclmc: {"step_size": 0.8},
    adjusted_mclmc_dynamic: {"step_size": 0.8},
    gist_step_size: {"step_size": 0.5},
    gist_trajectory_length: {"step_size": 0.4},
    elliptical_slice: {"needs_gradient": False},
    mgrad_gaussian: {"step_size": 1.2},
    slice_doubling: {"step_size": 1.0, "needs_gradient": False},
    slice_stepping_out: {"step_size": 1.0, "needs_gradient": False},
    coordinate_slice: {"step_size": 1.0, "needs_gradient": False},
}

# ---------------------------------------------------------------- kernels of NumPyro

FIXED = {"adapt_step_size": False, "adapt_mass_matrix": False}


def numpyro_hmc(potential, tuning):
    return HMC(
        potential_fn=potential,
        step_size=tuning.step_size,
        inverse_mass_matrix=covariance(tuning),
        dense_mass=True,
        num_steps=4,
        trajectory_length=None,
        **FIXED,
    )


def numpyro_nuts(potential, tuning):
    return NUTS(
        potential_fn=potential,
        step_size=tuning.step_size,
        inverse_mass_matrix=covariance(tuning),
        dense_mass=True,
        max_tree_depth=6,
        **FIXED,
    )


def numpyro_barker(potential, tuning):
    # It takes no metric without adapting it.
    step_size = tuning.step_size * least_scale(tuning)
    return BarkerMH(potential_fn=potential, step_size=step_size, **FIXED)


def kernels() -> dict[str, object]:
    found = {
        f"blackjax {build.__name__}": from_blackjax(build, **settings)
        for build, settings in PAIRS.items()
    }
    for name, factory, step_size in (
        ("HMC", numpyro_hmc, 0.6),
        ("NUTS", numpyro_nuts, 0.6),
        ("BarkerMH", numpyro_barker, 1.2),
    ):
        found[f"numpyro {name}"] = from_numpyro(factory, step_size=step_size)
    return found


def check_kernel(name: str, kernel, models) -> dict:
    report = bk.validate(kernel, models=models, level="quick")
    failed = [f"{c.model}: {c.name}" for c in report.tests if not c.passed]
    return {
        "subject": name,
        "verdict": report.verdict,
        "law": report.law.split(":")[0],
        "worst": report.worst,
        "failed": failed,
        "acceptance": report.notes[0],
        "power": report.power.words if report.power else None,
        "cpu_s": round(report.seconds, 1),
    }


# ---------------------------------------------------------------- resampling schemes


def normalised(log_weights, dtype):
    """Return weights that sum to one as nearly as their precision allows."""
    weights = np.exp(np.asarray(log_weights, float) - float(np.max(log_weights)))
    return (weights / weights.sum()).astype(dtype)


def from_blackjax_scheme(name: str, dtype) -> Callable:
    scheme = jax.jit(getattr(blackjax.smc.resampling, name), static_argnums=2)

    def ancestors(key, log_weights, num):
        with jax.enable_x64(dtype == np.float64):
            return scheme(key, jnp.asarray(normalised(log_weights, dtype)), num)

    return ancestors


def from_particles_scheme(name: str, dtype) -> Callable:
    from particles import resampling

    scheme = getattr(resampling, name)

    def ancestors(key, log_weights, num):
        # It draws from NumPy's global generator.
        np.random.seed(int(jax.random.bits(key)))  # noqa: NPY002
        return np.asarray(scheme(normalised(log_weights, dtype), num))

    return ancestors


# How far the offspring of a particle or of neighbours may be from their mean, in exact
# arithmetic.
BOUNDS = {"systematic": 1.0, "stratified": 2.0}


def schemes() -> dict[str, tuple]:
    found: dict[str, tuple] = {
        f"bayeskit {name} float32": (name, None) for name in accel.SCHEMES
    }
    for dtype in (np.float32, np.float64):
        for name in ("systematic", "stratified", "multinomial", "residual"):
            label = f"blackjax {name} {np.dtype(dtype)}"
            found[label] = (from_blackjax_scheme(name, dtype), BOUNDS.get(name))
        for name in ("systematic", "stratified", "multinomial", "residual", "ssp", "killing"):
            label = f"particles {name} {np.dtype(dtype)}"
            found[label] = (from_particles_scheme(name, dtype), BOUNDS.get(name))
    return found


def check_scheme(name: str, scheme, bound, num_particles: int) -> dict:
    began = time.process_time()
    try:
        found = validate_scheme_at_scale(scheme, Request(), num_particles, max_deviation=bound)
    except Exception as error:  # what a peer raises is a result
        return {"subject": name, "verdict": "raised", "worst": repr(error)[:300]}
    largest = {}
    for check in found.checks:
        if check.discrepancy is not None:
            largest[check.name] = max(largest.get(check.name, 0.0), check.discrepancy)
    blocks = [c for c in found.checks if c.statistic is not None]
    return {
        "subject": name,
        "verdict": found.verdict,
        "worst": found.worst,
        "dead_offspring": largest["no offspring for weight zero"],
        "max_deviation": max(
            (v for k, v in largest.items() if k.startswith("offspring")), default=None
        ),
        "block_bias_in_se": max((c.statistic for c in blocks), key=abs),
        "failed": [f"{c.model}: {c.words}" for c in found.checks if not c.passed],
        "call_cpu_s": found.notes[0].rsplit(" ", 1)[-1],
        "cpu_s": round(time.process_time() - began, 1),
    }


# ---------------------------------------------------------------- tables


def page(paths) -> None:
    lines = [json.loads(line) for path in paths for line in Path(path).open()]
    by_name = {row["subject"]: row for row in lines}  # the last run of each counts
    tested = [row for row in by_name.values() if "acceptance" in row]
    print("| kernel | law | verdict | strongest sign |\n|---|---|---|---|")
    for row in tested:
        words = row["worst"].removeprefix("nothing found; the largest deviation: ")
        print(f"| {row['subject']} | {row['law'][3:].strip()} | {row['verdict']} | {words} |")
    print(
        "\n| scheme | verdict | offspring of dead particles | largest difference from the mean "
        "| bias of a block, standard errors | CPU s a call |\n|---|---|---|---|---|---|"
    )
    for row in by_name.values():
        if "dead_offspring" in row:
            deviation = row["max_deviation"]
            shown = "" if deviation is None else f"{deviation:.5g}"
            print(
                f"| {row['subject']} | {row['verdict']} | {row['dead_offspring']:,.0f} | "
                f"{shown} | {row['block_bias_in_se']:+.3g} | {row['call_cpu_s']} |"
            )
        elif row["verdict"] == "raised":
            print(f"| {row['subject']} | raised | {row['worst']} | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("kernels", "schemes", "page"))
    parser.add_argument("files", nargs="*", help="JSON lines, for page")
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument("--models", help="names of battery models; default: all continuous")
    parser.add_argument("--num-particles", type=int, default=10**6)
    parser.add_argument("--out", help="file to append JSON lines to")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.what == "page":
        page(options.files)
        return
    models = options.models.split(",") if options.models else None
    if options.what == "kernels":
        jobs = {
            name: functools.partial(check_kernel, name, kernel, models)
            for name, kernel in kernels().items()
        }
    else:
        jobs = {
            name: functools.partial(check_scheme, name, *given, options.num_particles)
            for name, given in schemes().items()
        }
    for name, job in jobs.items():
        if options.only in name:
            line = json.dumps({**job(), "versions": VERSIONS})
            print(line, flush=True)
            if options.out:
                with Path(options.out).open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
