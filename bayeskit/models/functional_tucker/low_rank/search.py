"""The search for beliefs and hyper-parameters that maximise the evidence lower bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters, White
from bayeskit.models.functional_tucker.low_rank.beliefs import Beliefs, Model
from bayeskit.models.functional_tucker.low_rank.cavi import elbo, epochs
from bayeskit.models.functional_tucker.low_rank.chains import (
    ModePosterior,
    ModeSites,
    compiled_posterior,
    mode_evidence,
)
from bayeskit.models.functional_tucker.low_rank.conditionals import CorePosterior, row_moments
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.new_coordinates import join_grid, sites_on
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior

__all__ = [
    "CHUNK",
    "Found",
    "Problem",
    "beliefs_without_modes",
    "carried_over",
    "climb",
    "first_guess",
    "rows_and_bound",
]

# Epochs between two searches for hyper-parameters, which cost about as many.
CHUNK = 10
# The noise of the first epochs of a start, as a share of what the terms leave. While functions
# are far off it would take all, and functions that it silences do not come back.
_FIRST_NOISE = 0.3
# Of the standardized target. Less, where terms fit exactly, is beyond what filters resolve.
_LEAST_FIRST_NOISE = 1e-3
# Of the functions that a search starts from.
_MOST_WAVES = 2.0
# Evaluations of a search: the bound that it climbs is another one after the next epochs.
_MAX_EVALUATIONS = 8


class Problem(NamedTuple):
    """What is fitted, and how functions are filtered.

    Parameters
    ----------
    layout : Layout
    parameters : tuple of FreeParameters
        Of the functions of each mode.
    core_precision : float
    noise : NoisePrior
    method : {"auto", "sequential", "parallel"}
    """

    layout: Layout
    parameters: tuple[FreeParameters, ...]
    core_precision: float
    noise: NoisePrior
    method: str = "auto"

    def model(self, u: Sequence[Any]) -> Model:
        """Return the model with numbers, given standard normal numbers of each mode."""
        kernels = tuple(free.fill(x) for free, x in zip(self.parameters, u, strict=True))
        return Model(kernels, self.core_precision, self.noise)


class Found(NamedTuple):
    """Where the search ended.

    Parameters
    ----------
    beliefs : Beliefs
    u : tuple of (num_free,) arrays
        Hyper-parameters of each mode as standard normal numbers.
    bounds : (epochs,) array
        Evidence lower bound plus log prior of the hyper-parameters, up to a constant.
    """

    beliefs: Beliefs
    u: tuple[np.ndarray, ...]
    bounds: np.ndarray


@quick_jit(static_argnames=("layout", "method"))
def _epochs(layout, parameters, u, core_precision, noise, data, beliefs, method, noise_from):
    problem = Problem(layout, parameters, core_precision, noise, method)
    return epochs(layout, problem.model(u), data, beliefs, CHUNK, method, noise_from)


@quick_jit(static_argnames="layout")
def _rows_and_bound(layout, parameters, u, core_precision, noise, data, beliefs):
    model = Problem(layout, parameters, core_precision, noise).model(u)
    moments = row_moments(layout, beliefs.core_moments, beliefs.factors, data.places)
    return *moments, elbo(layout, model, data, beliefs)


@quick_jit(static_argnames="method")
def _mode_objective(u, free, grid, sites, method):
    def log_posterior(u):
        return mode_evidence(free.fill(u), grid, sites, method) - 0.5 * jnp.sum(u**2)

    return jax.value_and_grad(log_posterior)(u)


def first_guess(
    problem: Problem, data: TensorData, noise_std: float, key: Any, num_starts: int
) -> Found:
    """Return the best of several starts, whose functions are drawn from their priors.

    Parameters
    ----------
    noise_std : float
        What the noise is without the functions.
    """
    num_starts = num_starts if problem.layout.ranks else 1
    trials = [_trial(problem, data, noise_std, one) for one in random.split(key, num_starts)]
    return max(trials, key=lambda found: found.bounds[-1])


def beliefs_without_modes(problem: Problem, data: TensorData, noise_std: float) -> Beliefs:
    """Return the beliefs of noise alone."""
    noise = problem.noise
    precision: Any = np.float64(noise_std**-2.0)
    if not noise.is_known:
        precision = Gamma(np.ones(()), np.float64(noise_std**2.0))
    weights = None
    if noise.degrees is not None:
        ones = np.full(len(data.y), 0.5 * (noise.degrees + 1.0))
        weights = Gamma(ones, ones.copy())
    return Beliefs((), (), None, precision, weights)


def carried_over(
    problem: Problem, data: TensorData, old_problem: Problem, old_data: TensorData, old: Found
) -> Found:
    """Return the laws given some of the rows on the grids of all of them."""
    modes, sites, coordinates = [], [], []
    for mode, (grid, u) in enumerate(zip(data.grids, old.u, strict=True)):
        before, free = old_problem.parameters[mode], problem.parameters[mode]
        joined = join_grid(old_data.grids[mode], np.unique(grid.x))
        moved = sites_on(joined, old.beliefs.sites[mode])
        modes.append(compiled_posterior(before.fill(u), joined.grid, moved, problem.method))
        sites.append(moved)
        # Priors follow from the data, so that the same lengths have other coordinates.
        coordinates.append(free.coordinates(before.values(u)))
    noise = beliefs_without_modes(problem, data, float(old.beliefs.noise_precision) ** -0.5)
    beliefs = noise._replace(modes=tuple(modes), sites=tuple(sites), core=old.beliefs.core)
    beliefs = jax.tree.map(np.asarray, beliefs)
    return Found(beliefs, tuple(coordinates), np.zeros(0))


def climb(problem: Problem, data: TensorData, found: Found, stretch: float = 1.0) -> Found:
    """Return what a search for hyper-parameters and some epochs lead to from here.

    Parameters
    ----------
    stretch : float
        Hyper-parameters go so many times as far as the search says. Given the other modes they
        hardly move, but round by round in the same direction; a step too long lowers the bound.
    """
    u, beliefs = _learned(problem, data, found.u, found.beliefs, stretch)
    beliefs, bounds = _run(problem, data, u, beliefs)
    return Found(beliefs, u, np.concatenate([found.bounds, bounds]))


def rows_and_bound(
    problem: Problem, data: TensorData, found: Found
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and variance (rows,) of the product at the data, and the bound."""
    layout, parameters, core_precision, noise, _ = problem
    mean, variance, bound = _rows_and_bound(
        layout, parameters, found.u, core_precision, noise, data, found.beliefs
    )
    prior = 0.5 * sum(float(x @ x) for x in found.u)
    shape = data.y.shape
    mean, variance = (np.broadcast_to(np.asarray(part), shape) for part in (mean, variance))
    return mean, variance, float(bound) - prior


