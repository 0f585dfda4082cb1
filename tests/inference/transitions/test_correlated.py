"""Correlated pseudo-marginal steps, enumerated on random numbers of three values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.inference import law
from bayeskit.inference.transitions.correlated import CorrelatedPseudoMarginal
from tests.inference.finite_models import log_table
from tests.inference.parameter_models import PRIOR, PROPOSAL, extended_target

LOG_LAW = np.log(np.array([0.2, 0.5, 0.3]))
LOG_ESTIMATE = np.array([[0.4, -1.1, 0.9], [-0.6, 1.3, -0.2]])  # of a parameter, given u
NUMBERS = bi.Target(log_density=lambda u: log_table(LOG_LAW)[u], has_gradient=False)
WALK = bi.transition(
    bi.DiscreteMetropolis(((0.1, 0.6, 0.3), (0.3, 0.3, 0.4), (0.5, 0.2, 0.3))), NUMBERS
)


def draw(key):
    return bi.random.categorical(key, log_table(LOG_LAW))


def reversible(key, u):
    return WALK(key, WALK.init(None, u)).position


def around(key, u):
    """Planted: a move that keeps no law, always on to the next."""
    return (u + 1 + 0 * draw(key)) % 3


def estimator(theta):
    return lambda u: (log_table(LOG_ESTIMATE)[theta, u], 10 * theta + u)


def step_with(move):
    return bi.correlated_pseudo_marginal(PROPOSAL, PRIOR, estimator, bi.Auxiliary(draw, move))


RIGHT = step_with(reversible)
START = extended_target(RIGHT)


def test_law():
    assert RIGHT.law_kind is law.REVERSIBLE
    bk.validate(RIGHT, start=START).raise_if_failed()
    assert "move reversibly" in RIGHT.explain()


class ForgetsTheNumbers(CorrelatedPseudoMarginal):
    """Planted: accepted parameters keep the random numbers of the old ones."""

    def step(self, key, state, stage=None):
        moved, info = super().step(key, state, stage)
        return moved._replace(sample=(state.sample[0], moved.sample[1])), info


def test_planted():
    assert bk.validate(step_with(around), start=START).verdict == "fail"
    fields = {f.name: getattr(RIGHT, f.name) for f in dataclasses.fields(RIGHT)}
    wrong = ForgetsTheNumbers(**fields)
    assert bk.validate(wrong, start=START).verdict == "fail"


@pytest.mark.parametrize("planted", [False, True])
def test_crank_nicolson(planted):
    """Reversible for standard normals; noise of the wrong scale is not."""
    auxiliary = bi.crank_nicolson((2,), 0.8)

    def move(key, u):
        # The mistake: weights of a mean, not of a sum of variances.
        return (
            0.8 * u + 0.2 * bi.random.normal(key, (2,)) if planted else auxiliary.move(key, u)
        )

    report = bk.validate(move, start=auxiliary.draw, num_steps=1)
    assert report.verdict == ("fail" if planted else "pass")


def test_correlation_must_be_below_one():
    with pytest.raises(ValueError, match=r"correlation must be in \[0, 1\), got 1.0"):
        bi.crank_nicolson((2,), 1.0)


def test_no_correlation_draws_anew():
    u = bi.crank_nicolson((3,), 0.0).move(jax.random.key(1), jnp.full(3, 100.0))
    assert float(jnp.abs(u).max()) < 10
