"""Each posterior with its data, its parameters and what is known about it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bayeskit import Target
from bayeskit.interop.numpyro import NumPyroModel
from bayeskit.interop.posteriordb import read_posterior, scalar_draws
from benchmarks.posteriordb import hard, models
from benchmarks.posteriordb.compare import Reference

__all__ = ["CASES", "HARD_CASES", "Case", "data_folder"]

NUM_EXACT_DRAWS = 100_000


def data_folder() -> Path:
    """Return the folder of reference data: $BAYESKIT_REFERENCE_DATA or ../shared/data."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("BAYESKIT_REFERENCE_DATA", default))


@dataclass(frozen=True)
class Case:
    """One posterior.

    Parameters
    ----------
    name : str
    model : callable
        NumPyro model of the arrays that ``load`` returns.
    load : callable () -> tuple of float64 arrays
    known : callable () -> Reference or None
        What others found out about the posterior.
    proper : bool
        Whether there is a prior to start from.
    stored : callable () -> dict, optional
        The data as the source has them.
    """

    name: str
    model: Callable
    load: Callable[[], tuple]
    known: Callable[[], Reference | None]
    proper: bool = True
    stored: Callable[[], dict] | None = None

    def target(self) -> Target:
        """Return the posterior on unconstrained vectors, with its data."""
        arrays = tuple(jnp.asarray(a) for a in self.load())
        model, data = NumPyroModel.of(self.model, arrays, {})
        return model.target(data)

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return NumPyroModel.of(self.model, self.load(), {})[0].dim


def reported(
    draws: dict[str, np.ndarray], names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Return draws (chain, draw) of scalars such as ``beta[1]`` or ``mu``; default: of all."""
    scalars = scalar_draws(draws)
    return {name: scalars[name] for name in (scalars if names is None else names)}


# ---------------------------------------------------------------- cases of posteriordb


def _stored(folder: str) -> dict:
    return read_posterior(data_folder() / "posteriordb", folder).data


def _reference(folder: str) -> Reference:
    found = read_posterior(data_folder() / "posteriordb", folder)
    return Reference(
        names=found.names, draws=found.draws.reshape(-1, len(found.names)), **found.moments
    )


def _columns(data: dict, *names: str) -> tuple:
    return tuple(np.asarray(data[name], np.float64) for name in names)


def _lagged(data: dict) -> tuple:
    (y,), k = _columns(data, "y"), data["K"]
    return np.column_stack([y[k - lag : len(y) - lag] for lag in range(1, k + 1)]), y[k:]


def _kid_design(data: dict) -> tuple:
    y, hs, iq = _columns(data, "kid_score", "mom_hs", "mom_iq")
    return np.column_stack([np.ones_like(y), hs, iq, hs * iq]), y


def _nes_design(data: dict) -> tuple:
    names = ("partyid7", "real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income")
    y, ideology, race, age, *others = _columns(data, *names)
    ages = [age == k for k in (2, 3, 4)]
    return np.column_stack([np.ones_like(y), ideology, race, *ages, *others]), y


def _of(*names: str) -> Callable[[dict], tuple]:
    return lambda data: _columns(data, *names)


_POSTERIORDB = (
    ("eight_schools", "eight_schools-eight_schools_noncentered", models.eight_schools,
     _of("sigma", "y")),
    ("arK", "arK-arK", models.autoregression, _lagged),
    ("arma11", "arma-arma11", models.arma, _of("y")),
    ("garch11", "garch-garch11", models.garch, _of("y", "sigma1")),
    ("gp_regr", "gp_pois_regr-gp_regr", models.gaussian_process, _of("x", "y")),
    ("kidiq", "kidiq-kidscore_interaction", models.kid_score, _kid_design),
    ("nes1972", "nes1972-nes", models.party_identification, _nes_design),
    ("hmm", "hmm_example-hmm_example", models.hidden_markov, _of("y")),
    ("gauss_mix", "low_dim_gauss_mix-low_dim_gauss_mix", models.gaussian_mixture, _of("y")),
    ("lotka_volterra", "hudson_lynx_hare-lotka_volterra", models.lotka_volterra,
     _of("y_init", "y")),
)  # fmt: skip
_IMPROPER = ("garch11", "kidiq", "nes1972")

CASES: dict[str, Case] = {
    name: Case(
        name,
        model,
        functools.cache(lambda folder=folder, prepare=prepare: prepare(_stored(folder))),
        functools.cache(functools.partial(_reference, folder)),
        stored=functools.partial(_stored, folder),
        proper=name not in _IMPROPER,
    )
    for name, folder, model, prepare in _POSTERIORDB
}

# ---------------------------------------------------------------- hard cases


def _exact(sampler: Callable, **settings) -> Callable[[], Reference]:
    def draw() -> Reference:
        draws = sampler(np.random.default_rng(0), NUM_EXACT_DRAWS)
        arrays = {name: values[None] for name, values in draws.items()}
        names = []
        for name, values in draws.items():
            count = values.shape[1] if values.ndim == 2 else 0
            names += [f"{name}[{i + 1}]" for i in range(count)] or [name]
        return Reference.of_draws(reported(arrays, names), **settings)

    return functools.cache(draw)


def _with_intercept(X: np.ndarray, y: np.ndarray) -> tuple:
    scaled = (X - X.mean(axis=0)) / X.std(axis=0) * 0.5
    return np.column_stack([np.ones(len(y)), scaled]), np.asarray(y, np.float64)


def _breast_cancer() -> tuple:
    from sklearn.datasets import load_breast_cancer

    return _with_intercept(*load_breast_cancer(return_X_y=True))


def _table(file: str) -> tuple:
    table = np.loadtxt(data_folder() / "core" / file, delimiter=",", skiprows=1)
    return _with_intercept(table[:, :-1], table[:, -1])


def _logistic_reference(entry: str) -> Reference | None:
    path = data_folder() / "core" / "reference.json"
    if not path.exists():
        return None
    values = json.loads(path.read_text())[entry]
    sd = np.array(values["post_sd"])
    names = tuple(f"b[{j + 1}]" for j in range(len(sd)))
    error = sd / np.sqrt(values["is_ess"])
    return Reference(names, np.array(values["post_mean"]), sd, error)


def _logistic(name: str, load: Callable, entry: str | None) -> Case:
    known = (lambda: None) if entry is None else functools.partial(_logistic_reference, entry)
    return Case(name, hard.logistic, functools.cache(load), known)


HARD_CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "funnel",
            hard.funnel,
            tuple,
            _exact(hard.funnel_draws, heavy_tailed=True),
            proper=False,
        ),
        Case(
            "heavy_tails",
            hard.heavy_tails,
            tuple,
            _exact(hard.heavy_tailed_draws, heavy_tailed=True),
            proper=False,
        ),
        Case("two_modes", hard.two_modes, tuple, _exact(hard.two_mode_draws)),
        Case(
            "eight_schools_centred",
            hard.eight_schools_centred,
            CASES["eight_schools"].load,
            CASES["eight_schools"].known,
        ),
        _logistic("breast_cancer", _breast_cancer, "logistic_breast_cancer"),
        _logistic("pima", lambda: _table("pima.csv"), "logistic_pima"),
        _logistic("sonar", lambda: _table("sonar.csv"), None),
    )
}
