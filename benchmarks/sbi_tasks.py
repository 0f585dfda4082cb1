"""Tasks of the benchmark of simulation-based inference, with their likelihoods written out.

Lueckmann, Boelts, Greenberg, Goncalves & Macke (2021), *Benchmarking simulation-based
inference*. Each task has a prior, a log likelihood in JAX, and stored reference draws; a
classifier then tells how well draws can be told apart from the reference (C2ST, 0.5 at best).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

__all__ = ["TASKS", "SbiTask", "c2st", "observed"]


@dataclass(frozen=True)
class SbiTask:
    """One task.

    Parameters
    ----------
    prior : callable () -> NumPyro distribution
    log_likelihood : callable (theta, y) -> () array
    support : what the parameters are declared to have
    observations : tuple of int
        Numbers of those that are stored.
    """

    prior: Callable[[], Any]
    log_likelihood: Callable
    support: Any
    observations: tuple[int, ...]


def _uniform(bound: float, dim: int) -> Callable[[], Any]:
    def prior() -> Any:
        import numpyro.distributions as dist

        return dist.Uniform(-bound * np.ones(dim), bound * np.ones(dim)).to_event(1)

    return prior


def _normal(scale: float, dim: int) -> Callable[[], Any]:
    def prior() -> Any:
        import numpyro.distributions as dist

        return dist.Normal(np.zeros(dim), scale * np.ones(dim)).to_event(1)

    return prior


def _smooth_filter() -> Any:
    """The prior of the generalised linear model: an offset, and a smooth filter."""
    import numpyro.distributions as dist

    number = np.arange(9)
    matrix = np.diag(1.0 + np.sqrt(number / 9.0))
    matrix[number[1:], number[:-1]] = -2.0
    matrix[number[2:], number[:-2]] = 1.0
    covariance = np.zeros((10, 10))
    covariance[0, 0] = 2.0
    covariance[1:, 1:] = np.linalg.inv(matrix.T @ matrix)
    return dist.MultivariateNormal(np.zeros(10), covariance)


def normal_data(theta: jax.Array, y: jax.Array) -> jax.Array:
    """Each coordinate with variance 0.1."""
    return norm.logpdf(y, theta, math.sqrt(0.1)).sum()


def two_scales(theta: jax.Array, y: jax.Array) -> jax.Array:
    """Noise of standard deviation 1 or 0.1, with equal probability."""
    wide, narrow = norm.logpdf(y, theta, 1.0).sum(), norm.logpdf(y, theta, 0.1).sum()
    return jnp.logaddexp(wide, narrow) - math.log(2.0)


def moons(theta: jax.Array, y: jax.Array) -> jax.Array:
    """A half circle of radius N(0.1, 0.01^2), moved by theta.

    Its density in the plane has the radius as Jacobian.
    """
    first, second = theta
    shift = jnp.stack([-jnp.abs(first + second), second - first]) / math.sqrt(2.0)
    across, along = y - shift - jnp.array([0.25, 0.0])
    radius = jnp.sqrt(across**2 + along**2 + 1e-30)
    inside = norm.logpdf(radius, 0.1, 0.01) - jnp.log(radius) - math.log(math.pi)
    return jnp.where(across > 0, inside, -jnp.inf)


def four_points(theta: jax.Array, y: jax.Array) -> jax.Array:
    """Four normal points, whose mean and covariance are made of five parameters."""
    first, second = theta[2] ** 2, theta[3] ** 2
    shared = jnp.tanh(theta[4]) * first * second
    a, d = first**2 + 1e-6, second**2 + 1e-6
    determinant = a * d - shared**2
    u, v = (y.reshape(4, 2) - theta[:2]).T
    squares = (d * u**2 - 2.0 * shared * u * v + a * v**2) / determinant
    return -0.5 * squares.sum() - 2.0 * jnp.log(determinant) - 4.0 * math.log(2.0 * math.pi)


def spikes(theta: jax.Array, y: tuple[jax.Array, jax.Array]) -> jax.Array:
    """A series of zeros and ones, logistic in a design."""
    series, design = y
    return -jnp.logaddexp(0.0, (1.0 - 2.0 * series) * (design @ theta)).sum()


TASKS = {
    "gaussian_linear": SbiTask(_normal(math.sqrt(0.1), 10), normal_data, "real", (1, 2, 3)),
    "gaussian_linear_uniform": SbiTask(
        _uniform(1.0, 10), normal_data, ("interval", -1.0, 1.0), (1, 2)
    ),
    "gaussian_mixture": SbiTask(
        _uniform(10.0, 2), two_scales, ("interval", -10.0, 10.0), (1, 2, 3)
    ),
    "two_moons": SbiTask(_uniform(1.0, 2), moons, ("interval", -1.0, 1.0), (1, 2, 3)),
    "slcp": SbiTask(_uniform(3.0, 5), four_points, ("interval", -3.0, 3.0), (1, 2, 3)),
    "bernoulli_glm": SbiTask(_smooth_filter, spikes, "real", (1, 2)),
}


def observed(name: str, number: int, folder: Path | None = None) -> tuple[Any, np.ndarray]:
    """Return an observation, as the log likelihood takes it, and reference draws (num, d)."""
    if folder is None:
        beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
        folder = Path(os.environ.get("BAYESKIT_REFERENCE_DATA", beside))
    with np.load(folder / "distribution-transformer" / f"{name}.npz") as file:
        stored = {key: np.asarray(file[key]) for key in file.files if key != "parameter_names"}
    if name == "bernoulli_glm":
        raw = stored[f"observation_raw_{number}"].astype(np.float64)
        y: Any = (raw, stored["design_matrix"].astype(np.float64))
    else:
        y = stored[f"observation_{number}"].astype(np.float64)
    return y, stored[f"reference_{number}"].astype(np.float64)


def c2st(draws: np.ndarray, reference: np.ndarray, seed: int = 0) -> float:
    """Return the accuracy of a neural classifier of five folds that tells draws apart.

    Parameters
    ----------
    draws, reference : (num, d) arrays
        As many of both.
    """
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    centre, scale = reference.mean(axis=0), reference.std(axis=0)
    x = (np.concatenate([draws, reference]) - centre) / scale
    label = np.repeat([0, 1], [len(draws), len(reference)])
    width = 10 * x.shape[1]
    network = MLPClassifier((width, width), max_iter=1000, random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(network, x, label, cv=folds).mean())
