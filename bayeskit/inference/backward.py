r"""Draws of where a particle came from, and whole paths traced back through a history.

Given a state x at time t, the place a of its predecessor among the particles of time t - 1 has
the backward law

.. math:: B_t(a \mid x) \propto W_{t-1}^a\, M_t(x_{t-1}^a, x)\, G_t(x_{t-1}^a, x) .

Let K be any Markov step on places that leaves :math:`B_t(\cdot \mid x)` invariant. Start it at
the ancestor that a particle really had and go on from where it ends: the path is properly
weighted, since the ancestor and the particle have the joint mass
:math:`W_{t-1}^a M_t G_t` and K does not change it. No step at all traces the genealogy, an
exact draw gives backward sampling, Metropolis steps lie between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.dependence import depends_on
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.population import History

__all__ = ["BackwardDraw", "Exact", "Genealogy", "Metropolis", "Rejection", "trace_back"]


@dataclass(frozen=True)
class BackwardDraw:
    """A step on places that leaves the backward law invariant, for many particles at once."""

    @property
    def name(self) -> str:
        """How it is printed."""
        raise NotImplementedError

    def draw(
        self,
        key: Any,
        model: FeynmanKac,
        time: jax.Array,
        before: Any,
        log_weights: jax.Array,
        ancestors: jax.Array,
        after: Any,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return places (num,) at time - 1, and what happened.

        Parameters
        ----------
        before, log_weights
            Particles of time - 1 and their weights.
        ancestors : (num,) int32 array
            The places that the particles of this time descend from.
        after : pytree with leading axis num
            Particles of this time.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Genealogy(BackwardDraw):
    """Stay at the ancestor."""

    @property
    def name(self):
        return "genealogy"

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        return ancestors, {}


@dataclass(frozen=True)
class Exact(BackwardDraw):
    """Draw from the backward law; O(num N)."""

    @property
    def name(self):
        return "exact"

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        def one(lane_key, x):
            return _exact_place(lane_key, model, time, before, log_weights, x)

        return random.lanes(one, key, after), {}


def _exact_place(key, model, time, before, log_weights, x):
    log_steps = jax.vmap(lambda b: model.log_step(time, b, x))(before)
    return random.categorical(key, log_weights + log_steps)


@dataclass(frozen=True)
class Metropolis(BackwardDraw):
    """Independent Metropolis steps that propose by the weights; O(num)."""

    num_moves: int = 1

    @property
    def name(self):
        return "mcmc"

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        def log_step(places):
            origin = accel.take_particles(before, places)
            return jax.vmap(lambda b, x: model.log_step(time, b, x))(origin, after)

        def move(move_key, state, _):
            places, now = state
            propose_key, accept_key = random.split(move_key)
            proposed = random.categorical(propose_key, log_weights, places.shape[0])
            new = log_step(proposed)
            accepted = random.accept(accept_key, new - now)
            return jnp.where(accepted, proposed, places), jnp.where(accepted, new, now)

        state = (ancestors, log_step(ancestors))
        return random.repeat(move, key, state, self.num_moves)[0], {}


@dataclass(frozen=True)
class Rejection(BackwardDraw):
    """Draw from the backward law by rejection, and exactly where all trials fail."""

    max_trials: int = 16

    @property
    def name(self):
        return "rejection"

    def draw(self, key, model, time, before, log_weights, ancestors, after):
        _refuse_pair_potential(model, time, before, after)
        trial_key, exact_key = random.split(key)
        num, bound = ancestors.shape[0], model.log_m_bound(time)

        def trial(key, state):
            places, accepted, above = state
            propose_key, accept_key = random.split(key)
            proposed = random.categorical(propose_key, log_weights, num)
            origin = accel.take_particles(before, proposed)
            log_m = jax.vmap(lambda b, x: model.log_m(time, b, x))(origin, after)
            new = random.accept(accept_key, log_m - bound) & ~accepted
            # Beyond rounding.
            above = above + jnp.sum(log_m > bound + 1e-4)
            return jnp.where(new, proposed, places), accepted | new, above

        def trial_if_open(key, state, _):
            return random.cond(~jnp.all(state[1]), trial, key, state)

        blank = (ancestors, jnp.zeros(num, bool), jnp.zeros((), jnp.int32))
        places, accepted, above = random.repeat(
            trial_if_open, trial_key, blank, self.max_trials
        )

        # One after another, so that each costs O(N) only where it is needed.
        def finish(key, carry, one):
            place, is_done, x = one
            exact = lambda k, _: _exact_place(k, model, time, before, log_weights, x)
            return carry, random.cond(~is_done, exact, key, place)

        _, places = random.scan(finish, exact_key, (), (places, accepted, after))
        return places, {"num_exact": jnp.sum(~accepted), "num_above_bound": above}


def _refuse_pair_potential(model: FeynmanKac, time: Any, before: Any, after: Any) -> None:
    """Refuse a potential that depends on the previous state: log_m_bound does not bound it."""
    one = lambda tree: jax.tree.map(lambda x: x[0], tree)
    if depends_on(model.log_g, 1, time, one(before), one(after)):
        raise ValueError(
            "backward sampling by rejection needs a potential log_g(t, before, x) that does "
            "not depend on before, since log_m_bound bounds log_m alone: use method='exact' or "
            "method='mcmc' for a guided model"
        )


def trace_back(
    key: Any, model: FeynmanKac, history: History, draw: BackwardDraw, last: jax.Array
) -> tuple[Any, dict[str, jax.Array]]:
    """Return whole paths that end at given places of the last time.

    Parameters
    ----------
    last : (num,) int32 array

    Returns
    -------
    paths : pytree with leading axes (num, num_steps)
    info : dict of arrays (num_steps - 1,)
        Last time first.
    """
    end = jax.tree.map(lambda x: x[-1][last], history.particles)
    if history.ancestors.shape[0] == 1:
        return jax.tree.map(lambda x: x[:, None], end), {}
    earlier = History(
        jax.tree.map(lambda x: x[:-1][::-1], history.particles),
        history.log_weights[:-1][::-1],
        history.ancestors[1:][::-1],
    )
    times = jnp.arange(history.ancestors.shape[0] - 1, 0, -1, dtype=jnp.int32)

    def step(step_key, carry, inputs):
        places, after = carry
        time, (before, log_weights, ancestors) = inputs
        places, info = draw.draw(
            step_key, model, time, before, log_weights, ancestors[places], after
        )
        now = accel.take_particles(before, places)
        return (places, now), (now, info)

    _, (states, info) = random.scan(step, key, (last, end), (times, earlier))
    join = lambda x, e: jnp.swapaxes(jnp.concatenate([x[::-1], e[None]]), 0, 1)
    return jax.tree.map(join, states, end), info
