"""Fixed-lag smoothing: each time as seen from a few times later."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit import accel
from bayeskit.inference.population import History

__all__ = ["LaggedParticles", "fixed_lag"]


class LaggedParticles(NamedTuple):
    """Weighted particles of each time given the data up to a lag later.

    Parameters
    ----------
    particles : pytree with leading axes (num_steps, num_particles)
    log_weights : (num_steps, num_particles) array
        Normalised at each time.
    """

    particles: Any
    log_weights: jax.Array


def fixed_lag(history: History, lag: int) -> LaggedParticles:
    r"""Trace each particle back over a fixed number of times.

    At time t stand the ancestors of the particles of time :math:`s = \min(t + \text{lag}, T)`,
    with the weights of these. Together with the evidence estimate of time s they are properly
    weighted for the marginal of :math:`\gamma_s` at t (law L2), that is for
    :math:`p(x_t \mid y_{0:s})`. As an answer for :math:`p(x_t \mid y_{0:T})` they have a bias
    that more particles do not take away; it falls as the lag grows, and is gone where
    :math:`t + \text{lag} \ge T`.

    Parameters
    ----------
    history : History
        Of ``particle_filter(..., history=True)``.
    lag : int
        From 0, which is filtering, up; from num_steps - 1 on it is the genealogy.

    Raises
    ------
    ValueError
        For a lag below 0.

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
    >>> history = bi.run(bi.particle_filter(walk, 100, history=True), key=0).history
    >>> bi.fixed_lag(history, 2).particles.shape
    (5, 100)
    """
    if lag < 0:
        raise ValueError(f"lag must be at least 0, got {lag!r}")
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
    return LaggedParticles(particles, history.log_weights[seen_from])
