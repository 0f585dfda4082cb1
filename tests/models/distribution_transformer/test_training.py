"""Training: the same bits again, going on from a file, numbers that are not finite."""

import functools
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone

import bayeskit as bk
from bayeskit import container
from bayeskit.errors import (
    CheckpointLockedError,
    CheckpointMismatchError,
    CorruptFileError,
    InterruptedRunWarning,
    NumericalWarning,
)
from bayeskit.inference import CheckpointFile, LongRun, long_run
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.distribution_transformer import (
    LinearGaussian,
    Simulator,
    saving,
    training,
)
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
from tests.models.distribution_transformer.long_training import digest

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


def trained(learned, path, **settings):
    return clone(learned).set_params(checkpoint=path, **settings).fit()


def in_parts(learned, path):
    """Train by as many calls as it takes, each stopped after one piece."""
    for number in range(100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterruptedRunWarning)
            found = trained(learned, path, max_seconds=1e-6)
        if not found.interrupted_:
            return found, number
    raise AssertionError("100 pieces did not end training")


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(long_run, "_FIRST_PIECE", 20)


def test_a_training_in_parts_has_the_same_bits(learned, tmp_path, short_pieces):
    """Pieces of 20 steps, which end within chunks of 50 and at their ends."""
    found, number = in_parts(learned, tmp_path / "training.bkit")
    assert number >= 3
    assert digest(found) == digest(learned)
    # What is finished is returned at once, and is the same again.
    with CompileClock() as clock:
        assert digest(trained(learned, tmp_path / "training.bkit")) == digest(learned)
    assert clock.num_compiled <= 3


def test_steps_made_twice_are_caught(learned, tmp_path, short_pieces, monkeypatch):
    """Planted bug: a training that goes on takes itself for one step earlier."""
    restored = training.restored

    def earlier(saved):
        found = restored(saved)
        found.step -= found.step < 60
        return found

    monkeypatch.setattr(training, "restored", earlier)
    found, _ = in_parts(learned, tmp_path / "training.bkit")
    assert digest(found) != digest(learned)


def test_ctrl_c_keeps_the_best_weights_and_says_how_to_go_on(learned, tmp_path, monkeypatch):
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(LongRun, "piece", lambda self, left, most: min(left, 20))
    reached, count = LongRun.reached, iter(range(100))

    def interrupting(run, part, state):
        if next(count) == 1:
            signal.raise_signal(signal.SIGINT)
        return reached(run, part, state)

    monkeypatch.setattr(LongRun, "reached", interrupting)
    path = tmp_path / "training.bkit"
    try:
        words = "stopped by Ctrl-C after 40 of 60 steps.*The same call goes on from"
        with pytest.warns(InterruptedRunWarning, match=words):
            part = trained(learned, path)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert part.interrupted_ and part.n_steps_ == 40
    assert part.posterior(Z, prior=bk.GaussianMixture([1.0], [0.0], [1.0])).mean.shape == (1,)
    monkeypatch.undo()
    assert digest(trained(learned, path)) == digest(learned)


def test_a_checkpoint_of_another_training_is_refused(learned, tmp_path):
    path = tmp_path / "training.bkit"
    trained(learned, path)
    for wrong in (
        {"lr": 1e-2},
        {"random_state": 1},
        {"max_steps": 70},
    ):
        name = "key" if "random_state" in wrong else next(iter(wrong))
        with pytest.raises(CheckpointMismatchError, match=f"another Training run: {name} is"):
            trained(learned, path, **wrong)
    other = LinearGaussian(1.0, 2.0, num_observations=(1, 4))
    with pytest.raises(CheckpointMismatchError, match="model is"):
        trained(learned, path, simulator=other)
    with CheckpointFile(path, {}), pytest.raises(CheckpointLockedError, match="is using"):
        trained(learned, path)


def test_progress_and_checkpoints_change_nothing(learned, tmp_path, capsys):
    settings = {"progress": True, "checkpoint_every": 0}
    assert digest(trained(learned, tmp_path / "a.bkit", **settings)) == digest(learned)
    line = capsys.readouterr().err
    assert "DistributionTransformer: compiling" in line
    assert " of 60 steps, loss" in line and "60 steps, loss" in line.rsplit("\r", 1)[-1]
    assert "better than untrained" in line


# ------------------------------------------------------------ killed


def start(path):
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("long_training.py"), path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


def killed_after(child, seconds):
    """Kill a training so long after its first piece; return what it said, had it ended."""
    first = child.stdout.readline()
    assert first == "ready\n"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    said = child.stdout.read().strip()
    assert said or child.wait() == -signal.SIGKILL
    child.wait()
    child.stdout.close()
    return said


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, learned):
    """Killed in another process, continued in this one."""
    path = tmp_path / "training.bkit"
    said = killed_after(start(path), 0.05)
    assert said in ("", digest(learned))
    # Never damaged, whatever moment it was.
    container.read_container(path, kinds={"Checkpoint"})
    assert digest(trained(learned, path)) == digest(learned)


@pytest.mark.slow
def test_twenty_kills(tmp_path, learned):
    """Of trainings of which each goes on where the last was killed, in new processes."""
    generator = np.random.default_rng(2)
    expected, killed, ended = digest(learned), 0, 0
    while killed < 20:
        path = tmp_path / f"{ended}.bkit"
        said = killed_after(start(path), generator.uniform(0, 0.4))
        assert said in ("", expected)
        killed, ended = killed + (not said), ended + bool(said)
        container.read_container(path, kinds={"Checkpoint"})
    print(f"{killed} kills, {ended} trainings came to their end")
    assert digest(trained(learned, path)) == expected


# ------------------------------------------------------------ when it ends


def test_patience_and_budgets_end_training(learned):
    impatient = clone(learned).set_params(max_steps=1000, lr=1e-9, patience=2).fit()
    assert impatient.n_steps_ < 1000
    hurried = clone(learned).set_params(max_steps=None, budget_seconds=0.01).fit()
    assert 0 < hurried.n_steps_ <= 50


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
        task, sample, _ = first_sample(task, key)
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


def test_starts_of_many_problems_are_those_of_few(variance):
    """XLA of JAX 0.12 lost the sign of a term in programs for a thousand problems."""
    task = variance.task_
    problems, _ = jax.jit(lambda key: task.draw(key, 1024))(jax.random.key(0))
    few = jax.tree.map(lambda leaf: leaf[:2], problems)
    found, expected = (jax.jit(task.start)(p) for p in (problems, few))
    for name in ("residuals", "log_evidence"):
        many = np.asarray(getattr(found, name))[:2]
        np.testing.assert_allclose(many, getattr(expected, name), atol=1e-4)
