"""Parallel chains from SMC particles, that also propose from a mixture fitted to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.adaptation import covariance_factor
from bayeskit.inference.diagnostics import Diagnostics, diagnose
from bayeskit.inference.kernels import Kernel
from bayeskit.inference.kernels.base import Tuning
from bayeskit.inference.measure import Target
from bayeskit.models.distribution_transformer.refine.kernel import moves_for
from bayeskit.models.distribution_transformer.refine.posterior import RefinedPosterior
from bayeskit.models.distribution_transformer.refine.problem import Refinement

__all__ = ["chains"]

_NUM_CHAINS = 8
# Of the step size, each after a chunk of steps.
_NUM_ADAPTATIONS = 5
# A chunk is a tenth of a chain; kept states are at most so many steps apart.
_NUM_CHUNKS, _MOST_REPEATS = 10, 16
# Golden-ratio sequence: the lengths of successive trajectories are spread evenly.
_GOLDEN = 0.6180339887498949


@quick_jit(static_argnames=("kernel", "num"))
def _chunk(
    key: Any,
    bridge: Target,
    positions: jax.Array,
    tuning: Tuning,
    repeats: Any,
    *,
    kernel: Kernel,
    num: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return states (num, chain, d), those at the end, and the mean acceptance."""
    density = bridge.density()

    def kept(round_key, carry, number):
        def once(step_key, inner, again):
            now, total = inner
            phase = jnp.mod(_GOLDEN * (number * repeats + again + 1.0), 1.0)
            here = tuning._replace(phase=phase.astype(positions.dtype))
            now, info = random.lanes(
                lambda k, state: kernel.step(k, state, density, here), step_key, now
            )
            return now, total + jnp.mean(info.acceptance)

        carry = random.repeat(once, round_key, carry, repeats)
        return carry, carry[0].position

    start = jax.vmap(lambda x: kernel.init(x, density))(positions)
    zero = jnp.zeros((), positions.dtype)
    (last, total), states = random.scan(kept, key, (start, zero), jnp.arange(num))
    return states, last.position, total / (num * repeats)


def chains(
    refinement: Refinement, num_draws: int, key: Any, start: RefinedPosterior
) -> RefinedPosterior:
    """Return the posterior by Markov chains, with the evidence of the SMC run.

    States are kept further apart until R-hat and effective sample sizes are good, up to 16
    steps.

    Parameters
    ----------
    start : RefinedPosterior
        Of SMC: chains start at its particles, and are tuned by their covariance.
    """
    kernel = moves_for(refinement.has_gradient)
    bridge = refinement.bridge()
    num = max(-(-num_draws // (_NUM_CHAINS * _NUM_CHUNKS)), 5)
    generator = random.host_generator(key, 0)
    chosen = generator.choice(len(start.positions), _NUM_CHAINS, replace=False)
    positions: Any = start.positions[chosen]
    tuning = _tuned_to(kernel, start.positions)
    keys = iter(random.split(key, _NUM_ADAPTATIONS + 5 * _NUM_CHUNKS))
    for _ in range(_NUM_ADAPTATIONS):
        _, positions, rate = _chunk(
            next(keys), bridge, positions, tuning, 1, kernel=kernel, num=num
        )
        surprise = float(rate) - kernel.target_acceptance
        tuning = tuning._replace(step_size=tuning.step_size * np.exp(surprise))
    repeats = 1
    while True:
        pieces, rates = [], []
        for _ in range(_NUM_CHUNKS):
            states, positions, rate = _chunk(
                next(keys), bridge, positions, tuning, repeats, kernel=kernel, num=num
            )
            pieces.append(np.asarray(states))
            rates.append(float(rate))
        states = np.moveaxis(np.concatenate(pieces), 1, 0)
        found = _diagnosed(states, refinement, float(np.mean(rates)))
        if found.converged or repeats >= _MOST_REPEATS:
            break
        repeats *= 2
    flat = states.reshape(-1, states.shape[-1]).astype(np.float64)
    return replace(
        start,
        method="mcmc",
        positions=flat,
        log_weights=np.full(len(flat), -np.log(len(flat))),
        ess=found.ess_bulk_min,
        r_hat=found.r_hat_max,
        reasons=found.reasons,
        num_chains=_NUM_CHAINS,
        law="Markov chains that leave the posterior invariant; the evidence is that of SMC",
        acceptance=found.acceptance,
    )


def _tuned_to(kernel: Kernel, positions: np.ndarray) -> Tuning:
    dim = positions.shape[1]
    tuning = kernel.default_tuning(dim)
    covariance = np.atleast_2d(np.cov(positions.T))
    factor = np.asarray(covariance_factor(jnp.asarray(covariance), jnp.asarray(400.0)))
    return tuning._replace(mean=positions.mean(axis=0), factor=factor)


def _diagnosed(states: np.ndarray, refinement: Refinement, acceptance: float) -> Diagnostics:
    x = np.asarray(refinement.support.constrain(states))
    return diagnose(
        {"x": x}, acceptance=acceptance, min_ess=min(400.0, 0.1 * states[..., 0].size)
    )
