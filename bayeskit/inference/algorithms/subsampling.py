"""Hamiltonian Monte Carlo on a few of the data, which are part of the state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.data_terms import DataTerms, DifferenceEstimate, draw_indices
from bayeskit.inference.kernels import HMC
from bayeskit.inference.kernels.base import Kernel, Tuning
from bayeskit.inference.law import Measure
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions import Transition, gibbs, metropolis_hastings, transition
from bayeskit.inference.transitions.stochastic_langevin import check_batch

__all__ = ["replaced_block", "subsampling_hmc"]


def replaced_block(key: Any, indices: jax.Array, num_blocks: int, num_data: int) -> jax.Array:
    """Return indices of which one block of ``num_blocks``, at random, is drawn anew."""
    block_key, index_key = random.split(key)
    block = random.categorical(block_key, jnp.zeros(num_blocks))
    belongs = jnp.arange(len(indices)) * num_blocks // len(indices) == block
    return jnp.where(belongs, draw_indices(index_key, num_data, len(indices)), indices)


def subsampling_hmc(
    terms: DataTerms,
    num_terms: int,
    centre: Any,
    *,
    kernel: Kernel | None = None,
    tuning: Tuning | None = None,
    num_blocks: int = 10,
) -> Transition:
    r"""Return energy-conserving subsampling: HMC given a subset, and moves of the subset (L3).

    It leaves

    .. math:: \bar\pi(x, u) \propto p(x)\,
        \exp\bigl(\hat\ell(x, u) - \tfrac12 \hat\sigma^2(x, u)\bigr)

    invariant, with u the places of ``num_terms`` data, uniform before anything is seen, and
    :math:`\hat\ell` the estimate of :class:`DifferenceEstimate` of order 2. Given u, energy is
    conserved along trajectories that see the subset alone; given x, a block of u is replaced
    and accepted by the ratio of the estimates, so that successive estimates are correlated.

    Parameters
    ----------
    terms : DataTerms
    num_terms : int
        Size m of the subset, at least 2.
    centre : (dim,) array
        Of the expansion, such as a mode.
    kernel : Kernel, optional
        That moves x. Default: ``HMC()``.
    tuning : Tuning, optional
        Of the kernel.
    num_blocks : int
        Blocks of the subset, of which one is proposed anew at each step.

    Returns
    -------
    Transition
        On dictionaries ``{"x": (dim,), "indices": (num_terms,) int32}``; ``draw_indices(key,
        num_data, num_terms)`` makes the first ones.

    Raises
    ------
    ValueError
        For fewer than 2 terms, more blocks than terms, or a centre without expansion.

    Notes
    -----
    The law speaks of the perturbed target. Its marginal in x differs from the posterior by
    :math:`O(1/(n m^2))` where the expansion is about a mode of n data. Each gradient
    costs ``num_terms`` terms with their expansions.

    References
    ----------
    Dang, Quiroz, Kohn, Tran & Villani (2019), *Hamiltonian Monte Carlo with energy conserving
    subsampling*; Tran, Kohn, Quiroz & Villani (2016) for the blocks.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> y = 2.0 + jax.random.normal(jax.random.key(0), (1000,))
    >>> terms = bi.DataTerms(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_term=lambda x, datum: -0.5 * (datum - x[0]) ** 2,
    ...     data=y,
    ... )
    >>> spread = bi.Tuning(jnp.array(0.5), jnp.zeros(1), jnp.array([1000**-0.5]))
    >>> steps = bi.subsampling_hmc(terms, 20, y.mean()[None], tuning=spread)
    >>> start = {"x": jnp.zeros(1), "indices": jnp.arange(20)}
    >>> draws, info = bi.chain(steps, start, 200, key=1)
    >>> bool(abs(draws["x"][100:].mean() - y.mean()) < 0.02)
    True
    """
    check_blocks(num_terms, num_blocks)
    estimate = DifferenceEstimate(terms, centre)
    log_density = lambda x, u: terms.log_prior(x) + estimate.corrected(x, u)
    replace = lambda key, u: replaced_block(key, u, num_blocks, terms.num_data)

    def given_indices(state):
        target = Target(log_density=lambda x: log_density(x, state["indices"]))
        return transition(kernel or HMC(), target, tuning=tuning)

    def given_x(state):
        target = Target(log_density=lambda u: log_density(state["x"], u), has_gradient=False)
        return metropolis_hastings(replace, None, target, name="replace a block")

    joint = Measure(f"{terms.name}·exp(ℓ̂ - σ̂²/2)", owner=terms)
    return gibbs(joint, x=given_indices, indices=given_x)


def check_blocks(num_terms: int, num_blocks: int) -> None:
    """Refuse batches from which no variance is known, or that have no such blocks."""
    check_batch(num_terms, 2)
    if not 1 <= num_blocks <= num_terms:
        raise ValueError(
            f"num_blocks must be from 1 to num_terms={num_terms}, got {num_blocks!r}"
        )
