"""Distribution Transformers against exact posteriors: divergence, training and answering time.

    python benchmarks/distribution_transformer.py [--tasks quantum gp] [--steps N] [--out FILE]

Each task has a posterior that is known exactly or by quadrature. Divergences are those from it
to the network, over 1000 problems that training has not seen; seconds are of one thread.

linear_1d, linear_2d : two components in one dimension, four in two with 1 to 10 observations,
    linear Gaussian data; the network starts from the prior, for with the warm start the
    divergence is 0.
inverse_gamma : a variance with an inverse-gamma prior.
logistic, student_t : 1 to 10 observations, mixture priors of 1 to 3 components.
quantum : a Hamiltonian with one number D, beta priors, ten measurements whose initial states
    and times are uncertain. The likelihood is a Chebyshev fit of a quadrature over both.
gp : the value at a query point and the length scale of a Gaussian process in five dimensions,
    from five observations. Level and scale of the process are those of the prior of the value;
    the problem is given in their units, in which they are 0 and 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before NumPy and JAX are imported.
for name, value in {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from scipy import special, stats  # noqa: E402

import bayeskit as bk  # noqa: E402
from bayeskit.models.distribution_transformer import (  # noqa: E402
    GaussianMixtureMetaPrior,
    JointSimulator,
    LinearGaussian,
    ParametricMetaPrior,
    Simulator,
)
from bayeskit.models.distribution_transformer.small_matrices import (  # noqa: E402
    cholesky,
    log_diagonal,
    solve_lower,
)

NUM_PROBLEMS = 1000


@dataclasses.dataclass
class Case:
    """A task: its settings, and the divergences of a trained estimator."""

    simulator: Any
    meta_prior: Any
    settings: dict[str, Any]
    divergences: Callable[[Any], np.ndarray]


# ---------------------------------------------------------------- mixtures of priors


def mixtures_and_latents(meta_prior: Any) -> tuple:
    with jax.enable_x64(False):
        prior = jax.jit(lambda k: meta_prior.draw(k, NUM_PROBLEMS))(jax.random.key(5))
        u = np.asarray(jax.jit(meta_prior.draw_latent)(jax.random.key(6), prior), float)
    return bk.GaussianMixture.of_arrays(prior), u


def without_some(z: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    count = generator.integers(1, z.shape[1] + 1, size=len(z))
    z[np.arange(z.shape[1]) >= count[:, None]] = np.nan
    return z


def linear(d: int, k: Any, n: int, **settings: Any) -> Case:
    meta_prior = GaussianMixtureMetaPrior(
        dim=d, num_components=k, covariance="wishart", sharp_share=0.0
    )
    number = (1, n) if n > 1 else 1
    simulator = LinearGaussian(np.eye(d), np.eye(d), num_observations=number)

    def divergences(estimator: Any) -> np.ndarray:
        exact = bk.DistributionTransformer(simulator, meta_prior, random_state=0).fit()
        prior, u = mixtures_and_latents(meta_prior)
        generator = np.random.default_rng(0)
        z = u[:, None] + generator.normal(size=(NUM_PROBLEMS, n, d))
        z = without_some(z, generator)
        p, q = (e.posterior(z, prior=prior, missing="mask") for e in (exact, estimator))
        draws = p.sample(2000, random_state=1)
        return (p.log_prob(draws) - q.log_prob(draws)).mean(axis=0)

    return Case(simulator, meta_prior, {"warm_start": False, **settings}, divergences)


def on_a_line(simulate: Any, density: Any, numpy_simulate: Any, numpy_density: Any) -> Case:
    """A latent on the real line, 1 to 10 observations, quadrature over a grid."""
    meta_prior = GaussianMixtureMetaPrior(num_components=(1, 3))
    simulator = Simulator(simulate, density, num_observations=(1, 10))

    def divergences(estimator: Any) -> np.ndarray:
        prior, x = mixtures_and_latents(meta_prior)
        generator = np.random.default_rng(0)
        z = numpy_simulate(generator, np.repeat(x, 10, axis=1))
        z = without_some(z, generator)
        t = np.linspace(-9.0, 9.0, 4001)[:, None]
        u = prior.mean[:, 0] + prior.std[:, 0] * t
        log_p = prior.log_prob(u[..., None])
        for j in range(10):
            seen = ~np.isnan(z[:, j])
            log_p += np.where(seen, numpy_density(np.where(seen, z[:, j], 0.0), u), 0.0)
        width = prior.std[:, 0] * (t[1] - t[0])
        log_p -= special.logsumexp(log_p, axis=0) + np.log(width)
        q = estimator.posterior(z[..., None], prior=prior, missing="mask")
        log_q = q.log_prob(u[..., None])
        return (np.exp(log_p) * (log_p - log_q)).sum(axis=0) * width

    return Case(simulator, meta_prior, {"lr": 2e-3}, divergences)


def logistic() -> Case:
    return on_a_line(
        lambda key, x: jax.random.bernoulli(key, jax.nn.sigmoid(x[0])),
        lambda z, x: -jnp.logaddexp(0.0, (1 - 2 * z[0]) * x[0]),
        lambda g, x: (g.random(x.shape) < special.expit(x)).astype(float),
        lambda z, u: -np.logaddexp(0.0, (1 - 2 * z) * u),
    )


def student_t() -> Case:
    return on_a_line(
        lambda key, x: x[0] + jax.random.t(key, 3.0),
        lambda z, x: -2.0 * jnp.log1p((z[0] - x[0]) ** 2 / 3.0),
        lambda g, x: x + g.standard_t(3.0, size=x.shape),
        lambda z, u: -2.0 * np.log1p((z - u) ** 2 / 3.0),
    )


# ---------------------------------------------------------------- parametric families


def grid_divergences(u: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Divergences of densities on grids u (points, problems) of equal steps."""
    width = u[1] - u[0]
    log_p = log_p - special.logsumexp(log_p, axis=0) - np.log(width)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=0) * width


