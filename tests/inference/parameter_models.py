"""Hidden Markov chains with a parameter of two values, and the measures they stand for."""

import jax
import numpy as np

from bayeskit import inference as bi
from bayeskit.validation import Atoms, enumerate_paths
from tests.inference.finite_models import (
    Chain,
    last_state_model,
    log_table,
    path_measure,
    random_chain,
)

LOG_PRIOR = np.log([0.35, 0.65])
LOG_PROPOSAL = np.log([[0.4, 0.6], [0.8, 0.2]])

PRIOR = bi.Target(
    log_density=lambda theta: log_table(LOG_PRIOR)[theta],
    sample_prior=lambda key: bi.random.categorical(key, log_table(LOG_PRIOR)),
    has_gradient=False,
    name="p",
)
PROPOSAL = bi.Proposal(
    lambda key, theta: bi.random.categorical(key, log_table(LOG_PROPOSAL)[theta]),
    lambda theta, new: log_table(LOG_PROPOSAL)[theta, new],
)


class Chains:
    """A chain for each value of the parameter, and the model that looks its own up."""

    def __init__(self, num_steps, seeds=(4, 5)):
        self.chains = [
            random_chain(num_steps=num_steps, seed=seed, guided=False) for seed in seeds
        ]

    def model(self, theta):
        tables = [log_table(np.stack(pair))[theta] for pair in zip(*self.chains, strict=True)]
        return last_state_model(Chain(*tables))

    @property
    def evidence(self):
        """Prior times likelihood, for each value of the parameter."""
        likelihood = [path_measure(chain).mass.sum() for chain in self.chains]
        return Atoms(np.arange(2, dtype=np.int32), np.exp(LOG_PRIOR) * likelihood)

    @property
    def paths(self):
        """Prior times γ, for each value of the parameter and each path."""
        measures = [path_measure(chain) for chain in self.chains]
        theta = np.repeat(np.arange(2, dtype=np.int32), len(measures[0].mass))
        states = np.concatenate([measure.state for measure in measures])
        mass = [np.exp(p) * m.mass for p, m in zip(LOG_PRIOR, measures, strict=True)]
        return Atoms((theta, states), np.concatenate(mass))


def extended_target(transition):
    """Prior times the law of the estimate times the estimate, by enumerating the estimate."""
    start = Atoms(np.arange(2, dtype=np.int32), np.exp(LOG_PRIOR))
    with jax.enable_x64(True):
        drawn = enumerate_paths(transition.init, start)
    return Atoms(drawn.state, drawn.mass * np.exp(drawn.state.log_estimate))
