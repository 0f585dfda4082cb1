"""Every kernel leaves asymmetric targets invariant; every planted bug is caught.

False alarms: each call of `validate` fails a correct kernel with probability at most 1e-6.
The planted bugs are the numbered ones of a list of mistakes seen in samplers; each is a
subclass of the kernel that it spoils, and the same call that passes the kernel catches it.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

from bayeskit import inference as bi
from bayeskit.inference import (
    GHMC,
    HMC,
    MALA,
    PCN,
    Barker,
    DelayedRejection,
    EllipticalSlice,
    Independent,
    InfinityMALA,
    MultipleTry,
    NormalPrior,
    NoUTurn,
    RandomWalk,
    Slice,
    random,
)
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.measure import PointState
from bayeskit.validation import Level, battery, validate
from tests.inference.skew_normal import LINE_PRIOR, LINE_TARGET, PRIOR, TARGET

MODELS = battery("continuous")
MODELS_ON_A_LINE = battery("line")
# 20 000 replicates at first: compilation is what these tests cost.
QUICK = Level(num_stages=3, growth=4, first=20_000, num_frequencies=16)
NUTS = NoUTurn(max_tree_depth=5)
BOLD = RandomWalk(degrees_of_freedom=3, scales=(0.3, 1.0), blocks=((0,), (1,)))
STALE_PRIOR = NormalPrior([0.7, -0.5], covariance=[[0.64, 0.5], [0.5, 2.25]])


def check(kernel, model, **options):
    target = MODELS[model] if isinstance(model, str) else model
    report = validate(kernel, target, **{"level": QUICK, "key": 7, **options})
    print(report)
    return report


def assert_caught(kernel, model="skewed", **options):
    report = check(kernel, model, **options)
    assert report.verdict == "fail", report.worst
    return report


# ---------------------------------------------------------------- kernels that are right


@pytest.mark.parametrize("model", ["skewed", "correlated_normal"])
@pytest.mark.parametrize("kernel", [RandomWalk(), MALA(), HMC(), Independent(), NUTS], ids=str)
def test_kernel_passes(kernel, model):
    """False-alarm rate 1e-6."""
    report = check(kernel, model)
    report.raise_if_failed()
    assert report.power.effect < 0.05
    assert report.power.in_standard_deviations < 0.08


@pytest.mark.parametrize("model", sorted(set(MODELS) - {"skewed", "correlated_normal"}))
def test_random_walk_passes_the_rest_of_the_battery(model):
    """A check of the models too: draws and density belong together. Alarm rate 1e-6."""
    check(RandomWalk(), model).raise_if_failed()


def test_jittered_hmc_with_dense_metric_passes():
    """Trajectory lengths other than the nominal one, wrong metric. Alarm rate 1e-6."""
    kernel = HMC(jitter=0.6)
    with jax.enable_x64(True):
        factor = jnp.array([[0.9, 0.0], [0.4, 1.5]])
        tuning = kernel.default_tuning(2)._replace(phase=jnp.array(0.9), factor=factor)
    check(kernel, "skewed", tuning=tuning).raise_if_failed()


# ---------------------------------------------------------------- planted bugs, random walk


class DriftingWalk(RandomWalk):
    """9: an asymmetric proposal without the Hastings correction."""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x = state.position
        noise = random.normal(noise_key, x.shape, x.dtype)
        position = x + tuning.step_size * tuning.scale(noise + 0.2)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )


class SquaredRatio(RandomWalk):
    """13: accept with probability min(1, r²)."""

    def step(self, key, state, density, tuning):
        doubled = density._replace(coefficients=2.0 * density.coefficients)
        return super().step(key, state, doubled, tuning)


class LogOfUniformBelowRatio(RandomWalk):
    """13: accept if log u < r, which always holds."""

    def step(self, key, state, density, tuning):
        free = density._replace(coefficients=0.0 * density.coefficients)
        return super().step(key, state, free, tuning)


class KeepsProposedDensity(RandomWalk):
    """14: a rejection returns the log density of the proposal."""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x = state.position
        noise = random.normal(noise_key, x.shape, x.dtype)
        position = x + tuning.step_size * tuning.scale(noise)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        bad = not_usable(proposal.components)
        after, info = metropolis(accept_key, state, proposal, log_ratio, bad)
        return after._replace(components=proposal.components), info


class DropsRejections(RandomWalk):
    """15: a rejected step is tried once more instead of repeating the state."""

    def step(self, key, state, density, tuning):
        first_key, second_key = random.split(key)
        first, info = super().step(first_key, state, density, tuning)
        second, _ = super().step(second_key, state, density, tuning)
        return jax.tree.map(lambda a, b: jnp.where(info.accepted, a, b), first, second), info


class AcceptsNaN(RandomWalk):
    """16: "reject if u > r" accepts a NaN."""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x = state.position
        noise = random.normal(noise_key, x.shape, x.dtype)
        position = x + tuning.step_size * tuning.scale(noise)
        proposal = PointState(position, density.components(position))
        log_ratio = jnp.sum(proposal.components) - jnp.sum(state.components)
        log_ratio = jnp.where(jnp.isnan(log_ratio), jnp.inf, log_ratio)
        return metropolis(accept_key, state, proposal, log_ratio, jnp.asarray(False))


class IgnoresSupport(RandomWalk):
    """96: a density of zero is accepted."""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x = state.position
        noise = random.normal(noise_key, x.shape, x.dtype)
        position = x + tuning.step_size * tuning.scale(noise)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        log_ratio = jnp.where(proposal.components[0] == -jnp.inf, -1.0, log_ratio)
        bad = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, bad)


class RoundsDown(RandomWalk):
    """The state loses its precision on the way."""

    def step(self, key, state, density, tuning):
        after, info = super().step(key, state, density, tuning)
        return after._replace(position=after.position.astype(jnp.float32)), info


@pytest.mark.parametrize(
    ("bug", "model", "sign"),
    [
        (DriftingWalk, "skewed", "exact draws"),
        (SquaredRatio, "skewed", "exact draws"),
        (LogOfUniformBelowRatio, "skewed", "exact draws"),
        (KeepsProposedDensity, "skewed", "values cached in the state differ"),
        (AcceptsNaN, "skewed", "a proposal with a NaN density must be rejected"),
        (IgnoresSupport, "truncated", "ended where the density is zero"),
        (RoundsDown, "skewed", "from float64 of shape (2,) into float32 of shape (2,)"),
    ],
)
def test_bug_in_random_walk_is_caught(bug, model, sign):
    assert sign in assert_caught(bug(), model).worst


def test_bug_of_small_effect_is_caught_at_the_default_level():
    """One retry shifts little where the acceptance varies little: 1e5 replicates find it."""
    assert_caught(DropsRejections(), level="quick")


# ---------------------------------------------------------------- planted bugs, MALA


@dataclass(frozen=True)
class SpoiledMALA(MALA):
    """11: the drift back uses the gradient at the start. 12: a wrong scale of the proposal."""

    bug: str = ""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x = state.position
        h = tuning.step_size
        noise = random.normal(noise_key, x.shape, x.dtype)
        drift = 0.5 * h * tuning.scale_transposed(state.gradient)
        position = x + h * tuning.scale(drift + noise)
        proposal = PointState(position, *density.components_and_gradient(position))
        wrong_end = self.bug == "gradient at the wrong end"
        gradient = state.gradient if wrong_end else proposal.gradient
        drift_back = 0.5 * h * tuning.scale_transposed(gradient)
        noise_back = -(noise + drift + drift_back)
        # With h in place of h² the squares are h times too large.
        factor = {"scale h for h²": h, "no correction": 0.0}.get(self.bug, 1.0)
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            + 0.5 * factor * (jnp.sum(noise**2) - jnp.sum(noise_back**2))
        )
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )


@pytest.mark.parametrize(
    "bug", ["gradient at the wrong end", "scale h for h²", "no correction"]
)
def test_bug_in_mala_is_caught(bug):
    assert_caught(SpoiledMALA(bug=bug))


# ---------------------------------------------------------------- planted bugs, independent


class NoProposalRatio(Independent):
    """17: independent Metropolis-Hastings without the ratio of proposal densities."""

    def _log_proposal(self, position, tuning):
        return jnp.zeros((), position.dtype)


class LighterTails(Independent):
    """12: the density of the proposal belongs to another scale than its draws."""

    def _log_proposal(self, position, tuning):
        return super()._log_proposal(position, tuning._replace(step_size=1.2))


@pytest.mark.parametrize("bug", [NoProposalRatio, LighterTails])
def test_bug_in_independent_proposal_is_caught(bug):
    assert_caught(bug())


# ---------------------------------------------------------------- planted bugs, HMC


@dataclass(frozen=True)
class SpoiledHMC(HMC):
    """22, 23, 25, 32: see the names of the bugs."""

    bug: str = ""

    def step(self, key, state, density, tuning):
        momentum_key, accept_key = random.split(key)
        x = state.position
        momentum = random.normal(momentum_key, x.shape, x.dtype)
        if self.bug == "momentum by the inverse metric":
            momentum = momentum / jnp.diagonal(tuning.factor)
        num, h = self.num_steps(tuning)
        if self.bug == "steps by the position":
            num = jnp.where(x[0] > 0.5, 1, 2)

        def leapfrog(_, carry):
            position, start, gradient, _, _ = carry
            half = start + 0.5 * h * tuning.scale_transposed(gradient)
            position = position + h * tuning.scale(half)
            components, gradient = density.components_and_gradient(position)
            full = half + 0.5 * h * tuning.scale_transposed(gradient)
            last = density.combine(components) - 0.5 * jnp.sum(full**2)
            end = half if self.bug == "no last half step" else full
            return position, full, gradient, last, end

        energy = density.combine(state.components) - 0.5 * jnp.sum(momentum**2)
        start = (x, momentum, state.gradient, energy, momentum)
        # The energy before the last step is what a forgotten start leaves to compare with.
        before_last = lax.fori_loop(0, num - 1, leapfrog, start)
        position, _, gradient, _, momentum = leapfrog(0, before_last)
        components = density.components(position)
        against = before_last[3] if self.bug == "energy against the last step" else energy
        log_ratio = density.combine(components) - 0.5 * jnp.sum(momentum**2) - against
        proposal = PointState(position, components, gradient)
        return metropolis(accept_key, state, proposal, log_ratio, not_usable(components))


@pytest.mark.parametrize(
    "bug",
    [
        "no last half step",
        "momentum by the inverse metric",
        "energy against the last step",
        "steps by the position",
    ],
)
def test_bug_in_hmc_is_caught(bug):
    assert_caught(SpoiledHMC(bug=bug))


def test_the_double_of_hmc_without_a_bug_passes():
    """What the doubles above show is their bug. False-alarm rate 1e-6."""
    check(SpoiledHMC(), "skewed").raise_if_failed()


# ---------------------------------------------------------------- planted bugs, NUTS


@dataclass(frozen=True)
class SpoiledNUTS(NoUTurn):
    """Around NumPyro's tree: 15, 31, 41 and a choice that is not left to chance."""

    max_tree_depth: int = 5
    bug: str = ""

    def step(self, key, state, density, tuning):
        if self.bug == "stale gradient":
            state = state._replace(gradient=0.5 * state.gradient)
        if self.bug == "step size by the position":
            size = jnp.where(state.position[0] > 0.5, 1.6, 0.6)
            tuning = tuning._replace(step_size=size * tuning.step_size)
        first_key, second_key = random.split(key)
        first, info = super().step(first_key, state, density, tuning)
        if self.bug != "the better of two":
            return first, info
        second, _ = super().step(second_key, state, density, tuning)
        better = density.combine(first.components) > density.combine(second.components)
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), first, second), info


