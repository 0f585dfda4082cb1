"""One run of EnsembleHMC, from the start to the posterior."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit import accel
from bayeskit.errors import ImproperPriorError, MissingGradientError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import MIN_ESS, Diagnostics, diagnose
from bayeskit.inference.engines.base import prepared_target
from bayeskit.inference.engines.ensemble.bridge import log_evidence_of
from bayeskit.inference.engines.ensemble.failure import (
    MAX_DIVERGENT_SHARE,
    found_in_chains,
    found_in_modes,
    is_settled,
)
from bayeskit.inference.engines.ensemble.kept import Kept
from bayeskit.inference.engines.ensemble.noise import CHUNK
from bayeskit.inference.engines.ensemble.program import Program
from bayeskit.inference.engines.ensemble.saved import (
    START_LIKE,
    blank_record,
    restored_start,
    saved_start,
)
from bayeskit.inference.engines.ensemble.start import (
    Start,
    describe,
    find_start,
    usable_starts,
)
from bayeskit.inference.engines.ensemble.stopping import worst_effective_size
from bayeskit.inference.engines.ensemble.warm_up import Tuned, blank_factor, warm_up
from bayeskit.inference.long_run import LongRun, identity_of
from bayeskit.inference.measure import Target
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine

if TYPE_CHECKING:
    from bayeskit.inference.engines.ensemble_hmc import EnsembleHMC

__all__ = ["Ensemble"]


_START_WIDTH = 2.0
_MAX_TRIES = 100
# Draws of each chain with which R-hat is below 1.01 but for real disagreement. With 100 its
# noise is as large, and stopping when it happens to be low selects chains that look alike:
# standard errors came out 1.6 times too small.
_LEAST_DRAWS = 8 * CHUNK
_EVIDENCE_LAW = (
    "log evidence: L10 consistent, by bridge sampling between the draws and a normal fitted to "
    "the other half of the chains; its error vanishes as the number of draws grows"
)


def _check_floats(leaves: list) -> None:
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                "EnsembleHMC moves vectors of floating-point numbers, got a position of dtype "
                f"{leaf.dtype}. Convert it, or use SMC with a kernel for discrete spaces"
            )


class Ensemble:
    """One run of the engine, whose parts `auto` looks at on the way.

    Attributes
    ----------
    start : Start
        After :meth:`find_start`.
    tuned : Tuned
        After :meth:`sample`.
    last_positions : (num_chains, dim) array
        Where the chains are after :meth:`sample`.
    interrupted : bool
        Whether they were stopped before there were enough draws.
    """

    start: Start
    tuned: Tuned
    last_positions: np.ndarray
    interrupted: bool = False

    def __init__(
        self, engine: EnsembleHMC, target: Target, data: Any, key: Any, initial_positions: Any
    ):
        if not target.has_gradient:
            raise MissingGradientError(
                "EnsembleHMC follows the gradient of the log density, but the target "
                f"{target.name} declares has_gradient=False. Use SMC(kernel=RandomWalk())"
            )
        self.engine, self._initial = engine, initial_positions
        self._timing = {"compile_s": 0.0, "run_s": 0.0}
        self._line = ProgressLine("EnsembleHMC", engine.progress)
        with self._timed("warmup_s"):
            spec = _spec(target, data, initial_positions)
            self.target = prepared_target(target, data, spec)
            leaves = jax.tree.leaves(spec)
            _check_floats(leaves)
            dim = sum(math.prod(leaf.shape) for leaf in leaves)
            key = accel.as_key(key)
            # The noise of the chains has one number, everything else two.
            self._generator = random.host_generator(key, 0, 0)
        dtype = jnp.result_type(*leaves)
        self._long_run = LongRun(
            engine,
            lambda: identity_of(
                engine,
                key,
                self.target.data,
                {"model": (self.target.components, jax.ShapeDtypeStruct((dim,), dtype))},
                initial_positions=initial_positions,
            ),
        )
        num_chains = engine.num_chains or (64 if 10 < dim <= 200 else 32)
        self.program = Program(
            self.target,
            engine.kernel,
            num_chains,
            dim,
            dtype,
            key,
            blank_factor(num_chains, dim),
            engine.target_acceptance,
        )

    def run(self) -> Posterior:
        """Return the posterior."""
        with self._long_run:
            self.find_start()
            kept, diagnostics = self._warmed_and_kept()
        return self._finish(kept, diagnostics)

    def find_start(self) -> Start:
        """Search for modes and place the chains."""
        with self._timed("warmup_s"):
            if saved := self._long_run.resumed("start", lambda: START_LIKE):
                self.start = restored_start(saved, self.program, self._generator)
                return self.start
            self._line.show("searching for modes", force=True)
            starts, _ = usable_starts(self.program, self.engine.num_starts, self._proposals())
            self.program.choose_mapping(starts[0], self.engine.mapping)
            self.start = find_start(self.program, starts, self._generator)
            saved = saved_start(self.start, self.program, self._generator)
            if self._long_run.reached("start", lambda: saved):
                self._long_run.refuse_partial("at the start", "No chain has moved")
        return self.start

    def sample(self) -> Posterior:
        """Warm up, freeze, sample, and diagnose."""
        with self._long_run:
            kept, diagnostics = self._warmed_and_kept()
        return self._finish(kept, diagnostics)

    def _warmed_and_kept(self) -> tuple[Kept, Diagnostics]:
        with self._timed("warmup_s"):
            self.tuned = warm_up(
                self.program,
                self.start,
                self._num_warmup_chunks(),
                self._generator,
                self._line.show,
                self._long_run,
            )
        with self._timed("sampling_s"):
            return self._kept()

    def _finish(self, kept: Kept, diagnostics: Diagnostics) -> Posterior:
        # The diagnosis that ended the run is no sampling; those before it were.
        self._timing["sampling_s"] -= self._timing["diagnosis_s"]
        self._line.show("estimating the evidence", force=True)
        with self._timed("evidence_s"):
            evidence = self.log_evidence_of(kept.positions)
        self._line.close(
            f"R-hat {diagnostics.r_hat_max:.3f}, ESS {diagnostics.ess_min:.0f} of "
            f"{kept.num_draws * self.program.num_chains} draws"
        )
        return self._posterior(kept, diagnostics, *evidence)

    def _kept(self) -> tuple[Kept, Diagnostics]:
        """Return draws at frozen tuning, until there are enough, and what they are worth."""
        kept, states = Kept(self.target), self.tuned.states
        wanted, diagnostics = self.engine.num_draws or _LEAST_DRAWS, None

        def state() -> dict[str, Any]:
            return {
                "states": states,
                "record": kept.record,
                "wanted": np.asarray(wanted, np.int64),
                "num_gradients": np.asarray(self.program.num_gradients, np.int64),
            }

        def like() -> dict[str, Any]:
            kept.add(blank_record(self.program.dtype))
            return jax.tree.map(np.asarray, state())

        if saved := self._long_run.resumed("draws", like):
            kept, states, wanted = Kept(self.target), saved["states"], int(saved["wanted"])
            kept.add(saved["record"])
            self.program.num_gradients = int(saved["num_gradients"])
        while diagnostics is None:
            while kept.num_draws < wanted and not (self._long_run.stopped and kept.num_draws):
                states, record = self.program.advance(
                    states,
                    self.tuned.tuning,
                    self.tuned.num_iterations + kept.num_draws,
                    num=min(CHUNK, wanted - kept.num_draws),
                )
                kept.add(record)
                self._long_run.reached("draws", state)
            # Even if they happen to be enough: a run that is not stopped has more.
            is_early = kept.num_draws < wanted
            wanted, diagnostics = self._look(kept)
            self.interrupted |= is_early
        self.last_positions = np.asarray(states.rows)[:, : self.program.dim]
        if self.interrupted:
            self._long_run.warn_partial(f"{kept.num_draws} draws of each chain")
        return kept, diagnostics

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Add the seconds of a part of the run, compiling apart."""
        with CompileClock() as clock:
            yield
        for name, seconds in clock.timing().items():
            self._timing[name] += seconds
        self._timing[part] = self._timing.get(part, 0.0) + clock.run_s

    def _proposals(self) -> Iterator[np.ndarray]:
        """Yield points to start the search from; the prior is drawn from only if needed."""
        if self._initial is not None:
            flat = jax.vmap(lambda x: ravel_pytree(x)[0])(
                jax.tree.map(jnp.asarray, self._initial)
            )
            yield np.asarray(flat, np.float64)
            return
        shape = (_MAX_TRIES // 2, self.program.dim)
        points = self._generator.uniform(-_START_WIDTH, _START_WIDTH, shape)
        # Each with its mirror image, so that searches do not all begin on one side.
        yield np.stack([points, -points], axis=1).reshape(_MAX_TRIES, -1)
        if self.target.sample_prior is not None:
            keys = jax.random.split(jax.random.fold_in(self.program.key, 1), _MAX_TRIES)
            yield np.asarray(jax.vmap(self.target.draw_prior)(keys), np.float64)

    def _num_warmup_chunks(self) -> int:
        if self.engine.num_warmup is not None:
            return -(-self.engine.num_warmup // CHUNK)
        if self.program.dim > 200:
            return 16
        return 8 if self.start.exponent < 0.5 or self.program.dim > 50 else 4

    def _look(self, kept: Kept) -> tuple[int, Diagnostics | None]:
        """Return how many draws of each chain are wanted, or the diagnostics at the end."""
        engine, num = self.engine, kept.num_draws
        if engine.num_draws is not None:
            return num, self._diagnose(kept, MIN_ESS)
        size = worst_effective_size(kept.positions)
        self._line.show(f"{num} draws of {self.program.num_chains} chains, ESS {size:.0f}")
        if size >= engine.target_ess:
            diagnostics = self._diagnose(kept, engine.target_ess)
            if diagnostics.ess_min >= engine.target_ess and is_settled(diagnostics.r_hat_max):
                return num, diagnostics
            size = min(size, diagnostics.ess_min)
        missing = engine.target_ess / max(size, 1.0)
        # A tenth more than predicted, so that the next look is the last; at most double.
        factor = float(np.clip(1.1 * missing, 1.25, 2.0))
        needed = self.program.num_gradients * max(factor, missing)
        self.interrupted = bool(self._long_run.stopped) and needed <= engine.max_gradients
        if needed > engine.max_gradients or self.interrupted:
            return num, self._diagnose(kept, engine.target_ess)
        return math.ceil(num * factor / CHUNK) * CHUNK, None

    def _diagnose(self, kept: Kept, min_ess: float) -> Diagnostics:
        self._line.show(f"diagnosing {kept.num_draws} draws of each chain", force=True)
        with CompileClock() as clock:
            record = kept.record
            found = diagnose(
                kept.draws(),
                num_divergent=int(record.divergent.sum()),
                num_not_finite=int(record.not_finite.sum()),
                acceptance=float(record.acceptance.mean()),
                min_ess=min_ess,
                min_ess_squared=min_ess,
                max_divergent_share=MAX_DIVERGENT_SHARE,
            )
            own = [
                *found_in_modes(self.start, record.position),
                *found_in_chains(self.start, record, found.r_hat_max),
            ]
        self._timing["diagnosis_s"] = clock.run_s
        return replace(found, reasons=(*own, *found.reasons))

    def log_evidence_of(self, positions: np.ndarray) -> tuple[float | None, float | None]:
        """Return the log evidence and its error from draws (chain, draw, dim) of a sampler.

        None where there is no proper prior.
        """
        target = self.target
        if not (self.engine.evidence and target.has_prior and target.sample_prior):
            return None, None
        return log_evidence_of(self.program, positions.astype(np.float64), self._generator)

    def _posterior(
        self,
        kept: Kept,
        diagnostics: Diagnostics,
        log_evidence: float | None,
        log_evidence_se: float | None,
    ) -> Posterior:
        record, shape = kept.record, (self.program.num_chains, kept.num_draws)
        components = np.moveaxis(record.components, 0, 1)
        stats = {
            "lp": components.sum(axis=-1),
            "diverging": record.divergent.T,
            "acceptance_rate": record.acceptance.T,
            "step_size": np.broadcast_to(record.step_size, shape).copy(),
            "n_steps": np.broadcast_to(record.num_steps, shape).copy(),
        }
        if self.target.has_prior:
            stats["log_prior"] = components[..., 0]
            stats["log_likelihood_sum"] = components[..., 1]
        law = self.engine.kernel.law(self.target.measure).explain()
        if log_evidence is not None:
            law += "\n" + _EVIDENCE_LAW
        return Posterior(
            draws=kept.draws(),
            positions=np.ascontiguousarray(kept.positions),
            sample_stats=stats,
            diagnostics=diagnostics,
            log_evidence=log_evidence,
            log_evidence_se=log_evidence_se,
            history={
                **describe(self.start),
                "num_gradients": np.array([self.program.num_gradients]),
                "num_restarted_chains": np.array([self.tuned.num_restarted]),
                "num_warmup": np.array([self.tuned.num_iterations]),
            },
            engine=repr(self.engine),
            law=law,
            timing=dict(self._timing),
            interrupted=self.interrupted,
        )


def _spec(target: Target, data: tuple | None, initial_positions: Any) -> Any:
    """Return shapes and dtypes of a position."""
    if initial_positions is not None:
        return jax.tree.map(lambda x: jnp.asarray(x)[0], initial_positions)
    if target.sample_prior is None:
        raise ImproperPriorError(
            f"the target {target.name} has no sample_prior, so nothing says how many "
            "coordinates a position has: give run(..., initial_positions=...)"
        )
    return (target if data is None else target.with_data(*data)).position_spec()
