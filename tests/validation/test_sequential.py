"""False alarms of the sequential test are bounded; what it states about its power is true."""

import time

import numpy as np
import pytest
from scipy import stats

from bayeskit.validation import SequentialPlan, sequential_test, symmetric_p_value


def uniform_stages(rng, num_tests):
    return lambda num, key: rng.uniform(size=num_tests)


def shifted_stages(rng, effect, num_tests):
    """z-tests, the first of which sees an effect; the others see none."""

    def run_stage(num, key):
        z = rng.normal(size=num_tests)
        z[0] += effect * np.sqrt(num)
        return symmetric_p_value(z * np.sqrt(num), num)

    return run_stage


@pytest.mark.parametrize("num_stages", [1, 3, 7])
def test_levels_are_those_of_the_proof(num_stages):
    plan = SequentialPlan(alpha=1e-3, num_stages=num_stages, growth=4, first=10)
    assert len(plan.fail_below) == len(plan.replicates) == num_stages
    # A block that is correct fails at stage i with probability at most gamma^(i-1) beta_i.
    share = [level * plan.pass_above**i for i, level in enumerate(plan.fail_below)]
    assert np.allclose(share, plan.alpha / num_stages, rtol=1e-12)
    assert plan.fail_below[-1] == plan.pass_above
    assert plan.replicates[-1] == 10 * 4 ** (num_stages - 1)


@pytest.mark.parametrize(("num_tests", "num_stages"), [(1, 3), (4, 3), (20, 7)])
def test_false_alarms_stay_within_alpha(num_tests, num_stages):
    """20 000 correct blocks at alpha = 0.05. False-alarm rate of this test: below 1e-6."""
    rng = np.random.default_rng()
    calls = 20_000
    # The levels alone decide, so here the loop of `sequential_test` runs on arrays.
    plan = SequentialPlan(0.05, num_stages)
    undecided = np.full(calls, True)
    alarms = 0
    for level in plan.fail_below:
        q = num_tests * rng.uniform(size=(calls, num_tests)).min(axis=1)
        alarms += np.sum(undecided & (q <= level))
        undecided &= (q > level) & (q <= plan.pass_above)
    rate, error = alarms / calls, np.sqrt(0.05 * 0.95 / calls)
    assert not undecided.any()
    assert rate <= 0.05 + 5 * error
    # With a single test the rate is known: little power is given away.
    if num_tests == 1:
        levels = np.array(plan.fail_below)
        entered = np.cumprod([1.0, *(plan.pass_above - levels[:-1])])
        exact = float(entered @ levels)
        assert 0.8 * 0.05 < exact <= 0.05
        assert abs(rate - exact) <= 5 * error


def test_the_loop_makes_the_same_decisions_as_the_levels():
    """False-alarm rate 1e-6: that quantile of the number of alarms in 600 calls."""
    rng = np.random.default_rng()
    calls = 600
    results = [sequential_test(uniform_stages(rng, 3), 3, alpha=0.05) for _ in range(calls)]
    alarms = np.sum([result.verdict == "fail" for result in results])
    assert alarms <= stats.binom.isf(1e-6, calls, 0.05)
    assert {result.verdict for result in results} == {"pass", "fail"}
    assert max(result.num_stages for result in results) > 1


def test_a_mistake_in_the_levels_is_noticed():
    """Planted bug: failing below gamma at every stage raises more alarms than alpha."""
    rng = np.random.default_rng(0)
    plan = SequentialPlan(0.05, 3)
    q = rng.uniform(size=20_000)
    assert np.mean(q <= plan.pass_above) > 0.05 + 5 * np.sqrt(0.05 * 0.95 / 20_000)


@pytest.mark.parametrize("num_tests", [1, 50])
def test_stated_power_is_the_rate_of_detection(num_tests):
    """2000 blocks with the effect that is found with probability 0.9. Alarm rate 1e-6."""
    rng = np.random.default_rng()
    plan = SequentialPlan(1e-6, 3, 4, 10_000)
    effect = plan.detectable_effect(num_tests, probability=0.9)
    assert plan.detection_probability(effect, num_tests) == pytest.approx(0.9)
    run_stage = shifted_stages(rng, effect, num_tests)
    options = {"alpha": 1e-6, "num_stages": 3, "growth": 4, "first": 10_000}
    results = [sequential_test(run_stage, num_tests, **options) for _ in range(2000)]
    found = np.mean([result.verdict == "fail" for result in results])
    error = np.sqrt(0.9 * 0.1 / 2000)
    # Other tests, by chance suspicious, may keep the decision open: a little more is found.
    assert 0.9 - 5 * error <= found <= 0.9 + 5 * error + 0.02


