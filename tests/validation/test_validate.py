"""The public call: what it accepts, what it finds, what it says where things do not fit.

Exact checks have no false alarms. Planted bugs are test doubles with the name of the mistake.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.errors import (
    KeyReuseError,
    LawMismatch,
    TooManyPathsError,
    UnenumerableDrawError,
    ValidationFailed,
)
from bayeskit.inference import DiscreteMetropolis, RandomWalk, random
from bayeskit.inference.blocks import draw_ancestors
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.measure import PointState
from bayeskit.validation import Atoms, Level, battery, validate

MODELS = battery()
QUICK = Level(num_stages=3, growth=4, first=20_000, num_frequencies=16)
PROPOSAL = ((0.2, 0.5, 0.3), (0.6, 0.1, 0.3), (0.3, 0.3, 0.4))


# ---------------------------------------------------------------- the battery


def test_battery_models_have_the_evidence_that_they_state():
    """Integrals of the densities on a grid, which needs no random numbers."""
    # Midpoints, so that the edge of the truncated model is the edge of a cell.
    grids = np.arange(-15, 25, 0.05) + 0.025, np.arange(-50, 70, 0.05) + 0.025
    x = np.stack(np.meshgrid(*grids), -1)
    models = [*battery("continuous").values(), *battery("posterior").values()]
    planar = [model for model in models if model.dim == 2]
    assert len(planar) == 9
    for model in planar:
        with jax.enable_x64(True):
            density = jax.vmap(jax.vmap(model.target.density()))
            mass = np.exp(np.asarray(density(jnp.asarray(x)))).sum() * 0.05**2
        assert np.log(mass) == pytest.approx(model.log_evidence, abs=1e-3), model.name


def test_evidence_of_the_normal_model():
    with jax.enable_x64(True):
        model = MODELS["correlated_normal"]
        mean = jnp.array([1.0, -2.0, 3.0])
        density = model.target.density()
        precision = -jax.hessian(density)(mean)
        _, log_determinant = np.linalg.slogdet(precision)
        expected = float(density(mean)) + 1.5 * np.log(2 * np.pi) - 0.5 * log_determinant
    assert model.log_evidence == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_densities_follow_the_dtype_of_the_position(dtype):
    for model in battery("continuous").values():
        with jax.enable_x64(True):
            position = jnp.ones(model.dim, dtype)
            assert model.target.components(position).dtype == dtype, model.name


def test_priors_of_posteriors_are_normalised_and_the_mixed_model_too():
    """By sums on a grid."""
    grid = np.arange(-40, 40, 0.01) + 0.005
    with jax.enable_x64(True):
        target = MODELS["beta_binomial"].target
        values = jax.vmap(target.components)(jnp.asarray(grid)[:, None])
        prior, likelihood = np.exp(np.asarray(values)).T
        mixed = jax.vmap(
            lambda x: jnp.stack(
                [MODELS["mixed"].target.density()({"k": k, "x": x}) for k in range(3)]
            )
        )
        mixture = np.exp(np.asarray(mixed(jnp.asarray(grid))))
    assert prior.sum() * 0.01 == pytest.approx(1.0, abs=1e-6)
    evidence = np.log((prior * likelihood).sum() * 0.01)
    assert evidence == pytest.approx(MODELS["beta_binomial"].log_evidence, abs=1e-6)
    total = np.log(mixture.sum() * 0.01)
    assert total == pytest.approx(MODELS["mixed"].log_evidence, abs=1e-6)


@pytest.mark.parametrize("name", sorted(battery("posterior")))
def test_posteriors_belong_to_their_samplers(name):
    """False-alarm rate 1e-6."""
    validate(MODELS[name]).raise_if_failed()


def test_a_step_on_the_mixed_model():
    """Gibbs on both parts; forgetting the scale in the weights is found. Rate 1e-6."""
    model = MODELS["mixed"]

    def step(key, state, forgets_scale=False):
        first, second = bi.random.split(key)
        fresh = model.sample_exact(first)
        # The components at this x, by their exact weights.
        logits = jnp.stack(
            [model.target.log_density({"k": k, "x": state["x"]}) for k in range(3)]
        )
        logits = logits + jnp.log(jnp.array([0.5, 1.0, 2.0])) * forgets_scale
        return {"k": bi.random.categorical(second, logits), "x": state["x"] + 0.0 * fresh["x"]}

    validate(step, start=model.sample_exact).raise_if_failed()
    wrong = functools.partial(step, forgets_scale=True)
    assert validate(wrong, start=model.sample_exact).verdict == "fail"


def test_battery_is_the_same_at_every_call():
    assert battery()["ring"] is MODELS["ring"]
    kinds = ("finite", "line", "continuous", "posterior", "mixed", "series")
    assert {name for kind in kinds for name in battery(kind)} == set(MODELS)
    for model in battery("finite").values():
        assert np.log(model.atoms.mass.sum()) == pytest.approx(model.log_evidence)
    with pytest.raises(ValueError, match="kind must be one of"):
        battery("discrete")


# ---------------------------------------------------------------- resampling schemes


@pytest.mark.parametrize("scheme", sorted(accel.SCHEMES))
def test_schemes_are_unbiased(scheme):
    report = validate(scheme)
    report.raise_if_failed()
    assert report.alpha == 0.0
    assert max(check.discrepancy for check in report.tests) < 1e-12


def test_resample_block_is_its_scheme():
    validate(bi.resample("stratified")).raise_if_failed()
    with pytest.raises(ValueError, match="resamples under a condition"):
        validate(bi.resample("stratified", ess_below=0.5))
    with pytest.raises(ValueError, match="leaves uneven weights: validate the scheme"):
        validate(bi.resample("stratified", rate=lambda t, x: 0.0))


def inverse_cdf(key, log_weights, num):
    """A user's own multinomial resampling, right."""
    return random.categorical(key, log_weights, num)


