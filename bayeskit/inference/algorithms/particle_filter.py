"""The particle filter: extend, weigh and resample along a Feynman-Kac model."""

from __future__ import annotations

from bayeskit.inference.blocks import Block, extend, remember, resample, scan, spawn, weigh
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["particle_filter"]


def particle_filter(
    model: FeynmanKac,
    num_particles: int,
    *,
    scheme: str | Block = "systematic",
    ess_below: float | None = 0.5,
    history: bool = False,
    track_lineage: bool = False,
) -> Block:
    r"""Return the particle filter of a Feynman-Kac model.

    It is the bootstrap filter if the model moves by the transition of a state-space model and
    weighs by the likelihood, and a guided filter if it moves by a proposal and weighs by
    :math:`m\,g/q`: which of them is a matter of the model.

    Parameters
    ----------
    model : FeynmanKac
    num_particles : int
    scheme : str, or block that resamples
        Resampling scheme, or a block such as :func:`resample_metropolis`.
    ess_below : float in (0, 1], or None
        Resample where the effective sample size is below this fraction; None: at every step.
        For a filter that never resamples see :func:`sequential_importance_sampling`.
    history : bool
        Keep the populations of all times, for smoothing.
    track_lineage : bool
        Keep who descends from whom, for the standard error of the evidence.

    Returns
    -------
    Block
        For :func:`run`.

    Notes
    -----
    O(num_steps num_particles). The evidence is unbiased (law L2).

    References
    ----------
    Gordon, Salmond & Smith (1993); Doucet, Godsill & Andrieu (2000).

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
    >>> bi.run(bi.particle_filter(walk, 100), key=0).log_weights.shape
    (100,)
    """
    first = spawn(model.initial, num_particles, track_lineage=track_lineage)
    first = first >> weigh(model.log_g0)
    step = resample(scheme, ess_below) >> extend(model.kernel, model.log_g)
    if history:
        first, step = first >> remember(model.num_steps), step >> remember(model.num_steps)
    return first >> scan(step)
