"""Approximate Bayesian computation by SMC: the tolerance falls."""

from __future__ import annotations

from typing import Any

from bayeskit.inference.adaptation import initial_tuning
from bayeskit.inference.blocks import (
    Block,
    adapt,
    move,
    resample,
    schedule,
    spawn,
    until,
    weigh,
)
from bayeskit.inference.paths.tolerances import ABCMove, TolerancePath

__all__ = ["abc_smc"]


def abc_smc(
    path: TolerancePath,
    num_particles: int,
    *,
    moves: Any = None,
    distinct: float = 0.5,
    correlation: float = 0.3,
    scheme: str | Block = "systematic",
    max_stages: int = 100,
) -> Block:
    """Return SMC for models that can only be simulated, with tolerances that adapt (law L10).

    Each tolerance keeps a fraction of the distinct simulations; then the population is
    resampled and moved together with its simulated data.

    Parameters
    ----------
    path : TolerancePath
        On vectors.
    num_particles : int
    moves : ABCMove, optional
        Default: a random walk with the spread of the population.
    distinct : float in (0, 1)
        Fraction of the distinct distances that the next tolerance keeps.
    correlation : float
        Moves go on until the worst correlation with the start is about this small.
    scheme : str, or block that resamples
        Resampling scheme.
    max_stages : int

    Returns
    -------
    Block
        For :func:`run`; particles carry a position and what was simulated.

    Raises
    ------
    StalledError
        From :func:`run`, if the tolerance stands still or does not arrive in time.

    Notes
    -----
    With fixed tolerances and moves the law is exact: :func:`resample_move` with
    ``ABCMove(path)`` and a ladder of tolerances from infinity.

    References
    ----------
    Del Moral, Doucet & Jasra (2012), *An adaptive sequential Monte Carlo method for approximate
    Bayesian computation*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> path = bi.TolerancePath(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     simulate_distance=lambda key, x: jnp.abs(x[0] + bi.random.normal(key) - 1.0),
    ...     tolerance=0.2,
    ... )
    >>> population = bi.run(bi.abc_smc(path, 500), 0)
    >>> bool((population.particles.components[:, 1] <= 0.2).all())
    True
    """
    moves = moves or ABCMove(path)
    stage = path.start(initial_tuning(moves, path.target.vector_dim()))
    step = (
        schedule(path, distinct)
        >> weigh(path.increment)
        >> adapt(moves, correlation)
        >> resample(scheme)
        >> move(moves)
    )
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    return start >> until(path.is_complete, step, max_rounds=max_stages)
