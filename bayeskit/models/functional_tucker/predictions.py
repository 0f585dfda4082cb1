"""What a fitted model says of rows and functions at any coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError

from bayeskit.accel.program_cache import program_cache
from bayeskit.inference import random
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.functional_tucker.joint import MeanField
from bayeskit.models.functional_tucker.low_rank.mean_field import factor_moments
from bayeskit.models.functional_tucker.matching import factor_moments_of_draws
from bayeskit.models.functional_tucker.naming import place_of_mode
from bayeskit.models.functional_tucker.predictive import Predictive, predictive
from bayeskit.models.functional_tucker.rows import (
    Categories,
    Dates,
    coordinates_of,
    new_table,
    refuse_other_dates,
)
from bayeskit.models.functional_tucker.sampled import Sampled
from bayeskit.models.functional_tucker.terms import MainEffect, term_label
from bayeskit.models.markov_gp.rows import checked_levels, observations
from bayeskit.models.tables import as_frame

__all__ = ["Predictions"]

_CONTEXTS = ("given", "training")


class Predictions:
    """The part of the estimators that predicts; it holds what was learned."""

    context: str
    degrees: float
    engine: str
    random_state: Any
    terms_: tuple[Any, ...]
    names_: tuple[Any, ...]
    categories_: Categories
    transform_: Any
    _posterior: MeanField | Sampled
    _is_student: Any
    # Modes that were dates, and whether these had a time zone.
    _dates: Dates

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Return the posterior mean of new observations at any coordinates.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        return_std : bool

        Returns
        -------
        mean : (rows) array, or (mean, std)
        """
        mean, std = self._predictive(X).moments()
        return (mean, std) if return_std else mean

    def predict_quantiles(self, X: Any, quantiles: Any = (0.05, 0.5, 0.95)) -> np.ndarray:
        """Return quantiles (quantiles, rows) of new observations at any coordinates.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        quantiles : sequence of float
            Between 0 and 1.
        """
        return self._predictive(X).quantiles(checked_levels(quantiles))

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """Return the log predictive density (rows) of each observation by itself.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        y : (rows) array
        """
        law = self._predictive(X)
        target = observations(y, law.mean.shape[1], allow_none=True)
        self.transform_.check(target)
        return law.log_density(target)

    def sample_y(self, X: Any, num_draws: int = 1, *, random_state: Any = None) -> np.ndarray:
        """Return joint posterior draws (num_draws, rows) of new observations.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        num_draws : int
        random_state : int, numpy random state, JAX key, or None
            Default: that of the estimator.
        """
        table = self._new_table(X)
        if not isinstance(num_draws, int | np.integer) or num_draws < 1:
            raise ValueError(f"num_draws must be a whole number >= 1, got {num_draws!r}")
        state = self.random_state if random_state is None else random_state
        with precision_scope("float64"), program_cache():
            latent_key, noise_key = random.split(as_random_key(state), 2)
            draws, std = self._posterior.draws(
                table, self._check_context(), num_draws, latent_key
            )
            generator = random.host_generator(noise_key)
        if self._is_student:
            errors = generator.standard_t(self.degrees, draws.shape)
        else:
            errors = generator.standard_normal(draws.shape)
        return self.transform_.inverse(draws + std[:, None] * errors)

    def functions(
        self, term: Any, grid: Any, *, return_std: bool = False, centred: bool = False
    ) -> Any:
        """Return the posterior mean of the function of one term, on the transformed scale.

        Parameters
        ----------
        term : column name, term, or position in ``terms_``
            A name stands for the main effect of this mode.
        grid : (points) array
            Values of the mode, or of its mean over groups.
        return_std : bool
        centred : bool
            The function less its mean over the observed rows, with the standard deviation of
            the difference. The level of a function by itself is hardly known: it is shared with
            the constant and with the other terms.

        Returns
        -------
        mean : (points) array, or (mean, std)
        """
        self._check_fitted()
        place = self._place_of(term)
        points = self._coordinates_of(grid, self.terms_[place].mode)
        with precision_scope("float64"), program_cache():
            mean, variance = self._posterior.function_moments(place, points, centred)
        scale = self.transform_.scale
        return (scale * mean, scale * np.sqrt(variance)) if return_std else scale * mean

    def factors(self, mode: Any, grid: Any, *, return_std: bool = False) -> Any:
        """Return the posterior mean of the functions of a mode that are multiplied.

        Signs, order and scale of functions are no result: only the product is known. In a
        Tucker model neither is their rotation. Draws of a CP model are brought into one form:
        functions of all modes but the first have a mean square of one over the rows.

        Parameters
        ----------
        mode : column name or position
        grid : (points) array
            Values of the mode.
        return_std : bool

        Returns
        -------
        mean : (points, rank) array, or (mean, std)
        """
        posterior = self._with_factors()
        place = place_of_mode(self.names_, mode)
        points = self._coordinates_of(grid, self.names_[place])
        with precision_scope("float64"), program_cache():
            if isinstance(posterior, Sampled):
                mean, std = factor_moments_of_draws(posterior, place, points)
                return (mean, std) if return_std else mean
            mean, covariance = factor_moments(
                posterior.problem,
                posterior.data,
                posterior.found.beliefs,
                posterior.found.u,
                place,
                points,
            )
        std = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        return (mean, std) if return_std else mean

    def _with_factors(self) -> MeanField | Sampled:
        """Return the posterior; refuse factors that are not there, or not one by one."""
        self._check_fitted()
        layout = self._posterior.problem.layout
        if not layout.ranks:
            raise ValueError("this model has no factors: its rank is 0")
        if layout.has_core and isinstance(self._posterior, Sampled):
            raise ValueError(
                f"draws of engine={self.engine!r} rotate the functions of a Tucker model, so "
                "that there is no single one to show: take engine='cavi', or FunctionalCP"
            )
        return self._posterior

    def _place_of(self, term: Any) -> int:
        stated = self.terms_
        for i, one in enumerate(stated):
            if isinstance(one, MainEffect) and not isinstance(term, type(one)):
                if one.mode == term:
                    return i
            elif type(one) is type(term) and one.mode == term.mode:
                return i
        if isinstance(term, int) and 0 <= term < len(stated) and hasattr(stated[term], "mode"):
            return term
        labels = [term_label(one) for one in stated if hasattr(one, "mode")]
        raise ValueError(f"there is no function of {term!r}; there are {labels}")

    def _predictive(self, X: Any) -> Predictive:
        """Return the law of new observations."""
        table = self._new_table(X)
        posterior = self._posterior
        with precision_scope("float64"), program_cache():
            mean, variance = posterior.moments(table, self._check_context())
        degrees = self.degrees if self._is_student else None
        return predictive(
            self.transform_,
            mean,
            variance,
            posterior.noise_std,
            degrees,
            posterior.log_weights,
        )

    def _check_context(self) -> str:
        if self.context not in _CONTEXTS:
            raise ValueError(f"context must be one of {_CONTEXTS}, got {self.context!r}")
        return self.context

    def _new_table(self, X: Any, may_be_unseen: bool = False) -> np.ndarray:
        self._check_fitted()
        return new_table(as_frame(X), self.names_, self.categories_, self._dates, may_be_unseen)

    def _coordinates_of(self, grid: Any, mode: Any) -> np.ndarray:
        if mode not in self.categories_:
            refuse_other_dates(self._dates, mode, grid, f"mode {mode!r}")
        return coordinates_of(grid, mode, self.categories_)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted: call fit(X, y) first")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_posterior")
