"""Runs that are stopped, killed and continued end with the bits of a run that was not.

Every comparison here is of bits: no test has a false-alarm rate.
"""

import contextlib
import errno
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import container
from bayeskit.errors import (
    CheckpointLockedError,
    CheckpointMismatchError,
    CheckpointWarning,
    CorruptFileError,
    InterruptedRunWarning,
    UnfinishedRunError,
)
from bayeskit.inference import long_run as long_run_module
from bayeskit.inference.engines.auto import run_auto
from bayeskit.inference.long_run import LongRun
from tests.inference.long_runs import ENGINES, Y, digest, log_prior, target, target_of

EVERY_PIECE = {"max_seconds": 1e-6}


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch):
    monkeypatch.setattr(long_run_module, "_FIRST_PIECE", 7)


@pytest.fixture(autouse=True)
def _python_answers_to_interrupts():
    """A shell that starts tests in the background makes them ignore SIGINT, and so do runs."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


def test_a_process_that_ignores_interrupts_is_left_alone():
    """As under nohup, or in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found, reached = [], LongRun.reached

    def look(self, *arguments, **keywords):
        found.append(signal.getsignal(signal.SIGINT))
        return reached(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LongRun, "reached", look)
        ENGINES["nuts"]().run(target_of("nuts"), key=3)
    assert found
    assert set(found) == {signal.SIG_IGN}


@pytest.fixture(scope="module")
def uninterrupted():
    """Results without any checkpoint or limit, each made once."""
    made = {}

    def result(name):
        if name not in made:
            made[name] = ENGINES[name]().run(target_of(name), key=3)
        return made[name]

    return result


def run(name, path, **more):
    return ENGINES[name](checkpoint=path, **more).run(target_of(name), key=3)


def run_in_parts(name, path):
    """Return the result of as many calls as it takes, each stopped after one piece."""
    for number in range(200):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterruptedRunWarning)
            try:
                result = run(name, path, **EVERY_PIECE)
            except UnfinishedRunError:
                continue
        if not result.interrupted:
            return result, number
    raise AssertionError("200 pieces did not end the run")


# ------------------------------------------------------------ the same bits


# Settings of SMC, SMC² and EnsembleHMC, which run by default as well.
VARIANTS = ("bridge", "unbiased smc2", "ensemble to an ESS")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in VARIANTS else ()) for n in ENGINES],
)
def test_stopped_after_every_piece(name, tmp_path, uninterrupted):
    result, num_stops = run_in_parts(name, tmp_path / "run.bkit")
    assert num_stops >= 2
    assert digest(result) == digest(uninterrupted(name))
    # What is finished is returned at once, and is the same again.
    assert digest(run(name, tmp_path / "run.bkit")) == digest(result)


@pytest.mark.parametrize("name", ["smc", "nuts"])
def test_checkpoints_and_progress_change_nothing(name, tmp_path, uninterrupted, capsys):
    engine = ENGINES[name](checkpoint=tmp_path / "run.bkit", checkpoint_every=0)
    object.__setattr__(engine, "progress", True)
    assert digest(engine.run(target(), key=3)) == digest(uninterrupted(name))
    assert capsys.readouterr().err


def test_size_of_pieces_changes_nothing(monkeypatch, uninterrupted):
    for seconds in (1e-9, 1e9):
        monkeypatch.setattr(long_run_module, "_PIECE_SECONDS", seconds)
        assert digest(ENGINES["nuts"]().run(target(), key=3)) == digest(uninterrupted("nuts"))


def shifted_stage(by):
    """Return a planted bug: a resumed SMC run that takes itself for earlier or later."""
    resumed = LongRun.resumed

    def wrong(self, part, like):
        found = resumed(self, part, like)
        if found is None:
            return None
        population, infos = found
        stage = population.stage._replace(number=population.stage.number + by)
        return population._replace(stage=stage), infos

    return wrong


@pytest.mark.parametrize("by", [-1, 1])
def test_reused_or_skipped_key_is_caught(by, tmp_path, uninterrupted, monkeypatch):
    monkeypatch.setattr(LongRun, "resumed", shifted_stage(by))
    result, _ = run_in_parts("smc", tmp_path / "run.bkit")
    assert digest(result) != digest(uninterrupted("smc"))


