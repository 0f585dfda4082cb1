r"""Several outcomes with partially pooled coefficients.

For outcomes k and pooled terms j,

.. math:: \theta_{kj} = \mu_j + \tau_j \eta_{kj}, \qquad \eta_{kj} \sim N(0, 1), \quad
    \mu_j \sim N(0, m_j^2), \quad \tau_j \sim \mathrm{HalfNormal}(s_j),

and the quasi-likelihood :math:`-\frac12 r^\top V^{-1} r` of all displacements r together. Fits
of the same rows are correlated, and V has their covariances; fits of other rows count as
independent.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.inference.engines import EnsembleHMC
from bayeskit.inference.measure import Target
from bayeskit.inference.posterior import Posterior
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.dsl.clusters import cluster_products
from bayeskit.models.dsl.posterior import num_starts
from bayeskit.models.dsl.quasi_likelihood import displacement_of
from bayeskit.models.dsl.repeats import nearest_covariance

__all__ = ["hierarchical_posterior", "joint_covariance"]


def hierarchical_posterior(
    models: Mapping[str, Any],
    *,
    terms: Sequence[str] | None = None,
    location_scale: Any = None,
    sd_scale: Any = None,
    inference: Any = None,
    random_state: Any = 0,
) -> Posterior:
    """Return the posterior of several fits whose coefficients are alike.

    Parameters
    ----------
    models : mapping of name to fitted DSLRegressor
        One for each outcome, region or model.
    terms : sequence of str, optional
        Coefficients that are pooled. Default: all that the fits share. Others have flat priors.
    location_scale : float or (terms) array, optional
        Prior standard deviation of the common means. Default: 10 times the root mean square
        of the estimates and their errors.
    sd_scale : float or (terms) array, optional
        Scale of the prior of the standard deviations between fits. Default: the standard
        deviation of the estimates plus the mean of their errors.
    inference : engine, optional
        Default: EnsembleHMC.
    random_state : int, numpy random state, JAX key, or None

    Returns
    -------
    Posterior
        ``coef`` (outcome, term), ``mean`` (term) and ``sd`` (term); ``to_arviz()`` gives an
        ArviZ object.

    Raises
    ------
    InvalidDataError
        For fewer than two fits, and terms that some of them lack.

    Notes
    -----
    The default scales look at the estimates once, at their size.

    References
    ----------
    Gelman (2006), *Prior distributions for variance parameters in hierarchical models*.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> import bayeskit as bk
    >>> from bayeskit.models.dsl import hierarchical_posterior
    >>> rng = np.random.default_rng(0)
    >>> x, noise, error = rng.normal(size=(3, 400))
    >>> y = 1.0 + 2.0 * x + noise
    >>> table = pd.DataFrame({"x": x, "y": y, "guess": y + error})
    >>> table.loc[100:, "y"] = np.nan
    >>> settings = {"formula": "y ~ x", "predicted": {"y": "guess"}, "features": ["x"]}
    >>> regions = {"north": table[::2], "south": table[1::2]}
    >>> fits = {
    ...     name: bk.DSLRegressor(**settings, learner="linear", random_state=0).fit(rows)
    ...     for name, rows in regions.items()
    ... }
    >>> found = hierarchical_posterior(fits, terms=["x"], random_state=0)
    >>> found.mean("coef").round(1).tolist(), found.mean("mean").round(1).tolist()
    ([[2.1], [2.1]], [2.1])
    """
    if len(models) < 2:
        raise InvalidDataError(f"at least two fits are needed, got {len(models)}")
    results = {name: model._fitted() for name, model in models.items()}
    shared = _shared_terms(results, terms)
    pooled = np.array([[r.terms.index(t) for t in shared] for r in results.values()])
    estimates = np.stack([r.coef[at] for r, at in zip(results.values(), pooled, strict=True)])
    errors = np.stack([r.se[at] for r, at in zip(results.values(), pooled, strict=True)])
    if location_scale is None:
        location_scale = 10.0 * np.sqrt(np.mean(estimates**2 + errors**2, axis=0))
    if sd_scale is None:
        sd_scale = estimates.std(axis=0) + errors.mean(axis=0)
    scales = tuple(
        np.broadcast_to(np.asarray(s, float), (len(shared),))
        for s in (location_scale, sd_scale)
    )
    for name, scale in zip(("location_scale", "sd_scale"), scales, strict=True):
        if not ((scale > 0) & np.isfinite(scale)).all():
            raise ValueError(f"{name} must be positive")
    covariance = joint_covariance(models)
    sizes = tuple(len(r.terms) for r in results.values())
    layout = _layout(sizes, tuple(map(tuple, pooled.tolist())))
    engine = EnsembleHMC(evidence=False) if inference is None else inference
    with precision_scope("float64"), program_cache():
        displacements = tuple(displacement_of(r) for r in results.values())
        own_scale = np.concatenate([r.se for r in results.values()])
        data = jax.tree.map(
            jnp.asarray, (displacements, np.linalg.inv(covariance), own_scale, scales)
        )
        target = Target(
            log_density=layout.log_density,
            constrain=layout.constrain,
            data=data,
            name="hierarchical quasi-posterior",
        )
        key, start_key = random.split(as_random_key(random_state), 2)
        starts = _starts(layout, estimates, scales[1], num_starts(engine), start_key)
        found = engine.run(target, None, key, initial_positions=starts)
    found.diagnostics.warn()
    return found


def _shared_terms(results: Mapping[str, Any], terms: Sequence[str] | None) -> list[str]:
    first = next(iter(results.values())).terms
    if terms is None:
        shared = [t for t in first if all(t in r.terms for r in results.values())]
        if not shared:
            raise InvalidDataError("the fits share no term: name the terms alike")
        return shared
    for name, result in results.items():
        for term in terms:
            if term not in result.terms:
                raise InvalidDataError(
                    f"the fit {name!r} has no term {term!r}: it has {list(result.terms)}"
                )
    return list(terms)


def joint_covariance(models: Mapping[str, Any]) -> np.ndarray:
    """Return the covariance of the coefficients of all fits, one fit after the other.

    Fits of the same rows are correlated as their influences are. Rows are the same where they
    have the same index and agree in the observed covariates of both; where fits dropped
    some, those that are left to both count. Clusters are those of the second.

    Raises
    ------
    InvalidDataError
        For fits of different rows with an index that has duplicates.
    """
    several = list(models.values())
    results = [model._fitted() for model in several]
    blocks = [[np.zeros((len(a.terms), len(b.terms))) for b in results] for a in results]
    for k, (model, result) in enumerate(zip(several, results, strict=True)):
        blocks[k][k] = result.vcov
        for other in range(k):
            rows = _same_rows(model, several[other])
            if not len(rows[0]):
                continue
            mine, his = result.splits.influence, results[other].splits.influence
            clusters = result.data.clusters
            common = tuple(codes[rows[0]] for codes in clusters)
            product = cluster_products(mine[rows[0]], his[rows[1]], common)
            sizes = [
                np.sqrt(np.diag(cluster_products(i, i, r.data.clusters)))
                for i, r in ((mine, result), (his, results[other]))
            ]
            blocks[k][other] = (
                product / np.outer(*sizes) * np.outer(result.se, results[other].se)
            )
            blocks[other][k] = blocks[k][other].T
    return nearest_covariance(np.block(blocks))


def _same_rows(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the places, in the tables of two fits, of the rows that are in both."""
    tables = first._table_, second._table_
    frames = tables[0].frame, tables[1].frame
    if frames[0].index.equals(frames[1].index):
        here = there = np.arange(len(frames[0]))
    elif all(frame.index.is_unique for frame in frames):
        common = frames[0].index.intersection(frames[1].index, sort=False)
        here, there = (frame.index.get_indexer(common) for frame in frames)
    else:
        raise InvalidDataError(
            "the fits have different rows whose index has duplicates, so that it is not known "
            "which are the same: give each row an index of its own"
        )
    shared = first._design.formula.covariate_columns & second._design.formula.covariate_columns
    shared -= {v.name for table in tables for v in table.variables}
    # Tables of other units may count their rows alike, but hold other covariates.
    kept = np.ones(len(here), bool)
    for name in shared:
        kept &= frames[0][name].to_numpy()[here] == frames[1][name].to_numpy()[there]
    return here[kept], there[kept]


