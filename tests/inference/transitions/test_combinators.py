"""Combinations of transitions on a finite space, enumerated; mistakes in them are caught."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import LawMismatch
from bayeskit.inference import law
from bayeskit.inference.transitions.base import KernelTransition
from bayeskit.inference.transitions.combinators import Mixture
from bayeskit.inference.transitions.gibbs import Gibbs
from bayeskit.validation import Atoms, Level, battery
from tests.inference.finite_models import log_table

LOG_MASS = np.log(np.array([0.2, 0.5, 0.3]))
TARGET = bk.Target(log_density=lambda x: log_table(LOG_MASS)[x], has_gradient=False)
FIRST = bi.transition(
    bi.DiscreteMetropolis(((0.1, 0.6, 0.3), (0.3, 0.3, 0.4), (0.5, 0.2, 0.3))), TARGET
)
SECOND = bi.transition(
    bi.DiscreteMetropolis(((0.4, 0.3, 0.3), (0.2, 0.3, 0.5), (0.5, 0.4, 0.1))), TARGET
)


def start():
    with jax.enable_x64(True):
        states = jax.vmap(lambda x: FIRST.init(None, x))(jnp.arange(3))
        return Atoms(jax.tree.map(np.asarray, states), np.exp(LOG_MASS))


@pytest.mark.parametrize(
    ("combined", "kind"),
    [
        (FIRST, law.REVERSIBLE),
        (bi.cycle(FIRST, SECOND), law.INVARIANT),
        (bi.palindrome(FIRST, SECOND), law.REVERSIBLE),
        (bi.mixture([FIRST, SECOND], [0.3, 0.7]), law.REVERSIBLE),
        (bi.repeat(FIRST, 2), law.REVERSIBLE),
    ],
    ids=repr,
)
def test_law(combined, kind):
    assert combined.law_kind is kind
    bk.validate(combined, start=start()).raise_if_failed()
    assert str(kind) in combined.explain()


def test_a_cycle_is_not_reversible():
    assert bk.validate(bi.cycle(FIRST, SECOND), start=start(), law="reversible").verdict == (
        "fail"
    )


@dataclass(frozen=True, eq=False, repr=False)
class StateDependentMixture(Mixture):
    """Planted: the choice looks at the coordinate that the kernels change."""

    def step(self, key, state, stage=None):
        choice_key, *keys = bi.random.split(key, 3)
        chosen = bi.random.accept(choice_key, jnp.log(0.2 + 0.3 * state.position)).astype(int)
        results = [p.step(k, state, stage) for p, k in zip(self.parts, keys, strict=True)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen], *results)


def test_a_choice_that_depends_on_the_state_is_caught():
    wrong = StateDependentMixture((FIRST, SECOND), (0.3, 0.7))
    assert bk.validate(wrong, start=start()).verdict == "fail"


# ---------------------------------------------------------------- Gibbs

JOINT = np.random.default_rng(3).dirichlet(np.ones(6)).reshape(2, 3)
LOG_JOINT = np.log(JOINT)
PAIR = bk.Target(log_density=lambda s: log_table(LOG_JOINT)[s["x"], s["y"]])


def draw_x(state):
    return lambda key: bi.random.categorical(key, log_table(LOG_JOINT)[:, state["y"]])


def move_y(state):
    given_x = bk.Target(
        log_density=lambda y: log_table(LOG_JOINT)[state["x"], y], has_gradient=False
    )
    return bi.transition(FIRST.kernel, given_x)


def pairs():
    x, y = (i.ravel().astype(np.int32) for i in np.indices(JOINT.shape))
    return Atoms({"x": x, "y": y}, JOINT.ravel())


@pytest.mark.parametrize(
    ("scan", "kind"),
    [("cycle", law.INVARIANT), ("palindrome", law.REVERSIBLE), ("random", law.REVERSIBLE)],
)
def test_gibbs(scan, kind):
    sampler = bi.gibbs(PAIR, scan=scan, x=draw_x, y=move_y)
    assert sampler.law_kind is kind
    bk.validate(sampler, start=pairs()).raise_if_failed()
    assert "y: keeps its conditional given all others as they are now" in sampler.explain()


class StaleGibbs(Gibbs):
    """Planted: blocks condition on the values from before the sweep."""

    def step(self, key, state, stage=None):
        old, new = state, dict(state)
        for block_key, (name, block) in zip(bi.random.split(key, 2), self.blocks, strict=True):
            one = Gibbs(self.on, ((name, block),), "cycle")
            new[name] = one.step(block_key, old, stage)[0][name]
        return new, None


def test_gibbs_with_old_values_is_caught():
    right = bi.gibbs(PAIR, x=draw_x, y=move_y)
    wrong = StaleGibbs(right.on, right.blocks, "cycle")
    assert bk.validate(wrong, start=pairs()).verdict == "fail"


def choosing(untouched):
    """A mixture of moves of y whose choice looks at a part of the state."""
    moves = [
        bi.gibbs(PAIR, y=move_y),
        bi.gibbs(
            PAIR,
            y=lambda s: lambda key: bi.random.categorical(key, log_table(LOG_JOINT)[s["x"]]),
        ),
    ]
    return bi.mixture(
        moves,
        lambda part: jnp.where(part == 0, jnp.array([0.2, 0.8]), jnp.array([0.7, 0.3])),
        untouched=untouched,
    )


def test_a_choice_may_look_at_what_is_not_moved():
    steps = choosing(lambda state: state["x"])
    assert steps.law_kind is law.REVERSIBLE
    assert "look at a part which none of them moves" in steps.explain()
    bk.validate(steps, start=pairs()).raise_if_failed()
    # Planted (42): it looks at what is moved.
    assert bk.validate(choosing(lambda state: state["y"]), start=pairs()).verdict == "fail"


def test_only_the_chosen_part_is_computed():
    """A part that counts how often it runs; in lanes both run and one is selected."""
    calls = []

    def counted(key, state):
        jax.debug.callback(lambda: calls.append(1))
        return state

    target = bk.Target(log_density=lambda x: 0.0 * x)
    stays = bi.transition(lambda key, state: state, target)
    steps = bi.mixture([bi.transition(counted, target), stays], [0.25, 0.75])
    bi.chain(steps, jnp.asarray(0.0), 400, key=0)
    jax.effects_barrier()
    # 100 expected, standard deviation 8.7: outside with probability below 1e-7.
    assert 53 < len(calls) < 147


# ---------------------------------------------------------------- inside a population


def test_a_transition_moves_a_population():
    def draw(key):
        return FIRST.init(None, bi.random.categorical(key, log_table(LOG_MASS)))

    whole = bi.spawn(draw, 2, TARGET.measure) >> bi.move(bi.palindrome(FIRST, SECOND))
    expected = start()
    report = bk.validate(
        whole,
        expected=Atoms(expected.state.position, expected.mass),
        observed=lambda particles: particles.position,
    )
    report.raise_if_failed()


def test_a_move_on_another_target_is_refused():
    def draw(key):
        return bi.random.categorical(key, log_table(LOG_MASS))

    with pytest.raises(LawMismatch, match=r"leaves π invariant, but the population stands for"):
        bi.spawn(draw, 2) >> bi.move(FIRST)


# ---------------------------------------------------------------- chains and wrong input


SKEWED = battery()["skewed"].target
LEVEL = Level(num_stages=2, growth=4, first=20_000, num_frequencies=8)


class StaleGradient(KernelTransition):
    """Planted: a gradient once computed is kept, whatever moved since then."""

    def with_gradient(self, state):
        elsewhere = state._replace(position=jnp.ones_like(state.position))
        gradient = super().with_gradient(elsewhere).gradient
        return state._replace(gradient=gradient)


def test_kernels_with_and_without_gradients():
    """Either order of a cycle, from exact draws: false-alarm rate 1e-6."""
    walk, mala = (bi.transition(kernel, SKEWED) for kernel in (bi.RandomWalk(), bi.MALA()))
    start = lambda steps: lambda key: steps.init(key, SKEWED.sample_exact(key))
    right = bi.cycle(mala, walk)
    assert right.init(None, jnp.zeros(2)).gradient == ()
    bk.validate(right, start=start(right), level=LEVEL).raise_if_failed()
    # All gradients are kept where every part follows one.
    assert bi.cycle(mala, mala).init(None, jnp.zeros(2)).gradient.shape == (2,)
    wrong = bi.cycle(walk, StaleGradient(bi.MALA(), SKEWED))
    assert bk.validate(wrong, start=start(wrong), level=LEVEL).verdict == "fail"


def test_chain():
    values, info = bi.chain(bi.cycle(FIRST, SECOND), jnp.asarray(0), 50, key=1)
    assert values.shape == info.acceptance.shape == (50,)
    assert set(np.unique(values)) <= {0, 1, 2}
    again, _ = bi.chain(bi.cycle(FIRST, SECOND), jnp.asarray(0), 50, key=1)
    np.testing.assert_array_equal(values, again)


def test_wrong_input():
    other = bk.Target(log_density=lambda x: 0.0 * x, has_gradient=False, name="other")
    elsewhere = bi.transition(FIRST.kernel, other)
    with pytest.raises(LawMismatch, match=r"leaves π invariant, but .* leaves other"):
        bi.cycle(FIRST, elsewhere)
    with pytest.raises(ValueError, match="cycle needs at least one transition"):
        bi.cycle()
    with pytest.raises(TypeError, match="bind a kernel or function first"):
        bi.palindrome(FIRST.kernel)
    with pytest.raises(ValueError, match="2 numbers >= 0 that add up to 1"):
        bi.mixture([FIRST, SECOND], [0.5, 0.6])
    with pytest.raises(TypeError, match="untouched= belong together"):
        bi.mixture([FIRST, SECOND], lambda part: jnp.ones(2) / 2)
    with pytest.raises(ValueError, match="num must be at least 1"):
        bi.repeat(FIRST, 0)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        bi.chain(FIRST, jnp.asarray(0), 0)
    with pytest.raises(TypeError, match="needs on=, the Target or Path"):
        bi.transition(FIRST.kernel)
    with pytest.raises(TypeError, match="knows what it leaves invariant"):
        bi.move(FIRST, TARGET)
    with pytest.raises(TypeError, match="needs on=, the path or target it is to keep"):
        bi.move(FIRST.kernel)
    with pytest.raises(ValueError, match="at least one block"):
        bi.gibbs(PAIR)
    with pytest.raises(ValueError, match="scan must be one of"):
        bi.gibbs(PAIR, scan="shuffled", x=draw_x)


def test_a_function_without_a_declared_target_claims_nothing():
    step = bi.transition(lambda key, state: state, name="mine")
    assert step.law_kind is law.UNKNOWN
    assert bi.cycle(step).law_kind is law.UNKNOWN