@pytest.mark.parametrize(
    "bug", ["stale gradient", "step size by the position", "the better of two"]
)
def test_bug_in_nuts_is_caught(bug):
    assert_caught(SpoiledNUTS(bug=bug), num_steps=1)


# ---------------------------------------------------------------- further kernels


class NarrowSlice(Slice):
    """Three intervals of this length do not always span a slice."""

    def default_step_size(self, dim):
        return 0.8


def named(value):
    return value if isinstance(value, str) else getattr(value, "name", "")


@pytest.mark.parametrize(
    ("kernel", "model", "options"),
    [
        (Barker(), "skewed", {}),
        (Slice(), "skewed", {}),
        (NarrowSlice(max_steps_out=3), "two_modes", {"num_steps": 1}),
        (DelayedRejection(), "skewed", {}),
        (MultipleTry(), "skewed", {}),
        # The momentum of a rejected step matters from the second step on.
        (GHMC(), "skewed", {"num_steps": 4}),
        (EllipticalSlice(PRIOR), TARGET, {}),
        (PCN(PRIOR), TARGET, {}),
        (InfinityMALA(PRIOR), TARGET, {}),
        (BOLD, "skewed", {}),
        *(
            pytest.param(kernel, model, {}, marks=pytest.mark.slow)
            for kernel, model in (
                (Slice(direction="random"), "banana"),
                (Slice(), "truncated"),
                (DelayedRejection(), "truncated"),
                (MultipleTry(), "truncated"),
                (Barker(), "correlated_normal"),
                (GHMC(persistence=0.5, num_steps=3), "correlated_normal"),
                (RandomWalk(degrees_of_freedom=2), "student_t"),
            )
        ),
    ],
    ids=named,
)
def test_further_kernel_passes(kernel, model, options):
    """False-alarm rate 1e-6."""
    report = check(kernel, model, **options)
    report.raise_if_failed()
    assert report.power.in_standard_deviations < 0.08


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "target"),
    [
        (Barker(), MODELS_ON_A_LINE["skewed_1d"]),
        (DelayedRejection(shrink=0.5), MODELS_ON_A_LINE["skewed_1d"]),
        (GHMC(), MODELS_ON_A_LINE["skewed_1d"]),
        (PCN(LINE_PRIOR), LINE_TARGET),
        (InfinityMALA(LINE_PRIOR), LINE_TARGET),
    ],
    ids=str,
)
def test_kernel_on_a_line_passes_without_chance(kernel, target):
    report = validate(kernel, target, level="quadrature")
    report.raise_if_failed()
    assert report.power.effect < 5e-4


