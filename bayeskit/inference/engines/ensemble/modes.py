"""Modes of a log density, and the normal approximation at each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import linalg, optimize

from bayeskit.errors import InitializationError
from bayeskit.inference.engines.ensemble.lockstep import in_lockstep
from bayeskit.inference.engines.ensemble.program import Program

__all__ = ["Mode", "blank_path", "find_modes", "have_barrier", "with_larger_bound"]

_MAX_ITERATIONS = 200
# A search that goes on at so many times the distance of its start will not come back.
_FAR = 1e6
# What the optimiser sees where the density is zero.
_WALL = 1e300
# Central differences of gradients, in standard deviations: step² against rounding / step.
_STEP = 1e-4
# Steps of Newton's method, until the gradient in standard deviations is as small as that. A
# step below the last bound leaves the Hessian as it was.
_MAX_NEWTON = 10
_STATIONARY = 1e-9
_SAME_CURVATURE = 1e-3
_MIN_CURVATURE = 1e-6
# Above this dimension a Hessian costs more gradients than it is worth.
_MAX_HESSIAN_DIM = 500
# Points of a path at which a normal approximation is tried.
_NUM_PATH_POINTS = 12
# Pairs of moves that the optimiser, and the approximations on its path, remember.
_MAX_PAIRS = 20
# Two optima closer than this many standard deviations of either are one.
_SAME = 0.5


@dataclass
class _Path:
    """What one run of the optimiser saw."""

    positions: list[np.ndarray] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    converged: bool = False

    def best(self) -> int:
        return int(np.argmax(self.values))


def blank_path() -> _Path:
    """Return a path that saw nothing, for a mode that was found before."""
    return _Path()


@dataclass(frozen=True, eq=False)
class Mode:
    """A point and a square root of the covariance there.

    Parameters
    ----------
    position : (dim,) array
    log_density : float
    root : (dim, dim) lower triangular or (dim,) array
    proper : bool
        Whether it is a maximum with curvature in all directions.
    path : _Path
        How the optimiser came there.
    """

    position: np.ndarray
    log_density: float
    root: np.ndarray
    proper: bool
    path: _Path

    def scale(self, z: np.ndarray) -> np.ndarray:
        """Return R z for rows of z."""
        return z * self.root if self.root.ndim == 1 else z @ self.root.T

    def whiten(self, x: np.ndarray) -> np.ndarray:
        """Return the solution z of R z = x - position, for rows of x."""
        centred = np.atleast_2d(x) - self.position
        if self.root.ndim == 1:
            return centred / self.root
        return linalg.solve_triangular(self.root, centred.T, lower=True).T

    @property
    def log_det(self) -> float:
        """Log determinant of the root."""
        diagonal = self.root if self.root.ndim == 1 else np.diagonal(self.root)
        return float(np.log(diagonal).sum())

    @property
    def log_mass(self) -> float:
        """Laplace's approximation of the integral over this mode, up to a constant."""
        return self.log_density + self.log_det


def find_modes(program: Program, starts: np.ndarray) -> list[Mode]:
    """Return the distinct modes that L-BFGS reaches from the starts, the best first.

    Parameters
    ----------
    starts : (num, dim) array
        Points with a finite log density and gradient.

    Raises
    ------
    InitializationError
        If the density is constant, or rises for ever.
    """
    paths = in_lockstep(_climb, list(starts), program.values)
    _check_paths(paths, starts)
    paths.sort(key=lambda path: -max(path.values))
    best, dim = max(paths[0].values), program.dim
    modes: list[Mode] = []
    for path in paths:
        end = path.positions[path.best()]
        near = path.values[path.best()] >= best - (10.0 + 2.0 * dim)
        if not near or any(_is_same(mode, end) for mode in modes):
            continue
        mode = _mode_of(program, path)
        if not any(_is_same(other, mode.position) for other in modes):
            modes.append(mode)
    return sorted(modes, key=lambda mode: -mode.log_density)


