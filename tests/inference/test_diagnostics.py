"""Diagnostics say in words what the numbers of others leave unsaid."""

import numpy as np
import pytest

from bayeskit.errors import ConvergenceWarning
from bayeskit.inference.diagnostics import diagnose
from bayeskit.interop.arviz import rank_normalized_rhat


def draws(**changes):
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=(4, 500)), "b": rng.normal(size=(4, 500, 2))}
    return {**values, **changes}


def test_independent_draws_pass():
    found = diagnose(draws())
    assert found.converged
    assert found.r_hat_max < 1.01
    assert 1000 < found.ess_bulk_min < 3000


def test_a_parameter_that_never_moved_counts_as_nothing():
    """Elsewhere a constant chain has an effective sample size of all its draws."""
    found = diagnose(draws(c=np.full((4, 500), 3.0)))
    assert not found.converged
    assert found.ess_bulk_min == 0.0
    assert "c did not move at all" in found.reasons


def test_one_constant_entry_of_a_vector_is_found():
    vector = np.random.default_rng(1).normal(size=(4, 500, 2))
    vector[..., 1] = 0.5
    assert any("b did not move" in r for r in diagnose(draws(b=vector)).reasons)


def test_chains_that_disagree():
    shifted = np.random.default_rng(1).normal(size=(4, 500)) + np.arange(4)[:, None]
    found = diagnose(draws(a=shifted))
    assert found.r_hat_max > 1.5
    with pytest.warns(ConvergenceWarning, match="R-hat of a is .*chains disagree"):
        found.warn()


def test_slow_chains_need_more_draws():
    steps = np.random.default_rng(1).normal(size=(4, 500))
    slow = np.zeros((4, 500))
    for t in range(1, 500):
        slow[:, t] = 0.98 * slow[:, t - 1] + steps[:, t]
    assert any("effective sample size of a" in r for r in diagnose(draws(a=slow)).reasons)


def test_divergences_are_a_reason():
    found = diagnose(draws(), num_divergent=3)
    assert found.reasons == (
        "3 divergent transitions: raise target_acceptance or reparametrise",
    )


def test_r_hat_of_draws_that_stand_still_is_nan_without_a_warning():
    draws = np.random.default_rng(0).normal(size=(2, 50))
    found = rank_normalized_rhat({"still": np.zeros((2, 50)), "moving": draws})
    assert np.isnan(found["still"]) and found["moving"] < 1.2