@dataclass(frozen=True)
class SpoiledBarker(Barker):
    """9: signs without their correction. 11: the slope of the start for the way back."""

    bug: str = ""

    def step(self, key, state, density, tuning):
        noise_key, sign_key, accept_key = random.split(key, 3)
        x = state.position
        length = tuning.step_size * random.normal(noise_key, x.shape, x.dtype)
        slope = tuning.scale_transposed(state.gradient)
        kept = random.accept(sign_key, jax.nn.log_sigmoid(length * slope))
        move = jnp.where(kept, length, -length)
        position = x + tuning.scale(move)
        proposal = PointState(position, *density.components_and_gradient(position))
        wrong_end = self.bug == "slope at the wrong end"
        slope_there = slope if wrong_end else tuning.scale_transposed(proposal.gradient)
        correction = jnp.sum(
            jax.nn.log_sigmoid(-move * slope_there) - jax.nn.log_sigmoid(move * slope)
        )
        factor = {"no correction": 0.0, "correction inverted": -1.0}.get(self.bug, 1.0)
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            + factor * correction
        )
        bad = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, bad)


class UnsplitSlice(NarrowSlice):
    """33: half of the steps to either side, whatever the place of the interval."""

    def _steps_to_the_left(self, key):
        return jnp.asarray(self.max_steps_out // 2)


class ScaledHeight(Slice):
    """34: u times the log density instead of the log of u times the density."""

    def _log_height(self, key, log_density):
        return log_density * random.uniform(key, (), log_density.dtype)


class OnPosterior(EllipticalSlice):
    """35: the ellipse accounts for the prior already."""

    def relative(self, density):
        return density


class CrankNicolsonOnPosterior(PCN):
    """The ratio counts the prior, which the proposal knows."""

    def relative(self, density):
        return density


class CertainRejection(DelayedRejection):
    """38: nobody asks whether the way back would have been rejected first."""

    def _log_rejection(self, log_ratio, proposal):
        return jnp.zeros_like(log_ratio)


class ReferencesFromStart(MultipleTry):
    """39: the reference points are drawn around the current point."""

    def step(self, key, state, density, tuning):
        candidate_key, choice_key, reference_key, accept_key = random.split(key, 4)
        num, x = self.num_candidates, state.position
        candidates, logs = self._around(candidate_key, x, num, density, tuning)
        chosen = random.categorical(choice_key, logs)
        proposal = jax.tree.map(lambda leaf: leaf[chosen], candidates)
        _, references = self._around(reference_key, x, num - 1, density, tuning)
        references = jnp.append(references, density.combine(state.components))
        log_ratio = jax.nn.logsumexp(logs) - jax.nn.logsumexp(references)
        bad = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, bad)


