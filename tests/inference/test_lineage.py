"""The standard error of the evidence from a single run, against the spread of many runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.inference import Lineage, move, resample
from bayeskit.inference.algorithms.islands import JoinIslands
from tests.inference import finite_models as fm
from tests.inference.linear_gaussian import LinearGaussian
from tests.inference.parameter_models import PRIOR, PROPOSAL, Chains

NUM_RUNS = 2000
BOOTSTRAP = fm.random_chain(num_states=4, num_steps=12, seed=6, guided=False)
GUIDED = fm.random_chain(num_states=4, num_steps=12, seed=6)


def runs(chain, resampling, num_particles=100):
    filter_ = fm.filter_blocks(fm.last_state_model(chain), num_particles, track_lineage=True)
    return variances(filter_.with_resampling(resampling))


def variances(block):
    """Log evidence and its estimated variance in many independent runs."""

    @jax.jit
    @jax.vmap
    def one(key):
        population, _ = block.run(key)
        return population.log_evidence, population.lineage.total_variance

    results = one(jax.random.split(accel.as_key(9), NUM_RUNS))
    return (np.asarray(result, np.float64) for result in results)


def assert_ratio(log_evidence, variance, low=0.75, high=1.25):
    ratio = variance.mean() / log_evidence.var()
    assert low < ratio < high, (
        f"estimated variance {variance.mean():.4f}, empirical {log_evidence.var():.4f} over "
        f"{NUM_RUNS} runs: ratio {ratio:.2f}"
    )


# ---------------------------------------------------------------- against many runs
#
# The empirical variance of 2000 nearly normal log evidences has a standard error of 3 %.


@pytest.mark.parametrize(
    ("chain", "scheme"),
    [(BOOTSTRAP, "multinomial"), (BOOTSTRAP, "systematic"), (GUIDED, "systematic")],
    ids=["bootstrap, multinomial", "bootstrap, systematic", "guided, systematic"],
)
def test_estimated_variance_is_that_of_many_runs(chain, scheme):
    assert_ratio(*runs(chain, resample(scheme, ess_below=0.5)))


def test_estimated_variance_with_multinomial_resampling_at_every_step():
    assert_ratio(*runs(BOOTSTRAP, resample("multinomial")))


@pytest.mark.parametrize("scheme", ["stratified", "ssp"])
def test_other_schemes_are_not_optimistic(scheme):
    """Without a correction for chance in the offspring the estimate errs to the safe side."""
    assert_ratio(*runs(BOOTSTRAP, resample(scheme)), high=3.0)


def test_estimated_variance_of_waste_free_tempering():
    """Groups are the chains of each stage, long enough to forget the stage before.

    What a stage inherits from the one before is not counted: the estimate is too low where
    chains mix slowly, by a tenth here and by a third with a quarter of their length.
    """
    model = fm.tempered_model(num_states=4, seed=5, spread=1.0)
    block = fm.tempered_blocks(
        model,
        20 * 40,
        resampling=lambda path: resample("systematic", num=20),
        moving=lambda path: move(model.kernel, path, 39, keep="all", repeats=1),
        track_lineage=True,
    )
    assert_ratio(*variances(block))


MODEL = fm.last_state_model(BOOTSTRAP)
NOTHING_NEW = bi.weigh(lambda stage, x: 0.0)


def islands():
    options = {"scheme": "multinomial", "islands_below": 0.5, "track_lineage": True}
    return bi.island_filter(MODEL, 40, 4, **options)


def moving():
    # The guess of a table: any will do.
    kernel = bi.DiscreteMetropolis(tuple(map(tuple, np.exp(GUIDED.log_proposal))))
    return bi.resample_move_filter(MODEL, kernel, 100, ess_below=0.5, track_lineage=True)


def parameters():
    chains = Chains(num_steps=3)
    options = {"move_always": True, "scheme": "multinomial", "track_lineage": True}
    return bi.smc2(PRIOR, chains.model, 60, 4, PROPOSAL, ess_below=0.7, **options)


@pytest.mark.parametrize("block", [islands, moving, parameters])
def test_estimated_variance_of_filters_of_filters_and_moves(block):
    """Labels too: they are what the last weighing, which changes nothing, looks at."""
    assert_ratio(*variances(block() >> NOTHING_NEW))


def test_islands_that_forget_who_founded_them_are_caught(monkeypatch):
    """Planted: the particles of the islands are taken for independent ones."""
    right = JoinIslands.run

    def forgetful(self, key, population=None):
        joined, info = right(self, key, population)
        return joined._replace(lineage=Lineage.founders(joined.num_particles)), info

    monkeypatch.setattr(JoinIslands, "run", forgetful)
    with pytest.raises(AssertionError, match="ratio 0"):
        assert_ratio(*variances(islands() >> NOTHING_NEW))


def test_filters_that_hand_lineages_on():
    increment = lambda t, before, x: 1.0
    total = bi.paris(MODEL, 20, lambda x: 0.0, increment, track_lineage=True)
    controlled = bi.controlled_filter(
        LinearGaussian(num_steps=4, seed=1).dynamics(), 20, 1, track_lineage=True
    )
    plain = bi.run(total, 0), bi.run(controlled, 0)
    assert float(plain[0].lineage.total_variance) > 1e-3
    # Where all is linear and Gaussian the controlled filter has none.
    assert float(plain[1].lineage.total_variance) < 1e-4


# ---------------------------------------------------------------- the formula


def test_founders_give_the_variance_of_importance_sampling():
    """Independent particles: N times the sum of squares, less 1, over N - 1."""
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    lineage = Lineage.founders(4).weighed(jnp.log(jnp.asarray(weights)))
    expected = (4 * np.sum(weights**2) - 1) / 3
    assert float(lineage.total_variance) == pytest.approx(expected, rel=1e-5)


def test_equal_weights_have_no_variance():
    lineage = Lineage.founders(5).weighed(jnp.full(5, -np.log(5.0)))
    assert float(lineage.total_variance) == pytest.approx(0.0, abs=1e-6)


def test_offspring_inherit_the_label():
    ancestors = jnp.array([2, 2, 0, 3])
    lineage = Lineage.founders(4).resampled(ancestors)
    assert lineage.label.tolist() == [2, 2, 0, 3]
    assert float(lineage.log_correction) == 0.0
    twice = lineage.resampled(ancestors, 1 / 4)
    assert twice.label.tolist() == [0, 0, 2, 3]
    assert float(twice.log_correction) == pytest.approx(np.log(4 / 3))


def test_one_surviving_family_is_all_the_variance_there_is():
    lineage = Lineage.founders(4).resampled(jnp.array([1, 1, 1, 1]))
    lineage = lineage.weighed(jnp.full(4, -np.log(4.0)))
    assert float(lineage.total_variance) == pytest.approx(1.0)


def test_variance_of_one_group_is_unknown():
    lineage = Lineage.founders(1).weighed(jnp.zeros(1))
    assert np.isnan(lineage.total_variance)


def test_new_groups_keep_what_is_settled():
    lineage = Lineage.founders(4).weighed(jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4])))
    restarted = lineage.restarted(jnp.array([0, 1, 0, 1]), 2)
    assert float(restarted.total_variance) == pytest.approx(float(lineage.total_variance))
    even = restarted.weighed(jnp.full(4, -np.log(4.0)))
    assert float(even.total_variance) == pytest.approx(float(lineage.total_variance), abs=1e-6)


def test_lineage_is_tracked_only_when_asked_for():
    filter_ = fm.filter_blocks(fm.last_state_model(GUIDED), 4)
    population, _ = jax.eval_shape(filter_.start.run, jax.random.key(0))
    assert population.lineage is None