def off_by_one(key, log_weights, num):
    """49: each draw gives the neighbour of the particle."""
    index = random.categorical(key, log_weights, num)
    return jnp.minimum(index + 1, len(log_weights) - 1)


def last_never_chosen(key, log_weights, num):
    """50: the last particle is left out."""
    return random.categorical(key, log_weights[:-1], num)


def flattened(key, log_weights, num):
    """Weights raised to a power: dead particles stay dead, means are wrong."""
    return random.categorical(key, 0.9 * log_weights, num)


def revives_the_dead(key, log_weights, num):
    """Weight zero counts as the smallest positive float."""
    floor = jnp.log(jnp.asarray(1e-6, log_weights.dtype))
    return random.categorical(key, jnp.maximum(log_weights, floor), num)


def points_outside(key, log_weights, num):
    """The ancestor number N does not exist."""
    index = random.categorical(key, log_weights, num)
    return jnp.where(index == 0, len(log_weights), index)


@pytest.mark.parametrize(
    "scheme", [off_by_one, last_never_chosen, flattened, revives_the_dead, points_outside]
)
def test_bug_in_resampling_is_caught(scheme):
    validate(inverse_cdf, law="resampling").raise_if_failed()
    report = validate(scheme, law="resampling")
    assert report.verdict == "fail"
    assert "offspring on average instead of" in report.worst
    failed = {check.name for check in report.tests if not check.passed}
    assert "mean offspring" in failed
    if scheme is revives_the_dead:
        assert "no offspring for weight zero" in failed
    if scheme is points_outside:
        assert "every offspring has an ancestor" in failed


def test_schemes_that_do_not_fit():
    with pytest.raises(ValueError, match="unknown scheme 'bogus': choose one of"):
        validate("bogus")
    with pytest.raises(ValueError, match="must return 3 whole numbers"):
        validate(lambda key, log_weights, num: log_weights, law="resampling")
    with pytest.raises(TypeError, match="start= means nothing for a resampling scheme"):
        validate("systematic", start=MODELS["ring"].atoms)
    with pytest.raises(TypeError, match="is a name or a function"):
        validate(3, law="resampling")


# ---------------------------------------------------------------- plain steps


def around_the_ring(key, state):
    """Stay or go on by one: invariant for equal masses, not reversible."""
    return (state + random.categorical(key, jnp.zeros(2))) % 3