def _run(
    problem: Problem,
    data: TensorData,
    u: Sequence[Any],
    beliefs: Beliefs,
    noise_from: int = 0,
) -> tuple[Beliefs, np.ndarray]:
    layout, parameters, core_precision, noise, method = problem
    beliefs, bounds = _epochs(
        layout, parameters, u, core_precision, noise, data, beliefs, method, noise_from
    )
    prior = 0.5 * sum(float(x @ x) for x in u)
    return beliefs, np.asarray(bounds) - prior


def _trial(problem: Problem, data: TensorData, noise_std: float, key: Any) -> Found:
    """Return where a few epochs from drawn functions lead."""
    if not problem.noise.is_known:
        noise_std = max(_FIRST_NOISE * noise_std, _LEAST_FIRST_NOISE)
    beliefs, u = _start(problem, data, noise_std, key)
    beliefs, held = _run(problem, data, u, beliefs, noise_from=CHUNK)
    beliefs, bounds = _run(problem, data, u, beliefs)
    return Found(beliefs, u, np.concatenate([held, bounds]))


def _start(
    problem: Problem, data: TensorData, noise_std: float, key: Any
) -> tuple[Beliefs, tuple]:
    layout = problem.layout
    generator = random.host_generator(key)
    modes, sites = [], []
    for free, rank, grid in zip(problem.parameters, layout.ranks, data.grids, strict=True):
        size, packed = len(grid.x), rank * (rank + 1) // 2
        mean = np.stack([_drawn(generator, kernel, grid.x) for kernel in free.base], axis=1)
        modes.append(ModePosterior(mean, np.zeros((size, rank, rank)), np.zeros(())))
        sites.append(ModeSites(np.zeros((size, rank)), np.zeros((size, packed))))
    core = None
    if layout.has_core:
        mean = generator.standard_normal(layout.ranks)
        # Known but for rounding.
        core = CorePosterior(mean, 1e6 * np.eye(layout.core_size))
    beliefs = beliefs_without_modes(problem, data, noise_std)
    beliefs = beliefs._replace(modes=tuple(modes), sites=tuple(sites), core=core)
    return beliefs, tuple(np.zeros(free.num_free) for free in problem.parameters)


def _drawn(generator: np.random.Generator, kernel: Any, x: np.ndarray) -> np.ndarray:
    """Return a function to start from: a slow wave, or values with nothing in common."""
    if isinstance(kernel, White):
        return kernel.std * generator.standard_normal(len(x))
    amplitude, start, waves = generator.standard_normal(), *generator.uniform(size=2)
    span = max(float(np.ptp(x)), np.finfo(float).tiny)
    phase = 2.0 * np.pi * (start + _MOST_WAVES * waves * (x - x[0]) / span)
    return np.sqrt(2.0) * amplitude * np.cos(phase)


def _learned(
    problem: Problem,
    data: TensorData,
    u: Sequence[np.ndarray],
    beliefs: Beliefs,
    stretch: float,
) -> tuple[tuple[np.ndarray, ...], Beliefs]:
    """Return hyper-parameters that raise the evidence of each mode, and the laws under them."""
    found, modes = [], []
    for x, law, free, grid, sites in zip(
        u, beliefs.modes, problem.parameters, data.grids, beliefs.sites, strict=True
    ):
        if free.num_free:
            x = x + stretch * (_climbed(x, free, grid, sites, problem.method) - x)
            law = compiled_posterior(free.fill(x), grid, sites, problem.method)
        found.append(x)
        modes.append(law)
    return tuple(found), beliefs._replace(modes=tuple(modes))


def _climbed(u: np.ndarray, free: FreeParameters, grid: Any, sites: Any, method: str) -> Any:
    best: dict[str, Any] = {"loss": np.inf, "u": u}
    general, places = free.with_all_free(), list(free.free)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        everything = np.zeros(general.num_free)
        everything[places] = x
        value, gradient = _mode_objective(everything, general, grid, sites, method)
        value, gradient = float(value), np.asarray(gradient)[places]
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            # Outside of what can be computed: the line search comes back.
            return 1e10 + float(x @ x), x
        if -value < best["loss"]:
            best.update(loss=-value, u=x.copy())
        return -value, -gradient

    optimize.minimize(
        loss, u, jac=True, method="L-BFGS-B", options={"maxfun": _MAX_EVALUATIONS}
    )
    return best["u"]
