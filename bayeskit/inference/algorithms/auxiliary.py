"""The auxiliary particle filter: resample by what is to come, and give the weight back."""

from __future__ import annotations

from collections.abc import Callable

from bayeskit.inference.blocks import Block, extend, remember, resample, scan, spawn, weigh
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["auxiliary_particle_filter"]


def auxiliary_particle_filter(
    model: FeynmanKac,
    num_particles: int,
    log_eta: Callable,
    *,
    scheme: str | Block = "systematic",
    ess_below: float | None = None,
    history: bool = False,
    track_lineage: bool = False,
) -> Block:
    r"""Return the auxiliary particle filter of a Feynman-Kac model.

    Ancestors are chosen with probabilities
    :math:`r_i \propto W_{t-1}^i\, \eta_t(x_{t-1}^i)`, where :math:`\eta_t` guesses what the
    observation at t will say about a particle, and copies weigh :math:`W_{t-1}^i / (N r_i)`.

    Parameters
    ----------
    model : FeynmanKac
        A guided one, see :func:`guided_model`, or one that moves by the transition.
    num_particles : int
    log_eta : callable (t, x_previous) -> () array
        :math:`\log \eta_t`, of any scale. With :math:`\eta_t = p(y_t \mid x_{t-1})` and the
        locally optimal proposal the filter is fully adapted: its weights are equal.
    scheme, ess_below, history, track_lineage
        As for :func:`particle_filter`. By default it resamples at every time.

    Returns
    -------
    Block
        For :func:`run`; the same measure as that of :func:`particle_filter`.

    Notes
    -----
    The evidence is unbiased for any positive :math:`\eta` (law L2), and smoothers may follow as
    for :func:`particle_filter`. A bad guess costs variance.

    References
    ----------
    Pitt & Shephard (1999), *Filtering via simulation: auxiliary particle filters*; Johansen &
    Doucet (2008), *A note on auxiliary particle filters*.

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
    >>> block = bi.auxiliary_particle_filter(walk, 100, lambda t, x: -0.25 * (x - 1.0) ** 2)
    >>> bi.run(block, key=0).num_particles
    100
    """
    first = spawn(model.initial, num_particles, track_lineage=track_lineage)
    first = first >> weigh(model.log_g0)
    step = resample(scheme, ess_below, rate=log_eta) >> extend(model.kernel, model.log_g)
    if history:
        first, step = first >> remember(model.num_steps), step >> remember(model.num_steps)
    return first >> scan(step)