class KeepsDirection(GHMC):
    """24: a rejected step keeps its momentum. With a large step, so that many are rejected."""

    def default_step_size(self, dim):
        return 1.5

    def _turned(self, state):
        return state


class LosesMomentum(GHMC):
    """23: what is left of the old momentum and what is new do not add up to one."""

    def _renewed(self, key, state):
        renewed = super()._renewed(key, state)
        return renewed._replace(momentum=renewed.momentum + 0.3 * state.momentum)


@dataclass(frozen=True)
class BlockByPosition(RandomWalk):
    """42: which block moves depends on the coordinate that it moves."""

    blocks: tuple[tuple[int, ...], ...] = ((0,), (1,))

    def _noise(self, key, x, tuning):
        noise = tuning.scale(random.normal(key, x.shape, x.dtype))
        return jnp.where(jnp.arange(2) == (x[0] > 0.5), noise, 0.0)


@pytest.mark.parametrize(
    ("kernel", "model", "options"),
    [
        (SpoiledBarker(bug="slope at the wrong end"), "skewed", {}),
        (UnsplitSlice(max_steps_out=3), "two_modes", {"num_steps": 1}),
        (ScaledHeight(), "skewed", {}),
        (OnPosterior(PRIOR), TARGET, {}),
        (EllipticalSlice(STALE_PRIOR), TARGET, {}),
        (CrankNicolsonOnPosterior(PRIOR), TARGET, {}),
        (InfinityMALA(STALE_PRIOR), TARGET, {}),
        (CertainRejection(shrink=0.5), "skewed", {"level": "quick"}),
        (ReferencesFromStart(), "skewed", {}),
        (KeepsDirection(), "skewed", {"num_steps": 4}),
        *(
            pytest.param(kernel, model, options, marks=pytest.mark.slow)
            for kernel, model, options in (
                (SpoiledBarker(bug="no correction"), "skewed", {}),
                (SpoiledBarker(bug="correction inverted"), "skewed", {}),
                (PCN(STALE_PRIOR), TARGET, {}),
                (LosesMomentum(), "skewed", {"num_steps": 4}),
                (BlockByPosition(), "skewed", {}),
            )
        ),
    ],
    ids=named,
)
def test_bug_in_further_kernel_is_caught(kernel, model, options):
    assert_caught(kernel, model, **options)