def test_forgotten_piece_is_caught(tmp_path, uninterrupted, monkeypatch):
    """Planted bug: the state of the chains is kept late, so that a piece is made twice."""
    reached = LongRun.reached
    before = []

    def late(self, part, state):
        before.append(state())
        found = reached(self, part, state)
        if len(before) > 1:
            self._parts[part] = lambda: (before[-2][0], before[-1][1])
            self._is_written = False
            self._write()
        return found

    monkeypatch.setattr(LongRun, "reached", late)
    with pytest.raises(UnfinishedRunError):
        run("nuts", tmp_path / "run.bkit", **EVERY_PIECE)
    before.clear()
    result, _ = run_in_parts("nuts", tmp_path / "run.bkit")
    assert digest(result) != digest(uninterrupted("nuts"))


def test_partial_draws_are_the_first_ones(tmp_path, uninterrupted):
    whole = uninterrupted("nuts").positions
    part = None
    while part is None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.suppress(UnfinishedRunError):
                part = run("nuts", tmp_path / "run.bkit", **EVERY_PIECE)
    assert [w.category for w in caught] == [InterruptedRunWarning]
    assert f"after {part.positions.shape[1]} of 120 draws" in str(caught[0].message)
    assert part.interrupted and not uninterrupted("nuts").interrupted
    assert 0 < part.positions.shape[1] < 120
    assert np.array_equal(part.positions, whole[:, : part.positions.shape[1]])
    part.save(tmp_path / "part.bkit")
    assert bk.Posterior.load(tmp_path / "part.bkit").interrupted


def test_resumed_run_compiles_nothing_again(tmp_path, uninterrupted):
    uninterrupted("nuts"), uninterrupted("smc")
    for name in ("smc", "nuts"):
        run_in_parts(name, tmp_path / f"{name}.bkit")
        from bayeskit.inference.compile_clock import CompileClock

        with CompileClock() as clock:
            run_in_parts(name, tmp_path / f"{name}-again.bkit")
        assert clock.num_compiled == 0


# ------------------------------------------------------------ killed


def start(name, path, *number):
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("long_runs.py"), name, path, *number],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def kill_until(num_kills, name, folder, expected, seed):
    """Kill runs at random moments and continue them; count kills, ends, and resumptions."""
    generator = np.random.default_rng(seed)
    killed = ended = resumed = 0
    path = folder / "0.bkit"
    # The first run is left in peace. Whole runs tell how long one takes; the first compiles.
    duration = None
    while killed < num_kills or path.exists():
        child = start(name, path)
        assert child.stdout.readline() == "ready\n"
        began = time.monotonic()
        if duration is not None and killed < num_kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(generator.uniform(0, duration))
            child.send_signal(signal.SIGKILL)
        said = child.stdout.read().strip()
        code = child.wait()
        child.stdout.close()
        if said:
            assert said == expected
            duration = min(duration or math.inf, time.monotonic() - began)
            ended += 1
            path = folder / f"{ended}.bkit"
        else:
            assert code == -signal.SIGKILL
            killed += 1
        if path.exists():
            # Never damaged, whatever moment it was.
            container.read_container(path, kinds={"Checkpoint"})
            resumed += 1
    return killed, ended, resumed


def test_killed_smc_goes_on_to_the_same_bits(tmp_path, uninterrupted, monkeypatch):
    """Killed in the middle of a checkpoint, the worst moment; the slow tests kill at any."""
    path = tmp_path / "run.bkit"
    child = start("smc", path, "3")
    assert child.stdout.readline() == "writing\n"
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    half = [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]
    assert len(half) == 1
    # The checkpoint before it stands.
    container.read_container(path, kinds={"Checkpoint"})
    copied = shutil.copy(path, tmp_path / "copy.bkit")
    assert digest(run("smc", path)) == digest(uninterrupted("smc"))
    # Planted bug: a run that goes on, and takes itself for later than it is.
    monkeypatch.setattr(LongRun, "resumed", shifted_stage(1))
    assert digest(run("smc", copied)) != digest(uninterrupted("smc"))