def test_power_grows_with_replicates_and_falls_with_tests():
    plan = SequentialPlan(1e-6, 3, 4, 10_000)
    larger = SequentialPlan(1e-6, 3, 4, 1_000_000)
    assert plan.detectable_effect(100) > plan.detectable_effect(1)
    assert larger.detectable_effect(1) == pytest.approx(plan.detectable_effect(1) / 10)
    assert plan.detection_probability(0.0, 1) < 1e-6
    # One stage and one test: the distance of two normal quantiles, and the factor c.
    single = SequentialPlan(1e-6, 1, 4, 10_000).detectable_effect(1)
    factor = 1 / (4 * stats.norm.sf(np.sqrt(2)))
    bound = (stats.norm.isf(0.5e-6 / factor) + stats.norm.isf(0.01)) / 100
    assert single == pytest.approx(bound)


def test_fixed_alternative_is_found_after_a_stage_of_doubt():
    seen = []

    def run_stage(num, key):
        seen.append((num, key))
        return np.array([0.9, 1e-4 if num < 1000 else 1e-30])

    result = sequential_test(run_stage, 2, num_stages=7, growth=4, first=100)
    assert (result.verdict, result.num_stages, result.num_replicates) == ("fail", 3, 1600)
    assert [num for num, _ in seen] == [100, 400, 1600]
    assert result.smallest_p == 1e-30 < result.threshold
    assert len({str(key) for _, key in seen}) == 3


def test_budget_ends_undecided_and_never_passes():
    def run_stage(num, key):
        began = time.process_time()
        while time.process_time() < began + 0.02:
            pass
        return np.array([1e-3])

    result = sequential_test(run_stage, 1, budget_s=0.05)
    assert (result.verdict, result.num_stages) == ("inconclusive", 1)
    assert sequential_test(run_stage, 1, budget_s=5.0, num_stages=2).verdict != "inconclusive"
    clear = sequential_test(lambda num, key: np.array([0.9]), 1, budget_s=0.0)
    assert clear.verdict == "pass"


@pytest.mark.parametrize("draw", ["signs", "cauchy", "one large", "normal"])
def test_symmetric_p_values_are_valid_for_every_tail(draw):
    """P(p <= 0.01) <= 0.01 for four laws, one without a mean. Alarm rate 1e-6 each."""
    rng = np.random.default_rng()
    calls, num = 20_000, 12
    signs = rng.choice([-1.0, 1.0], size=(calls, num))
    sizes = {
        "signs": np.ones((calls, num)),
        "cauchy": np.abs(rng.standard_cauchy((calls, num))),
        "one large": np.array([100.0, *np.ones(num - 1)])[None],
        "normal": np.abs(rng.normal(size=(calls, num))),
    }[draw]
    values = signs * sizes
    p_values = symmetric_p_value(values.sum(axis=1), (values**2).sum(axis=1))
    for level in (0.01, 0.05):
        bound = level + 5 * np.sqrt(level * (1 - level) / calls)
        assert np.mean(p_values <= level) <= bound


def test_normal_p_values_would_not_be_valid():
    """The factor is needed: two coins of equal weight exceed the normal tail threefold."""
    ratio = np.sqrt(2.0)
    exact = 0.5  # both coins alike, either way
    assert 2 * stats.norm.sf(ratio) < exact
    assert symmetric_p_value(2.0, 2.0) == pytest.approx(exact)
    assert symmetric_p_value(0.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, r"alpha must be a probability in \(0, 1\), got 0.0"),
        ({"num_stages": 0}, "num_stages must be at least 1, got 0"),
        ({"growth": 1}, "growth must be at least 2, got 1"),
        ({"first": 0}, "first must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SequentialPlan(**options)


def test_bad_p_values_are_refused():
    with pytest.raises(ValueError, match=r"must return 2 p-values, got shape \(3,\)"):
        sequential_test(lambda num, key: np.ones(3), 2)
    with pytest.raises(ValueError, match="nan as p-value number 1"):
        sequential_test(lambda num, key: np.array([0.5, np.nan]), 2)