def test_the_double_of_barker_without_a_bug_passes():
    """What the doubles above show is their bug. False-alarm rate 1e-6."""
    check(SpoiledBarker(), "skewed").raise_if_failed()


# ---------------------------------------------------------------- invariant, not reversible


@dataclass(frozen=True)
class OneAfterTheOther(RandomWalk):
    """Moves one coordinate after the other: invariant, not reversible although it says so."""

    def step(self, key, state, density, tuning):
        scale = jnp.linalg.norm(tuning.factor, axis=1)
        for i, one_key in enumerate(random.split(key, len(scale))):
            only = jnp.zeros_like(scale).at[i].set(scale[i])
            state, info = super().step(one_key, state, density, tuning._replace(factor=only))
        return state, info


def test_flows_tell_invariant_from_reversible():
    """Caught as reversible, passes as invariant. False-alarm rate of the latter: 1e-6."""
    report = assert_caught(OneAfterTheOther(), "correlated_normal")
    assert report.worst.endswith("not reversible")
    check(OneAfterTheOther(), "correlated_normal", law="invariant").raise_if_failed()


def test_bug_is_caught_by_the_comparison_with_fresh_draws():
    assert_caught(SquaredRatio(), law="invariant")


# ---------------------------------------------------------------- what the report states


@dataclass(frozen=True)
class Shifted(Independent):
    """An exact draw, moved by a known number of standard deviations: an error of known size."""

    shift: float = 0.0
    reversible: ClassVar[bool] = False

    def step(self, key, state, density, tuning):
        noise = random.normal(key, state.position.shape, state.position.dtype)
        # Both standard deviations of the correlated normal model, the third is 4.
        position = jnp.array([1.0, -2.0, 3.0]) + jnp.array(FACTOR) @ (noise + self.shift)
        return PointState(position, density.components(position)), None