def inverse_gamma() -> Case:
    law = dist.InverseGamma(4.0, 6.0)
    simulator = Simulator(
        lambda key, x: jnp.sqrt(x[0]) * jax.random.normal(key),
        lambda z, x: -0.5 * z[0] ** 2 / x[0] - 0.5 * jnp.log(2 * jnp.pi * x[0]),
    )
    meta_prior = ParametricMetaPrior("inverse_gamma", concentration=law, rate=law)

    def divergences(estimator: Any) -> np.ndarray:
        generator = np.random.default_rng(5)
        frozen = stats.invgamma(4.0, scale=6.0)
        a, b = (frozen.rvs(NUM_PROBLEMS, random_state=generator) for _ in range(2))
        x = stats.invgamma(a, scale=b).rvs(random_state=generator)
        z = generator.normal(size=NUM_PROBLEMS) * np.sqrt(x)
        q = estimator.posterior(z[:, None, None], prior={"concentration": a, "rate": b})
        a, b = a + 0.5, b + z**2 / 2
        t = np.linspace(-14.0, 10.0, 4000)[:, None]
        u = np.log(b) - special.digamma(a) + np.sqrt(special.polygamma(1, a)) * t
        log_p = -a * u - b * np.exp(-u)
        return grid_divergences(u, log_p, q.log_prob(np.exp(u)[..., None]) + u)

    return Case(simulator, meta_prior, {"lr": 2e-3}, divergences)


