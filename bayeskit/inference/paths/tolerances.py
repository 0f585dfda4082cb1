"""The path of approximate Bayesian computation: falling tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Tuning, metropolis
from bayeskit.inference.law import INVARIANT, Measure, Tagged
from bayeskit.inference.measure import Path, PointState, Target, TemperingStage
from bayeskit.inference.transitions.base import Transition

__all__ = ["ABCMove", "TolerancePath"]


class TolerancePath(Path):
    r"""Parameters with simulated data that come closer and closer to the observed.

    .. math::
        \gamma_\epsilon(x, z_{1:M}) = p(x) \prod_m f(z_m \mid x)
        \frac{1}{M} \sum_m 1\{\rho(z_m) \le \epsilon\}

    from :math:`\epsilon = \infty`, the prior, down to ``tolerance``. The evidence is the
    probability that data simulated from the prior come within the tolerance. A particle holds
    its parameters and the distances :math:`\rho(z_m)` of its simulated data.

    Parameters
    ----------
    log_prior : callable (x) -> () array
    sample_prior : callable (key) -> x
    simulate_distance : callable (key, x) -> () array >= 0
        Simulates data given x and returns their distance from the observed data. NaN counts as
        infinitely far.
    tolerance : float
        The last tolerance.
    num_simulations : int
        Data sets M simulated for each particle.
    name : str

    Raises
    ------
    ValueError
        For a tolerance that is negative or not finite, or without a simulation.

    References
    ----------
    Del Moral, Doucet & Jasra (2012), *An adaptive sequential Monte Carlo method for approximate
    Bayesian computation*.

    Examples
    --------
    A normal mean whose likelihood is simulated, at fixed tolerances:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> path = bi.TolerancePath(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     simulate_distance=lambda key, x: jnp.abs(x[0] + bi.random.normal(key) - 1.0),
    ...     tolerance=0.2,
    ... )
    >>> block = bi.resample_move(path, bi.ABCMove(path), 100, ladder=[jnp.inf, 1.0, 0.2])
    >>> str(block.law.kind)
    'L2 properly weighted'
    """

    coordinate = "tolerance"
    begin = math.inf

    def __init__(
        self,
        *,
        log_prior: Callable,
        sample_prior: Callable,
        simulate_distance: Callable,
        tolerance: float,
        num_simulations: int = 1,
        name: str = "π",
    ):
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance must be a finite number >= 0, got {tolerance!r}")
        if num_simulations < 1:
            raise ValueError(f"num_simulations must be at least 1, got {num_simulations!r}")
        self.end = float(tolerance)
        self.num_simulations = int(num_simulations)
        self.simulate_distance = simulate_distance
        self.target = Target(
            log_prior=log_prior,
            log_likelihood=lambda x: jnp.zeros(()),
            sample_prior=sample_prior,
            has_gradient=False,
            name=name,
        )
        self.measure = Measure(f"{name}_ε", owner=self)
        self.increment = Tagged(
            self._increment,
            self.measure.at("t-1"),
            self.measure.at("t"),
            "simulations in ε",
        )

    def simulated(self, key: Any, x: Any) -> PointState:
        """Return a particle at ``x`` with newly simulated data."""
        distances = random.lanes(
            lambda k, _: self.simulate_distance(k, x), key, jnp.arange(self.num_simulations)
        )
        distances = jnp.where(jnp.isnan(distances), jnp.inf, distances)
        log_prior = self.target.log_prior(x)  # type: ignore[misc]
        return PointState(x, jnp.concatenate([log_prior[None], distances]))

    def log_share(self, particle: PointState, tolerance: jax.Array) -> jax.Array:
        """Return the log of the share of a particle's simulations within a tolerance."""
        distances = particle.components[1:]
        return jnp.log(jnp.mean(distances <= tolerance, dtype=distances.dtype))

    def _increment(self, stage: TemperingStage, particle: PointState) -> jax.Array:
        before = self.log_share(particle, stage.previous)
        now = self.log_share(particle, stage.current)
        return jnp.where(now == -jnp.inf, -jnp.inf, now - before)

    @property
    def initial(self) -> Tagged:
        """Sampler of one particle: a prior draw with simulated data."""

        def sample(key):
            prior_key, data_key = random.split(key)
            return self.simulated(data_key, self.target.draw_prior(prior_key))

        start = self.measure.at("0")
        return Tagged(sample, start, start, "the prior with simulated data")

    def at(self, stage: TemperingStage) -> Any:
        """Refuse: the density of simulated data is not known."""
        raise TypeError(
            "on a path of tolerances the likelihood can be simulated only, so no kernel can "
            "move particles: use ABCMove(path)"
        )

    def choose(self, population: Any, fraction: float) -> jax.Array:
        """Return the tolerance that keeps a fraction of the distinct distances.

        Copies of one particle count once: a tolerance chosen from copies would stand still.
        """
        current = population.stage.current
        distances = population.particles.components[:, 1:]
        alive = (distances <= current) & (population.log_weights > -jnp.inf)[:, None]
        ordered = jnp.sort(jnp.where(alive, distances, jnp.inf), axis=None)
        before = jnp.concatenate([jnp.full(1, -jnp.inf, ordered.dtype), ordered[:-1]])
        distinct = (ordered < jnp.inf) & (ordered != before)
        rank = jnp.cumsum(distinct)
        wanted = jnp.maximum(jnp.ceil(fraction * rank[-1]), 1)
        kept = distinct & (rank <= wanted)
        # Strictly below the tolerance at hand, unless all stand at it.
        falls = kept & (ordered < current)
        chosen = jnp.max(jnp.where(falls, ordered, -jnp.inf))
        chosen = jnp.where(jnp.any(falls), chosen, current)
        return jnp.clip(chosen, self.end, current)


