"""The one compiled program that moves all chains, in warm-up and in sampling alike.

Compiling is what a fit of a small model costs, so the density appears once in it: chains carry
their gradient, every tuning constant is an argument, and the noise comes in as arrays that the
host draws. A step size of zero evaluates the density at given points.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.engines.ensemble.noise import (
    CHUNK,
    Noise,
    draw_noise,
    golden_phases,
)
from bayeskit.inference.kernels import HMC
from bayeskit.inference.kernels.base import Tuning
from bayeskit.inference.measure import Density, PointState, Target

__all__ = ["MAPPINGS", "ChainStates", "Program", "Record"]

# Seconds of a gradient for each chain, the call of the program included: above the first it
# pays to see whether single ones are quicker, above the second to search for modes with those.
_DEAR = 1e-5
_VERY_DEAR = 4e-5
# Single gradients must be so much quicker: results must not hang on a close race.
_MARGIN = 1.5
MAPPINGS = ("auto", "together", "serial")
# Seconds of gradients, by what was compiled for them.
_seen: dict[Any, tuple[float, float | None]] = {}


class ChainStates(NamedTuple):
    """All chains between two iterations.

    Each array that goes through the compiled program costs as much as some gradients of a
    small model, so what belongs to a chain is one row.

    Parameters
    ----------
    rows : (chain, dim + J + dim) array
        Position, components of the log density, and gradient.
    log_step_size : () array, shared by all chains
    """

    rows: Any
    log_step_size: Any

    def points(self, dim: int) -> PointState:
        """Return positions with their cached values, each with the leading axis of chains."""
        return PointState(self.rows[:, :dim], self.rows[:, dim:-dim], self.rows[:, -dim:])


class Schedule(NamedTuple):
    """What differs between iterations, whatever the chains do: arrays (CHUNK,).

    Parameters
    ----------
    phase : in [0, 1), varies the length of trajectories
    gain : how far the step size follows the acceptance; 0 once it is frozen
    target_acceptance : ()
    """

    phase: Any
    gain: Any
    target_acceptance: Any


class Record(NamedTuple):
    """What is kept of each iteration: (iteration, chain, ...), or (iteration,) if shared."""

    position: Any
    components: Any
    acceptance: Any
    divergent: Any
    not_finite: Any
    step_size: Any
    num_steps: Any

    @classmethod
    def of(cls, by_chain: np.ndarray, shared: np.ndarray, dim: int) -> Record:
        """Return the record from the two arrays in which the program returns it."""
        acceptance, divergent, not_finite = np.moveaxis(by_chain[..., -3:], -1, 0)
        return cls(
            by_chain[..., :dim],
            by_chain[..., dim:-3],
            acceptance,
            divergent > 0,
            not_finite > 0,
            shared[:, 0],
            shared[:, 1].astype(np.int32),
        )


class _SerialDensity(Density):
    """A density whose gradients are taken one chain after another, not all at once."""

    def components_and_gradient(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        @sequential_vmap
        def one(target, coefficients, x):
            return Density(target, coefficients).components_and_gradient(x)

        return one(self.target, self.coefficients, x)


@quick_jit
def _value_at(target: Target, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the log density and its gradient at one point."""
    components, gradient = target.density().components_and_gradient(x)
    return target.density().combine(components), gradient


