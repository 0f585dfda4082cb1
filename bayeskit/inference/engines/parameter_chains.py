"""What the engines that move parameters of state-space models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import ParticleCollapseError
from bayeskit.inference import random
from bayeskit.inference.adaptation import covariance_factor
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.blocks import run
from bayeskit.inference.collapse import check_collapse
from bayeskit.inference.engines.base import as_named_states
from bayeskit.inference.long_run import LEAST_DRAWS, LongRun, identity_of
from bayeskit.inference.population import total_log_evidence
from bayeskit.inference.state_space_target import StateSpaceTarget

__all__ = [
    "Adaptation",
    "check_counts",
    "check_free",
    "constrained_parameters",
    "filter_estimates",
    "identity_of_chains",
    "named_draws",
    "prior_draws",
    "run_chains",
    "starting_points",
]

# Gains of adaptation fall as the step to this power, so that their sum is infinite and that of
# their squares is not (Andrieu & Thoms 2008).
_DECAY = 0.6
# Particles of a filter that shows where all are lost.
_NUM_TRIED = 100


class Adaptation(NamedTuple):
    """Moments of all chains so far and the scale of the proposal, moved by falling gains.

    Parameters
    ----------
    mean, covariance : (dim,), (dim, dim) arrays
    log_scale : () array
        Of the proposal, beside the covariance.

    References
    ----------
    Haario, Saksman & Tamminen (2001); Andrieu & Thoms (2008), algorithm 4.
    """

    mean: jax.Array
    covariance: jax.Array
    log_scale: jax.Array

    @classmethod
    def start(cls, draws: np.ndarray, log_scale: float) -> Adaptation:
        """Return the moments of some draws (num, dim)."""
        covariance = np.atleast_2d(np.cov(draws, rowvar=False))
        parts = (draws.mean(axis=0), covariance, np.asarray(log_scale, draws.dtype))
        return cls(*map(jnp.asarray, parts))

    @property
    def factor(self) -> jax.Array:
        """Lower triangular L with L L' close to the covariance."""
        return covariance_factor(self.covariance, jnp.asarray(20.0, self.covariance.dtype))

    def updated(
        self, number: Any, theta: jax.Array, acceptance: jax.Array, wanted: float
    ) -> Adaptation:
        """Return what the chains (chain, dim) of step ``number`` make of it."""
        gain = ((number + 1.0) ** -_DECAY).astype(theta.dtype)
        centred = theta - self.mean
        covariance = centred.T @ centred / len(theta)
        return Adaptation(
            self.mean + gain * jnp.mean(centred, axis=0),
            self.covariance + gain * (covariance - self.covariance),
            self.log_scale + gain * (jnp.mean(acceptance) - wanted),
        )


def check_free(model: Any, engine: str) -> None:
    """Refuse a model without free parameters."""
    if not model.free:
        raise ValueError(
            f"{engine} moves parameters, but the model has no free ones: give prior "
            "distributions in StateSpaceModel(params=...), or take ParticleFilter"
        )


def check_counts(engine: Any, **least: int) -> None:
    """Refuse numbers below the least that makes sense."""
    for name, bound in least.items():
        number = getattr(engine, name)
        if not isinstance(number, int | np.integer) or number < bound:
            raise ValueError(f"{name} must be a whole number >= {bound}, got {number!r}")


@quick_jit(static_argnames=("num_particles", "scheme", "ess_below"))
def filter_estimates(
    target: StateSpaceTarget,
    theta: jax.Array,
    key: Any,
    num_particles: int,
    scheme: str,
    ess_below: float | None,
) -> jax.Array:
    """Return one estimate of the log likelihood for each row of parameters (num, dim)."""

    def one(lane_key, parameters):
        model = target.feynman_kac(parameters)
        filtered = particle_filter(model, num_particles, scheme=scheme, ess_below=ess_below)
        return total_log_evidence(filtered.run(lane_key)[0])

    return random.lanes(one, key, theta)


@quick_jit(static_argnames=("model", "num"), optimised=False)
def prior_draws(model: Any, num: int, key: Any) -> jax.Array:
    """Return draws (num, dim) of the free parameters."""
    return random.lanes(lambda k, _: model.prior.draw_prior(k), key, jnp.arange(num))


