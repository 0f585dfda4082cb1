"""The functions of one mode as one linear Gaussian chain, given what rows say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel import (
    GaussianSites,
    kalman_log_evidence,
    kalman_sample,
    kalman_smoother,
)
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.gp_kernels import FunctionChain, stacked_chain
from bayeskit.models.functional_tucker.low_rank.contractions import unpack
from bayeskit.models.markov_gp.rows import Grid

__all__ = [
    "ModePosterior",
    "ModeSites",
    "compiled_posterior",
    "draw_mode",
    "mode_chain",
    "mode_evidence",
    "mode_posterior",
]


class ModeSites(NamedTuple):
    r"""What the rows say of the functions at each coordinate of a mode.

    :math:`\exp(\eta_i^\top u_i - \frac12 u_i^\top \Lambda_i u_i)`, summed over the rows of a
    coordinate.

    Parameters
    ----------
    shift : (size, R) array
    precision : (size, R(R + 1)/2) array, packed
    """

    shift: Any
    precision: Any


class ModePosterior(NamedTuple):
    """The law of the functions at each coordinate of a mode.

    Parameters
    ----------
    mean : (size, R) array
    covariance : (size, R, R) array
    log_evidence : float
        Log of the integral of prior times sites.
    """

    mean: Any
    covariance: Any
    log_evidence: Any


def mode_chain(kernels: Sequence[Any], grid: Grid) -> FunctionChain:
    """Return the chain of the functions of a mode, given kernels of one form, one each."""
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *kernels
    )
    return stacked_chain(stacked, jnp.asarray(grid.x), jnp.asarray(grid.gaps))


def _known(chain: FunctionChain, sites: ModeSites) -> GaussianSites:
    rank = chain.matrix.shape[1]
    return GaussianSites(sites.shift, unpack(sites.precision, rank), chain.matrix)


def mode_evidence(
    kernels: Sequence[Any], grid: Grid, sites: ModeSites, method: str
) -> jax.Array:
    """Return the log of the integral of prior and sites, as of :class:`ModePosterior`."""
    chain = mode_chain(kernels, grid)
    return kalman_log_evidence(chain.states, _known(chain, sites), method=method)


def mode_posterior(
    kernels: Sequence[Any], grid: Grid, sites: ModeSites, method: str
) -> ModePosterior:
    """Return the law of the functions at each coordinate."""
    chain = mode_chain(kernels, grid)
    smoothed = kalman_smoother(chain.states, _known(chain, sites), method=method)
    h = chain.matrix
    return ModePosterior(
        jnp.einsum("nrd,nd->nr", h, smoothed.mean),
        jnp.einsum("nrd,nde,nse->nrs", h, smoothed.covariance, h),
        smoothed.log_evidence,
    )


# Runs once or so for a mode in ten epochs, so that the time to compile it is what counts.
compiled_posterior = quick_jit(mode_posterior, optimised=False, static_argnames="method")


def draw_mode(
    kernels: Sequence[Any], grid: Grid, sites: ModeSites, normals: Any, method: str
) -> tuple[jax.Array, jax.Array]:
    """Return joint draws of functions (..., size, R) and states (..., size, dim).

    Parameters
    ----------
    normals : (..., size, dim) array
        Standard normals; the draws are linear in them.
    """
    chain = mode_chain(kernels, grid)
    states = kalman_sample(chain.states, _known(chain, sites), normals, method=method)
    return jnp.einsum("nrd,...nd->...nr", chain.matrix, states), states
