"""R-hat and effective sample sizes against those of ArviZ."""

import warnings

import numpy as np
import pytest

from bayeskit.inference import convergence
from bayeskit.inference.convergence import effective_sizes, rank_normalized_r_hats
from bayeskit.interop.arviz import effective_sample_sizes, rank_normalized_rhat


def chains(num_chains, num_draws):
    """Independent, slow and antithetic chains, with ties, with shifts, with heavy tails."""
    rng = np.random.default_rng(num_chains * num_draws)

    def autoregression(rho):
        x = rng.normal(size=(num_chains, num_draws))
        for t in range(1, num_draws):
            x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
        return x

    columns = [autoregression(rho) for rho in (0.0, 0.5, 0.9, 0.99, -0.5, -0.9, 0.999)]
    columns += [np.round(autoregression(0.5), 1), 1.0 * (autoregression(0.5) > 1)]
    columns += [autoregression(0.3) + np.arange(num_chains)[:, None], autoregression(0.0) ** 3]
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("num_chains", [1, 2, 5])
@pytest.mark.parametrize("num_draws", [4, 5, 7, 10, 11, 15, 100, 501])
def test_same_numbers_as_arviz(num_chains, num_draws):
    x = chains(num_chains, num_draws)
    for method in ("mean", "bulk", "tail"):
        expected = effective_sample_sizes({"x": x}, method)["x"]
        np.testing.assert_allclose(effective_sizes(x, method), expected, rtol=1e-10)
    if num_chains > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a spread of zero within chains
            expected = rank_normalized_rhat({"x": x})["x"]
        np.testing.assert_allclose(rank_normalized_r_hats(x), expected, rtol=1e-10)


def test_parameters_are_worked_on_in_parts(monkeypatch):
    x = chains(2, 100).reshape(2, 100, 1, 11)
    whole = effective_sizes(x, "bulk")
    assert whole.shape == (1, 11)
    monkeypatch.setattr(convergence, "_MAX_VALUES", 500)
    np.testing.assert_array_equal(effective_sizes(x, "bulk"), whole)


def test_what_says_nothing_is_nan():
    x = chains(2, 100)
    assert np.isnan(effective_sizes(x[:, :3])).all()
    assert np.isnan(rank_normalized_r_hats(x[:1])).all()
    x[0, 3, 1] = np.inf
    np.testing.assert_array_equal(np.isnan(effective_sizes(x)), np.arange(11) == 1)
    assert np.isnan(rank_normalized_r_hats(x)[1])