@pytest.mark.slow
def test_fifty_kills_of_smc(tmp_path, uninterrupted):
    killed, ended, resumed = kill_until(50, "smc", tmp_path, digest(uninterrupted("smc")), 2)
    print(f"{killed} kills, {resumed} of them with a checkpoint to go on from, {ended} runs")
    assert killed == 50 and ended >= 2
    assert resumed >= 25


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ENGINES if n != "smc"])
def test_twenty_kills_of_every_engine(name, tmp_path, uninterrupted):
    killed, ended, resumed = kill_until(20, name, tmp_path, digest(uninterrupted(name)), 3)
    assert killed == 20 and ended >= 2 and resumed >= 1


# ------------------------------------------------------------ Ctrl-C and SIGTERM


class InterruptedAt:
    """Sends a signal to this process when a piece has been reached."""

    def __init__(self, monkeypatch, piece, number=signal.SIGINT):
        reached, self.count = LongRun.reached, 0

        def interrupting(run, part, state):
            self.count += 1
            if self.count == piece:
                signal.raise_signal(number)
            return reached(run, part, state)

        monkeypatch.setattr(LongRun, "reached", interrupting)


def test_interrupted_mcmc_returns_what_there_is(monkeypatch, uninterrupted):
    InterruptedAt(monkeypatch, 2)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(long_run_module, "_FIRST_PIECE", 40)
    monkeypatch.setattr(long_run_module, "_PIECE_SECONDS", 1e-9)
    monkeypatch.setattr(LongRun, "piece", lambda self, left, most: min(left, 50))
    with pytest.warns(InterruptedRunWarning, match="Ctrl-C after 40 of 120 draws"):
        part = ENGINES["nuts"]().run(target(), key=3)
    assert part.interrupted
    assert np.array_equal(part.positions, uninterrupted("nuts").positions[:, :40])
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_interrupted_smc_says_how_to_go_on(monkeypatch, tmp_path, uninterrupted):
    InterruptedAt(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt, match=r"stage 2 at inverse.*The same call goes on"):
        run("smc", tmp_path / "run.bkit")
    assert digest(run("smc", tmp_path / "run.bkit")) == digest(uninterrupted("smc"))


def test_interrupted_without_checkpoint_names_it(monkeypatch):
    InterruptedAt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt, match="With checkpoint=path"):
        ENGINES["smc"]().run(target(), key=3)


