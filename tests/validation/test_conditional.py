"""Conditional resampling: what may be pinned, and what has to be conditioned by Bayes' rule.

All checks enumerate every path, so there are no false alarms.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference import random
from bayeskit.inference.blocks import draw_ancestors
from bayeskit.validation import validate
from bayeskit.validation.conditional import _conditioned
from bayeskit.validation.exact import Enumeration

LAW = "conditional resampling"


def pinned(scheme):
    """Draw without condition and write the ancestor over its slot."""

    def ancestors(key, log_weights, num, slot, ancestor):
        return draw_ancestors(key, log_weights, scheme, num).at[slot].set(ancestor)

    ancestors.__name__ = f"pinned_{scheme}"
    return ancestors


def put_in_order(order, slot, ancestor, counts, num, *, shuffle=True):
    """Put one copy of the ancestor into its slot and the other copies elsewhere."""
    counts = counts.at[ancestor].add(-1)
    others = jnp.repeat(
        jnp.arange(len(counts), dtype=jnp.int32), counts, total_repeat_length=num - 1
    )
    others = others[order] if shuffle else others
    places = jnp.arange(num - 1)
    places = places + (places >= slot)
    return jnp.zeros(num, jnp.int32).at[slot].set(ancestor).at[places].set(others)


def conditional_systematic(key, log_weights, num, slot, ancestor, *, shuffle=True):
    r"""Weigh each cell of the uniform by the share of slots that it gives to the ancestor.

    .. math:: P(u \in c \mid A_k = b) \propto |c| \, O_b(c)
    """
    cell_key, order_key = random.split(key)
    scheme = accel.SCHEMES["systematic"]
    cdf = accel.scaled_cdf(log_weights, num)
    breaks = jnp.sort(jnp.clip(scheme.breaks(cdf, num), 0.0, 1.0))
    edges = jnp.concatenate([jnp.zeros(1), breaks, jnp.ones(1)])
    length, middle = jnp.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    index = jnp.stack([scheme.ancestors(cdf, u, num) for u in middle])
    counts = jnp.sum(index[:, :, None] == jnp.arange(len(log_weights)), axis=1)
    cell = random.categorical(cell_key, jnp.log(length * counts[:, ancestor]))
    order = random.permutation(order_key, num - 1)
    return put_in_order(order, slot, ancestor, counts[cell], num, shuffle=shuffle)


def not_shuffled(key, log_weights, num, slot, ancestor):
    """The right numbers of offspring, sorted."""
    return conditional_systematic(key, log_weights, num, slot, ancestor, shuffle=False)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [(pinned("multinomial"), "multinomial"), (conditional_systematic, "systematic")],
)
def test_right_conditional_schemes_pass(scheme, expected):
    report = validate(scheme, law=LAW, expected=expected)
    report.raise_if_failed()
    assert report.alpha == 0.0
    assert max(check.discrepancy for check in report.tests) < 1e-12
    assert f"for the scheme '{expected}'" in report.law


@pytest.mark.parametrize(
    "scheme", ["systematic", "stratified", "residual", "residual_multinomial"]
)
def test_pinning_one_slot_is_wrong_unless_draws_are_independent(scheme):
    report = validate(pinned(scheme), law=LAW, expected=scheme)
    assert report.verdict == "fail"
    assert "the probability of the ancestors" in report.worst
    gaps = {c.name: c.discrepancy for c in report.tests if c.model == "3 particles"}
    assert gaps["the slot holds its ancestor"] == 0.0
    assert gaps["the numbers of offspring"] > 0.1


def test_sorted_slots_are_told_from_wrong_numbers():
    report = validate(not_shuffled, law=LAW, expected="systematic")
    assert report.verdict == "fail"
    assert "so put the other slots in random order" in report.worst
    failed = {check.name for check in report.tests if not check.passed}
    assert failed == {"the ancestors, slot by slot"}


def test_slot_that_lost_its_ancestor():
    def forgetful(key, log_weights, num, slot, ancestor):
        return random.categorical(key, log_weights, num)

    report = validate(forgetful, law=LAW, expected="multinomial")
    assert "the slot does not hold its ancestor with probability" in report.worst


def test_expected_may_be_a_function():
    def two_coins(key, log_weights, num):
        return random.categorical(key, log_weights, num)

    validate(pinned("multinomial"), law=LAW, expected=two_coins).raise_if_failed()


def test_conditional_law_by_hand():
    """Weights 0.3 and 0.7, two slots: systematic gives (0, 1), or (1, 1) where u > 0.6."""
    given, law = _conditioned(
        lambda key, lw, num: draw_ancestors(key, lw, "systematic", num),
        np.array([[0.3, 0.7]]),
        Enumeration(),
    )
    found = {
        (*condition, *index): mass
        for condition, index, mass in zip(
            given_state(law), law.state[1].tolist(), law.mass, strict=True
        )
    }
    # P(A = (0, 1)) = P(A = (1, 0)) = 0.3 and P(A = (1, 1)) = 0.4, so P(A_0 = 1) = 0.7.
    assert len(given.mass) == 4
    assert found[0, 0, 0, 0, 1] == pytest.approx(1.0)
    assert found[0, 0, 1, 1, 0] == pytest.approx(0.3 / 0.7)
    assert found[0, 0, 1, 1, 1] == pytest.approx(0.4 / 0.7)


def given_state(law):
    return [tuple(row) for row in law.state[0].tolist()]


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="needs expected=, the scheme"):
        validate(pinned("multinomial"), law=LAW)
    with pytest.raises(TypeError, match="got 'bogus'"):
        validate(pinned("multinomial"), law=LAW, expected="bogus")
    with pytest.raises(ValueError, match="must return 2 whole numbers"):
        validate(lambda key, lw, num, k, b: lw, law=LAW, expected="multinomial")

    def hidden(key, log_weights, num, slot, ancestor):
        return jax.random.categorical(key, log_weights, shape=(num,))

    with pytest.raises(UnenumerableDrawError, match="Draw through its primitives"):
        validate(hidden, law=LAW, expected="multinomial")
