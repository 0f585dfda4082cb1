"""Terms, multilinear part and noise as draws from their joint posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.equal_weights import equally_weighted
from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.additive.centring import centred_design
from bayeskit.models.functional_tucker.additive.design import function_design
from bayeskit.models.functional_tucker.low_rank.additive_part import additive_part
from bayeskit.models.functional_tucker.low_rank.data import TensorData, tensor_data
from bayeskit.models.functional_tucker.low_rank.draws import (
    Draws,
    predictive,
    sample_rows,
    term_moments,
)
from bayeskit.models.functional_tucker.low_rank.gibbs import run_gibbs
from bayeskit.models.functional_tucker.low_rank.posterior import Prior, mode_name
from bayeskit.models.functional_tucker.low_rank.search import Problem
from bayeskit.models.functional_tucker.low_rank.smc import run_smc

__all__ = ["Sampled", "fit_by_gibbs", "fit_by_smc", "given_rows"]


@dataclass(frozen=True, eq=False)
class Sampled:
    """Weighted draws of all parts.

    Parameters
    ----------
    problem : Problem
        The multilinear part.
    prior : Prior
        Of the terms as well.
    data : TensorData
    design : AdditiveDesign
        Of the terms.
    parts : Draws
    num_chains : int
        Chains, one after another along the axis of draws; 1 for particles.
    log_evidence, log_evidence_se : float or None
    """

    problem: Problem
    prior: Prior
    data: TensorData
    design: additive.AdditiveDesign
    parts: Draws
    num_chains: int = 1
    log_evidence: float | None = None
    log_evidence_se: float | None = None

    @property
    def table(self) -> np.ndarray:
        """The coordinates of all rows that the draws are given."""
        return self.design.table

    @property
    def log_weights(self) -> np.ndarray:
        """Normalised log-weights (draws,)."""
        return self.parts.log_weights

    @property
    def noise_std(self) -> np.ndarray:
        """Of the noise, on the scale of t, for each draw (draws,)."""
        if self.prior.noise.is_known:
            return np.full(len(self.log_weights), self.prior.noise.precision**-0.5)
        return self.parts.parts["precision"] ** -0.5

    def learned(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return hyper-parameters of the terms (draws, num), and of each mode."""
        assert self.prior.additive is not None
        drawn = self.parts.parts
        terms = self.prior.additive.parameters.values(drawn["additive"]["u"])
        modes = [
            free.values(drawn[mode_name(k)]["u"])
            for k, free in enumerate(self.prior.parameters)
        ]
        return terms, modes

    def moments(self, table: np.ndarray, context: str) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances (draws, new rows) of t without noise, row by row."""
        return predictive(
            self.problem.layout, self.prior, self.data, self.parts, table, self.design, context
        )

    def function_moments(
        self, term: int, x: np.ndarray, is_centred: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances (points,) of the function of a term, over all draws."""
        x, share = np.asarray(x, float), None
        if is_centred:
            new, share = centred_design(self.design, term, x, np.asarray(self.data.weight) > 0)
        else:
            new = function_design(self.design, term, x)
        layout = self.problem.layout
        means, variances = term_moments(layout, self.prior, self.data, self.parts, new, share)
        weights, num = np.exp(self.log_weights), len(x)
        mean = weights @ means[:, :num]
        return mean, weights @ (variances[:, :num] + (means[:, :num] - mean) ** 2)

    def draws(self, table: np.ndarray, context: str, num_draws: int, key: Any) -> tuple:
        """Return joint draws (num_draws, new rows) of t without noise, and std of the noise."""
        choice_key, key = random.split(key, 2)
        chosen = self.chosen(num_draws, choice_key)
        some = Draws(jax.tree.map(lambda part: part[chosen], self.parts.parts), None)
        layout = self.problem.layout
        drawn = sample_rows(
            layout, self.prior, self.data, some, table, key, self.design, context
        )
        return drawn, self.noise_std[chosen]

    def chosen(self, num: int, key: Any) -> np.ndarray:
        """Return places (num,) of draws of equal weight, in random order."""
        return equally_weighted(key, self.log_weights, num)


def given_rows(
    problem: Problem, design: additive.AdditiveDesign, t: np.ndarray, seen: np.ndarray
) -> tuple[Prior, TensorData]:
    """Return prior and rows of a model that is to be drawn from."""
    prior = Prior(
        problem.parameters, problem.core_precision, problem.noise, additive_part(design)
    )
    data = tensor_data(design.table, np.where(seen, t, np.nan))
    if not problem.layout.ranks:
        data = data._replace(places=(), grids=())
    return prior, data


def _on_the_host(parts: Draws) -> Draws:
    return jax.tree.map(np.asarray, parts)


def fit_by_gibbs(
    problem: Problem,
    design: additive.AdditiveDesign,
    t: np.ndarray,
    seen: np.ndarray,
    key: Any,
    *,
    num_draws: int,
    num_warmup: int,
    num_chains: int,
) -> Sampled:
    """Return draws by Gibbs sampling, ``num_draws`` over all chains."""
    prior, data = given_rows(problem, design, t, seen)
    parts = run_gibbs(
        problem.layout,
        prior,
        data,
        key,
        num_draws=math.ceil(num_draws / num_chains),
        num_warmup=num_warmup,
        num_chains=num_chains,
        method=problem.method,
    )
    return Sampled(problem, prior, data, design, _on_the_host(parts), num_chains)


def fit_by_smc(
    problem: Problem,
    design: additive.AdditiveDesign,
    t: np.ndarray,
    seen: np.ndarray,
    key: Any,
    *,
    num_particles: int,
) -> Sampled:
    """Return weighted draws by tempered sequential Monte Carlo, and the log evidence."""
    prior, data = given_rows(problem, design, t, seen)
    parts, log_evidence, error = run_smc(
        problem.layout, prior, data, key, num_particles=num_particles, method=problem.method
    )
    parts = _on_the_host(parts)
    return Sampled(problem, prior, data, design, parts, 1, log_evidence, error)
