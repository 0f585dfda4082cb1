"""Unbiased Markov chain Monte Carlo: what a finite chain still lacks, from a coupled one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.algorithms.lagged_pair import LaggedPair, UnbiasedEstimate
from bayeskit.inference.law import COUPLED, UNBIASED_MEAN, Law
from bayeskit.inference.transitions import Transition
from bayeskit.inference.transitions.combinators import indented

__all__ = ["UnbiasedMCMC", "unbiased_mcmc"]


@dataclass(frozen=True, eq=False, repr=False)
class UnbiasedMCMC:
    """Two chains that meet, as an estimate. See :func:`unbiased_mcmc`."""

    chains: LaggedPair
    max_steps: int

    def __call__(self, key: Any) -> UnbiasedEstimate:
        """Return one estimate; independent keys give independent ones."""
        *start_keys, lag_key, loop_key = random.split(key, 5)
        chains = self.chains
        run = chains.started(*start_keys)
        run, _ = random.scan(chains.first_alone, lag_key, run, jnp.arange(chains.lag))
        run, _ = random.until(chains.is_done, chains.both, loop_key, run, self.max_steps)
        return chains.estimate(run)

    @property
    def law(self) -> Law:
        """Unbiased if the pair is a faithful coupling, else the law of the pair."""
        chains = self.chains
        kind: Any = chains.pair.law_kind
        lines = (
            *indented([chains.pair]),
            f"the mean of h(X_t) over t = {chains.first}..{chains.last}, and differences",
            f"    h(X_t) - h(Y_(t-{chains.lag})) of later times, as often as they are owed,",
            "    until both meet. Each is a chain of its own, so the mean of the sum is",
            "    E h(X_t) for t to infinity, π(h); after the meeting all differences are 0",
        )
        return Law(chains.pair.measure, UNBIASED_MEAN if kind is COUPLED else kind, lines)

    def explain(self) -> str:
        """Return the derivation of the law as text."""
        return self.law.explain()


def unbiased_mcmc(
    pair: Transition,
    sample_initial: Callable,
    h: Callable,
    *,
    first: int,
    last: int,
    lag: int = 1,
    max_steps: int = 100_000,
) -> UnbiasedMCMC:
    r"""Return an estimate whose mean is the posterior mean of h, without any bias (law L7m).

    A chain X and a chain Y that lags behind are moved together until they meet,
    :math:`X_t = Y_{t - L}` at :math:`t = \tau`. The average of :math:`h(X_t)` over
    first..last has the bias of every chain of finite length; the sum of the differences
    :math:`h(X_t) - h(Y_{t-L})` up to τ removes it:

    .. math:: H = \frac{1}{m - k + 1}\Bigl(\sum_{t=k}^m h(X_t) +
              \sum_{t=k+L}^{\tau-1} w_t\,\bigl(h(X_t) - h(Y_{t-L})\bigr)\Bigr).

    Parameters
    ----------
    pair : Transition
        A coupled transition, such as :func:`~bayeskit.inference.coupled_random_walk`.
    sample_initial : callable (key) -> value
        Where both chains start, independently.
    h : callable (value) -> pytree of arrays
    first, last : int
        k and m. A larger k costs steps and lowers the variance, as a burn-in does.
    lag : int
        L; a lag of many steps lowers the variance as well.
    max_steps : int

    Returns
    -------
    UnbiasedMCMC
        A callable ``(key) -> UnbiasedEstimate`` that has a law and explains it. Independent
        keys give independent estimates: average over them, each on a core of its own, and take
        the standard error from their spread. Inside
        :func:`~bayeskit.inference.random.lanes` many run at once.

    Raises
    ------
    ValueError
        Unless 0 <= first <= last and lag >= 1.

    Notes
    -----
    Exactly unbiased, whatever first, last and lag, if the meeting time has light tails.
    Runs that do not meet within ``max_steps`` are NaN and never left out in silence.

    References
    ----------
    Jacob, O'Leary & Atchadé (2020); Biswas, Jacob & Vanetti (2019) for lags.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * jnp.sum((x - 3) ** 2))
    >>> estimate = bi.unbiased_mcmc(
    ...     bi.coupled_random_walk(target),
    ...     lambda key: bi.random.normal(key, (1,)),
    ...     lambda x: x,
    ...     first=10,
    ...     last=50,
    ...     lag=10,
    ... )
    >>> runs = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 200))
    >>> error = jnp.std(runs.value) / 200**0.5
    >>> bool(jnp.abs(jnp.mean(runs.value) - 3) < 5 * error)
    True
    """
    if not 0 <= first <= last or lag < 1:
        raise ValueError(
            f"unbiased_mcmc averages over first..last with 0 <= first <= last and needs a lag "
            f"of at least 1, got first={first!r}, last={last!r}, lag={lag!r}"
        )
    return UnbiasedMCMC(LaggedPair(pair, sample_initial, h, first, last, lag), max_steps)
