"""The particle filter as an engine: batch, online, and with smoothed paths."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import ParticleCollapseError
from bayeskit.inference import random
from bayeskit.inference.algorithms.backward_sampling import backward_sampling, genealogy
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.blocks import Block, extend, resample, spawn, weigh
from bayeskit.inference.blocks.weighting import weighed
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.inference.engines.base import as_chains, as_named_states
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.population import (
    History,
    Population,
    total_log_evidence,
)
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine
from bayeskit.inference.state_space import GivenModel, Rows, StateSpaceTarget
from bayeskit.inference.windowed_lineage import WindowedLineage, in_precision_of_weights

__all__ = ["FilterState", "ParticleFilter"]

# Rows that one call of the compiled program takes at most. Fewer run through the same program,
# which is why the size of a piece changes no number.
_CHUNK = 64
# Steps by which a quantile is found up to a millionth of the range of the particles.
_HALVINGS = 20
_UNBIASED = (
    "When to resample is decided by present weights alone, so the evidence is unbiased as it "
    "is: nothing has to be frozen by a pilot run."
)
# A larger share of NaN than this is no accident of rounding.
_MAX_NAN = 0.01
# In place of a time, for what is drawn after all of them.
_AFTER = 2**32 - 1


class FilterState(NamedTuple):
    """Where a filter stands between two rows.

    Parameters
    ----------
    key : key
        Time t draws from ``fold_in(key, t)``.
    time : () int32 array
        Of the row to come.
    population : Population
        The filter at the time before.
    """

    key: Any
    time: Any
    population: Population

    def on_host(self) -> FilterState:
        """Return the same state in NumPy arrays, which keep their precision in files."""
        return FilterState(self.key, *jax.tree.map(np.asarray, self[1:]))


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
        draws of the result are then those of the last state.
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
    """

    num_particles: int = 1000
    num_paths: int = 0
    smoother: str = "auto"
    scheme: str = "systematic"
    ess_below: float | None = 0.5
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)
    progress: str | bool = "auto"

    def __post_init__(self):
        for name, least in (("num_particles", 1), ("num_paths", 0)):
            number = getattr(self, name)
            if not isinstance(number, int | np.integer) or number < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {number!r}")
        if self.smoother not in ("auto", "backward", "mcmc", "genealogy"):
            raise ValueError(
                "smoother must be 'auto', 'backward', 'mcmc' or 'genealogy', got "
                f"{self.smoother!r}"
            )
        object.__setattr__(self, "quantiles", tuple(self.quantiles))
        if not all(0 < q < 1 for q in self.quantiles):
            raise ValueError(f"quantiles must lie in (0, 1), got {self.quantiles!r}")
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
            _smoother(self, model.model)

    def algorithm(self, model: FeynmanKac) -> Block:
        """Return the blocks that this engine runs, time by time."""
        filtered = particle_filter(
            model,
            self.num_particles,
            scheme=self.scheme,
            ess_below=self.ess_below,
            history=bool(self.num_paths),
        )
        return filtered >> _smoother(self, model) if self.num_paths else filtered

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
            size = min(_CHUNK, end - time)
            rows = _rows(target, time - begin, size)
            if state is None:
                state = blank_state(self, target.model, rows, key)
            state, piece = _advance(self, target.model, rows, np.int32(size), state)
            piece = jax.tree.map(lambda x, n=size: np.asarray(x)[:n], piece)
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
        history, population = flat_history(history), state.population
        if self.num_paths:
            kept = history.pop("population")
            states = _paths(self, target, kept, population, state.key)
        else:
            states = _last_states(population, int(state.time), state.key)
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


def flat_history(history: dict[str, Any]) -> dict[str, Any]:
    """Return a history with an entry for each variable, such as ``filter_mean/x``."""
    flat: dict[str, Any] = {}
    for name, values in history.items():
        if name.startswith("filter_") and "/" not in name:
            flat |= {f"{name}/{k}": v for k, v in as_named_states(values).items()}
        else:
            flat[name] = values
    return flat


