"""What is kept of each learner between calls, where networks say what is believed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, log_softmax, ndtri, softmax

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.models.base import precision_scope
from bayeskit.models.knowledge_tracing.amortized.architecture import Architecture
from bayeskit.models.knowledge_tracing.amortized.filtering import amortized_filter
from bayeskit.models.knowledge_tracing.amortized.generative import TRAITS
from bayeskit.models.knowledge_tracing.amortized.networks import WINDOW
from bayeskit.models.knowledge_tracing.memory import Memory
from bayeskit.models.knowledge_tracing.rows import Interactions
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import Exposures, padded_trials, trials_of

__all__ = ["AmortizedMemory"]

# Midpoints of even shares of a normal law: what a trait may be within a category.
_SHARES = 64
_NORMAL = ndtri((np.arange(_SHARES) + 0.5) / _SHARES)
_LEVELS = (0.025, 0.975)


class AmortizedMemory(Memory):
    """Beliefs of learners by networks, each of which can be taken further.

    Parameters
    ----------
    structure, parameters, first, precision
        As for :class:`Memory`.
    architecture : Architecture
    key : JAX key
        Of the noise of forecasts.
    lower_bound : float
        Of the log evidence of what was fitted.
    """

    def __init__(
        self,
        structure: Structure,
        parameters: dict,
        first: Any,
        precision: str,
        *,
        architecture: Architecture,
        key: jax.Array,
        lower_bound: float,
    ):
        super().__init__(structure, parameters, first, precision)
        self.architecture = architecture
        self.lower_bound = lower_bound
        self._key_words = np.asarray(jax.random.key_data(key))
        self._key_kind = str(jax.random.key_impl(key))

    def filtered(self, beliefs: Any, trials: Any, *, states: bool = False) -> tuple[Any, Any]:
        """Return beliefs after the rows of learners, and the forecast of each row."""
        key = jax.random.wrap_key_data(jnp.asarray(self._key_words), impl=self._key_kind)
        return amortized_filter(
            self.parameters, beliefs, trials, key, architecture=self.architecture, states=states
        )

    def state_moments(
        self, rows: Interactions, *, smooth: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple]:
        """Return means and variances of all states at the rows of one learner, and times."""
        if smooth:
            raise InvalidDataError(
                "inference='amortized' cannot smooth: it follows learners forwards only. Use "
                "filter() for states given the rows up to each time, or fit with "
                "inference='adf' for states given all rows"
            )
        place = np.zeros(len(rows.time), np.int64)
        trials, _ = trials_of(rows, place, Exposures.none(1, self.structure), self.structure)
        padded, _ = padded_trials(trials, place, self.structure, self.precision)
        belief = jax.tree.map(lambda x: x[None], self.first)
        with precision_scope(self.precision), program_cache():
            _, moments = self.filtered(belief, padded, states=True)
        mean, variance = (np.asarray(x, np.float64)[0, : len(rows.time)] for x in moments)
        return mean, variance, rows.time, ()

    # ------------------------------------------------------------ traits

    def _categories(self) -> np.ndarray:
        """Return log probabilities of the categories of each learner."""
        window = np.asarray(self.beliefs.window[: self.size], np.float64)
        x = window.reshape(len(window), WINDOW * window.shape[-1])
        layers = self.parameters["network"]["category"]
        for number, layer in enumerate(layers):
            x = x @ layer["weight"] + layer["bias"]
            x = np.where(x > 0, x, 0.2 * x) if number < len(layers) - 1 else x
        return log_softmax(x, axis=-1)

    def _natural_traits(self, s: np.ndarray) -> np.ndarray:
        """Return traits in natural units from (..., traits)."""
        found = s.copy()
        for number in (0, 2):
            found[..., number] = np.logaddexp(0.0, s[..., number])
        if s.shape[-1] > 3:
            found[..., 3] = expit(s[..., 3])
        return found

    def trait_table(self, learners: list) -> Any:
        """Return mean, sd and 95 % interval of each trait of each learner, now."""
        import pandas as pd

        num, beliefs = self.size, self.beliefs
        mean = np.asarray(beliefs.trait_mean[:num], np.float64)
        sd = np.sqrt(np.asarray(beliefs.trait_variance[:num], np.float64))
        points = mean[:, :, None] + sd[:, :, None] * _NORMAL[:, None]
        values = self._natural_traits(points).reshape(num, -1, mean.shape[-1])
        weight = np.repeat(np.exp(self._categories()) / _SHARES, _SHARES, axis=1)
        columns: dict[str, Any] = {}
        for number, name in enumerate(TRAITS[: mean.shape[-1]]):
            own = values[..., number]
            centre = np.sum(weight * own, axis=1)
            spread = np.sum(weight * (own - centre[:, None]) ** 2, axis=1)
            lower, upper = (_quantiles(own, weight, level) for level in _LEVELS)
            columns |= {
                name: centre,
                f"{name}_sd": np.sqrt(spread),
                f"{name}_lower": lower,
                f"{name}_upper": upper,
            }
        return pd.DataFrame(columns, index=pd.Index(learners, name="learner"))

    def trait_draws(self, num_draws: int, key: jax.Array) -> dict[str, np.ndarray]:
        """Return draws (1, num_draws, learners) of each trait."""
        generator = random.host_generator(key)
        num, beliefs = self.size, self.beliefs
        share = np.cumsum(softmax(self._categories(), axis=-1), axis=-1)
        u = generator.uniform(size=(num_draws, num, 1))
        category = np.minimum((u > share).sum(axis=-1), share.shape[-1] - 1)
        chosen = (np.arange(num), category)
        mean = np.asarray(beliefs.trait_mean[:num], np.float64)[chosen]
        sd = np.sqrt(np.asarray(beliefs.trait_variance[:num], np.float64))[chosen]
        s = mean + sd * generator.standard_normal(mean.shape)
        found = self._natural_traits(s)
        return {name: found[None, ..., n] for n, name in enumerate(TRAITS[: s.shape[-1]])}


def _quantiles(values: np.ndarray, weight: np.ndarray, level: float) -> np.ndarray:
    """Return a quantile of each row of weighted values."""
    order = np.argsort(values, axis=1)
    below = np.cumsum(np.take_along_axis(weight, order, axis=1), axis=1)
    place = np.minimum((below < level).sum(axis=1), values.shape[1] - 1)
    return np.take_along_axis(values, order, axis=1)[np.arange(len(values)), place]
