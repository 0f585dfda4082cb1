"""SMC samplers along data, tolerances and levels, enumerated on finite models."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.errors import LawMismatch
from bayeskit.inference import (
    ABCMove,
    DataPath,
    LevelPath,
    PointState,
    TemperedPath,
    TolerancePath,
    annealed_importance_sampling,
    blocks,
    effective_sample_size,
    geometric_bridge,
    law,
    move,
    nested_sampling_at_levels,
    persist,
    random,
    renew,
    resample,
    resample_move,
    reserve,
    schedule,
    spawn,
    until,
    weigh,
    when,
)
from bayeskit.inference.blocks import renewing
from bayeskit.validation import exact
from bayeskit.validation.exact import Atoms
from tests.inference import finite_models as fm

MODEL = fm.tempered_model(num_states=3)


def assert_exact(block, expected, observed=fm.positions):
    assert block.law.kind is law.PROPERLY_WEIGHTED
    fm.assert_exact(block, expected, observed=observed)


# ---------------------------------------------------------------- tempering without adapting


def test_annealed_importance_sampling():
    path = TemperedPath(MODEL.target)
    block = annealed_importance_sampling(path, MODEL.kernel, 2, fm.LADDER)
    assert "resample" not in block.explain()
    assert_exact(block, MODEL.measure())


class NewPower(TemperedPath):
    """Weighs by the likelihood to the new temperature, not to its increment."""

    @staticmethod
    def _increment(stage, particle):
        return stage.current * particle.components[1]


def test_annealing_with_the_temperature_for_its_increment_is_caught():
    path = NewPower(MODEL.target)
    block = annealed_importance_sampling(path, MODEL.kernel, 2, fm.LADDER)
    fm.assert_caught(block, MODEL.measure(), observed=fm.positions)


LOG_REFERENCE = np.log([0.2, 0.5, 0.3])


def to_model(log_reference):
    sample = lambda key: random.categorical(key, fm.log_table(LOG_REFERENCE))
    return geometric_bridge(MODEL.target, log_reference, sample)


def test_geometric_bridge():
    """The reference is another distribution; the measure reached is prior times likelihood."""
    bridge = to_model(lambda x: fm.log_table(LOG_REFERENCE)[x])
    block = resample_move(TemperedPath(bridge), MODEL.kernel, 2, (0.0, 0.4, 1.0))
    assert_exact(block, MODEL.measure())


def test_reference_that_is_not_normalised_is_caught():
    bridge = to_model(lambda x: fm.log_table(LOG_REFERENCE)[x] + np.log(2.0))
    block = resample_move(TemperedPath(bridge), MODEL.kernel, 2, (0.0, 0.4, 1.0))
    fm.assert_caught(block, MODEL.measure(), observed=fm.positions)


# ---------------------------------------------------------------- one datum after another

TERMS = np.log(np.random.default_rng(7).random((3, 3)) + 0.05)  # (state, datum)
POSTERIOR = Atoms(np.arange(3), np.exp(MODEL.log_prior + TERMS.sum(axis=1)))


def itself(positions):
    return positions


def data_path(path_type=DataPath, log_terms=lambda x: fm.log_table(TERMS)[x]):
    return path_type(
        log_prior=MODEL.target.log_prior,
        log_terms=log_terms,
        sample_prior=MODEL.target.sample_prior,
        has_gradient=False,
    )


@pytest.mark.parametrize("ladder", [(0, 1, 2, 3), (0, 2, 3)])
def test_data_one_by_one_and_in_batches(ladder):
    block = resample_move(data_path(), MODEL.kernel, 2, ladder)
    assert_exact(block, POSTERIOR, itself)


def test_every_partial_evidence_is_unbiased():
    for num in (1, 2):
        path = data_path(log_terms=lambda x, num=num: fm.log_table(TERMS)[x, :num])
        block = resample_move(path, MODEL.kernel, 2, path.every_datum())
        mass = np.exp(MODEL.log_prior + TERMS[:, :num].sum(axis=1))
        assert fm.mean_evidence(block) == pytest.approx(mass.sum(), rel=1e-10)


def triggered(num_particles):
    """`ibis` without its adaptation: renewal where the weights are uneven."""
    path = data_path()
    uneven = lambda p: effective_sample_size(p.log_weights) < 0.8 * p.num_particles
    renewal = resample("systematic") >> move(MODEL.kernel, path, repeats=1)
    step = schedule(path, ladder=path.every_datum()) >> weigh(path.increment)
    start = spawn(path.initial, num_particles, stage=path.start())
    return start >> until(path.is_complete, step >> when(uneven, renewal))


def bias(block, expected):
    return fm.mean_evidence(block) / expected.mass.sum() - 1


def test_moving_when_uneven_is_biased_by_a_known_amount():
    assert triggered(2).law.kind is law.CONSISTENT
    biases = {num: bias(triggered(num), POSTERIOR) for num in (2, 3)}
    print("ibis, E Ẑ / Z - 1:", {num: f"{value:.2e}" for num, value in biases.items()})
    assert 1e-9 < abs(biases[3]) < 0.1


def test_number_of_data_chosen_by_effective_sample_size():
    """The most data that keep the effective sample size, and at least one."""
    path = data_path()
    population = blocks.run(spawn(path.initial, 50, stage=path.start()), 3)
    for fraction in (0.05, 0.5, 0.9, 0.999):
        sizes = []
        for num in (1, 2, 3):
            terms = TERMS[np.asarray(population.particles), :num].sum(axis=1)
            weights = np.exp(terms) / np.exp(terms).sum()
            sizes.append(1 / np.sum(weights**2))
        expected = max([1] + [n for n in (1, 2, 3) if min(sizes[:n]) >= fraction * 50])
        assert float(path.choose(population, fraction)) == expected


class FirstDatumInThePrior(DataPath):
    """Moves at a density that holds the first datum twice."""

    def at(self, stage):
        density = super().at(stage)
        partial = density.target
        twice = lambda x: partial.components(x).at[1].add(self.log_terms(x)[0])
        return density._replace(target=_Other(partial, twice))


class _Other:
    def __init__(self, target, components):
        self.has_gradient, self.name, self.components = target.has_gradient, "π", components


class FirstDatumAgain(DataPath):
    """Starts from the posterior of the first datum and weighs by that datum again."""

    def _increment(self, stage, position):
        first = jnp.where(stage.previous == 0, self.log_terms(position)[0], 0.0)
        return super()._increment(stage, position) + first


class OldPartialPosterior(DataPath):
    """Moves at the partial posterior before the new datum."""

    def at(self, stage):
        return super().at(stage._replace(current=stage.previous))


@pytest.mark.parametrize(
    "path_type", [FirstDatumInThePrior, FirstDatumAgain, OldPartialPosterior]
)
def test_mistakes_on_a_data_path_are_caught(path_type):
    path = data_path(path_type)
    block = resample_move(path, MODEL.kernel, 2, path.every_datum())
    fm.assert_caught(block, POSTERIOR)


def test_move_before_the_new_datum_is_refused():
    path = data_path()
    step = schedule(path, ladder=path.every_datum()) >> move(MODEL.kernel, path, repeats=1)
    with pytest.raises(LawMismatch, match=r"leaves π_data\[t\] invariant"):
        spawn(path.initial, 2, stage=path.start()) >> until(
            path.is_complete, step >> weigh(path.increment)
        )


# ---------------------------------------------------------------- falling tolerances


class Simulator(NamedTuple):
    log_prior: np.ndarray  # (K,)
    log_simulation: np.ndarray  # (K, Z)
    distance: np.ndarray  # (Z,)
    proposal: np.ndarray  # (K, K)

    def path(self, num_simulations=1, path_type=TolerancePath):
        def simulate_distance(key, x):
            data = random.categorical(key, fm.log_table(self.log_simulation)[x])
            return fm.log_table(self.distance)[data]

        return path_type(
            log_prior=lambda x: fm.log_table(self.log_prior)[x],
            sample_prior=lambda key: random.categorical(key, fm.log_table(self.log_prior)),
            simulate_distance=simulate_distance,
            tolerance=0.5,
            num_simulations=num_simulations,
        )

    def propose(self, key, x, tuning):
        table = fm.log_table(np.log(self.proposal))
        proposed = random.categorical(key, table[x])
        return proposed, table[proposed, x] - table[x, proposed]

    def measure(self, tolerance, num_simulations):
        """Prior times probability of the distances times share within the tolerance."""
        columns, mass = [], []
        num_states, num_data = self.log_simulation.shape
        for x in range(num_states):
            for data in itertools.product(range(num_data), repeat=num_simulations):
                distances = self.distance[list(data)]
                log_mass = self.log_prior[x] + self.log_simulation[x, list(data)].sum()
                mass.append(np.exp(log_mass) * np.mean(distances <= tolerance))
                columns.append([x, *distances])
        return Atoms(np.array(columns), np.array(mass))


def simulator(seed=5):
    rng = np.random.default_rng(seed)
    rows = lambda num, *shape: rng.dirichlet(np.ones(num), shape or None)
    return Simulator(np.log(rows(2)), np.log(rows(3, 2)), np.array([0.3, 1.0, 2.0]), rows(2, 2))


SIMULATOR = simulator()
TOLERANCES = (np.inf, 1.5, 0.5)


def state_and_distances(particles):
    state = np.asarray(particles.position, float)[:, None]
    return np.concatenate([state, np.asarray(particles.components)[:, 1:]], axis=1)


def abc(num_particles, num_simulations=1, path_type=TolerancePath, move_type=ABCMove):
    path = SIMULATOR.path(num_simulations, path_type)
    moves = move_type(path, SIMULATOR.propose)
    return resample_move(path, moves, num_particles, TOLERANCES)


@pytest.mark.parametrize("num_simulations", [1, 2])
def test_abc_at_fixed_tolerances(num_simulations):
    expected = SIMULATOR.measure(0.5, num_simulations)
    assert_exact(abc(2, num_simulations), expected, state_and_distances)


class OldTolerance(TolerancePath):
    """Weighs by the share within the tolerance before."""

    def _increment(self, stage, particle):
        return super()._increment(stage._replace(current=stage.previous), particle)


class MovesAtTheOldTolerance(ABCMove):
    def step(self, key, state, stage=None):
        return super().step(key, state, stage._replace(current=stage.previous))


class KeepsOldData(ABCMove):
    """Accepts the parameters and forgets to take the new data along."""

    def step(self, key, state, stage=None):
        moved, info = super().step(key, state, stage)
        components = moved.components.at[1:].set(state.components[1:])
        return moved._replace(components=components), info


@pytest.mark.parametrize(
    "parts",
    [
        {"path_type": OldTolerance},
        {"move_type": MovesAtTheOldTolerance},
        {"move_type": KeepsOldData},
    ],
)
def test_mistakes_with_tolerances_are_caught(parts):
    fm.assert_caught(abc(2, **parts), SIMULATOR.measure(0.5, 1), observed=state_and_distances)


class InThreeStages(TolerancePath):
    """Adapts twice and goes to the last tolerance, so that every run ends."""

    def choose(self, population, fraction):
        chosen = super().choose(population, fraction)
        return jnp.where(population.stage.number < 2, chosen, self.end)


def test_adaptive_tolerances_are_biased_by_a_known_amount():
    path = SIMULATOR.path(path_type=InThreeStages)
    step = schedule(path, 0.5) >> weigh(path.increment) >> resample()
    step = step >> move(ABCMove(path, SIMULATOR.propose))
    block = spawn(path.initial, 2, stage=path.start())
    block = block >> until(path.is_complete, step, max_rounds=3)
    assert block.law.kind is law.CONSISTENT
    found = bias(block, SIMULATOR.measure(0.5, 1))
    print(f"abc, E Ẑ / Z - 1 with 2 particles: {found:.2e}")
    assert 1e-6 < abs(found) < 1


def test_tolerance_keeps_a_share_of_the_distinct_distances():
    path = SIMULATOR.path()
    distances = jnp.array([3.0, 1.0, 1.0, 1.0, 2.0, 5.0, 9.0])
    particles = PointState(jnp.zeros(7), jnp.stack([jnp.zeros(7), distances], axis=1))
    stage = path.start()._replace(current=jnp.asarray(6.0))
    population = blocks.run(spawn(path.initial, 7, stage=path.start()), 0)
    population = population._replace(particles=particles, stage=stage)
    # Distinct and within 6: 1, 2, 3, 5. Copies of 1 count once.
    for distinct, wanted in ((0.2, 1.0), (0.5, 2.0), (0.75, 3.0), (0.9, 5.0)):
        assert float(path.choose(population, distinct)) == wanted
    # A tolerance that is one of the distances falls to the next below.
    stage = stage._replace(current=jnp.asarray(5.0))
    assert float(path.choose(population._replace(stage=stage), 0.9)) == 3.0


# ---------------------------------------------------------------- rising levels

# Populations hold all their past, so that two states are many atoms already.
COIN = fm.tempered_model(num_states=2, seed=4)
LOW, HIGH = np.sort(COIN.log_likelihood)
LEVELS = (LOW - 0.1, LOW + 0.1)


def shells(num_particles, path_type=LevelPath, model=COIN, levels=LEVELS):
    return nested_sampling_at_levels(
        path_type(model.target), model.kernel, num_particles, levels
    )


def test_nested_sampling_at_fixed_levels():
    assert_exact(shells(2), COIN.measure())


@pytest.mark.slow
def test_nested_sampling_on_three_states():
    between = (np.sort(MODEL.log_likelihood)[0] + 0.1,)
    assert_exact(shells(2, model=MODEL, levels=between), MODEL.measure())


def test_nested_sampling_without_levels_is_importance_sampling():
    assert_exact(shells(2, levels=()), COIN.measure())


def test_particles_of_likelihood_zero():
    nowhere = MODEL._replace(log_likelihood=np.array([-np.inf, 0.3, -0.8]))
    assert_exact(shells(2, model=nowhere, levels=(-0.5,)), nowhere.measure())


class WrongShrinkage(LevelPath):
    """Takes half of the prior to be left at each level, whatever is."""

    def _increment(self, stage, particle):
        above = particle.components[1] > stage.current
        return super()._increment(stage, particle) + jnp.where(above, jnp.log(0.5), 0.0)


class BelowTheLevelToo(LevelPath):
    """Moves the prior at the level before."""

    def at(self, stage):
        return super().at(stage._replace(current=stage.previous))


class ShellAtItsLevel(LevelPath):
    """A shell counts with the likelihood of its upper level, as in a Riemann sum."""

    def _increment(self, stage, particle):
        exact_one = super()._increment(stage, particle)
        inside = (exact_one != 0) & jnp.isfinite(stage.current)
        return jnp.where(inside, stage.current, exact_one)


@pytest.mark.parametrize("path_type", [WrongShrinkage, BelowTheLevelToo, ShellAtItsLevel])
def test_mistakes_with_levels_are_caught(path_type):
    fm.assert_caught(shells(2, path_type), COIN.measure(), observed=fm.positions)


class LosesTheMass(renewing.Renew):
    """New particles get the weights of a whole population."""

    def run(self, key, population=None):
        renewed, info = super().run(key, population)
        first = population.stage.number * 2
        equal = jnp.full(2, -jnp.log(2.0), renewed.log_weights.dtype)
        log_weights = jax.lax.dynamic_update_slice(renewed.log_weights, equal, (first,))
        return renewed._replace(log_weights=log_weights), info


FOUR = fm.tempered_model(num_states=4, seed=2)


def levels_by(renewal_type, above=None):
    # While particles are independent, those above a level that is one of them are draws from
    # the prior above it, so that adapting costs nothing. It shows from the third level on.
    model = FOUR if above else COIN
    path = LevelPath(model.target)
    ladder = None if above else (-np.inf, *LEVELS, np.inf)
    body = resample("systematic", num=2) >> move(model.kernel, path, repeats=1)
    step = schedule(path, above or 0.5, ladder) >> weigh(path.increment)
    step = step >> renewal_type(body, path.is_alive)
    start = spawn(path.initial, 2, stage=path.start()) >> reserve(4)
    return start >> until(path.is_complete, step, max_rounds=4)


def test_renewal_that_forgets_the_mass_is_caught():
    fm.assert_caught(levels_by(LosesTheMass), COIN.measure(), observed=fm.positions)


@pytest.mark.slow
def test_adaptive_levels_are_biased_by_a_known_amount():
    block = levels_by(renew, above=0.5)
    assert block.law.kind is law.CONSISTENT
    found = bias(block, FOUR.measure())
    print(f"nested sampling, E Ẑ / Z - 1 with 2 particles: {found:.2e}")
    assert 1e-6 < abs(found) < 0.2


# ---------------------------------------------------------------- all stages together


def persistent(num_particles, ladder, persist_type=persist):
    """Persistent sampling, round by round, as one function of a key."""
    path = TemperedPath(COIN.target)
    body = resample("systematic", num=num_particles) >> move(COIN.kernel, path, repeats=1)
    step = schedule(path, ladder=ladder) >> weigh(path.increment) >> persist_type(path, body)
    start = spawn(path.initial, num_particles, stage=path.start()) >> reserve(len(ladder) - 1)

    def run(key, _):
        first, *rest = random.split(key, len(ladder))
        population, _ = start.run(first)
        for one in rest:
            population, _ = step.run(one, population)
        return jnp.exp(population.log_evidence)

    assert step.arrow(law.Law(path.measure.at("t-1"))).kind is law.CONSISTENT
    result = exact.enumerate_paths(run, fm.NOTHING)
    return float(result.state @ result.mass) / COIN.measure().mass.sum() - 1


def test_persistent_sampling_is_biased_and_the_bias_falls():
    biases = {num: persistent(num, (0.0, 0.5, 1.0)) for num in (1, 2)}
    print("persistent sampling, E Ẑ / Z - 1:", {n: f"{b:.2e}" for n, b in biases.items()})
    assert 1e-4 < abs(biases[2]) < abs(biases[1])


def test_mixture_without_the_evidences_is_caught(monkeypatch):
    right = renewing.balanced_log_weights

    def wrong(log_likelihood, stage, ladder):
        return right(log_likelihood, stage, ladder._replace(log_evidence=jnp.zeros(3)))

    monkeypatch.setattr(renewing, "balanced_log_weights", wrong)
    found = persistent(2, (0.0, 0.5, 1.0))
    print(f"mixture without the evidences, E Ẑ / Z - 1: {found:.2e}")
    assert abs(found) > 20 * 1e-3


def test_weights_of_the_mixture():
    """With the true evidences they are the density ratio of a stage to the mixture."""
    temperatures = np.array([0.0, 0.4, 1.0])
    evidences = np.array([COIN.measure(b).mass.sum() for b in temperatures])
    stage = TemperedPath(COIN.target).start()._replace(number=2, current=1.0)
    ladder = renewing.LadderSoFar(jnp.asarray(temperatures), jnp.log(evidences))
    found = renewing.balanced_log_weights(jnp.asarray(COIN.log_likelihood), stage, ladder)
    densities = [COIN.measure(b).mass for b in temperatures]
    mixture = np.mean([d / d.sum() for d in densities], axis=0)
    np.testing.assert_allclose(np.exp(found), densities[-1] / mixture, rtol=1e-5)
    assert np.sum(np.exp(found) * mixture) == pytest.approx(evidences[-1], rel=1e-5)
