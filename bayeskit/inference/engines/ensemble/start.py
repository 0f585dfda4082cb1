"""Where the chains start: weighted draws from Student-t distributions at the modes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln, logsumexp

from bayeskit.errors import InitializationError
from bayeskit.inference.engines.ensemble.modes import (
    Mode,
    find_modes,
    have_barrier,
    with_larger_bound,
)
from bayeskit.inference.engines.ensemble.program import Program

__all__ = ["Mixture", "Start", "find_start", "usable_starts"]

_DEGREES_OF_FREEDOM = 5.0
_CANDIDATES_PER_CHAIN = 4
# Share of the mixture weights that all modes get alike: Laplace's approximation may be far off.
_UNIFORM_SHARE = 0.1
# Below this exponent the approximation at the modes is poor.
_POOR_FIT = 0.3
# A mode with less mass than this would not be missed.
_LEAST_MASS = 0.01


@dataclass(frozen=True, eq=False)
class Mixture:
    """Student-t distributions with 5 degrees of freedom at modes, with weights."""

    modes: list[Mode]

    @property
    def log_weights(self) -> np.ndarray:
        """Laplace's weights, a tenth of them spread evenly."""
        mass = np.array([mode.log_mass for mode in self.modes])
        laplace = np.exp(mass - logsumexp(mass))
        share = _UNIFORM_SHARE / len(mass)
        return np.log((1.0 - _UNIFORM_SHARE) * laplace + share)

    def draw(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """Return points (num, dim)."""
        dim = len(self.modes[0].position)
        which = generator.choice(len(self.modes), num, p=np.exp(self.log_weights))
        z = generator.standard_normal((num, dim))
        z /= np.sqrt(generator.chisquare(_DEGREES_OF_FREEDOM, (num, 1)) / _DEGREES_OF_FREEDOM)
        points = np.empty((num, dim))
        for i, mode in enumerate(self.modes):
            chosen = which == i
            points[chosen] = mode.position + mode.scale(z[chosen])
        return points

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Return the normalised log density (num,) at points (num, dim)."""
        nu, dim = _DEGREES_OF_FREEDOM, points.shape[1]
        constant = gammaln((nu + dim) / 2) - gammaln(nu / 2) - 0.5 * dim * np.log(nu * np.pi)
        terms = []
        for log_weight, mode in zip(self.log_weights, self.modes, strict=True):
            squares = np.sum(mode.whiten(points) ** 2, axis=1)
            kernel = -0.5 * (nu + dim) * np.log1p(squares / nu)
            terms.append(log_weight + constant - mode.log_det + kernel)
        return logsumexp(terms, axis=0)


@dataclass(frozen=True, eq=False)
class Start:
    """What is known before any chain moves.

    Parameters
    ----------
    positions : (num_chains, dim) array
    mixture : Mixture
    exponent : float in (0, 1]
        Largest power of the importance weights that leaves half of the chains effective:
        near 1 where the posterior is nearly normal.
    separate_modes : list of Mode
        The mode with the largest weight, and those that carry weight behind a barrier.
    """

    positions: np.ndarray
    mixture: Mixture
    exponent: float
    separate_modes: list[Mode]

    @property
    def mean(self) -> np.ndarray:
        """Mean of the starting points."""
        return self.positions.mean(axis=0)

    @property
    def proper(self) -> bool:
        """Whether every mode is a proper maximum."""
        return all(mode.proper for mode in self.mixture.modes)


def usable_starts(
    program: Program, num: int, proposals: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return up to ``num`` of the proposals whose density and gradient are finite, and counts.

    Parameters
    ----------
    proposals : iterable of (num_proposals, dim) arrays
        Tried one after another until enough are usable.

    Raises
    ------
    InitializationError
        If none is, with what was found.
    """
    found: list[np.ndarray] = []
    values = []
    for points in proposals:
        for first in range(0, len(points), num):
            part = points[first : first + num]
            for point, (value, gradient) in zip(part, program.values(part), strict=True):
                values.append(value)
                if np.isfinite(value) and np.isfinite(gradient).all():
                    found.append(point)
            if len(found) >= num:
                return np.array(found[:num]), np.array(values)
    if found:
        return np.array(found), np.array(values)
    seen = np.array(values)
    raise InitializationError(
        f"none of {len(seen)} starts has a finite density and gradient (log density: "
        f"{int(np.isneginf(seen).sum())} NaN or -inf, {int(np.isposinf(seen).sum())} +inf; the "
        "others have a gradient that is not finite). Check the density at prior draws, or give "
        "initial_positions. A NaN gradient often comes from jnp.where with a branch that is NaN"
    )


def find_start(program: Program, starts: np.ndarray, generator: np.random.Generator) -> Start:
    """Return starting points of all chains, from the modes that the starts lead to.

    Raises
    ------
    InitializationError
        If no candidate has a finite density.
    """
    modes = find_modes(program, starts)
    mixture, positions, exponent = _weighed(program, modes, generator)
    if exponent < _POOR_FIT or not all(mode.proper for mode in modes):
        better = [with_larger_bound(program, mode, generator) for mode in modes]
        if any(new is not old for new, old in zip(better, modes, strict=True)):
            mixture, positions, exponent = _weighed(program, better, generator)
            modes = better
    if exponent == 0.0:
        raise InitializationError(
            f"no point drawn around the best one found (log density "
            f"{modes[0].log_density:.4g}) has a finite density: the support is too thin there. "
            "Reparametrise so that every real vector has a finite density"
        )
    weights = np.exp(mixture.log_weights) - _UNIFORM_SHARE / len(modes)
    largest = modes[int(np.argmax(weights))]
    separate = [
        mode
        for weight, mode in zip(weights, modes, strict=True)
        if mode is not largest and weight > _LEAST_MASS and have_barrier(program, largest, mode)
    ]
    return Start(positions, mixture, exponent, [largest, *separate])


def _weighed(
    program: Program, modes: list[Mode], generator: np.random.Generator
) -> tuple[Mixture, np.ndarray, float]:
    """Return the mixture at modes, chains resampled from its draws, and the exponent.

    The exponent is 0 if no draw has a finite density.
    """
    num = program.num_chains
    mixture = Mixture(modes)
    candidates = mixture.draw(_CANDIDATES_PER_CHAIN * num, generator)
    log_ratio = program.log_density(candidates) - mixture.log_density(candidates)
    if not np.isfinite(log_ratio).any():
        return mixture, candidates[:num], 0.0
    exponent = _largest_exponent(log_ratio, num / 2)
    weights = _powered(log_ratio, exponent)
    edges = np.cumsum(weights)[:-1]
    # Systematic resampling: one uniform, chains in equal steps from it.
    steps = (generator.uniform() + np.arange(num)) / num
    chosen = np.sum(steps[:, None] >= edges, axis=1)
    return mixture, candidates[chosen], exponent


def _powered(log_ratio: np.ndarray, exponent: float) -> np.ndarray:
    finite = np.isfinite(log_ratio)
    powered = np.where(finite, exponent * np.where(finite, log_ratio, 0.0), -np.inf)
    return np.exp(powered - logsumexp(powered))


def _largest_exponent(log_ratio: np.ndarray, wanted: float) -> float:
    """Return the largest power of weights, at most 1, with the wanted effective size."""

    def effective(exponent: float) -> float:
        return 1.0 / np.sum(_powered(log_ratio, exponent) ** 2)

    if effective(1.0) >= wanted:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= wanted else (low, middle)
    return low


def describe(start: Start) -> dict[str, Any]:
    """Return what the history of a run keeps of its start."""
    modes = start.mixture.modes
    return {
        "start_exponent": np.array([start.exponent]),
        "mode_log_density": np.array([mode.log_density for mode in modes]),
        "mode_log_mass": np.array([mode.log_mass for mode in modes]),
        "mode_is_proper": np.array([mode.proper for mode in modes]),
    }
