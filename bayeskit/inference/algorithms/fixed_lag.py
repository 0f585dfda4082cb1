"""Fixed-lag smoothing: each time as seen from a few times later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit import accel
from bayeskit.inference.blocks import Block
from bayeskit.inference.population import History

__all__ = ["FixedLag", "LaggedParticles", "fixed_lag"]


class LaggedParticles(NamedTuple):
    """Weighted particles of each time given the data up to a lag later.

    Parameters
    ----------
    particles : pytree with leading axes (num_steps, num_particles)
    log_weights : (num_steps, num_particles) array
        Normalised at each time.

    Examples
    --------
    As seen from one time later, the first time has the second particle twice:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> history = bi.History(
    ...     particles=jnp.array([[1.0, 2.0], [3.0, 4.0]]),
    ...     log_weights=jnp.log(jnp.full((2, 2), 0.5)),
    ...     ancestors=jnp.array([[0, 1], [1, 1]]),
    ... )
    >>> bi.LaggedParticles.of(history, lag=1).particles.tolist()
    [[2.0, 2.0], [3.0, 4.0]]
    """

    particles: Any
    log_weights: jax.Array

    @classmethod
    def of(cls, history: History, lag: int) -> LaggedParticles:
        """Return what a history says about each time from a lag later on.

        Parameters
        ----------
        history : History
            Of ``particle_filter(..., history=True)``.
        lag : int >= 0
        """
        history = jax.tree.map(jnp.asarray, history)
        num_steps, num_particles = history.ancestors.shape
        times = jnp.arange(num_steps)
        seen_from = jnp.minimum(times + lag, num_steps - 1)
        places = jnp.broadcast_to(
            jnp.arange(num_particles, dtype=jnp.int32), (num_steps, num_particles)
        )

        def one_back(i, places):
            time = seen_from - i
            earlier = jnp.take_along_axis(history.ancestors[time], places, axis=1)
            return jnp.where((time > times)[:, None], earlier, places)

        places = lax.fori_loop(0, min(lag, num_steps - 1), one_back, places)
        particles = jax.vmap(accel.take_particles)(history.particles, places)
        return cls(particles, history.log_weights[seen_from])


@dataclass(frozen=True, eq=False, repr=False)
class FixedLag(Block):
    """Trace the history back over a fixed number of times. See :func:`fixed_lag`."""

    lag: int

    @property
    def name(self):
        return f"fixed lag {self.lag}"

    def run(self, key, population=None):
        if not isinstance(population.history, History):
            raise ValueError(
                f"{self.name} needs the populations of all times: "
                "particle_filter(..., history=True)"
            )
        lagged = LaggedParticles.of(population.history, self.lag)
        return population._replace(history=lagged, ancestors=None), {}

    def arrow(self, law):
        of_time = law.measure.at(f"min(t+{self.lag}, T)")
        line = f"{self.name}: at each time t the history"
        lines = (*law.derivation, f"{line:<58} stands for {of_time} at t")
        return law._replace(derivation=lines).then(law.measure, "the population as before")


def fixed_lag(lag: int) -> Block:
    r"""Trace each particle back over a fixed number of times.

    It follows ``particle_filter(..., history=True)`` and puts :class:`LaggedParticles` in the
    place of the history; particles and weights of the last time stay as they are.

    At time t stand the ancestors of the particles of time :math:`s = \min(t + \text{lag}, T)`,
    with the weights of these. Together with the evidence estimate of time s they are properly
    weighted for the marginal of :math:`\gamma_s` at t (law L2), that is for
    :math:`p(x_t \mid y_{0:s})`. As an answer for :math:`p(x_t \mid y_{0:T})` they have a bias
    that more particles do not take away; it falls as the lag grows, and is gone where
    :math:`t + \text{lag} \ge T`.

    Parameters
    ----------
    lag : int
        From 0, which is filtering, up; from num_steps - 1 on it is the genealogy.

    Returns
    -------
    Block
        To be composed behind a filter with ``history=True``.

    Raises
    ------
    ValueError
        For a lag below 0; when it runs, without a history.

    Notes
    -----
    O(lag num_steps num_particles).

    References
    ----------
    Kitagawa & Sato (2001), *Monte Carlo smoothing and self-organising state-space model*;
    Olsson, Cappé, Douc & Moulines (2008), for the choice of the lag.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=5,
    ... )
    >>> block = bi.particle_filter(walk, 100, history=True) >> bi.fixed_lag(2)
    >>> bi.run(block, key=0).history.particles.shape
    (5, 100)
    >>> print(block.explain().splitlines()[-3])
    fixed lag 2: at each time t the history                    stands for γ[min(t+2, T)] at t
    """
    if lag < 0:
        raise ValueError(f"lag must be at least 0, got {lag!r}")
    return FixedLag(int(lag))