def test_second_interrupt_ends_at_once(monkeypatch):
    reached = LongRun.reached

    def twice(run, part, state):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return reached(run, part, state)

    monkeypatch.setattr(LongRun, "reached", twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        ENGINES["nuts"]().run(target(), key=3)
    assert not str(caught.value)


def test_terminated_run_is_kept_and_the_signal_sent_again(monkeypatch, tmp_path, uninterrupted):
    seen = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        InterruptedAt(monkeypatch, 2, signal.SIGTERM)
        with pytest.raises(UnfinishedRunError, match="SIGTERM"):
            run("smc", tmp_path / "run.bkit")
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert seen == [signal.SIGTERM]
    assert digest(run("smc", tmp_path / "run.bkit")) == digest(uninterrupted("smc"))


def test_without_checkpoint_sigterm_is_left_alone(monkeypatch):
    own, found, reached = signal.getsignal(signal.SIGTERM), [], LongRun.reached

    def looking(run, part, state):
        found.append(signal.getsignal(signal.SIGTERM))
        return reached(run, part, state)

    monkeypatch.setattr(LongRun, "reached", looking)
    ENGINES["smc"]().run(target(), key=3)
    assert set(found) == {own}


def test_handlers_of_the_caller_stay(monkeypatch):
    own = lambda number, frame: None
    previous = signal.signal(signal.SIGINT, own)
    found = []
    reached = LongRun.reached

    def looking(run, part, state):
        found.append(signal.getsignal(signal.SIGINT))
        return reached(run, part, state)

    monkeypatch.setattr(LongRun, "reached", looking)
    try:
        ENGINES["smc"]().run(target(), key=3)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert set(found) == {own}


def test_other_threads_leave_signals_alone(uninterrupted):
    expected, found = digest(uninterrupted("smc")), []
    thread = threading.Thread(
        target=lambda: found.append(digest(ENGINES["smc"]().run(target(), key=3)))
    )
    thread.start()
    thread.join()
    assert found == [expected]


# ------------------------------------------------------------ estimators


@pytest.mark.filterwarnings("ignore::bayeskit.errors.BayeskitWarning")
def test_estimator_goes_on(tmp_path):
    """Settings pass through `inference`, in float64; a partial result says that it is one."""

    def fit(**more):
        inference = bk.EnsembleHMC(
            num_chains=8, num_warmup=25, num_draws=60, progress=False, **more
        )
        return bk.BayesianModel(target(), inference=inference, random_state=5).fit(y=Y)

    path = tmp_path / "run.bkit"
    whole, partial = fit(), []
    while not (partial and not partial[-1].interrupted_):
        with contextlib.suppress(UnfinishedRunError):
            partial.append(fit(checkpoint=path, **EVERY_PIECE))
    assert [est.interrupted_ for est in partial] == [True, True, False]
    assert not whole.interrupted_
    assert digest(partial[-1].result_) == digest(whole.result_)
    partial[0].save(tmp_path / "est.bkit")
    assert bk.load(tmp_path / "est.bkit", model=target()).interrupted_


@pytest.mark.filterwarnings("ignore::bayeskit.errors.BayeskitWarning")
def test_automatic_choice_ends_with_the_engine_that_is_stopped(monkeypatch):
    """Ctrl-C in the second chunk of draws: no other engine begins, though none converged."""
    InterruptedAt(monkeypatch, 7)
    result, _ = run_auto(target(), None, 3)
    assert result.interrupted and result.positions.shape[1] == 50
    assert result.engine.startswith("EnsembleHMC")


# ------------------------------------------------------------ whose file it is


def drifted_prior(x):
    return log_prior(x) - 1e-6


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("num_particles is 192 in the file and 384", {"engine": {"num_particles": 384}}),
        ("engine is SMC", {"name": "nuts"}),
        (r"data\[0\] is float32 \(20,\)", {"target": lambda: target(Y + 1)}),
        (r"data\[0\] is float32 \(20,\) .* float32 \(5,\)", {"target": lambda: target(Y[:5])}),
        (r"data\[0\] is float32", {"target": lambda: target(Y.astype(np.int32))}),
        ("model is", {"target": lambda: target(log_prior=drifted_prior)}),
        ("key is .*random_state", {"key": 4}),
    ],
)
def test_another_run_is_refused(field, change, tmp_path, uninterrupted):
    path = tmp_path / "run.bkit"
    with pytest.raises(UnfinishedRunError):
        run("smc", path, **EVERY_PIECE)
    before = path.read_bytes()
    engine = ENGINES[change.get("name", "smc")](checkpoint=path)
    for name, value in change.get("engine", {}).items():
        object.__setattr__(engine, name, value)
    with pytest.raises(CheckpointMismatchError, match=field):
        engine.run(change.get("target", target)(), key=change.get("key", 3))
    assert path.read_bytes() == before
    # The right one still goes on, so that the refusal is about the difference alone.
    assert digest(run("smc", path)) == digest(uninterrupted("smc"))


def test_enclosed_data_are_part_of_the_model(tmp_path):
    def enclosing(values):
        return target(log_likelihood=lambda x, y: -jnp.sum((jnp.asarray(values) - x[0]) ** 2))

    path = tmp_path / "run.bkit"
    with pytest.raises(UnfinishedRunError):
        ENGINES["smc"](checkpoint=path, **EVERY_PIECE).run(enclosing(Y), key=3)
    with pytest.raises(CheckpointMismatchError, match="model is"):
        ENGINES["smc"](checkpoint=path).run(enclosing(Y + 1), key=3)


def test_other_versions_are_named(tmp_path, monkeypatch):
    path = tmp_path / "run.bkit"
    with pytest.raises(UnfinishedRunError):
        run("smc", path, **EVERY_PIECE)
    monkeypatch.setattr(jax, "__version__", "9.9")
    with pytest.warns(CheckpointWarning, match=r"perhaps not to the same bits"):
        run("smc", path)


