r"""Resampling given that one offspring has a given ancestor, as conditional SMC needs it.

Slots are in random order, so all that the condition changes is the law of the numbers of
offspring: outcomes in which particle b has :math:`o_b` of them count :math:`o_b` times,

.. math:: P(\text{outcome} \mid A_k = b) = \frac{o_b}{\text{num}\, W_b} P(\text{outcome}) .

Each function below draws the ancestors, in some order, by this law. One of them that is b then
goes to the slot k, and the others are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.accel.resampling.killing import survival
from bayeskit.accel.resampling.residual import split_remainders
from bayeskit.accel.resampling.scheme import fraction, offspring_count
from bayeskit.accel.resampling.ssp import ancestors_of_duels, duels
from bayeskit.accel.resampling.threshold import threshold_cdf
from bayeskit.accel.scan import prefix_sum
from bayeskit.inference import random
from bayeskit.inference.blocks.resampling import check_scheme

__all__ = ["conditional_ancestors", "conditional_threshold"]


def conditional_ancestors(
    key: Any,
    log_weights: jax.Array,
    scheme: str,
    num: int,
    slot: int | jax.Array,
    ancestor: int | jax.Array,
) -> jax.Array:
    r"""Return ancestors (num,) given that the slot has the given ancestor (law L4c).

    .. math:: P(A = a \mid A_k = b) = \frac{P(A = a)\, 1\{a_k = b\}}{P(A_k = b)},

    where A are the ancestors of the unconditional scheme with its slots in random order.

    Parameters
    ----------
    key : key of any kind
    log_weights : (num_particles,) array, real or -inf, any normalisation
    scheme : str
        A name in ``bayeskit.accel.SCHEME_NAMES``.
    num : int
        Number of offspring, static.
    slot : int or () int array in [0, num)
    ancestor : int or () int array in [0, num_particles)
        A particle of positive weight. One of weight zero is pinned, and the condition, which
        then has no meaning, is left out.

    Returns
    -------
    (num,) int32 array

    Raises
    ------
    ValueError
        For an unknown scheme, and for a number of offspring that the scheme does not make.

    Notes
    -----
    O(N log N), for the shuffle. For multinomial resampling the condition changes nothing but
    the slot itself; for every other scheme, writing b over the slot of an unconditional draw is
    wrong.

    References
    ----------
    Andrieu, Doucet & Holenstein (2010), section 4.3, for multinomial, residual and stratified
    resampling. Chopin & Singh (2015), *On particle Gibbs sampling*, for systematic. Chopin,
    Singh, Soto & Vihola (2022), for killing.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit.inference.blocks import conditional_ancestors
    >>> log_weights = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    >>> conditional_ancestors(jax.random.key(0), log_weights, "systematic", 4, 2, 0)[2]
    Array(0, dtype=int32)
    """
    check_scheme(scheme)
    if scheme in accel.SCHEMES:
        num = offspring_count(accel.SCHEMES[scheme], log_weights.shape[-1], num)
    draw_key, order_key = random.split(key)
    cdf = accel.scaled_cdf(log_weights, num)
    ancestor = jnp.asarray(ancestor, jnp.int32)
    index = _GIVEN[scheme](draw_key, cdf, num, ancestor)
    return _in_slots(order_key, index, jnp.asarray(slot, jnp.int32), ancestor)


def conditional_threshold(
    key: Any,
    log_weights: jax.Array,
    num: int,
    slot: int | jax.Array,
    ancestor: int | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    r"""Return what :func:`resample_threshold` keeps given an ancestor in a slot (law L4c).

    It holds for any numbers: particle b has one offspring with probability
    :math:`\min(1, W_b / c)`, as systematic resampling with these chances chooses it, and none
    otherwise. Times its weight :math:`\max(W_b, c)` that is :math:`W_b`, so that the weights of
    a particle filter given a path work out as they do for the other schemes.

    Parameters
    ----------
    key : key of any kind
    log_weights : (num_particles,) array, real or -inf, any normalisation
    num : int
        From 1 to num_particles, static.
    slot, ancestor
        As for :func:`conditional_ancestors`.

    Returns
    -------
    ancestors : (num,) int32 array
    log_weights : (num,) array
        Of the ancestors, normalised.
    """
    draw_key, order_key = random.split(key)
    cdf, by_particle, _ = threshold_cdf(log_weights, num)
    ancestor = jnp.asarray(ancestor, jnp.int32)
    index = _systematic(draw_key, cdf, num, ancestor)
    index = _in_slots(order_key, index, jnp.asarray(slot, jnp.int32), ancestor)
    return index, by_particle[index]


def _in_slots(key: Any, index: jax.Array, slot: jax.Array, ancestor: jax.Array) -> jax.Array:
    """Put one copy of the ancestor into the slot, and the others anywhere."""
    num = index.shape[0]
    others = jnp.arange(num - 1)
    place = jnp.argmax(index == ancestor)
    shuffled = index[others + (others >= place)][random.permutation(key, num - 1)]
    result = jnp.zeros(num, jnp.int32).at[others + (others >= slot)].set(shuffled)
    return result.at[slot].set(ancestor)


def _interval(cdf: jax.Array, ancestor: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return where the interval of a particle begins and ends. For a 64-bit scope."""
    return jnp.where(ancestor > 0, cdf[ancestor - 1], 0.0), cdf[ancestor]


