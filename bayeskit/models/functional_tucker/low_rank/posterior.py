"""The parts of a multilinear model given data, and what they say of one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel import GaussianChain
from bayeskit.accel.time.factors import semidefinite_cholesky
from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters, FunctionChain
from bayeskit.models.functional_tucker.low_rank.additive_part import AdditivePart
from bayeskit.models.functional_tucker.low_rank.chains import (
    ModeSites,
    mode_chain,
)
from bayeskit.models.functional_tucker.low_rank.conditionals import (
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
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior

__all__ = [
    "Prior",
    "State",
    "TensorPosterior",
    "draw_gamma",
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
    """

    layout: Layout
    prior: Prior
    data: TensorData
    method: str = "auto"

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
            state["precision"] = draw_gamma(precision_key, self.prior.noise.precision)
        if self.prior.noise.degrees is not None:
            half = 0.5 * self.prior.noise.degrees + zeros
            state["weights"] = draw_gamma(weights_key, Gamma(half, half))
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


def draw_gamma(key: Any, law: Gamma) -> jax.Array:
    """Return a draw from each of independent Gamma laws."""
    from numpyro.distributions import Gamma as GammaDistribution

    return random.sample(key, GammaDistribution(*law))