def run_chains(
    engine: Any,
    advance: Callable,
    carry: Any,
    seen_like: Any,
    most: int,
    long_run: LongRun,
    show: Callable,
) -> Any:
    """Run warm-up and draws piece by piece, and return what is kept.

    Parameters
    ----------
    engine : with num_warmup and num_draws
    advance : callable (carry, first, size) -> carry, seen
        Makes steps ``first`` to ``first + size`` of all chains. ``seen`` has a leading axis of
        steps, of which the first ``size`` count.
    carry : pytree of arrays
        All that the next piece needs.
    seen_like : callable () -> pytree of arrays or shapes
        With the structure and the dtypes of ``seen``.
    most : int
        Steps that ``advance`` can make in one call.
    show : callable (done, seen)
        Shows progress.

    Returns
    -------
    pytree of arrays (draw, ...)
        What was seen of the draws; of the first ones only where the run was stopped.
    """
    done, total = 0, engine.num_warmup + engine.num_draws
    kept: list[Any] = []

    def state() -> dict[str, Any]:
        # Joined once: the next checkpoint has less to join.
        kept[:] = [jax.tree.map(lambda *parts: np.concatenate(parts), *kept)]
        return {"carry": carry, "done": np.asarray(done, np.int64), "kept": kept[0]}

    def like() -> dict[str, Any]:
        return {"carry": carry, "done": np.zeros((), np.int64), "kept": seen_like()}

    if saved := long_run.resumed("run", like):
        carry, done, kept = saved["carry"], int(saved["done"]), [saved["kept"]]
    while done < total and not long_run.stopped:
        is_kept = done >= engine.num_warmup
        size = long_run.piece((total if is_kept else engine.num_warmup) - done, most)
        carry, seen = advance(carry, np.int32(done), np.int32(size))
        seen = jax.tree.map(lambda x, n=size: np.asarray(x)[:n], seen)
        # Nothing of the warm-up, but its dtypes.
        kept.append(seen if is_kept else jax.tree.map(lambda x: x[:0], seen))
        done += size
        show(done, seen)
        long_run.reached("run", state)
    num = done - engine.num_warmup
    if num < engine.num_draws:
        if num < LEAST_DRAWS:
            long_run.refuse_partial(
                f"after {done} of {total} steps",
                f"The first {engine.num_warmup} are warm-up and no draws",
            )
        long_run.warn_partial(f"{num} of {engine.num_draws} draws of each chain")
    return state()["kept"]


def identity_of_chains(engine: Any, target: StateSpaceTarget, key: Any) -> dict[str, str]:
    """Return the fingerprint of a run on a state-space model."""

    def computed(theta):
        model = target.feynman_kac(theta)
        filtered = particle_filter(model, 2).run(jax.random.key(0))[0]
        return target.prior.log_density(theta), total_log_evidence(filtered)  # type: ignore[misc]

    theta = jax.eval_shape(target.prior.draw_prior, jax.random.key(0))
    return identity_of(engine, key, target.rows, {"model": (computed, theta)})


def starting_points(
    target: StateSpaceTarget, theta: np.ndarray, log_likelihood: np.ndarray, num_chains: int
) -> np.ndarray:
    """Return the best of as many draws as there are for each chain (chain, dim).

    Raises
    ------
    ParticleCollapseError
        If the likelihood is zero at all of them, with the time at which that of the first is.
    """
    if not np.isfinite(log_likelihood).any():
        raise ParticleCollapseError(
            f"the particle filter lost all particles at each of {len(theta)} draws from the "
            "prior: narrow the prior, take more particles, or check the observations. "
            f"{_where_lost(target, theta[0])}"
        )
    usable = np.where(np.isfinite(log_likelihood), log_likelihood, -np.inf)
    best = np.argmax(usable.reshape(num_chains, -1), axis=1)
    chosen = theta.reshape(num_chains, -1, theta.shape[-1])[np.arange(num_chains), best]
    lost = ~np.isfinite(usable.reshape(num_chains, -1).max(axis=1))
    chosen[lost] = theta[np.argmax(usable)]
    return chosen


def _where_lost(target: StateSpaceTarget, parameters: np.ndarray) -> str:
    """Return what a filter at these parameters says of its collapse."""
    filtered = particle_filter(target.feynman_kac(jnp.asarray(parameters)), _NUM_TRIED)
    try:
        population, info = run(filtered, 0, with_info=True)
        check_collapse(population, info, target.rows.y)
    except ParticleCollapseError as error:
        return f"At the first of them, {error}"
    return ""


@quick_jit(static_argnames="model", optimised=False)
def constrained_parameters(model: Any, theta: jax.Array) -> dict[str, jax.Array]:
    """Return parameters by name from rows (num, dim) of unconstrained vectors."""
    return jax.vmap(model.constrain)(theta)


def named_draws(
    model: Any, theta: np.ndarray, states: Any, suffix: str = ""
) -> dict[str, np.ndarray]:
    """Return parameters and states by name from (chain, draw, ...) arrays.

    Raises
    ------
    ValueError
        If a parameter is named as a state is.
    """
    num_chains, num_draws, dim = theta.shape
    parameters = constrained_parameters(model, jnp.asarray(theta.reshape(-1, dim)))
    draws = {
        name: np.asarray(v).reshape(num_chains, num_draws, *v.shape[1:])
        for name, v in parameters.items()
    }
    for name, values in as_named_states(states).items():
        if name + suffix in draws:
            raise ValueError(
                f"both a parameter and a state are named {name + suffix!r}: rename one"
            )
        draws[name + suffix] = np.asarray(values)
    return draws
