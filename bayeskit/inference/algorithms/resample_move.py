"""SMC samplers of exact law: a fixed ladder of places, fixed moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayeskit.inference.blocks import Block, move, resample, schedule, spawn, until, weigh
from bayeskit.inference.measure import Path
from bayeskit.inference.transitions import Transition

__all__ = ["annealed_importance_sampling", "resample_move", "standard_tuning"]


def resample_move(
    path: Path,
    kernel: Any,
    num_particles: int,
    ladder: Sequence[float],
    *,
    steps: int = 1,
    tuning: Any = None,
    scheme: str | Block = "systematic",
) -> Block:
    r"""Return resample-move (RMSMC) along any path, with nothing that adapts (law L2).

    Each stage weighs by :math:`\gamma_t / \gamma_{t-1}`, resamples, and moves by a kernel that
    leaves :math:`\gamma_t` invariant. The mean of the evidence is the evidence, for any number
    of particles.

    Parameters
    ----------
    path : Path
        Such as ``TemperedPath``, ``DataPath``, or ``TolerancePath``.
    kernel : Kernel, or Transition that leaves the path invariant
    num_particles : int
    ladder : sequence of float
        Places from the beginning of the path to its end.
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
        For a ladder that does not lead to the end of the path.

    Notes
    -----
    O(num_stages num_particles steps).

    References
    ----------
    Gilks & Berzuini (2001), *Following a moving target*; Del Moral, Doucet & Jasra (2006).

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
    >>> path = bi.TemperedPath(target)
    >>> block = bi.resample_move(path, bi.RandomWalk(), 100, ladder=[0, 0.3, 1])
    >>> str(block.law.kind)
    'L2 properly weighted'
    """
    step = schedule(path, ladder=ladder) >> weigh(path.increment) >> resample(scheme)
    step = step >> moved_along(path, kernel, steps)
    stage = path.start(tuning or standard_tuning(path, kernel))
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    return start >> until(path.is_complete, step, max_rounds=len(ladder) - 1)


def annealed_importance_sampling(
    path: Path,
    kernel: Any,
    num_particles: int,
    ladder: Sequence[float],
    *,
    steps: int = 1,
    tuning: Any = None,
) -> Block:
    r"""Return annealed importance sampling: independent chains, weighed on the way (law L2).

    It is :func:`resample_move` without resampling. The weights are independent, so the relative
    standard error of the evidence is simply that of their mean.

    Parameters
    ----------
    path, kernel, num_particles, ladder, steps, tuning
        As in :func:`resample_move`.

    Returns
    -------
    Block
        For :func:`run`; particles are independent, with weights.

    References
    ----------
    Neal (2001), *Annealed importance sampling*.

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
    >>> path = bi.TemperedPath(target)
    >>> block = bi.annealed_importance_sampling(path, bi.RandomWalk(), 100, [0, 0.3, 1])
    >>> bi.run(block, 0).log_weights.shape
    (100,)
    """
    step = schedule(path, ladder=ladder) >> weigh(path.increment)
    step = step >> moved_along(path, kernel, steps)
    stage = path.start(tuning or standard_tuning(path, kernel))
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    return start >> until(path.is_complete, step, max_rounds=len(ladder) - 1)


def moved_along(path: Path, kernel: Any, steps: int) -> Block:
    """Return the move of a kernel on a path, or of a transition that knows its path."""
    on = None if isinstance(kernel, Transition) else path
    return move(kernel, on, steps, repeats=1)


def standard_tuning(path: Path, kernel: Any) -> Any:
    """Return the tuning for a standardised target, None where there is nothing to tune."""
    spec = path.target.position_spec()
    if getattr(spec, "ndim", None) != 1 or not hasattr(kernel, "default_tuning"):
        return None
    return kernel.default_tuning(spec.shape[0])