@quick_jit(static_argnames=("kernel", "serial"))
def _advance(
    kernel: HMC,
    serial: bool,
    target: Target,
    states: ChainStates,
    tuning: Tuning,
    schedule: Schedule,
    noise: Noise,
    num: jax.Array,
) -> tuple[ChainStates, jax.Array, jax.Array]:
    """Return the chains after ``num`` iterations, and what :meth:`Record.of` takes."""
    density = target.density()
    if serial:
        density = _SerialDensity(*density)
    dtype, dim = states.rows.dtype, noise.momentum.shape[-1]

    # Longer steps than trajectories are cut anyway: no use in adapting beyond.
    longest = np.log(kernel.trajectory * (1.0 + kernel.jitter))

    def iterate(i, carried):
        now, by_chain, shared = carried
        step_size = jnp.exp(now.log_step_size)
        tuned = tuning._replace(step_size=step_size, phase=schedule.phase[i])

        def one_chain(state, momentum, log_uniform):
            return kernel.transition(
                momentum, lambda log_ratio: log_uniform < log_ratio, state, density, tuned
            )

        points, info = jax.vmap(one_chain)(
            now.points(dim), noise.momentum[i], noise.log_uniform[i]
        )
        error = jnp.mean(info.acceptance) - schedule.target_acceptance
        # A gain of zero leaves the step size alone to the last bit.
        moved = jnp.minimum(now.log_step_size + schedule.gain[i] * error, longest)
        log_step_size = jnp.where(schedule.gain[i] > 0, moved, now.log_step_size)
        kept = (
            points.position,
            points.components,
            info.acceptance[:, None],
            info.divergent[:, None].astype(dtype),
            info.not_finite[:, None].astype(dtype),
        )
        by_chain = by_chain.at[i].set(jnp.concatenate(kept, axis=1))
        num_steps = kernel.num_steps(tuned)[0].astype(dtype)
        shared = shared.at[i].set(jnp.stack([step_size, num_steps]))
        rows = jnp.concatenate(points, axis=1)
        return ChainStates(rows, log_step_size), by_chain, shared

    num_chains, width = states.rows.shape
    by_chain = jnp.zeros((CHUNK, num_chains, width - dim + 3), dtype)
    shared = jnp.zeros((CHUNK, 2), dtype)
    return lax.fori_loop(0, num, iterate, (states, by_chain, shared))