def test_step_on_a_finite_space():
    equal = Atoms(np.arange(3), np.ones(3))
    report = validate(around_the_ring, start=equal)
    report.raise_if_failed()
    assert "nothing found" in report.worst
    report = validate(around_the_ring, start=equal, law="reversible")
    assert report.verdict == "fail" and report.worst.endswith("not reversible")
    uneven = Atoms(np.arange(3), np.array([2.0, 1.0, 1.0]))
    report = validate(around_the_ring, start=uneven)
    assert report.worst == "one step changes the mass of the state 0 from 0.5 to 0.375"


def test_step_on_structured_states():
    def step(key, state):
        flip = random.accept(key, jnp.log(0.5))
        return {"a": state["a"], "b": jnp.where(flip, 1 - state["b"], state["b"])}

    grid = {"a": np.array([0, 0, 1, 1]), "b": np.array([0, 1, 0, 1])}
    validate(step, start=Atoms(grid, np.array([1.0, 1.0, 3.0, 3.0]))).raise_if_failed()
    report = validate(step, start=Atoms(grid, np.array([1.0, 2.0, 3.0, 3.0])))
    assert "the mass of the state 0, " in report.worst
    seen = validate(
        step, start=Atoms(grid, np.array([1.0, 2.0, 3.0, 3.0])), observed=lambda s: s["a"]
    )
    seen.raise_if_failed()


def draws_outside(key, state):
    return state + jax.random.randint(key, (), 0, 2)


def uses_a_key_twice(key, state):
    first = random.categorical(key, jnp.zeros(2))
    return (state + first + random.categorical(key, jnp.zeros(2))) % 3


def grows(key, state):
    return jnp.stack([state, state])


@pytest.mark.parametrize(
    ("step", "options", "error", "message"),
    [
        (draws_outside, {}, UnenumerableDrawError, "draws outside of bayeskit.inference.rand"),
        (uses_a_key_twice, {}, KeyReuseError, "already consumed"),
        (grows, {}, ValueError, r"leaves of shape \[\(2,\)\], the states of start have"),
        (around_the_ring, {"start": None}, TypeError, "needs start=: Atoms"),
        (around_the_ring, {"start": np.arange(3)}, TypeError, "start must be Atoms"),
        (
            around_the_ring,
            {"start": Atoms(np.arange(2), np.ones(3))},
            ValueError,
            "needs a leading axis of 3 atoms",
        ),
        (
            around_the_ring,
            {"start": Atoms(np.arange(3), np.array([1.0, -1.0, 1.0]))},
            ValueError,
            "number 1 is -1.0",
        ),
        (around_the_ring, {"max_paths": 2}, TooManyPathsError, "exceed max_paths=2"),
        (around_the_ring, {"law": "bogus"}, ValueError, "law must be one of"),
        (around_the_ring, {"models": ["ring"]}, TypeError, "models= means nothing for a func"),
        (object(), {"start": None}, TypeError, "cannot validate an object of type object"),
    ],
)
def test_steps_that_do_not_fit(step, options, error, message):
    with pytest.raises(error, match=message):
        validate(step, **{"start": Atoms(np.arange(3), np.ones(3)), **options})


# ---------------------------------------------------------------- kernels on finite spaces


class NoProposalRatio(DiscreteMetropolis):
    """9: an asymmetric proposal without its correction."""

    def step(self, key, state, density, tuning):
        proposal_key, accept_key = random.split(key)
        row = jnp.log(jnp.asarray(self.proposal))[state.position]
        there = random.categorical(proposal_key, row).astype(state.position.dtype)
        proposal = PointState(there, density.components(there))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        bad = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, bad)


class KeepsProposedDensity(DiscreteMetropolis):
    """14: a rejection returns the log density of the proposal."""

    def step(self, key, state, density, tuning):
        after, info = super().step(key, state, density, tuning)
        other = density.components((state.position + 1) % 3)
        return after._replace(components=other), info


def test_discrete_kernel_is_enumerated_on_the_battery():
    report = validate(DiscreteMetropolis(PROPOSAL))
    report.raise_if_failed()
    assert {check.model for check in report.tests} == {"ring", "tempered"}
    assert "paths enumerated" in report.notes[0]


def test_bugs_in_a_discrete_kernel_are_caught():
    report = validate(NoProposalRatio(PROPOSAL))
    assert report.verdict == "fail" and "changes the mass of the state" in report.worst
    report = validate(KeepsProposedDensity(PROPOSAL), models=["ring"])
    assert report.verdict == "fail" and "values cached in the state" in report.worst


