"""Conditional versions of all schemes, held against Bayes' rule on every path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel, validate
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import conditional_ancestors, random
from bayeskit.inference.blocks import conditional_resampling as conditional
from bayeskit.inference.blocks import draw_ancestors
from bayeskit.inference.blocks.threshold_resampling import draw_threshold
from bayeskit.validation import Atoms, enumerate_paths
from bayeskit.validation.exact import discrepancy

LAW = "conditional resampling"
draw = quick_jit(conditional_ancestors, optimised=False, static_argnums=(2, 3))


def version_of(scheme):
    def ancestors(key, log_weights, num, slot, ancestor):
        return conditional_ancestors(key, log_weights, scheme, num, slot, ancestor)

    return ancestors


@pytest.mark.parametrize("scheme", sorted(set(accel.SCHEMES) - {"residual"}))
def test_every_scheme_has_a_conditional_version(scheme):
    report = validate(version_of(scheme), law=LAW, expected=scheme)
    report.raise_if_failed()
    assert max(check.discrepancy for check in report.tests) < 1e-12


def test_residual_is_systematic_by_another_name():
    assert set(conditional._GIVEN) == set(accel.SCHEME_NAMES)
    assert conditional._GIVEN["residual"] is conditional._GIVEN["systematic"]


def test_rejection_is_multinomial_in_law():
    """Its draws are independent, so its condition changes the slot alone."""
    validate(version_of("rejection"), law=LAW, expected="multinomial").raise_if_failed()


WEIGHTS = np.array([0.41, 0.09, 0.33, 0.05, 0.12])


def threshold_given(draw_kept, num):
    """The law of what is kept, with weights, given each slot and ancestor that can be."""

    def kept(key, condition):
        slot, ancestor = condition
        return condition, draw_kept(key, jnp.log(WEIGHTS), num, slot, ancestor)

    pairs = np.stack(np.meshgrid(np.arange(num), np.arange(5), indexing="ij"), -1).reshape(
        -1, 2
    )
    start = Atoms(tuple(pairs.T.astype(np.int32)), np.ones(len(pairs)))
    return enumerate_paths(kept, start)


def threshold_by_bayes(key, log_weights, num, slot, ancestor):
    """What is kept, in random order, to be conditioned."""
    draw_key, order_key = random.split(key)
    index, kept = draw_threshold(draw_key, log_weights, num)
    order = random.permutation(order_key, num)
    return index[order], kept[order]


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
def test_threshold_given_what_is_kept(num):
    free = threshold_given(threshold_by_bayes, num)
    (slot, ancestor), (index, _) = free.state
    holds = np.take_along_axis(index, slot[:, None], 1)[:, 0] == ancestor
    free = Atoms(jax.tree.map(lambda x: x[holds], free.state), free.mass[holds])
    total = np.zeros((num, 5))
    np.add.at(total, free.state[0], free.mass)
    expected = free._replace(mass=free.mass / total[free.state[0]])

    def error(version):
        found = threshold_given(version, num)
        return discrepancy(found.state, found.mass, expected)

    assert error(conditional.conditional_threshold) < 1e-12
    if 1 < num < 5:
        assert error(written_over) > 1e-3


def written_over(key, log_weights, num, slot, ancestor):
    """Planted: draw without condition; the ancestor is written over its slot."""
    index, kept = threshold_by_bayes(key, log_weights, num, slot, ancestor)
    return index.at[slot].set(ancestor), kept


# ---------------------------------------------------------------- planted mistakes


def pinned(key, cdf, num, ancestor, *, scheme):
    """83: draw without condition; the ancestor is written over a slot."""
    chosen = accel.SCHEMES[scheme]
    u = random.piecewise_uniform(
        key, chosen.uniform_shape(len(cdf), num), lambda: chosen.breaks(cdf, num)
    )
    return chosen.ancestors(cdf, u, num)


def first_copy_only(key, cdf, num, ancestor):
    """Systematic given that there is an offspring, however many there are."""
    start, end = conditional._interval(cdf, ancestor)
    fractions = jnp.append(conditional.fraction(cdf), 0.0)

    def breaks():
        return (jnp.arange(num) + fractions[:, None]).ravel()

    capped = cdf.at[ancestor].set(jnp.minimum(end, start + 1.0))
    level = conditional._level(key, capped, ancestor, breaks)
    return accel.SCHEMES["systematic"].ancestors(cdf, conditional.fraction(level), num)


def own_stratum_only(key, cdf, num, ancestor):
    """Stratified with the ancestor in the stratum where its interval begins."""
    start, _ = conditional._interval(cdf, ancestor)
    index = pinned(key, cdf, num, ancestor, scheme="stratified")
    return index.at[jnp.floor(start).astype(jnp.int32)].set(ancestor)


def drawn_slot_of_its_own(key, cdf, num, ancestor):
    """Killing in which the ancestor is always the particle that was kept."""
    return pinned(key, cdf, num, ancestor, scheme="killing").at[ancestor].set(ancestor)


@pytest.mark.parametrize(
    ("scheme", "mistake"),
    [
        ("systematic", first_copy_only),
        ("stratified", own_stratum_only),
        ("ssp", functools.partial(pinned, scheme="ssp")),
        ("killing", drawn_slot_of_its_own),
    ],
)
def test_wrong_conditions_are_caught(monkeypatch, scheme, mistake):
    monkeypatch.setitem(conditional._GIVEN, scheme, mistake)
    report = validate(version_of(scheme), law=LAW, expected=scheme)
    assert report.verdict == "fail"
    assert max(check.discrepancy for check in report.tests) > 0.01


# ---------------------------------------------------------------- many particles


@pytest.mark.parametrize("scheme", sorted(set(accel.SCHEMES) - {"multinomial", "residual"}))
def test_many_particles_in_single_precision(scheme):
    """The slot holds its ancestor, the dead have no offspring, and counts stay in bounds."""
    num = 20_000
    log_weights = (-2 * np.random.default_rng(0).normal(size=num) ** 2).astype(np.float32)
    log_weights[::7] = -np.inf
    weights = np.exp(log_weights.astype(float))
    expected = num * weights / weights.sum()
    for number, ancestor in enumerate([1, int(np.argmax(weights)), num - 401]):
        index = np.asarray(
            draw(accel.as_key(number), log_weights, scheme, num, 17 + number, ancestor)
        )
        assert index[17 + number] == ancestor
        assert np.all(weights[index] > 0)
        offspring = np.bincount(index, minlength=num)
        if scheme in ("systematic", "ssp"):
            assert np.max(np.abs(offspring - expected)) < 1
        if scheme == "residual_multinomial":
            assert np.all(offspring >= np.floor(expected * (1 - 1e-12)))


def test_ordinary_keys_follow_the_conditional_law():
    """20 000 fixed keys; 4 statistics with |z| < 6: false alarm below 1e-8."""
    log_weights = jnp.log(jnp.array([0.41, 0.09, 0.33, 0.17]))
    keys = jax.random.split(accel.as_key(3), 20_000)

    def offspring(key):
        index = conditional_ancestors(key, log_weights, "ssp", 4, 1, 2)
        return jnp.sum(index[:, None] == jnp.arange(4), axis=0)

    counts = np.asarray(quick_jit(jax.vmap(offspring))(keys), float)
    # Outcomes count as often as particle 2 has offspring in an unconditional draw.
    free = exact_offspring(log_weights, "ssp")
    share = free.mass * free.state[:, 2] / (free.mass @ free.state[:, 2])
    mean = share @ free.state
    error = np.sqrt(share @ (free.state - mean) ** 2 / len(keys)) + 1e-12
    assert np.max(np.abs(counts.mean(0) - mean) / error) < 6


def exact_offspring(log_weights, scheme):
    def offspring(key, log_weights):
        index = draw_ancestors(key, log_weights, scheme, 4)
        return jnp.sum(index[:, None] == jnp.arange(4), axis=0)

    return enumerate_paths(offspring, Atoms(np.asarray(log_weights, float)[None], np.ones(1)))


# ---------------------------------------------------------------- edges


def test_one_particle():
    for scheme in accel.SCHEMES:
        assert draw(jax.random.key(0), jnp.zeros(1), scheme, 1, 0, 0).tolist() == [0]


def test_what_does_not_fit_is_refused():
    key, log_weights = jax.random.key(0), jnp.zeros(3)
    with pytest.raises(ValueError, match=r"unknown scheme 'lucky': choose one of \['killing'"):
        conditional_ancestors(key, log_weights, "lucky", 3, 0, 0)
    with pytest.raises(ValueError, match="as many offspring as there are particles, 3, got"):
        conditional_ancestors(key, log_weights, "killing", 4, 0, 0)


def test_ancestor_of_weight_zero_is_pinned():
    log_weights = jnp.array([0.0, -jnp.inf, -1.0])
    for scheme in accel.SCHEMES:
        index = draw(jax.random.key(1), log_weights, scheme, 3, 2, 1)
        assert index[2] == 1
        assert set(index[:2].tolist()) <= {0, 2}
