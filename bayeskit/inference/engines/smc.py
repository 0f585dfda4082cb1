"""Adaptive tempered SMC as an engine."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import NumericalWarning, ParticleCollapseError, StalledError
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc
from bayeskit.inference.blocks import (
    Block,
    Chain,
    LoopState,
    Plan,
    Until,
    choose,
    following,
)
from bayeskit.inference.blocks.resampling import check_scheme
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import diagnose
from bayeskit.inference.engines.base import constrained_draws, prepared_target
from bayeskit.inference.kernels import HMC, Kernel, RandomWalk
from bayeskit.inference.measure import Target
from bayeskit.inference.population import total_log_evidence
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine

__all__ = ["SMC"]

# A schedule that gains less than this in each of so many stages will never arrive.
_STALL_INCREMENT = 1e-8
_STALL_STAGES = 20
# Kept states of a chain that still resemble each other this much do not count as mixed.
_MAX_CORRELATION = 0.9


@dataclass(frozen=True)
class SMC:
    r"""Tempered sequential Monte Carlo, from the prior to the posterior.

    A population of particles follows :math:`p(x) L(x)^\lambda` from :math:`\lambda = 0` to 1.
    Temperatures are chosen by the effective sample size, the moves by the spread of the
    population, and the number of kernel steps by how fast the moves forget where they
    started. The log evidence comes with a standard error from the single run.

    Parameters
    ----------
    num_particles : int
    kernel : "auto" or Kernel
        ``"auto"``: Hamiltonian Monte Carlo, or a random walk where there is no gradient.
    ess : float in (0, 1)
        Effective sample size, as a fraction, at which the next temperature is set.
    waste_free : bool
        Keep all states of each chain of moves, not only the last.
    num_chains : int, optional
        Chains of a waste-free move; the others of ``num_particles`` are their later states.
        Default: a hundredth of the particles, but at least 48.
    scheme : str
        Resampling scheme.
    max_stages : int
    unbiased : bool
        Run twice: what the first run chose, temperatures, tunings and repeats, is frozen for
        the second, whose evidence has the true evidence as its mean. Twice the time.
    progress : "auto" or bool

    Raises
    ------
    ValueError
        If the number of chains does not leave at least two states for each.

    Notes
    -----
    Cost: stages times particles times gradients of a trajectory (about 3). The error of the
    log evidence falls as one over the square root of the number of particles.

    References
    ----------
    Del Moral, Doucet & Jasra (2006); Dau & Chopin (2022).
    """

    num_particles: int = 10_000
    kernel: str | Kernel = "auto"
    ess: float = 0.5
    waste_free: bool = True
    num_chains: int | None = None
    scheme: str = "systematic"
    max_stages: int = 200
    unbiased: bool = False
    progress: str | bool = "auto"

    def __post_init__(self):
        if not isinstance(self.num_particles, int | np.integer) or self.num_particles < 1:
            raise ValueError(
                f"num_particles must be a whole number >= 1, got {self.num_particles!r}"
            )
        if self.kernel != "auto" and not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel must be 'auto' or a Kernel, got {self.kernel!r}")
        if not 0 < self.ess < 1:
            raise ValueError(f"ess must be a fraction in (0, 1), got {self.ess!r}")
        check_scheme(self.scheme)
        if self.waste_free and accel.keeps_number(self.scheme):
            raise ValueError(
                f"{self.scheme!r} makes as many offspring as there are particles, and the "
                "waste-free sampler resamples a few of them: choose another scheme or "
                "waste_free=False"
            )
        if self.max_stages < 1:
            raise ValueError(f"max_stages must be at least 1, got {self.max_stages!r}")
        if self.waste_free and self.num_chains is not None and self.num_chains < 1:
            raise ValueError(f"num_chains must be at least 1, got {self.num_chains!r}")
        if self.waste_free and self._layout[1] < 2:
            raise ValueError(
                f"num_particles={self.num_particles} leaves {self._layout[1]} state for each "
                f"of {self._layout[0]} chains: take more particles, fewer chains, or "
                "waste_free=False"
            )

    @property
    def _layout(self) -> tuple[int, int]:
        """Number and length of the chains of a waste-free move."""
        chains = self.num_chains
        if chains is None:
            # Four long chains are made of them for the plots, hence a multiple of four.
            chains = max(48, self.num_particles // 400 * 4)
            chains = min(chains, max(1, self.num_particles // 2))
        return chains, math.ceil(self.num_particles / chains)

    def _kernel_for(self, target: Target) -> Kernel:
        if isinstance(self.kernel, Kernel):
            return self.kernel
        return HMC() if target.has_gradient else RandomWalk()

    def algorithm(self, target: Target) -> Chain:
        """Return the blocks that this engine runs, for a target on vectors."""
        kernel = self._kernel_for(target)
        shared: dict[str, Any] = {
            "ess": self.ess,
            "scheme": self.scheme,
            "max_stages": self.max_stages,
        }
        if self.waste_free:
            return waste_free_smc(target, kernel, *self._layout, **shared)
        return tempered_smc(target, kernel, self.num_particles, **shared)

    def run(self, target: Target, data: tuple | None = None, key: Any = 0) -> Posterior:
        """Return the posterior of a target, for data of the given arrays.

        Parameters
        ----------
        target : Target with log_prior, log_likelihood and sample_prior
        data : tuple of arrays, optional
            Default: the data that the target holds.
        key : int or JAX key

        Raises
        ------
        ImproperPriorError
            If there is no prior to start from.
        ParticleCollapseError
            If no particle has a finite density.
        StalledError
            If the temperatures stop rising, or do not arrive within ``max_stages``.
        """
        target = prepared_target(target, data)
        blocks = self.algorithm(target)
        law = (following(blocks) if self.unbiased else blocks).explain()
        line = ProgressLine("SMC", self.progress)
        with CompileClock() as clock:
            key = accel.as_key(key)
            if self.unbiased:
                pilot_key, key = jax.random.split(key)
                state = _start(self, target, pilot_key, _blank_plan(self, target))
                state = self._run_stages(target, state, line, "pilot run, ", chooses=True)
                state = _start(self, target, key, state.population.stage.plan)
            else:
                state = _start(self, target, key)
            state = self._run_stages(target, state, line)
            posterior = self._finish(target, state, law)
        line.close(
            f"{int(state.round)} stages, log evidence {posterior.log_evidence:.2f} "
            f"± {posterior.log_evidence_se:.2f}"
        )
        posterior.timing.update(clock.timing())
        return posterior

    def _run_stages(
        self,
        target: Target,
        state: LoopState,
        line: ProgressLine,
        prefix: str = "",
        chooses: bool = False,
    ) -> LoopState:
        """Return the state at temperature 1; ``chooses`` writes the plan on the way."""
        temperatures = [0.0]
        while temperatures[-1] < 1.0:
            if chooses:
                state = _choose(self, target, state)
            state = _advance(self, target, state)
            stage, temperature, log_evidence, ess, acceptance = map(float, _summary(state))
            if not np.isfinite(log_evidence):
                raise ParticleCollapseError(
                    f"all {self.num_particles} particles have zero likelihood at stage "
                    f"{int(stage)}: every prior draw has a log-likelihood of -inf or NaN. "
                    "Check the likelihood at draws from the prior, or narrow the prior"
                )
            temperatures.append(temperature)
            self._check_progress(temperatures)
            line.show(
                f"{prefix}stage {int(stage)}, inverse temperature {temperature:.4g}, "
                f"ESS {ess:.0f}, acceptance {acceptance:.2f}, "
                f"log evidence {log_evidence:.2f}"
            )
        return state

    def _check_progress(self, temperatures: list[float]) -> None:
        recent = np.diff(temperatures[-_STALL_STAGES - 1 :])
        if len(recent) == _STALL_STAGES and np.all(recent < _STALL_INCREMENT):
            raise StalledError(
                f"the inverse temperature rose by less than {_STALL_INCREMENT:g} in each of "
                f"{_STALL_STAGES} stages and stands at {temperatures[-1]:.3g}: a few particles "
                "hold all the likelihood and the moves do not spread them. Check that the "
                "log-likelihood is smooth, or take more particles"
            )
        if len(temperatures) > self.max_stages and temperatures[-1] < 1.0:
            raise StalledError(
                f"the inverse temperature is {temperatures[-1]:.3g} after max_stages="
                f"{self.max_stages} stages: raise max_stages or lower ess={self.ess:g}"
            )

    def _finish(self, target: Target, state: LoopState, law: str) -> Posterior:
        population = state.population
        lineage: Any = population.lineage
        num_stages = int(state.round)
        history = {
            name: np.asarray(values)[:num_stages]
            for name, values in state.infos.items()
            if name != "tuning"
        }
        positions = _as_chains(np.asarray(population.particles.position), self._num_chains())
        components = _as_chains(np.asarray(population.particles.components), self._num_chains())
        self._warn_numbers(history)
        reasons: tuple[str, ...] = ()
        correlation = float(history["correlation"][-1])
        if correlation > _MAX_CORRELATION:
            reasons = (
                f"moves do not mix: successive states correlate by {correlation:.2f}, so the "
                "log evidence and its standard error may be off. Reparametrise, or give "
                "another kernel",
            )
        draws = constrained_draws(target, jnp.asarray(positions))
        return Posterior(
            draws=draws,
            positions=positions,
            sample_stats={
                "lp": components.sum(axis=-1),
                "log_prior": components[..., 0],
                "log_likelihood_sum": components[..., 1],
            },
            diagnostics=diagnose(
                draws,
                num_not_finite=int(history["num_not_finite"].sum()),
                acceptance=float(history["acceptance"][-1]),
                reasons=reasons,
                min_ess=min(400.0, 0.05 * self.num_particles),
            ),
            log_evidence=float(total_log_evidence(population)),
            log_evidence_se=float(np.sqrt(lineage.total_variance)),
            history=history,
            engine=repr(self),
            law=law,
        )

    def _num_chains(self) -> int:
        if self.waste_free:
            return self._layout[0]
        return 4 if self.num_particles % 4 == 0 and self.num_particles >= 16 else 1

    def _warn_numbers(self, history: dict[str, np.ndarray]) -> None:
        num_nan = int(history["num_nan"].sum())
        if num_nan > 0.01 * self.num_particles:
            stage = int(np.argmax(history["num_nan"] > 0)) + 1
            warnings.warn(
                f"the log-likelihood was NaN for {num_nan} particles, first at stage {stage}; "
                "they were given weight zero. Return -inf where the likelihood is zero, and "
                "check for overflow elsewhere",
                NumericalWarning,
                stacklevel=4,
            )


def _as_chains(values: np.ndarray, num_chains: int) -> np.ndarray:
    """Return particles as (chain, draw, ...), at most four chains long enough to look at.

    Moves store their states round by round. Short chains follow one another in a long one.
    """
    rounds = values.reshape(-1, num_chains, *values.shape[1:])
    chains = np.moveaxis(rounds, 1, 0)
    num_long = next(n for n in (4, 2, 1) if num_chains % n == 0)
    return np.ascontiguousarray(chains.reshape(num_long, -1, *values.shape[1:]))


@quick_jit(static_argnames="engine")
def _start(engine: SMC, target: Target, key: jax.Array, plan: Plan | None = None) -> LoopState:
    blocks = engine.algorithm(target)
    start_key, loop_key = jax.random.split(key)
    population, _ = blocks.first.run(start_key)
    population = population._replace(stage=population.stage._replace(plan=plan))
    return _loop(blocks if plan is None else following(blocks)).start(loop_key, population)


@quick_jit(static_argnames="engine")
def _advance(engine: SMC, target: Target, state: LoopState) -> LoopState:
    blocks = engine.algorithm(target)
    is_planned = state.population.stage.plan is not None
    return _loop(following(blocks) if is_planned else blocks).advance(state, 1)


@quick_jit(static_argnames="engine", optimised=False)
def _blank_plan(engine: SMC, target: Target) -> Plan:
    """Return a plan of as many stages as there may be, with nothing chosen yet."""
    population, _ = engine.algorithm(target).first.run(jax.random.key(0))
    return jax.tree.map(
        lambda one: jnp.zeros((engine.max_stages, *one.shape), one.dtype),
        Plan.of(population.stage),
    )


@quick_jit(static_argnames="engine")
def _choose(engine: SMC, target: Target, state: LoopState) -> LoopState:
    """Write into the plan what the adaptive algorithm would do at this stage.

    The pilot run then follows its own plan, by the very program that the second run uses.
    """
    population = state.population
    stage = population.stage
    choice = choose(_loop(engine.algorithm(target)).body, population)
    stage = stage._replace(plan=stage.plan.put(stage.number, choice))
    return state._replace(population=population._replace(stage=stage))


def _loop(blocks: Block) -> Until:
    """Return the adaptive loop of an algorithm, which the engine runs in chunks."""
    assert isinstance(blocks, Chain)
    loop = blocks.second
    assert isinstance(loop, Until)
    return loop


@jax.jit
def _summary(state: LoopState) -> tuple[jax.Array, ...]:
    last = state.round - 1
    stage = state.population.stage
    return (
        state.round,
        stage.current,
        state.population.log_evidence,
        state.infos["effective_sample_size"][last],
        stage.acceptance,
    )
