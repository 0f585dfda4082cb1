"""Particle Gibbs as an engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import MissingDensityError
from bayeskit.inference import random
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.algorithms.particle_gibbs import particle_gibbs
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.diagnostics import diagnose
from bayeskit.inference.engines.parameter_chains import (
    Adaptation,
    check_counts,
    check_free,
    filter_estimates,
    identity_of_chains,
    named_draws,
    prior_draws,
    run_chains,
    starting_points,
)
from bayeskit.inference.estimates import choose
from bayeskit.inference.kernels import HMC, Kernel, Tuning
from bayeskit.inference.long_run import LongRun, LongRunSettings
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.progress import ProgressLine
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import StateSpaceTarget
from bayeskit.inference.transitions import Transition

__all__ = ["ParticleGibbs"]

# Sweeps of one call of the compiled program.
_CHUNK = 50
_NUM_STARTS = 16
# Successive fractions of the golden section spread trajectory lengths evenly.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class ParticleGibbs(LongRunSettings):
    r"""Particle Gibbs: parameters given a path of states, a path given parameters.

    Paths move by conditional SMC, in which the ancestors of the present path are drawn anew.
    Few particles are enough, however long the series. Parameters move by a gradient kernel on
    their density given the path, tuned in the warm-up and then frozen.

    Parameters
    ----------
    num_particles : int
        At least 2, the present path included.
    num_draws, num_warmup, num_chains : int
        Draws and warm-up sweeps are for each chain.
    kernel : Kernel
        Of the parameters given the path.
    ancestor, backward : bool
        Draw ancestors of the present path anew, or the path backwards; see
        :func:`~bayeskit.inference.conditional_smc`. Both need a transition density.
    progress : "auto" or bool
    checkpoint, checkpoint_every, max_seconds
        Of runs that take long; see :class:`~bayeskit.inference.LongRunSettings`.

    Raises
    ------
    ValueError
        For numbers out of range, fewer than two particles among them.

    Notes
    -----
    O(num_steps num_particles) a sweep. It estimates no evidence; SMC2 does. Where the states
    tell much about the parameters, such as the noise of a transition, PMMH mixes better.

    References
    ----------
    Andrieu, Doucet & Holenstein (2010); Lindsten, Jordan & Schön (2014), *Particle Gibbs with
    ancestor sampling*.

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
    >>> engine = bk.ParticleGibbs(num_particles=20)
    >>> est = bk.BayesianModel(walk, inference=engine)  # and then est.fit(y)

    What each chain does, and its law:

    >>> target = bi.StateSpaceTarget(walk, bi.Rows(np.array([0.3, 0.9, 1.2])))
    >>> print(engine.algorithm(target).explain())
    blocks one after another:
        theta: keeps its conditional given all others as they are now
        x: keeps its conditional given all others as they are now
    => L3 invariant for π(θ, x): π K = π
    """

    num_particles: int = 50
    num_draws: int = 1000
    num_warmup: int = 500
    num_chains: int = 4
    kernel: Kernel = field(default_factory=HMC)
    ancestor: bool = True
    backward: bool = False
    progress: str | bool = "auto"

    def __post_init__(self):
        super().__post_init__()
        if self.num_particles == 1:
            raise ValueError(
                "num_particles must be at least 2, the present path and one that may replace "
                "it: with 1 the path would never move"
            )
        check_counts(self, num_particles=2, num_draws=1, num_warmup=1, num_chains=1)
        if not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel must be a Kernel, got {self.kernel!r}")

    def algorithm(self, target: StateSpaceTarget, tuning: Tuning | None = None) -> Transition:
        """Return the transition that each chain makes."""
        return particle_gibbs(
            self.kernel,
            target.feynman_kac,
            self.num_particles,
            log_prior=target.prior.log_density,  # type: ignore[arg-type]
            tuning=tuning,
            ancestor=self.ancestor,
            backward=self.backward,
        )

    def run(
        self, target: StateSpaceTarget, data: Rows | None = None, key: Any = 0
    ) -> Posterior:
        """Return draws of parameters and paths of states.

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
        MissingDensityError
            If a deterministic part of initial or transition depends on free parameters: given
            the path, they could not move.
        ParticleCollapseError
            If the filter loses all particles at every draw from the prior.
        """
        target = target if data is None else target.with_rows(data)
        check_free(target.model, "ParticleGibbs")
        if target.model.is_rigid(target.rows):
            raise MissingDensityError(
                "a deterministic part (Delta) of the states depends on free parameters, so "
                "given a path they cannot move: use PMMH or SMC2, or let that part be random"
            )
        line = ProgressLine("ParticleGibbs", self.progress)
        key = accel.as_key(key)
        with CompileClock() as clock:
            start_key, estimate_key, path_key, chain_key = random.split(key, 4)
            num = _NUM_STARTS * self.num_chains
            theta = np.array(prior_draws(target.model, num, start_key))
            # The pilot needs more particles than a sweep, which has a path to hold on to.
            pilot = (4 * self.num_particles, "systematic", 0.5)
            estimates = np.asarray(filter_estimates(target, theta, estimate_key, *pilot))
            starts = starting_points(target, theta, estimates, self.num_chains)
            paths = _first_paths(self, target, starts, path_key)
            state = {"theta": jnp.asarray(starts), "x": paths}
            carry = (state, Adaptation.start(theta, -1.0))
            with LongRun(self, lambda: identity_of_chains(self, target, key)) as long_run:
                draws, acceptance, moved = self._chains(
                    target, carry, chain_key, line, long_run
                )
            posterior = self._finish(target, draws, acceptance, moved)
        posterior.timing.update(clock.timing())
        return posterior

    def _chains(
        self, target: StateSpaceTarget, carry: Any, key: Any, line: Any, long_run: LongRun
    ) -> tuple[dict[str, Any], float, np.ndarray]:
        """Return kept states, the acceptance of parameters, and how often each time moved."""
        total = self.num_warmup + self.num_draws

        def advance(carry, first, size):
            state, adaptation, seen = _advance(self, target, *carry, key, first, size)
            return (state, adaptation), seen

        def seen_like():
            return _advance.eval_shape(self, target, *carry, key, 0, 0)[2]

        def show(done, seen):
            line.show(f"sweep {done} of {total}, acceptance {float(seen[1].mean()):.2f}")

        kept, acceptance, moved = run_chains(
            self, advance, carry, seen_like, _CHUNK, long_run, show
        )
        line.close(f"{total} sweeps")
        states = jax.tree.map(lambda x: np.swapaxes(x, 0, 1), kept)
        return states, float(acceptance.mean()), moved.mean(axis=(0, 1))

    def _finish(
        self, target: StateSpaceTarget, states: dict, acceptance: float, moved: np.ndarray
    ) -> Posterior:
        draws = named_draws(target.model, states["theta"], states["x"])
        reasons: tuple[str, ...] = ()
        # A state that moves in fewer than one of twenty sweeps makes few effective draws.
        if moved.min() < 0.05:
            reasons = (
                f"the state of time {int(np.argmin(moved))} moved in {100 * moved.min():.1f} % "
                "of the sweeps: take more particles, or ancestor=True",
            )
        free = {name: draws[name] for name in target.model.free}
        return Posterior(
            draws=draws,
            positions=states["theta"],
            sample_stats={},
            diagnostics=diagnose(free, acceptance=acceptance, reasons=reasons),
            history={"share_moved": moved},
            engine=repr(replace(self, progress="auto")),
            law=self.algorithm(target).explain(),
            interrupted=states["theta"].shape[1] < self.num_draws,
        )


@quick_jit(static_argnames="engine")
def _first_paths(
    engine: ParticleGibbs, target: StateSpaceTarget, theta: jax.Array, key: Any
) -> Any:
    """Return a path of a pilot filter for each chain."""

    def one(lane_key, parameters):
        model = target.feynman_kac(parameters)
        return choose(particle_filter(model, 4 * engine.num_particles, history=True))(lane_key)

    return random.lanes(one, key, theta)[1]


@quick_jit(static_argnames="engine")
def _advance(
    engine: ParticleGibbs,
    target: StateSpaceTarget,
    state: dict[str, Any],
    adaptation: Adaptation,
    key: Any,
    first: Any,
    size: Any,
) -> tuple[Any, Adaptation, Any]:
    """Make ``size`` sweeps of all chains; the kernel is tuned in the warm-up only."""
    num_chains, num_steps = state["theta"].shape[0], target.num_steps
    wanted = getattr(engine.kernel, "target_acceptance", 0.4)

    def body(place, carry):
        state, adaptation, kept, acceptances, moves = carry
        number = first + place
        phase = jnp.mod(_GOLDEN * (number + 1.0), 1.0).astype(adaptation.mean.dtype)
        tuning = Tuning(
            jnp.exp(adaptation.log_scale), adaptation.mean, adaptation.factor, phase
        )
        step = engine.algorithm(target, tuning).step
        new, info = random.lanes(step, random.fold_in(key, number), state)
        moved = _has_moved(state["x"], new["x"])
        # A sweep reports the mean of the acceptance of parameters and the share of moved times.
        share = jnp.mean(moved, axis=1, dtype=info.acceptance.dtype)
        acceptance = 2 * info.acceptance - share
        learned = adaptation.updated(number, new["theta"], acceptance, wanted)
        is_warm = number >= engine.num_warmup
        adaptation = jax.tree.map(
            lambda old, now: jnp.where(is_warm, old, now), adaptation, learned
        )
        kept = jax.tree.map(lambda a, n: a.at[place].set(n), kept, new)
        acceptances = acceptances.at[place].set(acceptance)
        return new, adaptation, kept, acceptances, moves.at[place].set(moved)

    blank = jax.tree.map(lambda x: jnp.zeros((_CHUNK, *x.shape), x.dtype), state)
    zeros = jnp.zeros((_CHUNK, num_chains), adaptation.mean.dtype)
    nowhere = jnp.zeros((_CHUNK, num_chains, num_steps), bool)
    carry = (state, adaptation, blank, zeros, nowhere)
    state, adaptation, *seen = lax.fori_loop(0, size, body, carry)
    return state, adaptation, tuple(seen)


def _has_moved(old: Any, new: Any) -> jax.Array:
    """Return where paths (chain, time, ...) differ, (chain, time)."""
    differ = jax.tree.map(
        lambda a, b: jnp.any((a != b).reshape(*a.shape[:2], -1), axis=-1), old, new
    )
    return jnp.any(jnp.stack(jax.tree.leaves(differ)), axis=0)