def _check_paths(paths: list[_Path], starts: np.ndarray) -> None:
    """Refuse densities that no normalising constant makes a posterior."""
    if all(not np.any(path.gradients) for path in paths):
        raise InitializationError(
            f"the log density is {paths[0].values[0]:.4g} with gradient 0 at all "
            f"{len(paths)} starts: a constant is no posterior on the real line. Check that the "
            "density depends on the position"
        )
    reach = _FAR * (1.0 + np.abs(starts).max())
    for path in paths:
        end = path.positions[path.best()]
        if not path.converged and np.abs(end).max() > reach:
            raise InitializationError(
                f"the log density still rises, to {max(path.values):.4g}, at a distance of "
                f"{np.abs(end).max():.1g} from the origin: the posterior is improper or its "
                "scale is extreme. Give the parameters a proper prior, or rescale them"
            )


def have_barrier(program: Program, one: Mode, other: Mode, depth: float = 3.0) -> bool:
    """Return whether the density falls between two modes, on the straight line, by ``depth``.

    A difference of 3 in the log density leaves one crossing in twenty.
    """
    along = np.linspace(0.0, 1.0, 11)[1:-1, None]
    line = one.position + along * (other.position - one.position)
    lowest = program.log_density(line).min()
    return bool(lowest < min(one.log_density, other.log_density) - depth)


def _is_same(mode: Mode, x: np.ndarray) -> bool:
    dim = len(x)
    return bool(np.sum(mode.whiten(x) ** 2) < dim * _SAME**2)


def _climb(value: Callable, start: np.ndarray) -> _Path:
    """Run L-BFGS upwards and return the path of its points with a finite density."""
    path = _Path()

    def negative(x):
        log_density, gradient = value(x)
        if not (np.isfinite(log_density) and np.isfinite(gradient).all()):
            return _WALL, np.zeros_like(x)
        path.positions.append(x.copy())
        path.gradients.append(gradient)
        path.values.append(log_density)
        return -log_density, -gradient

    found = optimize.minimize(
        negative,
        start,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxcor": min(_MAX_PAIRS, 2 * len(start)),
            "maxiter": _MAX_ITERATIONS,
            "ftol": 1e-10,
            "gtol": 1e-5,
        },
    )
    path.converged = bool(found.success)
    return path


def _mode_of(program: Program, path: _Path) -> Mode:
    """Return the normal approximation at the end of a path."""
    top = path.best()
    x, value = path.positions[top], path.values[top]
    if program.dim > _MAX_HESSIAN_DIM:
        spread = np.sqrt(np.diagonal(_inverse_hessian(path, top)))
        return Mode(x, value, spread, path.converged, path)
    rough = _cholesky(_inverse_hessian(path, top))
    root, curved = _refined(program, x, rough)
    proper = curved and path.converged
    if proper:
        x, value, root, proper = _polished(program, x, value, root)
    return Mode(x, value, root, proper, path)


