"""What is measured: kernels on arrays of a size, and all who can compute the same."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from scipy import special

from bayeskit import accel
from bayeskit.accel.bench import peers
from bayeskit.accel.bench.backends import ours
from bayeskit.accel.bench.contender import Contender, same
from bayeskit.accel.bench.regimes import REGIMES, judge_offspring, log_weights
from bayeskit.accel.bench.volatility import VolatilityStep

__all__ = ["KERNELS", "Case", "cases"]

# Of each scheme that promises it, the bound on |o - N W|; the others draw independently.
_LARGEST_ERROR = {"systematic": 1.0, "residual": 1.0, "ssp": 1.0, "stratified": 2.0}
_SEED = 1
# Rounds of proposals go with N max W: a hundred for ten thousand slightly uneven weights.
_REGIMES_OF_REJECTION = {"equal": math.inf, "sd 1": 10_000}
_KEYS = ("philox4x32", "threefry2x32", "rbg")
_BATCHES = ((100, 10_000), (10_000, 100))
_LARGEST_KOLMOGOROV = 3.8  # 2 exp(-2 * 3.8**2) = 6e-13
_MOST_SORTED = 10**6


@dataclass(frozen=True)
class Case:
    """One kernel on arrays of one size.

    Parameters
    ----------
    kernel : str
    num_particles, batch, dim : int
        Rows of ``num_particles``, of which there are ``batch``, and numbers in a particle.
    regime : str
        That of the weights, or of the ancestors or keys; "" where there is no choice.
    arguments : callable
        Makes the arguments; the same ones whenever it is called.
    judge : callable, (output, arguments) -> dict
        ``error`` and ``wrong``, and what else is to be in a row.
    contenders : sequence of Contender
        Ours first.
    """

    kernel: str
    num_particles: int
    arguments: Callable[[], tuple]
    judge: Callable[[Any, tuple], dict]
    contenders: Sequence[Contender] = field(repr=False)
    batch: int = 1
    dim: int = 1
    regime: str = ""


def cases(
    sizes: Sequence[int],
    regimes: Sequence[str] = REGIMES,
    dtype: Any = np.float32,
    kernels: Sequence[str] | None = None,
    batches: Sequence[tuple[int, int]] = _BATCHES,
) -> Iterator[Case]:
    """Yield all cases of some sizes, weight regimes and kernels, the small ones first."""
    for size in sizes:
        for kernel in KERNELS if kernels is None else kernels:
            yield from KERNELS[kernel](size, regimes, np.dtype(dtype))
    for batch, size in batches:
        for kernel in ("normalize", "systematic"):
            if kernels is None or kernel in kernels:
                (case,) = KERNELS[kernel](size, ["sd 1"], np.dtype(dtype), batch)
                yield case


# ------------------------------------------------------------ weights and ancestors


def _normalize(size, regimes, dtype, batch: int = 1) -> Iterator[Case]:
    for regime in regimes:
        yield Case(
            kernel="normalize",
            num_particles=size,
            batch=batch,
            regime=regime,
            arguments=functools.partial(_weights, regime, size, batch, dtype),
            judge=_judge_weights,
            contenders=[
                Contender("bayeskit", "normalize", _ours_normalized),
                *peers.normalize(batched=batch > 1),
            ],
        )


def _ours_normalized(log_weights):
    summary = accel.normalize(log_weights)
    return summary.weights, summary.effective_sample_size


def _judge_weights(output, arguments) -> dict:
    weights, size = (np.asarray(part, np.float64) for part in output)
    exact = np.exp(arguments[0].astype(np.float64))
    exact /= exact.sum(axis=-1, keepdims=True)
    exact_size = 1 / np.sum(exact**2, axis=-1)
    error = max(
        float(np.max(np.abs(weights - exact) / exact.max(axis=-1, keepdims=True))),
        float(np.max(np.abs(size / exact_size - 1))),
    )
    return {"error": error, "wrong": not error < 1e-4}


def _resampling(scheme: str, size, regimes, dtype, batch: int = 1) -> Iterator[Case]:
    for regime in regimes:
        if scheme == "rejection" and size > _REGIMES_OF_REJECTION.get(regime, 0):
            continue
        yield Case(
            kernel=scheme,
            num_particles=size,
            batch=batch,
            regime=regime,
            arguments=functools.partial(_weights, regime, size, batch, dtype, _SEED),
            judge=functools.partial(_judge_ancestors, largest=_LARGEST_ERROR.get(scheme)),
            contenders=[
                *ours(scheme, _ours_resampled(scheme)),
                *peers.resampling(scheme, batched=batch > 1),
            ],
        )


def _ours_resampled(scheme: str) -> Callable:
    return lambda key, log_weights: getattr(accel, scheme)(key, log_weights).index


def _judge_ancestors(output, arguments, largest) -> dict:
    return judge_offspring(output, arguments[-1], largest)


def _weights(regime: str, size: int, batch: int, dtype, seed: int | None = None) -> tuple:
    shape = (size,) if batch == 1 else (batch, size)
    key = () if seed is None else (accel.as_key(seed),)
    return *key, log_weights(regime, shape, dtype)


# ------------------------------------------------------------ gathering and prefix sums


def _gather(size, regimes, dtype) -> Iterator[Case]:
    del regimes
    for dim in (1, 8):
        for order in ("sorted", "random"):
            yield Case(
                kernel="gather",
                num_particles=size,
                dim=dim,
                regime=order,
                arguments=functools.partial(_to_gather, size, dim, order, dtype),
                judge=lambda output, arguments: _judge_equal(
                    output, arguments[0][arguments[1]]
                ),
                contenders=[
                    Contender("bayeskit", "take_particles", accel.take_particles),
                    *peers.gather(),
                ],
            )


def _to_gather(size: int, dim: int, order: str, dtype) -> tuple:
    rng = np.random.default_rng(0)
    state = rng.normal(size=(size,) if dim == 1 else (size, dim)).astype(dtype)
    weights = np.exp(rng.normal(size=size))
    index = np.repeat(np.arange(size), rng.multinomial(size, weights / weights.sum()))
    if order == "random":
        rng.shuffle(index)
    return state, index.astype(np.int32)


def _prefix_sum(size, regimes, dtype) -> Iterator[Case]:
    del regimes, dtype
    yield Case(
        kernel="prefix sum",
        num_particles=size,
        arguments=lambda: (np.random.default_rng(0).integers(0, 3, size=size, dtype=np.int32),),
        judge=lambda output, arguments: _judge_equal(output, np.cumsum(arguments[0])),
        contenders=[
            Contender("bayeskit", "prefix_sum", accel.prefix_sum),
            *peers.prefix_sum(),
        ],
    )


def _judge_equal(output, expected) -> dict:
    if output.shape != expected.shape:
        return {"error": np.inf, "wrong": True}
    error = float(np.max(np.abs(output.astype(np.float64) - expected)))
    return {"error": error, "wrong": error > 0}


# ------------------------------------------------------------ random numbers, and a step


def _normals(size, regimes, dtype) -> Iterator[Case]:
    del regimes
    for implementation in _KEYS:
        try:
            key = jax.random.key(_SEED, impl=implementation)
        except ValueError:  # an older JAX has not all of them
            continue
        yield Case(
            kernel="normals",
            num_particles=size,
            regime=implementation,
            arguments=functools.partial(same, key),
            judge=functools.partial(_judge_normals, size=size),
            contenders=[
                Contender(
                    "bayeskit",
                    "random_normals",
                    lambda key: accel.random_normals(key, (size,)).astype(dtype),
                ),
                *peers.normals(size, dtype),
            ],
        )


def _judge_normals(output, arguments, size: int) -> dict:
    """Return the Kolmogorov-Smirnov distance times the root of the number."""
    del arguments
    if output.shape != (size,):
        return {"error": np.inf, "wrong": True}
    drawn = np.sort(np.asarray(output)[:_MOST_SORTED].astype(np.float64))
    below = special.ndtr(drawn)
    grid = np.arange(drawn.size + 1) / drawn.size
    distance = max(np.max(grid[1:] - below), np.max(below - grid[:-1]))
    error = float(distance * np.sqrt(drawn.size))
    return {"error": error, "wrong": not error < _LARGEST_KOLMOGOROV}


def _bootstrap(size, regimes, dtype) -> Iterator[Case]:
    del regimes
    yield Case(
        kernel="bootstrap step",
        num_particles=size,
        arguments=functools.partial(_particles, size, dtype),
        judge=lambda output, arguments: judge_offspring(output[2], arguments[-1], 1.0),
        contenders=[
            *ours("systematic", VolatilityStep().ours),
            *peers.bootstrap(),
        ],
    )


def _particles(size: int, dtype) -> tuple:
    state, weights = VolatilityStep().start(size)
    return accel.as_key(_SEED), state.astype(dtype), weights.astype(dtype)


#: All kernels by name: functions of the size, the regimes and the dtype.
KERNELS: dict[str, Callable[..., Iterator[Case]]] = {
    "normalize": _normalize,
    **{name: functools.partial(_resampling, name) for name in accel.SCHEME_NAMES},
    "gather": _gather,
    "prefix sum": _prefix_sum,
    "normals": _normals,
    "bootstrap step": _bootstrap,
}