def test_finite_target_of_a_user():
    mass = np.array([1.0, 2.0, 3.0])
    target = bi.Target(
        log_density=lambda x: jnp.log(jnp.asarray(mass))[x], has_gradient=False, name="mine"
    )
    atoms = Atoms(np.arange(3), mass)
    validate(DiscreteMetropolis(PROPOSAL), target, start=atoms).raise_if_failed()
    wrong = Atoms(np.arange(3), mass[::-1])
    assert validate(DiscreteMetropolis(PROPOSAL), target, start=wrong).verdict == "fail"


# ---------------------------------------------------------------- composed blocks


def filter_of(model, num_particles=2, resampling=None):
    return (
        bi.spawn(model.initial, num_particles)
        >> bi.weigh(model.log_g0)
        >> bi.scan(
            (resampling or bi.resample("systematic", ess_below=0.8))
            >> bi.extend(model.kernel, model.log_g)
        )
    )


class StaleWeights(type(bi.resample())):
    """60: weights are kept although the particles were resampled.

    In the slots of multinomial resampling the particles are exchangeable, and then this does
    no harm to any expectation; the slots of systematic resampling are sorted.
    """

    def run(self, key, population=None):
        after, info = super().run(key, population)
        return after._replace(log_weights=population.log_weights), info


def test_particle_filter_is_properly_weighted():
    hidden_markov = MODELS["hidden_markov"]
    block = filter_of(hidden_markov.target)
    report = validate(block, hidden_markov)
    report.raise_if_failed()
    assert "L2" in report.law
    validate(block, expected=hidden_markov.atoms).raise_if_failed()


def test_bugs_in_a_composed_block_are_caught():
    hidden_markov = MODELS["hidden_markov"]
    model = hidden_markov.target
    block = filter_of(model, resampling=StaleWeights("systematic"))
    report = validate(block, hidden_markov)
    assert report.verdict == "fail"
    assert "E Ẑ / Z - 1 is" in report.worst and "instead of" in report.worst
    # 8: the first likelihood is used twice.
    twice = bi.FeynmanKac(
        initial=model.initial.function,
        log_g0=lambda x: 2.0 * model.log_g0(0, x),
        kernel=model.kernel,
        log_g=model.log_g.function,
        num_steps=3,
    )
    assert validate(filter_of(twice), hidden_markov).verdict == "fail"


def tempering(ladder):
    target = MODELS["tempered"].target
    path = bi.TemperedPath(target)
    with jax.enable_x64(True):
        start = bi.spawn(path.initial, 2, stage=path.start())
    return start >> bi.until(
        path.is_complete,
        bi.schedule(path, 0.7, ladder)
        >> bi.weigh(path.increment)
        >> bi.resample("systematic")
        >> bi.move(DiscreteMetropolis(PROPOSAL), path, 1, repeats=1),
    )


def test_adaptive_block_reports_its_exact_bias():
    tempered = MODELS["tempered"]
    validate(tempering((0.0, 0.4, 1.0)), tempered).raise_if_failed()
    report = validate(tempering(None), tempered)
    assert report.verdict == "inconclusive"
    assert "E Ẑ / Z - 1 is exactly" in report.worst and "Freeze what adapts" in report.worst
    bias = next(check for check in report.tests if check.name == "E Ẑ = Z").discrepancy
    assert 1e-6 < bias < 0.5
    with pytest.raises(ValidationFailed, match="inconclusive, which is no pass"):
        report.raise_if_failed()


def test_blocks_that_do_not_fit():
    hidden_markov = MODELS["hidden_markov"]
    block = filter_of(hidden_markov.target)
    with pytest.raises(TypeError, match="needs expected=Atoms"):
        validate(block)
    with pytest.raises(ValueError, match=r"have leaves of shape \[\(\)\], the states of"):
        validate(block, expected=Atoms(np.zeros((2, 3)), np.ones(2)))
    with pytest.raises(LawMismatch, match="waits for a population"):
        validate(bi.weigh(hidden_markov.target.log_g0), hidden_markov)
    with pytest.raises(LawMismatch, match="undeclared part"):
        validate(block >> bi.custom(lambda key, p: p), hidden_markov)
    with pytest.raises(LawMismatch, match="states the law L2"):
        validate(block, hidden_markov, law="invariant")
    guest = bi.spawn(lambda key: jax.random.randint(key, (), 0, 2), 2)
    with pytest.raises(UnenumerableDrawError, match="draws outside of"):
        validate(guest, expected=hidden_markov.atoms)


