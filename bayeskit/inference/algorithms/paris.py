"""Forward-only smoothing of additive functions (PaRIS)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.algorithms.backward_sampling import backward_draw
from bayeskit.inference.backward import BackwardDraw
from bayeskit.inference.blocks import Block, extend, resample, scan, spawn, weigh
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["AdditiveParticle", "StartStatistic", "UpdateStatistic", "paris"]


class AdditiveParticle(NamedTuple):
    """A state, and the mean of an additive function over paths that lead to it.

    Parameters
    ----------
    state : pytree
    statistic : pytree of arrays

    Examples
    --------
    Sums over time of x and of its square, beside each particle of the last time:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     log_m=lambda t, before, x: -0.5 * (x - before) ** 2,
    ...     num_steps=5,
    ... )
    >>> powers = lambda x: jnp.stack([x, x**2])
    >>> block = bi.paris(walk, 100, powers, lambda t, before, x: powers(x))
    >>> population, _ = jax.eval_shape(block.run, jax.random.key(0))
    >>> population.particles.state.shape, population.particles.statistic.shape
    ((100,), (100, 2))
    """

    state: Any
    statistic: Any


def paris(
    model: FeynmanKac,
    num_particles: int,
    start: Callable,
    increment: Callable,
    *,
    num_draws: int = 2,
    method: str = "exact",
    max_trials: int = 16,
    num_moves: int = 1,
    scheme: str | Block = "systematic",
    ess_below: float | None = 0.5,
    track_lineage: bool = False,
) -> Block:
    r"""Return the forward-only smoother of an additive function (PaRIS).

    For :math:`h(x_{0:T}) = h_0(x_0) + \sum_t h_t(x_{t-1}, x_t)` each particle carries

    .. math:: \tau_t^i = \frac{1}{J} \sum_{j=1}^{J}
        \bigl(\tau_{t-1}^{a_j} + h_t(x_{t-1}^{a_j}, x_t^i)\bigr),
        \qquad a_j \sim B_t(\cdot \mid x_t^i),

    the backward law of :func:`backward_sampling`. No history is kept.

    Parameters
    ----------
    model : FeynmanKac with log_m
    num_particles : int
    start : callable (x) -> pytree of arrays
        :math:`h_0`.
    increment : callable (t, x_previous, x) -> pytree of arrays
        :math:`h_t`.
    num_draws : int
        J. With one draw the statistics degenerate as a genealogy does; two are enough.
    method, max_trials, num_moves
        How to draw backwards, as for :func:`backward_sampling`.
    scheme, ess_below, track_lineage
        As for :func:`particle_filter`.

    Returns
    -------
    Block
        Its particles have the parts ``state`` and ``statistic``. For any number of particles,
        :math:`E[\hat Z \sum_i W_i \tau_T^i f(x_T^i)] = \gamma_T(h\, f(x_T))`; functions that
        are not linear in the statistic have no such law.

    Raises
    ------
    MissingDensityError, ValueError
        As for :func:`backward_sampling`, and if ``num_draws`` is not at least 1.

    Notes
    -----
    A time costs O(num_draws N²) with ``"exact"`` and O(num_draws N) otherwise.

    References
    ----------
    Olsson & Westerborn (2017), *Efficient particle-based online smoothing in general hidden
    Markov models: the PaRIS algorithm*.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     log_m=lambda t, before, x: -0.5 * (x - before) ** 2,
    ...     num_steps=5,
    ... )
    >>> total = bi.paris(walk, 100, start=lambda x: x, increment=lambda t, before, x: x)
    >>> bi.run(total, key=0).expectation(lambda particle: particle.statistic).shape
    ()
    """
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws!r}")
    draw = backward_draw(model, method, max_trials, num_moves)
    first = spawn(model.initial, num_particles, track_lineage=track_lineage)
    first = first >> weigh(model.log_g0) >> StartStatistic(start)
    step = resample(scheme, ess_below) >> extend(model.kernel, model.log_g)
    return first >> scan(UpdateStatistic(step, model, increment, draw, num_draws))


@dataclass(frozen=True, eq=False, repr=False)
class StartStatistic(Block):
    """Let each particle carry the statistic of its first state."""

    start: Callable

    @property
    def name(self):
        return "start additive statistic"

    def run(self, key, population=None):
        state = population.particles
        ancestors = jnp.arange(population.num_particles, dtype=jnp.int32)
        particles = AdditiveParticle(state, jax.vmap(self.start)(state))
        return population._replace(particles=particles, ancestors=ancestors), {}

    def arrow(self, law):
        return law.then(law.measure, self.name)


@dataclass(frozen=True, eq=False, repr=False)
class UpdateStatistic(Block):
    """Run one step of a filter, then update the statistics by draws backwards."""

    body: Block
    model: FeynmanKac
    increment: Callable
    backward: BackwardDraw
    num_draws: int

    @property
    def name(self):
        return f"update additive statistic ({self.backward.name}, {self.num_draws} draws)"

    @property
    def parts(self):
        return (self.body,)

    def run(self, key, population=None):
        body_key, backward_key = random.split(key)
        time, (before, statistic) = population.stage, population.particles
        own_place = jnp.arange(population.num_particles, dtype=jnp.int32)
        bare = population._replace(particles=before, ancestors=own_place)
        now, info = self.body.run(body_key, bare)
        after = now.particles

        def one_draw(draw_key, carry, _):
            places, _ = self.backward.draw(
                draw_key,
                self.model,
                time,
                before,
                population.log_weights,
                now.ancestors,
                after,
            )
            origin, so_far = accel.take_particles((before, statistic), places)
            added = jax.vmap(lambda a, b: self.increment(time, a, b))(origin, after)
            return carry, jax.tree.map(jnp.add, so_far, added)

        _, values = random.scan(one_draw, backward_key, (), jnp.arange(self.num_draws))
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), values)
        return now._replace(particles=AdditiveParticle(after, mean)), info

    def arrow(self, law):
        return self.body.arrow(law).then(self.model.measure.at("t"), self.name)