class Program:
    """The compiled program for one target, one number of chains and one kernel.

    Parameters
    ----------
    target : Target on vectors
    kernel : HMC
    num_chains, dim : int
    dtype : NumPy dtype
    key : JAX key of the noise
    factor : array or LowRankFactor
        A metric of the form that will be used: another form would be another program.
    target_acceptance : float
    """

    def __init__(
        self,
        target: Target,
        kernel: HMC,
        num_chains: int,
        dim: int,
        dtype: Any,
        key: Any,
        factor: Any,
        target_acceptance: float = HMC.target_acceptance,
    ):
        self.target, self.kernel, self.key = target, kernel, key
        self.num_chains, self.dim, self.dtype = num_chains, dim, np.dtype(dtype)
        self.num_gradients = 0
        self.target_acceptance = target_acceptance
        self._standing = self._arguments_that_stay(factor)
        self.serial = self._alone = False
        self.seconds_per_gradient = 0.0

    def raise_target_acceptance(self, least: float) -> None:
        """Aim at an acceptance of at least so much from now on."""
        self.target_acceptance = max(self.target_acceptance, least)

    def noise(self, first: int) -> Noise:
        """Return the noise of CHUNK iterations from number ``first`` on."""
        drawn = draw_noise(self.key, first, self.num_chains, self.dim)
        return Noise(*map(self._array, drawn))

    def value(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return log density and gradient at one point; -inf and 0 where it is not usable."""
        return self.values(x[None])[0]

    def values(self, points: np.ndarray) -> list[tuple[float, np.ndarray]]:
        """Return log density and gradient at each of points (num, dim), the quicker way."""
        if self._alone:
            return [self._value_alone(point) for point in points]
        components, gradients = self.evaluate(points)
        return list(zip(components.sum(axis=1).tolist(), gradients, strict=True))

    def evaluate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return components (num, J) and gradients (num, dim) at points (num, dim).

        Where the density is not usable the components are -inf and the gradient is 0.
        """
        parts = []
        for first in range(0, len(points), self.num_chains):
            part = points[first : first + self.num_chains]
            states, *_ = self._call(self._blank(part), self._standing, 1)
            parts.append(np.asarray(states.rows, np.float64)[: len(part)])
        self.num_gradients += len(points)
        rows = np.concatenate(parts)
        return rows[:, self.dim : -self.dim], rows[:, -self.dim :]

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Return the log density (num,) at points (num, dim); -inf where it is not usable."""
        return self.evaluate(points)[0].sum(axis=1)

    def start(self, positions: np.ndarray, step_size: float) -> ChainStates:
        """Return chains at positions (num_chains, dim), with their gradients."""
        states, *_ = self._call(self._blank(positions), self._standing, 1)
        self.num_gradients += len(positions)
        return states._replace(log_step_size=self._array(np.log(step_size)))

    def advance(
        self,
        states: ChainStates,
        tuning: Tuning,
        first: int,
        gains: np.ndarray | None = None,
        num: int = CHUNK,
    ) -> tuple[ChainStates, Record]:
        """Move all chains by up to CHUNK iterations, the first of them number ``first``.

        Parameters
        ----------
        gains : (CHUNK,) array, optional
            Adaptation of the step size. Without them every constant is frozen.
        """
        gains = np.zeros(CHUNK) if gains is None else gains
        parts = (golden_phases(first, CHUNK), gains, self.target_acceptance)
        schedule = Schedule(*map(self._array, parts))
        states, *kept = self._call(states, (tuning, schedule, self.noise(first)), num)
        by_chain, shared = (np.asarray(array)[:num] for array in kept)
        record = Record.of(by_chain, shared, self.dim)
        self.num_gradients += int(record.num_steps.sum()) * self.num_chains
        return states, record

    def choose_mapping(self, x: np.ndarray, mapping: str) -> None:
        """Decide how gradients are taken, by the clock at a point that stands for others.

        On a CPU some densities, mixtures above all, cost several times more when mapped over
        chains: there chains take their gradients one after another. Where gradients are cheap,
        single ones are taken in the program for all chains, which saves compiling another.
        What was decided once in a session stays, so that nothing is compiled again.

        Parameters
        ----------
        mapping : {"auto", "together", "serial"}
            Anything but "auto" is obeyed.
        """
        identity = (jax.tree.structure(self.target), self.kernel, self.num_chains, self.dtype)
        if identity not in _seen:
            # Not counted, or the first run of a session would stop at another draw.
            before = self.num_gradients
            _seen[identity] = self._measured(x)
            self.num_gradients = before
        together, alone = _seen[identity]
        quicker = alone is not None and together > _MARGIN * alone
        on_cpu = jax.default_backend() == "cpu"
        self.serial = mapping == "serial" or (mapping == "auto" and quicker and on_cpu)
        self._alone = alone is not None and together > _VERY_DEAR
        self.seconds_per_gradient = alone if alone is not None and self.serial else together

    @property
    def mapping(self) -> tuple[bool, bool]:
        """Whether gradients are taken one after another: of the chains, in the search."""
        return self.serial, self._alone

    @mapping.setter
    def mapping(self, decided: tuple[bool, bool]) -> None:
        self.serial, self._alone = decided

    def _measured(self, x: np.ndarray) -> tuple[float, float | None]:
        """Return the seconds of a gradient among many, and of one alone if it matters."""
        points = np.tile(x, (self.num_chains, 1))
        together = _seconds(lambda: self.evaluate(points)) / self.num_chains
        if together < _DEAR:
            return together, None
        return together, _seconds(lambda: self._value_alone(x))

    def _value_alone(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.num_gradients += 1
        value, gradient = _value_at(self.target, self._array(x))
        return float(value), np.asarray(gradient, np.float64)

    def _call(self, states: ChainStates, rest: tuple, num: int) -> Any:
        return _advance(self.kernel, self.serial, self.target, states, *rest, np.int32(num))

    def _blank(self, positions: np.ndarray) -> ChainStates:
        """Return chains that accept whatever usable density they find where they are."""
        rows = np.zeros(
            (self.num_chains, 2 * self.dim + self.target.num_components), self.dtype
        )
        rows[: len(positions), : self.dim] = positions
        rows[len(positions) :, : self.dim] = positions[-1]
        rows[:, self.dim : -self.dim] = -np.inf
        return ChainStates(rows, self._array(-np.inf))

    def _arguments_that_stay(self, factor: Any) -> tuple[Tuning, Schedule, Noise]:
        c, d, zeros = self.num_chains, self.dim, np.zeros(CHUNK)
        tuning = Tuning(0.0, np.zeros(d), factor, 0.5)
        noise = Noise(np.zeros((CHUNK, c, d)), np.zeros((CHUNK, c)))
        arguments = jax.tree.map(self._array, (tuning, Schedule(zeros, zeros, 0.0), noise))
        return jax.device_put(arguments)

    def tuning(self, mean: np.ndarray, factor: Any) -> Tuning:
        """Return the metric as the program takes it; step and phase come with the schedule."""
        return jax.tree.map(self._array, Tuning(0.0, mean, factor, 0.5))

    def _array(self, values: Any) -> np.ndarray:
        return np.asarray(values, self.dtype)


def _seconds(call: Callable[[], Any]) -> float:
    """Return the shortest of a few times that a call takes, after it ran once."""
    call()
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)
