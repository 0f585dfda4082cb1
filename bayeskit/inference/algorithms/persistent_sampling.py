"""Persistent sampling: tempered SMC that keeps the particles of all stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayeskit.inference.adaptation import initial_tuning
from bayeskit.inference.blocks import (
    Block,
    adapt,
    move,
    persist,
    resample,
    reserve,
    schedule,
    spawn,
    until,
    weigh,
)
from bayeskit.inference.measure import Target, TemperedPath

__all__ = ["persistent_sampling"]


def persistent_sampling(
    target: Target,
    kernel: Any,
    num_particles: int,
    *,
    ess: float = 0.9,
    ladder: Sequence[float] | None = None,
    correlation: float = 0.03,
    scheme: str | Block = "systematic",
    max_stages: int = 50,
) -> Block:
    r"""Return persistent sampling: each stage weighs the particles of all before (law L10).

    The particles of stages 0 .. t count as draws from the mixture of their targets. They are
    weighed for the next temperature, ``num_particles`` of them are resampled, moved, and added.
    Evidence and posterior come from the particles of all stages.

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior, on vectors
    kernel : Kernel
    num_particles : int
        New ones at each stage.
    ess : float in (0, 1)
        Effective sample size that the temperatures are chosen for, as a fraction of
        ``num_particles``.
    ladder : sequence of float, optional
        Fixed inverse temperatures instead.
    correlation : float
        Moves go on until the worst correlation with the start is about this small.
    scheme : str, or block that resamples
        Resampling scheme.
    max_stages : int
        Room for that many stages is reserved.

    Returns
    -------
    Block
        For :func:`run`.

    Raises
    ------
    ValueError
        For a fraction outside (0, 1).
    StalledError
        From :func:`run`, if the temperatures do not arrive within ``max_stages``.

    Notes
    -----
    The mixture uses estimated evidences and particles that depend on one another, so the
    evidence is biased even with everything fixed; the bias falls with the number of particles.
    Memory: ``max_stages num_particles`` particles; a stage costs so many exponentials for each
    stage before.

    References
    ----------
    Karamanis & Seljak (2024), *Persistent sampling: enhancing the efficiency of sequential
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
    >>> block = bi.persistent_sampling(target, bi.RandomWalk(), 200, max_stages=10)
    >>> bool(abs(bi.run(block, 0).log_evidence + 1.205) < 0.3)
    True
    """
    if not 0 < ess < 1:
        raise ValueError(f"ess must be a fraction in (0, 1), got {ess!r}")
    path = TemperedPath(target)
    stage = path.start(initial_tuning(kernel, target.vector_dim()))
    renewal = (
        adapt(kernel, correlation) >> resample(scheme, num=num_particles) >> move(kernel, path)
    )
    # The effective sample size is a fraction of all places, empty ones included.
    step = schedule(path, ess / (max_stages + 1), ladder) >> weigh(path.increment)
    step = step >> persist(path, renewal)
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    return start >> reserve(max_stages) >> until(path.is_complete, step, max_rounds=max_stages)
