"""The two-filter smoother: a filter from the start meets one from the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.blocks import Block, extend, resample, scan, spawn, weigh
from bayeskit.inference.blocks.base import set_law
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.law import Law, Measure, Tagged
from bayeskit.inference.population import Population, reweigh, total_log_evidence

__all__ = ["InformationFilter", "TwoFilter", "two_filter"]


class InformationFilter(NamedTuple):
    r"""How a filter runs from the end to the start.

    It stands for :math:`\gamma_t(x_t) \prod_{s>t} M_s G_s` at each time t, with an artificial
    prior :math:`\gamma_t` that makes this finite. It may be any positive function; the law of
    :math:`x_t` before the data, or a likelihood-free guess of it, works well.

    Parameters
    ----------
    log_artificial : callable (t, x) -> () array
        :math:`\log \gamma_t`, unnormalised.
    initial : callable (key) -> x
        One draw from the proposal for the last time.
    log_initial : callable (x) -> () array
        Its log density.
    kernel : callable (key, t, x_next) -> x
        One draw of :math:`x_t` given :math:`x_{t+1}`.
    log_kernel : callable (t, x_next, x) -> () array
        Its log density.

    Examples
    --------
    A coin, thrown three times, with a potential of 1/2 each time. All draws backwards are its
    throws too:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> throw = lambda key, *_: bi.random.accept(key, jnp.log(0.5)).astype(int)
    >>> log_half = lambda *_: jnp.log(0.5)
    >>> coin = bi.FeynmanKac(
    ...     initial=throw,
    ...     log_g0=log_half,
    ...     kernel=throw,
    ...     log_g=log_half,
    ...     log_m=log_half,
    ...     num_steps=3,
    ... )
    >>> backward = bi.InformationFilter(log_half, throw, log_half, throw, log_half)
    >>> pairs = bi.run(bi.two_filter(coin, backward, num_particles=10, time=1), key=0)
    >>> pairs.num_particles, round(float(jnp.exp(pairs.log_evidence)), 4)
    (100, 0.125)
    """

    log_artificial: Callable
    initial: Callable
    log_initial: Callable
    kernel: Callable
    log_kernel: Callable


def two_filter(
    model: FeynmanKac,
    backward: InformationFilter,
    num_particles: int,
    time: int,
    *,
    scheme: str | Block = "systematic",
    ess_below: float | None = 0.5,
) -> Block:
    r"""Return the generalised two-filter smoother of a pair of neighbouring states.

    Particles :math:`x^i` of a filter up to time t - 1 meet particles :math:`\tilde x^j` of an
    information filter from the end down to t; every pair weighs

    .. math:: W_{t-1}^i\, \tilde W_t^j\,
        \frac{M_t(x^i, \tilde x^j)\, G_t(x^i, \tilde x^j)}{\gamma_t(\tilde x^j)} .

    Since the filters are independent, the pairs are properly weighted for the marginal of
    :math:`\gamma_T` on :math:`(x_{t-1}, x_t)`, with the product of both evidences as scale
    (law L2); expectations under the normalised weights are consistent.

    Parameters
    ----------
    model : FeynmanKac with log_m
    backward : InformationFilter
    num_particles : int
        N of each filter; there are N² pairs.
    time : int
        t, from 1 to num_steps - 1.
    scheme, ess_below
        As for :func:`particle_filter`.

    Returns
    -------
    Block
        Its particles are pairs ``(x_{t-1}, x_t)``.

    Raises
    ------
    MissingDensityError
        If the model has no ``log_m``.
    ValueError
        If the time has no time before it in the model.

    Notes
    -----
    O(num_steps N + N²).

    References
    ----------
    Briers, Doucet & Maskell (2010), *Smoothing algorithms for state-space models*.

    Examples
    --------
    A random walk, which walks backwards too; the artificial prior is its law before the data:

    >>> from jax.scipy.stats import norm
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     log_m=lambda t, before, x: norm.logpdf(x, before),
    ...     num_steps=4,
    ... )
    >>> backward = bi.InformationFilter(
    ...     log_artificial=lambda t, x: norm.logpdf(x, 0.0, (t + 1.0) ** 0.5),
    ...     initial=lambda key: 2.0 * bi.random.normal(key),
    ...     log_initial=lambda x: norm.logpdf(x, 0.0, 2.0),
    ...     kernel=lambda key, t, after: after + bi.random.normal(key),
    ...     log_kernel=lambda t, after, x: norm.logpdf(x, after),
    ... )
    >>> block = bi.two_filter(walk, backward, 100, time=2)
    >>> block.name, str(block.law.measure)
    ('two filters that meet at 1, 2', 'γ on paths at 1, 2')
    """
    model.require("log_m", "two-filter smoothing")
    if not 1 <= time < model.num_steps:
        raise ValueError(
            f"time must be from 1 to {model.num_steps - 1}, the times of the model that have a "
            f"time before, got {time!r}"
        )
    again = resample(scheme, ess_below)
    forward = spawn(model.initial, num_particles) >> weigh(model.log_g0)
    forward = forward >> scan(again >> extend(model.kernel, model.log_g), range(1, time))
    from_end = information_blocks(model, backward, num_particles, time, again)
    return TwoFilter(forward, from_end, model, backward.log_artificial, time)


def information_blocks(
    model: FeynmanKac, backward: InformationFilter, num_particles: int, time: int, again: Block
) -> Block:
    """Return the information filter from the last time down to ``time``."""
    measure, last = Measure(f"backward {model.measure.name}", owner=model), model.num_steps - 1
    start = Measure("proposal for the end", owner=model)

    def log_g_end(_, x):
        return backward.log_artificial(last, x) - backward.log_initial(x)

    def log_g(t, after, x):
        step = model.log_step(t + 1, x, after) - backward.log_artificial(t + 1, after)
        return step + backward.log_artificial(t, x) - backward.log_kernel(t, after, x)

    first = spawn(Tagged(backward.initial, start, start, "q"), num_particles)
    first = first >> weigh(Tagged(log_g_end, start, measure.at("0"), "the artificial prior"))
    declared = Tagged(log_g, measure.at("t-1"), measure.at("t"), "one time earlier")
    step = again >> extend(backward.kernel, declared)
    return first >> scan(step, range(last - 1, time - 1, -1))


@dataclass(frozen=True, eq=False, repr=False)
class TwoFilter(Block):
    """Two filters that meet. See :func:`two_filter`."""

    forward: Block
    from_end: Block
    model: FeynmanKac
    log_artificial: Callable
    time: int

    def __post_init__(self):
        set_law(self, self.arrow(None))

    @property
    def name(self):
        return f"two filters that meet at {self.time - 1}, {self.time}"

    def run(self, key, population=None):
        forward_key, end_key = random.split(key)
        left, left_info = self.forward.run(forward_key)
        right, right_info = self.from_end.run(end_key)
        left_place, right_place = jnp.indices((left.num_particles, right.num_particles))
        before = jax.tree.map(lambda x: x[left_place.ravel()], left.particles)
        after = jax.tree.map(lambda x: x[right_place.ravel()], right.particles)
        log_weights = (left.log_weights[:, None] + right.log_weights).ravel()
        log_evidence = total_log_evidence(left) + total_log_evidence(right)
        pairs = Population((before, after), log_weights, log_evidence)
        meeting = lambda a, b: (
            self.model.log_step(self.time, a, b) - self.log_artificial(self.time, b)
        )
        info = {f"{name}_backward": value for name, value in right_info.items()}
        return reweigh(pairs, jax.vmap(meeting)(before, after)), {**left_info, **info}

    def arrow(self, law):
        pair = Measure(f"{self.model.paths} at {self.time - 1}, {self.time}", owner=self.model)
        forward, from_end = self.forward.arrow(None), self.from_end.arrow(None)
        lines = (*forward.derivation, "and, independent of it:", *from_end.derivation)
        line = f"{'every pair by M_t G_t over the artificial prior':<58} stands for {pair}"
        return Law(pair, forward.kind, (*lines, line))
