"""Non-reversible parallel tempering as an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import InitializationError
from bayeskit.inference import random
from bayeskit.inference.adaptation import MAX_DENSE_DIM, covariance_factor
from bayeskit.inference.algorithms.parallel_tempering import parallel_tempering
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import diagnose
from bayeskit.inference.engines.base import constrained_draws, prepared_target
from bayeskit.inference.kernels import HMC, Kernel, RandomWalk, Tuning
from bayeskit.inference.ladder import (
    bridge_evidence,
    num_round_trips,
    rejection_rates,
    respaced,
)
from bayeskit.inference.long_run import LEAST_DRAWS, LongRun, LongRunSettings, identity_of
from bayeskit.inference.measure import PointState, Target, TemperedPath
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine
from bayeskit.inference.transitions import Replicas

__all__ = ["ParallelTempering"]

_NUM_CANDIDATES = 100
_CHUNK = 250
# Rungs whose exchange is rejected more often than this hardly talk to each other.
_MAX_REJECTION = 0.9
# Golden-ratio sequence: the lengths of successive trajectories are spread evenly.
_GOLDEN = 0.6180339887498949
# Draws that count as one independent draw when a metric is fitted.
_DRAWS_PER_INDEPENDENT = 10.0


@dataclass(frozen=True)
class ParallelTempering(LongRunSettings):
    r"""Chains from the prior to the posterior that exchange their states: for several modes.

    Each of ``num_chains`` ladders holds ``num_temperatures`` chains on
    :math:`p(x) L(x)^{\lambda_i}`. The temperatures, and metric and step size of each, are tuned
    during the warm-up and then frozen. The log evidence and its standard error come from the
    draws at all temperatures.

    Parameters
    ----------
    num_temperatures : int
    num_draws, num_warmup : int
        Draws kept and draws used for tuning, for each ladder.
    num_chains : int
        Independent ladders.
    kernel : "auto" or Kernel
        ``"auto"``: Hamiltonian Monte Carlo, or a random walk where there is no gradient.
    num_moves : int
        Kernel steps between exchanges.
    progress : "auto" or bool
    checkpoint, checkpoint_every, max_seconds
        Of runs that take long; see :class:`~bayeskit.inference.LongRunSettings`.

    Raises
    ------
    ValueError
        For counts that are too small.

    Notes
    -----
    Cost: num_chains times num_temperatures times num_moves kernel steps a draw, in one batch. A
    run reports ``round_trips``: without any, the ladder has not carried a state from the prior
    to the posterior, and the result is that of separate chains.

    References
    ----------
    Syed, Bouchard-Côté, Deligiannidis & Doucet (2022), *Non-reversible parallel tempering*.

    Examples
    --------
    One observation of 1.0; the evidence is the density of N(0, 10) there, with logarithm -2.12.

    >>> import numpyro, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> def model(y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0, 3))
    ...     numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> engine = bk.ParallelTempering(num_draws=500, num_temperatures=4)
    >>> est = bk.BayesianModel(model, inference=engine, random_state=0).fit(y=1.0)
    >>> est.log_evidence_, est.result_.history["ladder"][[0, -1]].tolist()
    (-2.1, [0.0, 1.0])
    """

    num_temperatures: int = 12
    num_draws: int = 1000
    num_warmup: int = 600
    num_chains: int = 4
    kernel: str | Kernel = "auto"
    num_moves: int = 2
    progress: str | bool = "auto"

    def __post_init__(self):
        super().__post_init__()
        least = {"num_temperatures": 2, "num_draws": 10, "num_warmup": 8}
        for name in ("num_temperatures", "num_draws", "num_warmup", "num_chains", "num_moves"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least.get(name, 1):
                raise ValueError(
                    f"{name} must be a whole number >= {least.get(name, 1)}, got {value!r}"
                )
        if self.kernel != "auto" and not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel must be 'auto' or a Kernel, got {self.kernel!r}")

    def kernel_for(self, target: Target) -> Kernel:
        """Return the kernel that moves a target."""
        if isinstance(self.kernel, Kernel):
            return self.kernel
        return HMC() if target.has_gradient else RandomWalk()

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
        InitializationError
            If no prior draw has a finite likelihood.
        KeyboardInterrupt, UnfinishedRunError
            After Ctrl-C or ``max_seconds``, if that comes before the first draws.
        """
        target, key = prepared_target(target, data), accel.as_key(key)
        # Rungs crowd where the likelihood first bites; the warm-up moves them.
        ladder = np.linspace(0.0, 1.0, self.num_temperatures) ** 3
        law = parallel_tempering(
            target, self.kernel_for(target), ladder, num_moves=self.num_moves
        ).explain()
        line = ProgressLine("ParallelTempering", self.progress)
        with CompileClock() as clock:
            carry, usable = _begin(self, target, jnp.asarray(ladder), key)
            if not bool(usable):
                raise InitializationError(
                    f"none of {self.num_chains * _NUM_CANDIDATES} prior draws has a finite "
                    "density: check the likelihood at draws from the prior"
                )
            code = {"model": (target.components, target.position_spec())}
            identify = lambda: identity_of(self, key, target.data, code)
            with LongRun(self, identify) as long_run:
                ladder, record = self._sample(target, ladder, carry, line, long_run)
            posterior = self._finish(target, ladder, record, law)
        line.close(
            f"R-hat {posterior.diagnostics.r_hat_max:.3f}, log evidence "
            f"{posterior.log_evidence:.2f} ± {posterior.log_evidence_se:.2f}"
        )
        posterior.timing.update(clock.timing())
        return posterior

    def _sample(
        self,
        target: Target,
        ladder: np.ndarray,
        carry: _Carry,
        line: ProgressLine,
        long_run: LongRun,
    ) -> tuple[np.ndarray, Any]:
        """Return the ladder, and the draws at it (chain, draw, ...)."""
        # Rounds of warm-up, with a new ladder after each but the last; then what is kept.
        rounds = [*_rounds(self.num_warmup), self.num_draws]
        last = len(rounds) - 1
        number = done = 0
        kept: list[Any] = []

        def state() -> dict[str, Any]:
            # Joined once: the next checkpoint has less to join.
            kept[:] = [jax.tree.map(lambda *x: np.concatenate(x), *kept)]
            place = np.asarray([number, done], np.int64)
            return {"carry": carry, "ladder": ladder, "place": place, "kept": kept[0]}

        def like() -> dict[str, Any]:
            kept.append(_chunk.eval_shape(self, target, jnp.asarray(ladder), carry, 0, True)[1])
            place = np.zeros(2, np.int64)
            return {"carry": carry, "ladder": ladder, "place": place, "kept": kept.pop()}

        if saved := long_run.resumed("run", like):
            carry, ladder, kept = saved["carry"], saved["ladder"], [saved["kept"]]
            number, done = map(int, saved["place"])
        while (number < last or done < self.num_draws) and not long_run.stopped:
            is_warmup = number < last
            num = long_run.piece(rounds[number] - done, _CHUNK)
            carry, record = _chunk(self, target, jnp.asarray(ladder), carry, num, is_warmup)
            kept.append(jax.tree.map(lambda x, n=num: np.asarray(x)[:n], record))
            done += num
            rejection = rejection_rates(kept[-1].log_likelihood, ladder).mean()
            line.show(
                f"{done} of {rounds[number]} {'warm-up' if is_warmup else 'kept'} draws "
                f"of {self.num_chains} ladders, exchanges rejected {rejection:.2f}"
            )
            if is_warmup and done == rounds[number]:
                if number < last - 1:
                    seen = np.moveaxis(state()["kept"].log_likelihood, 0, 1)
                    before, ladder = ladder, respaced(ladder, rejection_rates(seen, ladder))
                    nearest = np.argmin(np.abs(before[:, None] - ladder), axis=0)
                    carry = _retuned(self, carry, nearest)
                number, done = number + 1, 0
                kept = [jax.tree.map(lambda x: x[:0], kept[-1])]
            long_run.reached("run", state)
        if number < last or done < LEAST_DRAWS:
            long_run.refuse_partial(
                f"after {sum(rounds[:number]) + done} of {sum(rounds)} draws",
                f"The first {self.num_warmup} are warm-up and not kept",
            )
        if done < self.num_draws:
            long_run.warn_partial(f"{done} of {self.num_draws} draws of each ladder")
        # (draw, chain, ...) as it is made, (chain, draw, ...) as it is looked at.
        return ladder, jax.tree.map(lambda x: np.moveaxis(x, 0, 1), state()["kept"])

    def _finish(self, target, ladder, record, law):
        log_evidence, log_evidence_se = bridge_evidence(record.log_likelihood, ladder)
        rejections = rejection_rates(record.log_likelihood, ladder)
        round_trips = num_round_trips(record.origin)
        reasons = []
        if rejections.max() > _MAX_REJECTION:
            place = int(rejections.argmax())
            reasons.append(
                f"exchanges between inverse temperatures {ladder[place]:.3g} and "
                f"{ladder[place + 1]:.3g} are rejected at a rate of {rejections.max():.2f}: "
                "raise num_temperatures"
            )
        elif not round_trips:
            reasons.append(
                "no state went from the prior to the posterior and back: take more draws"
            )
        draws = constrained_draws(target, jnp.asarray(record.position))
        return Posterior(
            draws=draws,
            positions=record.position,
            sample_stats={
                "lp": record.components.sum(axis=-1),
                "log_prior": record.components[..., 0],
                "log_likelihood_sum": record.components[..., 1],
                "acceptance_rate": record.acceptance,
            },
            diagnostics=diagnose(
                draws,
                num_not_finite=int(record.not_finite.sum()),
                acceptance=float(record.acceptance.mean()),
                reasons=tuple(reasons),
            ),
            log_evidence=log_evidence,
            log_evidence_se=log_evidence_se,
            history={
                "ladder": ladder,
                "rejection": rejections,
                "round_trips": np.asarray(round_trips),
                "mean_log_likelihood": record.log_likelihood.mean(axis=(0, 1)),
            },
            engine=repr(self),
            law=law,
            interrupted=record.position.shape[1] < self.num_draws,
        )


