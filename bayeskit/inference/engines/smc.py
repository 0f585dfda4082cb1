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
from bayeskit.errors import (
    InvalidDataError,
    NumericalWarning,
    ParticleCollapseError,
    StalledError,
)
from bayeskit.inference.adaptation import initial_tuning
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc
from bayeskit.inference.blocks import Chain, Plan, following
from bayeskit.inference.blocks.resampling import check_scheme
from bayeskit.inference.collapse import check_infinite
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import diagnose
from bayeskit.inference.engines.base import constrained_draws, prepared_target
from bayeskit.inference.engines.stages import (
    Info,
    components_at,
    gathered,
    info_like,
    moments_of,
    moved,
    plan_from,
    separated,
    started,
    two_keys,
    weighed,
)
from bayeskit.inference.kernels import HMC, Kernel, RandomWalk
from bayeskit.inference.long_run import LongRun, LongRunSettings, identity_of
from bayeskit.inference.measure import PointState, Target, TemperedPath
from bayeskit.inference.paths import student_bridge
from bayeskit.inference.population import Population, total_log_evidence
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine

__all__ = ["SMC"]

# A schedule that gains less than this in each of so many stages will never arrive.
_STALL_INCREMENT = 1e-8
_STALL_STAGES = 20
# Kept states of a chain that still resemble each other this much do not count as mixed.
_MAX_CORRELATION = 0.9
_GIVEN_PILOT = (
    "given a pilot run with a key of its own, from which the start of the bridge is made: a\n"
    "Student-t distribution with the moments of the pilot run, mixed with the prior"
)


