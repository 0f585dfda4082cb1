"""The estimator of state-space models: filter, smooth, forecast, online or at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.inference.bands import bands_of_draws, bands_of_moments
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.engines.base import as_named_states
from bayeskit.inference.engines.ensemble_hmc import EnsembleHMC
from bayeskit.inference.engines.filter_program import FilterState, blank_state
from bayeskit.inference.engines.nuts import NUTS
from bayeskit.inference.engines.parallel_tempering import ParallelTempering
from bayeskit.inference.engines.parameter_paths import paths_of_parameters
from bayeskit.inference.engines.particle_filter import ParticleFilter
from bayeskit.inference.engines.particle_gibbs import ParticleGibbs
from bayeskit.inference.engines.pmmh import PMMH
from bayeskit.inference.engines.smc import SMC
from bayeskit.inference.engines.smc2 import SMC2
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.forecasting import simulate_on
from bayeskit.inference.posterior import Posterior
from bayeskit.inference.state_space import Rows, StateSpaceModel
from bayeskit.inference.state_space_target import StateSpaceTarget
from bayeskit.models.base import as_random_key, checked_array, precision_scope
from bayeskit.models.bayesian import BayesianModel, _derived_key
from bayeskit.models.rows import (
    checked_call,
    floats_in_precision,
    increasing_times,
    rows_of_call,
    y_alone,
)

__all__ = ["Forecast", "StateSpaceEstimator"]

# Filters of so many times estimate the likelihood well with as many particles.
_MAX_SHORT = 300
# More draws than that make no band better.
_MAX_FORECAST_DRAWS = 4000


@dataclass(frozen=True)
class Forecast:
    """What is to come after the data.

    Parameters
    ----------
    states, observations : pandas.DataFrame
        Mean, sd and quantiles by variable and time. Observations are None for a FeynmanKac.
    draws : dict of arrays (draw, time, ...)
        States by name, and ``y``; the same draw everywhere belongs to one path.

    Examples
    --------
    >>> import numpy as np, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> level = bk.StateSpaceModel(
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t: dist.Normal(x, p["step"]),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ...     params={"step": 0.5},
    ... )
    >>> est = bk.BayesianModel(level, inference=bk.ParticleFilter(1000), random_state=0)
    >>> forecast = est.fit(y=np.array([0.3, 0.1, np.nan, 0.9])).forecast(3)
    >>> forecast.states.loc["x"].index.tolist()
    [4, 5, 6]
    >>> {name: draws.shape for name, draws in forecast.draws.items()}
    {'x': (1000, 3), 'y': (1000, 3)}
    """

    states: Any
    observations: Any
    draws: dict[str, np.ndarray]


class StateSpaceEstimator(BayesianModel):
    r"""Fit a state-space model: what :class:`BayesianModel` becomes for one.

    ``BayesianModel(model, inference=...)`` returns it where the model is a
    :class:`~bayeskit.StateSpaceModel` or a :class:`~bayeskit.FeynmanKac`.

    Parameters
    ----------
    model : StateSpaceModel or FeynmanKac
    inference : "auto" or engine
        ParticleFilter where no parameter is free; PMMH, ParticleGibbs or SMC2 where one is.
        ``"auto"`` takes ParticleFilter; with free parameters SMC2, which gives the evidence as
        well, and for more than 300 times ParticleGibbs.
    random_state, precision, coords, dims
        As for :class:`BayesianModel`.

    Attributes
    ----------
    filter_ : pandas.DataFrame
        Mean, sd and quantiles of the state given the data so far, by variable and time. Of
        ParticleFilter.
    result_, posterior_, log_evidence_, log_evidence_se_, diagnostics_, engine_, timing_
        As for :class:`BayesianModel`. Draws of states are named ``x``, or as in a dict of
        states; where only the last state is kept, ``x_last``.

    Examples
    --------
    >>> import numpy as np, numpyro.distributions as dist
    >>> import bayeskit as bk
    >>> level = bk.StateSpaceModel(
    ...     initial=lambda p: dist.Normal(0.0, 1.0),
    ...     transition=lambda p, x, t: dist.Normal(x, p["step"]),
    ...     observation=lambda p, x, t: dist.Normal(x, 1.0),
    ...     params={"step": 0.5},
    ... )
    >>> est = bk.BayesianModel(level, inference=bk.ParticleFilter(1000), random_state=0)
    >>> est = est.fit(y=np.array([0.3, 0.1, np.nan, 0.9]))
    >>> est.filter_.loc["x"].shape
    (4, 5)
    >>> est.forecast(3).observations.loc["y"].index.tolist()
    [4, 5, 6]
    """

    # ------------------------------------------------------------ fitting

    def fit(  # type: ignore[override]
        self, X: Any = None, y: Any = None, *, times: Any = None, duplicates: str = "error"
    ) -> StateSpaceEstimator:
        """Infer states, and parameters where there are free ones.

        Parameters
        ----------
        X : array (num_steps, ...), optional
            Controls, which the functions of the model get as ``u``. A single argument is y.
        y : array (num_steps, ...)
            Observations; NaN where nothing was seen. None for a FeynmanKac, which holds them.
        times : array (num_steps,), optional
            Increasing; the functions of the model get their differences as ``dt``.
        duplicates : {"error", "mean", "keep"}
            What becomes of several rows of one time. ``"keep"``: each is an observation of the
            same state, which does not move between them. ``"mean"``: one row, with the means
            of what was seen and of the controls.

        Returns
        -------
        self

        Raises
        ------
        InvalidDataError
            For shapes that do not fit the model, infinities, times that do not increase, or
            that repeat where ``duplicates`` does not say what that means.
        ParticleCollapseError
            If all particles have weight zero at some time; names it and what was observed.
        """
        scope = precision_scope(self.precision)
        call = checked_call(X, y, times, self._is_given(), duplicates)
        key = as_random_key(self.random_state)
        # Before the functions of the model are looked at.
        self._engine()
        with scope, program_cache():
            target = StateSpaceTarget.of(self.model, rows_of_call(call, self.precision))
            engine, reason = self._engine_for(target)
            state = None
            if isinstance(engine, ParticleFilter):
                engine.check(target.model)
                with CompileClock() as clock:
                    state, history = engine.advance(target, key)
                    result = engine.finish(target, state, history)
                result.timing.update(clock.timing())
            else:
                result = engine.run(target, None, key)
        self._keep(result, reason, call, state)
        self.random_key_ = np.asarray(jax.random.key_data(key))
        result.diagnostics.warn()
        return self

    def _keep(self, result: Posterior, reason: str, call: dict, state: Any) -> None:
        self.result_ = result
        self.engine_ = f"{result.engine}: {reason}"
        self.diagnostics_ = result.diagnostics
        self.timing_ = result.timing
        self._call = ((), call)
        self._groups: dict[str, Any] | None = None
        # On the host: arrays of JAX that are pickled come back in the precision of the day.
        self._state: FilterState | None = state and state.on_host()

    def partial_fit(
        self, X: Any = None, y: Any = None, *, times: Any = None, duplicates: str = "error"
    ) -> StateSpaceEstimator:
        """Go on with new rows, where a particle filter stands; the same bits as one ``fit``.

        Parameters
        ----------
        X, y, times, duplicates
            As for :meth:`fit`: one row or many. A single argument is y. With ``"keep"`` the
            first of the new rows may repeat the last time.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            For engines other than ParticleFilter, or a FeynmanKac.
        """
        scope = precision_scope(self.precision)
        self._require_model()
        if self._is_given():
            raise TypeError("a FeynmanKac holds all its data: there is nothing to add")
        with scope, program_cache():
            engine, reason = self._online_engine()
            state = getattr(self, "_state", None)
            before = self._call[1] if state is not None else None
            X, y = y_alone(X, y)
            X, y, times = self._as_rows(X, y, times, before)
            call = checked_call(X, y, times, self._is_given(), duplicates)
            rows = rows_of_call(call, self.precision, before, duplicates)
            target = StateSpaceTarget.of(self.model, rows)
            if state is None:
                key = as_random_key(self.random_state)
                self.random_key_ = np.asarray(jax.random.key_data(key))
            else:
                key = state.key
            with CompileClock() as clock:
                state, history = engine.advance(target, key, state)
                if before is not None:
                    call = {n: np.concatenate([before[n], call[n]]) for n in call}
                    history = _joined(self.result_.history, history)
                result = engine.finish(target, state, history)
            result.timing.update(clock.timing())
        self._keep(result, reason, call, state)
        return self

    def _online_engine(self) -> tuple[ParticleFilter, str]:
        if self._engine() is None and self.model.free:
            raise TypeError(
                f"partial_fit goes on with a particle filter, but {list(self.model.free)} are "
                "free parameters: give them as numbers in StateSpaceModel(params=...), or fit "
                "all data again"
            )
        engine, reason = self._engine_for(StateSpaceTarget.of(self.model, None))
        if not isinstance(engine, ParticleFilter):
            raise TypeError(
                f"partial_fit goes on with a particle filter, not with {engine!r}: take "
                "inference=bk.ParticleFilter(...), or fit all data again"
            )
        engine.check(self.model)
        return replace(engine, num_paths=0), reason

    def _as_rows(self, X: Any, y: Any, times: Any, before: dict | None) -> tuple:
        """Return arguments with a leading axis of rows, and refuse to change what there is."""
        given = {"X": X, "y": y, "times": times}
        given = {n: np.asarray(v, float) for n, v in given.items() if v is not None}
        if before is not None and set(given) != set(before):
            raise InvalidDataError(
                f"the filter has seen {sorted(before)} so far, now got {sorted(given)}"
            )
        if "y" in given:
            row = given["y"].shape
            if before is not None:
                is_row = row == before["y"].shape[1:]
            else:
                is_row = row == self._observation_shape(given)
            if is_row:
                given = {name: value[None] for name, value in given.items()}
        return given.get("X"), given.get("y"), given.get("times")

    def _observation_shape(self, given: dict) -> tuple:
        one = Rows(
            given["y"][None],
            given["X"][None] if "X" in given else None,
            np.zeros(1) if "times" in given else None,
        )
        return tuple(self.model.facts(one)["shape"])

    def _is_given(self) -> bool:
        return isinstance(self.model, FeynmanKac)

    def _engine_for(self, target: Any) -> tuple[Any, str]:
        engine = self._engine()
        if engine is not None:
            if isinstance(engine, EnsembleHMC | NUTS | ParallelTempering | SMC):
                raise TypeError(
                    f"{type(engine).__name__} does not run state-space models: take "
                    "ParticleFilter, or with free parameters PMMH, ParticleGibbs or SMC2"
                )
            return engine, "chosen by the user"
        if not target.model.free:
            return ParticleFilter(), "no parameter is free, so states are all there is to infer"
        num_steps = target.num_steps
        if num_steps <= _MAX_SHORT:
            return _squared_for(target), (
                "parameters are free, and the series is short enough for SMC², which gives the "
                "evidence as well"
            )
        return ParticleGibbs(), (
            f"parameters are free, and filters of more than {_MAX_SHORT} times need many "
            "particles for each of their values; conditional SMC does not. There is no evidence"
        )

    # ------------------------------------------------------------ states

    @property
    def filter_(self) -> Any:
        """Moments and quantiles of states given the data so far; see the class."""
        if not hasattr(self, "result_"):
            raise AttributeError("filter_ exists after fit")
        history = self.result_.history
        names = [n.partition("/")[2] for n in history if n.startswith("filter_mean/")]
        if not names:
            raise AttributeError(
                f"{self.engine_.split('(')[0]} keeps no filtering distributions: use "
                "inference=bk.ParticleFilter(...) with parameters as numbers"
            )
        mean, sd, quantiles = (
            {n: history[f"filter_{what}/{n}"] for n in names if f"filter_{what}/{n}" in history}
            for what in ("mean", "sd", "quantiles")
        )
        levels = self._engine_settings().quantiles if quantiles else ()
        return bands_of_moments(mean, sd, quantiles, levels, self._times())

    def _engine_settings(self) -> Any:
        return ParticleFilter() if isinstance(self.inference, str) else self.inference

    def _times(self) -> np.ndarray:
        call = self._call[1]
        return call["times"] if "times" in call else np.arange(self._num_steps())

    def _num_steps(self) -> int:
        return self.model.num_steps if self._is_given() else len(self._call[1]["y"])

    def smooth(self, num_paths: int = 1000) -> Any:
        """Return moments and quantiles of the states given all data.

        Parameters
        ----------
        num_paths : int
            A particle filter runs again with its history, to the same numbers, and draws so
            many paths. SMC2, and PMMH without paths, draw one from a new filter for each of so
            many parameters, weighed by the ratio of its estimate to the old one. Other engines
            have drawn theirs.

        Returns
        -------
        pandas.DataFrame
            Mean, sd and quantiles by variable and time.

        Raises
        ------
        MissingDensityError
            For ``smoother="backward"`` and a model without transition density.
        ParticleCollapseError
            If all new filters lose their particles.
        """
        return bands_of_draws(self.smoothed_paths(num_paths), self._times())

    def smoothed_paths(self, num_paths: int = 1000) -> dict[str, np.ndarray]:
        """Return paths (draw, time, ...) from the law of the states given all data."""
        result = self._fitted()
        self._require_model()
        if not isinstance(num_paths, int | np.integer) or num_paths < 1:
            raise ValueError(f"num_paths must be a whole number >= 1, got {num_paths!r}")
        names = self._state_names()
        if names and not names[0].endswith("_last"):
            return {name: result.flat(name) for name in names}
        if self._state is None:
            return self._paths_of_parameters(num_paths)
        engine = replace(self._engine_settings(), num_paths=num_paths)
        with precision_scope(self.precision):
            target = StateSpaceTarget.of(
                self.model, rows_of_call(self._call[1], self.precision)
            )
            engine.check(target.model)
            again = engine.run(target, None, self._state.key)
        return {name: again.flat(name) for name in again.draws}

    def _paths_of_parameters(self, num_paths: int) -> dict[str, np.ndarray]:
        result = self._fitted()
        chosen = self._choose(num_paths, 0)
        theta = result.positions.reshape(result.num_draws, -1)[chosen]
        log_estimates = result.sample_stats["log_likelihood_estimate"].reshape(-1)[chosen]
        with precision_scope(self.precision):
            target = StateSpaceTarget.of(
                self.model, rows_of_call(self._call[1], self.precision)
            )
            # A loaded result knows no engine; new filters may have any size.
            engine = self.inference
            if not isinstance(engine, PMMH | SMC2):
                engine = _squared_for(target)
            key = random.fold_in(_derived_key(self.random_key_), 1)
            size = (engine.num_particles, engine.scheme)
            paths = paths_of_parameters(target, theta, log_estimates, *size, key)
        return as_named_states(paths)

    def _state_names(self) -> list[str]:
        free = self.model.free if isinstance(self.model, StateSpaceModel) else ()
        return [name for name in self._fitted().draws if name not in free]

    def _last_states(self) -> Any:
        """Return the last state of each draw, in the structure of the model."""
        result, states = self._fitted(), {}
        for name in self._state_names():
            values = result.flat(name)
            is_last = name.endswith("_last")
            states[name.removesuffix("_last")] = values if is_last else values[:, -1]
        return next(iter(states.values())) if list(states) == ["x"] else states

    def _require_model(self) -> None:
        if self.model is None:
            raise AttributeError(
                "the file holds the result and not the model: bk.load(path, model=...) puts it "
                "back"
            )

    # ------------------------------------------------------------ prediction

    def forecast(
        self,
        steps: int = 1,
        X: Any = None,
        *,
        times: Any = None,
        num_draws: int = 1000,
        random_state: Any = None,
    ) -> Forecast:
        """Draw states and observations on from the end of the data.

        Parameters
        ----------
        steps : int
        X : array (steps, ...), optional
            Controls to come, where the model takes them.
        times : array (steps,), optional
            Times to come, where the model was fitted with times.
        num_draws : int
        random_state : int, numpy random state or None
            None: fixed by the key of the fit.

        Returns
        -------
        Forecast
        """
        if not isinstance(steps, int | np.integer) or steps < 1:
            raise ValueError(f"steps must be a whole number >= 1, got {steps!r}")
        self._fitted()
        self._require_model()
        seen = self._call[1]
        rows, labels = self._rows_to_come(int(steps), X, times, seen)
        with precision_scope(self.precision):
            key = (
                _derived_key(self.random_key_)
                if random_state is None
                else as_random_key(random_state)
            )
            chosen = self._choose(num_draws, random_state if random_state is not None else 0)
            target = StateSpaceTarget.of(self.model, None)
            positions = self.result_.positions
            theta = positions.reshape(self.result_.num_draws, positions.shape[-1])[chosen]
            start = jax.tree.map(lambda v: jnp.asarray(v[chosen]), self._last_states())
            states, seen = simulate_on(
                target.model,
                jnp.asarray(theta),
                start,
                jax.tree.map(jnp.asarray, rows),
                np.int32(self._num_steps()),
                int(steps),
                key,
            )
        named = states if isinstance(states, dict) else {"x": states}
        named = {name: np.asarray(v) for name, v in named.items()}
        if seen is None:
            return Forecast(bands_of_draws(named, labels), None, named)
        observed = {"y": np.asarray(seen)}
        return Forecast(
            bands_of_draws(named, labels), bands_of_draws(observed, labels), named | observed
        )

    def _rows_to_come(
        self, steps: int, X: Any, times: Any, seen: dict
    ) -> tuple[Rows, np.ndarray]:
        u = dt = None
        labels = np.arange(self._num_steps(), self._num_steps() + steps)
        for name, value in (("X", X), ("times", times)):
            if (value is not None) != (name in seen):
                did = "was" if name in seen else "was not"
                raise InvalidDataError(
                    f"the model {did} fitted with {name}, so forecast "
                    f"{'needs' if name in seen else 'takes no'} {name}"
                )
            if value is not None and len(value) != steps:
                raise InvalidDataError(
                    f"{name} must have {steps} rows, one for each step, got {len(value)}"
                )
        if X is not None:
            u = floats_in_precision(checked_array(X, "X"), self.precision)
        if times is not None:
            labels = increasing_times(np.concatenate([seen["times"][-1:], np.asarray(times)]))
            dt, labels = floats_in_precision(np.diff(labels), self.precision), labels[1:]
        return Rows(None, u, dt), labels

    def predict(
        self, X: Any = None, *, steps: int | None = None, return_std: bool = False, **options
    ) -> Any:
        """Return the mean of the observations to come; see :meth:`forecast`.

        Parameters
        ----------
        X : array (steps, ...), optional
            Controls to come.
        steps : int, optional
            Default: the rows of X, or 1.
        return_std : bool
        **options
            Passed on to :meth:`forecast`.
        """
        if np.ndim(X) == 0 and X is not None:
            raise InvalidDataError(
                f"X holds the controls to come, one row a step, got {X!r}: for a number of "
                "steps call predict(steps=...)"
            )
        if steps is None:
            steps = 1 if X is None else len(X)
        options.setdefault("num_draws", _MAX_FORECAST_DRAWS)
        drawn = self.forecast(steps, X, **options).draws
        if "y" not in drawn:
            raise AttributeError(
                "a FeynmanKac says nothing about how data arise, so there are no predictions: "
                "use forecast for its states, or a StateSpaceModel"
            )
        mean, std = drawn["y"].mean(axis=0), drawn["y"].std(axis=0, ddof=1)
        return (mean, std) if return_std else mean

    def sample_predictive(
        self, X: Any = None, num_draws: int = 1000, random_state: Any = None, **options: Any
    ) -> dict[str, np.ndarray]:
        """Return draws of states and observations to come, (draw, time, ...) by name."""
        steps = options.pop("steps", 1 if X is None else len(X))
        return self.forecast(
            steps, X, num_draws=num_draws, random_state=random_state, **options
        ).draws

    def score(self, X: Any, y: Any, **keywords: Any) -> float:
        """Refuse: rows of a time series are no independent samples.

        Raises
        ------
        AttributeError
        """
        raise AttributeError(
            "a state-space model has no score for separate rows: compare log_evidence_, or "
            "forecast(...) with what came"
        )

    # ------------------------------------------------------------ results and files

    def _evidence(self, name: str) -> float:
        if getattr(self.result_, name, None) is None if hasattr(self, "result_") else False:
            raise AttributeError(
                f"{self.engine_.split('(')[0]} estimates no evidence: use inference=bk.SMC2()"
            )
        return super()._evidence(name)

    def _make_groups(self) -> dict[str, dict[str, np.ndarray]]:
        seen = self._call[1]
        return {"observed_data": {"y": seen["y"]}} if "y" in seen else {}

    def _more_to_save(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if self._state is None:
            return {"is_state_space": True}, {}
        levels = self._engine_settings().quantiles
        leaves = [np.asarray(x) for x in jax.tree.leaves(self._state.population)]
        arrays = {str(i): leaf for i, leaf in enumerate(leaves)}
        arrays["time"] = np.asarray(self._state.time)
        parameters = {
            "is_state_space": True,
            "settings": {**asdict(self._engine_settings()), "quantiles": list(levels)},
            "key_type": str(jax.random.key_impl(self._state.key)),
        }
        return parameters, {f"filter/{name}": value for name, value in arrays.items()}

    def _restore(self, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._state = None
        if not arrays:
            return
        time = arrays.pop("time")
        self.inference = ParticleFilter(**parameters["settings"])
        if self.model is None:
            return
        with precision_scope(self.precision):
            key = jax.random.wrap_key_data(
                jnp.asarray(self.random_key_), impl=parameters["key_type"]
            )
            rows = rows_of_call(self._call[1], self.precision)
            model = StateSpaceTarget.of(self.model, rows).model
            blank = blank_state(self._online_engine()[0], model, rows, key)
            leaves = [jnp.asarray(arrays[str(i)]) for i in range(len(arrays))]
            population = jax.tree.unflatten(jax.tree.structure(blank.population), leaves)
            self._state = FilterState(key, jnp.asarray(time), population)


def _squared_for(target: StateSpaceTarget) -> SMC2:
    return SMC2(num_particles=max(100, target.num_steps))


# ---------------------------------------------------------------- data at the door


def _joined(old: dict[str, np.ndarray], new: dict[str, Any]) -> dict[str, Any]:
    """Return a history with new rows; the old one is flat by name, as a result keeps it."""
    from bayeskit.inference.engines.filter_summaries import flat_history

    new = flat_history(new)
    return {name: np.concatenate([old[name], new[name]]) for name in new}