def _rows(target: StateSpaceTarget, start: int, size: int) -> Rows:
    """Return rows in a piece of fixed length, padded by their last."""
    index = start + np.minimum(np.arange(_CHUNK), size - 1)
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


# ---------------------------------------------------------------- compiled programs


def blank_state(engine: ParticleFilter, model: Any, rows: Rows, key: Any) -> FilterState:
    """Return the state before any row; its population is empty and has the right shapes."""

    def first(rows, key):
        return _weighed(*_founded(engine, model.feynman_kac(None, rows, 0), key)[:2])[0]

    shapes = jax.eval_shape(first, rows, key)
    population = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    return FilterState(key, np.zeros((), np.int32), population)


def _founded(engine: ParticleFilter, feynman_kac: FeynmanKac, key: Any) -> tuple[Any, ...]:
    """Return the population of time 0, its potential, and that it is not resampled."""
    population, _ = spawn(feynman_kac.initial, engine.num_particles).run(key)
    population = population._replace(
        stage=jnp.zeros((), jnp.int32),
        lineage=WindowedLineage.founders(engine.num_particles),
        ancestors=jnp.arange(engine.num_particles, dtype=jnp.int32),
    )
    log_g = weigh(feynman_kac.log_g0).potential(population)
    return in_precision_of_weights(population), log_g, jnp.zeros((), bool)


def _stepped(
    engine: ParticleFilter, feynman_kac: FeynmanKac, key: Any, population: Population
) -> tuple[Any, ...]:
    """Return the population of the next time, its potential, and whether it is resampled."""
    choice_key, move_key = random.split(key)
    own_place = jnp.arange(engine.num_particles, dtype=jnp.int32)
    choose = resample(engine.scheme, engine.ess_below)
    population, info = choose.run(choice_key, population._replace(ancestors=own_place))
    move = extend(feynman_kac.kernel, feynman_kac.log_g)
    population, log_g = move.proposed(move_key, population)
    resampled = jnp.asarray(info.get("resampled", True))
    return in_precision_of_weights(population), log_g, resampled


def _weighed(population: Population, log_g: jax.Array) -> tuple[Population, dict]:
    population, info = weighed(population, log_g)
    return in_precision_of_weights(population), info


@quick_jit(static_argnames=("engine", "model"))
def _advance(
    engine: ParticleFilter, model: Any, rows: Rows, size: Any, state: FilterState
) -> tuple[FilterState, dict]:
    """Run over the first ``size`` of the rows.

    One program for the first time and for all others, and for pieces of every size: the same
    instructions give the same bits. Both kinds of time are weighed by the same instructions,
    since a second copy would take a quarter more to compile.
    """
    feynman_kac = model.feynman_kac(None, rows, state.time)

    def one(number, population):
        time = state.time + number
        key = random.fold_in(state.key, time)
        population, log_g, resampled = lax.cond(
            time == 0,
            lambda population: _founded(engine, feynman_kac, key),
            lambda population: _stepped(engine, feynman_kac, key, population),
            population._replace(stage=time),
        )
        population, info = _weighed(population, log_g)
        return population, {**info, "resampled": resampled}

    # Under jit, so that it is traced once for the shapes and for the loop.
    @functools.partial(jax.jit, inline=True)
    def described(number, population):
        population, info = one(number, population)
        return population, _described(engine, population, info)

    shapes = jax.eval_shape(described, jnp.zeros((), jnp.int32), state.population)[1]
    blank = jax.tree.map(lambda s: jnp.zeros((_CHUNK, *s.shape), s.dtype), shapes)

    def body(number, carry):
        population, all_ = carry
        population, now = described(number, population)
        return population, jax.tree.map(lambda a, n: a.at[number].set(n), all_, now)

    population, history = lax.fori_loop(0, size, body, (state.population, blank))
    return FilterState(state.key, state.time + size, population), history


