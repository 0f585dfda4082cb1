"""A run that starts from what a pilot run has seen: exact given the pilot, and in the mean."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import ImproperPriorError
from bayeskit.inference import law, random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.paths import defensive
from bayeskit.validation import Level, validate
from tests.inference import finite_models as fm

# ---------------------------------------------------------------- by enumeration

COIN = fm.tempered_model(num_states=2, seed=4)
ESTIMATE = {"law": "unbiased", "level": "exact"}


def stage(path, scheduling):
    return scheduling >> bi.weigh(path.increment)


def reference_of(pilot):
    """The frequencies of a pilot run, smoothed, as log-probabilities (2,)."""
    counts = jnp.zeros(2).at[pilot.particles.position].add(jnp.exp(pilot.log_weights))
    return jnp.log((counts + 0.2) / 1.4)


def shared(target, share):
    """The density of a mixture with another share of the prior than the draws have."""
    rest = target.data[1:]
    return bi.Target(
        log_prior=lambda x: target.log_prior(x, share, *rest),
        log_likelihood=lambda x: target.log_likelihood(x, share, *rest),
        sample_prior=lambda key: target.sample_prior(key, *target.data),
    )


def bridged(key, *, result="run", shift=0.0, change=lambda target: target):
    """An adaptive pilot run, then a run on the bridge from it, and one of its particles."""
    keys = random.split(key, 7)
    path = bi.TemperedPath(COIN.target)
    pilot, _ = bi.spawn(path.initial, 2, stage=path.start()).run(keys[0])
    pilot, _ = stage(path, bi.schedule(path, 0.7)).run(keys[1], pilot)
    target = bi.defensive_bridge(
        COIN.target,
        log_reference=lambda x, table: table[x] + shift,
        sample_reference=random.categorical,
        parameters=(reference_of(pilot),),
        prior_share=0.3,
    )
    path = bi.TemperedPath(change(target))
    ladder = stage(path, bi.schedule(path, ladder=(0.0, 0.4, 1.0)))
    moves = bi.resample("systematic") >> bi.move(COIN.kernel, path, repeats=1)
    population, _ = bi.spawn(path.initial, 2, stage=path.start()).run(keys[2])
    population, _ = ladder.run(keys[3], population)
    population, _ = moves.run(keys[4], population)
    population, _ = ladder.run(keys[5], population)
    place = random.categorical(keys[6], population.log_weights)
    log_evidence = (pilot if result == "pilot" else population).log_evidence
    return log_evidence, population.particles.position[place]


def test_run_after_a_pilot_is_exact():
    """Over all outcomes of both: the mean of the evidence, and of each state, is right."""
    report = validate(bridged, expected=COIN.measure(), **ESTIMATE)
    report.raise_if_failed()
    assert report.alpha == 0


@pytest.mark.parametrize(
    "mistake",
    [
        {"result": "pilot"},
        {"shift": math.log(2.0)},
        {"change": lambda target: shared(target, 0.2)},
    ],
    ids=["evidence of the pilot", "constant of the reference forgotten", "share forgotten"],
)
def test_planted_mistakes_are_found(mistake):
    wrong = functools.partial(bridged, **mistake)
    report = validate(wrong, expected=COIN.measure(), **ESTIMATE)
    print(report.worst)
    assert report.verdict == "fail"


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_share_of_the_prior_leads_to_the_posterior(share):
    target = bi.defensive_bridge(
        COIN.target,
        log_reference=lambda x: fm.log_table(np.log([0.7, 0.3]))[x],
        sample_reference=lambda key: random.categorical(key, fm.log_table(np.log([0.7, 0.3]))),
        prior_share=share,
    )
    block = bi.resample_move(bi.TemperedPath(target), COIN.kernel, 2, (0.0, 1.0))
    fm.assert_exact(block, COIN.measure(), observed=fm.positions)


# ---------------------------------------------------------------- the Student-t distribution

LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=4)
SCALE, Y = 0.5, 1.3
KERNEL = bi.RandomWalk()


def log_normal(x, scale):
    return -0.5 * jnp.sum(x**2) / scale**2 - jnp.log(scale * math.sqrt(2 * math.pi))


CONJUGATE = bk.Target(
    log_prior=lambda x: log_normal(x, 1.0),
    log_likelihood=lambda x: log_normal(Y - x, SCALE),
    sample_prior=lambda key: random.normal(key, (1,)),
    sample_exact=lambda key: (
        Y / (1 + SCALE**2) + SCALE / math.sqrt(1 + SCALE**2) * random.normal(key, (1,))
    ),
    name="conjugate",
)
LOG_EVIDENCE = float(stats.norm.logpdf(Y, 0.0, math.sqrt(1 + SCALE**2)))


@pytest.mark.parametrize("dense", [True, False])
def test_density_is_that_of_scipy(dense):
    rng = np.random.default_rng(0)
    mean, factor = rng.normal(size=3), np.tril(rng.normal(size=(3, 3))) + 2 * np.eye(3)
    if not dense:
        factor = np.diag(factor)
    shape = factor @ factor.T if dense else np.diag(factor**2)
    x = rng.normal(size=3) * 4
    with jax.enable_x64(True):
        found = defensive._log_student(jnp.asarray(x), jnp.asarray(mean), jnp.asarray(factor))
    assert float(found) == pytest.approx(
        stats.multivariate_t(mean, shape, df=5).logpdf(x), rel=1e-12
    )


def on_ladder(target):
    path = bi.TemperedPath(target)
    stage = (
        bi.schedule(path, ladder=(0.0, 0.4, 1.0))
        >> bi.weigh(path.increment)
        >> bi.resample()
        >> bi.move(KERNEL, path, 2, repeats=1, tuning=KERNEL.default_tuning(1))
    )
    return bi.spawn(path.initial, 8, stage=path.start()) >> bi.until(path.is_complete, stage)


def statistical(target):
    return validate(on_ladder(target), CONJUGATE, expected=LOG_EVIDENCE, level=LEVEL)


BRIDGE = bi.student_bridge(CONJUGATE, np.array([0.6]), np.array([[0.7]]), prior_share=0.2)


def test_bridge_from_a_student_t_passes():
    statistical(BRIDGE).raise_if_failed()


def test_start_that_is_not_taken_off_is_found():
    """The path then ends at the posterior times the start."""
    wrong = bk.Target(
        log_prior=BRIDGE.log_prior,
        log_likelihood=lambda x, *_: jnp.sum(CONJUGATE.components(x)),
        sample_prior=BRIDGE.sample_prior,
        prior_takes_data=True,
        data=BRIDGE.data,
    )
    assert statistical(wrong).verdict == "fail"


def test_forgotten_constant_is_found(monkeypatch):
    right = defensive._log_student
    constant = math.lgamma(3.0) - math.lgamma(2.5) - 0.5 * math.log(5 * math.pi)
    monkeypatch.setattr(defensive, "_log_student", lambda *a: right(*a) - constant)
    wrong = bi.student_bridge(CONJUGATE, np.array([0.6]), np.array([[0.7]]), prior_share=0.2)
    assert statistical(wrong).verdict == "fail"


# ---------------------------------------------------------------- the engine

DIM = 2
SPREAD = 20.0
ENGINE = bk.SMC(num_particles=400, num_chains=40, bridge=True)
FROZEN = bk.SMC(num_particles=400, num_chains=40, bridge=True, unbiased=True)
BROAD = bk.Target(
    log_prior=lambda x: log_normal(x, SPREAD) - jnp.log(SPREAD * math.sqrt(2 * math.pi)),
    log_likelihood=lambda x, y: log_normal(y[0] - x[0], SCALE) + log_normal(y[1] - x[1], 1.0),
    sample_prior=lambda key: SPREAD * random.normal(key, (DIM,)),
    name="broad",
)


def exact(y):
    return stats.norm.logpdf(y, 0.0, np.sqrt([SPREAD**2 + SCALE**2, SPREAD**2 + 1.0])).sum()


@functools.cache
def run(engine, seed, y=(3.0, -2.0)):
    with jax.enable_x64(True):
        return engine.run(BROAD, (jnp.asarray(y),), seed)


def test_evidence_and_its_standard_error_are_honest():
    """20 seeds, within 6 standard errors; the spread of 20 normals is within [0.35, 1.9]."""
    results = [run(ENGINE, seed) for seed in range(20)]
    errors = np.array([r.log_evidence for r in results]) - exact((3.0, -2.0))
    reported = np.array([r.log_evidence_se for r in results])
    assert abs(errors.mean()) < 6 * reported.mean() / np.sqrt(20) + reported.mean() ** 2
    assert 0.3 < errors.std(ddof=1) / reported.mean() < 2.2


def test_bridge_is_shorter_and_its_evidence_more_precise():
    plain = run(bk.SMC(num_particles=400, num_chains=40), 0)
    result = run(ENGINE, 0)
    assert len(result.history["repeats"]) < len(plain.history["repeats"]) / 2
    assert result.log_evidence_se < 0.7 * plain.log_evidence_se


def test_posterior_is_told_in_the_terms_of_the_target():
    result = run(ENGINE, 1)
    x = result.positions[0, 0]
    with jax.enable_x64(True):
        at_x = BROAD.with_data(jnp.array([3.0, -2.0])).components(jnp.asarray(x))
    expected = np.asarray(at_x)
    stats_ = result.sample_stats
    assert stats_["log_prior"][0, 0] == pytest.approx(expected[0])
    assert stats_["log_likelihood_sum"][0, 0] == pytest.approx(expected[1])
    assert stats_["lp"][0, 0] == pytest.approx(expected.sum())
    error = np.abs(result.flat("x").mean(axis=0) - [3.0, -2.0])
    assert np.all(error < 6 * np.array([SCALE, 1.0]) / np.sqrt(result.diagnostics.ess_bulk_min))


def test_second_run_compiles_nothing():
    """Nor do other data, and pilot runs and bridges of another length."""
    first = run(ENGINE, 2)
    with CompileClock() as clock:
        again = run.__wrapped__(ENGINE, 2)
        run.__wrapped__(ENGINE, 3, y=(40.0, 10.0))
    assert clock.num_compiled == 0
    assert again.log_evidence == first.log_evidence
    np.testing.assert_array_equal(again.positions, first.positions)


def test_the_law_names_the_pilot_run():
    result = run(ENGINE, 0)
    assert result.law.startswith("given a pilot run with a key of its own")
    assert "=> L10 consistent for broad_λ[T]" in result.law
    frozen = run(FROZEN, 0)
    assert frozen.law.startswith("given a pilot run with a key of its own")
    assert "=> L2 properly weighted for broad_λ[T]" in frozen.law


def test_mean_of_the_unbiased_evidence():
    """30 seeds: E Ẑ / Z is 1. Within 6 standard errors, with a spread of Ẑ / Z below 1/2."""
    ratios = np.exp([run(FROZEN, s).log_evidence - exact((3.0, -2.0)) for s in range(30)])
    assert ratios.std() < 0.5
    assert abs(ratios.mean() - 1.0) < 6 * ratios.std(ddof=1) / np.sqrt(30)


def test_positive_parameters_of_a_numpyro_model():
    """The bridge is built where they are unconstrained. Evidence by quadrature."""
    import numpyro
    import numpyro.distributions as dist

    y = np.random.default_rng(5).exponential(0.2, size=30)

    def waiting(y=None):
        rate = numpyro.sample("rate", dist.HalfNormal(50.0))
        with numpyro.plate("times", 30):
            numpyro.sample("y", dist.Exponential(rate), obs=y)

    engine = bk.SMC(num_particles=2000, bridge=True)
    fit = bk.BayesianModel(waiting, inference=engine, random_state=0).fit(y=y)
    rates = np.linspace(1e-6, 40.0, 200_001)
    log_joint = stats.halfnorm.logpdf(rates, scale=50.0) + 30 * np.log(rates) - rates * y.sum()
    truth = np.log(np.trapezoid(np.exp(log_joint - log_joint.max()), rates)) + log_joint.max()
    assert abs(fit.log_evidence_ - truth) < 6 * fit.log_evidence_se_
    assert fit.log_evidence_se_ < 0.2
    assert fit.result_.draws["rate"].min() > 0


# ---------------------------------------------------------------- bad input


def test_a_prior_is_needed():
    target = bk.Target(log_density=lambda x: -jnp.sum(x**2))
    with pytest.raises(ImproperPriorError, match="a mixture with its prior"):
        bi.student_bridge(target, np.zeros(1), np.ones(1))
    with pytest.raises(ImproperPriorError, match="sample_prior"):
        ENGINE.run(target)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_share_outside_the_unit_interval(share):
    with pytest.raises(ValueError, match=r"prior_share must be in \[0, 1\], got"):
        bi.student_bridge(CONJUGATE, np.zeros(1), np.ones(1), share)


def test_consistent_is_what_an_adaptive_bridge_is():
    block = ENGINE.algorithm(BRIDGE)
    assert block.law.kind is law.CONSISTENT
