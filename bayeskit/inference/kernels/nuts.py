"""The no-U-turn sampler of NumPyro, wrapped as a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel
from bayeskit.inference.measure import PointState

__all__ = ["NUTSInfo", "NoUTurn"]


class NUTSInfo(NamedTuple):
    """What one NUTS transition says about itself.

    Parameters
    ----------
    acceptance : () array
        Mean Metropolis probability over the tree, the statistic that step sizes are tuned by.
    accepted : () bool array
        Whether the position changed.
    not_finite, divergent : () bool arrays
    num_steps : () int array
        Leapfrog steps taken.
    energy : () array
        Hamiltonian of the chosen point.
    """

    acceptance: jax.Array
    accepted: jax.Array
    not_finite: jax.Array
    divergent: jax.Array
    num_steps: jax.Array
    energy: jax.Array


@dataclass(frozen=True)
class NoUTurn(Kernel):
    """Choose a point of a trajectory that is doubled until it turns back on itself.

    The tree building is NumPyro's; it draws with ``jax.random`` and so cannot be enumerated,
    only validated statistically.

    Parameters
    ----------
    max_tree_depth : int
        A trajectory has at most ``2**max_tree_depth - 1`` leapfrog steps.

    Notes
    -----
    One gradient a leapfrog step. The factor of the tuning is an array, not a low-rank factor.

    References
    ----------
    Hoffman & Gelman (2014); Betancourt (2017); Phan, Pradhan & Jankowiak (2019).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    >>> print(bi.transition(bi.NoUTurn(max_tree_depth=6), target).explain())
    NUTS leaves π invariant
    => L3r reversible for π: π(dx) K(x, dx') is symmetric in x and x'
    >>> bi.NoUTurn().default_step_size(16)
    0.5
    """

    max_tree_depth: int = 10

    name: ClassVar[str] = "NUTS"
    needs_gradient: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.8

    def default_step_size(self, dim):
        """Return dim^(-1/4)."""
        return dim**-0.25

    def step(self, key, state, density, tuning):
        """Return the next state and its :class:`NUTSInfo`."""
        from numpyro.infer.hmc_util import (
            IntegratorState,
            build_tree,
            euclidean_kinetic_energy,
            velocity_verlet,
        )

        momentum_key, tree_key = random.split(key)
        x = state.position
        noise = random.normal(momentum_key, x.shape, x.dtype)
        factor = tuning.factor
        if factor.ndim == 1:
            inverse_mass, momentum = factor**2, noise / factor
        else:
            inverse_mass = factor @ factor.T
            momentum = jax.scipy.linalg.solve_triangular(factor.T, noise, lower=False)

        def potential(position):
            return -density(position)

        _, leapfrog = velocity_verlet(potential, euclidean_kinetic_energy)
        start = IntegratorState(
            x, momentum, -density.combine(state.components), -state.gradient
        )
        tree = build_tree(
            leapfrog,
            euclidean_kinetic_energy,
            start,
            inverse_mass,
            tuning.step_size,
            random.real_key(tree_key),
            max_tree_depth=self.max_tree_depth,
        )
        position = tree.z_proposal
        if density.target.num_components == 1:
            components = -tree.z_proposal_pe[None] / density.coefficients.astype(x.dtype)
        else:
            components = density.components(position)
        info = NUTSInfo(
            acceptance=tree.sum_accept_probs / tree.num_proposals,
            accepted=jnp.any(position != x),
            not_finite=~jnp.isfinite(tree.z_proposal_pe),
            divergent=tree.diverging,
            num_steps=tree.num_proposals,
            energy=tree.z_proposal_energy,
        )
        return PointState(position, components, -tree.z_proposal_grad), info