STATES = np.array([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 2 + [[1.0, 1.0]] * 3)
TIMES = np.array([1.0, 2, 3, 4, 5, 1, 2, 1, 2, 3])


def outcome_probability(D: Any, state: Any, t: Any, xp: Any) -> Any:
    """Return |psi_t[0]|^2 for H = D sx + (1 - D) sz, whose square is r^2 times the identity."""
    r = xp.sqrt(D**2 + (1 - D) ** 2)
    p, q = state[..., 0], state[..., 1]
    return xp.cos(r * t) ** 2 * p**2 + (xp.sin(r * t) * ((1 - D) * p + D * q) / r) ** 2


def averaged_probabilities(D: np.ndarray) -> np.ndarray:
    """Return the probability (..., 10) of each outcome over uncertain states and times."""
    x, w = np.polynomial.hermite_e.hermegauss(15)
    w = w / w.sum()
    total = np.zeros((*D.shape, 10))
    for i, a in enumerate(x):
        for j, b in enumerate(x):
            state = STATES + 0.1 * np.array([a, b])
            state = state / np.linalg.norm(state, axis=-1, keepdims=True)
            for k, c in enumerate(x):
                weight = w[i] * w[j] * w[k]
                t = TIMES + 0.05 * c
                total += weight * outcome_probability(D[..., None], state, t, np)
    return total


def quantum() -> Case:
    nodes = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    probabilities = averaged_probabilities(0.5 * (nodes + 1))
    fit = jnp.asarray(np.polynomial.chebyshev.chebfit(nodes, probabilities, 24), jnp.float32)

    def simulate(key: Any, x: Any) -> Any:
        of_state, of_time, of_outcome = jax.random.split(key, 3)
        state = STATES + 0.1 * jax.random.normal(of_state, (10, 2))
        state = state / jnp.sqrt((state**2).sum(axis=-1, keepdims=True))
        t = TIMES + 0.05 * jax.random.normal(of_time, (10,))
        p = outcome_probability(x[0], state, t, jnp)
        outcome = jax.random.uniform(of_outcome, (10,)) < p
        # Which measurement it was is known: one number of ten is 1.
        return jnp.concatenate([outcome[:, None], jnp.eye(10)], axis=1)

    def log_likelihood(rows: dict, masks: dict, x: Any) -> Any:
        v = 2 * x[0] - 1
        last, before = jnp.zeros(10, v.dtype), jnp.zeros(10, v.dtype)
        for coefficient in fit[:0:-1].astype(v.dtype):
            last, before = coefficient + 2 * v * last - before, last
        p = jnp.clip(fit[0].astype(v.dtype) + v * last - before, 1e-6, 1 - 1e-6)
        outcome = rows["z"][:, 0] > 0.5
        return jnp.where(masks["z"], jnp.where(outcome, jnp.log(p), jnp.log1p(-p)), 0.0).sum()

    law = dist.InverseGamma(4.0, 6.0)
    meta_prior = ParametricMetaPrior("beta", concentration1=law, concentration0=law)
    simulator = JointSimulator(simulate, 10, log_likelihood)

    def divergences(estimator: Any) -> np.ndarray:
        generator = np.random.default_rng(5)
        frozen = stats.invgamma(4.0, scale=6.0)
        a, b = (frozen.rvs(NUM_PROBLEMS, random_state=generator) for _ in range(2))
        D = generator.beta(a, b)
        state = STATES + 0.1 * generator.normal(size=(NUM_PROBLEMS, 10, 2))
        state /= np.linalg.norm(state, axis=-1, keepdims=True)
        t = TIMES + 0.05 * generator.normal(size=(NUM_PROBLEMS, 10))
        p = outcome_probability(D[:, None], state, t, np)
        outcome = (generator.random(p.shape) < p).astype(float)
        eye = np.broadcast_to(np.eye(10), (NUM_PROBLEMS, 10, 10))
        z = np.concatenate([outcome[..., None], eye], axis=-1)
        q = estimator.posterior(z, prior={"concentration1": a, "concentration0": b})
        v = np.linspace(-14.0, 14.0, 1401)[:, None]
        x = special.expit(v)
        log_prior = a * special.log_expit(v) + b * special.log_expit(-v)
        known = averaged_probabilities(x[:, 0])
        log_p = log_prior + np.log(known) @ outcome.T + np.log1p(-known) @ (1 - outcome).T
        points = np.broadcast_to(x[..., None], (len(x), NUM_PROBLEMS, 1))
        log_jacobian = special.log_expit(v) + special.log_expit(-v)
        u = np.broadcast_to(v, log_p.shape)
        return grid_divergences(u, log_p, q.log_prob(points) + log_jacobian)

    return Case(simulator, meta_prior, {"lr": 2e-3}, divergences)


# ---------------------------------------------------------------- Gaussian process


def gp_log_density(y: Any, points: Any, query: Any, at_query: Any, scale: Any) -> Any:
    """Return log p(y | value at the query, length scale), by the joint law of all six."""
    every = jnp.concatenate([query, points])
    values = jnp.concatenate([at_query[None], y])
    squares = ((every[:, None] - every[None]) ** 2).sum(axis=-1)
    covariance = jnp.exp(-0.5 * squares / scale**2) + 1e-4 * jnp.eye(len(every), dtype=y.dtype)
    factor = cholesky(covariance)
    white = solve_lower(factor, values[:, None])[:, 0]
    rest = log_diagonal(factor)[1:]
    # The first entry is the value at the query on its own.
    return -0.5 * (white[1:] ** 2).sum() - rest.sum() - 0.5 * len(y) * jnp.log(2 * jnp.pi)


def gp() -> Case:
    def simulate(key: Any, x: Any) -> dict:
        of_points, of_noise = jax.random.split(key)
        every = 5.0 * jax.random.uniform(of_points, (6, 5))
        squares = ((every[:, None] - every[None]) ** 2).sum(axis=-1)
        factor = cholesky(jnp.exp(-0.5 * squares / x[1] ** 2) + 1e-4 * jnp.eye(6))
        first = x[0] / factor[0, 0]
        white = jnp.concatenate([first[None], jax.random.normal(of_noise, (5,))])
        y = (factor * white).sum(axis=1)
        return {"data": jnp.concatenate([every, y[:, None]], 1)[1:], "query": every[:1]}

    def log_likelihood(rows: dict, masks: dict, x: Any) -> Any:
        data = rows["data"]
        value = gp_log_density(data[:, 5], data[:, :5], rows["query"], x[0], x[1])
        return jnp.where(masks["data"].all() & masks["query"].all(), value, 0.0)

    meta_prior = ParametricMetaPrior(
        {
            "value": ("normal", {"loc": 0.0, "scale": 1.0}),
            "length": (
                "inverse_gamma",
                {
                    "concentration": dist.Uniform(100.0, 105.0),
                    "rate": dist.Uniform(100.0, 700.0),
                },
            ),
        }
    )
    simulator = JointSimulator(simulate, {"data": 5, "query": 1}, log_likelihood)

    def divergences(estimator: Any) -> np.ndarray:
        generator = np.random.default_rng(5)
        a, b = (
            generator.uniform(100, 105, NUM_PROBLEMS),
            generator.uniform(100, 700, NUM_PROBLEMS),
        )
        length = stats.invgamma(a, scale=b).rvs(random_state=generator)
        value = generator.normal(size=NUM_PROBLEMS)
        with jax.enable_x64(True):
            keys = jax.random.split(jax.random.key(8), NUM_PROBLEMS)
            x = jnp.asarray(np.stack([value, length], axis=1))
            z = jax.tree.map(np.asarray, jax.jit(jax.vmap(simulate))(keys, x))
        prior = {
            "value": {"loc": np.zeros(NUM_PROBLEMS), "scale": 1.0},
            "length": {"concentration": a, "rate": b},
        }
        q = estimator.posterior(z, prior=prior)
        # Draws from the exact posterior: the length on a grid, then the value, which is normal.
        t = np.linspace(-8.0, 8.0, 401)
        u = np.log(b) - special.digamma(a) + np.sqrt(special.polygamma(1, a)) * t[:, None]
        log_prior = -a * u - b * np.exp(-u) + a * np.log(b) - special.gammaln(a)
        log_data, mean, variance = (np.empty((401, NUM_PROBLEMS)) for _ in range(3))
        for i, scale in enumerate(np.exp(u)):
            every = np.concatenate([z["query"], z["data"][..., :5]], axis=1)
            squares = ((every[:, :, None] - every[:, None]) ** 2).sum(axis=-1)
            k = np.exp(-0.5 * squares / scale[:, None, None] ** 2) + 1e-4 * np.eye(6)
            # The value itself has the prior N(0, 1); the small number is noise on top of it.
            k[:, 0, 1:] /= k[:, 0, :1]
            k[:, 1:, 0] = k[:, 0, 1:]
            k[:, 1:, 1:] -= k[:, 1:, :1] * k[:, :1, 1:] * (k[:, 0, 0] - 1)[:, None, None]
            k[:, 0, 0] = 1.0
            y = z["data"][..., 5]
            solved = np.linalg.solve(k[:, 1:, 1:], np.stack([y, k[:, 1:, 0]], axis=-1))
            mean[i] = (k[:, 0, 1:] * solved[..., 0]).sum(axis=-1)
            variance[i] = 1 - (k[:, 0, 1:] * solved[..., 1]).sum(axis=-1)
            log_data[i] = -0.5 * (y * solved[..., 0]).sum(-1)
            log_data[i] -= 0.5 * np.linalg.slogdet(k[:, 1:, 1:])[1] + 2.5 * np.log(2 * np.pi)
        log_u = log_prior + log_data
        width = u[1] - u[0]
        log_u -= special.logsumexp(log_u, axis=0) + np.log(width)
        share = np.exp(log_u) * width
        # The divergence is an average over the length of one over the value.
        nodes, weights = np.polynomial.hermite_e.hermegauss(21)
        total = np.zeros(NUM_PROBLEMS)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            at = mean + np.sqrt(variance) * node
            log_p = log_u - 0.5 * node**2 - 0.5 * np.log(2 * np.pi * variance)
            log_q = q.log_prob(np.stack([at, np.exp(u)], axis=-1)) + u
            total += weight * (share * (log_p - log_q)).sum(axis=0)
        return total

    return Case(simulator, meta_prior, {"n_components": 10, "lr": 2e-3}, divergences)


CASES: dict[str, tuple[Callable[[], Case], int, int]] = {
    "linear_1d": (lambda: linear(1, 2, 1), 3000, 512),
    "linear_2d": (lambda: linear(2, 4, 10, lr=1.5e-3), 2000, 256),
    "inverse_gamma": (inverse_gamma, 3900, 512),
    "logistic": (logistic, 1500, 256),
    "student_t": (student_t, 1500, 256),
    "quantum": (quantum, 1500, 256),
    "gp": (gp, 1500, 256),
}
SMALLER = {"d_model": 32, "n_layers": 2, "d_hidden": 64}


def measured(name: str, steps: int | None) -> dict[str, Any]:
    """Return one row of the table."""
    make, usual, batch = CASES[name]
    case = make()
    settings = case.settings if name.startswith("linear") else SMALLER | case.settings
    number = usual if steps is None else steps
    estimator = bk.DistributionTransformer(
        case.simulator,
        case.meta_prior,
        max_steps=number,
        batch_size=batch,
        budget_seconds=None,
        progress=False,
        random_state=1,
        **settings,
    )
    start = time.process_time()
    estimator.fit()
    seconds = time.process_time() - start
    kl = case.divergences(estimator)
    untrained = estimator.set_params(max_steps=0).fit()
    before = case.divergences(untrained)
    return {
        "part": "distribution_transformer",
        "task": name,
        "steps": number,
        "batch": batch,
        "fit_cpu_s": round(seconds, 1),
        "mean_kl": float(f"{kl.mean():.3g}"),
        "median_kl": float(f"{np.median(kl):.3g}"),
        "p95_kl": float(f"{np.quantile(kl, 0.95):.3g}"),
        "max_kl": float(f"{kl.max():.3g}"),
        "untrained_mean_kl": float(f"{before.mean():.3g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--steps", type=int, help="instead of those of each task")
    parser.add_argument("--out", type=Path, help="rows are added to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in arguments.tasks:
        row = json.dumps(measured(name, arguments.steps))
        print(row, flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(row + "\n")


if __name__ == "__main__":
    main()
