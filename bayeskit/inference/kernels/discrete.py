"""Metropolis-Hastings on a finite space, with a table of proposal probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["DiscreteMetropolis"]


@dataclass(frozen=True)
class DiscreteMetropolis(Kernel):
    r"""Propose state j from state i with probability :math:`q_{ij}`.

    The log acceptance ratio is :math:`\log\gamma(j) - \log\gamma(i) + \log q_{ji} - \log
    q_{ij}`.

    Parameters
    ----------
    proposal : tuple of tuples of float
        Row i holds the probabilities q_ij; each row adds up to 1. States are 0 .. K-1.

    Raises
    ------
    ValueError
        If the table is not square or a row does not add up to 1.

    Examples
    --------
    Of two states with probabilities 3/4 and 1/4, the likelier one is left one time in three:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: jnp.log(jnp.array([0.75, 0.25]))[x]).density()
    >>> kernel = bi.DiscreteMetropolis(proposal=((0.0, 1.0), (1.0, 0.0)))
    >>> state = kernel.init(jnp.array(0), density)
    >>> step, tuning = jax.jit(kernel.step), kernel.default_tuning(1)
    >>> _, info = step(jax.random.key(0), state, density, tuning)
    >>> round(float(info.acceptance), 3)
    0.333
    """

    proposal: tuple[tuple[float, ...], ...]

    name: ClassVar[str] = "discrete Metropolis"

    def __post_init__(self):
        table = tuple(tuple(float(p) for p in row) for row in self.proposal)
        object.__setattr__(self, "proposal", table)
        for i, row in enumerate(table):
            if len(row) != len(table):
                raise ValueError(
                    f"proposal must be square: row {i} has {len(row)} entries, "
                    f"there are {len(table)} rows"
                )
            if abs(sum(row) - 1.0) > 1e-6 or min(row) < 0:
                raise ValueError(
                    f"row {i} of proposal must hold probabilities that add up to 1, "
                    f"got the sum {sum(row):.6g} and the smallest {min(row):.6g}"
                )

    def init(self, position, density):
        """Return the state at a position."""
        return PointState(position, density.components(position))

    def default_step_size(self, dim):
        """Return 1: there is nothing to tune."""
        return 1.0

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        proposal_key, accept_key = random.split(key)
        log_proposal = jnp.log(jnp.asarray(self.proposal))
        here = state.position
        there = random.categorical(proposal_key, log_proposal[here]).astype(here.dtype)
        proposal = PointState(there, density.components(there))
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            + log_proposal[there, here]
            - log_proposal[here, there]
        )
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
