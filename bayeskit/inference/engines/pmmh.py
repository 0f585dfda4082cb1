"""Particle marginal Metropolis-Hastings as an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.algorithms.particle_marginal import pmmh
from bayeskit.inference.blocks import resample
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import diagnose
from bayeskit.inference.engines.parameter_chains import (
    Adaptation,
    check_counts,
    check_free,
    filter_estimates,
    identity_of_chains,
    named_draws,
    prior_draws,
    run_chains,
    starting_points,
)
from bayeskit.inference.long_run import LongRun, LongRunSettings
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import StateSpaceTarget
from bayeskit.inference.transitions import MarginalState, Proposal, Transition

__all__ = ["PMMH"]

# Steps of one call of the compiled program.
_CHUNK = 50
# Prior draws that each chain starts from the best of.
_NUM_STARTS = 16
# Above this standard deviation of the log estimate a chain sticks (Sherlock, Thiery, Roberts &
# Rosenthal 2015 find 1 to 1.8 efficient).
_MAX_NOISE = 2.5


@dataclass(frozen=True)
class PMMH(LongRunSettings):
    r"""Particle marginal Metropolis-Hastings: chains of parameters, each step a filter.

    Parameters move by a random walk whose covariance and scale are learned from all chains
    during the warm-up and then frozen. The law of the draws is exact for any number of
    particles; with too few the chains stick.

    Parameters
    ----------
    num_particles : int
        So many that the log estimate has a standard deviation of about 1.5; it is measured
        and doubted above 2.5.
    num_draws, num_warmup, num_chains : int
        Draws and warm-up steps are for each chain.
    paths : bool
        Keep the path of states of each draw; else the last state.
    target_acceptance : float in (0, 1)
    scheme, ess_below
        Of the resampling in the filters.
    progress : "auto" or bool
    checkpoint, checkpoint_every, max_seconds
        Of runs that take long; see :class:`~bayeskit.inference.LongRunSettings`.

    Raises
    ------
    ValueError
        For numbers out of range.

    Notes
    -----
    O(num_steps num_particles) a step. It estimates no evidence; SMC2 does.

    References
    ----------
    Andrieu, Doucet & Holenstein (2010), *Particle Markov chain Monte Carlo methods*.

    Examples
    --------
    >>> import numpy as np, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> from bayeskit import inference as bi
    >>> walk = bk.StateSpaceModel(
    ...     params={"scale": dist.HalfNormal(1.0)},
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t: dist.Normal(x, p["scale"]),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ... )
    >>> engine = bk.PMMH(num_particles=100)
    >>> est = bk.BayesianModel(walk, inference=engine)  # and then est.fit(y)

    The law of each of its steps, of which the filter's estimate is a part:

    >>> target = bi.StateSpaceTarget(walk, bi.Rows(np.array([0.3, 0.9, 1.2])))
    >>> print(engine.algorithm(target, bi.random_walk(0.5)).explain().splitlines()[-1])
    => L3r reversible for prior·Ẑ: π(dx) K(x, dx') is symmetric in x and x'
    """

    num_particles: int = 200
    num_draws: int = 2000
    num_warmup: int = 500
    num_chains: int = 4
    paths: bool = True
    target_acceptance: float = 0.25
    scheme: str = "systematic"
    ess_below: float | None = 0.5
    progress: str | bool = "auto"

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, num_particles=1, num_draws=1, num_warmup=1, num_chains=1)
        if not 0 < self.target_acceptance < 1:
            raise ValueError(
                f"target_acceptance must lie in (0, 1), got {self.target_acceptance!r}"
            )
        resample(self.scheme, self.ess_below)

    def algorithm(self, target: StateSpaceTarget, proposal: Proposal) -> Transition:
        """Return the transition that each chain makes."""
        return pmmh(
            target.prior,
            target.feynman_kac,
            self.num_particles,
            proposal,
            scheme=self.scheme,
            ess_below=self.ess_below,
            paths=self.paths,
        )

    def run(
        self, target: StateSpaceTarget, data: Rows | None = None, key: Any = 0
    ) -> Posterior:
        """Return draws of parameters and states.

        Parameters
        ----------
        target : StateSpaceTarget with free parameters
        data : Rows, optional
            Default: those of the target.
        key : int or JAX key

        Raises
        ------
        ValueError
            If no parameter is free.
        ParticleCollapseError
            If the filter loses all particles at every draw from the prior.
        """
        target = target if data is None else target.with_rows(data)
        check_free(target.model, "PMMH")
        line = ProgressLine("PMMH", self.progress)
        key = accel.as_key(key)
        with CompileClock() as clock:
            start_key, estimate_key, chain_key, noise_key = random.split(key, 4)
            num = _NUM_STARTS * self.num_chains
            theta = np.array(prior_draws(target.model, num, start_key))
            log_likelihood = self._estimates(target, theta, estimate_key)
            starts = starting_points(target, theta, log_likelihood, self.num_chains)
            adaptation = Adaptation.start(theta, -1.0)
            with LongRun(self, lambda: identity_of_chains(self, target, key)) as long_run:
                states, acceptance = self._chains(
                    target, starts, adaptation, chain_key, line, long_run
                )
            mean = states.parameters.mean(axis=(0, 1))
            noise = self._estimates(target, np.tile(mean, (num, 1)), noise_key)
            posterior = self._finish(target, states, acceptance, float(np.std(noise)))
        posterior.timing.update(clock.timing())
        return posterior

    def _estimates(self, target: StateSpaceTarget, theta: np.ndarray, key: Any) -> np.ndarray:
        settings = (self.num_particles, self.scheme, self.ess_below)
        return np.asarray(filter_estimates(target, theta, key, *settings))

    def _chains(
        self,
        target: StateSpaceTarget,
        starts: np.ndarray,
        adaptation: Adaptation,
        key: Any,
        line: ProgressLine,
        long_run: LongRun,
    ) -> tuple[MarginalState, float]:
        """Return kept states (chain, draw, ...) and their acceptance rate."""
        states = _blank_states(self, target, starts)
        total = self.num_warmup + self.num_draws

        def advance(carry, first, size):
            states, adaptation, *seen = _advance(self, target, *carry, key, first, size)
            return (states, adaptation), tuple(seen)

        def seen_like():
            *_, seen, acceptance = _advance.eval_shape(
                self, target, states, adaptation, key, 0, 0
            )
            return seen, acceptance

        def show(done, seen):
            line.show(f"step {done} of {total}, acceptance {float(seen[1].mean()):.2f}")

        carry = (states, adaptation)
        kept, acceptance = run_chains(self, advance, carry, seen_like, _CHUNK, long_run, show)
        line.close(f"{total} steps")
        return jax.tree.map(lambda x: np.swapaxes(x, 0, 1), kept), float(acceptance.mean())

    def _finish(
        self, target: StateSpaceTarget, states: MarginalState, acceptance: float, noise: float
    ) -> Posterior:
        suffix = "" if self.paths else "_last"
        positions = np.asarray(states.parameters)
        draws = named_draws(target.model, positions, states.sample, suffix)
        reasons: tuple[str, ...] = ()
        if not noise < _MAX_NOISE:
            reasons = (
                f"the log likelihood is estimated with a standard deviation of {noise:.1f} at "
                f"the posterior mean (> {_MAX_NOISE}), so chains stick: take more particles",
            )
        free = {name: draws[name] for name in target.model.free}
        log_estimate = np.asarray(states.log_estimate)
        example = Proposal(lambda key, x: x, name="random walk")
        return Posterior(
            draws=draws,
            positions=positions,
            sample_stats={"log_likelihood_estimate": log_estimate},
            diagnostics=diagnose(free, acceptance=acceptance, reasons=reasons),
            history={"log_estimate_sd": np.asarray([noise])},
            engine=repr(replace(self, progress="auto")),
            law=self.algorithm(target, example).explain(),
            interrupted=positions.shape[1] < self.num_draws,
        )


def _blank_states(engine: PMMH, target: StateSpaceTarget, starts: np.ndarray) -> MarginalState:
    """Return states at the starting points, with a likelihood of zero.

    The first proposal that has any likelihood is then accepted, and no program is compiled for
    the starts alone.
    """
    step = engine.algorithm(target, Proposal(lambda key, x: x))
    shapes = jax.eval_shape(lambda k, x: step.init(k, x), jax.random.key(0), starts[0])
    blank = lambda s: np.zeros((len(starts), *s.shape), s.dtype)
    return MarginalState(
        starts,
        jnp.full(len(starts), -jnp.inf, shapes.log_estimate.dtype),
        jax.tree.map(blank, shapes.sample),
    )


@quick_jit(static_argnames="engine")
def _advance(
    engine: PMMH,
    target: StateSpaceTarget,
    states: MarginalState,
    adaptation: Adaptation,
    key: Any,
    first: Any,
    size: Any,
) -> tuple[MarginalState, Adaptation, MarginalState, jax.Array]:
    """Make ``size`` steps of all chains; the proposal is learned in the warm-up only."""
    num_chains = states.log_estimate.shape[0]

    def body(place, carry):
        states, adaptation, kept, acceptances = carry
        number = first + place
        factor = jnp.exp(adaptation.log_scale) * adaptation.factor
        walk = lambda k, x: x + factor @ random.normal(k, x.shape, x.dtype)
        step = engine.algorithm(target, Proposal(walk, name="random walk")).step
        states, info = random.lanes(step, random.fold_in(key, number), states)
        learned = adaptation.updated(
            number, states.parameters, info.acceptance, engine.target_acceptance
        )
        is_warm = number >= engine.num_warmup
        adaptation = jax.tree.map(
            lambda old, new: jnp.where(is_warm, old, new), adaptation, learned
        )
        kept = jax.tree.map(lambda a, n: a.at[place].set(n), kept, states)
        return states, adaptation, kept, acceptances.at[place].set(info.acceptance)

    blank = jax.tree.map(lambda x: jnp.zeros((_CHUNK, *x.shape), x.dtype), states)
    zeros = jnp.zeros((_CHUNK, num_chains), adaptation.mean.dtype)
    return lax.fori_loop(0, size, body, (states, adaptation, blank, zeros))
