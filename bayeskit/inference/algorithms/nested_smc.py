"""Filters whose proposals or potentials are themselves estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bayeskit.inference import random
from bayeskit.inference.estimates import choose
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["WeightedDraw", "nested_smc_model", "random_weight_model", "weighted_draw_model"]


class WeightedDraw(NamedTuple):
    """A draw with the estimate that it came with.

    Parameters
    ----------
    log_estimate : () array
    value : pytree
    """

    log_estimate: jax.Array
    value: Any


def weighted_draw_model(
    initial: Callable, kernel: Callable, num_steps: int, name: str = "γ"
) -> FeynmanKac:
    r"""Return the Feynman-Kac model that is known by properly weighted draws alone.

    If :math:`E[\hat w f(x')] = \int f(x') m_t(x, dx') g_t(x, x')` for the pairs that
    ``kernel`` draws, the values of the particles stand for the same measure as those of the
    model with :math:`m_t` and :math:`g_t`: what is random in the weight is one more coordinate.

    Parameters
    ----------
    initial : callable (key) -> (log estimate, x)
    kernel : callable (key, t, x_previous) -> (log estimate, x)
    num_steps : int
    name : str

    Returns
    -------
    FeynmanKac
        Its particles have a ``value`` and a ``log_estimate``.

    Examples
    --------
    Draws that each come with an estimate of 1/2 have an evidence of 1/8 after three times:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> model = bi.weighted_draw_model(
    ...     initial=lambda key: (jnp.log(0.5), bi.random.normal(key)),
    ...     kernel=lambda key, t, x: (jnp.log(0.5), x + bi.random.normal(key)),
    ...     num_steps=3,
    ... )
    >>> population = bi.run(bi.sequential_importance_sampling(model, 4), key=0)
    >>> round(float(jnp.exp(population.log_evidence)), 4), population.particles.value.shape
    (0.125, (4,))
    """
    return FeynmanKac(
        initial=lambda key: WeightedDraw(*initial(key)),
        log_g0=lambda draw: draw.log_estimate,
        kernel=lambda key, t, before: WeightedDraw(*kernel(key, t, before.value)),
        log_g=lambda t, before, draw: draw.log_estimate,
        num_steps=num_steps,
        name=name,
    )


def random_weight_model(model: FeynmanKac, estimate: Callable) -> FeynmanKac:
    r"""Return a model with each potential multiplied by an unbiased estimate of a factor.

    Parameters
    ----------
    model : FeynmanKac
        Its potentials are the part that is known.
    estimate : callable (key, t, x) -> () array
        Log of an estimate that is not negative, with the missing factor of
        :math:`G_t` as its mean, given that x is the state at time t.

    Returns
    -------
    FeynmanKac
        Its particles have a ``value`` and a ``log_estimate``.

    References
    ----------
    Fearnhead, Papaspiliopoulos & Roberts (2008), *Particle filters for partially observed
    diffusions*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: 0.0,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: 0.0,
    ...     num_steps=5,
    ... )
    >>> noisy = lambda key, t, x: -0.5 * (x - bi.random.normal(key)) ** 2
    >>> filtered = bi.particle_filter(bi.random_weight_model(walk, noisy), 100)
    >>> filtered.law.kind.name, str(filtered.law.measure)
    ('properly weighted', 'γ[T]')
    """

    def initial(key):
        move_key, weight_key = random.split(key)
        x = model.initial(move_key)
        return model.log_g0(0, x) + estimate(weight_key, 0, x), x

    def kernel(key, t, before):
        move_key, weight_key = random.split(key)
        x = model.kernel(move_key, t, before)
        return model.log_g(t, before, x) + estimate(weight_key, t, x), x

    return weighted_draw_model(initial, kernel, model.num_steps, model.measure.name)


def nested_smc_model(initial: Callable, kernel: Callable, num_steps: int) -> FeynmanKac:
    r"""Return a model whose steps are drawn by an inner SMC sampler, for nested SMC.

    A step to a state of many coordinates is itself a problem that SMC solves, one coordinate
    after another: the inner sampler stands for :math:`m_t(x, dx') g_t(x, x')`, one of its
    particles is the step, and its evidence the weight.

    Parameters
    ----------
    initial : callable () -> Block
        A block that starts with spawn and stands for :math:`m_0(dx) g_0(x)`.
    kernel : callable (t, x_previous) -> Block
        The same for :math:`m_t(x, dx') g_t(x, x')`.
    num_steps : int

    Returns
    -------
    FeynmanKac
        For :func:`particle_filter`; its particles have a ``value`` and a ``log_estimate``.

    Notes
    -----
    Each outer particle costs a run of the inner block. Exact for any number of inner particles.

    References
    ----------
    Naesseth, Lindsten & Schön (2015), *Nested sequential Monte Carlo methods*.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> def step(t, before):
    ...     draws = bi.spawn(lambda key: before + bi.random.normal(key), 10)
    ...     return draws >> bi.weigh(lambda stage, x: -0.5 * (x - 1.0) ** 2)
    >>> model = bi.nested_smc_model(lambda: step(0, 0.0), step, num_steps=4)
    >>> bi.particle_filter(model, 50).law.kind.name
    'properly weighted'
    """
    return weighted_draw_model(
        lambda key: choose(initial())(key),
        lambda key, t, before: choose(kernel(t, before))(key),
        num_steps,
    )
