r"""Densities and masses of draws, as curves for the eye.

A density is a Gaussian kernel estimate on a grid, by the cosine transform. That reflects the
kernel at the ends of the grid, which are the least and the largest draw: no density lies where
no draw can be, and a density that does not vanish at the end of its support keeps its height.
The bandwidth is that of Botev, Grotowski & Kroese (2010), *Kernel density estimation via
diffusion*, which takes no normal reference and so keeps modes apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayeskit.plots._results import weighted_quantiles

__all__ = [
    "Curve",
    "curve_of",
    "highest_density_interval",
    "plane_density",
    "view_of",
]

_GRID = 2048
_PLANE_GRID = 128
# As many distinct values as these are atoms, if each comes up again and again.
_FEW_VALUES, _REPEATS = 25, 20
_MOST_BARS = 60
# In widths of a view, for planes: less leaves a rough edge around a few draws.
_LEAST_BANDWIDTH = 0.015
# A view spans the middle 95 % and half of that to both sides: four standard deviations of a
# normal law, and little enough of a heavy tail to see the middle.
_TAIL, _BEYOND = 0.025, 0.5
# Fewer draws say little about derivatives of their density.
_LEAST_SIZE = 50
# Integrals of squared derivatives that the bandwidth rests on, as in the paper.
_STAGES = 7
_RESOLUTION = 1e-12


class Curve(NamedTuple):
    """What stands for the law of draws.

    Parameters
    ----------
    x, height : (points,) arrays
        A density, or the mass of each value; of many whole numbers the mean of neighbours.
    is_discrete : bool
    """

    x: np.ndarray
    height: np.ndarray
    is_discrete: bool


def curve_of(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    view: tuple[float, float] | None = None,
) -> Curve:
    """Return the density of draws within a view; the masses of integers and of few values.

    Parameters
    ----------
    values : (num,) array
    weights : (num,) array, optional
        With sum 1.
    view : (low, high), optional
        Default: :func:`view_of` them.
    """
    values = np.ravel(values)
    weights = np.full(len(values), 1.0 / len(values)) if weights is None else np.ravel(weights)
    low, high = view_of(values, weights) if view is None else view
    atoms, where = np.unique(values, return_inverse=True)
    masses: np.ndarray = np.bincount(where, weights)
    few = len(atoms) <= min(_FEW_VALUES, len(values) / _REPEATS)
    if values.dtype.kind in "iu" or few or _is_constant(atoms):
        if _is_constant(atoms):
            atoms, masses = atoms[:1], np.ones(1)
        shown = (atoms >= low) & (atoms <= high)
        atoms, masses = atoms[shown], masses[shown]
        if values.dtype.kind in "iu" and len(atoms):
            return Curve(*_grouped(atoms, masses), True)
        return Curve(atoms, masses, True)
    atoms = atoms.astype(float)
    # What lies beyond is not needed but for what its kernels reach into the view.
    reach = 0.2 * (high - low)
    start, end = max(low - reach, atoms[0]), min(high + reach, atoms[-1])
    inside = (atoms >= start) & (atoms <= end)
    if not inside.any():
        return Curve(atoms[:0], masses[:0], False)
    x, height = _smoothed(atoms[inside], masses[inside], start, end)
    shown = (x >= low) & (x <= high)
    return Curve(x[shown], height[shown], False)


def _grouped(atoms: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean masses of neighbours where whole numbers are too many for a bar each."""
    step = -(-int(atoms[-1] - atoms[0] + 1) // _MOST_BARS)
    if step <= 1:
        return atoms, masses
    group = (atoms - atoms[0]) // step
    heights = np.bincount(group, masses) / step
    return atoms[0] + step * np.arange(len(heights)) + 0.5 * (step - 1), heights


def view_of(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Return ends of an axis: the range of draws, less tails that would hide the middle."""
    values = np.ravel(values)
    weights = None if weights is None else np.ravel(weights)
    if weights is not None:
        values, weights = values[weights > 0], weights[weights > 0]
    low, high = (float(v) for v in weighted_quantiles(values, weights, [_TAIL, 1 - _TAIL]))
    # Where all of the middle is one value, what lies beside it is all there is to see.
    width = high - low if high > low else np.inf
    return (
        float(max(low - _BEYOND * width, values.min())),
        float(min(high + _BEYOND * width, values.max())),
    )


def _is_constant(sorted_values: np.ndarray) -> bool:
    low, high = float(sorted_values[0]), float(sorted_values[-1])
    return high - low <= _RESOLUTION * max(abs(low), abs(high))


def _smoothed(
    values: np.ndarray, masses: np.ndarray, start: float, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of the cells of a grid and the density there."""
    from scipy.fft import dct, idct

    width = end - start
    cells = _binned(values, masses, start, width, _GRID)
    coefficients = dct(cells)
    # Draws that are the same, and small weights, say less than as many others.
    size = masses.sum() ** 2 / np.sum(masses**2)
    time = _diffusion_time(coefficients[1:] / masses.sum(), size)
    k = np.arange(_GRID)
    smooth = idct(coefficients * np.exp(-0.5 * (np.pi * k) ** 2 * time))
    x = start + width * (k + 0.5) / _GRID
    # Rounding leaves tiny negative numbers.
    return x, np.maximum(smooth, 0.0) * _GRID / width


def _binned(
    values: np.ndarray, masses: np.ndarray, start: float, width: float, num: int
) -> np.ndarray:
    place = ((values - start) * (num / width)).astype(int)
    return np.bincount(np.clip(place, 0, num - 1), masses, minlength=num)


def _diffusion_time(coefficients: np.ndarray, size: float) -> float:
    """Return the squared bandwidth, in units of the squared width of the grid."""
    from scipy.optimize import brentq

    squares = np.arange(1.0, len(coefficients) + 1) ** 2
    energy = (0.5 * coefficients) ** 2
    log_squares = np.log(squares)

    def norm(order: int, time: float) -> float:
        terms = np.exp(order * log_squares - np.pi**2 * squares * time) * energy
        return 2.0 * np.pi ** (2 * order) * float(terms.sum())

    def excess(time: float) -> float:
        f = norm(_STAGES, time)
        for s in range(_STAGES - 1, 1, -1):
            odd = np.prod(np.arange(1.0, 2 * s, 2)) / np.sqrt(2.0 * np.pi)
            factor = (1.0 + 0.5 ** (s + 0.5)) / 3.0
            f = norm(s, (2.0 * factor * odd / (size * f)) ** (2.0 / (3.0 + 2.0 * s)))
        return time - (2.0 * size * np.sqrt(np.pi) * f) ** -0.4

    # Between a cell of the grid and a tenth of its width.
    low, high = len(coefficients) ** -2.0, 0.01
    with np.errstate(all="ignore"):
        ends = excess(low), excess(high)
        if size >= _LEAST_SIZE and np.isfinite(ends).all() and ends[0] < 0 < ends[1]:
            return float(brentq(excess, low, high, rtol=1e-3))
    # Silverman's rule, for a uniform law on the grid.
    return float(np.clip((1.06 * size**-0.2 / np.sqrt(12.0)) ** 2, low, high))


def plane_density(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    views: tuple[tuple[float, float], tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a grid and the density there, (points,), (points,) and (points of y, of x).

    Last comes the density (num,) at the draws, 0 for those out of view.

    Parameters
    ----------
    x, y : (num,) arrays
    weights : (num,) array, optional
        With sum 1.
    views : pair of (low, high)
        Of x and y.

    Notes
    -----
    The bandwidth of each axis is that of its own density, widened as the rate of two
    dimensions, N^(-1/6), asks for in place of N^(-1/5).
    """
    from scipy.fft import dct, dctn, idctn

    weights = np.full(len(x), 1.0 / len(x)) if weights is None else weights
    size = 1.0 / np.sum(weights**2)
    inside = np.ones(len(x), bool)
    for values, (low, high) in ((x, views[0]), (y, views[1])):
        inside &= (values >= low) & (values <= high)
    cells: np.ndarray = np.zeros((_PLANE_GRID, _PLANE_GRID))
    places, grids, damping = [], [], []
    for values, (low, high) in ((y, views[1]), (x, views[0])):
        own, masses = values[inside].astype(float), weights[inside]
        place = ((own - low) * (_PLANE_GRID / (high - low))).astype(int)
        places.append(np.clip(place, 0, _PLANE_GRID - 1))
        fine = _binned(own, masses, low, high - low, _GRID)
        time = _diffusion_time(dct(fine)[1:] / masses.sum(), size) * size ** (1 / 15)
        time = max(time, _LEAST_BANDWIDTH**2)
        k = np.arange(_PLANE_GRID)
        damping.append(np.exp(-0.5 * (np.pi * k) ** 2 * time))
        grids.append(low + (high - low) * (k + 0.5) / _PLANE_GRID)
    np.add.at(cells, tuple(places), weights[inside])
    smooth = idctn(dctn(cells) * damping[0][:, None] * damping[1])
    area = np.prod([(high - low) / _PLANE_GRID for low, high in views])
    height = np.maximum(smooth, 0.0) / area
    at_draws = np.zeros(len(x))
    at_draws[inside] = height[tuple(places)]
    return grids[1], grids[0], height, at_draws


def highest_density_interval(
    values: np.ndarray, weights: np.ndarray | None, level: float
) -> tuple[float, float]:
    """Return the shortest interval between two draws with so much of the mass."""
    values = np.ravel(values)
    order = np.argsort(values, kind="stable")
    weights = np.full(len(values), 1.0 / len(values)) if weights is None else np.ravel(weights)
    ranked, total = values[order], np.cumsum(weights[order])
    before = np.concatenate([[0.0], total[:-1]])
    # The first draw at which the mass from each one on is enough, but for rounding.
    last = np.searchsorted(total, before + level * total[-1] - _RESOLUTION)
    starts = np.flatnonzero(last < len(values))
    widths = ranked[last[starts]].astype(float) - ranked[starts]
    best = starts[np.argmin(widths)]
    return float(ranked[best]), float(ranked[last[best]])
