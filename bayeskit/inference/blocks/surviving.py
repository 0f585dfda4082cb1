"""Draw until enough particles are alive, where a potential may be zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block, set_law
from bayeskit.inference.blocks.weighting import weighed
from bayeskit.inference.law import Law, Measure, Tagged, factor_arrow
from bayeskit.inference.population import Population

__all__ = ["ExtendAlive", "SpawnAlive", "extend_alive", "log_share", "spawn_alive"]


class Survivors(NamedTuple):
    """The first particles whose potential is not zero, and what it took to find them.

    Parameters
    ----------
    drawn : pytree with leading axis num_particles
        Particles.
    log_g : (num_particles,) array
        -inf where none was found.
    num_alive : () int32
        More than num_particles where one too many was found.
    num_trials : () int32
        Without the one at which one too many was found, and those after it.
    num_nan : () int32
    """

    drawn: Any
    log_g: jax.Array
    num_alive: jax.Array
    num_trials: jax.Array
    num_nan: jax.Array


def survivors(draw: Callable, key: Any, num: int, max_rounds: int) -> Survivors:
    """Draw until ``num + 1`` are alive, and keep the first ``num`` of them.

    Parameters
    ----------
    draw : callable (key) -> (drawn, log_g)
        ``num`` independent trials with their log potentials.
    """
    drawn, log_g = jax.eval_shape(lambda: draw(jax.random.key(0)))
    zero = jnp.zeros((), jnp.int32)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), drawn)
    nothing = Survivors(blank, jnp.full(num, -jnp.inf, log_g.dtype), zero, zero, zero)

    def one_round(round_key, found, _):
        drawn, log_g = draw(round_key)
        is_alive = log_g > -jnp.inf
        rank = found.num_alive + jnp.cumsum(is_alive, dtype=jnp.int32)
        counts = rank <= num
        # Places beyond the last are dropped.
        place = jnp.where(is_alive & counts, rank - 1, num)
        put = lambda all_, new: all_.at[place].set(new, mode="drop")
        filled = jax.tree.map(put, found.drawn, drawn)
        num_nan = found.num_nan + jnp.sum(jnp.isnan(log_g), dtype=jnp.int32)
        num_trials = found.num_trials + jnp.sum(counts, dtype=jnp.int32)
        return Survivors(filled, put(found.log_g, log_g), rank[-1], num_trials, num_nan)

    has_one_too_many = lambda found: found.num_alive > num
    found, _ = random.until(has_one_too_many, one_round, key, nothing, max_rounds)
    is_filled = jnp.arange(num) < found.num_alive
    # Places that stayed empty weigh nothing; they hold a copy, so that every state is one.
    copied = lambda x: jnp.where(is_filled.reshape(num, *[1] * (x.ndim - 1)), x, x[0])
    return found._replace(drawn=jax.tree.map(copied, found.drawn))


def log_share(num: int, num_trials: jax.Array) -> jax.Array:
    """Return log of num over the trials that count, by which every survivor is weighed.

    Of ``num + 1`` that are found alive in n trials the last says when to stop and nothing else,
    so that n - 1 trials count: num / (n - 1) has the chance to be alive as its mean, and
    num / n, or (num + 1) / n, has not.
    """
    return math.log(num) - jnp.log(num_trials)


def _weighed(population: Population, found: Survivors) -> tuple[Population, dict]:
    num = population.num_particles
    equal = jnp.full(num, -math.log(num), population.log_weights.dtype)
    share = log_share(num, found.num_trials.astype(equal.dtype))
    fresh = population._replace(log_weights=equal, lineage=None)
    after, info = weighed(fresh, found.log_g + share)
    info["num_nan"] = found.num_nan
    info["num_trials"] = found.num_trials
    info["num_alive"] = jnp.minimum(found.num_alive, num)
    return after, info


@dataclass(frozen=True, eq=False, repr=False)
class SpawnAlive(Block):
    """Draws of positive potential. See :func:`spawn_alive`."""

    sample: Callable
    log_g: Callable | Tagged
    num_particles: int
    max_rounds: int
    measure: Measure

    def __post_init__(self):
        set_law(self, self.arrow(None))

    @property
    def name(self):
        return f"spawn alive({self.num_particles})"

    def run(self, key, population=None):
        num = self.num_particles

        def draw(round_key):
            one = lambda lane_key, _: self.sample(lane_key)
            particles = random.lanes(one, round_key, jnp.arange(num))
            return particles, jax.vmap(lambda x: self.log_g(None, x))(particles)

        found = survivors(draw, key, num, self.max_rounds)
        zero = jnp.zeros((), jnp.result_type(float))
        equal = jnp.full(num, -math.log(num), zero.dtype)
        return _weighed(Population(found.drawn, equal, zero, None, None, zero), found)

    def arrow(self, law):
        line = f"spawn draws until {self.num_particles} + 1 are alive"
        start = Law(self.measure).then(self.measure, line)
        return factor_arrow(self.log_g, "weigh by")(start)


@dataclass(frozen=True, eq=False, repr=False)
class ExtendAlive(Block):
    """Resample and extend until enough are alive. See :func:`extend_alive`."""

    kernel: Callable
    log_g: Callable | Tagged
    max_rounds: int

    name = "extend alive"

    @property
    def expects(self):
        return self.log_g.source if isinstance(self.log_g, Tagged) else None

    def run(self, key, population=None):
        num, stage = population.num_particles, population.stage

        def draw(round_key):
            ancestor_key, move_key = random.split(round_key)
            ancestors = random.categorical(ancestor_key, population.log_weights, num)
            before = accel.take_particles(population.particles, ancestors)
            after = random.lanes(lambda k, x: self.kernel(k, stage, x), move_key, before)
            log_g = jax.vmap(lambda a, b: self.log_g(stage, a, b))(before, after)
            return after, log_g

        found = survivors(draw, key, num, self.max_rounds)
        return _weighed(population._replace(particles=found.drawn), found)

    def arrow(self, law):
        return factor_arrow(self.log_g, "resample and extend until alive, by")(law)


def spawn_alive(
    sample: Tagged, log_g: Callable | Tagged, num_particles: int, max_rounds: int = 1000
) -> Block:
    """Start a population of draws whose potential is not zero (law L1 to L2).

    As :func:`spawn` and :func:`weigh` in one; see :func:`extend_alive` for how it counts.

    Parameters
    ----------
    sample : Tagged callable (key) -> particle
    log_g : callable (stage, particle) -> () array
    num_particles, max_rounds : int

    Returns
    -------
    Block
        It starts from nothing.

    Raises
    ------
    ValueError
        For numbers that are not at least 1.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> normal = bi.Measure("N(0, 1)")
    >>> sample = bi.Tagged(lambda key: bi.random.normal(key), normal, normal, "normal draws")
    >>> block = bi.spawn_alive(sample, lambda stage, x: jnp.where(x > 2, 0.0, -jnp.inf), 100)
    >>> bool(bi.run(block, key=0).particles.min() > 2)
    True
    """
    _check_number("num_particles", num_particles)
    _check_number("max_rounds", max_rounds)
    return SpawnAlive(sample, log_g, int(num_particles), int(max_rounds), sample.target)


def extend_alive(kernel: Callable, log_g: Callable | Tagged, max_rounds: int = 1000) -> Block:
    r"""Resample and extend again and again, until enough particles are alive (law L6).

    A trial chooses an ancestor by its weight, moves it, and is alive if its potential is not
    zero. Trials go on until N + 1 are alive, the n-th being the last; the first N of them are
    kept, and the estimate of the mass is

    .. math:: \frac{1}{n - 1} \sum_{i=1}^N G(x_i) .

    Where ``max_rounds`` rounds of N trials find fewer, all their trials count in place of
    n - 1, and the places that stayed empty have weight zero. The mean is exact either way:
    given when the trials stopped, those that count came in any order with equal chance.

    Parameters
    ----------
    kernel : callable (key, stage, previous) -> particle
    log_g : callable (stage, previous, particle) -> () array
        -inf where a particle is dead. NaN counts as -inf.
    max_rounds : int

    Returns
    -------
    Block

    Notes
    -----
    The info holds ``num_trials``, those that count, and ``num_alive``, which is below N where
    the trials ran out.

    References
    ----------
    Del Moral, Jasra, Lee, Yau & Zhang (2015), *The alive particle filter and its use in
    particle Markov chain Monte Carlo*; Haldane (1945) for the estimate.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> above = lambda stage, before, x: jnp.where(x > 2.0, 0.0, -jnp.inf)
    >>> start = bi.spawn(lambda key: bi.random.normal(key), 100)
    >>> walk = bi.extend_alive(lambda key, stage, x: x + bi.random.normal(key), above)
    >>> population, info = bi.run(start >> walk, key=0, with_info=True)
    >>> bool(population.particles.min() > 2), bool(info["num_trials"] > 500)
    (True, True)
    """
    _check_number("max_rounds", max_rounds)
    return ExtendAlive(kernel, log_g, int(max_rounds))


def _check_number(name: str, number: Any) -> None:
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {number!r}")
