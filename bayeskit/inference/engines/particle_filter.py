"""The particle filter as an engine: batch, online, and with smoothed paths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from bayeskit import accel
from bayeskit.errors import ParticleCollapseError
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.blocks import Block, resample
from bayeskit.inference.collapse import infinite_weight
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.inference.engines.base import as_chains, as_named_states
from bayeskit.inference.engines.filter_draws import draw_last_states, draw_paths, smoother_of
from bayeskit.inference.engines.filter_program import (
    CHUNK,
    FilterState,
    advance_rows,
    blank_state,
)
from bayeskit.inference.engines.filter_summaries import flat_history
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.population import (
    Population,
)
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine
from bayeskit.inference.settings import check_kinds
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import GivenModel, StateSpaceTarget

__all__ = ["FilterState", "ParticleFilter"]

_UNBIASED = (
    "When to resample is decided by present weights alone, so the evidence is unbiased as it "
    "is: nothing has to be frozen by a pilot run."
)
# A larger share of NaN than this is no accident of rounding.
_MAX_NAN = 0.01


@dataclass(frozen=True)
class ParticleFilter:
    r"""The particle filter, for models without free parameters.

    Particles follow the transition, or the proposal of the model where there is one, are
    weighed by the likelihood of what is seen, and are resampled where their weights have become
    uneven. It gives filtering moments and quantiles at each time, the log evidence with a
    standard error, and smoothed paths where asked for.

    Parameters
    ----------
    num_particles : int
    num_paths : int
        Paths to draw from the smoothing distribution. 0: none, and no history is kept; the
        draws of the result are then those of the last state. Otherwise the history of the
        result has ``ancestors`` (num_steps, num_particles): the places at the time before.
    smoother : {"auto", "backward", "mcmc", "genealogy"}
        How paths are drawn: exactly backwards, O(num_paths num_particles) a time; backwards by
        Metropolis steps, O(num_paths); or by ancestors, which needs no transition density and
        says little about early times. ``"auto"``: backward where there is a density.
    scheme : str
        Resampling scheme.
    ess_below : float in (0, 1], or None
        Resample below this fraction of effective particles; None: at every step.
    quantiles : tuple of float in (0, 1)
        Of the filtering distribution. They take about as long as the filter; () takes nothing.
    progress : "auto" or bool

    Raises
    ------
    ValueError
        For numbers out of range or unknown names.

    Notes
    -----
    O(num_steps num_particles); memory does not grow with num_steps unless paths are asked for.
    Works for rows in any pieces to the same bits. The evidence, not its logarithm, is unbiased
    (law L2), since present weights alone decide when to resample. A model with a proposal makes
    it the guided filter.

    References
    ----------
    Gordon, Salmond & Smith (1993); Godsill, Doucet & West (2004), for paths.

    Examples
    --------
    >>> import numpy as np, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> walk = bk.StateSpaceModel(
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t: dist.Normal(x, 0.5),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ... )
    >>> engine = bk.ParticleFilter(500, progress=False)
    >>> y = np.array([0.3, 0.9, 1.2])
    >>> est = bk.BayesianModel(walk, inference=engine, random_state=0).fit(y)
    >>> bool(abs(est.log_evidence_ + 3.98) < 0.3)
    True
    """

    num_particles: int = 1000
    num_paths: int = 0
    smoother: str = "auto"
    scheme: str = "systematic"
    ess_below: float | None = 0.5
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)
    progress: str | bool = "auto"

    def __post_init__(self):
        check_kinds(self)
        for name, least in (("num_particles", 1), ("num_paths", 0)):
            number = getattr(self, name)
            if not isinstance(number, int | np.integer) or number < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {number!r}")
        if self.smoother not in ("auto", "backward", "mcmc", "genealogy"):
            raise ValueError(
                "smoother must be 'auto', 'backward', 'mcmc' or 'genealogy', got "
                f"{self.smoother!r}"
            )
        if not _are_levels(self.quantiles):
            raise ValueError(f"quantiles must lie in (0, 1), got {self.quantiles!r}")
        object.__setattr__(self, "quantiles", tuple(self.quantiles))
        resample(self.scheme, self.ess_below)

    # ------------------------------------------------------------ running

    def run(
        self, target: StateSpaceTarget, data: Rows | None = None, key: Any = 0
    ) -> Posterior:
        """Return the filter of a model without free parameters.

        Parameters
        ----------
        target : StateSpaceTarget
        data : Rows, optional
            Default: those of the target.
        key : int or JAX key

        Raises
        ------
        ValueError
            If the model has free parameters.
        ParticleCollapseError
            If all particles have weight zero at some time; names it and what was observed.
        MissingDensityError
            For backward sampling of a model without transition density.
        """
        target = target if data is None else target.with_rows(data)
        self.check(target.model)
        with CompileClock() as clock:
            state, history = self.advance(target, accel.as_key(key))
            posterior = self.finish(target, state, history)
        posterior.timing.update(clock.timing())
        return posterior

    def check(self, model: Any) -> None:
        """Refuse a model that this engine cannot run, before anything is compiled."""
        if model.free:
            raise ValueError(
                f"the model has free parameters {list(model.free)}: ParticleFilter takes them "
                "as given. Use PMMH, ParticleGibbs or SMC2, or give numbers in params"
            )
        if isinstance(model, GivenModel) and self.num_paths:
            smoother_of(self, model.model)

    def algorithm(self, model: FeynmanKac) -> Block:
        """Return the blocks that this engine runs, time by time."""
        filtered = particle_filter(
            model,
            self.num_particles,
            scheme=self.scheme,
            ess_below=self.ess_below,
            history=bool(self.num_paths),
        )
        return filtered >> smoother_of(self, model) if self.num_paths else filtered

    def advance(
        self, target: StateSpaceTarget, key: Any, state: FilterState | None = None
    ) -> tuple[FilterState, dict[str, Any]]:
        """Run the filter over the rows of a target, which follow those it has seen.

        Parameters
        ----------
        key : JAX key
            For a filter that starts here; one that goes on has its own.
        state : FilterState, optional

        Returns
        -------
        state : FilterState
        history : dict of arrays (num_steps, ...)
        """
        line = ProgressLine("ParticleFilter", self.progress)
        begin = 0 if state is None else int(state.time)
        time = end = begin
        end += target.num_steps - (begin if isinstance(target.model, GivenModel) else 0)
        pieces = []
        while time < end:
            size = min(CHUNK, end - time)
            rows = _rows(target, time - begin, size)
            if state is None:
                state = blank_state(self, target.model, rows, key)
            state, piece = advance_rows(self, target.model, rows, np.int32(size), state)
            piece = jax.tree.map(lambda x, n=size: x[:n], accel.on_host(piece))
            _check_collapse(piece, target, time, begin)
            time += size
            pieces.append(piece)
            line.show(f"time {time} of {end}, ESS {piece['effective_sample_size'][-1]:.0f}")
        line.close(f"{end} times")
        assert state is not None
        return state, jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    def finish(
        self, target: StateSpaceTarget, state: FilterState, history: dict[str, Any]
    ) -> Posterior:
        """Return the posterior of a filter that has run."""
        history, population = flat_history(history), accel.on_host(state.population)
        if self.num_paths:
            kept = history.pop("population")
            history["ancestors"] = kept.ancestors
            states = draw_paths(self, target, kept, population, state.key)
        else:
            states = draw_last_states(population, int(state.time), state.key)
        last = "" if self.num_paths else "_last"
        draws = {
            name + last: as_chains(np.asarray(v)) for name, v in as_named_states(states).items()
        }
        variance = _lineage_variance(population)
        num_steps = len(history["log_evidence"])
        whole = target.model.feynman_kac(None, target.rows, 0, num_steps)
        num_chains, num_draws = next(iter(draws.values())).shape[:2]
        ess = float(history["effective_sample_size"].min())
        return Posterior(
            draws=draws,
            positions=np.zeros((num_chains, num_draws, 0)),
            sample_stats={},
            diagnostics=Diagnostics(
                r_hat_max=float("nan"),
                ess_bulk_min=ess,
                ess_tail_min=ess,
                num_divergent=0,
                num_not_finite=int(history["num_nan"].sum()),
                acceptance=float("nan"),
                reasons=_doubts(self, history, variance),
            ),
            log_evidence=float(history["log_evidence"][-1]),
            log_evidence_se=float(np.sqrt(variance)),
            history=history,
            engine=repr(replace(self, progress="auto")),
            law=f"{self.algorithm(whole).explain()}\n{_UNBIASED}",
        )


def _rows(target: StateSpaceTarget, start: int, size: int) -> Rows:
    """Return rows in a piece of fixed length, padded by their last."""
    index = start + np.minimum(np.arange(CHUNK), size - 1)
    # Copies, since JAX remembers the precision in which it saw an array before.
    return jax.tree.map(lambda a: np.array(a[index]), target.rows)


def _check_collapse(piece: dict, target: StateSpaceTarget, time: int, begin: int) -> None:
    alive = np.isfinite(piece["log_evidence_increment"])
    if alive.all():
        return
    place = int(np.argmin(alive))
    seen = ""
    if target.rows.y is not None:
        seen = f" (observation {np.asarray(target.rows.y)[time - begin + place]})"
    if np.isposinf(piece["log_evidence_increment"][place]):
        raise infinite_weight(f" at time {time + place}{seen}")
    num_nan = int(piece["num_nan"][place])
    why = f", {num_nan} of them because their log-likelihood is NaN" if num_nan else ""
    raise ParticleCollapseError(
        f"all particles have weight zero at time {time + place}{seen}{why}: take more "
        "particles, check the observation and the parameters, or widen the observation noise"
    )


def _doubts(engine: ParticleFilter, history: dict, variance: float) -> tuple[str, ...]:
    reasons = []
    # Below this many the moments of that time rest on a handful of particles.
    worst = int(np.argmin(history["effective_sample_size"]))
    fewest = float(history["effective_sample_size"][worst])
    if fewest < min(10.0, 0.5 * engine.num_particles):
        reasons.append(
            f"at time {worst} the weights leave an effective sample size of {fewest:.1f} out "
            f"of {engine.num_particles} particles: take more, or check that observation"
        )
    share = float(history["num_nan"].sum()) / (engine.num_particles * len(history["num_nan"]))
    if share > _MAX_NAN:
        reasons.append(
            f"the likelihood of {100 * share:.1f} % of the particles is NaN, and counts as 0: "
            "let initial, transition and observation be defined for every state"
        )
    if not variance < 1.0:
        reasons.append(
            f"the standard error of the log evidence is {np.sqrt(variance):.1f}, and its bias "
            "downwards is about half of the square of that: take more particles"
        )
    return tuple(reasons)


def _are_levels(quantiles: Any) -> bool:
    if isinstance(quantiles, str) or not hasattr(quantiles, "__iter__"):
        return False
    return all(isinstance(q, int | float | np.number) and 0 < q < 1 for q in quantiles)


def _lineage_variance(population: Population) -> float:
    settled, older = population.lineage.settled, population.lineage.older  # type: ignore
    return float(np.asarray(settled)) + float(np.asarray(older.variance))
