"""Data-tempered SMC: one datum after another."""

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
    when,
)
from bayeskit.inference.paths.data import DataPath
from bayeskit.inference.population import Population, effective_sample_size

__all__ = ["ibis"]


def ibis(
    path: DataPath,
    kernel: Any,
    num_particles: int,
    *,
    ess_below: float = 0.5,
    scheme: str | Block = "systematic",
    correlation: float = 0.03,
) -> Block:
    r"""Return iterated batch importance sampling: weigh by each datum, renew when uneven (L10).

    The evidences of all partial posteriors come along: with ``population, info = run(...,
    with_info=True)``, the running sum of ``info["log_evidence_increment"]`` is
    :math:`\log p(y_{0:t})` for each t.

    Parameters
    ----------
    path : DataPath
        On vectors.
    kernel : Kernel
    num_particles : int
    ess_below : float in (0, 1)
        Adapt, resample and move where the effective sample size is below this fraction.
    scheme : str, or block that resamples
        Resampling scheme.
    correlation : float
        Moves go on until the worst correlation with the start is about this small.

    Returns
    -------
    Block
        For :func:`run`.

    Raises
    ------
    ValueError
        For a fraction outside (0, 1).

    Notes
    -----
    A datum costs one evaluation for each particle, and a renewal the moves; there are about
    :math:`\log(\text{num\_data})` of them for each dimension. To move at every datum, with a
    ladder and moves that are fixed, is :func:`resample_move` with
    ``path.every_datum()``: its law is exact.

    References
    ----------
    Chopin (2002), *A sequential particle filter method for static models*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> y = jnp.array([0.3, 1.2, 0.8])
    >>> path = bi.DataPath(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     log_terms=lambda x: -0.5 * (y - x[0]) ** 2 - 0.919,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> block = bi.ibis(path, bi.RandomWalk(), 200)
    >>> population, info = bi.run(block, 0, with_info=True)
    >>> info["log_evidence_increment"].shape
    (3,)
    """
    if not 0 < ess_below < 1:
        raise ValueError(f"ess_below must be a fraction in (0, 1), got {ess_below!r}")

    def uneven(population: Population):
        size = effective_sample_size(population.log_weights)
        return size < ess_below * population.num_particles

    stage = path.start(initial_tuning(kernel, path.target.vector_dim()))
    renewal = adapt(kernel, correlation) >> resample(scheme) >> move(kernel, path)
    step = schedule(path, ladder=path.every_datum()) >> weigh(path.increment)
    step = step >> when(uneven, renewal)
    start = spawn(path.initial, num_particles, stage=stage, track_lineage=True)
    return start >> until(path.is_complete, step, max_rounds=path.num_data)
