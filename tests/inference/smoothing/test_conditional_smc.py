"""Conditional SMC by its exact transition probabilities; mistakes in it are caught."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.errors import MissingDensityError
from bayeskit.inference import law, random
from bayeskit.inference.algorithms.backward_sampling import BackwardSampling
from bayeskit.inference.algorithms.conditional_smc import ConditionalSMC
from bayeskit.inference.blocks import draw_ancestors
from bayeskit.inference.blocks.pinned import PinnedExtend, PinnedResample, PinnedSpawn
from tests.inference import finite_models as fm
from tests.inference.smoothing.wrong_draws import NoFilterWeight, SwappedArguments

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
PATHS = fm.path_measure(CHAIN)
GUIDED = fm.last_state_model(CHAIN)
SHORT = fm.random_chain(num_states=2, num_steps=2, seed=4)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, law.REVERSIBLE),
        ({"backward": True}, law.INVARIANT),
        ({"ancestor": True}, law.INVARIANT),
        ({"backward": True, "ancestor": True}, law.INVARIANT),
    ],
    ids=str,
)
def test_two_particles_and_three_times(options, kind):
    step = bi.conditional_smc(GUIDED, 2, **options)
    assert step.law_kind is kind
    bk.validate(step, start=PATHS).raise_if_failed()
    assert str(kind) in step.explain()
    assert "the reference and 1 independent draws" in step.explain()


@pytest.mark.parametrize("options", [{}, {"ancestor": True}, {"backward": True}], ids=str)
def test_three_particles(options):
    step = bi.conditional_smc(fm.last_state_model(SHORT), 3, **options)
    bk.validate(step, start=fm.path_measure(SHORT)).raise_if_failed()


@pytest.mark.parametrize("options", [{}, {"ancestor": True}, {"backward": True}], ids=str)
def test_systematic_resampling_given_the_reference(options):
    step = bi.conditional_smc(fm.last_state_model(SHORT), 3, scheme="systematic", **options)
    bk.validate(step, start=fm.path_measure(SHORT)).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", accel.SCHEME_NAMES)
def test_every_scheme(scheme):
    step = bi.conditional_smc(fm.last_state_model(SHORT), 2, scheme=scheme)
    assert step.law_kind is law.REVERSIBLE
    bk.validate(step, start=fm.path_measure(SHORT)).raise_if_failed()


def test_it_moves_a_population_of_paths():
    model, expected = fm.last_state_model(SHORT), fm.path_measure(SHORT)

    def draw(key):
        which = random.categorical(key, fm.log_table(np.log(expected.mass)))
        return jnp.asarray(expected.state)[which]

    step = bi.conditional_smc(model, 2, ancestor=True)
    whole = bi.spawn(draw, 2, model.paths) >> bi.move(step)
    fm.assert_exact(whole, expected._replace(mass=expected.mass / expected.mass.sum()))
    assert bi.run(whole, 0).particles.shape == (2, 2)


def test_one_time():
    chain = fm.random_chain(num_states=3, num_steps=1, seed=4)
    step = bi.conditional_smc(fm.last_state_model(chain), 2)
    bk.validate(step, start=fm.path_measure(chain)).raise_if_failed()


def test_ancestor_sampling_is_not_reversible():
    step = bi.conditional_smc(GUIDED, 2, ancestor=True)
    assert bk.validate(step, start=PATHS, law="reversible").verdict == "fail"


# ---------------------------------------------------------------- planted mistakes


@dataclass(frozen=True, eq=False, repr=False)
class NotPinned(PinnedExtend):
    """80: at one time the reference is proposed like any other particle."""

    def run(self, key, population=None):
        key, own_key = random.split(key)
        fresh = self.model.kernel(own_key, population.stage, population.particles[0])
        reference = jnp.where(
            population.stage == 1, self.reference.at[1].set(fresh), self.reference
        )
        return PinnedExtend(self.model, reference).run(key, population)


@dataclass(frozen=True, eq=False, repr=False)
class ResampledParent(PinnedExtend):
    """81: the reference is weighed with a parent that resampling chose."""

    def run(self, key, population=None):
        # Slot 1 was just drawn from all particles by their weights.
        particles = population.particles
        moved, info = PinnedExtend(self.model, self.reference).run(key, population)
        time = population.stage
        right = self.model.log_g(time, particles[0], moved.particles[0])
        wrong = self.model.log_g(time, particles[1], moved.particles[0])
        change = jnp.zeros_like(moved.log_weights).at[0].set(wrong - right)
        return bi.reweigh(moved, change), info


@dataclass(frozen=True, eq=False, repr=False)
class AncestorUnweighted(PinnedResample):
    """82: the ancestor of the reference is drawn without the weights."""

    def _log_steps(self, population):
        return super()._log_steps(population) - population.log_weights


@dataclass(frozen=True, eq=False, repr=False)
class AncestorWithoutPotential(PinnedResample):
    """The ancestor of a guided reference drawn by the proposal, without its weight."""

    def _log_steps(self, population):
        time = population.stage
        return jax.vmap(lambda b: self.model.log_m(time, b, self.reference[time]))(
            population.particles
        )


@dataclass(frozen=True, eq=False, repr=False)
class NaivePin(PinnedResample):
    """83: systematic resampling, and the reference written over the slot 0."""

    def _ancestors(self, key, log_weights, own):
        draw_key, order_key = random.split(key)
        num = len(log_weights)
        drawn = draw_ancestors(draw_key, log_weights, "systematic", num)
        return drawn[random.permutation(order_key, num)].at[0].set(own)


@dataclass(frozen=True, eq=False, repr=False)
class WrongSMC(ConditionalSMC):
    """Conditional SMC with one block exchanged for a wrong one."""

    resampling: type = PinnedResample
    extension: type = PinnedExtend
    draw: object = None

    def blocks(self, reference):
        right = super().blocks(reference)
        given = (self.model, reference)
        first = PinnedSpawn(*given, self.num_particles) >> bi.weigh(self.model.log_g0)
        step = self.resampling(*given, self.scheme, self.ancestor) >> self.extension(*given)
        kept = bi.remember(self.model.num_steps)
        filtered = first >> kept >> bi.scan(step >> kept)
        return filtered >> BackwardSampling(self.model, self.draw or right.second.draw, 1)


@pytest.mark.parametrize(
    "mistake",
    [
        {"extension": NotPinned},
        {"extension": ResampledParent},
        {"resampling": AncestorUnweighted, "ancestor": True},
        {"resampling": AncestorWithoutPotential, "ancestor": True},
        {"draw": NoFilterWeight()},
        {"draw": SwappedArguments()},
    ],
    ids=str,
)
def test_wrong_blocks_are_caught(mistake):
    wrong = WrongSMC(GUIDED, 2, **mistake)
    report = bk.validate(wrong, start=PATHS, law="invariant")
    print(max(check.discrepancy for check in report.tests))
    assert report.verdict == "fail"


def test_naive_pin_is_caught():
    """With two particles the other slot has the same law either way; with three it has not."""
    wrong = WrongSMC(fm.last_state_model(SHORT), 3, resampling=NaivePin)
    report = bk.validate(wrong, start=fm.path_measure(SHORT), law="invariant")
    print(max(check.discrepancy for check in report.tests))
    assert report.verdict == "fail"


# ---------------------------------------------------------------- ordinary keys, wrong input


def test_ordinary_keys():
    """Shares of all paths along a chain; a standard error is below 0.01."""
    step = bi.conditional_smc(GUIDED, 8, ancestor=True)
    paths, info = bi.chain(step, jnp.zeros(3, jnp.int32), 4000, key=1)
    share = np.bincount(np.asarray(paths) @ np.array([4, 2, 1]), minlength=8) / 4000
    assert np.abs(share - PATHS.mass / PATHS.mass.sum()).max() < 0.06
    assert 0 < info.acceptance.mean() < 1


def test_wrong_input():
    with pytest.raises(ValueError, match=r"num_particles must be at least 2, .* got 1"):
        bi.conditional_smc(GUIDED, 1)
    with pytest.raises(ValueError, match="unknown scheme 'best'"):
        bi.conditional_smc(GUIDED, 2, scheme="best")
    bare = bi.FeynmanKac(
        initial=GUIDED.initial,
        log_g0=lambda x: 0.0,
        kernel=GUIDED.kernel,
        log_g=GUIDED.log_g,
        num_steps=3,
    )
    assert bi.conditional_smc(bare, 2).measure == bare.paths
    for option in ("backward", "ancestor"):
        with pytest.raises(MissingDensityError, match="needs log_m"):
            bi.conditional_smc(bare, 2, **{option: True})
    with pytest.raises(ValueError, match=r"the 3 times of the model, got the shape \(4,\)"):
        bi.chain(bi.conditional_smc(GUIDED, 2), jnp.zeros(4, jnp.int32), 1)
