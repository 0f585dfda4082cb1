"""Training: the same bits again, going on from a file, numbers that are not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone

import bayeskit as bk
from bayeskit.errors import CorruptFileError, InvalidDataError, NumericalWarning
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.distribution_transformer import Simulator, saving
from bayeskit.models.distribution_transformer.first_sample import first_sample
from bayeskit.models.distribution_transformer.network import Network
from bayeskit.models.distribution_transformer.objective import (
    draw_batch,
    loss_and_gradient,
    mean_loss,
)
from bayeskit.models.distribution_transformer.supports import as_support
from bayeskit.models.distribution_transformer.task import Task
from bayeskit.models.distribution_transformer.training import Plan, initial_state
from tests.models.distribution_transformer.conftest import LINEAR, META_PRIOR, SMALL

Z = [0.7, -0.2]


def same_weights(a, b):
    leaves = zip(jax.tree.leaves(a.weights_), jax.tree.leaves(b.weights_), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def test_the_same_random_state_gives_the_same_bits_and_compiles_nothing(learned):
    with CompileClock() as clock:
        again = clone(learned).fit()
    assert same_weights(again, learned)
    assert clock.num_compiled <= 2  # Small eager programs, none of a network.
    other = clone(learned).set_params(random_state=1).fit()
    assert not same_weights(other, learned)


def test_the_loss_is_followed(learned):
    history = learned.history_
    assert list(history["step"]) == [0, 50, 60]
    assert learned.n_steps_ == 60
    assert learned.loss_ == history["evaluated_loss"].min()
    assert history["evaluated_loss"].iloc[0] == learned.start_loss_


def test_an_interrupted_training_goes_on_to_the_same_bits(learned, tmp_path, monkeypatch):
    path = tmp_path / "training.bkit"
    estimator = clone(learned).set_params(checkpoint=path)
    save = saving.Checkpoint.save

    def interrupt(self, state, progress):
        save(self, state, progress)
        raise RuntimeError("the power is off")

    monkeypatch.setattr(saving.Checkpoint, "save", interrupt)
    with pytest.raises(RuntimeError, match="power"):
        estimator.fit()
    monkeypatch.undo()
    estimator.fit()
    assert same_weights(estimator, learned)
    assert list(estimator.history_["step"]) == [0, 50, 60]
    with pytest.raises(InvalidDataError, match="other lr"):
        clone(estimator).set_params(lr=1e-2).fit()


def test_patience_and_budgets_end_training(learned):
    impatient = clone(learned).set_params(max_steps=1000, lr=1e-9, patience=2).fit()
    assert impatient.n_steps_ < 1000
    hurried = clone(learned).set_params(max_steps=None, budget_seconds=0.01).fit()
    assert hurried.n_steps_ == 50


def test_losses_that_are_not_finite_are_left_out():
    def sometimes_lost(key, x):
        value = x[0] + jax.random.normal(key)
        return jnp.where(value > 2.5, jnp.nan, value)

    settings = {**SMALL, "n_layers": 1, "max_steps": 20, "n_draws": 0}
    estimator = bk.DistributionTransformer(Simulator(sometimes_lost), META_PRIOR, **settings)
    with (
        pytest.warns(NumericalWarning, match="draws NaN or infinite data in"),
        pytest.warns(NumericalWarning, match="the loss was not finite at .* steps, first at"),
    ):
        estimator.fit()
    assert estimator.history_["skipped"].sum() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(estimator.weights_))


def test_files(learned, variance, tmp_path, prior):
    path = tmp_path / "dt.bkit"
    learned.save(path)
    loaded = bk.load(path)
    first, second = (e.posterior(Z, prior=prior) for e in (learned, loaded))
    assert all(np.array_equal(a, b) for a, b in zip(first.mixture, second.mixture, strict=True))
    assert loaded.get_params()["meta_prior"] == learned.meta_prior
    assert list(loaded.history_["step"]) == list(learned.history_["step"])
    variance.save(path)
    with pytest.raises(ValueError, match="does not hold the simulator"):
        bk.load(path)
    family = {"concentration": 2.0, "rate": 3.0}
    again = bk.load(path, model=variance.simulator)
    first, second = (e.posterior([1.0], prior=family) for e in (variance, again))
    assert all(np.array_equal(a, b) for a, b in zip(first.mixture, second.mixture, strict=True))


def test_supports_are_plain_values():
    spec = as_support(["real", ("interval", 2.0, np.inf), ("interval", -1.0, 1.0)], 3).spec
    plain = saving._plain_support(spec)
    assert plain == ["real", ["interval", 2.0, "inf"], ["interval", -1.0, 1.0]]
    assert as_support(saving._as_support_spec(plain), 3).spec == spec


def test_unknown_versions_are_refused(learned, tmp_path, monkeypatch):
    path = tmp_path / "dt.bkit"
    monkeypatch.setattr(saving, "_VERSION", 99)
    learned.save(path)
    monkeypatch.undo()
    with pytest.raises(CorruptFileError, match="version 99"):
        bk.load(path)


def test_sensitivities_are_derivatives(learned, variance):
    step = 1e-5

    def shifted(means):
        return bk.GaussianMixture([0.4, 0.6], means, [1.0, 0.5])

    found = learned.prior_sensitivity(Z, prior=shifted([-1.0, 1.0]))
    ends = [learned.posterior(Z, prior=shifted([-1.0 + s, 1.0])) for s in (-step, step)]
    numeric = (ends[1].mean - ends[0].mean) / (2 * step)
    # The network is float32, which limits the difference quotient and not the derivative.
    assert abs(found["mean"]["means"][0, 0, 0] - numeric[0]) < 0.02
    free = {"concentration": 2.0, "rate": 2.0}
    by = variance.prior_sensitivity([1.0], prior=free)["mean"]["parameters"]
    ends = [
        variance.posterior([1.0], prior={**free, "rate": 2.0 * np.exp(s)}).mixture
        for s in (-1e-3, 1e-3)
    ]
    means = [np.exp(m.log_weights) @ m.means[:, 0] for m in ends]
    assert abs(by[0, 1] - (means[1] - means[0]) / 2e-3) < 0.02


# ---------------------------------------------------------------- the gradient


def test_the_gradient_has_no_noise_where_the_network_is_right():
    """Linear data, whose posterior an untrained network returns."""
    with jax.enable_x64(False):
        task = Task(META_PRIOR, LINEAR, as_support("real", 1), 3)
        network = Network(1, 16, 1, 1, 16)
        key = jax.random.key(3)
        sample, _ = first_sample(task, key)
        state, scaling = initial_state(Plan(task, network, 64, 16), key, sample)

        @functools.partial(jax.jit, static_argnums=1)
        def gradients(weights, num_draws, wrong):
            batch = draw_batch(task, key, 64, num_draws, scaling)
            batch = batch._replace(
                ratios=wrong[0] * batch.ratios,
                log_proposal=batch.log_proposal + jnp.log(wrong[1]),
            )
            plain = jax.grad(lambda w: mean_loss(network, w, batch))(weights)
            _, ours = loss_and_gradient(network, weights, batch)
            return plain["head"]["w"], ours["head"]["w"]

        right = jnp.ones(2)
        plain, ours = gradients(state.weights, 16, right)
        assert np.abs(ours).max() < 1e-4 * np.abs(plain).max()
        # Planted bug: half as many draws in the second term.
        _, ours = gradients(state.weights, 16, jnp.array([1.0, 2.0]))
        assert np.abs(ours).max() > 0.1 * np.abs(plain).max()
        # Away from there both gradients agree, up to the noise of many draws.
        head = state.weights["head"]
        state.weights["head"] = {"w": head["w"], "b": head["b"] + 0.5}
        plain, ours = gradients(state.weights, 4000, right)
        assert np.abs(ours - plain).max() < 0.1 * np.abs(plain).max()
        # Planted bug: ratios that are twice too large.
        _, ours = gradients(state.weights, 4000, jnp.array([2.0, 1.0]))
        assert np.abs(ours - plain).max() > 0.5 * np.abs(plain).max()
