"""Smoothing by whole paths: backward sampling in four ways, one of them the genealogy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.backward import (
    BackwardDraw,
    Exact,
    Genealogy,
    Metropolis,
    Rejection,
    trace_back,
)
from bayeskit.inference.blocks import Block
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.law import Law, require
from bayeskit.inference.population import History

__all__ = ["BackwardSampling", "backward_draw", "backward_sampling", "genealogy"]


@dataclass(frozen=True, eq=False, repr=False)
class BackwardSampling(Block):
    """Turn a population with a history into paths. See :func:`backward_sampling`."""

    model: FeynmanKac
    draw: BackwardDraw
    num: int | None = None

    @property
    def name(self):
        number = {None: "", 1: ", 1 path"}.get(self.num, f", {self.num} paths")
        return f"trace back ({self.draw.name}{number})"

    @property
    def expects(self):
        return self.model.measure.at("T")

    def run(self, key, population=None):
        if not isinstance(population.history, History):
            raise ValueError(
                f"{self.name} needs the populations of all times: "
                "particle_filter(..., history=True)"
            )
        end_key, path_key = random.split(key)
        last = jnp.arange(population.num_particles, dtype=jnp.int32)
        log_weights = population.log_weights
        if self.num is not None:
            last = random.categorical(end_key, log_weights, self.num)
            log_weights = jnp.full(self.num, -math.log(self.num), log_weights.dtype)
        paths, info = trace_back(path_key, self.model, population.history, self.draw, last)
        lineage = population.lineage
        if lineage is not None:
            lineage = lineage._replace(label=lineage.label[last])
        return population._replace(
            particles=paths,
            log_weights=log_weights,
            lineage=lineage,
            ancestors=None,
            history=None,
        ), info

    def arrow(self, law):
        require(self.expects, law.measure, f"{self.name}: starts from")
        line = f"{self.name:<58} stands for {self.model.paths}"
        return Law(self.model.paths, law.kind, (*law.derivation, line))


def genealogy(model: FeynmanKac) -> Block:
    r"""Trace each particle back through its ancestors (law L2 for whole paths).

    It follows ``particle_filter(model, ..., history=True)``. Every path keeps the weight of its
    last particle. Exact for any number of particles, but after many times of resampling the
    paths share their beginnings, and what they say about early times is noise.

    Parameters
    ----------
    model : FeynmanKac

    Returns
    -------
    Block
        To be composed behind a filter with ``history=True``; particles are paths, with a
        leading axis of times.

    Notes
    -----
    O(num_particles num_steps). Needs no density.

    References
    ----------
    Kitagawa (1996), *Monte Carlo filter and smoother for non-Gaussian nonlinear state space
    models*; Jacob, Murray & Rubenthaler (2015), *Path storage in the particle filter*.

    Examples
    --------
    Both particles of the last time descend from the second one of the first:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> model = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: 0.0,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: 0.0,
    ...     num_steps=2,
    ... )
    >>> particles, equal = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.log(jnp.full((2, 2), 0.5))
    >>> history = bi.History(particles, equal, ancestors=jnp.array([[0, 1], [1, 1]]))
    >>> last = bi.Population(particles[1], equal[1], jnp.zeros(()), history=history)
    >>> bi.genealogy(model).run(jax.random.key(0), last)[0].particles.tolist()
    [[2.0, 3.0], [2.0, 4.0]]
    """
    return BackwardSampling(model, Genealogy())


def backward_sampling(
    model: FeynmanKac,
    num: int | None = None,
    *,
    method: str = "exact",
    max_trials: int = 16,
    num_moves: int = 1,
) -> Block:
    r"""Draw whole paths backwards through the history of a filter (law L2 for whole paths).

    After a filter this is forward filtering, backward sampling (FFBS), or simulation.

    .. math:: a_{t-1} \sim B_t(\cdot \mid x_t), \qquad
        B_t(a \mid x) \propto W_{t-1}^a\, M_t(x_{t-1}^a, x)\, G_t(x_{t-1}^a, x)

    It follows ``particle_filter(model, ..., history=True)``. For any number of particles and
    any resampling scheme, each path together with the evidence estimate is properly weighted
    for :math:`\gamma_T` on paths, whichever method is taken.

    Parameters
    ----------
    model : FeynmanKac with log_m
    num : int, optional
        Number of paths, whose ends are drawn by the weights; they weigh the same. None: one
        path for each particle, with its weight.
    method : {"exact", "rejection", "mcmc"}
        ``"exact"`` computes all probabilities, O(num N) a time. ``"rejection"`` proposes by the
        weights and accepts with :math:`M_t / \text{bound}`, and draws exactly where
        ``max_trials`` fail. ``"mcmc"`` makes ``num_moves`` Metropolis steps from the ancestor
        that the particle really had, O(num num_moves) a time: it has the same law, and paths
        that depend more on one another.
    max_trials, num_moves : int

    Returns
    -------
    Block
        To be composed behind a filter with ``history=True``; particles are paths, with a
        leading axis of times.

    Raises
    ------
    MissingDensityError
        If the model has no ``log_m``, or no ``log_m_bound`` for ``"rejection"``.
    ValueError
        For an unknown method, or numbers that are not at least 1. When it runs: without a
        history, or for ``"rejection"`` if the potential depends on the previous state.

    Notes
    -----
    With ``"rejection"`` the info of the run counts, for each time, the paths that were drawn
    exactly (``num_exact``) and the trials at which the density was above its bound
    (``num_above_bound``): unless that is 0 the bound is none, and the law does not hold.

    References
    ----------
    Godsill, Doucet & West (2004), *Monte Carlo smoothing for nonlinear time series*; Douc,
    Garivier, Moulines & Olsson (2011), for rejection; Bunch & Godsill (2013) and Dau & Chopin
    (2023), *On backward smoothing algorithms*, for Metropolis steps.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     log_m=lambda t, before, x: -0.5 * (x - before) ** 2,
    ...     num_steps=5,
    ... )
    >>> smoother = bi.particle_filter(walk, 100, history=True) >> bi.backward_sampling(walk, 8)
    >>> bi.run(smoother, key=0).particles.shape
    (8, 5)
    """
    if num is not None and num < 1:
        raise ValueError(f"num must be at least 1, got {num!r}")
    return BackwardSampling(model, backward_draw(model, method, max_trials, num_moves), num)


def backward_draw(
    model: FeynmanKac, method: str, max_trials: int = 16, num_moves: int = 1
) -> BackwardDraw:
    """Return the way to draw backwards, if the model has what it needs."""
    what = "backward sampling"
    for name, number in (("max_trials", max_trials), ("num_moves", num_moves)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number!r}")
    model.require("log_m", what)
    if method == "exact":
        return Exact()
    if method == "mcmc":
        return Metropolis(num_moves)
    if method == "rejection":
        model.require("log_m_bound", f"{what} by rejection")
        return Rejection(max_trials)
    raise ValueError(f"method must be 'exact', 'rejection' or 'mcmc', got {method!r}")