FACTOR = np.linalg.cholesky(
    np.diag([0.3, 1.0, 4.0])
    @ np.array([[1.0, 0.7, -0.4], [0.7, 1.0, 0.2], [-0.4, 0.2, 1.0]])
    @ np.diag([0.3, 1.0, 4.0])
)


def test_error_of_the_size_stated_as_power_is_found_and_named():
    """The stated effect has power 0.99; at twice the size a miss is below 1e-9."""
    stated = check(Shifted(), "correlated_normal", num_steps=1)
    stated.raise_if_failed()
    size = 2 * stated.power.in_standard_deviations
    report = check(Shifted(shift=size), "correlated_normal", num_steps=1)
    assert report.verdict == "fail"
    assert any(not c.passed and c.name.startswith("the mean of x[") for c in report.tests)
    means = [c for c in report.tests if c.name == "the mean of x[0]"]
    found = float(means[0].words.split("is ")[1].split(" ±")[0])
    # The estimate has a standard error of 0.3 sqrt(2 / 20 000), taken six times.
    assert found == pytest.approx(0.3 * size, abs=6 * 0.3 * np.sqrt(2 / 20_000))
    assert "too large" in means[0].words


def test_false_alarms_of_whole_calls_stay_within_alpha():
    """60 calls at alpha = 0.05 with new keys. Alarm rate 1e-6: that binomial quantile."""
    seeds = np.random.default_rng().integers(2**60, size=60)
    verdicts = [
        validate(RandomWalk(), MODELS["skewed"], level=QUICK, alpha=0.05, key=int(seed)).verdict
        for seed in seeds
    ]
    assert verdicts.count("fail") <= stats.binom.isf(1e-6, 60, 0.05)
    assert verdicts.count("inconclusive") == 0


def test_same_key_same_report_and_nothing_is_compiled_again():
    from bayeskit.inference.compile_clock import CompileClock

    first = check(RandomWalk(), "skewed", key=3)
    with CompileClock() as clock:
        again = check(RandomWalk(), "skewed", key=3)
        check(RandomWalk(), "skewed", key=4)
    assert first.tests == again.tests
    assert clock.num_compiled == 0


