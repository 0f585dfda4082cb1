"""Draws by name, whatever holds them: how all plots of draws read results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Draws", "Entry", "draws_of", "entries_of", "prior_of", "weighted_quantiles"]

_KINDS = "a Posterior, a fitted estimator, an ArviZ object, a RefinedPosterior or a Population"


class Draws(NamedTuple):
    """What a result holds.

    Parameters
    ----------
    values : dict of arrays (chain, draw, ...)
    weights : (chain, draw) array or None
        With sum 1; None for equal ones.
    diverging : (chain, draw) bool array or None
    labels : dict of sequences
        Names of the entries of vector parameters.
    """

    values: dict[str, np.ndarray]
    weights: np.ndarray | None = None
    diverging: np.ndarray | None = None
    labels: Mapping[str, Sequence[Any]] = {}


class Entry(NamedTuple):
    """One scalar parameter.

    Parameters
    ----------
    label : str
    values : (chain, draw) array
        Finite.
    """

    label: str
    values: np.ndarray


def draws_of(result: Any) -> Draws:
    """Return the draws of a result.

    Parameters
    ----------
    result : Posterior, fitted estimator, ArviZ object, RefinedPosterior or Population

    Raises
    ------
    TypeError
        For anything else.
    NotFittedError
        For an estimator that is not fitted.
    """
    if hasattr(result, "weighted_draws"):
        return _of_refined(result)
    if hasattr(result, "particles") and hasattr(result, "log_weights"):
        return _of_population(result)
    if hasattr(getattr(result, "draws", None), "items"):
        return _of_posterior(result)
    if hasattr(result, "posterior"):
        return _of_arviz(result)
    _refuse_unfitted(result)
    if hasattr(getattr(getattr(result, "result_", None), "draws", None), "items"):
        return _of_posterior(result.result_)._replace(labels=_labels_of(result))
    if hasattr(getattr(result, "posterior_", None), "posterior"):
        return _of_arviz(result.posterior_)
    raise TypeError(f"result must be {_KINDS}, got {type(result).__name__}")


def prior_of(result: Any) -> Draws:
    """Return the draws of the prior that come with a result.

    Raises
    ------
    ValueError
        If there are none.
    """
    groups = result if hasattr(result, "posterior") else getattr(result, "posterior_", None)
    group = getattr(groups, "prior", None)
    if not hasattr(group, "data_vars"):
        raise ValueError(
            "the result has no draws of the prior: give prior= draws of it, such as a "
            "Population, or fit a NumPyro model with proper priors"
        )
    return _of_group(group)


def _refuse_unfitted(result: Any) -> None:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if isinstance(result, BaseEstimator):
        try:
            check_is_fitted(result)
        except NotFittedError:
            raise NotFittedError(
                f"this {type(result).__name__} is not fitted yet: call fit with data first"
            ) from None


def _of_posterior(posterior: Any) -> Draws:
    values = {name: np.asarray(draws) for name, draws in posterior.draws.items()}
    return Draws(values, None, _as_flags(posterior.sample_stats.get("diverging")))


def _of_arviz(result: Any) -> Draws:
    draws = _of_group(result.posterior)
    stats = getattr(result, "sample_stats", None)
    found = stats["diverging"].values if stats is not None and "diverging" in stats else None
    return draws._replace(diverging=_as_flags(found))


def _of_group(group: Any) -> Draws:
    values, labels = {}, {}
    for name, variable in group.data_vars.items():
        axes = [axis for axis in variable.dims if axis not in ("chain", "draw")]
        ordered = variable.transpose("chain", "draw", *axes)
        values[str(name)] = np.asarray(ordered.values)
        # Numbers alone are no names.
        if len(axes) == 1 and axes[0] in variable.coords:
            names = variable.coords[axes[0]].values
            if names.dtype.kind not in "iu":
                labels[str(name)] = list(names)
    return Draws(values, None, None, labels)


def _of_refined(result: Any) -> Draws:
    log_weights = np.asarray(result.log_weights, float)
    weights = None if np.ptp(log_weights) == 0 else _normalised(log_weights)
    return Draws({"x": np.asarray(result.weighted_draws)[None]}, weights)


def _of_population(population: Any) -> Draws:
    from bayeskit.inference.engines.base import as_named_states

    particles = getattr(population.particles, "position", population.particles)
    values = {name: np.asarray(v)[None] for name, v in as_named_states(particles).items()}
    return Draws(values, _normalised(np.asarray(population.log_weights, float)))


def _normalised(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max())
    return (weights / weights.sum())[None]


def _as_flags(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values, bool)


def _labels_of(estimator: Any) -> dict[str, Sequence[Any]]:
    coords = getattr(estimator, "coords", None) or {}
    dims = getattr(estimator, "dims", None) or {}
    return {
        name: coords[axes[0]]
        for name, axes in dims.items()
        if len(axes) == 1 and axes[0] in coords
    }


def entries_of(
    draws: Draws, parameters: Sequence[str] | str | None = None, of: str = "the result"
) -> list[Entry]:
    """Return the scalar parameters of draws, in order.

    Parameters
    ----------
    draws : Draws
    parameters : sequence of str, optional
        Names of parameters, or of single entries of them. Default: all.
    of : str
        What they belong to, for messages.

    Raises
    ------
    ValueError
        For a name that there is not, no parameters, and draws that are not finite.
    """
    places = [
        (name, index)
        for name, values in draws.values.items()
        for index in np.ndindex(values.shape[2:])
    ]
    labels = _entry_labels(places, draws.labels)
    if parameters is not None:
        chosen = []
        for wanted in [parameters] if isinstance(parameters, str) else parameters:
            found = [
                i
                for i, (name, index) in enumerate(places)
                if wanted in (name, labels[i], _numbered(name, index))
            ]
            if not found:
                raise ValueError(
                    f"{of} has no parameter {wanted!r}: it has {', '.join(draws.values)}"
                )
            chosen += found
    else:
        chosen = list(range(len(places)))
    if not chosen:
        raise ValueError(f"{of} has no parameters to draw")
    entries = []
    for i in chosen:
        name, index = places[i]
        values = draws.values[name][(slice(None), slice(None), *index)]
        if values.dtype.kind == "b":
            values = values.astype(int)
        _refuse_not_finite(labels[i], values, of)
        entries.append(Entry(labels[i], values))
    return entries


def _refuse_not_finite(label: str, values: np.ndarray, of: str) -> None:
    if not values.size:
        raise ValueError(f"{of} has no draws of {label}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = ~np.isfinite(values)
        chain, draw = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"{bad.sum()} of {values.size} draws of {label} in {of} are not finite, first "
            f"{values[chain, draw]} at chain {chain}, draw {draw}: leave it out with "
            "parameters=[...], or look for what made it so"
        )


def _numbered(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _entry_labels(
    places: list[tuple[str, tuple[int, ...]]], labels: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Return the names of entries: those of the user alone where no two are the same."""
    short, full = [], []
    for name, index in places:
        is_named = name in labels and len(index) == 1
        short.append(str(labels[name][index[0]]) if is_named else _numbered(name, index))
        full.append(f"{name}[{short[-1]}]" if is_named else short[-1])
    return [s if short.count(s) == 1 else f for s, f in zip(short, full, strict=True)]


def weighted_quantiles(values: np.ndarray, weights: np.ndarray | None, levels: Any) -> Any:
    """Return quantiles of draws of any shape; weights have the same shape."""
    if weights is None:
        return np.quantile(values, levels)
    return np.quantile(values.ravel(), levels, weights=weights.ravel(), method="inverted_cdf")