@dataclass(frozen=True)
class _Layout:
    """Where pooled and other coefficients stand."""

    sizes: tuple[int, ...]
    pooled: tuple[tuple[int, ...], ...]

    @property
    def num_rest(self) -> int:
        return sum(self.sizes) - sum(map(len, self.pooled))

    def theta(self, x, data):
        """Return the coefficients of each fit, the pooled ones, and the log of their scales.

        Pooled ones are ``w estimate + (1 - w) mean + s raw``, where w and s are those of the
        conditional law that independent estimates would have: ``raw`` is then almost standard
        normal, whether the estimates are precise or the fits are alike.
        """
        displacements, _, own_scale, _ = data
        sd = jnp.exp(x["log_sd"])
        found, pooled, log_scales, used, before = [], [], [], 0, 0
        for k, (size, places) in enumerate(zip(self.sizes, self.pooled, strict=True)):
            at, rest = np.array(places), np.setdiff1d(np.arange(size), places)
            centre, se = displacements[k].centre, own_scale[before + at]
            total = jnp.sqrt(sd**2 + se**2)
            share = (sd / total) ** 2
            here = (
                share * centre[at] + (1.0 - share) * x["mean"] + sd * se / total * x["raw"][k]
            )
            log_scales.append(jnp.log(sd * se / total))
            own = x["rest"][used : used + len(rest)] * own_scale[before + rest]
            theta = jnp.zeros(size).at[at].set(here).at[rest].set(centre[rest] + own)
            found.append(theta)
            pooled.append(here)
            used, before = used + len(rest), before + size
        return found, jnp.stack(pooled), jnp.stack(log_scales)

    def log_density(self, x, *data):
        displacements, precision, _, (location_scale, sd_scale) = data
        thetas, pooled, log_scales = self.theta(x, data)
        away = jnp.concatenate([d(t) for d, t in zip(displacements, thetas, strict=True)])
        sd = jnp.exp(x["log_sd"])
        log_prior = (
            -0.5 * jnp.sum((x["mean"] / location_scale) ** 2)
            - 0.5 * jnp.sum((sd / sd_scale) ** 2)
            + jnp.sum(x["log_sd"])
            + jnp.sum(-0.5 * ((pooled - x["mean"]) / sd) ** 2 - x["log_sd"] + log_scales)
        )
        return log_prior - 0.5 * away @ precision @ away

    def constrain(self, x, *data):
        return {
            "coef": self.theta(x, data)[1],
            "mean": x["mean"],
            "sd": jnp.exp(x["log_sd"]),
        }


@functools.lru_cache(maxsize=64)
def _layout(sizes: tuple[int, ...], pooled: tuple[tuple[int, ...], ...]) -> _Layout:
    """Return one object for one layout: methods are equal only where they are of the same."""
    return _Layout(sizes, pooled)


def _starts(
    layout: _Layout, estimates: np.ndarray, sd_scale: np.ndarray, num: int, key: jax.Array
) -> dict[str, Any]:
    """Return dispersed starts around the estimates."""
    num_fits, num_terms = estimates.shape
    mean_key, sd_key, raw_key, rest_key = random.split(key, 4)
    spread = np.maximum(sd_scale, 1e-8)
    return {
        "mean": estimates.mean(axis=0) + spread * random.normal(mean_key, (num, num_terms)),
        "log_sd": np.log(spread) + random.normal(sd_key, (num, num_terms)) - 1.0,
        "raw": random.normal(raw_key, (num, num_fits, num_terms)),
        "rest": random.normal(rest_key, (num, layout.num_rest)),
    }
