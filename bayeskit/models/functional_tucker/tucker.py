"""Functional Tucker decomposition as an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeskit.models.functional_tucker.base import FunctionalTensor
from bayeskit.models.functional_tucker.low_rank.layout import Layout

__all__ = ["FunctionalTucker"]


class FunctionalTucker(FunctionalTensor):
    r"""Functional Bayesian Tucker decomposition (FunBaT).

    In the transformed and standardized target :math:`t = g(y)`,

    .. math:: t_n = c + \sum_j f_j(\text{row } n) + \sum_{r_1 \dots r_K} G_{r_1 \dots r_K}
        \prod_k u^k_{r_k}(x_{nk}) + \varepsilon_n , \qquad G_{r_1 \dots r_K} \sim N(0, 1) ,

    with a Gaussian process for each function :math:`u^k_r` of a mode, and for each term
    :math:`f_j` of the mean. Coordinate ascent finds independent laws of the terms, the
    functions of each mode, the core G and the noise.

    Parameters
    ----------
    ranks : int, or sequence of one int for each mode
        Number of functions of each mode, at least 1.
    mean : "additive", "constant", None, or sequence of terms
        As in :class:`~bayeskit.FunctionalCP`. ``"constant"`` leaves main effects to the core,
        as published Tucker models do.
    kernel : str, kernel, one for each mode, or dict by mode
        Covariance of the functions. What is None in a kernel is learned, for each function by
        itself: one whose standard deviation runs towards zero is switched off. ``White()``
        makes the values of a mode exchangeable.
    transform, noise_std, likelihood, degrees, engine, max_iter, tol, num_starts, num_draws,
    num_warmup, num_chains, num_particles, method, context, random_state
        As in :class:`~bayeskit.FunctionalCP`; ``noise_std`` is a number or None.

    Attributes
    ----------
    core_ : (R_1, ..., R_K) array
        Posterior mean of G. Only the product of core and functions is known.
    elbo_ : (rounds) array
        Lower bound of the log evidence after each ten epochs, log prior of the
        hyper-parameters included.
    n_iter_, hyperparameters_, noise_std_, terms_, transform_, n_ignored_, timing_
        As in :class:`~bayeskit.FunctionalCP`.

    Notes
    -----
    An epoch costs :math:`O(N \prod_k R_k^2 + \sum_k n_k (R_k d)^3 + \prod_k R_k^3)` for N rows
    and :math:`n_k` distinct coordinates of mode k, whose functions have d states. Sums over
    rows go in chunks, so that memory is :math:`O(\sum_k n_k R_k^2 + \prod_k R_k^2)`.

    References
    ----------
    Fang, Yu, Wang, Li, Kirby & Zhe (2024), *Functional Bayesian Tucker decomposition for
    continuous-indexed tensor data*; Tucker (1966), *Some mathematical notes on three-mode
    factor analysis*.

    Examples
    --------
    >>> import numpy as np
    >>> import bayeskit as bk
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(0, 6, (300, 2)).round(1)
    >>> y = np.sin(X[:, 0]) * X[:, 1] + 0.1 * rng.normal(size=300)
    >>> model = bk.FunctionalTucker(ranks=(1, 2), random_state=0).fit(X, y)
    >>> bool(np.abs(model.predict([[1.5, 4.0]]) - np.sin(1.5) * 4.0) < 0.3)
    True
    >>> model.core_.shape
    (1, 2)
    """

    def __init__(
        self,
        ranks: Any = 2,
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
        self.ranks = ranks
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
        given = self.ranks
        is_one = isinstance(given, int | np.integer)
        if not is_one and (isinstance(given, str) or not isinstance(given, Sequence)):
            raise TypeError(
                "ranks must be a whole number or a sequence with one for each mode, got "
                f"{given!r}"
            )
        ranks = (given,) * num_modes if is_one else tuple(given)
        if len(ranks) != num_modes:
            raise ValueError(
                f"ranks must be one number or one for each of {num_modes} modes, got "
                f"{len(ranks)}: {given!r}"
            )
        is_rank = [
            isinstance(r, int | np.integer) and not isinstance(r, bool) and r >= 1
            for r in ranks
        ]
        if not all(is_rank):
            raise ValueError(f"each of ranks must be a whole number >= 1, got {given!r}")
        return Layout(tuple(map(int, ranks)), "full")
