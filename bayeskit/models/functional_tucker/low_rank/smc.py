r"""Tempered sequential Monte Carlo over a multilinear model, with one mode integrated out.

Particles hold all parts but the functions of one mode, whose integral under the tempered
likelihood is a Kalman filter's (Rao-Blackwellised):

.. math:: \gamma_\lambda(\theta) = p(\theta) \int p(u^m \mid \theta) \prod_n
    N(y_n \mid \theta, u^m)^\lambda \, du^m .

A sweep of Gibbs draws begins with the hyper-parameters and functions of this mode given all
else, and so keeps this law whatever it had before. Sources: Del Moral, Doucet & Jasra (2006),
*Sequential Monte Carlo samplers*; Doucet, de Freitas, Murphy & Russell (2000),
*Rao-Blackwellised particle filtering*; Dau & Chopin (2022), *Waste-free sequential Monte
Carlo*.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import StalledError
from bayeskit.inference.blocks import Chain, move, resample, schedule, spawn, until, weigh
from bayeskit.inference.law import Measure, Tagged
from bayeskit.inference.measure import Path, TemperingStage
from bayeskit.inference.population import effective_sample_size, total_log_evidence
from bayeskit.inference.transitions import Transition
from bayeskit.models.functional_tucker.low_rank.chains import ModeSites, mode_evidence
from bayeskit.models.functional_tucker.low_rank.data import TensorData
from bayeskit.models.functional_tucker.low_rank.draws import Draws, draws_of
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.moves import TensorMoves
from bayeskit.models.functional_tucker.low_rank.posterior import (
    Prior,
    State,
    TensorPosterior,
    mode_name,
)

__all__ = ["CollapsedPath", "run_smc", "tensor_smc"]

# The next temperature is found to a thousandth of its distance.
_BISECTIONS = 14
_LEAST_STEP = 1e-8


class CollapsedPath(Path):
    """From the prior to the posterior of all parts but the functions of one mode.

    Parameters
    ----------
    posterior : TensorPosterior
    mode : int
    """

    coordinate = "inverse_temperature"

    def __init__(self, posterior: TensorPosterior, mode: int):
        self.posterior, self.mode = posterior, mode
        self.measure = Measure("posterior_λ", owner=self)
        before, after = self.measure.at("t-1"), self.measure.at("t")
        self.increment = Tagged(self._increment, before, after, "collapsed likelihood^Δλ")

    @property
    def initial(self) -> Tagged:
        """Sampler of one particle: a prior draw."""
        start = self.measure.at("0")
        return Tagged(self.posterior.draw_prior, start, start, "the prior")

    def sites(self, state: State) -> tuple[jax.Array, ModeSites]:
        """Return the likelihood as a function of the mode: a constant and its sites."""
        return self.posterior.row_constant(state), self.posterior.sites(state, self.mode)

    def log_mass(self, state: State, likelihood: Any, power: Any) -> jax.Array:
        """Return the log of the integral of the likelihood to a power over the mode."""
        constant, sites = likelihood
        raised = jax.tree.map(lambda part: power * part, sites)
        kernels = self.posterior.kernels(self.mode, state[mode_name(self.mode)]["u"])
        grid, method = self.posterior.data.grids[self.mode], self.posterior.method
        return power * constant + mode_evidence(kernels, grid, raised, method)

    def _increment(self, stage: TemperingStage, state: State) -> jax.Array:
        likelihood = self.sites(state)
        ends = jnp.stack([stage.previous, stage.current])
        before, after = jax.vmap(lambda power: self.log_mass(state, likelihood, power))(ends)
        return after - before

    def choose(self, population: Any, fraction: float) -> jax.Array:
        """Return the power at which the effective sample size is a fraction."""
        current, particles = population.stage.current, population.particles
        wanted = fraction * population.num_particles
        likelihoods = jax.vmap(self.sites)(particles)
        log_mass = jax.vmap(self.log_mass, (0, 0, None))
        before = log_mass(particles, likelihoods, current)

        def is_enough(step: Any) -> jax.Array:
            change = log_mass(particles, likelihoods, current + step) - before
            change = jnp.where(jnp.isnan(change), -jnp.inf, change)
            weights = jax.nn.log_softmax(population.log_weights + change)
            return effective_sample_size(weights) >= wanted

        # By orders of magnitude: the first steps are tiny.
        def halve(_: Any, ends: Any) -> Any:
            low, high = ends
            middle = 0.5 * (low + high)
            far = is_enough(jnp.exp(middle))
            return jnp.where(far, middle, low), jnp.where(far, high, middle)

        left = 1.0 - current
        ends = jnp.log(jnp.asarray(_LEAST_STEP)), jnp.log(jnp.maximum(left, _LEAST_STEP))
        step = jnp.exp(lax.fori_loop(0, _BISECTIONS, halve, ends)[0])
        # What is left is taken at once where a last step would be hardly shorter.
        return jnp.where(step > 0.99 * left, 1.0, current + step)


def tensor_smc(
    path: CollapsedPath,
    sweep: Transition,
    num_chains: int,
    chain_length: int,
    ess: float,
    max_stages: int,
) -> Chain:
    """Return waste-free SMC: all states of all sweeps are kept.

    Parameters
    ----------
    path : CollapsedPath
    sweep : Transition
        Keeps the path at its stage.
    num_chains, chain_length : int
        Their product is the number of particles.
    ess, max_stages
        As for :func:`run_smc`.
    """
    step = (
        schedule(path, ess)
        >> weigh(path.increment)
        >> resample("systematic", num=num_chains)
        >> move(sweep, steps=chain_length - 1, keep="all", repeats=1)
    )
    num = num_chains * chain_length
    start = spawn(path.initial, num, stage=path.start(), track_lineage=True)
    return Chain(start, until(path.is_complete, step, path, max_rounds=max_stages))


def run_smc(
    layout: Layout,
    prior: Prior,
    data: TensorData,
    key: Any,
    *,
    num_particles: int,
    num_chains: int | None = None,
    ess: float = 0.5,
    num_slices: int = 1,
    max_stages: int = 100,
    method: str = "auto",
    mode: int | None = None,
) -> tuple[Draws, float, float]:
    """Return draws of all parts, the log evidence, and its standard error.

    Parameters
    ----------
    layout : Layout
        With at least one mode.
    prior : Prior
    data : TensorData
    key : JAX key
    num_particles : int
        Rounded up to a multiple of ``num_chains``.
    num_chains : int, optional
        Chains of sweeps at each temperature; particles are their states. Default: an eighth.
    ess : float in (0, 1)
        Effective sample size, as a fraction, at which the next temperature is set.
    num_slices : int
        Moves of the hyper-parameters of a part each time that it is drawn.
    max_stages : int
    method : {"auto", "sequential", "parallel"}
        How filters run over coordinates.
    mode : int, optional
        Whose functions are integrated out. Default: the mode with most coordinates and ranks.

    Returns
    -------
    draws : Draws
    log_evidence, log_evidence_se : float

    Raises
    ------
    ValueError
        Without modes.
    StalledError
        If the temperatures do not arrive within ``max_stages``.

    Notes
    -----
    Cost: stages times particles times sweeps; stages grow with the information in the data.
    """
    if mode is None:
        sizes = [
            rank * len(grid.x) for rank, grid in zip(layout.ranks, data.grids, strict=True)
        ]
        mode = int(np.argmax(sizes))
    num_chains = max(num_particles // 8, 2) if num_chains is None else num_chains
    draws, log_evidence, variance, place, num_stages = _smc(
        prior,
        data,
        key,
        layout=layout,
        mode=mode,
        num_chains=num_chains,
        chain_length=max(-(-num_particles // num_chains), 2),
        ess=ess,
        num_slices=num_slices,
        max_stages=max_stages,
        method=method,
    )
    if not float(place) >= 1.0:
        raise StalledError(
            f"the inverse temperature stands at {float(place):.3g} after {int(num_stages)} "
            f"stages: raise max_stages={max_stages}, or take more particles than "
            f"{num_particles}"
        )
    return draws, float(log_evidence), float(np.sqrt(variance))


@quick_jit(
    optimised="lightly",
    static_argnames=(
        "layout",
        "mode",
        "num_chains",
        "chain_length",
        "ess",
        "num_slices",
        "max_stages",
        "method",
    ),
)
def _smc(
    prior: Prior,
    data: TensorData,
    key: Any,
    *,
    layout: Layout,
    mode: int,
    num_chains: int,
    chain_length: int,
    ess: float,
    num_slices: int,
    max_stages: int,
    method: str,
) -> tuple:
    posterior = TensorPosterior(layout, prior, data, method)
    path = CollapsedPath(posterior, mode)
    sweep = TensorMoves(posterior, num_slices).sweep(path, first=mode)
    found, _ = tensor_smc(path, sweep, num_chains, chain_length, ess, max_stages).run(key)
    parts = draws_of(posterior, found.particles)
    variance = found.lineage.total_variance
    return (
        Draws(parts, found.log_weights),
        total_log_evidence(found),
        variance,
        found.stage.current,
        found.stage.number,
    )
