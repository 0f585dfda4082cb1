r"""Moves that keep the joint law of all parts of a multilinear model given data.

.. math::
    y_n = m_n + \sum_{r_1 \dots r_K} G_{r_1 \dots r_K} \prod_k u^k_{r_k}(x_{nk})
        + \varepsilon_n, \qquad \varepsilon_n \sim N(0, 1/(\tau w_n))

Hyper-parameters move with functions integrated out, which are then drawn given the new ones
(partially collapsed; the other order would be wrong). Core, precision, weights and additive
terms have conditionals that can be drawn from directly. The likelihood may be raised to a
power, from 0, the prior, to 1.

Sources: Carter & Kohn (1994), *On Gibbs sampling for state space models*; van Dyk & Park
(2008), *Partially collapsed Gibbs samplers*; Murray, Adams & MacKay (2010), *Elliptical slice
sampling*.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters
from bayeskit.inference.kernels import EllipticalSlice, NormalPrior
from bayeskit.inference.law import Measure
from bayeskit.inference.measure import Target, TemperingStage
from bayeskit.inference.transitions import Transition, cycle
from bayeskit.inference.transitions.base import ACCEPTED, measure_of
from bayeskit.models.functional_tucker.low_rank.chains import draw_mode, mode_evidence
from bayeskit.models.functional_tucker.low_rank.conditionals import (
    CorePosterior,
    core_posterior,
)
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, noise_posterior
from bayeskit.models.functional_tucker.low_rank.posterior import (
    State,
    TensorPosterior,
    draw_gamma,
    mode_name,
)

__all__ = ["TensorMoves", "amplitudes", "at_power"]


@dataclass(frozen=True, eq=False, repr=False)
class _Move(Transition):
    """A move of the whole state at the power of the stage: a function (state, key, power)."""

    title: str
    on: Measure
    move: Callable

    @property
    def name(self):
        return self.title

    @property
    def measure(self):
        return self.on

    def step(self, key, state, stage=None):
        power = 1.0 if stage is None else stage.current
        return self.move(state, key, power), ACCEPTED


def at_power(power: Any) -> TemperingStage:
    """Return the stage at which the likelihood has this power."""
    return TemperingStage(0, power, power)


@dataclass(frozen=True, eq=False)
class TensorMoves:
    """Moves that keep the joint law of all parts given data.

    Parameters
    ----------
    posterior : TensorPosterior
    num_slices : int
        Moves of the hyper-parameters of a part each time that it is drawn.
    """

    posterior: TensorPosterior
    num_slices: int = 4

    def mode(self, mode: int, state: State, key: Any, power: Any) -> State:
        """Draw hyper-parameters and functions of a mode given all other parts.

        In a CP model the amplitudes of all other modes move, too: given the functions of this
        one, only the product of all amplitudes would be known, and neither could go far.
        """
        p = self.posterior
        name, grid = mode_name(mode), p.data.grids[mode]
        slice_key, states_key = random.split(key)
        others = () if p.layout.has_core else self._amplitudes(without=mode)
        u = _Hyperparameters((*((name, i) for i in range(state[name]["u"].size)), *others))
        fixed = None if others else p.sites(state, mode, power)

        def log_likelihood(values: Any) -> jax.Array:
            now = u.written(state, values)
            sites = p.sites(now, mode, power) if fixed is None else fixed
            return mode_evidence(p.kernels(mode, now[name]["u"]), grid, sites, p.method)

        state = u.written(state, self._sliced(slice_key, u.read(state), log_likelihood))
        sites = p.sites(state, mode, power) if fixed is None else fixed
        part = state[name]
        z = random.normal(states_key, part["states"].shape)
        states = draw_mode(p.kernels(mode, part["u"]), grid, sites, z, p.method)[1]
        return {**state, name: {**part, "states": states}}

    def core(self, state: State, key: Any, power: Any) -> State:
        """Draw the core, and the amplitudes of all modes, given all other parts."""
        p = self.posterior
        slice_key, core_key = random.split(key)
        u = _Hyperparameters(self._amplitudes())

        def law(values: Any) -> CorePosterior:
            now = u.written(state, values)
            return core_posterior(
                p.layout,
                p.factors(now),
                p.data,
                p.target(now),
                p.row_precision(now, power),
                p.prior.core_precision,
            )

        def log_likelihood(values: Any) -> jax.Array:
            mean, factor = law(values)
            white = factor.T @ mean.reshape(-1)
            return 0.5 * white @ white - jnp.sum(jnp.log(jnp.diagonal(factor)))

        values = self._sliced(slice_key, u.read(state), log_likelihood)
        mean, factor = law(values)
        z = random.normal(core_key, (mean.size,))
        error = jsl.solve_triangular(factor, z, lower=True, trans=1)
        return {**u.written(state, values), "core": mean + error.reshape(mean.shape)}

    def additive(self, state: State, key: Any, power: Any) -> State:
        """Draw hyper-parameters and rows of the additive terms given all other parts."""
        p = self.posterior
        additive = p.prior.additive
        assert additive is not None
        left, precision = p.data.y - p.product(state), p.row_precision(state, power)
        slice_key, rows_key = random.split(key)
        log_likelihood = lambda u: additive.log_evidence(u, left, precision)
        u = self._sliced(slice_key, state["additive"]["u"], log_likelihood)
        rows = additive.draw(rows_key, u, left, precision)
        return {**state, "additive": {"u": u, "rows": rows}}

    def precision(self, state: State, key: Any, power: Any) -> State:
        """Draw the precision of the noise given all other parts."""
        p = self.posterior
        weights = p.row_precision({**state, "precision": 1.0}, power)
        squares = jnp.sum(weights * p.errors(state) ** 2)
        law = noise_posterior(p.prior.noise, power * jnp.sum(p.data.weight), squares)
        return {**state, "precision": draw_gamma(key, law)}

    def weights(self, state: State, key: Any, power: Any) -> State:
        """Draw the weights of rows given all other parts."""
        p = self.posterior
        degrees, seen = p.prior.noise.degrees, power * p.data.weight
        squares = p.precision(state) * p.errors(state) ** 2
        law = Gamma(0.5 * (degrees + seen), 0.5 * (degrees + seen * squares))
        return {**state, "weights": draw_gamma(key, law)}

    def _amplitudes(self, without: int | None = None) -> tuple[tuple[str, int], ...]:
        return tuple(
            (mode_name(k), place)
            for k, free in enumerate(self.posterior.prior.parameters)
            if k != without
            for place in amplitudes(free)
        )

    def _sliced(self, key: Any, u: jax.Array, log_likelihood: Callable) -> jax.Array:
        """Return hyper-parameters after moves that keep N(0, I) times a likelihood."""
        if not u.size:
            return u
        kernel = EllipticalSlice(NormalPrior(np.zeros(u.size), scale=np.ones(u.size)))
        density = Target(
            log_prior=lambda x: -0.5 * jnp.sum(x**2), log_likelihood=log_likelihood
        ).density()
        move = lambda step_key, now, _: kernel.step(step_key, now, density, None)[0]
        start = kernel.init(u, density)
        return random.repeat(move, key, start, self.num_slices).position

    def sweep(self, on: Any = None, first: int = 0) -> Transition:
        """Return the transition that draws all parts in turn.

        Parameters
        ----------
        on : Path or Measure, optional
            What it leaves invariant. Default: the posterior. The power of the likelihood is the
            place of the stage on its path.
        first : int
            Mode that is drawn first. Nothing in the result depends on its functions before.
        """
        p = self.posterior
        measure = measure_of(Measure("posterior", owner=self) if on is None else on)
        num = p.layout.num_modes
        modes = [(first + i) % num for i in range(num)]
        moves: dict[str, Callable] = {
            mode_name(k): functools.partial(self.mode, k) for k in modes
        }
        if p.layout.has_core:
            moves["core"] = self.core
        if p.prior.additive:
            moves["additive"] = self.additive
        if not p.prior.noise.is_known:
            moves["precision"] = self.precision
        if p.prior.noise.degrees is not None:
            moves["weights"] = self.weights
        return cycle(*(_Move(name, measure, move) for name, move in moves.items()))


class _Hyperparameters(NamedTuple):
    """Some hyper-parameters of a state: the part that each stands in, and its place in u."""

    places: tuple[tuple[str, int], ...]

    def read(self, state: State) -> jax.Array:
        """Return them as a vector."""
        return jnp.array([state[name]["u"][place] for name, place in self.places])

    def written(self, state: State, values: jax.Array) -> State:
        """Return the state with others in their place."""
        for (name, place), value in zip(self.places, values, strict=True):
            part = state[name]
            state = {**state, name: {**part, "u": part["u"].at[place].set(value)}}
        return state


def amplitudes(free: FreeParameters) -> tuple[int, ...]:
    """Return the places of learned numbers that scale functions and leave states alone."""

    def scales(name: str) -> bool:
        *path, last = name.split(".")
        kernel = free.base
        for step in path:
            kernel = kernel[int(step)] if step.isdigit() else getattr(kernel, step)
        # States of integrated processes start with a variance relative to theirs.
        return last == "factor" or (last == "std" and not hasattr(kernel, "start"))

    return tuple(place for place, name in enumerate(free.names) if scales(name))
