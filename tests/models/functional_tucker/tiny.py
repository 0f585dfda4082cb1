"""Tiny multilinear models whose joint law of parts and data can be drawn from the formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters, LogNormal, Matern12
from bayeskit.models.functional_tucker.additive import additive_design
from bayeskit.models.functional_tucker.low_rank.additive_part import additive_part
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.moves import TensorMoves
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior
from bayeskit.models.functional_tucker.low_rank.posterior import Prior, TensorPosterior
from bayeskit.models.markov_gp.rows import Grid

# Two coordinates of the first mode, three of the second; a repeated tuple, and a row without
# an observation.
COORDINATES = np.array([[0.0, 0.0], [0.0, 0.7], [1.0, 0.0], [1.0, 1.5], [1.0, 1.5], [0.0, 1.5]])
_WEIGHT = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])


@functools.cache
def tiny_model(core):
    """Return layout, prior and data (without y) of a model with Student-t noise."""
    layout = Layout((2, 3) if core == "full" else (2, 2), core)
    kernels = (
        tuple(Matern12(LogNormal(m, 0.3), LogNormal(1.0, 0.4)) for m in (0.8, 1.2)),
        tuple(Matern12(1.0, LogNormal(m, 0.4)) for m in (0.5, 1.0, 2.0)[: layout.ranks[1]]),
    )
    grids, places = [], []
    for column in COORDINATES.T:
        x, place = np.unique(column, return_inverse=True)
        grids.append(Grid(x, np.diff(x)))
        places.append(place.astype(np.int32))
    nothing = np.zeros(len(COORDINATES))
    data = TensorData(nothing, _WEIGHT, nothing, tuple(places), tuple(grids))
    prior = Prior(
        tuple(FreeParameters.of(one) for one in kernels),
        2.0,
        NoisePrior(Gamma(4.0, 0.4), 5.0),
        additive_part(additive_design((), COORDINATES)),
    )
    return layout, prior, data


def _correlations(kernel, grid):
    return jnp.exp(-grid.gaps / kernel.lengthscale)


def _path(kernel, grid, z):
    """Return an Ornstein-Uhlenbeck path of variance 1 made of standard normals."""
    values = [z[0]]
    for a, noise in zip(_correlations(kernel, grid), z[1:], strict=True):
        values.append(a * values[-1] + jnp.sqrt(1.0 - a**2) * noise)
    return jnp.stack(values)


def _whitened(kernel, grid, path):
    """Return the standard normals that a path is made of."""
    a = _correlations(kernel, grid)
    return jnp.append((path[1:] - a * path[:-1]) / jnp.sqrt(1.0 - a**2), path[0])


def simulate(core, key):
    """Return a draw of parts and y, from the formulas of the model."""
    layout, prior, data = tiny_model(core)
    keys = iter(random.split(key, 16))
    parts, product = {}, jnp.eye(layout.ranks[0]) if core == "diagonal" else None
    if core == "full":
        product = random.normal(next(keys), layout.ranks) / jnp.sqrt(prior.core_precision)
        parts["core"] = product
    at_rows = []
    for k, (free, grid) in enumerate(zip(prior.parameters, data.grids, strict=True)):
        u = random.normal(next(keys), (free.num_free,))
        functions, states = [], []
        for kernel in free.fill(u):
            z = random.normal(next(keys), (len(grid.x),))
            states.append(_path(kernel, grid, z))
            functions.append(kernel.std * states[-1])
        parts[f"mode_{k}"] = {"u": u, "states": jnp.stack(states, axis=1)}
        at_rows.append(jnp.stack(functions, axis=1)[data.places[k]])
    constant = 3.0 * random.normal(next(keys), ())
    parts["additive"] = {"u": jnp.zeros(0), "rows": jnp.full(len(COORDINATES), constant)}
    parts["precision"] = jax.random.gamma(next(keys), 4.0) / 0.4
    half = 0.5 * prior.noise.degrees
    parts["weights"] = jax.random.gamma(next(keys), half, (len(COORDINATES),)) / half
    f = constant + jnp.einsum("ij,ni,nj->n", product, *at_rows)
    z = random.normal(next(keys), (len(COORDINATES),))
    y = f + z / jnp.sqrt(parts["precision"] * parts["weights"])
    return {"parts": parts, "y": y * data.weight}


def observed(core, state):
    """Return what is compared: parts, and densities that show how they depend on each other."""
    layout, prior, data = tiny_model(core)
    posterior = TensorPosterior(layout, prior, data._replace(y=state["y"]))
    parts = state["parts"]
    densities = []
    for k, (free, grid) in enumerate(zip(prior.parameters, data.grids, strict=True)):
        part = parts[f"mode_{k}"]
        for kernel, states in zip(free.fill(part["u"]), part["states"].T, strict=True):
            white = _whitened(kernel, grid, states)
            log_stds = jnp.sum(jnp.log1p(-(_correlations(kernel, grid) ** 2)))
            densities.append(-0.5 * (white @ white + log_stds))
    p = posterior.row_precision(parts)
    likelihood = -0.5 * jnp.sum(p * posterior.errors(parts) ** 2)
    return {**parts, "densities": jnp.stack([*densities, likelihood])}


def sweep_of(core, moves=TensorMoves, posterior=TensorPosterior):
    """Return a step (key, state) -> state of parts given y."""
    layout, prior, data = tiny_model(core)

    def step(key, state):
        model = posterior(layout, prior, data._replace(y=state["y"]))
        return {**state, "parts": moves(model, num_slices=1).sweep()(key, state["parts"])}

    return step