def _described(engine: ParticleFilter, population: Population, info: dict) -> dict[str, Any]:
    """Return what is reported of one time."""
    weights = jnp.exp(population.log_weights)
    moments = jax.tree.map(functools.partial(_moments, weights), population.particles)
    pick = lambda i: jax.tree.map(lambda _, m: m[i], population.particles, moments)
    out = {
        "effective_sample_size": info["effective_sample_size"],
        "log_evidence_increment": info["log_evidence_increment"],
        "log_evidence": total_log_evidence(population),
        "resampled": info["resampled"],
        "num_nan": info["num_nan"],
        "filter_mean": pick(0),
        "filter_sd": pick(1),
    }
    if engine.quantiles:
        levels = jnp.asarray(engine.quantiles, weights.dtype)
        out["filter_quantiles"] = jax.tree.map(
            lambda x: _quantiles(x, weights, levels), population.particles
        )
    if engine.num_paths:
        out["population"] = History(
            population.particles, population.log_weights, population.ancestors
        )
    return out


def _moments(weights: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x.astype(weights.dtype)
    mean = jnp.tensordot(weights, x, axes=1)
    variance = jnp.tensordot(weights, (x - mean) ** 2, axes=1)
    return mean, jnp.sqrt(variance)


def _quantiles(x: jax.Array, weights: jax.Array, levels: jax.Array) -> jax.Array:
    """Return weighted quantiles (level, ...): the least value with so much weight up to it.

    By halving the range, since sorting takes several times as long as a whole step of a filter.
    """
    flat = x.reshape(len(x), -1).T.astype(weights.dtype)

    def one(values):
        low, high = jnp.min(values) - 1.0, jnp.max(values)

        def halve(_, ends):
            low, high = ends
            middle = low + (high - low) / 2
            up_to = jnp.sum(jnp.where(values <= middle[:, None], weights, 0.0), axis=1)
            enough = up_to >= levels
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        ends = (jnp.full(levels.shape, low), jnp.full(levels.shape, high))
        low, _ = lax.fori_loop(0, _HALVINGS, halve, ends)
        return jnp.min(jnp.where(values > low[:, None], values, high), axis=1)

    found = one(flat[0])[None] if len(flat) == 1 else lax.map(one, flat)
    return found.T.reshape(len(levels), *x.shape[1:])


def _lineage_variance(population: Population) -> float:
    settled, older = population.lineage.settled, population.lineage.older  # type: ignore
    return float(np.asarray(settled)) + float(np.asarray(older.variance))


def _last_states(population: Population, time: int, key: Any) -> Any:
    """Return independent draws of the last state, made on the host: nothing is compiled."""
    weights = np.exp(np.asarray(population.log_weights, np.float64))
    generator = random.host_generator(key, time)
    chosen = generator.choice(len(weights), len(weights), p=weights / weights.sum())
    return jax.tree.map(lambda x: np.asarray(x)[chosen], population.particles)


def _smoother(engine: ParticleFilter, model: Any) -> Any:
    """Return the block that draws paths, if the model has what it needs."""
    if engine.smoother == "genealogy" or (engine.smoother == "auto" and model.log_m is None):
        return genealogy(model)
    method = "mcmc" if engine.smoother == "mcmc" else "exact"
    return backward_sampling(model, engine.num_paths, method=method)


@quick_jit(static_argnames="engine")
def _paths(
    engine: ParticleFilter,
    target: StateSpaceTarget,
    history: History,
    population: Population,
    key: Any,
) -> Any:
    population = population._replace(history=History(*history), lineage=None)
    draw_key, choice_key = random.split(random.fold_in(key, _AFTER))
    smoothed, _ = _smoother(engine, target.feynman_kac()).run(draw_key, population)
    if smoothed.num_particles == engine.num_paths:
        return smoothed.particles
    chosen = random.categorical(choice_key, smoothed.log_weights, engine.num_paths)
    return jax.tree.map(lambda x: x[chosen], smoothed.particles)