# ---------------------------------------------------------------- kernels, statistically


def test_several_models_share_one_rate_of_false_alarms():
    """False-alarm rate 1e-6 for the call."""
    report = validate(RandomWalk(), models=["skewed", "correlated_normal"], level=QUICK)
    report.raise_if_failed()
    assert {check.model for check in report.tests} == {"skewed", "correlated_normal"}
    assert "skewed 0." in report.notes[0] and "correlated_normal 0." in report.notes[0]
    assert report.power.replicates == (20_000, 80_000, 320_000)


def test_spent_budget_is_inconclusive():
    report = validate(
        RandomWalk(), models=["skewed", "correlated_normal"], level=QUICK, budget_s=1e-9
    )
    assert report.verdict == "inconclusive"
    assert report.worst == "the budget ended before correlated_normal"


def test_default_level_and_integer_or_typed_key():
    """False-alarm rate 1e-6 a call."""
    report = validate(RandomWalk(), MODELS["skewed"])
    report.raise_if_failed()
    assert report.power.effect < 0.025
    typed = validate(RandomWalk(), MODELS["skewed"], key=accel.as_key(5), level=QUICK)
    same = validate(RandomWalk(), MODELS["skewed"], key=5, level=QUICK)
    assert typed.tests == same.tests
    assert (
        same.key == 5 and typed.key == np.asarray(jax.random.key_data(accel.as_key(5))).tolist()
    )


class Unhashable(RandomWalk):
    __hash__ = None


def normal_target(**options):
    return bi.Target(log_density=lambda x: -0.5 * jnp.sum(x**2), name="mine", **options)


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        (normal_target(), {}, ValueError, "mine has no sample_exact.*give Target"),
        (lambda x: x, {}, TypeError, "target must be a Target or a BatteryModel, got function"),
        (
            normal_target(sample_exact=lambda key: random.categorical(key, jnp.zeros(2))),
            {},
            TypeError,
            "draws int32 positions.*pass start=Atoms",
        ),
        (
            normal_target(sample_exact=lambda key: jnp.log(random.normal(key, (2,)))),
            {},
            ValueError,
            "gave a position that is not finite",
        ),
        (
            bi.Target(
                log_density=lambda x: jnp.where(x[0] > 0, 0.0, -jnp.inf),
                sample_exact=lambda key: random.normal(key, (2,)),
            ),
            {},
            ValueError,
            "is -inf at .* of its own exact draws",
        ),
        (None, {"models": ["bogus"]}, ValueError, "unknown model 'bogus': choose from"),
        (None, {"models": []}, ValueError, "models is empty"),
        (None, {"models": ["ring", "skewed"]}, ValueError, "mixes finite and continuous"),
        (MODELS["skewed"], {"models": ["skewed"]}, TypeError, "give target= or models=, not"),
        (MODELS["hidden_markov"], {}, TypeError, "is a Feynman-Kac model"),
        (MODELS["skewed"], {"level": "exact"}, ValueError, "is no amount of sampling"),
        (MODELS["skewed"], {"level": "slow"}, ValueError, r"one of \['quick', 'full', 'exact'"),
        (MODELS["skewed"], {"num_steps": 0}, ValueError, "num_steps must be a whole number"),
        (MODELS["skewed"], {"alpha": 2.0}, ValueError, "alpha must be a probability"),
        (MODELS["skewed"], {"law": "resampling"}, TypeError, "target= means nothing for a re"),
        (None, {"start": MODELS["ring"].atoms}, TypeError, "pass the Target as well"),
        (MODELS["ring"], {}, TypeError, "moves vectors of floating-point numbers"),
    ],
)
def test_kernels_that_do_not_fit(target, options, error, message):
    with pytest.raises(error, match=message):
        validate(RandomWalk(), target, **{"level": QUICK, **options})


def test_kernel_without_settings_to_hash():
    with pytest.raises(TypeError, match="Unhashable cannot be hashed"):
        validate(Unhashable(), MODELS["skewed"], level=QUICK)