@dataclass(frozen=True)
class SMC(LongRunSettings):
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
    bridge : bool
        Run twice: the first run is a pilot. The second starts from a Student-t distribution
        with the moments of the pilot, mixed with a twentieth of the prior, and not from the
        prior. Where the prior is broad, the second run has a short path and takes a fraction of
        the time; result, history and standard error are its own. Not for separated modes.
    keep_ancestors : bool
        Keep in the history ``ancestors`` (num_stages + 1, particles): the places, one stage
        before, of what particles descend from; at first their own. Four bytes a particle and
        stage; no number of the result changes, whose draws stand in an order of their own. See
        :func:`bayeskit.plots.genealogy`.
    progress : "auto" or bool
    checkpoint, checkpoint_every, max_seconds
        Of runs that take long; see :class:`~bayeskit.inference.LongRunSettings`. Before the
        temperature is 1 there is no posterior, so that a run that is stopped raises an error
        that says how to go on.

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

    Examples
    --------
    Three heads of ten, with evidence B(5, 12) / B(2, 5) and posterior Beta(5, 12):

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> def coin(y=None):
    ...     p = numpyro.sample("p", dist.Beta(2.0, 5.0))
    ...     with numpyro.plate("flips", 10):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> y = np.array([1, 0, 0, 1, 0, 0, 0, 1, 0, 0])
    >>> engine = bk.SMC(num_particles=1000)
    >>> est = bk.BayesianModel(coin, inference=engine, random_state=0).fit(y=y)
    >>> est.log_evidence_, float(est.result_.mean("p"))  # exactly -6.59 and 0.294
    (-6.6, 0.3)
    """

    num_particles: int = 10_000
    kernel: str | Kernel = "auto"
    ess: float = 0.5
    waste_free: bool = True
    num_chains: int | None = None
    scheme: str = "systematic"
    max_stages: int = 200
    unbiased: bool = False
    bridge: bool = False
    keep_ancestors: bool = False
    progress: str | bool = "auto"

    def __post_init__(self):
        super().__post_init__()
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
        """Return the blocks that this engine runs, for a target or bridge on vectors."""
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
        KeyboardInterrupt, UnfinishedRunError
            After Ctrl-C or ``max_seconds``.
        """
        target = prepared_target(target, data)
        law = self._explain(target)
        line = ProgressLine("SMC", self.progress)
        key = accel.as_key(key)
        with CompileClock() as clock:
            with LongRun(self, lambda: self._identity(target, key)) as long_run:
                population, infos, path = self._sample(target, key, line, long_run)
            posterior = self._finish(target, path, population, gathered(infos), law)
        line.close(
            f"{len(infos)} stages, log evidence {posterior.log_evidence:.2f} "
            f"± {posterior.log_evidence_se:.2f}"
        )
        posterior.timing.update(clock.timing())
        return posterior

    def _identity(self, target: Target, key: jax.Array) -> dict[str, str]:
        code = {"model": (target.components, target.position_spec())}
        return identity_of(self, key, target.data, code)

    def _sample(
        self, target: Target, key: jax.Array, line: ProgressLine, long_run: LongRun
    ) -> tuple[Population, list[Info], Target]:
        """Return population and infos of the last run, and the path that it went."""
        path, plan = target, None
        if self.bridge:
            pilot_key, key = two_keys(key)
            path = self._bridge(target, pilot_key, line, long_run)
        if self.unbiased:
            first_key, key = two_keys(key)
            _, infos = self._run_stages(path, first_key, line, long_run, "first run, ")
            plan = plan_from(TemperedPath(path), infos, self.max_stages)
        return *self._run_stages(path, key, line, long_run, plan=plan), path

    def _explain(self, target: Target) -> str:
        blocks = self.algorithm(target)
        law = (following(blocks) if self.unbiased else blocks).explain()
        return f"{_GIVEN_PILOT}\n{law}" if self.bridge else law

    def _bridge(
        self, target: Target, key: jax.Array, line: ProgressLine, long_run: LongRun
    ) -> Target:
        """Return the bridge from the moments of a pilot run."""
        kernel = self._kernel_for(target)
        blank = initial_tuning(kernel, target.vector_dim())
        # With all the share the path is that from the prior: the pilot runs as a bridge does.
        path = student_bridge(target, blank.mean, blank.factor, prior_share=1.0)
        pilot, _ = self._run_stages(path, key, line, long_run, "pilot run, ")
        return student_bridge(target, *moments_of(kernel, pilot))

    def _run_stages(
        self,
        target: Target,
        key: jax.Array,
        line: ProgressLine,
        long_run: LongRun,
        prefix: str = "",
        plan: Plan | None = None,
    ) -> tuple[Population, list[Info]]:
        """Return the population at temperature 1, and the info of each stage."""
        population, key = started(self, target, key)
        _check_support(population.particles)
        part = prefix.removesuffix(", ") or "run"
        like = lambda: (population, info_like(self, target, population, key, plan))
        state = lambda: (population, gathered(infos))
        infos: list[Info] = []
        if resumed := long_run.resumed(part, like):
            # The key is that of all stages: each folds in its number.
            population, infos = resumed[0], separated(resumed[1])
        temperatures = [0.0, *(float(info["inverse_temperature"]) for info in infos)]
        while temperatures[-1] < 1.0:
            population, info, move_key = weighed(self, target, population, key, plan)
            log_evidence = float(info.pop("log_evidence"))
            check_infinite(population, info)
            if not np.isfinite(log_evidence):
                raise ParticleCollapseError(
                    f"all {self.num_particles} particles have zero likelihood at stage "
                    f"{len(temperatures)}: every prior draw has a log-likelihood of -inf or "
                    "NaN. Check the likelihood at draws from the prior, or narrow the prior"
                )
            population, more = moved(self, target, population, move_key)
            infos.append(accel.on_host({**info, **more}))
            temperatures.append(float(infos[-1]["inverse_temperature"]))
            self._check_progress(temperatures)
            line.show(
                f"{prefix}stage {len(infos)}, inverse temperature {temperatures[-1]:.4g}, "
                f"ESS {infos[-1]['effective_sample_size']:.0f}, "
                f"acceptance {infos[-1]['acceptance']:.2f}, log evidence {log_evidence:.2f}"
            )
            stops = long_run.reached(part, state)
            if stops and (temperatures[-1] < 1.0 or prefix):
                long_run.refuse_partial(
                    f"{prefix}after stage {len(infos)} at inverse temperature "
                    f"{temperatures[-1]:.4g}",
                    "Only at inverse temperature 1 do the particles stand for the posterior",
                )
        return population, infos

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

    def _finish(
        self, target: Target, path: Target, population: Population, history: Info, law: str
    ) -> Posterior:
        history.pop("tuning", None)
        if self.keep_ancestors:
            own_place = np.arange(population.num_particles, dtype=np.int32)
            history["ancestors"] = np.concatenate([own_place[None], history["ancestors"]])
        population = accel.on_host(population)
        lineage: Any = population.lineage
        positions = _as_chains(population.particles.position, self._num_chains())
        components = _as_chains(population.particles.components, self._num_chains())
        if path is not target:
            # Those of the path are of the reference and of what is left.
            components = np.asarray(components_at(target, jnp.asarray(positions)))
        self._warn_numbers(history)
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
                reasons=_reasons(history),
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


def _reasons(history: dict[str, np.ndarray]) -> tuple[str, ...]:
    correlation = float(history["correlation"][-1])
    if not correlation > _MAX_CORRELATION:
        return ()
    return (
        f"moves do not mix: successive states correlate by {correlation:.2f}, so the "
        "log evidence and its standard error may be off. Reparametrise, or give "
        "another kernel",
    )


def _check_support(particles: PointState) -> None:
    """Refuse draws of the prior at which its own density is zero."""
    components = accel.on_host(particles.components)
    outside = np.flatnonzero(~np.isfinite(components[:, 0]))
    if len(outside):
        first = int(outside[0])
        value, position = components[first, 0], accel.on_host(particles.position)[first]
        raise InvalidDataError(
            f"{len(outside)} of {len(components)} prior draws lie where log_prior is "
            f"not finite, first draw {first}: log_prior is {value} at {position}. sample_prior "
            "and log_prior must be of the same distribution, or the log evidence is wrong"
        )