def test_kernel_that_stays_is_inconclusive():
    """With a huge step nothing is accepted, and a pass would mean nothing."""
    with jax.enable_x64(True):
        tuning = RandomWalk().default_tuning(2)._replace(step_size=jnp.array(1e6))
    report = check(RandomWalk(), "skewed", tuning=tuning)
    assert report.verdict == "inconclusive"
    assert "replicates moved" in report.worst


@dataclass(frozen=True)
class DrawsWithJAX(RandomWalk):
    """A user's kernel that knows nothing of lanes."""

    def step(self, key, state, density, tuning):
        keys = jax.random.split(key)
        noise = jax.random.normal(keys[0], state.position.shape, state.position.dtype)
        position = state.position + tuning.step_size * tuning.scale(noise)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        bad = not_usable(proposal.components)
        return metropolis(keys[1], state, proposal, log_ratio, bad)


def test_kernel_that_draws_with_jax_random_is_tested_too():
    """False-alarm rate 1e-6."""
    report = check(DrawsWithJAX(), "skewed")
    report.raise_if_failed()
    assert any("draws with jax.random" in note for note in report.notes)


@dataclass(frozen=True)
class ExactDraws(RandomWalk):
    """A kernel that never looks at the density."""

    def step(self, key, state, density, tuning):
        position = MODELS["skewed"].target.sample_exact(key)
        return PointState(position, density.components(position)), None


def test_kernel_that_never_looks_at_the_density_passes():
    """It cannot know where the density is NaN. False-alarm rate 1e-6."""
    check(ExactDraws(), "skewed").raise_if_failed()


def test_structured_target_and_sampler_of_a_user():
    """A dict of parameters, drawn with jax.random; and one that is wrong. Alarm rate 1e-6."""

    def sample(key):
        first, second = jax.random.split(key)
        scale = jnp.exp(0.5 * jax.random.normal(first))
        return {"log_scale": jnp.log(scale), "x": scale * jax.random.normal(second, (2,))}

    def log_density(p, spread):
        inner = jnp.sum((p["x"] * jnp.exp(-p["log_scale"])) ** 2) + 4.0 * p["log_scale"]
        return -0.5 * (p["log_scale"] / spread) ** 2 - 0.5 * inner

    def target(spread):
        return bi.Target(log_density=log_density, sample_exact=sample, data=(spread,))

    validate(HMC(), target(0.5), level=QUICK).raise_if_failed()
    report = validate(HMC(), target(0.6), level=QUICK)
    assert report.verdict == "fail"


class Bare:
    """A user's kernel from scratch: no base class, no tuning, no flags."""

    def init(self, position, density):
        return PointState(position, density.components(position))

    def refresh(self, state, density):
        return self.init(state.position, density)

    def step(self, key, state, density, tuning):
        assert tuning is None
        noise_key, accept_key = random.split(key)
        noise = random.normal(noise_key, state.position.shape, state.position.dtype)
        proposal = self.init(state.position + noise, density)
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        accepted = random.accept(accept_key, log_ratio)
        return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), proposal, state), None


@pytest.mark.parametrize("kernel", [RandomWalk(), Bare()], ids=["RandomWalk", "Bare"])
def test_one_coordinate_with_prior_and_likelihood_and_no_gradient(kernel):
    """A gamma prior and a Poisson count, conjugate. False-alarm rate 1e-6."""

    def sample(key):
        # Shape 5 after the count 3: a sum of exponentials; the rate is 1 + 1.
        exponentials = -jnp.log1p(-random.uniform(key, (5,)))
        return jnp.log(0.5 * jnp.sum(exponentials))[None]

    target = bi.Target(
        log_prior=lambda x: 2.0 * x[0] - jnp.exp(x[0]),
        log_likelihood=lambda x, count: count * x[0] - jnp.exp(x[0]),
        sample_exact=sample,
        data=(jnp.array(3.0),),
        has_gradient=False,
    )
    validate(kernel, target, level=QUICK).raise_if_failed()
    report = validate(kernel, target.with_data(jnp.array(3.3)), level=QUICK)
    assert report.verdict == "fail"
