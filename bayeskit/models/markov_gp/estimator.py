"""The estimator of Markov Gaussian processes."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from bayeskit.accel.program_cache import program_cache
from bayeskit.accel.time.associative import check_method
from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.gp_kernels import FreeParameters, Scales
from bayeskit.inference.posterior import Posterior
from bayeskit.models.base import as_engine, as_random_key, checked_array, precision_scope
from bayeskit.models.markov_gp import program
from bayeskit.models.markov_gp.learning import hyperparameter_target, maximised
from bayeskit.models.markov_gp.naming import hyperparameter_names
from bayeskit.models.markov_gp.predictions import Predictions
from bayeskit.models.markov_gp.program import Data, Sites
from bayeskit.models.markov_gp.rows import (
    are_dates,
    coordinates,
    have_zone,
    observations,
)
from bayeskit.models.markov_gp.saving import Saving
from bayeskit.models.markov_gp.scales import checked_scale
from bayeskit.models.markov_gp.settings import (
    as_kernel,
    as_likelihood,
)

__all__ = ["MarkovGPRegressor"]

# Beyond this the mean of an approximation is not what it would be with more steps.
_MAX_CHANGE = 1e-3
# Draws of hyper-parameters that predictions are averaged over.
_MAX_HYPER_DRAWS = 64


class MarkovGPRegressor(Predictions, Saving, RegressorMixin, BaseEstimator):
    r"""Gaussian-process regression in linear time by a state-space model.

    An observation :math:`y_n` depends on the value at its coordinate of one function

    .. math:: f(x) = c + g(x), \qquad g \sim GP(0, k),

    whose kernel k has a state-space form, so that a Kalman filter and smoother give what a
    dense Gaussian process gives, to rounding, in time and memory linear in the rows.

    Parameters
    ----------
    kernel : str or StateSpaceKernel
        ``"matern12"``, ``"matern32"``, ``"matern52"``, or sums, products and multiples of the
        kernels of :mod:`bayeskit.inference.gp_kernels`. Hyper-parameters that are numbers are
        fixed; priors and None are learned.
    noise : float, LogNormal or None
        Standard deviation of the noise, or scale of Student-t noise, likewise.
    likelihood : {"normal", "student_t", "poisson", "bernoulli"}
        All but the first are approximated; see Notes. Counts have the rate :math:`e^f`, and 1
        has the probability :math:`1/(1 + e^{-f})`; ``predict(of="rate")`` gives these with
        standard deviations, and so do quantiles, draws and ``bands``.
    mean : "auto" or float
        The constant c, on the scale of f. ``"auto"`` takes the value that fits the data best
        if f is constant, and leaves it uncertain by no more than k says: add a
        :class:`~bayeskit.inference.gp_kernels.Constant` for a level that is to be learned.
    inference : "map" or engine
        ``"map"`` maximises evidence times prior of the hyper-parameters. An engine such as
        :class:`~bayeskit.NUTS`, :class:`~bayeskit.EnsembleHMC` or :class:`~bayeskit.SMC` draws
        them, and predictions average over its draws.
    method : {"auto", "sequential", "parallel"}
        How filters run over the coordinates. ``"auto"``: in sequence on CPUs; on accelerators
        in a logarithmic number of parallel steps. Results agree to rounding.
    num_starts : int
        Starts of the search for the maximum; the first is the median of the priors.
    random_state : int, numpy random state, JAX key, or None
    precision : {"float64", "float32"}
    progress : "auto" or bool
        Whether a line tells how far the search for the maximum has come. ``"auto"``: on a
        terminal and in a notebook. Engines have a setting of their own.

    Attributes
    ----------
    kernel_ : StateSpaceKernel
        With the learned numbers; where an engine drew them, with the exponential of the mean of
        their logarithms.
    likelihood_ : Likelihood
        Likewise.
    hyperparameters_ : dict of float
        The learned numbers by name, in the user's units: ``kernel.std`` of a single kernel,
        ``kernel.periodic.std`` where several are combined.
    log_evidence_ : float
        Log density of the data given ``hyperparameters_``; of an engine, its own estimate with
        the hyper-parameters integrated out.
    log_evidence_kind_ : {"exact", "lower bound"}
    mean_ : float
        The constant c.
    n_ignored_ : int
        Rows without observation.
    result_ : Posterior
        Of an engine.
    timing_ : dict of float
        Seconds spent on compiling and on running.

    Notes
    -----
    Cost: O(n d^3) for n distinct coordinates and d states. Sizes are padded to 2^k or 3 2^k,
    so that another row compiles nothing new.

    Student-t, Poisson and Bernoulli: the posterior is approximated by the normal process with
    the largest lower bound of the evidence, which is what ``log_evidence_`` then is. Variances
    tend to be a little too small. The bound of Student-t noise is loose where the function
    moves as much between observations as the noise does.

    References
    ----------
    Hartikainen & Sarkka (2010), *Kalman filtering and smoothing solutions to temporal Gaussian
    process regression models*; Sarkka & Garcia-Fernandez (2021), *Temporal parallelization of
    Bayesian smoothers*; Chang, Wilkinson, Khan & Solin (2020), *Fast variational learning in
    state-space Gaussian process models*.

    Examples
    --------
    >>> import numpy as np
    >>> import bayeskit as bk
    >>> x = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    >>> y = np.array([0.1, 0.9, 1.1, np.nan, -0.8])
    >>> gp = bk.MarkovGPRegressor("matern32", random_state=0).fit(x, y)
    >>> gp.n_ignored_
    1
    >>> mean, std = gp.predict([2.5, 3.0, 100.0], return_std=True)
    >>> bool(std[2] > std[0])
    True
    """

    def __init__(
        self,
        kernel: Any = "matern32",
        *,
        noise: Any = None,
        likelihood: str = "normal",
        mean: Any = "auto",
        inference: Any = "map",
        method: str = "auto",
        num_starts: int = 1,
        random_state: Any = None,
        precision: str = "float64",
        progress: str | bool = "auto",
    ):
        self.kernel = kernel
        self.noise = noise
        self.likelihood = likelihood
        self.mean = mean
        self.inference = inference
        self.method = method
        self.num_starts = num_starts
        self.random_state = random_state
        self.precision = precision
        self.progress = progress

    result_: Posterior

    # ------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any = None, *, noise_std: Any = None) -> MarkovGPRegressor:
        """Learn the hyper-parameters and condition on the data.

        Parameters
        ----------
        X : array (rows,) or (rows, 1), Series or dates
            Coordinates in any order; repeats are allowed. Dates count in days.
        y : array (rows,)
            NaN where nothing was observed.
        noise_std : array (rows,) or float, optional
            Known noise of each row, which adds to ``noise`` in squares. With ``noise=0`` there
            is no other. For normal and Student-t likelihoods.

        Returns
        -------
        self

        Raises
        ------
        InvalidDataError
            For NaN or infinities in X, lengths that do not match, values that the likelihood
            cannot give, before anything is compiled.
        """
        x, y, variance = self._checked(X, y, noise_std)
        self._are_dates, self._have_zone = are_dates(X), have_zone(X)
        likelihood = as_likelihood(self.likelihood, self.noise)
        seen = y[~np.isnan(y)]
        spread = checked_scale(likelihood, seen)
        if isinstance(self.mean, str) and self.mean == "auto":
            offset = likelihood.offset(seen)
        elif isinstance(self.mean, int | float | np.number) and np.isfinite(self.mean):
            offset = float(self.mean)
        else:
            raise ValueError(f"mean must be 'auto' or a finite number, got {self.mean!r}")
        span = float(np.ptp(x))
        scales = Scales(span if span > 0 else 1.0, spread)
        tree = {"kernel": as_kernel(self.kernel), "likelihood": likelihood}
        model = {name: part.with_defaults(scales) for name, part in tree.items()}
        self._keep_rows(x, y, variance, offset)
        self._priors = model
        key = as_random_key(self.random_state)
        self.random_key_ = np.asarray(jax.random.key_data(key))
        with precision_scope(self.precision), program_cache(), CompileClock() as clock:
            self._learn(key)
        self.timing_ = clock.timing()
        if hasattr(self, "result_"):
            self.result_.diagnostics.warn()
        return self

    def partial_fit(self, X: Any, y: Any = None, *, noise_std: Any = None) -> MarkovGPRegressor:
        """Add rows, and keep the hyper-parameters and the mean that were learned before.

        The same as ``fit`` on all rows with those numbers fixed. The first call is ``fit``.

        Parameters
        ----------
        X, y, noise_std
            As for :meth:`fit`.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y, noise_std=noise_std)
        self._refuse_other_kind(X)
        x, y, variance = self._checked(X, y, noise_std, is_more=True)
        old_x, old_y, old_variance = self._rows
        self._keep_rows(
            np.concatenate([old_x, x]),
            np.concatenate([old_y, y]),
            np.concatenate([old_variance, variance]),
            self.mean_,
        )
        with precision_scope(self.precision), program_cache():
            self._condition()
        return self

    def _checked(self, X: Any, y: Any, noise_std: Any, is_more: bool = False) -> tuple:
        check_method(self.method)
        if not isinstance(self.num_starts, int) or self.num_starts < 1:
            raise ValueError(f"num_starts must be a whole number >= 1, got {self.num_starts!r}")
        as_engine(self.inference, "map", "NUTS()")
        likelihood = as_likelihood(self.likelihood, self.noise)
        x = coordinates(X)
        y = observations(y, len(x), allow_none=is_more)
        likelihood.check(y)
        sd = np.zeros(len(x))
        if noise_std is not None:
            if not likelihood.takes_noise:
                raise ValueError(f"likelihood={self.likelihood!r} takes no noise_std")
            given = np.asarray(checked_array(np.asarray(noise_std), "noise_std"))
            if given.ndim and given.shape != sd.shape:
                raise InvalidDataError(
                    f"noise_std must be one number or one for each of {len(sd)} rows, got "
                    f"shape {given.shape}"
                )
            sd = np.broadcast_to(given, sd.shape)
            if (sd < 0).any():
                raise InvalidDataError(
                    f"noise_std must be at least 0, got {sd.min():g} at row {sd.argmin()}"
                )
        if isinstance(self.noise, int | float) and self.noise == 0 and (sd <= 0).any():
            raise ValueError(
                "noise=0 leaves the noise of each row, so noise_std > 0 is needed for every row"
            )
        return x, y, sd**2

    def _keep_rows(
        self, x: np.ndarray, y: np.ndarray, variance: np.ndarray, offset: float
    ) -> None:
        self._rows = (x, y, variance)
        self.mean_ = offset
        self.n_features_in_ = 1
        self.n_ignored_ = int(np.isnan(y).sum())

    def _learn(self, key: jax.Array) -> None:
        free, data = FreeParameters.of(self._priors, self.precision), self._data()
        start = _no_sites(data)
        if hasattr(self, "result_"):
            del self.result_
        if isinstance(self.inference, str) or not free.num_free:
            u, self.num_evaluations_ = maximised(
                free,
                data,
                start,
                self._method,
                num_starts=self.num_starts,
                seed=key,
                progress=self.progress,
            )
            self._u = u[None]
        else:
            target = hyperparameter_target(free, data, start, self._method)
            self.result_ = self.inference.run(target, None, key)
            positions = self.result_.positions.reshape(-1, free.num_free)
            self._u = positions[:: -(-len(positions) // _MAX_HYPER_DRAWS)]
        self._condition()

    def _condition(self) -> None:
        """Find the sites, and the evidence at one value of the hyper-parameters."""
        free, data = self._free(), self._data()
        centre = self._u.mean(axis=0).astype(self.precision)
        start = _no_sites(data)
        # Where something was learned, the program with the gradient is there already.
        evaluate = program.objective if free.num_free else program.log_evidence
        value, _, sites, change = evaluate(centre, free, data, start, self._method)
        self._evidence = float(value)
        change = float(change)
        if not change <= _MAX_CHANGE:
            warnings.warn(
                "the normal approximation of the posterior was not found to the end: its mean "
                f"still moves by {change:.1g} of its size. Take another kernel, or "
                "narrower priors",
                ConvergenceWarning,
                stacklevel=4,
            )
        if len(self._u) == 1:
            self._sites = Sites(*(np.asarray(s)[None] for s in sites))
        else:
            u = self._u.astype(self.precision)
            found = program.sites_of_draws(u, free, data, sites, self._method)
            self._sites = Sites(*(np.asarray(s) for s in found))
        model = jax.tree.map(float, free.fill(centre))
        self.kernel_, self.likelihood_ = model["kernel"], model["likelihood"]
        values = np.asarray(free.values(centre), np.float64)
        names = hyperparameter_names(free)
        self.hyperparameters_ = dict(zip(names, map(float, values), strict=True))
        is_exact = self.likelihood_.is_exact
        self.log_evidence_kind_ = "exact" if is_exact else "lower bound"

    # ------------------------------------------------------------ evidence

    @property
    def log_evidence_(self) -> float:
        """Log evidence; see the class."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError("log_evidence_ exists after fit")
        if hasattr(self, "result_"):
            if self.result_.log_evidence is None:
                raise AttributeError(
                    "this engine estimates no evidence: use inference=bk.SMC() or "
                    "bk.EnsembleHMC(), or log_evidence() for given hyper-parameters"
                )
            return self.result_.log_evidence
        return self._evidence

    def log_evidence(
        self, hyperparameters: dict[str, float] | None = None, *, return_gradient: bool = False
    ) -> Any:
        r"""Return the log evidence for given hyper-parameters.

        Parameters
        ----------
        hyperparameters : dict, optional
            Some of ``hyperparameters_`` with other values.
        return_gradient : bool
            Also return the derivatives by the logarithm of each, as a dict.
        """
        self._check_fitted()
        wanted = dict(self.hyperparameters_)
        for name, value in (hyperparameters or {}).items():
            if name not in wanted:
                raise ValueError(f"{name!r} is not learned here: known are {list(wanted)}")
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value!r}")
            wanted[name] = value
        with precision_scope(self.precision), program_cache():
            free, data = self._free(), self._data()
            u = free.coordinates(list(wanted.values())).astype(self.precision)
            start = _no_sites(data)
            value, gradient, *_ = program.objective(u, free, data, start, self._method)
        if not return_gradient:
            return float(value)
        by_log = np.asarray(gradient) / free.spread
        return float(value), dict(zip(wanted, map(float, by_log), strict=True))

    @property
    def posterior_(self) -> Any:
        """ArviZ object with the draws of the hyper-parameters."""
        if not hasattr(self, "result_"):
            raise AttributeError(
                "posterior_ exists after fit with an engine, such as inference=bk.NUTS()"
            )
        x, y, _ = self._rows
        return self.result_.to_arviz(
            {"observed_data": {"y": y}}, {"row": np.arange(len(x))}, {"y": ["row"]}
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


def _no_sites(data: Data) -> Sites:
    return Sites(np.zeros_like(data.rows.y), np.zeros_like(data.rows.y))
