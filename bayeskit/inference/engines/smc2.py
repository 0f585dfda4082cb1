"""SMC² as an engine: parameters with filters of their own, as the data come in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import ParticleCollapseError
from bayeskit.inference import random
from bayeskit.inference.algorithms.smc_squared import smc2
from bayeskit.inference.blocks import Block, Chain, MovePlan, fitted_random_walk, resample
from bayeskit.inference.collapse import infinite_weight
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.inference.engines.base import as_chains
from bayeskit.inference.engines.parameter_chains import (
    check_counts,
    check_free,
    identity_of_chains,
    named_draws,
)
from bayeskit.inference.engines.stages import ancestors_in
from bayeskit.inference.long_run import LongRun, LongRunSettings
from bayeskit.inference.population import Population, total_log_evidence
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import StateSpaceTarget
from bayeskit.inference.windowed_lineage import WindowedLineage, in_precision_of_weights

__all__ = ["SMC2"]

# Times of one call of the compiled program.
_CHUNK = 16


@dataclass(frozen=True)
class SMC2(LongRunSettings):
    r"""SMC²: a population of parameters, each weighed by a particle filter of its own.

    Parameters start from the prior and are weighed by what their filters say of each new
    observation. Where their weights have become uneven they are resampled and moved by particle
    marginal Metropolis-Hastings on the data so far, with a proposal fitted to the population.
    It gives the log evidence with a standard error.

    Parameters
    ----------
    num_parameters : int
    num_particles : int
        Of states, for each of the parameters.
    num_moves : int
        Steps of each move.
    ess_below : float in (0, 1]
        Move below this fraction of effective parameters.
    scheme : str
        Resampling scheme of both levels.
    unbiased : bool
        Run twice: when the first run moved its parameters, and how far, is frozen for the
        second, whose evidence has the true evidence as its mean. Twice the time.
    keep_ancestors : bool
        Keep in the history ``ancestors`` (num_steps, num_parameters): the places, one time
        before, of what parameters descend from. See :func:`bayeskit.plots.genealogy`.
    progress : "auto" or bool
    checkpoint, checkpoint_every, max_seconds
        Of runs that take long; see :class:`~bayeskit.inference.LongRunSettings`. Before the
        last time there is no posterior given all data, so that a run that is stopped raises
        an error that says how to go on.

    Raises
    ------
    ValueError
        For numbers out of range.

    Notes
    -----
    A move at time t filters the data up to t again, which costs
    O(t num_parameters num_particles). Moves become rarer as data come in, so the whole is
    closer to O(T) than to O(T²) of these for models whose parameters settle.

    References
    ----------
    Chopin, Jacob & Papaspiliopoulos (2013), *SMC²: an efficient algorithm for sequential
    analysis of state space models*.

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
    >>> engine = bk.SMC2(num_parameters=200, num_particles=50)
    >>> est = bk.BayesianModel(walk, inference=engine)  # and then est.fit(y)

    The law of its result:

    >>> target = bi.StateSpaceTarget(walk, bi.Rows(np.array([0.3, 0.9, 1.2])))
    >>> print(engine.algorithm(target).explain().splitlines()[-1])
    => L10 consistent for prior·Ẑ[T]: the error vanishes as the number of particles grows;
    exact once adaptation is frozen
    """

    num_parameters: int = 400
    num_particles: int = 100
    num_moves: int = 3
    ess_below: float = 0.5
    scheme: str = "systematic"
    unbiased: bool = False
    keep_ancestors: bool = False
    progress: str | bool = "auto"

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, num_parameters=2, num_particles=1, num_moves=1)
        if self.ess_below is None:
            raise ValueError("ess_below must be a fraction in (0, 1], got None")
        resample(self.scheme, self.ess_below)

    def algorithm(self, target: StateSpaceTarget, plan: MovePlan | None = None) -> Chain:
        """Return the blocks that this engine runs; with a plan those of an unbiased run."""
        return smc2(  # type: ignore[return-value]
            target.prior,
            target.feynman_kac,
            self.num_parameters,
            self.num_particles,
            fitted_random_walk(),
            ess_below=self.ess_below,
            num_moves=self.num_moves,
            scheme=self.scheme,
            plan=plan,
        )

    def run(
        self, target: StateSpaceTarget, data: Rows | None = None, key: Any = 0
    ) -> Posterior:
        """Return draws of parameters and last states, and the log evidence.

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
            If all parameters have a likelihood of zero at some time; names it and what was
            observed.
        KeyboardInterrupt, UnfinishedRunError
            After Ctrl-C or ``max_seconds``.
        """
        target = target if data is None else target.with_rows(data)
        check_free(target.model, "SMC2")
        line, plan = ProgressLine("SMC2", self.progress), None
        key = accel.as_key(key)
        with CompileClock() as clock:
            run_key, choice_key = random.split(key)
            with LongRun(self, lambda: identity_of_chains(self, target, key)) as long_run:
                if self.unbiased:
                    pilot_key, run_key = random.split(run_key)
                    _, history = self._over_times(
                        target, pilot_key, None, line, long_run, "pilot run, "
                    )
                    plan = MovePlan(history["moved"], history["constants"])
                population, history = self._over_times(target, run_key, plan, line, long_run)
            posterior = self._finish(target, population, history, plan, choice_key)
        line.close(f"{target.num_steps} times, log evidence {posterior.log_evidence:.2f}")
        posterior.timing.update(clock.timing())
        return posterior

    def _over_times(
        self,
        target: StateSpaceTarget,
        key: Any,
        plan: Any,
        line: ProgressLine,
        long_run: LongRun,
        what: str = "",
    ) -> tuple[Population, dict[str, Any]]:
        """Return the population after all times, and what happened at each."""
        end = target.num_steps
        population, history = _start(self, target, key)
        pieces = [jax.tree.map(lambda x: np.asarray(x)[None], history)]
        _check_alive(pieces[-1], target, 0)
        time, part = 1, what.removesuffix(", ") or "run"

        def state() -> tuple[Any, Any]:
            # Joined once: the next checkpoint has less to join.
            pieces[:] = [jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)]
            return population, pieces[0]

        if saved := long_run.resumed(part, state):
            population, pieces = saved[0], [saved[1]]
            time = len(pieces[0]["log_evidence"])
        while time < end:
            size = long_run.piece(end - time, _CHUNK)
            population, piece = _advance(
                self, target, population, plan, key, np.int32(time), np.int32(size)
            )
            pieces.append(jax.tree.map(lambda x, n=size: np.asarray(x)[:n], piece))
            _check_alive(pieces[-1], target, time)
            time += size
            line.show(
                f"{what}time {time} of {end}, "
                f"ESS {pieces[-1]['effective_sample_size'][-1]:.0f}, "
                f"log evidence {pieces[-1]['log_evidence'][-1]:.2f}"
            )
            if long_run.reached(part, state) and (time < end or what):
                long_run.refuse_partial(
                    f"{what}after time {time} of {end}",
                    "What the parameters stand for is the posterior given the data until then",
                )
        return state()

    def _finish(
        self,
        target: StateSpaceTarget,
        population: Population,
        history: dict,
        plan: MovePlan | None,
        key: Any,
    ) -> Posterior:
        del history["constants"]
        theta, log_estimates, states = _drawn(population, key)
        positions = as_chains(np.asarray(theta))
        states = jax.tree.map(lambda x: as_chains(np.asarray(x)), states)
        draws = named_draws(target.model, positions, states, "_last")
        variance = float(np.asarray(history.pop("variance"))[-1])
        moved = history["acceptance"][history["moved"]]
        acceptance = float(moved[-1]) if len(moved) else float("nan")
        ess = float(history["effective_sample_size"][-1])
        reasons: tuple[str, ...] = ()
        if acceptance < 0.05:
            reasons = (
                f"the last move of parameters accepted {100 * acceptance:.1f} % of its "
                "proposals: take more particles, so that likelihoods are less noisy",
            )
        return Posterior(
            draws=draws,
            positions=positions,
            sample_stats={"log_likelihood_estimate": as_chains(np.asarray(log_estimates))},
            diagnostics=Diagnostics(
                r_hat_max=float("nan"),
                ess_bulk_min=ess,
                ess_tail_min=ess,
                num_divergent=0,
                num_not_finite=0,
                acceptance=acceptance,
                reasons=reasons,
            ),
            log_evidence=float(history["log_evidence"][-1]),
            log_evidence_se=math.sqrt(variance),
            history=history,
            engine=repr(replace(self, progress="auto")),
            law=self.algorithm(target, plan).explain(),
        )


def _check_alive(piece: dict[str, Any], target: StateSpaceTarget, time: int) -> None:
    alive = np.isfinite(piece["log_evidence"])
    if not alive.all():
        place = int(np.argmin(alive))
        time += place
        where = f" at time {time} (observation {np.asarray(target.rows.y)[time]})"
        if np.isposinf(piece["log_evidence"][place]):
            raise infinite_weight(where)
        raise ParticleCollapseError(
            f"all parameters have a likelihood of zero{where}: take more of them and more "
            "particles, check that observation, or narrow the prior"
        )


def _no_constants(population: Population) -> jax.Array:
    theta = population.particles.parameters
    return jnp.full((theta.shape[1], theta.shape[1]), jnp.nan, theta.dtype)


def _described(population: Population, info: dict[str, Any]) -> dict[str, Any]:
    return {
        "effective_sample_size": info["effective_sample_size"],
        "log_evidence": total_log_evidence(population),
        "moved": info.get("applied", jnp.zeros((), bool)),
        "acceptance": info.get("acceptance", jnp.full((), jnp.nan)),
        "constants": info.get("constants", _no_constants(population)),
        "variance": population.lineage.total_variance,  # type: ignore[union-attr]
        **ancestors_in(population),
    }


def _parts(engine: SMC2, target: StateSpaceTarget, plan: Any = None) -> tuple[Block, ...]:
    """Return how parameters are drawn and weighed at first, and what each time does."""
    first, over_times = engine.algorithm(target, plan).parts
    return *first.parts, over_times.body


def _at(engine: SMC2, population: Population, time: Any) -> Population:
    """Return the population at the beginning of a time, where each stands for itself."""
    if engine.keep_ancestors:
        own_place = jnp.arange(population.num_particles, dtype=jnp.int32)
        population = population._replace(ancestors=own_place)
    return population._replace(stage=time)


@quick_jit(static_argnames="engine")
def _start(engine: SMC2, target: StateSpaceTarget, key: Any) -> tuple[Population, dict]:
    spawn_step, weigh_step, _ = _parts(engine, target)
    spawn_key, weigh_key = random.split(random.fold_in(key, 0))
    population, _ = spawn_step.run(spawn_key)
    population = _at(engine, population, jnp.zeros((), jnp.int32))
    founders: Any = WindowedLineage.founders(engine.num_parameters)
    population = population._replace(lineage=founders)
    population, info = weigh_step.run(weigh_key, population)
    population = in_precision_of_weights(population)
    return population, _described(population, info)


@quick_jit(static_argnames="engine")
def _advance(
    engine: SMC2,
    target: StateSpaceTarget,
    population: Population,
    plan: MovePlan | None,
    key: Any,
    first: Any,
    size: Any,
) -> tuple[Population, dict]:
    """Take in ``size`` observations from time ``first`` on."""
    _, _, step = _parts(engine, target, plan)

    def one(number, population):
        time = first + number
        population = _at(engine, population, time)
        population, info = step.run(random.fold_in(key, time), population)
        population = in_precision_of_weights(population)
        return population, _described(population, info)

    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32), population)[1]
    blank = jax.tree.map(lambda s: jnp.zeros((_CHUNK, *s.shape), s.dtype), shapes)

    def body(number, carry):
        population, all_ = carry
        population, now = one(number, population)
        return population, jax.tree.map(lambda a, n: a.at[number].set(n), all_, now)

    return lax.fori_loop(0, size, body, (population, blank))


@quick_jit(optimised=False)
def _drawn(population: Population, key: Any) -> tuple[Any, Any, Any]:
    """Return equally weighted parameters, their estimates, and a last state for each."""
    outer_key, inner_key = random.split(key)
    num = population.num_particles
    chosen = random.categorical(outer_key, population.log_weights, num)
    particles = jax.tree.map(lambda x: x[chosen], population.particles)

    def last(lane_key, inner):
        place = random.categorical(lane_key, inner.log_weights)
        return jax.tree.map(lambda x: x[place], inner.particles)

    states = random.lanes(last, inner_key, particles.sample)
    return particles.parameters, particles.log_estimate, states