def _refined(program: Program, x: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return a triangular root of the inverse Hessian, and whether all curvatures are positive.

    Gradients are differenced along the columns of a rough root, so that units and
    correlations of the coordinates matter as little as they can.
    """
    step = _STEP if program.dtype == np.float64 else 100.0 * _STEP
    moved = np.concatenate([x + step * root.T, x - step * root.T])
    components, gradients = program.evaluate(moved)
    if not np.isfinite(components).all():
        return root, False
    forward, backward = np.split(gradients, 2)
    hessian = (backward - forward) @ root / (2.0 * step)
    hessian = (hessian + hessian.T) / 2.0
    size = np.abs(np.diagonal(hessian))
    scale = 1.0 / np.sqrt(np.maximum(size, _MIN_CURVATURE))
    values, vectors = np.linalg.eigh(scale[:, None] * hessian * scale)
    curved = bool((values > _MIN_CURVATURE).all() and (np.diagonal(hessian) > 0).all())
    spread = scale[:, None] * vectors / np.sqrt(np.maximum(np.abs(values), _MIN_CURVATURE))
    # A triangular root does not depend on the arbitrary signs of eigenvectors.
    triangle = np.asarray(np.linalg.qr((root @ spread).T, mode="r")).T
    return triangle * np.sign(np.diagonal(triangle)), curved


def _polished(
    program: Program, x: np.ndarray, value: float, root: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray, bool]:
    """Return the mode after steps of Newton's method, and whether it is a mode.

    Where units differ by orders of magnitude, the optimiser stops standard deviations away.
    """
    length = np.inf
    for _ in range(_MAX_NEWTON):
        whitened = root.T @ program.value(x)[1]
        length = float(np.abs(whitened).max())
        if length < _STATIONARY:
            break
        for shorter in (1.0, 0.5, 0.25, 0.1):
            there = x + shorter * (root @ whitened)
            reached, _ = program.value(there)
            # Next to the mode only rounding is left of the difference.
            if reached >= value - 1e-12 * abs(value):
                break
        else:
            break
        x, value = there, reached
        if length > _SAME_CURVATURE:
            root, curved = _refined(program, x, root)
            if not curved:
                return x, value, root, False
    better, curved = _refined(program, x, root)
    return x, value, better if curved else root, curved and length < _SAME


@np.errstate(over="ignore", invalid="ignore")
def _inverse_hessian(path: _Path, end: int) -> np.ndarray:
    """Return the BFGS approximation of the covariance at a point of a path."""
    pairs = []
    for i in range(max(0, end - _MAX_PAIRS), end):
        move = path.positions[i + 1] - path.positions[i]
        change = path.gradients[i] - path.gradients[i + 1]
        # Only pairs along which the density is curved downwards, as in the optimiser.
        if move @ change > 1e-10 * (change @ change) > 0:
            pairs.append((move, change))
    dim = len(path.positions[0])
    if not pairs:
        slope = max(1.0, float(np.abs(path.gradients[end]).max()))
        return np.eye(dim) / slope**2
    move, change = pairs[-1]
    inverse = np.eye(dim) * (move @ change) / (change @ change)
    for move, change in pairs:
        rho = 1.0 / (move @ change)
        left = np.eye(dim) - rho * np.outer(move, change)
        inverse = left @ inverse @ left.T + rho * np.outer(move, move)
    return inverse


def _cholesky(covariance: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return np.diag(np.sqrt(np.abs(np.diagonal(covariance)) + _MIN_CURVATURE))


def with_larger_bound(program: Program, mode: Mode, generator: np.random.Generator) -> Mode:
    """Return the mode, or the normal approximation on its path with a larger bound.

    Where a density has no maximum, or a spike for one, the optimiser runs up where there is
    no mass. The evidence lower bound knows mass (Zhang, Carpenter, Gelman & Vehtari 2022,
    *Pathfinder*).
    """
    path = mode.path
    candidates = [mode]
    for i in np.unique(np.linspace(0, len(path.values) - 1, _NUM_PATH_POINTS).astype(int)):
        covariance = _inverse_hessian(path, i)
        root = _cholesky(covariance)
        here, ahead = path.positions[i], covariance @ path.gradients[i]
        # The normal is centred a step of Newton's method further up, if that is not too far.
        for place in (here, here + ahead):
            candidates.append(Mode(place, path.values[i], root, False, path))
    z = generator.standard_normal((program.num_chains, program.dim))
    bounds = [_bound(program, candidate, z) for candidate in candidates]
    return candidates[int(np.argmax(bounds))]


def _bound(program: Program, mode: Mode, z: np.ndarray) -> float:
    """Return the evidence lower bound of a normal approximation, up to a constant."""
    log_density = program.log_density(mode.position + mode.scale(z))
    return float(np.mean(log_density)) + mode.log_det
