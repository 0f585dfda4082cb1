"""Sequential importance sampling, on all paths of a finite model."""

import jax.numpy as jnp

from bayeskit import inference as bi
from bayeskit.inference import law
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(2, 3, seed=4)
MODEL = fm.last_state_model(CHAIN)


def test_law():
    whole = bi.sequential_importance_sampling(MODEL, 2)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert whole.law.measure == MODEL.measure.at("T")
    assert "resample" not in whole.explain()
    fm.assert_exact(whole, fm.last_state_measure(CHAIN))


class Forgets(bi.blocks.Extend):
    """Planted: each time weighs anew, as if there had been no time before."""

    def run(self, key, population=None):
        equal = jnp.full_like(population.log_weights, -jnp.log(population.num_particles))
        return super().run(key, population._replace(log_weights=equal))


def test_forgotten_weights_are_caught():
    blocks = fm.filter_blocks(MODEL, 2)
    forgetful = blocks.start >> bi.scan(Forgets(MODEL.kernel, MODEL.log_g))
    fm.assert_caught(forgetful, fm.last_state_measure(CHAIN))