# ------------------------------------------------------------ files


def test_damaged_file_is_replaced_by_the_one_before(tmp_path, uninterrupted):
    path = tmp_path / "run.bkit"
    for _ in range(3):
        with pytest.raises(UnfinishedRunError):
            run("smc", path, **EVERY_PIECE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(CheckpointWarning, match="goes on from the checkpoint before it"):
        result = run("smc", path)
    assert digest(result) == digest(uninterrupted("smc"))
    # The damaged one was not kept in its place.
    container.read_container(f"{path}.prev")


def test_damaged_file_without_another_is_refused(tmp_path):
    path = tmp_path / "run.bkit"
    path.write_bytes(b"no zip")
    with pytest.raises(CorruptFileError, match=r"delete .* to start anew"):
        run("smc", path)
    assert path.read_bytes() == b"no zip"
    assert not Path(f"{path}.lock").exists()


def test_full_disk_is_no_end(tmp_path, monkeypatch, uninterrupted):
    path = tmp_path / "run.bkit"
    with pytest.raises(UnfinishedRunError):
        run("smc", path, **EVERY_PIECE)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(CheckpointWarning, match="No space left") as caught:
        result = run("smc", path, checkpoint_every=0)
    assert len(caught) == 1
    assert digest(result) == digest(uninterrupted("smc"))
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.bkit"]


def test_missing_folder_is_no_end(tmp_path, uninterrupted):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run("smc", tmp_path / "absent" / "run.bkit", checkpoint_every=0)
    assert {w.category for w in caught} == {CheckpointWarning}
    assert digest(result) == digest(uninterrupted("smc"))


def test_second_process_is_refused(tmp_path):
    path = tmp_path / "run.bkit"
    holding = (
        "import sys; from bayeskit.inference.checkpoint import CheckpointFile\n"
        "with CheckpointFile(sys.argv[1], {}):\n    print('held', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", holding, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert child.stdout.readline() == "held\n"
    with pytest.raises(CheckpointLockedError, match=f"process {child.pid} is using"):
        run("smc", path)
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    # Its lock is still there, of a process that is not.
    assert Path(f"{path}.lock").read_text() == f"{child.pid}\n"
    run("smc", path)
    assert not Path(f"{path}.lock").exists()


def test_numbers_alone_are_kept(tmp_path):
    """No object is stored: NumPy reads every array of the file without pickle."""
    with pytest.raises(UnfinishedRunError):
        run("smc", tmp_path / "run.bkit", **EVERY_PIECE)
    found = container.read_container(tmp_path / "run.bkit")
    assert found.kind == "Checkpoint"
    assert all(values.dtype.kind in "fiub" for values in found.arrays.values())
    assert {"jax", "numpy", "platform"} <= found.parameters["made_by"].keys()


# ------------------------------------------------------------ cost


def test_slow_writing_waits(monkeypatch, tmp_path):
    """The next checkpoint waits until writing was less than a hundredth of the time."""
    clock = [0.0]
    monkeypatch.setattr(long_run_module.time, "monotonic", lambda: clock[0])
    engine = ENGINES["smc"](checkpoint=tmp_path / "run.bkit", checkpoint_every=60.0)
    writes = []

    def state():
        writes.append(clock[0])
        clock[0] += 3.0
        return np.zeros(3)

    with LongRun(engine, lambda: {}) as long_run:
        for _ in range(1000):
            clock[0] += 1.0
            long_run.reached("run", state)
    during = writes[:-1]
    assert during[0] == 60.0
    assert all(b - a >= 300.0 for a, b in itertools.pairwise(during))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"checkpoint": 3}, TypeError, "path of a file, got 3"),
        ({"checkpoint_every": -1}, ValueError, "seconds >= 0, got -1"),
        ({"checkpoint_every": float("nan")}, ValueError, "seconds >= 0"),
        ({"max_seconds": 0}, ValueError, "max_seconds must be positive, got 0"),
    ],
)
@pytest.mark.parametrize("name", ENGINES)
def test_bad_settings(name, settings, error, message):
    with pytest.raises(error, match=message):
        ENGINES[name](**settings)
