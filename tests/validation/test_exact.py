"""Exact mode: all paths add up, right blocks agree to rounding, wrong ones do not."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.errors import LawMismatch, TooManyPathsError, UnenumerableDrawError
from bayeskit.inference import (
    DiscreteMetropolis,
    Population,
    TemperedPath,
    blocks,
    custom,
    move,
    random,
    resample,
    schedule,
    until,
    weigh,
)
from bayeskit.inference.kernels.base import metropolis
from bayeskit.inference.measure import PointState
from bayeskit.validation import exact
from bayeskit.validation.exact import Atoms, Enumeration
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=2)
FILTER = fm.filter_blocks(fm.path_model(CHAIN), num_particles=2)
MODEL = fm.tempered_model(num_states=3)
PATH = TemperedPath(MODEL.target)


def coins(key, num):
    return random.categorical(key, jnp.zeros((num, 2)))


# ---------------------------------------------------------------- all paths of one function


@pytest.mark.parametrize("num", [1, 9, 16])
def test_paths_of_coins_add_up(num):
    """2 to 65 536 paths, in chunks of every size; equal results are one atom."""
    enumeration = Enumeration()
    law = exact.enumerate_paths(lambda key, _: coins(key, num).sum(), fm.NOTHING, enumeration)
    assert enumeration.num_paths == 2**num
    assert enumeration.max_atoms == len(law.mass) == num + 1
    expected = [math.comb(num, k) / 2**num for k in law.state]
    np.testing.assert_allclose(law.mass, expected, rtol=1e-12)


def test_states_are_drawn_from_their_law_and_results_may_be_pytrees():
    start = Atoms({"x": np.array([0, 5])}, np.array([0.25, 3.0]))

    def throw(key, state):
        return {"x": state["x"], "sum": (state["x"] + coins(key, 1)[0],)}

    law = exact.enumerate_paths(throw, start)
    rows = zip(law.state["x"].tolist(), law.state["sum"][0].tolist(), law.mass, strict=True)
    assert sorted(rows) == [(0, 0, 0.125), (0, 1, 0.125), (5, 5, 1.5), (5, 6, 1.5)]


def test_function_without_a_draw():
    law = exact.enumerate_paths(lambda key, x: 2 * x, Atoms(np.arange(3), np.ones(3)))
    assert law.state.tolist() == [0, 2, 4]


def test_paths_of_probability_zero_are_dropped():
    law = exact.enumerate_paths(
        lambda key, _: random.categorical(key, fm.log_table([0.0, -np.inf, 0.0])), fm.NOTHING
    )
    assert law.state.tolist() == [0, 2]


def test_double_precision_ends_with_the_call():
    seen = []

    def look(key, _):
        seen.append(jnp.zeros(()).dtype)
        return coins(key, 1)

    exact.enumerate_paths(look, fm.NOTHING)
    assert set(seen) == {jnp.dtype("float64")}
    assert jnp.zeros(()).dtype == jnp.float32


def test_too_many_paths_names_what_to_reduce():
    with pytest.raises(
        TooManyPathsError,
        match=r"1\.07e\+09 paths exceed max_paths=2e\+07: 1 states times draws with "
        r"30 × 2 outcomes; the first 24 of 30 draws would fit",
    ):
        exact.enumerate_paths(lambda key, _: coins(key, 30), fm.NOTHING)
    with pytest.raises(TooManyPathsError, match=r"^8 paths exceed max_paths=7: "):
        exact.enumerate_paths(lambda key, _: coins(key, 3), fm.NOTHING, Enumeration(7))


def test_more_paths_than_a_float_can_count():
    with pytest.raises(TooManyPathsError, match=r"10\^602 paths exceed"):
        exact.enumerate_paths(lambda key, _: coins(key, 2000), fm.NOTHING)


def test_nan_probability_is_an_error():
    draw = lambda key, x: key.draw(jnp.log(jnp.array([0.5, 0.5])) * jnp.nan)
    with pytest.raises(FloatingPointError, match=r"a path has probability NaN.*path 0"):
        exact.enumerate_paths(draw, fm.NOTHING)


# ---------------------------------------------------------------- measures


def test_merge_adds_up_equal_states():
    state = {"a": np.array([1.0, 0.0, 1.0 + 1e-13]), "b": np.array([[2], [2], [2]])}
    merged = exact.merge(Atoms(state, np.array([0.5, 1.0, 0.25])))
    assert dict(zip(merged.state["a"].tolist(), merged.mass, strict=True)) == {0: 1, 1: 0.75}
    assert merged.state["b"].shape == (2, 1)


def test_merge_tells_minus_infinity_apart_but_not_the_sign_of_zero():
    merged = exact.merge(Atoms(np.array([0.0, -0.0, -np.inf, np.inf]), np.ones(4)))
    assert sorted(merged.mass.tolist()) == [1, 1, 2]


def test_discrepancy_is_the_largest_difference_relative_to_the_mass():
    expected = Atoms(np.array([0, 1, 2]), np.array([1.0, 2.0, 1.0]))
    assert exact.discrepancy(np.array([2, 1, 0, 1]), np.array([1, 1.5, 1, 0.5]), expected) == 0
    # Mass where none is expected counts, and mass that is missing.
    assert exact.discrepancy(np.array([0, 1, 7]), np.array([1, 2, 1]), expected) == 0.25
    assert exact.discrepancy(np.array([0, 1]), np.array([1.0, 2.0]), expected) == 0.25


# ---------------------------------------------------------------- block by block


@pytest.mark.parametrize("scheme", ["systematic", "multinomial"])
@pytest.mark.parametrize("ess_below", [None, 0.6])
def test_block_by_block_is_the_law_of_the_whole_program(scheme, ess_below):
    """The same filter as one program: every path of all its draws at once."""
    block = FILTER.with_resampling(resample(scheme, ess_below))
    with jax.enable_x64(True):
        by_parts = exact.push(block, fm.NOTHING, Enumeration())
    whole = exact.enumerate_paths(lambda key, _: block.run(key)[0], fm.NOTHING)
    evidence = np.exp(whole.state.log_evidence)
    seen = lambda population: (population.particles, np.exp(population.log_weights))
    error = exact.discrepancy(
        seen(whole.state),
        whole.mass * evidence,
        Atoms(seen(by_parts.state), by_parts.mass),
    )
    assert error < fm.TOLERANCE, f"discrepancy {error:.3e}"


def population_at(positions, stage=None):
    """One atom: a population of equal weights at given positions."""
    num = len(positions)
    population = Population(
        np.asarray(positions, np.int32)[None],
        np.full((1, num), -np.log(num)),
        np.zeros(1),
        stage,
        log_evidence_remainder=np.zeros(1),
    )
    return Atoms(population, np.ones(1))


def test_moves_one_by_one_are_the_law_of_the_whole_program():
    start = population_at([2, 0])
    block = move(MODEL.kernel, MODEL.target, 2, repeats=1)
    by_parts = exact.push(block, start, Enumeration())
    whole = exact.enumerate_paths(lambda key, p: block.run(key, p)[0].particles, start)
    error = exact.discrepancy(
        whole.state, whole.mass, Atoms(by_parts.state.particles, by_parts.mass)
    )
    assert error < fm.TOLERANCE, f"discrepancy {error:.3e}"


def atom_of(stage):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], stage)


def test_repeats_of_a_move_come_from_the_stage():
    """Each atom moves as often as its own stage says."""
    twice = atom_of(PATH.start()._replace(current=1.0, repeats=2))

    def moved(repeats, stage=None):
        block = move(MODEL.kernel, MODEL.target, repeats=repeats)
        after = exact.push(block, population_at([2], stage), Enumeration())
        return Atoms(after.state.particles, after.mass)

    error = exact.discrepancy(*moved(None, twice), moved(2))
    assert error < fm.TOLERANCE, f"discrepancy {error:.3e}"
    assert exact.discrepancy(*moved(1), moved(2)) > fm.CAUGHT


def test_move_that_is_tuned_is_one_program():
    """Nothing that a later adaptation may look at is left out; repeats come from the stage."""
    stage = PATH.start(tuning=MODEL.kernel.default_tuning(1))._replace(current=1.0)
    start = population_at([2, 0], atom_of(stage))
    moved = exact.push(move(MODEL.kernel, MODEL.target, repeats=1), start, Enumeration())
    assert not np.isnan(moved.state.stage.acceptance).any()
    by_stage = exact.push(move(MODEL.kernel, MODEL.target), start, Enumeration())
    seen = Atoms(by_stage.state.particles, by_stage.mass)
    error = exact.discrepancy(moved.state.particles, moved.mass, seen)
    assert error < fm.TOLERANCE, f"discrepancy {error:.3e}"


class LosesHalf(blocks.Chain):
    """Runs its parts and then loses half of the mass."""

    def run(self, key, population=None):
        population, info = super().run(key, population)
        return population._replace(log_evidence=population.log_evidence - np.log(2)), info


class MovesNothing(blocks.Move):
    def run(self, key, population=None):
        return population, {}


def test_subclass_is_checked_by_what_it_runs_and_not_by_what_its_parent_would():
    chain = FILTER.with_resampling(resample())
    wrong = LosesHalf(chain.first, chain.second)
    gamma = fm.path_measure(CHAIN)
    largest = gamma.mass.max() / gamma.mass.sum()
    assert exact.weighting_discrepancy(wrong, gamma) == pytest.approx(largest / 2)
    still = exact.push(
        MovesNothing(MODEL.kernel, MODEL.target), population_at([2, 0]), Enumeration()
    )
    assert still.state.particles.tolist() == [[2, 0]]


def test_branch_masses_tell_a_branch_that_is_never_taken():
    enumeration = Enumeration()
    block = FILTER.with_resampling(resample(ess_below=0.5))
    fm.assert_exact(block, fm.path_measure(CHAIN), enumeration)
    # Two weights have an effective size above 1 unless one of them is 0.
    assert enumeration.branch_mass["resample(systematic, ess<0.5)"][0] == 0
    assert enumeration.branch_mass["resample(systematic, ess<0.5)"][1] > 0


def test_programs_are_kept_on_the_blocks():
    traces = []

    def log_g(stage, x):
        traces.append(1)
        return fm.log_table([0.0, -1.0])[x[0]]

    block = FILTER.start >> weigh(log_g)
    first = fm.mean_evidence(block)
    num_traces = len(traces)
    assert fm.mean_evidence(block) == first
    # Counting the draws traces again; the compiled replay is used as it is.
    assert len(traces) <= num_traces + 1


def test_loop_that_does_not_end():
    body = schedule(PATH, ladder=(0.0, 0.5, 1.0)) >> weigh(PATH.increment)
    block = fm.tempering_start(PATH, 1) >> until(PATH.is_complete, body, max_rounds=1)
    with pytest.raises(TooManyPathsError, match="of the mass is not done after 1 rounds"):
        fm.mean_evidence(block)


def test_loop_of_unknown_length_inside_one_program():
    block = fm.tempered_blocks(MODEL, 2)
    with pytest.raises(UnenumerableDrawError, match="until has no fixed number of rounds"):
        exact.enumerate_paths(lambda key, _: block.run(key)[0], fm.NOTHING)


def test_blocks_without_a_law_to_check():
    with pytest.raises(LawMismatch, match="waits for a population: begin with spawn"):
        exact.weighting_discrepancy(resample(), fm.path_measure(CHAIN))
    unknown = FILTER.start >> custom(lambda key, population: population, "mine")
    with pytest.raises(LawMismatch, match="undeclared part"):
        exact.weighting_discrepancy(unknown, fm.path_measure(CHAIN))


# ---------------------------------------------------------------- invariance


def invariance(kernel, model=MODEL, temperature=1.0, num_steps=1, observed=None):
    """Law L3 of a kernel for a tempered target, on states with their cached components."""
    path = TemperedPath(model.target)
    with jax.enable_x64(True):
        density = path.at(path.start()._replace(current=jnp.asarray(temperature)))
        start = model.measure(temperature)
        states = jax.vmap(lambda x: kernel.init(x, density))(start.state.astype(np.int32))

    def step(key, state):
        for step_key in random.split(key, num_steps):
            state, _ = kernel.step(step_key, state, density, None)
        return state

    start = Atoms(states, start.mass)
    return exact.invariance_discrepancy(step, start, observed=observed or (lambda s: s))


@pytest.mark.parametrize("num_states", [2, 3, 5])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_discrete_metropolis_is_invariant_and_reversible(num_states, temperature):
    model = fm.tempered_model(num_states, seed=num_states)
    found = invariance(model.kernel, model, temperature)
    assert found.invariance < fm.TOLERANCE, f"|πK - π| = {found.invariance:.3e}"
    assert found.reversibility < fm.TOLERANCE, f"flow differs by {found.reversibility:.3e}"


def test_proposals_that_cannot_be_made_or_undone():
    """State 2 is proposed from 1 and never leads back: it must never be entered."""
    kernel = DiscreteMetropolis(((0.5, 0.5, 0.0), (0.2, 0.3, 0.5), (1.0, 0.0, 0.0)))
    found = invariance(kernel)
    assert max(found) < fm.TOLERANCE, f"discrepancies {found}"


def test_target_without_mass_somewhere():
    log_prior = np.log([0.2, 0.8, 1e-300])
    log_prior[2] = -np.inf
    model = MODEL._replace(log_prior=log_prior)
    path = TemperedPath(model.target)
    density = path.at(path.start()._replace(current=jnp.float32(1.0)))

    def step(key, x):
        return model.kernel.step(key, model.kernel.init(x, density), density, None)[0].position

    measure = model.measure()
    start = Atoms(measure.state[:2].astype(np.int32), measure.mass[:2])
    with jax.enable_x64(True):
        found = exact.invariance_discrepancy(step, start)
    assert max(found) < 1e-6, f"discrepancies {found}"
    # From outside it finds its way in, and stays.
    outside = Atoms(np.array([2], np.int32), np.ones(1))
    reached = exact.enumerate_paths(step, outside)
    assert set(reached.state.tolist()) <= {0, 1, 2}
    assert reached.mass[reached.state != 2].sum() > 0.1


def test_cycle_of_reversible_kernels_is_invariant_and_not_reversible():
    first = MODEL.kernel
    second = fm.tempered_model(num_states=3, seed=8).kernel
    density = MODEL.target.density()

    def step(key, x):
        for kernel, step_key in zip((first, second), random.split(key), strict=True):
            x = kernel.step(step_key, kernel.init(x, density), density, None)[0].position
        return x

    found = exact.invariance_discrepancy(step, MODEL.measure())
    assert found.invariance < fm.TOLERANCE, f"|πK - π| = {found.invariance:.3e}"
    assert found.reversibility > fm.CAUGHT


def test_only_what_is_observed_is_compared():
    """A coordinate that remembers the start is no part of the law of the rest."""

    def step(key, state):
        moved = MODEL.kernel.init(state["x"], MODEL.target.density())
        moved, _ = MODEL.kernel.step(key, moved, MODEL.target.density(), None)
        return {"x": moved.position, "count": state["count"] + 1}

    measure = MODEL.measure()
    start = Atoms({"x": measure.state, "count": np.zeros(3, int)}, measure.mass)
    assert exact.invariance_discrepancy(step, start).invariance > fm.CAUGHT
    found = exact.invariance_discrepancy(step, start, observed=lambda state: state["x"])
    assert max(found) < fm.TOLERANCE, f"discrepancies {found}"


# ---------------------------------------------------------------- planted mistakes


@dataclasses.dataclass(frozen=True)
class WrongRatio(DiscreteMetropolis):
    """Accepts by a function of the difference of log densities and the Hastings term."""

    log_ratio: object = None

    def step(self, key, state, density, tuning):
        proposal_key, accept_key = random.split(key)
        log_proposal = fm.log_table(np.log(self.proposal))
        here = state.position
        there = random.categorical(proposal_key, log_proposal[here])
        proposal = PointState(there, density.components(there))
        difference = density.combine(proposal.components) - density.combine(state.components)
        hastings = log_proposal[there, here] - log_proposal[here, there]
        ratio = self.log_ratio(difference, hastings)
        return metropolis(accept_key, state, proposal, ratio, jnp.asarray(False))


WRONG_RATIOS = {
    "no Hastings correction": lambda difference, hastings: difference,
    "Hastings correction inverted": lambda difference, hastings: difference - hastings,
    "accepts by the square": lambda difference, hastings: 2 * (difference + hastings),
    "compares log u with the ratio": lambda difference, hastings: jnp.exp(
        difference + hastings
    ),
}


def test_right_ratio_passes_in_the_same_frame():
    right = WrongRatio(
        MODEL.kernel.proposal, lambda difference, hastings: difference + hastings
    )
    assert max(invariance(right)) < fm.TOLERANCE


@pytest.mark.parametrize("mistake", WRONG_RATIOS)
def test_wrong_ratio_is_caught(mistake):
    found = invariance(WrongRatio(MODEL.kernel.proposal, WRONG_RATIOS[mistake]))
    print(f"{mistake}: |πK - π| = {found.invariance:.2e}, flow {found.reversibility:.2e}")
    assert found.invariance > fm.CAUGHT
    assert found.reversibility > fm.CAUGHT


class CachesTheProposal(DiscreteMetropolis):
    """A rejected step keeps the position and takes the cached density of the proposal."""

    def step(self, key, state, density, tuning):
        proposal_key, accept_key = random.split(key)
        log_proposal = fm.log_table(np.log(self.proposal))
        here = state.position
        there = random.categorical(proposal_key, log_proposal[here])
        proposal = PointState(there, density.components(there))
        ratio = density.combine(proposal.components) - density.combine(state.components)
        ratio += log_proposal[there, here] - log_proposal[here, there]
        moved, info = metropolis(accept_key, state, proposal, ratio, jnp.asarray(False))
        return moved._replace(components=proposal.components), info


def test_cached_density_of_a_rejected_proposal_is_caught():
    kernel = CachesTheProposal(MODEL.kernel.proposal)
    found = invariance(kernel)
    print(f"cached density of the proposal: |πK - π| = {found.invariance:.2e}")
    assert found.invariance > fm.CAUGHT
    # One step moves the position rightly; the second starts from the wrong cache.
    once, twice = (invariance(kernel, num_steps=n, observed=fm.positions) for n in (1, 2))
    assert once.invariance < fm.TOLERANCE
    print(f"the same, positions after two steps: |πK - π| = {twice.invariance:.2e}")
    assert twice.invariance > fm.CAUGHT