def _rounds(num_warmup: int) -> list[int]:
    """Return the lengths of the warm-up rounds: each about as long as all before it."""
    last, third, second = num_warmup // 2, num_warmup // 4, num_warmup // 8
    return [num_warmup - last - third - second, second, third, last]


class _Record(NamedTuple):
    """What is kept of one draw; leaves have a leading axis of chains."""

    position: jax.Array
    components: jax.Array
    log_likelihood: jax.Array  # (chain, rung)
    origin: jax.Array  # (chain, rung)
    acceptance: jax.Array
    not_finite: jax.Array


class _Moments(NamedTuple):
    """Sums over the draws of a round, for each rung, about the mean of the tuning."""

    num: jax.Array
    first: jax.Array
    second: jax.Array


class _Carry(NamedTuple):
    key: Any
    iteration: jax.Array
    replicas: Replicas  # leaves (chain, rung, ...)
    tuning: Tuning  # leaves (rung, ...)
    moments: _Moments


def _no_moments(tuning: Tuning) -> _Moments:
    zero = jnp.zeros((), tuning.mean.dtype)
    return _Moments(zero, jnp.zeros_like(tuning.mean), jnp.zeros_like(tuning.factor))


@quick_jit(static_argnames="engine")
def _begin(
    engine: ParallelTempering, target: Target, ladder: jax.Array, key: jax.Array
) -> tuple[_Carry, jax.Array]:
    start_key, carry_key = random.split(key)
    path = TemperedPath(target)
    num = engine.num_temperatures

    def start(chain_key: Any, _: Any) -> tuple[PointState, jax.Array]:
        draw_key, choice_key = random.split(chain_key)
        drawn = random.lanes(
            lambda k, _: path.initial(k), draw_key, jnp.arange(_NUM_CANDIDATES)
        )
        # Each rung starts from a prior draw that is chosen by its own tempered likelihood.
        usable = jnp.all(jnp.isfinite(drawn.components), axis=-1)
        log_likelihood = jnp.where(usable, drawn.components[:, 1], -jnp.inf)
        weighted = jnp.where(usable, ladder[:, None] * log_likelihood, -jnp.inf)
        chosen = random.categorical(choice_key, weighted)
        return jax.tree.map(lambda leaf: leaf[chosen], drawn), jnp.any(usable)

    chains = jnp.arange(engine.num_chains)
    states, usable = random.lanes(start, start_key, chains)
    origin = jnp.broadcast_to(jnp.arange(num, dtype=jnp.int32), (engine.num_chains, num))
    dim, dtype = states.position.shape[-1], states.position.dtype
    tuning = engine.kernel_for(target).default_tuning(dim, dtype)
    if dim <= MAX_DENSE_DIM:
        tuning = tuning._replace(factor=jnp.eye(dim, dtype=dtype))
    tuning = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *jnp.shape(leaf))), tuning)
    carry = _Carry(
        carry_key,
        jnp.zeros((), jnp.int32),
        Replicas(states, origin),
        tuning,
        _no_moments(tuning),
    )
    return carry, jnp.all(usable)


