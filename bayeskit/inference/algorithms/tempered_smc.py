"""Tempered sequential Monte Carlo: from the prior to the posterior, by temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayeskit.inference.adaptation import initial_tuning
from bayeskit.inference.blocks import (
    Block,
    Chain,
    adapt,
    move,
    resample,
    schedule,
    spawn,
    until,
    weigh,
)
from bayeskit.inference.measure import Target, TemperedPath

__all__ = ["tempered_smc", "waste_free_smc"]


def tempered_smc(
    target: Target,
    kernel: Any,
    num_particles: int,
    *,
    ess: float = 0.5,
    ladder: Sequence[float] | None = None,
    scheme: str | Block = "systematic",
    correlation: float = 0.03,
    max_stages: int = 200,
) -> Chain:
    """Return adaptive tempered SMC, which keeps the last state of each move (law L10).

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior, on vectors
    kernel : Kernel
    num_particles : int
    ess : float
        Effective sample size, as a fraction, that the temperatures are chosen for.
    ladder : sequence of float, optional
        Fixed inverse temperatures instead.
    scheme : str, or block that resamples
        Resampling scheme.
    correlation : float
        Moves go on until the worst correlation with the start is about this small. The metric
        is fitted to the particles that it moves, and what they keep of their start biases the
        evidence.
    max_stages : int

    Returns
    -------
    Chain of blocks
        For :func:`run`.

    Raises
    ------
    ImproperPriorError
        If the target has no prior to start from.
    TypeError
        For positions that are not vectors.
    ValueError
        For a fraction outside (0, 1), or a ladder that does not lead from 0 to 1.
    StalledError
        From :func:`run`, if the temperatures do not arrive within ``max_stages``.

    References
    ----------
    Del Moral, Doucet & Jasra (2006), *Sequential Monte Carlo samplers*.

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     log_likelihood=lambda x: -2.0 * (x[0] - 1) ** 2,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> print(bi.tempered_smc(target, bi.RandomWalk(), 1000).explain())
    spawn 1000 independent draws                               stands for π_λ[0]
    until the path is complete:
        schedule(ess=0.5)                                          stands for π_λ[t-1]
        weigh by likelihood^Δλ                                     stands for π_λ[t]
        adapt(random-walk Metropolis)                              stands for π_λ[t]
        resample(systematic)                                       stands for π_λ[t]
        move(random-walk Metropolis, 1 steps)                      stands for π_λ[t]
    => L10 consistent for π_λ[T]: the error vanishes as the number of particles grows; ...
    """
    path = TemperedPath(target)
    stage = path.start(initial_tuning(kernel, target.vector_dim()))
    step = (
        schedule(path, ess, ladder)
        >> weigh(path.increment)
        >> adapt(kernel, correlation)
        >> resample(scheme)
        >> move(kernel, path)
    )
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    return Chain(start, until(path.is_complete, step, max_rounds=max_stages))


def waste_free_smc(
    target: Target,
    kernel: Any,
    num_chains: int,
    chain_length: int,
    *,
    ess: float = 0.5,
    ladder: Sequence[float] | None = None,
    scheme: str | Block = "systematic",
    correlation: float = 0.5,
    max_stages: int = 200,
) -> Chain:
    """Return waste-free tempered SMC, which keeps all states of all moves (law L10).

    At each stage ``num_chains`` parents are resampled and each becomes a chain of
    ``chain_length`` states, its start included.

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior, on vectors
    kernel : Kernel
    num_chains, chain_length : int
        Their product is the number of particles; a chain has at least two states.
    ess, ladder, scheme, max_stages
        As in :func:`tempered_smc`.
    correlation : float
        Worst correlation of successive kept states that the number of kernel steps between
        them is chosen for.

    Returns
    -------
    Chain of blocks
        For :func:`run`.

    Raises
    ------
    ImproperPriorError
        If the target has no prior to start from.
    TypeError
        For positions that are not vectors.
    ValueError
        For a fraction outside (0, 1), or a ladder that does not lead from 0 to 1.
    StalledError
        From :func:`run`, if the temperatures do not arrive within ``max_stages``.

    References
    ----------
    Dau & Chopin (2022), *Waste-free sequential Monte Carlo*, algorithm 2.

    Examples
    --------
    Of 1000 particles 100 are resampled, and each becomes a chain of ten states:

    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     log_likelihood=lambda x: -2.0 * (x[0] - 1) ** 2,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> block = bi.waste_free_smc(target, bi.RandomWalk(), num_chains=100, chain_length=10)
    >>> print(block.explain())
    spawn 1000 independent draws                               stands for π_λ[0]
    until the path is complete:
        ...
        resample(systematic, num=100)                              stands for π_λ[t]
        move(random-walk Metropolis, 9 steps, keep all)            stands for π_λ[t]
    => L10 consistent for π_λ[T]: ...
    """
    path = TemperedPath(target)
    stage = path.start(initial_tuning(kernel, target.vector_dim()))
    step = (
        schedule(path, ess, ladder)
        >> weigh(path.increment)
        >> adapt(kernel, correlation)
        >> resample(scheme, num=num_chains)
        >> move(kernel, path, chain_length - 1, keep="all")
    )
    start = spawn(path.initial, num_chains * chain_length, stage=stage, track_lineage=True)
    return Chain(start, until(path.is_complete, step, max_rounds=max_stages))
