"""Tuning between chunks, on the host; nothing here touches a draw that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeskit.inference.engines.ensemble.noise import CHUNK
from bayeskit.inference.engines.ensemble.program import (
    ChainStates,
    Program,
)
from bayeskit.inference.engines.ensemble.saved import generator_words, set_generator
from bayeskit.inference.engines.ensemble.start import Start
from bayeskit.inference.kernels.base import LowRankFactor, Tuning
from bayeskit.inference.long_run import LongRun

__all__ = ["Tuned", "blank_factor", "factor_of", "warm_up"]

# Robbins-Monro: log h moves by 1.5 (acceptance - wanted) / sqrt(iteration).
_GAIN = 1.5
# Divergent trajectories call for a smaller step than the target acceptance gives.
_CAREFUL_ACCEPTANCE = 0.9
# A chain that accepts less than this share of the median stands in a hopeless place.
_HOPELESS = 0.1
_MAX_DENSE_DIM = 200
# Draws for each coordinate that a dense covariance needs.
_DRAWS_PER_DIM = 10
_MAX_RANK = 20


@dataclass(frozen=True, eq=False)
class Tuned:
    """Chains after warm-up, and the constants that no draw changes any more.

    Parameters
    ----------
    states : ChainStates
    tuning : Tuning
        The metric; the step size is in ``states.log_step_size`` and stands still.
    num_iterations : int
    num_restarted : int
        Hopeless chains that were put in the place of another.
    """

    states: ChainStates
    tuning: Tuning
    num_iterations: int
    num_restarted: int


def blank_factor(num_chains: int, dim: int) -> Any:
    """Return a metric of the form that suits so many chains in so many dimensions."""
    if dim > _MAX_DENSE_DIM or CHUNK * num_chains < _DRAWS_PER_DIM * dim:
        rank = min(_MAX_RANK, dim)
        return LowRankFactor(np.ones(dim), np.eye(dim, rank), np.ones(rank))
    return np.eye(dim)


def factor_of(draws: np.ndarray, like: Any) -> tuple[np.ndarray, Any]:
    r"""Return the mean of draws (num, dim) and a factor of their covariance.

    The correlation is shrunk towards the identity, :math:`(1 - s) R + s I` with
    :math:`s = 5/(n + 5)`. A coordinate that does not vary keeps the scale 1.
    """
    num = len(draws)
    mean = draws.mean(axis=0)
    scale = draws.std(axis=0)
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    standard = (draws - mean) / scale
    shrinkage = 5.0 / (num + 5.0)
    correlation = (1.0 - shrinkage) * (standard.T @ standard) / num
    np.fill_diagonal(correlation, 1.0)
    if isinstance(like, LowRankFactor):
        return mean, _low_rank(scale, correlation, len(like.stretch))
    return mean, scale[:, None] * np.linalg.cholesky(correlation)


def _low_rank(scale: np.ndarray, correlation: np.ndarray, rank: int) -> LowRankFactor:
    """Keep the directions in which the correlation is furthest from the identity."""
    values, vectors = np.linalg.eigh(correlation)
    values = np.maximum(values, 1e-6)
    kept = np.argsort(-np.abs(np.log(values)), kind="stable")[:rank]
    return LowRankFactor(scale, vectors[:, kept], np.sqrt(values[kept]))


def warm_up(
    program: Program,
    start: Start,
    num_chunks: int,
    generator: np.random.Generator,
    show: Any,
    long_run: LongRun,
) -> Tuned:
    """Move the chains from their start while step size and metric adapt.

    Parameters
    ----------
    show : callable (text)
        Shows progress.
    long_run : LongRun
        Told of every chunk.

    Raises
    ------
    KeyboardInterrupt, UnfinishedRunError
        If the run is stopped before the end.
    """
    kernel = program.kernel
    blank = blank_factor(program.num_chains, program.dim)
    states = program.start(start.positions, kernel.default_step_size(program.dim))
    mean, factor = _start_metric(start, blank)
    tuning = program.tuning(mean, factor)
    draws: list[np.ndarray] = []
    chunk, num_restarted, count = 0, 0, 1.0

    def state() -> dict[str, Any]:
        return {
            "states": states,
            "tuning": tuning,
            "draws": np.stack(draws),
            "chunk": np.asarray(chunk, np.int64),
            "num_restarted": np.asarray(num_restarted, np.int64),
            "count": np.asarray(count, np.float64),
            "target_acceptance": np.asarray(program.target_acceptance, np.float64),
            "num_gradients": np.asarray(program.num_gradients, np.int64),
            "generator": generator_words(generator),
        }

    def like() -> dict[str, Any]:
        draws.append(np.zeros((0, 0, 0), program.dtype))
        return jax.tree.map(np.asarray, state())

    if saved := long_run.resumed("warm-up", like):
        states, tuning, draws = saved["states"], saved["tuning"], list(saved["draws"])
        chunk, num_restarted = int(saved["chunk"]), int(saved["num_restarted"])
        count = float(saved["count"])
        program.target_acceptance = float(saved["target_acceptance"])
        program.num_gradients = int(saved["num_gradients"])
        set_generator(generator, saved["generator"])
    while chunk < num_chunks:
        counts = count + np.arange(CHUNK)
        gains = _GAIN / np.sqrt(counts)
        states, record = program.advance(states, tuning, chunk * CHUNK, gains)
        draws.append(record.position)
        if chunk > 0 and record.divergent.any():
            program.raise_target_acceptance(_CAREFUL_ACCEPTANCE)
        show(
            f"warm-up {(chunk + 1) * CHUNK} of {num_chunks * CHUNK}, step size "
            f"{float(np.exp(states.log_step_size)):.3g}"
        )
        states, hopeless = _rescued(program, states, record.acceptance, generator)
        num_restarted += hopeless
        # The last step size belongs to the last metric: both are frozen together.
        if chunk < num_chunks - 1:
            later = np.concatenate(draws[len(draws) // 2 :])
            mean, factor = factor_of(later.reshape(-1, program.dim).astype(np.float64), blank)
            tuning = program.tuning(mean, factor)
            # The step size follows a new metric quickly, but the last ones slowly.
            last = chunk >= num_chunks - 2
            count = counts[-1] + 1 if last else max(1.0, (counts[-1] + 1) / 2)
        chunk += 1
        if long_run.reached("warm-up", state) and chunk < num_chunks:
            long_run.refuse_partial(
                f"in the warm-up after {chunk * CHUNK} of {num_chunks * CHUNK} iterations",
                "What the chains did is not drawn from the posterior yet",
            )
    return Tuned(states, tuning, num_chunks * CHUNK, num_restarted)


def _start_metric(start: Start, like: Any) -> tuple[np.ndarray, Any]:
    """Return the metric to begin with: that of the modes, weighted, about the chains."""
    weights = np.exp(start.mixture.log_weights)
    covariance: Any = 0.0
    for weight, mode in zip(weights, start.mixture.modes, strict=True):
        root = mode.root if mode.root.ndim == 2 else np.diag(mode.root)
        covariance = covariance + weight * root @ root.T
    scale = np.sqrt(np.diagonal(covariance))
    if isinstance(like, LowRankFactor):
        correlation = covariance / np.outer(scale, scale)
        return start.mean, _low_rank(scale, correlation, len(like.stretch))
    return start.mean, np.linalg.cholesky(covariance)


def _rescued(
    program: Program, states: ChainStates, acceptance: np.ndarray, generator: Any
) -> tuple[ChainStates, int]:
    """Put chains that hardly move in the places of others."""
    means = acceptance.mean(axis=0)
    hopeless = means < _HOPELESS * np.median(means)
    if not hopeless.any() or hopeless.all():
        return states, 0
    sources = np.arange(program.num_chains)
    good = np.flatnonzero(~hopeless)
    sources[hopeless] = generator.choice(good, int(hopeless.sum()))
    rows = np.asarray(states.rows)[sources]
    return states._replace(rows=rows), int(hopeless.sum())
