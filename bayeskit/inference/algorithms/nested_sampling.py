"""Nested sampling by SMC: the prior above rising levels of the likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayeskit.inference.adaptation import initial_tuning
from bayeskit.inference.algorithms.resample_move import standard_tuning
from bayeskit.inference.blocks import (
    Block,
    adapt,
    move,
    renew,
    resample,
    reserve,
    schedule,
    spawn,
    until,
    weigh,
)
from bayeskit.inference.paths.levels import LevelPath

__all__ = ["nested_sampling", "nested_sampling_at_levels"]


def nested_sampling(
    path: LevelPath,
    kernel: Any,
    num_particles: int,
    *,
    above: float = 0.5,
    correlation: float = 0.1,
    scheme: str | Block = "systematic",
    max_stages: int = 100,
) -> Block:
    r"""Return nested sampling by SMC, with levels that adapt (law L10).

    A level cuts off a shell of the prior, whose particles keep their likelihood as weight. The
    rest is resampled and moved above the level. The evidence is the sum over the shells,

    .. math:: \hat Z = \sum_t \Bigl(\prod_{s \le t} \hat p_s\Bigr)\,
        \text{mean of } L\,1\{\ell_t < \log L \le \ell_{t+1}\} ,

    :math:`\hat p_s` the share of particles above level s. The particles of all shells
    together, weighted, are the posterior.

    Parameters
    ----------
    path : LevelPath
        Its target on vectors.
    kernel : Kernel
        A gradient helps only as far as that of the prior does.
    num_particles : int
        At each stage.
    above : float in (0, 1)
        Share of the prior that is left which the next level keeps.
    correlation : float
        Moves go on until the worst correlation with the start is about this small.
    scheme : str, or block that resamples
        Resampling scheme.
    max_stages : int
        Room for that many stages is reserved. Needed: the information in nats over
        ``-log(above)``.

    Returns
    -------
    Block
        For :func:`run`.

    Raises
    ------
    StalledError
        From :func:`run`, if the levels do not arrive within ``max_stages``.

    Notes
    -----
    Memory: ``max_stages num_particles`` particles.

    References
    ----------
    Skilling (2006), *Nested sampling for general Bayesian computation*; Salomone, South,
    Johansen, Drovandi & Kroese (2018), *Unbiased and consistent nested sampling via sequential
    Monte Carlo*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum(x**2) - 0.919,
    ...     log_likelihood=lambda x: -2.0 * jnp.sum((x - 1) ** 2),
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> block = bi.nested_sampling(bi.LevelPath(target), bi.RandomWalk(), 200, max_stages=30)
    >>> bool(abs(bi.run(block, 0).log_evidence + 1.205) < 0.3)
    True
    """
    stage = path.start(initial_tuning(kernel, path.target.vector_dim()))
    renewal = (
        adapt(kernel, correlation) >> resample(scheme, num=num_particles) >> move(kernel, path)
    )
    step = schedule(path, above) >> weigh(path.increment) >> renew(renewal, path.is_alive)
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    start = start >> reserve(max_stages)
    return start >> until(path.is_complete, step, max_rounds=max_stages)


def nested_sampling_at_levels(
    path: LevelPath,
    kernel: Any,
    num_particles: int,
    levels: Sequence[float],
    *,
    steps: int = 1,
    tuning: Any = None,
    scheme: str | Block = "systematic",
) -> Block:
    r"""Return nested sampling by SMC at fixed levels, with nothing that adapts (law L2).

    The mean of its evidence is the evidence, and its weighted particles stand for prior times
    likelihood, for any number of particles.

    Parameters
    ----------
    path : LevelPath
    kernel : Kernel
    num_particles : int
        At each stage.
    levels : sequence of float
        Log-likelihoods, strictly rising; the ends :math:`\pm\infty` are added.
    steps : int
        Kernel steps a stage.
    tuning : Tuning, optional
        Parameters of the kernel. Default: those for a standardised target.
    scheme : str, or block that resamples
        Resampling scheme.

    Returns
    -------
    Block
        For :func:`run`.

    Raises
    ------
    ValueError
        If the levels do not rise.

    References
    ----------
    Salomone et al. (2018), as :func:`nested_sampling`.

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     log_likelihood=lambda x: -2.0 * (x[0] - 1) ** 2,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> path = bi.LevelPath(target)
    >>> block = bi.nested_sampling_at_levels(path, bi.RandomWalk(), 200, [-4.0, -1.0, -0.1])
    >>> str(block.law.kind), str(bi.nested_sampling(path, bi.RandomWalk(), 200).law.kind)
    ('L2 properly weighted', 'L10 consistent')
    """
    ladder = (path.begin, *levels, path.end)
    renewal = resample(scheme, num=num_particles) >> move(kernel, path, steps, repeats=1)
    step = (
        schedule(path, ladder=ladder) >> weigh(path.increment) >> renew(renewal, path.is_alive)
    )
    stage = path.start(tuning or standard_tuning(path, kernel))
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    start = start >> reserve(len(ladder) - 1)
    return start >> until(path.is_complete, step, max_rounds=len(ladder) - 1)
