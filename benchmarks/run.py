"""Speed and accuracy beside other packages: one JSON line a row, errors beside times.

`make bench` runs everything; `python benchmarks/run.py validator` one part. Times are CPU
seconds of this process after a first call that compiles, and machines differ: compare the
ratios, which come from one run.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def emit(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def cpu_seconds(function: Callable[[], Any], repeats: int = 5) -> tuple[float, float]:
    """Return the CPU seconds of the first call, and of the quickest of the later ones."""
    start = time.process_time()
    jax.block_until_ready(function())
    first = time.process_time() - start
    later = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(function())
        later.append(time.process_time() - start)
    return first, min(later)


# ---------------------------------------------------------------- a logistic posterior


def _breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0) * 0.5, y


def _logistic(X, y=None):
    import numpyro
    import numpyro.distributions as dist

    intercept = numpyro.sample("intercept", dist.Normal(0.0, 20.0))
    prior = dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1)
    coefficients = numpyro.sample("coefficients", prior)
    numpyro.sample("y", dist.Bernoulli(logits=intercept + X @ coefficients), obs=y)


def logistic(quick: bool) -> None:
    """Evidence (reference -58.68) and draws of the 31-dimensional logistic regression.

    Then SMC samplers side by side, see ``smc_samplers.py``.
    """
    import bayeskit as bk

    X, y = _breast_cancer()
    engines = {
        "SMC waste-free 10 000": bk.SMC(progress=False),
        "SMC standard 1000": bk.SMC(num_particles=1000, waste_free=False, progress=False),
        "NUTS 4 x (1000 + 1000)": bk.NUTS(progress=False),
    }
    if quick:
        engines = {"SMC waste-free 2000": bk.SMC(num_particles=2000, progress=False)}
    for name, engine in engines.items():
        fits = []
        first, seconds = cpu_seconds(
            lambda engine=engine, fits=fits: fits.append(
                bk.BayesianModel(_logistic, inference=engine, random_state=len(fits)).fit(X, y)
            ),
            repeats=2,
        )
        result = fits[-1].result_
        emit(
            part="logistic",
            package="bayeskit",
            engine=name,
            first_fit_s=round(first, 2),
            second_fit_s=round(seconds, 2),
            compile_s=round(fits[0].timing_["compile_s"], 2),
            log_evidence=[round(f.result_.log_evidence or np.nan, 3) for f in fits],
            reported_se=round(result.log_evidence_se or np.nan, 3),
            ess_bulk_min=round(result.diagnostics.ess_bulk_min),
            ess_per_cpu_s=round(result.diagnostics.ess_bulk_min / seconds),
        )
    if not quick:
        from benchmarks.smc_samplers import compare

        _numpyro_nuts(X, y)
        compare(num_particles=1000, seeds=5)


def _numpyro_nuts(X: np.ndarray, y: np.ndarray) -> None:
    from numpyro.infer import MCMC, NUTS

    from bayeskit.inference.diagnostics import diagnose

    with jax.enable_x64(True):
        X, y = jnp.array(X), jnp.array(y)
        mcmc = MCMC(
            NUTS(_logistic),
            num_warmup=1000,
            num_samples=1000,
            num_chains=4,
            chain_method="sequential",
            progress_bar=False,
        )
        numbers = iter(range(100))
        first, seconds = cpu_seconds(
            lambda: mcmc.run(jax.random.key(next(numbers)), X, y), repeats=2
        )
        draws = mcmc.get_samples(group_by_chain=True)
    diagnostics = diagnose({name: np.asarray(v) for name, v in draws.items()})
    emit(
        part="logistic",
        package="numpyro",
        engine="NUTS 4 x (1000 + 1000)",
        first_fit_s=round(first, 2),
        second_fit_s=round(seconds, 2),
        ess_bulk_min=round(diagnostics.ess_bulk_min),
        ess_per_cpu_s=round(diagnostics.ess_bulk_min / seconds),
    )


# ---------------------------------------------------------------- the validator


def validator(quick: bool) -> None:
    """Paths of the exact mode a second, and one call of the quick mode for each kernel."""
    import bayeskit as bk
    from bayeskit.inference import HMC, MALA, Independent, NoUTurn, RandomWalk, random
    from bayeskit.validation import Atoms

    # 18 draws with two outcomes from each of four states: a million paths.
    turns = 12 if quick else 18
    states = np.arange(4)

    def rotate(key, state):
        for draw_key in random.split(key, turns):
            state = (state + random.accept(draw_key, -0.3)) % 4
        return state

    def exact():
        return bk.validate(rotate, start=Atoms(states, np.ones(4))).tests[0].discrepancy

    first, seconds = cpu_seconds(exact, repeats=3)
    emit(
        part="validator",
        mode="exact",
        num_paths=4 * 2**turns,
        cpu_s=round(seconds, 2),
        first_call_s=round(first, 2),
        discrepancy=exact(),
    )
    for kernel in (RandomWalk(), MALA(), HMC(), Independent(), NoUTurn()):
        call = lambda kernel=kernel: bk.validate(kernel, models="skewed").verdict
        first, seconds = cpu_seconds(call, repeats=1)
        emit(
            part="validator",
            mode="quick",
            kernel=repr(kernel),
            cpu_s=round(seconds, 2),
            first_call_s=round(first, 2),
            verdict=call(),
        )


# ---------------------------------------------------------------- Gaussian processes


def markov_gp(quick: bool) -> None:
    """A Markov Gaussian process and scikit-learn's dense one at the same hyper-parameters."""
    import bayeskit as bk
    from bayeskit.inference.gp_kernels import Matern52

    rng = np.random.default_rng(0)
    for num in (500,) if quick else (2000, 20_000, 200_000):
        x = rng.uniform(0, num / 40, num)
        y = np.sin(x) + 0.2 * rng.normal(size=num)
        new = rng.uniform(0, num / 40, 100)
        gp = bk.MarkovGPRegressor(Matern52(1.0, 1.5), noise=0.2, mean=0.0)

        def ours(gp=gp, x=x, y=y, new=new):
            found = gp.fit(x, y).predict(new, return_std=True, of="function")
            return *found, gp.log_evidence_

        first, later = cpu_seconds(ours, repeats=2)
        row = {"part": "markov_gp", "num": num, "first_s": first, "ours_s": later}
        if num <= 2000 and not quick:
            row |= _dense_gp(x, y, new, ours(), later)
        emit(**row)


def _dense_gp(x: np.ndarray, y: np.ndarray, new: np.ndarray, ours: tuple, later: float) -> dict:
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    peer = GaussianProcessRegressor(kernels.Matern(1.5, nu=2.5), alpha=0.04, optimizer=None)

    def dense():
        found = peer.fit(x[:, None], y).predict(new[:, None], return_std=True)
        return *found, peer.log_marginal_likelihood_value_

    _, seconds = cpu_seconds(dense, repeats=2)
    error = [float(np.max(np.abs(a - b))) for a, b in zip(ours, dense(), strict=True)]
    return {
        "dense_s": seconds,
        "ratio": seconds / later,
        "max_error_mean_std_evidence": error,
    }


PARTS = {f.__name__: f for f in (logistic, validator, markov_gp)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, no peers")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    emit(part="versions", jax=jax.__version__, numpy=np.__version__)
    for name in arguments.parts or PARTS:
        PARTS[name](arguments.quick)


if __name__ == "__main__":
    main()
