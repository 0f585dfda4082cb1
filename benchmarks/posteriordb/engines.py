"""Engines of this package and of others on one log density, with their CPU seconds apart.

Each entry of ``ENGINES`` takes a case and settings and yields one :class:`Run` a seed. What is
compiled, and the search for a first step size, is paid before the first run and stated apart.
Chains start uniform on (-2, 2) where the density is finite, unless the engine has its own way.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import bayeskit as bk
from benchmarks.posteriordb.cases import Case

__all__ = ["ENGINES", "Run", "Settings", "Unsuitable"]

START_WIDTH = 2.0
MAX_START_TRIES = 1000


class Unsuitable(Exception):
    """The engine cannot run on this case; the message says why."""


class Settings(NamedTuple):
    """Sizes of a run; engines with an ensemble or a population keep their own defaults."""

    num_chains: int = 4
    num_warmup: int = 1000
    num_draws: int = 1000
    seeds: tuple[int, ...] = (1,)


@dataclass
class Run:
    """Draws by name (chain, draw, ...) of one seed, and what they cost in CPU seconds.

    ``num_gradients`` counts warm-up and sampling; None where the engine does not tell.
    """

    seed: int
    draws: dict[str, np.ndarray]
    compile_s: float
    warmup_s: float
    sampling_s: float
    num_gradients: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- what all share


class Clock:
    """CPU seconds since the last reading."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def read(self) -> float:
        now = time.process_time()
        seconds, self.last = now - self.last, now
        return seconds


