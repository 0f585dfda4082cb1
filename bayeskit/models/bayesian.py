"""Any model of the user's own as an estimator."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import validate_data

from bayeskit import container
from bayeskit.accel.program_cache import program_cache
from bayeskit.inference.engines import SMC
from bayeskit.inference.engines.auto import run_auto
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.measure import Target
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.state_space import StateSpaceModel
from bayeskit.interop.numpyro import NumPyroModel
from bayeskit.interop.pyro import PyroModel, is_pyro_model
from bayeskit.models.base import (
    as_engine,
    as_random_key,
    checked_array,
    checked_lengths,
    precision_scope,
)
from bayeskit.models.indices import refuse_indices_beyond
from bayeskit.models.labels import packed_labels, unpacked_labels

__all__ = ["BayesianModel"]

# Groups with a value for each draw and observation hold at most so many numbers.
_MAX_GROUP_SIZE = 2_000_000
_MAX_PREDICTIVE_DRAWS = 4000
_NUM_PRIOR_DRAWS = 1000
# Draws that are mapped over at once.
_BATCH = 256
# Draws of an improper prior's start, as in Stan: uniform on (-2, 2), unconstrained.
_START_WIDTH = 2.0
# Starts for engines that do not say how many chains they have.
_NUM_STARTS = 4


class BayesianModel(BaseEstimator):
    r"""Fit a NumPyro or Pyro model, or a log density, and return its posterior and evidence.

    The posterior is :math:`p(\theta \mid y) = p(\theta)\,p(y \mid \theta)/Z` with the evidence
    :math:`Z = \int p(\theta)\,p(y \mid \theta)\,d\theta`.

    Parameters
    ----------
    model : callable, Target, StateSpaceModel or FeynmanKac
        A NumPyro model ``model(X, y=None, **keywords)`` whose observed sites are given by
        ``y``; or a Pyro model of that form, with ``pip install 'bayeskit[torch]'``; or a
        :class:`~bayeskit.Target`. A :class:`~bayeskit.StateSpaceModel` makes a
        :class:`~bayeskit.models.StateSpaceEstimator`, which filters, smooths and forecasts.
    inference : "auto" or engine
        ``"auto"``: :class:`~bayeskit.EnsembleHMC`; NUTS from its points where it does not
        converge; tempered SMC where separate modes carry weight, where there is no gradient,
        or where both others fail. ``engine_`` says which ran and why.
    random_state : int, numpy random state, JAX key, or None
    precision : {"float64", "float32"}
        Floating-point numbers inside; your own settings of JAX are left alone. float32 is
        faster on accelerators, and safe where the data are centred and scaled.
    coords, dims : dict, optional
        Labels of the axes of parameters, as in ArviZ; used by :meth:`summary` as well.

    Attributes
    ----------
    result_ : Posterior
        Draws, evidence, diagnostics and history of the run.
    posterior_ : arviz.InferenceData or xarray.DataTree
        Groups posterior, sample_stats, log_likelihood, prior, posterior_predictive and
        observed_data. Built when first asked for.
    log_evidence_, log_evidence_se_ : float
        Log of Z and its standard error from this run. Engines that estimate none raise an
        AttributeError that says so.
    diagnostics_ : Diagnostics
    engine_ : str
        What ran, and why.
    timing_ : dict of float
        Seconds spent on compiling and on running.
    random_key_ : numpy array
        Data of the random key that was used.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> def coin(y=None):
    ...     p = numpyro.sample("p", dist.Beta(2.0, 5.0))
    ...     with numpyro.plate("flips", 10):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> y = np.array([1, 0, 0, 1, 0, 0, 0, 1, 0, 0])
    >>> inference = bk.SMC(num_particles=1000)
    >>> est = bk.BayesianModel(coin, inference=inference, random_state=0).fit(y=y)
    >>> float(np.round(est.result_.mean("p"), 1))
    0.3
    """

    def __new__(cls, model: Any = None, **settings: Any) -> BayesianModel:
        """Return the estimator that fits the kind of model."""
        if cls is BayesianModel and isinstance(model, StateSpaceModel | FeynmanKac):
            from bayeskit.models.state_space import StateSpaceEstimator

            return super().__new__(StateSpaceEstimator)
        return super().__new__(cls)

    def __init__(
        self,
        model: Any = None,
        *,
        inference: Any = "auto",
        random_state: Any = None,
        precision: str = "float64",
        coords: dict[str, Any] | None = None,
        dims: dict[str, list[str]] | None = None,
    ):
        self.model = model
        self.inference = inference
        self.random_state = random_state
        self.precision = precision
        self.coords = coords
        self.dims = dims

    # What users and scikit-learn see, and not that of __new__.
    __signature__ = inspect.Signature(list(inspect.signature(__init__).parameters.values())[1:])

    feature_names_in_: np.ndarray

    # ------------------------------------------------------------ fitting

    def fit(self, X: Any = None, y: Any = None, **keywords: Any) -> BayesianModel:
        """Infer the parameters from data.

        Parameters
        ----------
        X : array, DataFrame, or mapping of keywords, optional
            Passed on to the model as ``X``; a mapping is passed as keywords.
        y : array, optional
            Passed on as ``y``.
        **keywords
            Passed on to the model.

        Returns
        -------
        self

        Raises
        ------
        InvalidDataError
            For NaN, infinities or lengths that do not match, before anything is compiled.
        ImproperPriorError
            For SMC without a prior to draw from.
        """
        scope = precision_scope(self.precision)
        arguments, call = _checked_call(X, y, keywords)
        key, engine = as_random_key(self.random_state), self._engine()
        with scope, program_cache():
            target, functions = self._target(arguments, call)
            options = {}
            if target.sample_prior is None and functions and not isinstance(engine, SMC):
                num = getattr(engine, "num_chains", None) or _NUM_STARTS
                options["initial_positions"] = _uniform_starts(num, functions.dim)
            if engine is None:
                result, reason = run_auto(target, None, key, **options)
            else:
                result, reason = engine.run(target, None, key, **options), "chosen by the user"
        self.result_ = result
        self.engine_ = f"{result.engine}: {reason}"
        self.diagnostics_ = result.diagnostics
        self.timing_ = result.timing
        self.random_key_ = np.asarray(jax.random.key_data(key))
        self._call = (arguments, call)
        self._groups: dict[str, Any] | None = None
        self._set_features(call, getattr(X, "columns", ()))
        result.diagnostics.warn()
        return self

    def _set_features(self, call: Mapping[str, Any], names: Sequence[Any]) -> None:
        """Keep what scikit-learn asks of later tables; forget those of an earlier fit."""
        for attribute in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, attribute):
                delattr(self, attribute)
        if "X" in call and np.ndim(call["X"]) == 2:
            self.n_features_in_ = call["X"].shape[1]
        if len(names) and all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.asarray(names, dtype=object)

    def _target(
        self, arguments: tuple, call: Mapping[str, Any]
    ) -> tuple[Target, NumPyroModel | PyroModel | None]:
        if isinstance(self.model, Target):
            data = tuple(jnp.asarray(v) for v in (*arguments, *call.values()))
            return (self.model.with_data(*data) if data else self.model), None
        if not callable(self.model):
            raise TypeError(
                "model must be a NumPyro or Pyro model or a Target, got "
                f"{type(self.model).__name__}"
            )
        functions, data = _traced_model(self.model, arguments, call)
        return functions.target(data), functions

    def _engine(self) -> Any:
        """Return the user's engine; None stands for "auto"."""
        return as_engine(self.inference, "auto", "EnsembleHMC(), NUTS() or SMC()")

    def _fitted(self) -> Posterior:
        if not hasattr(self, "result_"):
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet: call fit with data first"
            )
        return self.result_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")

    def _functions(self) -> tuple[NumPyroModel | PyroModel, tuple]:
        """Return the model as it was fitted, and the data."""
        self._fitted()
        if isinstance(self.model, Target) or self.model is None:
            what = "a Target" if self.model is not None else "a loaded result without its model"
            raise AttributeError(
                f"{what} says nothing about how data arise, so there are no predictions. "
                "Use a NumPyro or Pyro model"
                + (" (bk.load(path, model=...))" if not self.model else "")
            )
        arguments, call = self._call
        functions, data = _traced_model(self.model, arguments, call)
        missing = {site.name for site in functions.sites} - self.result_.draws.keys()
        if missing:
            raise ValueError(
                f"the fit has draws of {', '.join(self.result_.draws)}, and none of "
                f"{', '.join(sorted(missing))}, a latent variable of the model: give the model "
                "that was fitted"
            )
        return functions, data

    # ------------------------------------------------------------ results

    @property
    def interrupted_(self) -> bool:
        """Whether the run was stopped early, so that there are fewer draws than asked for."""
        return self._fitted().interrupted

    @property
    def log_evidence_(self) -> float:
        """Log evidence; see the class."""
        return self._evidence("log_evidence")

    @property
    def log_evidence_se_(self) -> float:
        """Standard error of the log evidence; see the class."""
        return self._evidence("log_evidence_se")

    def _evidence(self, name: str) -> float:
        if not hasattr(self, "result_"):
            raise AttributeError(f"{name}_ exists after fit")
        value = getattr(self.result_, name)
        if value is None:
            raise AttributeError(
                f"{self.engine_.split('(')[0]} estimated no evidence. A proper prior has one: "
                "use inference=bk.EnsembleHMC() or bk.SMC()"
            )
        return value

    @property
    def posterior_(self) -> Any:
        """ArviZ object with all groups; see the class."""
        if not hasattr(self, "result_"):
            raise AttributeError("posterior_ exists after fit")
        if self._groups is None:
            self._groups = {} if not self._has_functions() else self._make_groups()
        return self.result_.to_arviz(self._groups, self.coords, self.dims)

    def _has_functions(self) -> bool:
        return self.model is not None and not isinstance(self.model, Target)

    def _make_groups(self) -> dict[str, dict[str, np.ndarray]]:
        result = self._fitted()
        with precision_scope(self.precision):
            functions, data = self._functions()
            observed = _observed_values(functions, data)
            num_values = max(1, sum(math.prod(v.shape) for v in observed.values()))
            num_chains, num_draws, _ = result.positions.shape
            num_kept = max(1, _MAX_GROUP_SIZE // (num_values * num_chains))
            positions = jnp.asarray(result.positions[:, :: -(-num_draws // num_kept)])
            replica_key, prior_key = jax.random.split(_derived_key(self.random_key_))
            groups: dict[str, Any] = {
                "log_likelihood": _pointwise(functions, data, positions),
                "posterior_predictive": _replicas(functions, data, positions, replica_key),
                "observed_data": observed,
            }
            if functions.proper_prior:
                groups["prior"] = _prior_draws(functions, data, prior_key)
        return {
            group: {name: np.asarray(v) for name, v in values.items()}
            for group, values in groups.items()
            if values
        }

    def summary(self) -> Any:
        """Return a table with one row for each scalar parameter; see Posterior.summary."""
        labels = {}
        for name, axes in (self.dims or {}).items():
            if len(axes) == 1 and self.coords and axes[0] in self.coords:
                labels[name] = list(self.coords[axes[0]])
        return self._fitted().summary(labels)

    def sample(self, num_draws: int = 1000, random_state: Any = None) -> dict[str, np.ndarray]:
        """Return posterior draws by name, with one leading axis of draws.

        Parameters
        ----------
        num_draws : int
            Drawn without replacement as far as there are enough.
        random_state : int, numpy random state or None
        """
        result = self._fitted()
        chosen = self._choose(num_draws, random_state)
        return {name: result.flat(name)[chosen] for name in result.draws}

    def _choose(self, num_draws: int, random_state: Any) -> np.ndarray:
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws!r}")
        total = self._fitted().num_draws
        seed = np.asarray(jax.random.key_data(as_random_key(random_state))).ravel()
        generator = np.random.default_rng(seed)
        return generator.choice(total, num_draws, replace=num_draws > total)

    # ------------------------------------------------------------ prediction

    def predict(self, X: Any = None, *, return_std: bool = False, **keywords: Any) -> Any:
        r"""Return the posterior predictive mean of ``y`` for new data.

        The mean is :math:`E[E(y \mid \theta)]` and the standard deviation
        :math:`\sqrt{E[Var(y \mid \theta)] + Var[E(y \mid \theta)]}`, over the posterior draws:
        no noise is drawn.

        Parameters
        ----------
        X : array, DataFrame or mapping, optional
            As in :meth:`fit`. The model is called without ``y``.
        return_std : bool

        Returns
        -------
        mean : array, or (mean, std)
            A dict of them by site if the model observes several.
        """
        positions = self._fitted().positions
        positions = positions.reshape(-1, positions.shape[-1])
        # Means over some thousand draws are as good as over all of them.
        positions = positions[:: max(1, len(positions) // _MAX_PREDICTIVE_DRAWS)]
        with precision_scope(self.precision):
            functions, data = self._for_prediction(X, keywords)
            moments = _moments(functions, data, jnp.asarray(positions))
        if not moments:
            raise ValueError(
                "the model has nothing to predict when called without y: write its observed "
                "sites as numpyro.sample(..., obs=y) with y=None by default"
            )
        means = {name: np.asarray(m) for name, (m, _) in moments.items()}
        stds = {name: np.sqrt(np.asarray(v)) for name, (_, v) in moments.items()}
        if len(means) == 1:
            (name,) = means
            return (means[name], stds[name]) if return_std else means[name]
        return (means, stds) if return_std else means

    def sample_predictive(
        self, X: Any = None, num_draws: int = 1000, random_state: Any = None, **keywords: Any
    ) -> dict[str, np.ndarray]:
        """Return draws of new observations by site, with one leading axis of draws."""
        chosen = self._choose(num_draws, random_state)
        positions = self._fitted().positions
        positions = positions.reshape(-1, positions.shape[-1])[chosen]
        with precision_scope(self.precision):
            functions, data = self._for_prediction(X, keywords)
            words = np.asarray(jax.random.key_data(as_random_key(random_state))).ravel()
            key = _derived_key(words)
            draws = _new_observations(functions, data, jnp.asarray(positions), key)
        return {name: np.asarray(v) for name, v in draws.items()}

    def _for_prediction(
        self, X: Any, keywords: Mapping[str, Any]
    ) -> tuple[NumPyroModel | PyroModel, tuple]:
        fitted, _ = self._functions()
        _, call = _checked_call(X, None, keywords)
        found: tuple[int, ...] = np.shape(call["X"]) if "X" in call else ()
        if hasattr(self, "n_features_in_") and "X" in call:
            if len(found) != 2:
                raise ValueError(
                    f"Expected 2D array, as in fit, got an array of shape {found}. Reshape "
                    "your data, for example by X.reshape(-1, 1) or X.reshape(1, -1)"
                )
            if not isinstance(X, Mapping):
                # The number of columns, and their names in order.
                validate_data(self, X, reset=False, skip_check_array=True)
        functions, data = fitted.for_arguments((), call)
        position = jnp.asarray(self._fitted().positions[0, 0])
        refuse_indices_beyond(functions, data, position, self._call[1], call)
        return functions, data

    def score(self, X: Any, y: Any, **keywords: Any) -> float:
        """Return the accuracy for yes-or-no observations, else the coefficient R²."""
        from sklearn.metrics import accuracy_score, r2_score

        functions, data = self._functions()
        observed = functions.observed
        predicted = self.predict(X, **keywords)
        if isinstance(predicted, dict):
            raise ValueError(
                f"the model observes several sites {observed}: score each yourself"
            )
        y = checked_array(y, "y")
        if functions.support_is_boolean(observed[0], data):
            return float(accuracy_score(y, predicted > 0.5))
        return float(r2_score(y, predicted))

    # ------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write the fitted result to one file that holds numbers only and cannot run code.

        The model itself is a function and is not stored: ``bk.load(path, model=...)`` puts it
        back for predictions.
        """
        parameters, arrays = self._fitted().pack()
        arguments, call = self._call
        plain: dict[str, Any] = {}
        for group, values in (("positional", dict(enumerate(arguments))), ("named", call)):
            for name, value in values.items():
                if isinstance(value, np.ndarray):
                    arrays[f"data_{group}/{name}"] = value
                else:
                    plain[f"{group}/{name}"] = value
        arrays["random_key"] = self.random_key_
        more_parameters, more_arrays = self._more_to_save()
        arrays |= more_arrays
        parameters |= more_parameters
        parameters |= {
            "precision": self.precision,
            "chosen_engine": self.engine_,
            "call": plain,
            "feature_names": list(getattr(self, "feature_names_in_", ())),
            "labels": packed_labels(self.coords, self.dims),
            "num_positional": len(arguments),
            "model_name": getattr(self.model, "__name__", type(self.model).__name__),
        }
        container.write_container(path, "BayesianModel", parameters, arrays)

    def _more_to_save(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what a child needs to go on after loading; arrays are named ``filter/...``."""
        return {}, {}

    def _restore(self, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take up what was saved by the same class."""

    @classmethod
    def _from_container(cls, read: container.Container, model: Any) -> BayesianModel:
        with container.unpacking("BayesianModel"):
            return cls._unpacked(read, model)

    @classmethod
    def _unpacked(cls, read: container.Container, model: Any) -> BayesianModel:
        parameters, arrays = read.parameters, dict(read.arrays)
        positional: dict[int, Any] = {}
        named: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for name in list(arrays):
            group, _, rest = name.partition("/")
            if group == "data_positional":
                positional[int(rest)] = arrays.pop(name)
            elif group == "data_named":
                named[rest] = arrays.pop(name)
            elif group == "filter":
                more[rest] = arrays.pop(name)
        for name, value in parameters["call"].items():
            group, _, rest = name.partition("/")
            if group == "positional":
                positional[int(rest)] = value
            else:
                named[rest] = value
        kind: type[BayesianModel] = cls
        if parameters.get("is_state_space"):
            from bayeskit.models.state_space import StateSpaceEstimator

            kind = StateSpaceEstimator
        precision_scope(parameters["precision"])
        if not isinstance(parameters["chosen_engine"], str):
            raise TypeError("chosen_engine must be text")
        coords, dims = unpacked_labels(parameters.get("labels", {}))
        estimator = kind(model, coords=coords, dims=dims, precision=parameters["precision"])
        estimator.random_key_ = arrays.pop("random_key")
        estimator.result_ = Posterior.unpack(parameters, arrays)
        estimator.engine_ = parameters["chosen_engine"]
        estimator.diagnostics_ = estimator.result_.diagnostics
        estimator.timing_ = estimator.result_.timing
        estimator._call = (tuple(positional[i] for i in sorted(positional)), named)
        estimator._groups = None
        names = parameters.get("feature_names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("feature_names must be a list of names")
        estimator._set_features(named, names)
        estimator._restore(parameters, more)
        return estimator


def _traced_model(
    model: Callable, arguments: tuple, call: Mapping[str, Any]
) -> tuple[NumPyroModel | PyroModel, tuple]:
    """Return a model of the package it is written for, and the data."""
    kind: type[NumPyroModel] | type[PyroModel] = NumPyroModel
    if is_pyro_model(model):
        kind = PyroModel
    return kind.of(model, arguments, call)


def _checked_call(X: Any, y: Any, keywords: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return the arguments and keywords that the model is called with, checked."""
    # Sparse matrices of keys are mappings as well, and refused like all of them.
    is_named = isinstance(X, Mapping) and not hasattr(X, "nnz")
    given = dict(X) if is_named else ({} if X is None else {"X": X})
    if y is not None:
        given["y"] = y
    for name, value in keywords.items():
        if name in given:
            raise TypeError(f"{name} was given twice")
        given[name] = value
    call = {name: checked_array(value, name) for name, value in given.items()}
    checked_lengths(call)
    return (), call


def _uniform_starts(num_chains: int, dim: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.uniform(-_START_WIDTH, _START_WIDTH, (num_chains, dim))


def _derived_key(key_data: np.ndarray) -> jax.Array:
    """Return a key for what is generated after the fit, fixed by the key of the fit."""
    words = [*map(int, key_data.ravel()), 1]
    return _generation_key(int(np.random.SeedSequence(words).generate_state(1)[0] >> 1))


def _generation_key(seed: int) -> jax.Array:
    # Some samplers of JAX, those of the Poisson family among them, take no other generator.
    return jax.random.key(seed, impl="threefry2x32")


def _observed_values(functions: NumPyroModel | PyroModel, data: tuple) -> dict[str, np.ndarray]:
    return {name: np.asarray(v) for name, v in functions.observed_values(*data).items()}


def _over_draws(function: Callable, *batched: Any) -> Any:
    """Map a function over leading axes in batches, so that memory stays bounded."""
    return jax.lax.map(lambda one: function(*one), batched, batch_size=_BATCH)


def _over_chains(function: Callable, positions: jax.Array, *batched: Any) -> Any:
    """Map a function of one draw over positions (chain, draw, dim)."""
    num_chains, num_draws, dim = positions.shape
    out = _over_draws(function, positions.reshape(-1, dim), *batched)
    return jax.tree.map(lambda v: v.reshape(num_chains, num_draws, *v.shape[1:]), out)


@functools.partial(jax.jit, static_argnames="functions")
def _pointwise(functions: NumPyroModel | PyroModel, data: tuple, positions: jax.Array) -> dict:
    return _over_chains(lambda x: functions.pointwise_log_likelihood(x, *data), positions)


@functools.partial(jax.jit, static_argnames="functions")
def _replicas(
    functions: NumPyroModel | PyroModel, data: tuple, positions: jax.Array, key: jax.Array
) -> dict:
    keys = jax.random.split(key, positions.shape[0] * positions.shape[1])
    return _over_chains(lambda x, k: functions.replicate(k, x, *data), positions, keys)


@functools.partial(jax.jit, static_argnames="functions")
def _new_observations(
    functions: NumPyroModel | PyroModel, data: tuple, positions: jax.Array, key: jax.Array
) -> dict:
    keys = jax.random.split(key, positions.shape[0])
    return _over_draws(lambda x, k: functions.predict(k, x, *data), positions, keys)


@functools.partial(jax.jit, static_argnames="functions")
def _prior_draws(functions: NumPyroModel | PyroModel, data: tuple, key: jax.Array) -> dict:
    def one(draw_key):
        return functions.constrain(functions.sample_prior(draw_key, *data), *data)

    draws = _over_draws(one, jax.random.split(key, _NUM_PRIOR_DRAWS))
    return jax.tree.map(lambda v: v[None], draws)


@functools.partial(jax.jit, static_argnames="functions")
def _moments(functions: NumPyroModel | PyroModel, data: tuple, positions: jax.Array) -> dict:
    """Return predictive mean and variance by site, by the law of total variance."""
    moments = _over_draws(lambda x: functions.predictive_moments(x, *data), positions)
    return {
        name: (means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0))
        for name, (means, variances) in moments.items()
    }
