"""Multiple-try Metropolis: many candidates at once, one of which is accepted or rejected."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import Density, PointState

__all__ = ["MultipleTry"]


@dataclass(frozen=True)
class MultipleTry(Kernel):
    r"""Draw candidates around x, choose one by its density, and accept by sums of densities.

    Candidates :math:`y_j = x + h L \varepsilon_j`, j = 1 .. k, are drawn in one batch, and y is
    chosen among them with probability :math:`\propto \gamma(y_j)`. Reference points
    :math:`x_j^* = y + h L \varepsilon_j'`, j = 1 .. k - 1, are drawn around *y*, and
    :math:`x_k^* = x`. The log acceptance ratio is :math:`\log \sum_j \gamma(y_j) - \log \sum_j
    \gamma(x_j^*)`.

    Parameters
    ----------
    num_candidates : int
        At least 2; with 1 it would be :class:`RandomWalk`.

    Raises
    ------
    ValueError
        For fewer than two candidates.

    Notes
    -----
    2k - 1 density evaluations a step, in two batches. It pays where a batch costs hardly more
    than one evaluation; counted by evaluations it is worse than k steps of a random walk.

    References
    ----------
    Liu, Liang & Wong (2000), *The multiple-try method and local optimization in Metropolis
    sampling*, with the weights of their MTM (II).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import MultipleTry
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> kernel = MultipleTry(num_candidates=3)
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.position.shape
    (2,)
    """

    num_candidates: int = 4

    name: ClassVar[str] = "multiple-try Metropolis"
    target_acceptance: ClassVar[float] = 0.4

    def __post_init__(self):
        if not isinstance(self.num_candidates, int | np.integer) or self.num_candidates < 2:
            raise ValueError(f"num_candidates must be at least 2, got {self.num_candidates!r}")

    def default_step_size(self, dim):
        """Return 3 / sqrt(dim): bolder than one try alone."""
        return 3.0 / math.sqrt(dim)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        candidate_key, choice_key, reference_key, accept_key = random.split(key, 4)
        num = self.num_candidates
        candidates, log_candidates = self._around(
            candidate_key, state.position, num, density, tuning
        )
        chosen = random.categorical(choice_key, log_candidates)
        proposal = jax.tree.map(lambda leaf: leaf[chosen], candidates)
        _, log_references = self._around(
            reference_key, proposal.position, num - 1, density, tuning
        )
        # The way back has x among its candidates.
        log_references = jnp.append(log_references, density.combine(state.components))
        log_ratio = jax.nn.logsumexp(log_candidates) - jax.nn.logsumexp(log_references)
        after, info = metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
        not_finite = jnp.any(not_usable(candidates.components))
        return after, info._replace(not_finite=not_finite)

    def _around(
        self, key: Any, centre: jax.Array, num: int, density: Density, tuning: Any
    ) -> tuple[PointState, jax.Array]:
        """Return points (num, dim) drawn around a centre, and their log densities (num,)."""
        noise = random.normal(key, (num, *centre.shape), centre.dtype)
        positions = centre + tuning.step_size * jax.vmap(tuning.scale)(noise)
        components = jax.vmap(density.components)(positions)
        usable = ~not_usable(components)
        log_density = jnp.where(usable, density.combine(components), -jnp.inf)
        return PointState(positions, components), log_density
