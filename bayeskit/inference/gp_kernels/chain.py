"""A kernel on sorted coordinates as a linear-Gaussian chain."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel import GaussianChain
from bayeskit.inference.gp_kernels.kernel import StateSpaceKernel

__all__ = ["FunctionChain", "chain_of", "stacked_chain"]


class FunctionChain(NamedTuple):
    r"""Functions at sorted coordinates as a chain of states.

    Parameters
    ----------
    states : GaussianChain
    matrix : (num, functions, dim) array
        H: the values of the functions are :math:`f_i = H_i s_i`.

    Examples
    --------
    The states have the prior variance of the function at every coordinate:

    >>> import jax.numpy as jnp
    >>> from bayeskit.inference.gp_kernels import Matern32, chain_of
    >>> x = jnp.array([0.0, 1.0, 3.0])
    >>> chain = chain_of(Matern32(std=2.0, lengthscale=1.0), x, jnp.diff(x))
    >>> chain.matrix.shape
    (3, 1, 2)
    >>> (chain.matrix[0] @ chain.states.initial_covariance @ chain.matrix[0].T).tolist()
    [[4.0]]
    """

    states: GaussianChain
    matrix: jax.Array


def chain_of(kernel: StateSpaceKernel, x: Any, gaps: Any) -> FunctionChain:
    """Return the chain of one function.

    Parameters
    ----------
    kernel : StateSpaceKernel with numbers
    x : (num,) array
        Coordinates, sorted. Repeats are allowed: a padded end repeats the last coordinate.
    gaps : (num - 1,) array
        Their differences, taken before any loss of digits.

    Returns
    -------
    FunctionChain

    Examples
    --------
    An exponential kernel forgets by exp(-1) over the first gap and by exp(-2) over the second:

    >>> import jax.numpy as jnp
    >>> from bayeskit.inference.gp_kernels import Matern12, chain_of
    >>> x = jnp.array([0.0, 1.0, 3.0])
    >>> chain = chain_of(Matern12(std=2.0, lengthscale=1.0), x, jnp.diff(x))
    >>> chain.states.transition.ravel().round(3).tolist()
    [0.368, 0.135]
    """
    left = x[:-1]
    states = GaussianChain(
        jnp.zeros(kernel.dim, x.dtype),
        kernel.covariance_at(x[0]),
        jax.vmap(kernel.transition)(left, gaps),
        jax.vmap(kernel.process_noise)(left, gaps),
    )
    return FunctionChain(states, jax.vmap(kernel.observation)(x)[:, None, :])


def stacked_chain(kernels: StateSpaceKernel, x: Any, gaps: Any) -> FunctionChain:
    """Return the chain of R independent functions of one coordinate, with R values each.

    Parameters
    ----------
    kernels : StateSpaceKernel whose hyper-parameters are (R,) arrays
    x, gaps
        As for :func:`chain_of`.

    Returns
    -------
    FunctionChain

    Examples
    --------
    Two functions side by side, of length scales 1 and 2:

    >>> import jax.numpy as jnp
    >>> from bayeskit.inference.gp_kernels import Matern12, stacked_chain
    >>> kernels = Matern12(std=jnp.ones(2), lengthscale=jnp.array([1.0, 2.0]))
    >>> chain = stacked_chain(kernels, jnp.array([0.0, 1.0]), jnp.array([1.0]))
    >>> chain.states.transition[0].round(3).tolist()
    [[0.368, 0.0], [0.0, 0.607]]
    """
    each = jax.vmap(chain_of, in_axes=(0, None, None))(kernels, x, gaps)
    states = each.states
    start, *others = (
        _block_diagonal(part)
        for part in (states.initial_covariance, states.transition, states.covariance)
    )
    mean = states.initial_mean.reshape(-1)
    return FunctionChain(GaussianChain(mean, start, *others), _block_diagonal(each.matrix))


def _block_diagonal(blocks: jax.Array) -> jax.Array:
    """Return (..., R a, R b) with the blocks (R, ..., a, b) on the diagonal."""
    num, *batch, rows, columns = blocks.shape
    blocks = jnp.moveaxis(blocks, 0, -3)
    full = blocks[..., :, :, None, :] * jnp.eye(num)[:, None, :, None]
    return full.reshape(*batch, num * rows, num * columns)