class Problem:
    """A case as one function of a vector, its starts, and names for its draws."""

    def __init__(self, case: Case):
        self.target, self.dim = case.target(), case.dim
        self.log_density = lambda x: self.target.components(x).sum()
        self.value_and_gradient = jax.jit(jax.value_and_grad(self.log_density))
        self._constrain = jax.jit(
            jax.vmap(lambda x: self.target.constrain(x, *self.target.data))
        )

    def start(self, rng: np.random.Generator) -> np.ndarray:
        for _ in range(MAX_START_TRIES):
            x = rng.uniform(-START_WIDTH, START_WIDTH, self.dim)
            value, gradient = self.value_and_gradient(x)
            if np.isfinite(value) and np.isfinite(gradient).all():
                return x
        raise Unsuitable(f"none of {MAX_START_TRIES} starts has a finite density")

    def starts(self, seed: int, num: int) -> jax.Array:
        rng = np.random.default_rng(seed)
        return jnp.array([self.start(rng) for _ in range(num)])

    def named(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return draws by name from positions (chain, draw, dim)."""
        named = self._constrain(positions.reshape(-1, self.dim))
        shape = positions.shape[:2]
        return {n: np.asarray(v).reshape(*shape, *v.shape[1:]) for n, v in named.items()}


def _chain_by_chain(
    problem: Problem,
    settings: Settings,
    prepare: Callable,
    warm_up: Callable,
    sample: Callable,
) -> Iterator[Run]:
    """Run chains one after another through one compiled warm-up and one sampling program.

    Parameters
    ----------
    prepare : callable (key, start) -> state, run before the clock starts
    warm_up : callable (key, state) -> (state, number of gradients)
    sample : callable (key, state) -> (positions (draw, dim), number of gradients)
    """
    clock = Clock()
    key, start = jax.random.key(0), problem.starts(0, 1)[0]
    state = prepare(key, start)
    warm_state = jax.eval_shape(warm_up, key, state)[0]
    compiled_warm_up = jax.jit(warm_up).lower(key, state).compile()
    compiled_sample = jax.jit(sample).lower(key, warm_state).compile()
    compile_s = clock.read()
    for seed in settings.seeds:
        starts = problem.starts(seed, settings.num_chains)
        keys = jax.random.split(jax.random.key(seed), (settings.num_chains, 3))
        states = [prepare(k[0], x) for k, x in zip(keys, starts, strict=True)]
        jax.block_until_ready(states)
        clock.read()
        warm = [compiled_warm_up(k[1], state) for k, state in zip(keys, states, strict=True)]
        jax.block_until_ready(warm)
        warmup_s = clock.read()
        kept = [compiled_sample(k[2], state) for k, (state, _) in zip(keys, warm, strict=True)]
        jax.block_until_ready(kept)
        sampling_s = clock.read()
        gradients = sum(int(num) for _, num in [*warm, *kept])
        positions = np.stack([np.asarray(x) for x, _ in kept])
        yield Run(seed, problem.named(positions), compile_s, warmup_s, sampling_s, gradients)


# ---------------------------------------------------------------- other packages


def numpyro_nuts(case: Case, settings: Settings, *, dense: bool) -> Iterator[Run]:
    from numpyro.infer import NUTS

    problem = Problem(case)
    kernel = NUTS(potential_fn=lambda x: -problem.log_density(x), dense_mass=dense)

    def prepare(key, start):
        return kernel.init(key, settings.num_warmup, start, (), {})

    def step(state, _):
        state = kernel.sample(state, (), {})
        return state, (state.z, state.num_steps)

    def warm_up(key, state):
        state, (_, num_steps) = lax.scan(step, state, length=settings.num_warmup)
        return state, num_steps.sum()

    def sample(key, state):
        _, (positions, num_steps) = lax.scan(step, state, length=settings.num_draws)
        return positions, num_steps.sum()

    yield from _chain_by_chain(problem, settings, prepare, warm_up, sample)


def blackjax_nuts(case: Case, settings: Settings, *, dense: bool) -> Iterator[Run]:
    import blackjax

    problem = Problem(case)
    adaptation = blackjax.window_adaptation(
        blackjax.nuts, problem.log_density, is_mass_matrix_diagonal=not dense
    )

    def warm_up(key, start):
        result, record = adaptation.run(key, start, settings.num_warmup)
        return tuple(result), record.info.num_integration_steps.sum()

    def sample(key, warm):
        state, parameters = warm
        step = blackjax.nuts(problem.log_density, **parameters).step

        def one(state, key):
            state, info = step(key, state)
            return state, (state.position, info.num_integration_steps)

        keys = jax.random.split(key, settings.num_draws)
        _, (positions, num_steps) = lax.scan(one, state, keys)
        return positions, num_steps.sum()

    yield from _chain_by_chain(problem, settings, lambda key, start: start, warm_up, sample)


def nutpie_on_jax(case: Case, settings: Settings) -> Iterator[Run]:
    """nutpie on the compiled JAX density, which it calls through Python."""
    from nutpie.compiled_pyfunc import from_pyfunc

    problem = Problem(case)

    def make_log_density():
        def log_density(x):
            value, gradient = problem.value_and_gradient(x)
            return float(value), np.asarray(gradient)

        return log_density

    model = from_pyfunc(
        ndim=problem.dim,
        make_logp_fn=make_log_density,
        make_expand_fn=lambda *_: lambda x: {"x": np.array(x)},
        expanded_dtypes=[np.dtype(np.float64)],
        expanded_shapes=[(problem.dim,)],
        expanded_names=["x"],
        make_initial_point_fn=lambda seed: problem.start(np.random.default_rng(seed)),
    )
    clock = Clock()
    problem.starts(0, 1)
    compile_s = clock.read()
    for run in _nutpie_runs(model, settings, compile_s):
        run.draws = problem.named(run.draws["x"])
        yield run


def nutpie_on_numba(case: Case, settings: Settings) -> Iterator[Run]:
    """nutpie on a PyMC model compiled by numba, with its own start."""
    import nutpie
    import pymc as pm

    from benchmarks.posteriordb.pymc_models import PYMC_MODELS

    if case.name not in PYMC_MODELS:
        raise Unsuitable("there is no PyMC model of this case")
    clock = Clock()
    with pm.Model() as model:
        PYMC_MODELS[case.name](*case.load())
    compiled = nutpie.compile_pymc_model(model, backend="numba")
    # The first run compiles what is left.
    nutpie.sample(compiled, draws=10, tune=10, chains=1, cores=1, seed=0, progress_bar=False)
    yield from _nutpie_runs(compiled, settings, clock.read())


def _nutpie_runs(model: Any, settings: Settings, compile_s: float) -> Iterator[Run]:
    """Run nutpie; it counts gradients, and its time is split in proportion to them."""
    import nutpie

    for seed in settings.seeds:
        clock = Clock()
        result = nutpie.sample(
            model,
            draws=settings.num_draws,
            tune=settings.num_warmup,
            chains=settings.num_chains,
            cores=1,
            seed=seed,
            progress_bar=False,
        )
        seconds = clock.read()
        warm = int(result.warmup_sample_stats["n_steps"].sum())
        kept = int(result.sample_stats["n_steps"].sum())
        share = warm / (warm + kept)
        draws = {name: np.asarray(values) for name, values in result.posterior.items()}
        yield Run(seed, draws, compile_s, share * seconds, (1 - share) * seconds, warm + kept)


# ---------------------------------------------------------------- this package


@contextlib.contextmanager
def stopwatch(owner: Any, name: str) -> Iterator[list[float]]:
    """Collect the CPU seconds of each call of a function while the context lasts."""
    function, seconds = getattr(owner, name), []

    def timed(*arguments, **keywords):
        clock = Clock()
        result = jax.block_until_ready(function(*arguments, **keywords))
        seconds.append(clock.read())
        return result

    with mock.patch.object(owner, name, timed):
        yield seconds


def _first_and_later(
    settings: Settings, run: Callable[[int], bk.Posterior]
) -> Iterator[tuple[int, bk.Posterior, float, float]]:
    """Yield seed, posterior, seconds of the run, and what the first call took beyond it."""
    clock = Clock()
    run(0)
    first = clock.read()
    for seed in settings.seeds:
        clock.read()
        posterior = run(seed)
        seconds = clock.read()
        yield seed, posterior, seconds, max(0.0, first - seconds)


def bayeskit_nuts(case: Case, settings: Settings) -> Iterator[Run]:
    """NUTS of this package; the time of its chunks, without summaries of the draws."""
    import bayeskit.inference.engines.nuts as module

    engine = bk.NUTS(
        num_draws=settings.num_draws,
        num_warmup=settings.num_warmup,
        num_chains=settings.num_chains,
        progress=False,
    )
    problem = Problem(case)

    def run(seed):
        starts = None if case.proper else problem.starts(seed, settings.num_chains)
        return engine.run(problem.target, key=seed, initial_positions=starts)

    with stopwatch(module, "_chunk") as chunks:
        for seed, posterior, seconds, compile_s in _first_and_later(settings, run):
            count = -(-(settings.num_warmup + settings.num_draws) // module._CHUNK)
            recent = chunks[-count:]
            share = settings.num_warmup / (settings.num_warmup + settings.num_draws)
            num_warm = round(share * count)
            yield Run(
                seed,
                posterior.draws,
                compile_s,
                sum(recent[:num_warm]),
                sum(recent[num_warm:]),
                notes={"whole_run_s": seconds},
            )


def bayeskit_smc(case: Case, settings: Settings) -> Iterator[Run]:
    """Tempered SMC: all of it scales with the particles, hence no warm-up.

    The effective sample size is that of the last moves along their chains; what particles
    share since they were resampled is not seen by it.
    """
    import bayeskit.inference.engines.smc as module

    if not case.proper:
        raise Unsuitable("there is no prior to start from")
    engine, target = bk.SMC(progress=False), case.target()
    with stopwatch(module, "diagnose") as summaries:
        run = lambda seed: engine.run(target, key=seed)
        for seed, posterior, seconds, compile_s in _first_and_later(settings, run):
            notes = {"whole_run_s": seconds, "log_evidence": posterior.log_evidence}
            own = seconds - summaries[-1]
            yield Run(seed, posterior.draws, compile_s, 0.0, own, notes=notes)


def bayeskit_ensemble(case: Case, settings: Settings) -> Iterator[Run]:
    """EnsembleHMC with its defaults; its ``timing`` says how the run divides.

    What it needs to know when to stop is sampling. The diagnosis and the log evidence at the
    end, which nobody else computes here, are noted apart.
    """
    engine, problem = bk.EnsembleHMC(progress=False), Problem(case)

    def run(seed):
        starts = None if case.proper else problem.starts(seed, engine.num_starts)
        return engine.run(problem.target, key=seed, initial_positions=starts)

    for seed, posterior, seconds, compile_s in _first_and_later(settings, run):
        timing = posterior.timing
        parts = ("warmup_s", "sampling_s", "diagnosis_s", "evidence_s")
        whole = sum(timing[part] for part in parts)
        cpu = {part: seconds * timing[part] / whole for part in parts}
        gradients = posterior.history["num_gradients"][0]
        yield Run(
            seed,
            posterior.draws,
            compile_s,
            cpu["warmup_s"],
            cpu["sampling_s"],
            int(gradients),
            {part: cpu[part] for part in parts[2:]},
        )


ENGINES: dict[str, Callable[[Case, Settings], Iterator[Run]]] = {
    "bayeskit EnsembleHMC": bayeskit_ensemble,
    "bayeskit NUTS": bayeskit_nuts,
    "bayeskit SMC": bayeskit_smc,
    "NumPyro NUTS diagonal": functools.partial(numpyro_nuts, dense=False),
    "NumPyro NUTS dense": functools.partial(numpyro_nuts, dense=True),
    "BlackJAX NUTS diagonal": functools.partial(blackjax_nuts, dense=False),
    "BlackJAX NUTS dense": functools.partial(blackjax_nuts, dense=True),
    "nutpie JAX": nutpie_on_jax,
    "nutpie numba": nutpie_on_numba,
}
