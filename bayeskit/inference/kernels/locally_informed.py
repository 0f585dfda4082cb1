"""Locally informed proposals on a finite product space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.kernels.product_space import ProductSpaceKernel
from bayeskit.inference.measure import Density, PointState

__all__ = ["LocallyInformed"]

# Functions of log t that return log g(t), with g(t) = t g(1/t).
_BALANCING = {"sqrt": lambda log_t: 0.5 * log_t, "barker": jax.nn.log_sigmoid}


@dataclass(frozen=True)
class LocallyInformed(ProductSpaceKernel):
    r"""Propose a change of one coordinate, the likelier the larger the density it leads to.

    Among all y that differ from x in one coordinate one is proposed with probability
    :math:`q(x, y) = g(\gamma(y) / \gamma(x)) / Z(x)`, where :math:`Z(x)` adds up the weights of
    all neighbours. For a balancing function, :math:`g(t) = t\,g(1/t)`, the log acceptance ratio
    is :math:`\log Z(x) - \log Z(y)`: the normaliser of the *way back* is computed too.

    Parameters
    ----------
    num_states : tuple of int
        Coordinate i takes the values 0 .. num_states[i] - 1.
    balancing : {"barker", "sqrt"}
        :math:`g(t) = t / (1 + t)` or :math:`\sqrt t`. The first is bounded, and safer.

    Raises
    ------
    ValueError
        For an unknown balancing function, or a coordinate with fewer than two values.

    Notes
    -----
    A step evaluates the density at all values of all coordinates twice, at once. Worth it where
    most changes are bad, as in variable selection.

    References
    ----------
    Zanella (2020), *Informed proposals for local MCMC in discrete spaces*.

    Examples
    --------
    A value of density zero is never proposed, so from 0 the way is to 2 alone:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> log_weights = jnp.log(jnp.array([0.5, 0.0, 0.5]))
    >>> density = Target(log_density=lambda x: log_weights[x[0]]).density()
    >>> kernel = bi.LocallyInformed(num_states=(3,))
    >>> state = kernel.init(jnp.array([0]), density)
    >>> tuning = kernel.default_tuning(1)
    >>> state, info = jax.jit(kernel.step)(jax.random.key(0), state, density, tuning)
    >>> state.position.tolist(), round(float(info.acceptance), 3)
    ([2], 1.0)
    """

    balancing: str = "barker"

    name: ClassVar[str] = "locally informed"
    target_acceptance: ClassVar[float] = 0.574

    def __post_init__(self):
        super().__post_init__()
        if self.balancing not in _BALANCING:
            raise ValueError(
                f"balancing must be one of {sorted(_BALANCING)}, got {self.balancing!r}"
            )

    def step(self, key, state, density, tuning):
        """Return the next state and its info; the tuning is not looked at."""
        proposal_key, accept_key = random.split(key)
        weights = self._log_weights(state, density)
        chosen = random.categorical(proposal_key, weights)
        coordinate, value = jnp.divmod(chosen, self.most_states)
        position = state.position.at[coordinate].set(value.astype(state.position.dtype))
        proposal = PointState(position, density.components(position))
        weights_there = self._log_weights(proposal, density)
        log_ratio = jax.nn.logsumexp(weights) - jax.nn.logsumexp(weights_there)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )

    def _log_weights(self, state: PointState, density: Density) -> Any:
        """Return log g of the ratio at all neighbours, (dim * most_states,)."""

        def of_coordinate(coordinate):
            return self.along(state.position, coordinate, density)[1]

        log_density = jax.vmap(of_coordinate)(jnp.arange(self.dim))
        log_weight = _BALANCING[self.balancing](log_density - density.combine(state.components))
        is_here = jnp.arange(self.most_states) == state.position[:, None]
        is_neighbour = ~is_here & (log_density > -jnp.inf)
        return jnp.where(is_neighbour, log_weight, -jnp.inf).ravel()
