"""Sequential importance sampling: a particle filter that never resamples."""

from __future__ import annotations

from bayeskit.inference.blocks import Block, extend, scan, spawn, weigh
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["sequential_importance_sampling"]


def sequential_importance_sampling(
    model: FeynmanKac, num_particles: int, *, track_lineage: bool = False
) -> Block:
    r"""Return sequential importance sampling (SIS), a filter that never resamples (law L2).

    .. math:: w_t^i = G_0(x_0^i) \prod_{s=1}^t G_s(x_{s-1}^i, x_s^i)

    The paths stay independent of one another: importance sampling on whole paths, whose weights
    are built up in the course of time. Their relative variance grows exponentially with the
    number of times, so that it is for few of them; :func:`particle_filter` is for more.

    Parameters
    ----------
    model : FeynmanKac
    num_particles : int
    track_lineage : bool
        For the standard error of the evidence.

    Returns
    -------
    Block
        For :func:`run`.

    Notes
    -----
    O(num_steps num_particles).

    References
    ----------
    Handschin & Mayne (1969); Kong, Liu & Wong (1994), *Sequential imputations and Bayesian
    missing data problems*.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=5,
    ... )
    >>> bi.run(bi.sequential_importance_sampling(walk, 100), key=0).num_particles
    100
    """
    first = spawn(model.initial, num_particles, track_lineage=track_lineage)
    return first >> weigh(model.log_g0) >> scan(extend(model.kernel, model.log_g))