def random_walk_proposal(key: Any, x: jax.Array, tuning: Tuning) -> tuple[jax.Array, Any]:
    """Propose a normal step; the ratio of proposal densities is 1."""
    noise = random.normal(key, x.shape, x.dtype)
    return x + tuning.step_size * tuning.scale(noise), 0.0


@dataclass(frozen=True, eq=False, repr=False)
class ABCMove(Transition):
    r"""Metropolis-Hastings on parameters and simulated data together (law L3).

    Proposes :math:`x' \sim q(x, \cdot)` and new data from it, and accepts with probability

    .. math::
        \min\Bigl(1, \frac{p(x')\,q(x', x)\,\sum_m 1\{\rho(z'_m) \le \epsilon\}}
        {p(x)\,q(x, x')\,\sum_m 1\{\rho(z_m) \le \epsilon\}}\Bigr) .

    Parameters
    ----------
    path : TolerancePath
    proposal : callable (key, x, tuning) -> (x', log q(x', x) - log q(x, x'))
        Default: a random walk with the spread of the population.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> path = bi.TolerancePath(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     simulate_distance=lambda key, x: jnp.abs(x[0] + bi.random.normal(key) - 1.0),
    ...     tolerance=0.2,
    ... )
    >>> print(bi.ABCMove(path).explain())
    ABC Metropolis leaves π_ε[t] invariant
    => L3 invariant for π_ε[t]: π K = π
    """

    path: TolerancePath
    proposal: Callable = random_walk_proposal

    # Most rejections come from the simulation, whatever the step: it is not tuned by them.
    target_acceptance = math.nan
    name = "ABC Metropolis"

    @property
    def measure(self):
        return self.path.measure.at("t")

    @property
    def law_kind(self):
        return INVARIANT

    def default_tuning(self, dim: int, dtype: Any = float) -> Tuning:
        """Return the tuning for a standardised target, step 2.38 / sqrt(dim)."""
        dtype = jnp.result_type(dtype)
        step = jnp.asarray(2.38 / math.sqrt(dim), dtype)
        return Tuning(step, jnp.zeros(dim, dtype), jnp.ones(dim, dtype))

    def step(self, key, state, stage=None):
        proposal_key, data_key, accept_key = random.split(key, 3)
        position, log_ratio = self.proposal(proposal_key, state.position, stage.tuning)
        proposed = self.path.simulated(data_key, position)
        log_ratio = (
            log_ratio
            + (proposed.components[0] - state.components[0])
            + self.path.log_share(proposed, stage.current)
            - self.path.log_share(state, stage.current)
        )
        not_finite = jnp.isnan(proposed.components[0]) | (proposed.components[0] == jnp.inf)
        return metropolis(accept_key, state, proposed, log_ratio, not_finite)
