"""Two samplers against each other, samplers against targets, and two sets of draws.

False alarms: none in exact checks; 1e-6 a call of validate by sampling; permutation tests as
stated where they stand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference import random
from bayeskit.inference.measure import PointState
from bayeskit.validation import Atoms, battery, validate
from bayeskit.validation.same_law import two_sample_test

MODELS = battery()
THREE = Atoms(np.arange(3), np.array([2.0, 3.0, 5.0]))


def one_draw(key):
    return random.categorical(key, jnp.log(jnp.array([0.2, 0.3, 0.5])))


def stick_breaking(key, second=0.3 / 0.8):
    """The same law from two coins, of which the second is tossed if the first fails."""
    first_key, second_key = random.split(key)
    first = random.accept(first_key, jnp.log(0.2))
    other = random.accept(second_key, jnp.log(second))
    return jnp.where(first, 0, jnp.where(other, 1, 2)).astype(jnp.int32)


def stick_of_full_length(key):
    """The rest of the stick is forgotten: 0.3 of the rest instead of 0.3."""
    return stick_breaking(key, 0.3)


def plain(key):
    """A normal pair and a die."""
    normal_key, die_key = random.split(key)
    return {
        "x": random.normal(normal_key, (2,)),
        "n": random.categorical(die_key, jnp.zeros(3)),
    }


def rotated(key, scale=1.0):
    """The same law, drawn otherwise."""
    draw = plain(key)
    cosine, sine = np.cos(1.0), np.sin(1.0)
    x = scale * jnp.array([[cosine, -sine], [sine, cosine]]) @ draw["x"]
    return {"x": x, "n": 2 - draw["n"]}


def stretched(key):
    return rotated(key, 1.03)


def dependent(key):
    """Right margins; the die follows the sign of x."""
    draw = plain(key)
    flipped = jnp.where(draw["n"] == 2, -1.0, 1.0) * jnp.abs(draw["x"][0])
    return {**draw, "x": draw["x"].at[0].set(jnp.where(draw["n"] == 1, draw["x"][0], flipped))}


# ---------------------------------------------------------------- the same law


def test_equal_laws_written_in_two_ways_agree_exactly():
    report = validate(stick_breaking, expected=one_draw, law="same", level="exact")
    report.raise_if_failed()
    assert report.alpha == 0.0 and report.tests[0].discrepancy < 1e-14
    assert report.law.endswith("as one_draw does")


@pytest.mark.parametrize("swap", [False, True])
def test_unequal_laws_are_told_exactly(swap):
    pair = [stick_of_full_length, one_draw]
    first, second = pair[::-1] if swap else pair
    report = validate(first, expected=second, law="same", level="exact")
    assert report.verdict == "fail"
    wrong, right = ("0.3", "0.24") if swap else ("0.24", "0.3")
    assert report.worst == f"the probability of 1 is {wrong} instead of {right}"


@pytest.mark.parametrize("swap", [False, True])
def test_equal_laws_agree_by_sampling(swap):
    pair = [rotated, plain]
    first, second = pair[::-1] if swap else pair
    report = validate(first, expected=second, law="same", key=3)
    report.raise_if_failed()
    assert report.alpha == 1e-6
    assert 0.01 < report.power.in_standard_deviations < 0.04


@pytest.mark.parametrize("sampler", [stretched, dependent])
@pytest.mark.parametrize("swap", [False, True])
def test_unequal_laws_are_told_by_sampling(sampler, swap):
    pair = [sampler, plain]
    first, second = pair[::-1] if swap else pair
    report = validate(first, expected=second, law="same", key=3)
    assert report.verdict == "fail"
    assert "feature" not in report.worst


def test_observed_chooses_what_is_compared():
    validate(dependent, expected=plain, law="same", observed=lambda s: s["n"]).raise_if_failed()


def test_samplers_may_call_jax_random():
    """Guests draw by themselves; only the exact mode cannot see it."""

    def guest(key):
        return jax.random.normal(key, (2,))

    def own(key):
        return random.normal(key, (2,))

    def guest_die(key):
        return jax.random.categorical(key, jnp.zeros(3))

    validate(guest, expected=own, law="same").raise_if_failed()
    with pytest.raises(UnenumerableDrawError, match="guest_die draws outside"):
        validate(guest_die, expected=one_draw, law="same", level="exact")


def test_nan_and_other_dtypes_fail():
    def with_nan(key):
        draw = plain(key)
        return {**draw, "x": jnp.where(draw["x"] > 3.5, jnp.nan, draw["x"])}

    def single(key):
        draw = plain(key)
        return {**draw, "x": draw["x"].astype(jnp.float32)}

    report = validate(with_nan, expected=plain, law="same")
    assert report.verdict == "fail" and "draws of with_nan hold NaN" in report.worst
    report = validate(plain, expected=with_nan, law="same")
    assert report.verdict == "fail" and "draws of with_nan hold NaN" in report.worst
    report = validate(single, expected=plain, law="same")
    assert report.verdict == "fail"
    assert report.worst == (
        "['x'] is float32 of shape (2,) from single and float64 of shape (2,) from plain"
    )


def test_infinite_numbers_are_compared():
    def sometimes_infinite(key, probability=0.5):
        return jnp.where(random.accept(key, jnp.log(probability)), -jnp.inf, 0.0)

    def more_often(key):
        return sometimes_infinite(key, 0.55)

    validate(sometimes_infinite, expected=sometimes_infinite, law="same").raise_if_failed()
    assert validate(more_often, expected=sometimes_infinite, law="same").verdict == "fail"


# ---------------------------------------------------------------- draws from a target


def test_exact_samplers_of_the_battery_draw_from_it():
    for name in ("skewed", "student_t", "truncated", "ring"):
        model = MODELS[name]
        validate(model.target.sample_exact, model, law="draws", key=1).raise_if_failed()


def test_wrong_draws_are_caught():
    model = MODELS["skewed"]

    def shifted(key):
        return model.target.sample_exact(key) + jnp.array([0.0, 0.05])

    report = validate(shifted, model, law="draws")
    assert report.verdict == "fail"
    assert "skewed" in report.law


def test_draws_against_masses():
    validate(stick_breaking, expected=THREE, law="draws").raise_if_failed()
    report = validate(stick_of_full_length, expected=THREE, law="draws")
    assert report.worst == "the probability of 1 is 0.24 instead of 0.3"


def test_draws_of_a_finite_target_by_enumeration():
    model = MODELS["ring"]

    def uniform_start(key):
        return random.categorical(key, jnp.zeros(3))

    sampler = model.target.sample_exact
    validate(sampler, model.target, law="draws", level="exact").raise_if_failed()
    assert validate(uniform_start, model, law="draws").verdict == "fail"


def test_position_of_a_state_is_compared():
    model = MODELS["correlated_normal"]

    def state(key):
        position = model.target.sample_exact(key)
        return PointState(position, model.target.components(position))

    validate(state, model, law="draws").raise_if_failed()


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="law='same' compares two samplers, and expected is N"):
        validate(plain, law="same")
    with pytest.raises(TypeError, match="plain needs what it draws from"):
        validate(plain, law="draws")
    target = bi.Target(log_density=lambda x: -jnp.sum(x**2))
    with pytest.raises(TypeError, match="or a Target with sample_exact"):
        validate(plain, target, law="draws")
    two = Atoms(np.zeros((1, 2)), np.ones(1))
    with pytest.raises(ValueError, match="choose the part to compare with observed="):
        validate(one_draw, expected=two, law="draws")


# ---------------------------------------------------------------- draws that are there already


@pytest.mark.parametrize("statistic", ["energy", "mmd"])
def test_two_sample_test_is_valid_and_finds_a_difference(statistic):
    """A permutation p-value of at most 1e-3 has that probability for equal laws."""
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 300, 2))
    assert two_sample_test(x, y, statistic=statistic).p_value > 1e-3
    result = two_sample_test(x, 1.4 * y, statistic=statistic)
    assert result.p_value == 1e-3 and result.num_permutations == 999
    assert two_sample_test(x, y + 0.4, statistic=statistic).p_value == 1e-3


@pytest.mark.parametrize("statistic", ["energy", "mmd"])
def test_permutation_p_values_are_uniform(statistic):
    """With 19 permutations p is uniform on 1/20, ..., 1.

    The share of p <= 0.2 over 2000 samples has standard deviation 0.0089: beyond 5 of them
    with probability 6e-7.
    """
    generator = np.random.default_rng(2)
    p_values = np.array(
        [
            two_sample_test(
                generator.normal(size=(12, 1)),
                generator.normal(size=(8, 1)),
                statistic=statistic,
                num_permutations=19,
                key=i,
            ).p_value
            for i in range(2000)
        ]
    )
    assert abs(np.mean(p_values <= 0.2) - 0.2) < 0.045


def test_energy_distance_by_hand():
    """Points 0 and 1 against 0 and 3, in units of the pooled standard deviation."""
    result = two_sample_test(np.array([0.0, 1.0]), np.array([0.0, 3.0]), num_permutations=9)
    scale = np.std([0.0, 1.0, 0.0, 3.0])
    between = 2 * (0 + 3 + 1 + 2) / 4
    within = (2 * 1 / 4) + (2 * 3 / 4)
    assert result.statistic == pytest.approx((between - within) / scale)


def test_all_equal_draws_say_nothing():
    for statistic in ("energy", "mmd"):
        result = two_sample_test(np.ones((5, 2)), np.ones((4, 2)), statistic=statistic)
        assert result.p_value == 1.0 and result.statistic == pytest.approx(0.0, abs=1e-12)


def test_two_sample_test_refuses():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="statistic must be 'energy' or 'mmd', got 'tv'"):
        two_sample_test(x, x, statistic="tv")
    with pytest.raises(ValueError, match="num_permutations must be at least 1"):
        two_sample_test(x, x, num_permutations=0)
    with pytest.raises(ValueError, match=r"first have shape \(2,\), those of second \(3,\)"):
        two_sample_test(x, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="second has 1 draws with NaN or infinities"):
        two_sample_test(x, np.array([[0.0, 1.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match="first must hold at least 2 draws"):
        two_sample_test(1.0, x)
    with pytest.raises(ValueError, match="12000 draws need a matrix"):
        two_sample_test(np.zeros(6000), np.zeros(6000))


def test_a_sampler_that_ignores_its_key_is_told_why():
    frozen = lambda key: jnp.asarray(np.random.default_rng().normal(size=2))
    report = validate(frozen, expected=lambda key: random.normal(key, (2,)), law="same")
    assert report.verdict == "fail"
    assert "the same draw for every key" in report.worst
