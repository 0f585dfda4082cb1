"""Common likelihoods, and the priors for which networks of the package were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from bayeskit.errors import InvalidDataError
from bayeskit.models.distribution_transformer.meta_priors import GaussianMixtureMetaPrior
from bayeskit.models.distribution_transformer.simulators import Simulator

__all__ = ["LIKELIHOODS", "Likelihood"]

# The time at which a study ends is drawn between these.
_CENSORING = (0.1, 100.0)


@dataclass(frozen=True)
class Likelihood:
    """A simulator with a log likelihood, where its latent lives, and priors to train on.

    Attributes
    ----------
    simulator : Simulator
    support : str or list
    meta_prior : GaussianMixtureMetaPrior
        Of the latent without constraints.
    """

    simulator: Simulator
    support: Any
    meta_prior: GaussianMixtureMetaPrior


_ONE = GaussianMixtureMetaPrior(
    dim=1,
    num_components=(1, 3),
    mean_scale=1.5,
    log_scale_sd=0.6,
    scale_bounds=(0.05, 3.0),
    sharpest=0.1,
)
# Of scale and shape together: priors this wide in both are already nearly flat.
_TWO = GaussianMixtureMetaPrior(
    dim=2, num_components=(1, 3), scale_bounds=(0.05, 2.0), sharpest=0.1
)


# ---------------------------------------------------------------- counts


def _poisson_draw(key: jax.Array, x: jax.Array) -> jax.Array:
    return jax.random.poisson(key, x)


def _poisson_density(z: jax.Array, x: jax.Array) -> jax.Array:
    return z[0] * jnp.log(x[0]) - x[0] - gammaln(z[0] + 1.0)


# ---------------------------------------------------------------- measurements


def _normal_draw(key: jax.Array, x: jax.Array) -> jax.Array:
    return x[:1] + x[1:] * jax.random.normal(key, (1,))


def _normal_density(z: jax.Array, x: jax.Array) -> jax.Array:
    return jax.scipy.stats.norm.logpdf(z[0], x[0], x[1])


# ---------------------------------------------------------------- times


def _weibull_draw(key: jax.Array, x: jax.Array) -> jax.Array:
    of_time, of_end = jax.random.split(key)
    time = x[0] * jax.random.exponential(of_time) ** (1.0 / x[1])
    low, high = jnp.log(jnp.asarray(_CENSORING))
    end = jnp.exp(jax.random.uniform(of_end, minval=low, maxval=high))
    return jnp.stack([jnp.maximum(jnp.minimum(time, end), 1e-6), time <= end])


def _weibull_density(z: jax.Array, x: jax.Array) -> jax.Array:
    time, was_seen = z
    scale, shape = x
    log_ratio = jnp.log(time) - jnp.log(scale)
    log_hazard = jnp.log(shape) + shape * log_ratio - jnp.log(time)
    return was_seen * log_hazard - jnp.exp(shape * log_ratio)


class _Known(Simulator):
    """A simulator that knows which observations there are.

    Parameters
    ----------
    draw, density : callables
    is_possible : callable (z) -> (...) array of bool, of observations (..., m)
    words : str
        What an observation must be.
    """

    def __init__(self, draw: Callable, density: Callable, is_possible: Callable, words: str):
        super().__init__(draw, density, num_observations=(1, 20))
        self._is_possible, self._words = is_possible, words

    def check_rows(
        self, rows: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]
    ) -> None:
        """Refuse observations that have no density, whatever the latent.

        Raises
        ------
        InvalidDataError
        """
        bad = masks["z"] & ~self._is_possible(rows["z"])
        if bad.any():
            first = rows["z"][bad][0].tolist()
            raise InvalidDataError(
                f"an observation must be {self._words}, got "
                f"{first[0] if len(first) == 1 else first} (and so in {int(bad.sum())} of "
                f"{int(masks['z'].sum())})"
            )


def _is_count(z: np.ndarray) -> np.ndarray:
    return (z[..., 0] >= 0) & (z[..., 0] == np.floor(z[..., 0]))


def _is_time(z: np.ndarray) -> np.ndarray:
    return (z[..., 0] > 0) & np.isin(z[..., 1], (0.0, 1.0))


LIKELIHOODS = {
    "normal": Likelihood(
        Simulator(_normal_draw, _normal_density, num_observations=(1, 20)),
        ["real", "positive"],
        _TWO,
    ),
    "poisson": Likelihood(
        _Known(_poisson_draw, _poisson_density, _is_count, "a count: 0, 1, 2, ..."),
        "positive",
        _ONE,
    ),
    "weibull": Likelihood(
        _Known(
            _weibull_draw,
            _weibull_density,
            _is_time,
            "a positive time and 1 or 0, whether its event was seen",
        ),
        ["positive", "positive"],
        _TWO,
    ),
}
