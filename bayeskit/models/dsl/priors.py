"""Priors of coefficients: flat, normal, or any of NumPyro's distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.inference import random

__all__ = ["Prior", "as_prior"]


@dataclass(frozen=True, eq=False)
class Prior:
    """A prior of all coefficients.

    Parameters
    ----------
    log_density : callable (theta, *arrays) -> ()
    sample : callable (key, *arrays) -> (parameters) array, or None if it is improper
    arrays : tuple
        Handed to both, so that other numbers of the same kind share a compiled program.
    """

    log_density: Callable
    sample: Callable | None
    arrays: tuple = ()


def _flat(theta):
    return jnp.zeros((), theta.dtype)


def _normal_density(theta, mean, precision, log_scale):
    away = theta - mean
    return -0.5 * away @ precision @ away - log_scale


def _normal_sample(key, mean, precision, log_scale):
    factor = jnp.linalg.cholesky(jnp.linalg.inv(precision))
    return mean + factor @ random.normal(key, mean.shape)


def as_prior(prior: Any, terms: tuple[str, ...]) -> Prior:
    """Return a prior from what a user gives.

    Parameters
    ----------
    prior : None, (mean, scale), dict, NumPyro distribution, or callable
        None is flat. ``mean`` and ``scale`` are numbers or one a term, or ``scale`` is a
        covariance matrix. A dict has ``(mean, scale)`` or a distribution for each of some
        terms; others are flat. A distribution is that of each coefficient, independently, or of
        the vector of all. A callable returns the log density of the vector.
    terms : tuple of str

    Raises
    ------
    InvalidDataError
    """
    num = len(terms)
    if prior is None:
        return Prior(_flat, None)
    if isinstance(prior, Mapping):
        return _by_term(prior, terms)
    if isinstance(prior, tuple | list) and len(prior) == 2:
        mean = np.broadcast_to(np.asarray(prior[0], float), (num,))
        scale = np.asarray(prior[1], float)
        _check_normal(mean, scale)
        covariance = scale if scale.ndim == 2 else np.diag(np.broadcast_to(scale, (num,)) ** 2)
        return _normal(mean, covariance)
    if hasattr(prior, "log_prob") and hasattr(prior, "sample"):
        return _of_distribution(prior, num)
    if callable(prior):
        return Prior(prior, None)
    raise InvalidDataError(
        "prior must be None, (mean, scale), a dict by term, a NumPyro distribution, or a "
        f"function of the coefficients, got {prior!r}"
    )


def _check_normal(mean: Any, scale: Any) -> None:
    mean, scale = np.asarray(mean, float), np.asarray(scale, float)
    is_good = np.isfinite(mean).all() and np.isfinite(scale).all()
    if not is_good or (scale.ndim < 2 and not (scale > 0).all()):
        raise InvalidDataError(
            f"a normal prior needs finite means and scales above 0, got {(mean, scale)}"
        )


def _normal(mean: np.ndarray, covariance: np.ndarray) -> Prior:
    if covariance.shape != (len(mean), len(mean)):
        raise InvalidDataError(
            f"the covariance of the prior must have shape {(len(mean), len(mean))}, got "
            f"{covariance.shape}"
        )
    values = np.linalg.eigvalsh(covariance)
    if not values[0] > 0:
        raise InvalidDataError("the covariance of the prior must be positive definite")
    log_scale = 0.5 * float(np.log(2 * np.pi * values).sum())
    arrays = (np.array(mean), np.linalg.inv(covariance), np.asarray(log_scale))
    return Prior(_normal_density, _normal_sample, arrays)


def _of_distribution(distribution: Any, num: int) -> Prior:
    shape = tuple(distribution.batch_shape) + tuple(distribution.event_shape)
    if shape not in ((), (num,)):
        raise InvalidDataError(
            f"the prior must be of one coefficient or of all {num}, got shape {shape}"
        )
    whole = () if shape else (num,)
    return Prior(
        lambda theta: jnp.sum(distribution.log_prob(theta)),
        lambda key: distribution.sample(random.real_key(key), whole),
    )


def _by_term(prior: Mapping, terms: tuple[str, ...]) -> Prior:
    unknown = [name for name in prior if name not in terms]
    if unknown:
        raise InvalidDataError(f"the prior names {unknown[0]!r}; terms are {list(terms)}")
    given = {terms.index(name): value for name, value in prior.items()}
    if all(isinstance(value, tuple | list) for value in given.values()):
        mean, precision = np.zeros(len(terms)), np.zeros(len(terms))
        for place, (centre, scale) in given.items():
            _check_normal(centre, scale)
            mean[place], precision[place] = centre, 1.0 / scale**2
        if len(given) == len(terms):
            return _normal(mean, np.diag(1.0 / precision))
        return Prior(_normal_density, None, (mean, np.diag(precision), np.zeros(())))
    parts = {place: as_prior(value, (terms[place],)) for place, value in given.items()}

    def log_density(theta):
        return sum(p.log_density(theta[i : i + 1], *p.arrays) for i, p in parts.items())

    return Prior(log_density, None)
