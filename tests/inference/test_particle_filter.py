"""The particle filter as an algorithm, enumerated, with and without its history."""

import numpy as np
import pytest

from bayeskit import inference as bi
from tests.inference.finite_models import (
    assert_exact,
    last_state_measure,
    last_state_model,
    path_measure,
    path_model,
    random_chain,
)

CHAIN = random_chain(2, 3, seed=4)


@pytest.mark.parametrize("ess_below", [None, 0.7])
def test_law(ess_below):
    whole = bi.particle_filter(path_model(CHAIN), 2, ess_below=ess_below)
    assert_exact(whole, path_measure(CHAIN))


def test_history_changes_no_law_and_traces_back():
    whole = bi.particle_filter(
        last_state_model(CHAIN), 3, scheme="multinomial", history=True, ess_below=0.7
    )
    assert_exact(whole, last_state_measure(CHAIN))
    # Particles that carry their path know what their ancestors were.
    whole = bi.particle_filter(path_model(CHAIN), 20, history=True, ess_below=0.7)
    population = bi.run(whole, 1)
    history = population.history
    np.testing.assert_array_equal(history.particles[-1], population.particles)
    np.testing.assert_array_equal(history.log_weights[-1], population.log_weights)
    places = np.arange(20)
    for t in (2, 1, 0):
        carried = population.particles[:, t]
        np.testing.assert_array_equal(carried, history.particles[t, places, t])
        places = history.ancestors[t, places]