@quick_jit(static_argnames="engine")
def _retuned(engine: ParallelTempering, carry: _Carry, nearest: jax.Array) -> _Carry:
    """Return the metric of the draws of a round, each new rung taking that of the nearest."""
    moments, tuning = carry.moments, carry.tuning

    def one(first, second, mean):
        shift = first / moments.num
        if second.ndim == 2:
            covariance = second / moments.num - jnp.outer(shift, shift)
            size = moments.num / _DRAWS_PER_INDEPENDENT
            factor = covariance_factor(covariance, size)
        else:
            variance = second / moments.num - shift**2
            factor = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
        return mean + shift, factor

    mean, factor = jax.vmap(one)(moments.first, moments.second, tuning.mean)
    tuning = tuning._replace(mean=mean, factor=factor)
    tuning = jax.tree.map(lambda leaf: leaf[nearest], tuning)
    return carry._replace(
        # The next round counts its draws from 0, and no number is drawn twice.
        key=random.fold_in(carry.key, carry.iteration),
        iteration=jnp.zeros_like(carry.iteration),
        tuning=tuning,
        moments=_no_moments(tuning),
    )


@quick_jit(static_argnames="engine")
def _chunk(
    engine: ParallelTempering,
    target: Target,
    ladder: jax.Array,
    carry: _Carry,
    num: jax.Array,
    is_warmup: jax.Array,
) -> tuple[_Carry, _Record]:
    kernel = engine.kernel_for(target)

    def step(now: _Carry) -> tuple[_Carry, _Record]:
        phase = jnp.mod(_GOLDEN * (now.iteration + 1.0), 1.0).astype(ladder.dtype)
        tuning = now.tuning._replace(phase=jnp.full_like(now.tuning.step_size, phase))
        whole: Any = parallel_tempering(
            target, kernel, ladder, tuning=tuning, num_moves=engine.num_moves
        )
        key = random.fold_in(now.key, now.iteration)
        replicas, (moved, *_) = random.lanes(whole.each, key, now.replicas)
        states = replicas.states
        record = _Record(
            states.position[:, -1],
            states.components[:, -1],
            states.components[..., 1],
            replicas.origin,
            moved.acceptance[:, -1],
            moved.not_finite[:, -1],
        )
        gain = jnp.where(is_warmup, (now.iteration + 1.0) ** -0.6, 0.0)
        surprise = jnp.mean(moved.acceptance, axis=0) - kernel.target_acceptance
        step_size = now.tuning.step_size * jnp.exp(gain * surprise).astype(ladder.dtype)
        return now._replace(
            iteration=now.iteration + 1,
            replicas=replicas,
            tuning=now.tuning._replace(step_size=step_size),
            moments=_plus(now.moments, states.position - now.tuning.mean),
        ), record

    shapes = jax.eval_shape(lambda c: step(c)[1], carry)
    blank = jax.tree.map(lambda s: jnp.zeros((_CHUNK, *s.shape), s.dtype), shapes)

    def body(i, carried):
        now, records = carried
        now, record = step(now)
        return now, jax.tree.map(lambda all_, one: all_.at[i].set(one), records, record)

    return lax.fori_loop(0, num, body, (carry, blank))


def _plus(moments: _Moments, centred: jax.Array) -> _Moments:
    """Return the sums with the positions (chain, rung, dim) of one more draw."""
    if moments.second.ndim == 3:
        second = jnp.einsum("crd,cre->rde", centred, centred)
    else:
        second = jnp.sum(centred**2, axis=0)
    return _Moments(
        moments.num + centred.shape[0],
        moments.first + jnp.sum(centred, axis=0),
        moments.second + second,
    )
