"""SMC samplers on continuous models: what they find, what they refuse, how they stop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from bayeskit import Target
from bayeskit import inference as bi
from bayeskit.errors import ImproperPriorError, LawMismatch, StalledError

Y = np.array([0.3, 1.9, 0.8, 2.1, -0.4, 1.2, 0.9, 1.6])
# A normal mean with prior N(0, 2²) and observations of unit variance.
COVARIANCES = [np.eye(n) + 4.0 for n in range(1, len(Y) + 1)]


def log_normal(y, covariance):
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * (log_det + y @ np.linalg.solve(covariance, y))


PARTIAL_EVIDENCE = [log_normal(Y[: len(c)], c) for c in COVARIANCES]
MEAN = Y.sum() / (len(Y) + 0.25)


def log_prior(x):
    return norm.logpdf(x[0], 0.0, 2.0)


def log_terms(x):
    return norm.logpdf(jnp.asarray(Y, x.dtype), x[0])


def sample_prior(key):
    return 2.0 * bi.random.normal(key, (1,))


TARGET = Target(
    log_prior=log_prior,
    log_likelihood=lambda x: jnp.sum(log_terms(x)),
    sample_prior=sample_prior,
)
DATA = bi.DataPath(log_prior=log_prior, log_terms=log_terms, sample_prior=sample_prior)
WALK = bi.RandomWalk()
NUM = 1000


def tolerance_path(tolerance=0.4, num_simulations=1, simulate=None):
    # The mean of the data is sufficient, so that its distance loses nothing but the tolerance.
    close = lambda key, x: jnp.abs(x[0] + bi.random.normal(key) / np.sqrt(8.0) - Y.mean())
    return bi.TolerancePath(
        log_prior=log_prior,
        sample_prior=sample_prior,
        simulate_distance=simulate or close,
        tolerance=tolerance,
        num_simulations=num_simulations,
    )


def posterior_mean(population):
    position = getattr(population.particles, "position", population.particles)
    return float(jnp.exp(population.log_weights) @ position[:, 0])


SAMPLERS = {
    "ibis": functools.cache(lambda: bi.ibis(DATA, WALK, NUM)),
    "nested sampling": lambda: bi.nested_sampling(
        bi.LevelPath(TARGET), WALK, NUM, max_stages=30
    ),
    "persistent sampling": lambda: bi.persistent_sampling(TARGET, WALK, NUM, max_stages=10),
    "annealing": lambda: bi.annealed_importance_sampling(
        bi.TemperedPath(TARGET), WALK, NUM, [0, 0.01, 0.05, 0.2, 0.5, 1]
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_evidence_and_mean(name):
    """One run within 6 standard errors: a false alarm in 1e8 if the error is normal."""
    population = bi.run(SAMPLERS[name](), 0)
    error = float(population.log_evidence) - PARTIAL_EVIDENCE[-1]
    se = float(jnp.sqrt(population.lineage.total_variance))
    print(f"{name}: error {error:.3f}, standard error {se:.3f}")
    assert 0.005 < se < 0.2
    assert abs(error) < 6 * se
    # The posterior standard deviation is 0.35, and 100 draws at least are worth something.
    assert abs(posterior_mean(population) - MEAN) < 6 * 0.35 / 10


def test_evidence_after_every_datum():
    _, info = bi.run(SAMPLERS["ibis"](), 1, with_info=True)
    found = np.cumsum(info["log_evidence_increment"])
    # 0.4 is ten times the standard error of the last.
    np.testing.assert_allclose(found, PARTIAL_EVIDENCE, atol=0.4)
    assert 0 < np.sum(info["applied"]) < len(Y)


def test_abc_evidence_is_the_probability_of_being_close():
    """It is known: the simulated mean is normal. One run within 6 standard errors."""
    population, info = bi.run(bi.abc_smc(tolerance_path(), NUM), 0, with_info=True)
    spread = np.sqrt(4.0 + 1.0 / 8.0)
    ends = (Y.mean() + np.array([-0.4, 0.4])) / spread
    truth = float(jnp.log(jnp.diff(jax.scipy.stats.norm.cdf(ends))[0]))
    se = float(jnp.sqrt(population.lineage.total_variance))
    assert abs(float(population.log_evidence) - truth) < 6 * se
    assert abs(posterior_mean(population) - MEAN) < 6 * 0.45 / 10
    tolerances = np.asarray(info["tolerance"])[: int(info["num_rounds"])]
    assert np.all(np.diff(tolerances) < 0)
    assert tolerances[-1] == np.float32(0.4)


def test_bridge_keeps_the_density_and_takes_parameters():
    log_normal_at = lambda x, mean: norm.logpdf(x[0], mean, 0.6)
    draw = lambda key, mean: mean + 0.6 * bi.random.normal(key, (1,))
    scaled = Target(log_density=lambda x, scale: -scale * x[0] ** 2, data=(2.0,))
    bridge = bi.geometric_bridge(scaled, log_normal_at, draw, (1.0,))
    at = jnp.array([0.3])
    assert float(bridge.components(at).sum()) == pytest.approx(-0.18, rel=1e-5)
    assert float(bridge.components(at)[0]) == pytest.approx(norm.logpdf(0.3, 1.0, 0.6))
    other = bridge.with_data(1.0, 5.0)
    assert float(other.components(at).sum()) == pytest.approx(-0.09, rel=1e-3)
    key = jax.random.key(0)
    assert float((other.draw_prior(key) - bridge.draw_prior(key))[0]) == pytest.approx(4.0)


def test_bridge_where_the_target_is_zero():
    half = Target(log_density=lambda x: jnp.where(x[0] > 0, -x[0], -jnp.inf))
    bridge = bi.geometric_bridge(half, lambda x: -(x[0] ** 2), sample_prior)
    assert bridge.components(jnp.array([-1.0])).tolist() == [-1.0, -np.inf]
    with pytest.raises(ImproperPriorError, match="sample_reference must be a function"):
        bi.geometric_bridge(half, lambda x: -(x[0] ** 2), None)


# ---------------------------------------------------------------- the derivations


@pytest.mark.parametrize(
    ("block", "law", "line"),
    [
        (SAMPLERS["ibis"], "L10", "weigh by likelihood of new data"),
        (SAMPLERS["nested sampling"], "L10", "renew: the rest stays as it is"),
        (SAMPLERS["persistent sampling"], "L10", "persist: weigh by the mixture of all"),
        (SAMPLERS["annealing"], "L2", "weigh by likelihood^Δλ"),
        (lambda: bi.abc_smc(tolerance_path(), 10), "L10", "weigh by simulations in ε"),
        (lambda: bi.resample_move(DATA, WALK, 10, DATA.every_datum()), "L2", "resample"),
        (
            lambda: bi.nested_sampling_at_levels(bi.LevelPath(TARGET), WALK, 10, (-9.0,)),
            "L2",
            "weigh by likelihood of shell",
        ),
    ],
)
def test_explanations(block, law, line):
    text = block().explain()
    assert line in text
    assert text.splitlines()[-1].startswith(f"=> {law} ")


# ---------------------------------------------------------------- what is refused


def test_terms_that_are_added_up():
    with pytest.raises(TypeError, match=r"one number for each datum.*got shape \(\)"):
        bi.DataPath(
            log_prior=log_prior,
            log_terms=lambda x: jnp.sum(log_terms(x)),
            sample_prior=sample_prior,
        )


@pytest.mark.parametrize(
    ("path", "ladder", "message"),
    [
        (DATA, (0, 4), "ladder must increase strictly from 0 to 8, got"),
        (DATA, (0, 5, 3, 8), "increase strictly"),
        (tolerance_path(), (np.inf, 0.2, 0.3, 0.4), "decrease strictly from inf to 0.4"),
        (tolerance_path(), (2.0, 0.4), "decrease strictly from inf"),
        (bi.LevelPath(TARGET), (-np.inf, -3.0, -4.0, np.inf), "increase strictly from -inf"),
        (bi.TemperedPath(TARGET), (0.0, 0.5), "increase strictly from 0 to 1"),
    ],
)
def test_ladders_that_do_not_lead_to_the_end(path, ladder, message):
    with pytest.raises(ValueError, match=message):
        bi.schedule(path, ladder=ladder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: tolerance_path(-1.0), "tolerance must be a finite number >= 0, got -1.0"),
        (lambda: tolerance_path(np.nan), "tolerance must be a finite number >= 0"),
        (lambda: tolerance_path(num_simulations=0), "num_simulations must be at least 1"),
        (lambda: bi.LevelPath(TARGET, negligible=0.0), "negligible must be a fraction"),
        (lambda: bi.ibis(DATA, WALK, 10, ess_below=1.0), "ess_below must be a fraction"),
        (lambda: bi.persistent_sampling(TARGET, WALK, 10, ess=2.0), "ess must be a fraction"),
        (lambda: bi.reserve(0), "num_stages must be at least 1"),
        (lambda: bi.ibis(DATA, WALK, 0), "num_particles must be a whole number >= 1"),
        (
            lambda: bi.nested_sampling_at_levels(bi.LevelPath(TARGET), WALK, 10, (1.0, 1.0)),
            "ladder must increase strictly from -inf to inf",
        ),
    ],
)
def test_numbers_that_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_level_path_without_a_prior():
    with pytest.raises(ImproperPriorError, match="nested sampling starts from draws"):
        bi.LevelPath(Target(log_density=lambda x: -x @ x))


def test_kernel_on_a_path_of_tolerances():
    path = tolerance_path()
    with pytest.raises(TypeError, match=r"no kernel can move particles: use ABCMove\(path\)"):
        bi.run(bi.resample_move(path, WALK, 10, (np.inf, 0.4)), 0)


def test_renewal_that_changes_the_measure():
    path = bi.LevelPath(TARGET)
    with pytest.raises(LawMismatch, match="here it must keep the measure"):
        bi.renew(bi.weigh(path.increment), path.is_alive).arrow(bi.Law(path.measure.at("t-1")))


# ---------------------------------------------------------------- how they stop


def test_loop_that_stops_short_of_its_path():
    path = bi.TemperedPath(TARGET)
    step = bi.schedule(path, ladder=(0.0, 0.2, 0.5, 1.0)) >> bi.weigh(path.increment)
    start = bi.spawn(path.initial, 3, stage=path.start())
    block = start >> bi.until(path.is_complete, step, max_rounds=2)
    with pytest.raises(
        StalledError,
        match=r"inverse temperature stands at 0.5 after 2 stages and did not reach",
    ):
        bi.run(block, 0)
    # Inside a program nothing can be raised: the stage tells.
    assert (
        float(jax.jit(lambda key: bi.run(block, key).stage.current)(jax.random.key(0))) == 0.5
    )


def population_at(path, place, components):
    """A population of equal weights whose particles have the given cached values."""
    num = len(components)
    particles = bi.PointState(jnp.zeros((num, 1)), jnp.asarray(components))
    log_weights = jnp.full(num, -jnp.log(num))
    stage = path.start()._replace(current=jnp.asarray(place))
    return bi.Population(particles, log_weights, jnp.zeros(()), stage)


def test_tolerance_stands_still_where_all_simulations_are_at_it():
    path = tolerance_path()
    population = population_at(path, 1.0, [[0.0, 1.0]] * 4)
    stage = population.stage._replace(current=path.choose(population, 0.5), number=12)
    assert "tolerance stands at 1 after 12 stages and did not reach 0.4" in path.shortfall(
        stage
    )


def test_levels():
    """The share above, then the end: on a plateau, and where little is left."""
    path = bi.LevelPath(TARGET, negligible=1e-3)
    four = [[0.0, -4.0], [0.0, -3.0], [0.0, -2.0], [0.0, -1.0]]
    assert float(path.choose(population_at(path, -9.0, four), 0.5)) == -3.0
    assert float(path.choose(population_at(path, -9.0, four), 0.25)) == -2.0
    assert float(path.choose(population_at(path, -9.0, [[0.0, -1.5]] * 4), 0.5)) == np.inf
    mostly_done = population_at(path, -3.5, four)
    for rest, wanted in ((-8.0, np.inf), (-5.0, -2.0)):
        log_weights = jnp.array([0.0, rest, rest, rest])
        level = path.choose(mostly_done._replace(log_weights=log_weights), 0.5)
        assert float(level) == wanted


def test_density_above_a_level():
    """Values and gradients are those of the prior above the level, and nothing below."""
    path = bi.LevelPath(TARGET)
    stage = path.start()._replace(current=jnp.asarray(-14.0))
    density = path.at(stage)
    inside, outside = jnp.array([1.0]), jnp.array([6.0])
    assert float(density(inside)) == pytest.approx(float(log_prior(inside)))
    assert float(density(outside)) == -np.inf
    components, gradient = density.components_and_gradient(inside)
    assert float(gradient[0]) == pytest.approx(-0.25)
    assert float(density.combine(components.at[1].set(jnp.nan))) == -np.inf