def _level(key: Any, cdf: jax.Array, ancestor: jax.Array, breaks: Callable) -> jax.Array:
    """Return a uniform level in the interval of a particle, up to the given breaks.

    The number of levels m + u that fall into the interval has the length of the interval as
    its mean; to choose a level uniformly counts each outcome as often as levels fall in.
    """

    def within():
        start, end = _interval(cdf, ancestor)
        length = jnp.where(end > start, end - start, 1.0)
        return jnp.clip((breaks() - start) / length, 0.0, 1.0)

    v = random.piecewise_uniform(key, (), within)
    with jax.enable_x64(True):
        start, end = _interval(cdf, ancestor)
        # Rounding must not raise it to the end, which belongs to the next particle.
        return jnp.minimum(start + v * (end - start), jnp.nextafter(end, start))


def _systematic(key, cdf, num, ancestor):
    def breaks():
        crossings = jnp.append(fraction(cdf), 0.0)
        return (jnp.arange(num) + crossings[:, None]).ravel()

    level = _level(key, cdf, ancestor, breaks)
    with jax.enable_x64(True):
        return accel.SCHEMES["systematic"].ancestors(cdf, fraction(level), num)


def _stratified(key, cdf, num, ancestor):
    level_key, rest_key = random.split(key)
    scheme = accel.SCHEMES["stratified"]
    level = _level(level_key, cdf, ancestor, lambda: jnp.arange(num))
    u = random.piecewise_uniform(rest_key, (num,), lambda: scheme.breaks(cdf, num))
    with jax.enable_x64(True):
        stratum = jnp.minimum(jnp.floor(level).astype(jnp.int32), num - 1)
    return scheme.ancestors(cdf, u, num).at[stratum].set(ancestor)


def _multinomial(key, cdf, num, ancestor):
    scheme = accel.SCHEMES["multinomial"]
    u = random.piecewise_uniform(key, (num,), lambda: scheme.breaks(cdf, num))
    return scheme.ancestors(cdf, u, num).at[0].set(ancestor)


def _is_sure(key, whole, expected):
    """Draw whether the offspring in the slot is one of the sure copies of its ancestor."""
    with jax.enable_x64(True):
        chance = jnp.where(expected > 0, whole / jnp.where(expected > 0, expected, 1.0), 1.0)
    u = random.piecewise_uniform(key, (), lambda: chance[None])
    with jax.enable_x64(True):
        return u < chance


def _residual_multinomial(key, cdf, num, ancestor):
    sure_key, rest_key = random.split(key)
    scheme = accel.SCHEMES["residual_multinomial"]
    with jax.enable_x64(True):
        start, end = _interval(cdf, ancestor)
        copies, _ = split_remainders(cdf, num)
        whole = jnp.floor(end - start)
    is_sure = _is_sure(sure_key, whole, end - start)
    u = random.piecewise_uniform(rest_key, (num,), lambda: scheme.breaks(cdf, num))
    index = scheme.ancestors(cdf, u, num)
    # Behind the sure copies come independent draws.
    return jnp.where(is_sure, index, index.at[copies[-1]].set(ancestor, mode="drop"))


def _killing(key, cdf, num, ancestor):
    slot_key, rest_key = random.split(key)
    scheme = accel.SCHEMES["killing"]
    with jax.enable_x64(True):
        kept, largest = survival(cdf), jnp.max(jnp.diff(cdf, prepend=0.0))
        killed = 1 - kept
        # The law of each slot at the ancestor, over its weight.
        chance = killed.at[ancestor].add(num / largest)
        log_chance = jnp.log(chance)
    slot = random.categorical(slot_key, log_chance.astype(jnp.result_type(float)), 1)[0]
    u = random.piecewise_uniform(rest_key, (num,), lambda: scheme.breaks(cdf, num))
    return scheme.ancestors(cdf, u, num).at[slot].set(ancestor)


def _ssp(key, cdf, num, ancestor):
    r"""Draw the duels, or draw them given that the ancestor wins the one for its fraction.

    Once it carries the open fraction f, it wins with probability f. So given that it wins, its
    probability to be relieved is 0 where the carrier gains, and p / f where the duel gives an
    offspring away; and its own take-over has probability p f' / x, f' what is open after it.
    """
    sure_key, duel_key = random.split(key)
    num_duels = cdf.shape[0] - 1
    with jax.enable_x64(True):
        all_duels = duels(cdf)
        open_, gives, p = all_duels.open, all_duels.gives, all_duels.takes_over
        start, end = _interval(cdf, ancestor)
        whole, share = jnp.floor(end - start), all_duels.share[ancestor]
        # Duel d is between particle d + 1 and the carrier before it.
        number = jnp.arange(1, num_duels + 1)
        own, later = number == ancestor, number > ancestor
        before = jnp.where(open_[:-1] > 0, open_[:-1], 1.0)
        relieved = jnp.where(gives, p / before, 0.0)
        wins_later = jnp.where(gives, p * open_[1:] / jnp.where(share > 0, share, 1.0), 1.0)
        given = jnp.where(own, wins_later, jnp.where(later, relieved, p))
        given = jnp.clip(given, 0.0, 1.0)
    is_sure = _is_sure(sure_key, whole, end - start)
    u = random.piecewise_uniform(duel_key, (num_duels,), lambda: jnp.stack([p, given], axis=-1))
    with jax.enable_x64(True):
        takes_over = u < given
        carries = (ancestor == 0) | jnp.any(own & takes_over)
        relief = (later & takes_over).astype(jnp.int32)
        is_carrier = carries & (prefix_sum(relief) == relief)
        takes_over = jnp.where(later & ~is_carrier, u < p, takes_over)
        takes_over = jnp.where(is_sure, u < p, takes_over)
    return ancestors_of_duels(cdf, gives, takes_over, num)


_GIVEN: dict[str, Callable] = {
    "systematic": _systematic,
    "residual": _systematic,
    "stratified": _stratified,
    "multinomial": _multinomial,
    "rejection": _multinomial,
    "residual_multinomial": _residual_multinomial,
    "ssp": _ssp,
    "killing": _killing,
}
