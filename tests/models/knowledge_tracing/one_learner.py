"""One learner of a few rows, for tests of the laws of exact engines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator

from bayeskit.models.knowledge_tracing.learner import drawn_learner, row_traits
from bayeskit.models.knowledge_tracing.learner_engines import LearnerGibbs, learner_data
from bayeskit.models.knowledge_tracing.rows import interactions_of
from bayeskit.models.knowledge_tracing.structure import Structure

ONE = Structure(
    1,
    kc_scales=1,
    ability=(),
    item_effects=False,
    practice=False,
    saturation=False,
    spacing=False,
    jump_noise=False,
    rate_change=False,
)
TWO = dataclasses.replace(
    ONE, num_kc=2, ability=("static",), practice=True, saturation=True, jump_noise=True
)
TWO_PARAMETERS = {
    "level": np.asarray(0.2),
    "time_scale": np.array([2.0]),
    "sd": np.array([0.9]),
    "ability_sd": np.asarray(0.7),
    "gain": np.array([[0.8, 0.4, 0.5]]),
    "saturation": np.array([[0.2, 0.1, 0.1]]),
    "jump_sd": np.array([[0.4, 0.3, 0.2]]),
}
# Three answers, and a row that is only studied.
ROWS = {
    "learner": [0] * 4,
    "kc": [0, 1, 0, 0],
    "time": [0.0, 0.5, 1.5, 2.0],
    "correct": [0, 0, None, 0],
}


def data_of(table, structure, parameters, trait_sd=0.5, drift_sd=0.0):
    rows, _ = interactions_of(table, time_unit="day")
    prior = LearnerGibbs(trait_sd=trait_sd, drift_sd=drift_sd, drift_rows=2.0)
    data = learner_data(rows, parameters, structure, prior, "float64", fewest_rows=1)
    return jax.tree.map(jnp.asarray, data)


def given(data, outcome):
    return data._replace(trials=data.trials._replace(outcome=outcome))


def without_gain(data):
    """A planted bug: nothing is learned from an exposure."""
    return data._replace(parameters={**data.parameters, "gain": np.zeros((1, 3))})


class SampledLearner(BaseEstimator):
    """An engine as an estimator that is fitted to the outcomes of ``ROWS``."""

    def __init__(self, engine=None, planted=None, random_state=None):
        self.engine = engine
        self.planted = planted
        self.random_state = random_state

    def fit(self, outcome):
        data = given(data_of(ROWS, TWO, TWO_PARAMETERS), jnp.asarray(outcome))
        data = data if self.planted is None else self.planted(data)
        key = jax.random.key(self.random_state)
        self.mixture_, *_ = self.engine.infer(key, data, TWO, 4, None)
        return self

    def sample(self, num_draws, random_state):
        rng, found = np.random.default_rng(random_state), self.mixture_
        place = np.linspace(0, len(found.traits) - 1, num_draws).astype(int)
        root = np.linalg.cholesky(found.belief.covariance[place] + 1e-12 * np.eye(3))
        noise = rng.standard_normal((num_draws, 3))
        states = found.belief.mean[place] + np.einsum("nij,nj->ni", root, noise)
        return {"traits": found.traits[place], "states": states}


@jax.jit
def _drawn(key, data):
    drawn = drawn_learner(key, data, TWO)
    traits = row_traits(drawn.normals, data, TWO)[-1]
    return {"traits": traits, "states": drawn.after[-1]}, (drawn.outcome,)


def simulate(key):
    """Traits and states after the last row, and the outcomes of the rows."""
    return _drawn(key, data_of(ROWS, TWO, TWO_PARAMETERS))


def against_the_answers(parameters, arguments):
    """What an engine that does not look at the answers would get wrong."""
    sign = 2.0 * jnp.asarray(arguments[0]) - 1.0
    states, traits = parameters["states"], parameters["traits"]
    return {"last": sign[-1] * states[1], "first": sign[0] * traits[1] * states[1]}
