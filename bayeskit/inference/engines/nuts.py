"""The no-U-turn sampler with NumPyro's warm-up, as an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import InitializationError, MissingGradientError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import diagnose
from bayeskit.inference.engines.base import constrained_draws, prepared_target
from bayeskit.inference.kernels import NoUTurn, Tuning
from bayeskit.inference.long_run import LEAST_DRAWS, LongRun, LongRunSettings, identity_of
from bayeskit.inference.measure import PointState, Target
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine

__all__ = ["NUTS"]

# Prior draws among which each chain takes the best as its start.
_NUM_CANDIDATES = 100
_CHUNK = 250


@dataclass(frozen=True)
class NUTS(LongRunSettings):
    """The no-U-turn sampler: NumPyro's trees and warm-up, compiled once for all chains.

    Parameters
    ----------
    num_draws, num_warmup : int
        Draws kept and draws used for tuning, for each chain.
    num_chains : int
    target_acceptance : float in (0, 1)
    dense_metric : bool
        Tune a full covariance instead of one scale for each coordinate.
    max_tree_depth : int
    progress : "auto" or bool
    checkpoint, checkpoint_every, max_seconds
        Of runs that take long; see :class:`~bayeskit.inference.LongRunSettings`.

    Raises
    ------
    ValueError
        For counts below 1, or a target acceptance outside of (0, 1).

    Notes
    -----
    No evidence is estimated. Step size and metric are frozen before the first kept draw.

    References
    ----------
    Hoffman & Gelman (2014); Phan, Pradhan & Jankowiak (2019).

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> import bayeskit as bk
    >>> target = bk.Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    >>> starts = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    >>> engine = bk.NUTS(num_warmup=200, num_draws=200, progress=False)
    >>> posterior = engine.run(target, key=0, initial_positions=starts)
    >>> posterior.draws["x"].shape
    (4, 200, 2)
    """

    num_draws: int = 1000
    num_warmup: int = 1000
    num_chains: int = 4
    target_acceptance: float = 0.8
    dense_metric: bool = False
    max_tree_depth: int = 10
    progress: str | bool = "auto"

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_draws", "num_warmup", "num_chains", "max_tree_depth"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        if not 0 < self.target_acceptance < 1:
            raise ValueError(
                f"target_acceptance must be in (0, 1), got {self.target_acceptance!r}"
            )

    def run(
        self,
        target: Target,
        data: tuple | None = None,
        key: Any = 0,
        *,
        initial_positions: Any = None,
        step_size: float | None = None,
        covariance: Any = None,
    ) -> Posterior:
        """Return the posterior of a target, for data of the given arrays.

        Parameters
        ----------
        target : Target
        data : tuple of arrays, optional
            Default: the data that the target holds.
        key : int or JAX key
        initial_positions : pytree of arrays (num_chains, ...), optional
            Where the chains start. Default: the best of 100 prior draws each.
        step_size : float, optional
            What the warm-up starts from, as another sampler has left it, so that
            ``num_warmup`` may be small. Default: dim^(-1/4).
        covariance : (dim, dim) array if ``dense_metric``, else (dim,) array, optional
            The same for the metric: covariance of the positions as vectors, or their
            variances. Default: the identity.

        Raises
        ------
        MissingGradientError
            If the target has no gradient.
        ImproperPriorError
            If there are neither prior draws nor initial positions to start from.
        InitializationError
            If no start has a finite density and a finite gradient.
        KeyboardInterrupt, UnfinishedRunError
            After Ctrl-C or ``max_seconds``, if that comes before the first draws.
        """
        if not target.has_gradient:
            raise MissingGradientError(
                f"NUTS follows the gradient of the log density, but the target {target.name} "
                "declares has_gradient=False. Use SMC(kernel=RandomWalk())"
            )
        spec = None
        if initial_positions is not None:
            spec = jax.tree.map(lambda x: jnp.asarray(x)[0], initial_positions)
        target = prepared_target(target, data, spec)
        key = accel.as_key(key)
        start_key, chain_key = jax.random.split(key)
        line = ProgressLine("NUTS", self.progress)
        with CompileClock() as clock:
            if initial_positions is None:
                candidates = _candidates(target, start_key, self.num_chains)
            else:
                candidates = jax.vmap(lambda x: jax.flatten_util.ravel_pytree(x)[0])(
                    initial_positions
                )[:, None]
            starts, found = _best_starts(target, candidates)
            _check_starts(target, candidates, found)
            dim, dtype = starts.shape[1], starts.dtype
            if step_size is None:
                step_size = NoUTurn().default_step_size(dim)
            if covariance is None:
                covariance = np.eye(dim) if self.dense_metric else np.ones(dim)
            carry = _begin(
                self,
                target,
                starts,
                chain_key,
                np.asarray(step_size, dtype),
                np.asarray(covariance, dtype),
            )
            given = {"step_size": step_size, "covariance": covariance, "starts": starts}
            identify = lambda: identity_of(
                self,
                key,
                target.data,
                {"model": (target.components, starts[0])},
                **given,
            )
            with LongRun(self, identify) as long_run:
                record = self._sample(target, carry, line, long_run)
            draws = constrained_draws(target, jnp.asarray(record.position))
            diagnostics = diagnose(
                draws,
                num_divergent=int(record.divergent.sum()),
                num_not_finite=int(record.not_finite.sum()),
                acceptance=float(record.acceptance.mean()),
            )
        line.close(f"R-hat {diagnostics.r_hat_max:.3f}, ESS {diagnostics.ess_bulk_min:.0f}")
        return Posterior(
            draws=draws,
            positions=record.position,
            sample_stats={
                "lp": record.log_density,
                "diverging": record.divergent,
                "acceptance_rate": record.acceptance,
                "step_size": record.step_size,
                "n_steps": record.num_steps,
                "energy": record.energy,
            },
            diagnostics=diagnostics,
            engine=repr(self),
            law=NoUTurn().law(target.measure).explain(),
            timing=clock.timing(),
            interrupted=record.position.shape[1] < self.num_draws,
        )

    def _sample(
        self, target: Target, carry: _Carry, line: ProgressLine, long_run: LongRun
    ) -> Any:
        """Return what is kept of the iterations after the warm-up, (chain, draw, ...)."""
        total = self.num_warmup + self.num_draws
        done = 0
        kept: list[Any] = []

        def state() -> tuple[_Carry, Any]:
            # Joined once: the next checkpoint has less to join.
            if len(kept) > 1:
                kept[:] = [jax.tree.map(lambda *x: np.concatenate(x, axis=1), *kept)]
            return carry, kept[0]

        if resumed := long_run.resumed(
            "run", lambda: (carry, _record_like(self, target, carry))
        ):
            carry, kept = resumed[0], [resumed[1]]
            done = kept[0].step_size.shape[1]
        while done < total and not long_run.stopped:
            num = long_run.piece(total - done, _CHUNK)
            carry, record = _chunk(self, target, carry, num)
            kept.append(jax.tree.map(lambda x, n=num: np.asarray(x)[:, :n], record))
            done += num
            divergent = sum(int(r.divergent.sum()) for r in kept)
            line.show(
                f"{done} of {total} draws of {self.num_chains} chains, step size "
                f"{float(np.mean(kept[-1].step_size[:, -1])):.3g}, {divergent} divergent"
            )
            long_run.reached("run", state)
        num = done - self.num_warmup
        if num < self.num_draws:
            if num < LEAST_DRAWS:
                long_run.refuse_partial(
                    f"after {done} of {total} iterations",
                    f"The first {self.num_warmup} are warm-up and no draws",
                )
            long_run.warn_partial(f"{num} of {self.num_draws} draws of each chain")
        return jax.tree.map(lambda x: x[:, self.num_warmup :], state()[1])


class _Record(NamedTuple):
    """What is kept of one iteration."""

    position: jax.Array
    log_density: jax.Array
    divergent: jax.Array
    not_finite: jax.Array
    acceptance: jax.Array
    step_size: jax.Array
    num_steps: jax.Array
    energy: jax.Array


class _Carry(NamedTuple):
    """State of all chains between chunks; leaves have a leading axis of chains."""

    key: Any
    iteration: jax.Array
    state: PointState
    adaptation: Any


def _record_like(engine: NUTS, target: Target, carry: _Carry) -> _Record:
    shapes = _chunk.eval_shape(engine, target, carry, 1)[1]
    return jax.tree.map(lambda s: np.zeros((1,) * len(s.shape), s.dtype), shapes)


@quick_jit(static_argnames="num_chains")
def _candidates(target: Target, key: jax.Array, num_chains: int) -> jax.Array:
    num = num_chains * _NUM_CANDIDATES
    flat = random.lanes(lambda k, _: target.draw_prior(k), key, jnp.arange(num))
    return flat.reshape(num_chains, _NUM_CANDIDATES, -1)


@quick_jit
def _best_starts(target: Target, candidates: jax.Array) -> tuple[jax.Array, jax.Array]:
    density = target.density()

    def usable_log_density(x):
        components, gradient = density.components_and_gradient(x)
        value = density.combine(components)
        usable = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        return jnp.where(usable, value, -jnp.inf)

    values = jax.vmap(jax.vmap(usable_log_density))(candidates)
    best = jnp.argmax(values, axis=1)
    starts = jnp.take_along_axis(candidates, best[:, None, None], axis=1)[:, 0]
    return starts, jnp.isfinite(jnp.max(values, axis=1))


def _check_starts(target: Target, candidates: jax.Array, found: jax.Array) -> None:
    if bool(jnp.all(found)):
        return
    components = np.asarray(jax.vmap(jax.vmap(target.components))(candidates))
    total = components[..., 0].size
    counts = []
    names = ("log prior", "log-likelihood") if target.has_prior else ("log density",)
    for i, name in enumerate(names):
        values = components[..., i]
        counts.append(
            f"{name}: {int(np.isnan(values).sum())} NaN, "
            f"{int(np.isneginf(values).sum())} -inf, {int(np.isposinf(values).sum())} +inf"
        )
    raise InitializationError(
        f"none of {total} starts has a finite density and gradient ({'; '.join(counts)}; "
        "the others have a gradient that is not finite). Check the likelihood at prior draws. "
        "A NaN gradient often comes from jnp.where with a branch that is NaN"
    )


def _adapter(engine: NUTS) -> tuple[Any, Any]:
    from numpyro.infer.hmc_util import warmup_adapter

    return warmup_adapter(
        engine.num_warmup,
        dense_mass=engine.dense_metric,
        target_accept_prob=engine.target_acceptance,
    )


@quick_jit(static_argnames="engine")
def _begin(
    engine: NUTS,
    target: Target,
    starts: jax.Array,
    key: jax.Array,
    step_size: jax.Array,
    covariance: jax.Array,
) -> _Carry:
    density = target.density()
    kernel = NoUTurn(engine.max_tree_depth)
    start_adaptation, _ = _adapter(engine)

    def one(chain_key, position):
        adaptation = start_adaptation(
            (position,),
            chain_key,
            step_size,
            inverse_mass_matrix=covariance,
            mass_matrix_size=position.size,
        )
        # The warm-up draws nothing itself; its key only has to be there.
        return kernel.init(position, density), adaptation

    num_chains = starts.shape[0]
    keys = jax.random.split(key, num_chains)
    states, adaptation = jax.vmap(one)(keys, starts)
    return _Carry(keys, jnp.zeros(num_chains, jnp.int32), states, adaptation)


@quick_jit(static_argnames="engine")
def _chunk(
    engine: NUTS, target: Target, carry: _Carry, num: jax.Array
) -> tuple[_Carry, _Record]:
    density = target.density()
    kernel = NoUTurn(engine.max_tree_depth)
    _, update_adaptation = _adapter(engine)

    def step(now: _Carry) -> tuple[_Carry, _Record]:
        adaptation = now.adaptation
        inverse_mass = adaptation.inverse_mass_matrix
        factor = (
            jnp.linalg.cholesky(inverse_mass) if engine.dense_metric else jnp.sqrt(inverse_mass)
        )
        tuning = Tuning(adaptation.step_size, now.state.position, factor)
        step_key = random.fold_in(now.key, now.iteration)
        state, info = kernel.step(step_key, now.state, density, tuning)
        adaptation = lax.cond(
            now.iteration < engine.num_warmup,
            lambda a: update_adaptation(now.iteration, info.acceptance, (state.position,), a),
            lambda a: a,
            adaptation,
        )
        record = _Record(
            state.position,
            density.combine(state.components),
            info.divergent,
            info.not_finite,
            info.acceptance,
            tuning.step_size,
            info.num_steps,
            info.energy,
        )
        return now._replace(
            iteration=now.iteration + 1, state=state, adaptation=adaptation
        ), record

    def one_chain(start: _Carry) -> tuple[_Carry, _Record]:
        shapes = jax.eval_shape(lambda c: step(c)[1], start)
        blank = jax.tree.map(lambda s: jnp.zeros((_CHUNK, *s.shape), s.dtype), shapes)

        def body(i, carried):
            now, records = carried
            now, record = step(now)
            records = jax.tree.map(lambda all_, one: all_.at[i].set(one), records, record)
            return now, records

        return lax.fori_loop(0, num, body, (start, blank))

    if jax.default_backend() == "cpu":
        # Under vmap every chain would wait for the longest tree of all.
        return lax.map(one_chain, carry)
    return jax.vmap(one_chain)(carry)
