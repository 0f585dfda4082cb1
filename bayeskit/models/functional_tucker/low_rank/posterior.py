r"""The parts of a multilinear model given data, and moves that keep their joint law.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jax import lax

from bayeskit.accel import GaussianChain
from bayeskit.accel.time.factors import semidefinite_cholesky
from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters, FunctionChain
from bayeskit.inference.kernels import EllipticalSlice, NormalPrior
from bayeskit.inference.law import Measure
from bayeskit.inference.measure import Target, TemperingStage
from bayeskit.inference.transitions import Transition, cycle
from bayeskit.inference.transitions.base import ACCEPTED, measure_of
from bayeskit.models.functional_tucker.low_rank.additive_part import AdditivePart
from bayeskit.models.functional_tucker.low_rank.chains import (
    ModeSites,
    draw_mode,
    mode_chain,
    mode_evidence,
)
from bayeskit.models.functional_tucker.low_rank.conditionals import (
    CorePosterior,
    core_posterior,
    mode_sites,
)
from bayeskit.models.functional_tucker.low_rank.contractions import (
    CoreMoments,
    Moments,
    core_moments,
    expected_value,
    map_over_chunks,
    moments_of,
)
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior, noise_posterior

__all__ = [
    "Prior",
    "State",
    "TensorPosterior",
    "amplitudes",
    "at_power",
    "mode_name",
    "product_of",
]

State = dict[str, Any]


class Prior(NamedTuple):
    """What is assumed of all parts.

    Parameters
    ----------
    parameters : tuple of FreeParameters, one for each mode
        Of the kernels of its functions.
    core_precision : float
        Of the entries of the core.
    noise : NoisePrior
    additive : AdditivePart, optional
        Terms that are added to the product.
    """

    parameters: tuple[FreeParameters, ...]
    core_precision: Any
    noise: NoisePrior
    additive: AdditivePart | None = None


def mode_name(mode: int) -> str:
    """Return the name of the part of a state that holds the functions of a mode."""
    return f"mode_{mode}"


def at_power(power: Any) -> TemperingStage:
    """Return the stage at which the likelihood has this power."""
    return TemperingStage(0, power, power)


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


@dataclass(frozen=True, eq=False)
class TensorPosterior:
    """The parts of a multilinear model given data, and their conditionals.

    A state is a dictionary: ``mode_0`` and so on hold ``u``, the hyper-parameters as standard
    normal numbers, and ``states`` (size, dim) on the grid; ``core``; ``precision``; ``weights``
    (rows,) under Student-t noise; ``additive`` holds ``u`` and ``rows`` (rows,). What is known
    or absent is left out.

    Parameters
    ----------
    layout : Layout
    prior : Prior
    data : TensorData
    method : {"auto", "sequential", "parallel"}
        How filters run over coordinates.
    num_slices : int
        Moves of the hyper-parameters of a part each time that it is drawn.
    """

    layout: Layout
    prior: Prior
    data: TensorData
    method: str = "auto"
    num_slices: int = 4

    # ------------------------------------------------------------ what a state says

    def kernels(self, mode: int, u: Any) -> tuple[Any, ...]:
        """Return the kernels of the functions of a mode."""
        return self.prior.parameters[mode].fill(u)

    def chain(self, mode: int, u: Any) -> FunctionChain:
        """Return the chain of the functions of a mode."""
        return mode_chain(self.kernels(mode, u), self.data.grids[mode])

    def values(self, state: State, mode: int) -> jax.Array:
        """Return the functions of a mode on its grid, (size, R)."""
        part = state[mode_name(mode)]
        return jnp.einsum("nrd,nd->nr", self.chain(mode, part["u"]).matrix, part["states"])

    def factors(self, state: State) -> tuple[Moments, ...]:
        """Return the functions of all modes, as moments of known values."""
        return tuple(moments_of(self.values(state, k)) for k in range(self.layout.num_modes))

    def core(self, state: State) -> CoreMoments | None:
        """Return the core, as moments of known values."""
        return core_moments(state["core"]) if self.layout.has_core else None

    def product(self, state: State) -> jax.Array:
        """Return the multilinear part of each row, (rows,); zeros without modes."""
        if not self.layout.ranks:
            return jnp.zeros_like(self.data.y)
        values = [self.values(state, k) for k in range(self.layout.num_modes)]
        return product_of(self.layout, state.get("core"), values, self.data.places)

    def target(self, state: State) -> jax.Array:
        """Return what the product is to explain, (rows,)."""
        return self.data.y - (state["additive"]["rows"] if self.prior.additive else 0.0)

    def precision(self, state: State) -> Any:
        """Return the precision of the noise."""
        return self.prior.noise.precision if self.prior.noise.is_known else state["precision"]

    def row_precision(self, state: State, power: Any = 1.0) -> jax.Array:
        """Return the precision of each row (rows,), 0 where nothing is observed."""
        weights = 1.0 if self.prior.noise.degrees is None else state["weights"]
        return power * self.precision(state) * weights * self.data.weight

    def sites(self, state: State, mode: int, power: Any = 1.0) -> ModeSites:
        """Return what rows say of the functions of a mode, given all others."""
        return mode_sites(
            self.layout,
            self.core(state),
            self.factors(state),
            self.data,
            self.target(state),
            self.row_precision(state, power),
            mode,
        )

    def errors(self, state: State) -> jax.Array:
        """Return what neither product nor additive terms explain, (rows,)."""
        return self.target(state) - self.product(state)

    def row_constant(self, state: State) -> jax.Array:
        """Return the part of the log likelihood in which the product does not occur."""
        p = self.row_precision(state)
        log_p = jnp.log(jnp.where(p > 0, p, 2.0 * jnp.pi)) - jnp.log(2.0 * jnp.pi)
        return 0.5 * jnp.sum(log_p - p * self.target(state) ** 2)

    # ------------------------------------------------------------ moves

    def move_mode(self, mode: int, state: State, key: Any, power: Any) -> State:
        """Draw hyper-parameters and functions of a mode given all other parts.

        In a CP model the amplitudes of all other modes move, too: given the functions of this
        one, only the product of all amplitudes would be known, and neither could go far.
        """
        name, grid = mode_name(mode), self.data.grids[mode]
        slice_key, states_key = random.split(key)
        others = () if self.layout.has_core else self._amplitudes(without=mode)
        u = _Hyperparameters((*((name, i) for i in range(state[name]["u"].size)), *others))
        fixed = None if others else self.sites(state, mode, power)

        def log_likelihood(values: Any) -> jax.Array:
            now = u.written(state, values)
            sites = self.sites(now, mode, power) if fixed is None else fixed
            return mode_evidence(self.kernels(mode, now[name]["u"]), grid, sites, self.method)

        state = u.written(state, self._sliced(slice_key, u.read(state), log_likelihood))
        sites = self.sites(state, mode, power) if fixed is None else fixed
        part = state[name]
        z = random.normal(states_key, part["states"].shape)
        states = draw_mode(self.kernels(mode, part["u"]), grid, sites, z, self.method)[1]
        return {**state, name: {**part, "states": states}}

    def move_core(self, state: State, key: Any, power: Any) -> State:
        """Draw the core, and the amplitudes of all modes, given all other parts."""
        slice_key, core_key = random.split(key)
        u = _Hyperparameters(self._amplitudes())

        def law(values: Any) -> CorePosterior:
            now = u.written(state, values)
            return core_posterior(
                self.layout,
                self.factors(now),
                self.data,
                self.target(now),
                self.row_precision(now, power),
                self.prior.core_precision,
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

    def move_additive(self, state: State, key: Any, power: Any) -> State:
        """Draw hyper-parameters and rows of the additive terms given all other parts."""
        additive = self.prior.additive
        assert additive is not None
        left, precision = self.data.y - self.product(state), self.row_precision(state, power)
        slice_key, rows_key = random.split(key)
        log_likelihood = lambda u: additive.log_evidence(u, left, precision)
        u = self._sliced(slice_key, state["additive"]["u"], log_likelihood)
        rows = additive.draw(rows_key, u, left, precision)
        return {**state, "additive": {"u": u, "rows": rows}}

    def move_precision(self, state: State, key: Any, power: Any) -> State:
        """Draw the precision of the noise given all other parts."""
        weights = self.row_precision({**state, "precision": 1.0}, power)
        squares = jnp.sum(weights * self.errors(state) ** 2)
        law = noise_posterior(self.prior.noise, power * jnp.sum(self.data.weight), squares)
        return {**state, "precision": _draw_gamma(key, law)}

    def move_weights(self, state: State, key: Any, power: Any) -> State:
        """Draw the weights of rows given all other parts."""
        degrees, seen = self.prior.noise.degrees, power * self.data.weight
        squares = self.precision(state) * self.errors(state) ** 2
        law = Gamma(0.5 * (degrees + seen), 0.5 * (degrees + seen * squares))
        return {**state, "weights": _draw_gamma(key, law)}

    def _amplitudes(self, without: int | None = None) -> tuple[tuple[str, int], ...]:
        return tuple(
            (mode_name(k), place)
            for k, free in enumerate(self.prior.parameters)
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
        measure = measure_of(Measure("posterior", owner=self) if on is None else on)
        num = self.layout.num_modes
        modes = [(first + i) % num for i in range(num)]
        moves: dict[str, Callable] = {
            mode_name(k): functools.partial(self.move_mode, k) for k in modes
        }
        if self.layout.has_core:
            moves["core"] = self.move_core
        if self.prior.additive:
            moves["additive"] = self.move_additive
        if not self.prior.noise.is_known:
            moves["precision"] = self.move_precision
        if self.prior.noise.degrees is not None:
            moves["weights"] = self.move_weights
        return cycle(*(_Move(name, measure, move) for name, move in moves.items()))

    # ------------------------------------------------------------ starts

    def draw_prior(self, key: Any) -> State:
        """Return a draw of all parts from the prior."""
        *keys, core_key, additive_key, precision_key, weights_key = random.split(
            key, self.layout.num_modes + 4
        )
        state: State = {}
        for k, mode_key in enumerate(keys):
            u_key, states_key = random.split(mode_key)
            u = random.normal(u_key, (self.prior.parameters[k].num_free,))
            states = _prior_path(self.chain(k, u).states, states_key)
            state[mode_name(k)] = {"u": u, "states": states}
        if self.layout.has_core:
            core = random.normal(core_key, self.layout.ranks)
            state["core"] = core / jnp.sqrt(self.prior.core_precision)
        zeros = jnp.zeros(self.data.y.shape)
        if self.prior.additive:
            u_key, rows_key = random.split(additive_key)
            u = random.normal(u_key, (self.prior.additive.parameters.num_free,))
            rows = self.prior.additive.draw(rows_key, u, zeros, zeros)
            state["additive"] = {"u": u, "rows": rows}
        if not self.prior.noise.is_known:
            state["precision"] = _draw_gamma(precision_key, self.prior.noise.precision)
        if self.prior.noise.degrees is not None:
            half = 0.5 * self.prior.noise.degrees + zeros
            state["weights"] = _draw_gamma(weights_key, Gamma(half, half))
        return state


def _prior_path(chain: GaussianChain, key: Any) -> jax.Array:
    """Return states (size, dim) of a chain with mean zero."""
    covariances = jnp.concatenate([chain.initial_covariance[None], chain.covariance])
    transitions = jnp.concatenate([jnp.zeros_like(covariances[:1]), chain.transition])
    z = random.normal(key, covariances.shape[:2])

    def step(before: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        transition, covariance, noise = inputs
        state = transition @ before + semidefinite_cholesky(covariance) @ noise
        return state, state

    return lax.scan(step, jnp.zeros_like(z[0]), (transitions, covariances, z))[1]


def product_of(layout: Layout, core: Any, values: Sequence[Any], places: Any) -> jax.Array:
    """Return the products (rows,) of known functions (size, R_k) of all modes and a core."""
    moments = None if core is None else CoreMoments(core, None)
    unused: Any = None

    def rows(places: Any) -> jax.Array:
        at_rows = [Moments(f[place], unused) for f, place in zip(values, places, strict=True)]
        return expected_value(layout, moments, at_rows)

    return map_over_chunks(rows, tuple(places), layout.widest)


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


def _draw_gamma(key: Any, law: Gamma) -> jax.Array:
    from numpyro.distributions import Gamma as GammaDistribution

    return random.sample(key, GammaDistribution(*law))
