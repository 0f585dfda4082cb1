"""Estimates of all splits: scale, solve, tune, and take the variance."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.models.dsl.clusters import cluster_products
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.moments import Rows, jacobian, total_moment
from bayeskit.models.dsl.newton import Roots, find_roots
from bayeskit.models.dsl.power_tuning import best_power, quadratic_parts
from bayeskit.models.dsl.repeats import combine_repeats
from bayeskit.models.dsl.sandwich import bread, unit_moments

__all__ = [
    "SplitEstimates",
    "SplitPieces",
    "estimate",
    "pieces_of_split",
    "scaled_data",
]

# Beyond this condition number of the scaled columns half of all digits are lost.
_MAX_CONDITION = 1e8
# A probability of exp(-30) is no estimate: a logit that grows beyond separates the classes.
_SEPARATED = 30.0
# Spread of a column, in units of its mean, that rounding alone explains.
_CONSTANT = 1e-12


@dataclass(frozen=True, eq=False)
class SplitEstimates:
    """Estimates by split, and what they combine to.

    Parameters
    ----------
    theta : (splits, parameters) array
    vcov : (splits, parameters, parameters) array
    label_vcov : (splits, parameters, parameters) array
        The part of ``vcov`` that is inversely proportional to the number of labels.
    bread : (splits, parameters, parameters) array
        Inverse Jacobians of the mean moments.
    influence : (units, parameters) array
        Mean over splits of the influence of each unit.
    label_influence : (labelled, parameters) array
        Mean over splits of ``J^-1 d_i``, what a label corrects.
    power : (splits, 1 or parameters) array
        Lambda.
    numbers : (splits) int array
        Which repeats these are, where some had no root.
    coef, covariance : arrays
        Combined over splits.
    """

    theta: np.ndarray
    vcov: np.ndarray
    label_vcov: np.ndarray
    bread: np.ndarray
    influence: np.ndarray
    label_influence: np.ndarray
    power: np.ndarray
    numbers: np.ndarray
    coef: np.ndarray
    covariance: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """Standard errors of the combined estimate."""
        return np.sqrt(np.diag(self.covariance))


class SplitPieces(NamedTuple):
    """What one split gives, on the original scale.

    Parameters
    ----------
    theta : (parameters) array
    bread : (parameters, parameters) array
    influence, label_influence : (units, parameters) array
        The second is the part that is due to labels.
    """

    theta: np.ndarray
    bread: np.ndarray
    influence: np.ndarray
    label_influence: np.ndarray


def estimate(
    data: MomentData,
    *,
    tuning: str | Callable | None = None,
    power: float = 1.0,
    interest: Any = slice(None),
    names: Any = None,
) -> SplitEstimates:
    """Return the estimates of all splits.

    Parameters
    ----------
    data : MomentData
    tuning : "trace", "per_coef", callable or None
        See :mod:`bayeskit.models.dsl.power_tuning`.
    power : float
        Lambda where it is not tuned.
    interest : index of parameters
        Those whose variance the rule "trace" makes small.
    names : sequence of str, optional
        Of columns, for messages.

    Raises
    ------
    InvalidDataError
        For collinear columns, and where no split has a root.
    """
    scaled, change = scaled_data(data)
    splits = data.num_splits
    weight = scaled.weights(power)
    rows = scaled.rows(weight)
    _check_columns(rows.x, names)
    roots = _solved(scaled, rows, weight)
    kept = _usable(scaled, rows, roots)
    lambdas = np.full((splits, 1), float(power))
    pieces = [_pieces(scaled, change, s, roots.theta[s], power) for s in kept]
    if tuning is not None:
        chosen = []
        for s, (_, parts) in zip(kept, pieces, strict=True):
            moments, inverse = parts
            both = quadratic_parts(scaled.one_split(s), moments, change @ inverse)
            chosen.append(best_power(tuning, both, interest))
        lambdas = np.stack(chosen)
        tuned = [
            _at_powers(scaled, change, s, roots.theta[s], lam)
            for s, lam in zip(kept, lambdas, strict=True)
        ]
    else:
        lambdas = lambdas[kept]
        tuned = [piece for piece, _ in pieces]
    return _collected(data, tuned, lambdas, kept)


def pieces_of_split(data: MomentData, found: SplitEstimates, place: int) -> SplitPieces:
    """Return the influence of each unit in one split, by its place among the estimates."""
    scaled, change = scaled_data(data)
    start = np.linalg.solve(change, found.theta[place])
    number = int(found.numbers[place])
    return _at_powers(scaled, change, number, start, found.power[place])


def _collected(
    data: MomentData, found: list[SplitPieces], power: np.ndarray, numbers: np.ndarray
) -> SplitEstimates:
    n, clusters = data.num_units, data.clusters
    theta = np.stack([p.theta for p in found])
    vcov, label_vcov = [], []
    for piece in found:
        vcov.append(cluster_products(piece.influence, piece.influence, clusters) / n**2)
        labels = piece.label_influence
        label_vcov.append(cluster_products(labels, labels, clusters) / n**2)
    coef, covariance = combine_repeats(theta, np.stack(vcov))
    at = data.labeled
    labels = np.mean([p.label_influence[at] for p in found], axis=0)
    return SplitEstimates(
        theta=theta,
        vcov=np.stack(vcov),
        label_vcov=np.stack(label_vcov),
        bread=np.stack([p.bread for p in found]),
        influence=np.mean([p.influence for p in found], axis=0),
        label_influence=labels * data.probability[at][:, None],
        power=power,
        numbers=numbers,
        coef=coef,
        covariance=covariance,
    )


def _pieces(data: MomentData, change: np.ndarray, number: int, theta: np.ndarray, power: float):
    """Return the pieces of one split, its moments and its inverse Jacobian as scaled."""
    one = data.one_split(number)
    weight = one.weights(power)
    rows = one.rows(weight)
    moments = unit_moments(one, theta, rows, power)
    inverse = bread(one, theta, rows, weight[0])
    piece = SplitPieces(
        change @ theta,
        change @ inverse @ change.T,
        moments.robust @ (change @ inverse).T,
        moments.corrections @ (change @ inverse).T,
    )
    return piece, (moments, inverse)


def _at_powers(data, change, number, start, lambdas) -> SplitPieces:
    """Solve one split at its lambda; with one for each parameter, take each from its own."""
    found = []
    one = data.one_split(number)
    for power in lambdas:
        weight = one.weights(power)
        rows = one.rows(weight)
        roots = _search(one, rows, weight, start[None])
        if not roots.converged[0]:
            roots = _solved(one, rows, weight)
        found.append(_pieces(data, change, number, roots.theta[0], float(power))[0])
    if len(found) == 1:
        return found[0]
    diagonal = range(len(found))
    return SplitPieces(
        np.array([found[j].theta[j] for j in diagonal]),
        np.stack([found[j].bread[j] for j in diagonal]),
        np.stack([found[j].influence[:, j] for j in diagonal], axis=1),
        np.stack([found[j].label_influence[:, j] for j in diagonal], axis=1),
    )


# ---------------------------------------------------------------- solving


def _search(data: MomentData, rows: Rows, weight: np.ndarray, start: np.ndarray) -> Roots:
    n = data.num_units
    return find_roots(
        lambda theta: total_moment(data.link, theta, rows, weight) / n,
        lambda theta: jacobian(data.link, theta, rows, weight) / n,
        start,
    )


def _solved(data: MomentData, rows: Rows, weight: np.ndarray) -> Roots:
    """Search from the labels alone, which are consistent, then from zero."""
    splits = max(len(weight), *(len(a) for a in rows))
    zero = np.zeros((splits, rows.num_parameters))
    if data.link.is_linear:
        return _search(data, rows, weight, zero)
    starts = [zero]
    if len(data.labeled):
        n = data.num_units
        labels = Rows(*(a[:, n:] for a in rows))
        first = _search(data, labels, weight[:, n:], zero)
        starts = [np.where(first.converged[:, None], first.theta, 0.0), zero]
    best = _search(data, rows, weight, starts[0])
    for start in starts[1:]:
        if best.converged.all():
            break
        other = _search(data, rows, weight, start)
        take = ~best.converged & other.converged
        best = Roots(
            np.where(take[:, None], other.theta, best.theta),
            best.converged | other.converged,
            best.num_steps + other.num_steps,
        )
    return best


def _usable(data: MomentData, rows: Rows, roots: Roots) -> np.ndarray:
    """Return the splits that have a root; say what became of the others."""
    kept = np.flatnonzero(roots.converged)
    if len(kept) == len(roots.converged):
        return kept
    reason = "the corrected moments have no root: more labels, or fewer columns, are needed"
    if not data.link.is_linear and np.abs(roots.theta[~roots.converged]).max() > _SEPARATED:
        reason = (
            "coefficients grow without bound, as where a column separates the classes: drop "
            "that column or label more units"
        )
    if not len(kept):
        raise InvalidDataError(f"the moment equations were not solved: {reason}")
    missing = len(roots.converged) - len(kept)
    warnings.warn(
        f"{missing} of {len(roots.converged)} repeats were left out, since {reason}",
        ConvergenceWarning,
        stacklevel=4,
    )
    return kept


# ---------------------------------------------------------------- scale


def scaled_data(data: MomentData) -> tuple[MomentData, np.ndarray]:
    """Return data with columns of unit scale, and the matrix back for the parameters."""
    centre = not data.effects
    change = _standardizing([data.predicted.x, data.true.x], centre)
    instruments = change
    if data.has_instruments:
        instruments = _standardizing([data.predicted.z, data.true.z], centre)

    def apply(rows: Rows) -> Rows:
        x = rows.x @ change
        return Rows(x, rows.z @ instruments if data.has_instruments else x, rows.y)

    outcomes = data.predicted.y.shape[-1]
    scaled = replace(data, predicted=apply(data.predicted), true=apply(data.true))
    return scaled, np.kron(np.eye(outcomes), change)


def _standardizing(parts: list[np.ndarray], centre: bool) -> np.ndarray:
    """Return T with columns of x @ T of unit scale, centred where there is a constant."""
    flat = np.concatenate([x.reshape(-1, x.shape[-1]) for x in parts])
    mean, sd = flat.mean(axis=0), flat.std(axis=0)
    varies = sd > _CONSTANT * np.abs(mean)
    constant = np.flatnonzero(~varies & (mean != 0))
    centre = centre and len(constant) > 0
    scale = np.where(varies & centre, sd, np.sqrt(mean**2 + sd**2))
    change = np.diag(1.0 / np.where(scale > 0, scale, 1.0))
    if centre:
        first = constant[0]
        others = np.arange(len(mean)) != first
        change[first, others] = -mean[others] / mean[first] * np.diag(change)[others]
    return change


def _check_columns(x: np.ndarray, names: Any) -> None:
    """Refuse columns that others determine, in predictions and labels alike."""
    triangle = np.linalg.qr(x.reshape(-1, x.shape[-1]), mode="r")
    singular = np.linalg.svd(triangle, compute_uv=False)
    if singular[-1] * _MAX_CONDITION >= singular[0] > 0:
        return
    left = np.abs(np.diag(triangle))
    place = int(np.argmin(left / np.maximum(np.linalg.norm(triangle, axis=0), 1.0)))
    name = repr(names[place]) if names is not None else f"number {place}"
    raise InvalidDataError(
        f"column {name} is determined by the columns before it, or by the fixed effects: drop "
        "it"
    )
