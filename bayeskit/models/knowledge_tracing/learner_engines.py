"""Engines that infer each learner with traits of its own, exactly: settings and results."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.gibbs import gibbs_draws
from bayeskit.models.knowledge_tracing.joint_filter import (
    JointBelief,
    SinceLast,
    joint_steps,
    since_last,
)
from bayeskit.models.knowledge_tracing.learner import (
    LearnerData,
    TraitDrift,
    drifted,
    with_traits,
)
from bayeskit.models.knowledge_tracing.rows import Interactions
from bayeskit.models.knowledge_tracing.smc2 import Online, smc2_advance, smc2_start
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import (
    Exposures,
    Trials,
    padded_trials,
    trials_of,
)

__all__ = ["LearnerGibbs", "LearnerMixture", "LearnerSMC2", "learner_data", "mixture_forecast"]


class LearnerMixture(NamedTuple):
    """The posterior of a learner after the last row, as equally weighted Gaussians.

    Parameters
    ----------
    traits : (draws, traits) array
        At the last row.
    ahead : (draws, traits) array
        At a row that follows it; the same unless traits drift.
    belief : JointBelief of (draws, ...)
    """

    traits: np.ndarray
    ahead: np.ndarray
    belief: JointBelief


def learner_data(
    rows: Interactions,
    parameters: dict,
    structure: Structure,
    engine: Any,
    precision: str,
    *,
    fewest_rows: int = 16,
) -> LearnerData:
    """Return the rows of one learner, padded by rows in which nothing happens.

    Parameters
    ----------
    engine : LearnerGibbs or LearnerSMC2
        Its prior of the traits.
    fewest_rows : int
        New learners share the program of those of so many rows.
    """
    place = np.zeros(len(rows.time), np.int64)
    trials, _ = trials_of(rows, place, Exposures.none(1, structure), structure)
    padded, _ = padded_trials(trials, place, structure, precision, fewest_rows=fewest_rows)
    flat = Trials(*(x[0] for x in padded))
    since = since_last(rows, structure)
    short = flat.real.shape[0] - len(rows.time)
    fill = lambda x, value: np.concatenate([x, np.repeat(value[None], short, axis=0)])
    since = SinceLast(
        fill(since.gap, np.zeros_like(since.gap[0])).astype(precision),
        fill(since.counts, since.counts[-1]).astype(precision),
    )
    number = lambda value: np.asarray(value, precision)
    drift = None
    if engine.drift_sd:
        drift = TraitDrift(number(engine.drift_sd), number(np.exp(-1.0 / engine.drift_rows)))
    return LearnerData(flat, since, parameters, number(engine.trait_sd), drift)


@dataclass(frozen=True)
class LearnerGibbs:
    """Sample each learner by Gibbs sweeps with Pólya-Gamma numbers.

    Parameters
    ----------
    num_draws, num_warmup : int
        Kept sweeps, and those before.
    trait_sd : float
        Prior standard deviation of each trait, on its log or logit scale.
    drift_sd : float
        Standard deviation of what varies slowly about each trait; 0: traits are constant.
    drift_rows : float
        Rows after which what varies is forgotten to 1/e.

    Notes
    -----
    A sweep filters all rows a few times: O(rows dim³) for dim states. ``partial_fit`` samples
    the learners of the new rows again. Evidence is that of moment matching.
    """

    num_draws: int = 300
    num_warmup: int = 100
    trait_sd: float = 0.5
    drift_sd: float = 0.0
    drift_rows: float = 50.0

    def __post_init__(self):
        _check(self, num_draws=2, num_warmup=0)

    def infer(
        self, key: Any, data: LearnerData, structure: Structure, num_rows: int, online: Any
    ) -> tuple[LearnerMixture, Any, float | None]:
        """Return the posterior of one learner; what is online is not used."""
        found = gibbs_draws(
            key,
            data,
            np.int32(num_rows - 1),
            structure=structure,
            num_warmup=self.num_warmup,
            num_draws=self.num_draws,
        )
        found = jax.tree.map(np.asarray, found)
        return LearnerMixture(*found), None, None


@dataclass(frozen=True)
class LearnerSMC2:
    """Follow each learner online by SMC², with Rao-Blackwellised filters.

    Parameters
    ----------
    num_traits, num_particles : int
        Particles of traits, and Gaussians for each.
    trait_sd : float
        Prior standard deviation of each trait, on its log or logit scale.
    drift_sd : float
        Standard deviation of what varies slowly about each trait; 0: traits are constant.
    drift_rows : float
        Rows after which what varies is forgotten to 1/e.

    Notes
    -----
    A row costs O(num_traits num_particles dim³); rows at which traits are moved filter all rows
    so far again.
    """

    num_traits: int = 100
    num_particles: int = 20
    trait_sd: float = 0.5
    drift_sd: float = 0.0
    drift_rows: float = 50.0

    def __post_init__(self):
        _check(self, num_traits=2, num_particles=1)

    def infer(
        self, key: Any, data: LearnerData, structure: Structure, num_rows: int, online: Any
    ) -> tuple[LearnerMixture, Any, float | None]:
        """Take in the rows that ``online = (Online, rows so far)`` has not seen."""
        settings = self._sizes(structure)
        start_key, row_key, draw_key = random.split(key, 3)
        now, done = online or (smc2_start(start_key, data, **settings), 1)
        now = smc2_advance(row_key, now, data, np.int32(done), np.int32(num_rows), **settings)
        mixture = jax.tree.map(np.asarray, _drawn(draw_key, now, data.drift))
        return mixture, (now, num_rows), float(now.log_evidence)

    def restored(self, data: LearnerData, structure: Structure, leaves: list) -> Online:
        """Return what was known of a learner from its arrays."""
        # Only the shape of the tree: nothing is compiled.
        start = functools.partial(smc2_start.__wrapped__, **self._sizes(structure))
        like = jax.eval_shape(start, jax.random.key(0), data)
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _sizes(self, structure: Structure) -> dict[str, Any]:
        return {
            "structure": structure,
            "num_traits": self.num_traits,
            "num_particles": self.num_particles,
        }


def _check(settings: Any, **least: int) -> None:
    for name, value in least.items():
        found = getattr(settings, name)
        if not isinstance(found, int) or found < value:
            raise ValueError(f"{name} must be a whole number >= {value}, got {found!r}")
    if not settings.trait_sd > 0:
        raise ValueError(f"trait_sd must be positive, got {settings.trait_sd!r}")
    if not settings.drift_sd >= 0:
        raise ValueError(f"drift_sd must not be negative, got {settings.drift_sd!r}")
    if not settings.drift_rows > 0:
        raise ValueError(f"drift_rows must be positive, got {settings.drift_rows!r}")


@quick_jit(optimised=False)
def _drawn(key: Any, online: Online, drift: TraitDrift | None) -> LearnerMixture:
    """Return equally weighted traits, and a Gaussian of the filter of each."""
    outer_key, inner_key = random.split(key)
    population = online.population
    chosen = random.categorical(outer_key, population.log_weights, population.num_particles)
    particles = jax.tree.map(lambda x: x[chosen], population.particles)

    def one(lane_key, particle):
        place_key, ahead_key = random.split(lane_key)
        constant, inner = particle.parameters, particle.sample
        place = random.categorical(place_key, inner.log_weights)
        found = jax.tree.map(lambda x: x[place], inner.particles)
        now = ahead = constant + found.added
        if drift is not None:
            normal = random.normal(ahead_key, constant.shape, constant.dtype)
            ahead = constant + drifted(found.added, normal, drift)
        return LearnerMixture(now, ahead, found.belief)

    return random.lanes(one, inner_key, particles)


@quick_jit(static_argnames="structure")
def mixture_forecast(
    parameters: dict,
    mixture: LearnerMixture,
    trials: Trials,
    since: SinceLast,
    *,
    structure: Structure,
) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance of η of each query and draw, (queries, draws)."""

    def one(traits, belief, trial, moved):
        own = with_traits(parameters, traits)
        step = joint_steps(own, trial, moved, structure)
        mean = step.transition @ belief.mean
        P = step.transition @ belief.covariance @ step.transition.T + step.noise
        return step.offset + step.loading @ mean, step.loading @ P @ step.loading

    by_draw = jax.vmap(one, in_axes=(0, 0, None, None))
    each = lambda query: by_draw(mixture.ahead, mixture.belief, *query)
    return jax.lax.map(each, (trials, jax.tree.map(jnp.asarray, since)))