def test_discrete_kernel_without_a_model_of_its_size():
    with pytest.raises(ValueError, match="no battery model has the states of Discrete"):
        validate(DiscreteMetropolis(((0.5, 0.5), (0.5, 0.5))))


# ---------------------------------------------------------------- options are not ignored


@pytest.mark.parametrize(
    ("block", "options", "error", "words"),
    [
        ("systematic", {"law": "invariant"}, LawMismatch, "cannot have the law L3 invariant"),
        (MODELS["banana"], {"law": "draws"}, LawMismatch, "a target cannot have the law L1"),
        ("systematic", {"level": "ranks"}, ValueError, "does not fit a resampling scheme"),
        ("systematic", {"num_steps": 3}, TypeError, "num_steps= means nothing for"),
        ("systematic", {"expected": "even"}, ValueError, "names the scheme that this one"),
        (RandomWalk(), {"level": "scale"}, ValueError, "does not fit a kernel"),
        (RandomWalk(), {"budget_s": -1.0}, ValueError, "must be a positive number"),
        (RandomWalk(), {"budget_s": "1"}, ValueError, "must be a positive number"),
        (RandomWalk, {}, TypeError, "RandomWalk is a class: pass an object of it"),
        (around_the_ring, {"observed": "x"}, TypeError, "observed must be a function"),
        (lambda key: key, {}, TypeError, "law='draws' for sampler"),
    ],
)
def test_what_means_nothing_is_refused(block, options, error, words):
    with pytest.raises(error, match=words):
        validate(block, **options)


def test_the_key_of_a_report_gives_it_again():
    first = validate(RandomWalk(), MODELS["skewed"], key=jax.random.key(5), level=QUICK)
    again = validate(RandomWalk(), MODELS["skewed"], key=first.key, level=QUICK)
    assert [c.statistic for c in first.tests] == [c.statistic for c in again.tests]


def test_models_may_be_any_iterable():
    report = validate(RandomWalk(), models=(m for m in ["skewed"]), level=QUICK)
    assert report.verdict == "pass"


def test_a_scheme_is_compared_with_the_one_that_it_claims_to_be():
    """Equal means of the offspring leave open whether strata are independent."""
    one_uniform = functools.partial(draw_ancestors, scheme="systematic")
    ancestors = lambda key, log_weights, num: one_uniform(key, log_weights, num=num)
    validate(ancestors, law="resampling").raise_if_failed()
    validate(ancestors, law="resampling", expected="systematic").raise_if_failed()
    report = validate(ancestors, law="resampling", expected="stratified")
    assert report.verdict == "fail"
    assert "come with probability" in report.worst


def test_a_branch_that_is_never_taken_is_no_pass():
    hidden_markov = MODELS["hidden_markov"]
    fk = hidden_markov.target
    step = bi.resample("systematic", ess_below=0.01) >> bi.extend(fk.kernel, fk.log_g)
    block = bi.spawn(fk.initial, 2) >> bi.weigh(fk.log_g0) >> bi.scan(step)
    report = validate(block, hidden_markov)
    assert report.verdict == "inconclusive"
    assert "was never taken" in report.worst


def test_randomness_that_does_not_come_from_the_key_is_refused():
    rng = np.random.default_rng(0)
    start = Atoms(np.arange(3), np.ones(3))
    with pytest.raises(UnenumerableDrawError, match="another program each time"):
        validate(lambda key, x: (x + int(rng.integers(1000))) % 3, start=start)
    own_key = lambda key, x: (x + jax.random.randint(jax.random.key(1), (), 0, 3)) % 3
    with pytest.raises(UnenumerableDrawError, match="makes a key of its own"):
        validate(own_key, start=start)


def test_states_too_close_to_be_told_apart_are_refused():
    start = Atoms(np.arange(3) * 1e-12, np.ones(3))
    with pytest.raises(ValueError, match="number 0 and 1 differ by less than 1e-10"):
        validate(lambda key, x: 0.0 * x, start=start)


def test_a_table_of_numpy_in_a_step_is_explained():
    table = np.array([1, 2, 0])
    with pytest.raises(TypeError, match=r"convert the table with jnp\.asarray"):
        validate(lambda key, x: table[x], start=Atoms(np.arange(3), np.ones(3)))
