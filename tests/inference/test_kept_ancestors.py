"""Ancestors that tempered SMC and SMC2 keep are those that particles descend from."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import plots
from bayeskit.inference import Kernel, StepInfo
from bayeskit.inference.engines import smc2
from bayeskit.inference.engines.smc import _as_chains
from tests.inference.long_runs import log_likelihood, target, target_of


@dataclass(frozen=True)
class Stay(Kernel):
    """A kernel that never moves: particles are equal where they descend from one draw."""

    name: ClassVar[str] = "stay"

    def default_step_size(self, dim):
        return 1.0

    def step(self, key, state, density, tuning):
        no = jnp.asarray(False)
        return state, StepInfo(jnp.zeros(()), no, no, no)


STAYING = {
    "waste-free": bk.SMC(
        num_particles=192, num_chains=96, ess=0.8, kernel=Stay(), progress=False
    ),
    "last states": bk.SMC(
        num_particles=50, ess=0.8, kernel=Stay(), waste_free=False, progress=False
    ),
}


def founders(ancestors):
    """Return the first particle that each of the last ones descends from."""
    places = np.arange(ancestors.shape[1])
    for row in ancestors[:0:-1]:
        places = row[places]
    return places


def are_those_of(positions, ancestors, engine):
    """Whether draws are equal exactly where they have one founder."""
    order = _as_chains(np.arange(ancestors.shape[1]), engine._num_chains()).ravel()
    found = founders(ancestors)[order]
    _, group = np.unique(positions.reshape(len(found), -1), axis=0, return_inverse=True)
    pairs = set(zip(found.tolist(), group.ravel().tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == group.max() + 1


@pytest.mark.parametrize("name", STAYING)
# Chains that stay do not mix, and the engine says so.
@pytest.mark.filterwarnings("ignore:the result cannot be trusted yet")
def test_particles_that_never_move_are_equal_where_their_founder_is_one(name):
    engine = replace(STAYING[name], keep_ancestors=True)
    # So weak that more than a few draws of the prior are left.
    weak = target(log_likelihood=lambda x, y: 0.003 * log_likelihood(x, y))
    posterior = engine.run(weak, key=1)
    ancestors = posterior.history["ancestors"]
    num_stages = len(posterior.history["inverse_temperature"])
    assert ancestors.shape == (num_stages + 1, posterior.num_draws)
    assert num_stages > 1 and len(set(founders(ancestors))) > 5
    assert ancestors[0].tolist() == list(range(posterior.num_draws))
    assert are_those_of(posterior.positions, ancestors, engine)
    # Ancestors of another stage, or written chain after chain instead of round after round.
    assert not are_those_of(posterior.positions, np.roll(ancestors, 1, axis=0), engine)
    if name == "waste-free":
        wrong = ancestors.copy()
        num_chains, length = engine._layout
        wrong[-1] = np.repeat(ancestors[-1, :num_chains], length)
        assert not are_those_of(posterior.positions, wrong, engine)


def test_keeping_them_changes_no_number():
    engine = bk.SMC(num_particles=192, ess=0.8, progress=False)
    without = engine.run(target(), key=0)
    posterior = replace(engine, keep_ancestors=True).run(target(), key=0)
    np.testing.assert_array_equal(posterior.positions, without.positions)
    assert posterior.log_evidence == without.log_evidence
    assert posterior.history.keys() - without.history.keys() == {"ancestors"}
    # As many ancestors of the last stage as it has chains, and no more.
    counts = plots.genealogy(posterior).figure.axes[1].get_lines()[0].get_ydata()
    assert counts[-2] <= engine._layout[0] < counts[-1] == posterior.num_draws
    with pytest.raises(ValueError, match="keep_ancestors=True in SMC or SMC2"):
        plots.genealogy(without)


def test_parameters_of_smc2_descend_from_those_that_they_are_copies_of():
    """A parameter that no move changed is that of its ancestor, to the last bit."""
    of_series, key = target_of("smc2"), jax.random.key(0)
    engine = bk.SMC2(48, 10, num_moves=1, progress=False, keep_ancestors=True)
    population, _ = smc2._start(engine, of_series, key)
    num_copies = num_moves = 0
    for time in range(1, of_series.num_steps):
        before = np.asarray(population.particles.parameters)[:, 0]
        population, history = smc2._advance(
            engine, of_series, population, None, key, np.int32(time), np.int32(1)
        )
        after = np.asarray(population.particles.parameters)[:, 0]
        ancestors = np.asarray(history["ancestors"])[0]
        if not history["moved"][0]:
            assert ancestors.tolist() == list(range(48))
            continue
        stayed = np.isin(after, before)
        np.testing.assert_array_equal(after[stayed], before[ancestors][stayed])
        # Taken one place too late, they are others.
        assert (after[stayed] != before[np.roll(ancestors, 1)][stayed]).any()
        num_moves += 1
        num_copies += int(stayed.sum())
    assert num_moves > 1 and num_copies > 20
