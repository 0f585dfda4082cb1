"""Functional CP decomposition as an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.models.functional_tucker.base import FunctionalTensor
from bayeskit.models.functional_tucker.low_rank.layout import Layout

__all__ = ["FunctionalCP"]


class FunctionalCP(FunctionalTensor):
    r"""Sums of products of functions of real coordinates (FunBaT, the CP form).

    In the transformed and standardized target :math:`t = g(y)`,

    .. math:: t_n = c + \sum_j f_j(\text{row } n)
        + \sum_{r=1}^R \prod_{k=1}^K u^k_r(x_{nk}) + \varepsilon_n ,

    with a Gaussian process for each term :math:`f_j` of the mean and for each function
    :math:`u^k_r` of a mode. Rank 0 leaves the terms alone; their posterior is exact. Otherwise
    coordinate ascent finds independent laws of terms, functions and noise.

    Parameters
    ----------
    rank : int
        Number R of multilinear components beside the terms, at least 0.
    mean : "additive", "constant", None, or sequence of terms
        :class:`~bayeskit.MainEffect`, :class:`~bayeskit.GroupMeanEffect` and
        :class:`~bayeskit.WithinGroup`. ``"additive"``, the default, is a main effect of every
        mode; ``"constant"`` and None leave c alone.
    kernel : str, kernel, one for each mode, or dict by mode
        Covariance of the functions that are multiplied. What is None in a kernel is learned,
        for each function by itself. ``White()`` makes the values of a mode exchangeable, such
        as those of stations; it is the default of modes that hold text or categories.
    transform : None, "standardize", "log" or Transform
        Such as :class:`~bayeskit.BoxCox`. None keeps y.
    noise_std : float, LogNormal or None
        Standard deviation of the noise on the standardized scale. None learns it; a prior is
        possible for normal noise at rank 0, where the default is LogNormal(0.3, 1.5). Else the
        precision has the prior Gamma(1, rate 0.01).
    likelihood : {"normal", "student_t"}
        Student-t noise gives outliers less weight.
    degrees : float
        Degrees of freedom of Student-t noise, above 2.
    engine : {"cavi", "gibbs", "smc"}
        Coordinate ascent for independent laws; draws from the joint posterior of everything,
        hyper-parameters included, by Gibbs sampling; or the same by tempered sequential Monte
        Carlo, with the log evidence that tells ranks apart.
    max_iter : int
        Most epochs of coordinate ascent.
    tol : float
        The ascent ends when ten epochs change the bound by less than so many nats for each
        observation, which does not depend on the unit of y; with 0 only at ``max_iter``.
    num_starts : int
        Starts whose functions are drawn from their priors; the best one goes on.
    num_draws, num_warmup, num_chains : int
        Of Gibbs sampling: draws that are kept over all chains, sweeps of each chain before
        them, and chains.
    num_particles : int
        Of sequential Monte Carlo.
    method : {"auto", "sequential", "parallel"}
        How functions of factors are filtered along their mode: ``"auto"`` goes step by step on
        a CPU, and by a parallel scan on accelerators.
    context : {"given", "training"}
        What the mean of a group is to which no training row belongs: that over all rows given
        to ``predict`` together, or, for each row by itself, its own coordinate. The fit does
        not depend on it, so ``set_params(context=...)`` needs no other fit.
    random_state : int, numpy random state, JAX key, or None
        Of the starts, and of draws. Rank 0 is fitted without randomness.

    Attributes
    ----------
    terms_ : tuple of terms, with the learned kernels
    hyperparameters_ : dict of float
        The learned numbers by name: lengths in units of the coordinate, standard deviations of
        terms and noise in units of the transformed target. Those of factors are pure numbers.
    noise_std_ : float
        In units of the transformed target.
    posterior_ : ArviZ object
        Of draws: hyper-parameters, noise and core.
    log_evidence_ : float
        Of ``engine="smc"``, beside its standard error ``log_evidence_se_``. Of
        ``engine="cavi"`` without factors and with normal noise: log density of y given
        ``hyperparameters_``. Jacobian of the transform included.
    elbo_ : (rounds) array
        Otherwise, of ``engine="cavi"``: its lower bound after each ten epochs, log prior of the
        hyper-parameters included.
    n_iter_ : int
        Epochs.
    transform_ : Transform
        With the learned centre and scale.
    categories_ : dict of arrays
        The values of each mode of categories.
    n_ignored_ : int
        Rows whose y is NaN. Their coordinates count in means over groups.
    n_evaluations_ : int
        Evidences of the terms that the search took.
    timing_ : dict of float

    Notes
    -----
    Cost of one evidence of the terms: :math:`O(N (m^2 + m q + q^2) + T q s^2)` for N rows in
    groups of up to m, q weights (knots of all functions) and T distinct values of the mode that
    groups, whose process has s states. Memory O(N q). An epoch of the factors costs
    :math:`O(K N R^2 + \sum_k n_k (R d)^3)` for :math:`n_k` distinct coordinates and d states of
    a function: linear in the data.

    To choose a rank by ``log_evidence_`` of ``engine="smc"``, fix the amplitudes, as with
    ``kernel=Matern32(std=1.0)``: where they are learned, a component too many switches itself
    off, and all ranks above the true one are as good. Of ranks within three nats of the best
    take the smallest.

    Steps of the hyper-parameters of factors are stretched while the bound rises (adaptive
    over-relaxation): the search ends at a higher bound after as many epochs.

    A category that no training row has is one more draw from the prior of its mode: its
    predictions are as wide, and come with a warning.

    Independent laws are narrower than the posterior. The bands of single functions are for
    looking; those of predictions are checked in the benchmarks.

    References
    ----------
    Fang, Yu, Wang, Li, Kirby & Zhe (2024), *Functional Bayesian Tucker decomposition for
    continuous-indexed tensor data*; Sarkka & Solin (2019), *Applied stochastic differential
    equations*; Box & Cox (1964), *An analysis of transformations*.

    Examples
    --------
    >>> import numpy as np
    >>> import bayeskit as bk
    >>> rng = np.random.default_rng(0)
    >>> X = np.round(rng.uniform(0, 10, (200, 2)))
    >>> y = np.sin(X[:, 0]) + 0.1 * X[:, 1] + 0.1 * rng.normal(size=200)
    >>> model = bk.FunctionalCP(rank=0, mean="additive").fit(X, y)
    >>> mean, std = model.predict([[3.0, 5.0], [20.0, 5.0]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(3.0) - 0.5) < 0.2), bool(std[1] > 2 * std[0])
    (True, True)
    """

    def __init__(
        self,
        rank: int = 2,
        *,
        mean: Any = "additive",
        kernel: Any = "matern32",
        transform: Any = None,
        noise_std: Any = None,
        likelihood: str = "normal",
        degrees: float = 4.0,
        engine: str = "cavi",
        max_iter: int = 300,
        tol: float = 1e-4,
        num_starts: int = 3,
        num_draws: int = 1000,
        num_warmup: int = 500,
        num_chains: int = 4,
        num_particles: int = 512,
        method: str = "auto",
        context: str = "given",
        random_state: Any = None,
    ):
        self.rank = rank
        self.mean = mean
        self.kernel = kernel
        self.transform = transform
        self.noise_std = noise_std
        self.likelihood = likelihood
        self.degrees = degrees
        self.engine = engine
        self.max_iter = max_iter
        self.tol = tol
        self.num_starts = num_starts
        self.num_draws = num_draws
        self.num_warmup = num_warmup
        self.num_chains = num_chains
        self.num_particles = num_particles
        self.method = method
        self.context = context
        self.random_state = random_state

    def _layout(self, num_modes: int) -> Layout:
        rank = self.rank
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 0:
            raise ValueError(f"rank must be a whole number >= 0, got {rank!r}")
        return Layout((int(rank),) * num_modes if rank else (), "diagonal")
