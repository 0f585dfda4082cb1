"""The benchmark: it times all that it says, and shows wrong answers and grown ratios."""

import contextlib
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel.bench import command, machine, measure, peers, stored
from bayeskit.accel.bench.backends import backends, ours
from bayeskit.accel.bench.cases import Case, cases
from bayeskit.accel.bench.clock import build, looped, time_in_turns
from bayeskit.accel.bench.contender import Contender
from bayeskit.accel.bench.measure import Bench
from bayeskit.accel.bench.programs import Program, affine_maps, compose, measure_programs
from bayeskit.accel.bench.regimes import REGIMES, judge_offspring, log_weights
from bayeskit.accel.bench.table import render
from bayeskit.cli import main as bayeskit_main

SMALL = ["--sizes", "64", "--kernels", "prefix sum", "--repeats", "2"]


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Leave the process of the tests as it is, and copy no quarter of a gigabyte."""
    monkeypatch.setattr(machine, "use_one_thread", lambda: None)
    monkeypatch.setattr(measure, "memory_copy_ns", lambda dtype: 0.25)


@pytest.fixture
def no_peers(monkeypatch):
    monkeypatch.setattr(peers, "is_installed", lambda package: False)


# ---------------------------------------------------------------- right and wrong answers


@pytest.mark.parametrize("regime", REGIMES)
def test_regimes_are_what_their_names_say(regime):
    values = log_weights(regime, (3, 1000), np.float64)
    assert values.shape == (3, 1000)
    alive = np.isfinite(values)
    weights = np.exp(values - values.max(axis=1, keepdims=True))
    assert np.all(alive[:, 0])
    if regime == "half dead":
        assert 0.45 < 1 - alive.mean() < 0.57
        assert not alive[:, -20:].any()
    else:
        assert alive.all()
    if regime in ("sd 1", "sd 4"):
        assert values.std() == pytest.approx(float(regime[-1]), rel=0.1)
    if regime == "one holds all":
        assert np.all(weights.sum(axis=1) < 1 + 1e-9)


@pytest.mark.parametrize("regime", REGIMES)
def test_exact_schemes_are_found_right(regime):
    weights = log_weights(regime, (5000,))
    for scheme, largest in (("systematic", 1.0), ("multinomial", None)):
        index = getattr(accel, scheme)(accel.as_key(3), weights).index
        found = judge_offspring(index, weights, largest)
        assert not found["wrong"], found
        assert found["offspring_of_dead"] == 0


def test_prefix_sums_in_single_precision_are_found_wrong():
    num = 10**6
    weights = log_weights("half dead", (num,))
    sums = np.cumsum(np.exp(weights - weights.max()), dtype=np.float32)
    levels = (np.arange(num, dtype=np.float32) + np.float32(0.3)) / np.float32(num)
    index = np.minimum(np.searchsorted(sums / sums[-1], levels), num - 1)
    found = judge_offspring(index, weights, 1.0)
    assert found["wrong"]
    assert found["error"] > 1.001


def test_offspring_of_dead_particles_are_found_wrong():
    weights = log_weights("half dead", (5000,))
    index = np.array(accel.systematic(accel.as_key(3), weights).index)
    index[-1] = 4999
    found = judge_offspring(index, weights, 1.0)
    assert found["wrong"]
    assert found["offspring_of_dead"] == 1


def test_independent_draws_with_other_weights_are_found_wrong():
    weights = log_weights("sd 4", (5000,))
    flatter = accel.multinomial(accel.as_key(3), 0.7 * weights).index
    assert judge_offspring(flatter, weights, None)["wrong"]


@pytest.mark.parametrize("index", [[0, 1, 3], [-1, 0, 1], [0, 1], [[0, 1, 2]]])
def test_what_is_no_index_is_found_wrong(index):
    assert judge_offspring(np.array(index), np.zeros(3), 1.0)["wrong"]


# ---------------------------------------------------------------- measuring


def test_every_case_of_ours_is_right(no_peers):
    bench = Bench(repeats=1, seconds=0.0)
    kernels = ["normalize", "systematic", "gather", "prefix sum", "bootstrap step"]
    some = list(cases([100], ["half dead"], np.float32, kernels, batches=[(2, 100)]))
    rows = [row for case in some for row in bench.measure(case)]
    assert {row["kernel"] for row in rows} == set(kernels)
    assert {row["batch"] for row in rows} == {1, 2}
    assert {row["package"] for row in rows} == {"bayeskit", "jax", "numpy"}
    for row in rows:
        assert not row["wrong"], row
        assert row["ratio_to_copy"] > 0
        assert row["ratio_to_memory_copy"] == pytest.approx(row["ns_per_particle"] / 0.25, 1e-2)
        assert row["versions"]["jax"] == jax.__version__
        assert json.loads(stored.to_line(row)) == row
    ours = next(row for row in rows if row["package"] == "bayeskit")
    theirs = next(row for row in rows if row["package"] == "jax")
    assert ours["best_peer"] == "jax softmax, 1 / sum W^2"
    assert ours["ratio_to_best_peer"] == pytest.approx(
        ours["ns_per_particle"] / theirs["ns_per_particle"], rel=1e-2
    )
    text = render(rows)
    assert "systematic, 100, half dead\n" in text
    assert "WRONG" not in text


def test_normals_of_another_size_are_another_program(no_peers):
    bench = Bench(repeats=1, seconds=0.0)
    for case in cases([1000, 2000], kernels=["normals"], batches=()):
        if case.regime == "philox4x32":
            assert not any(row["wrong"] for row in bench.measure(case))


def test_wrong_answers_are_marked():
    off_by_one = Contender("peer", "off by one", lambda x: jnp.cumsum(x) + 1)
    (case,) = cases([100], kernels=["prefix sum"], batches=())
    wrong = Case("prefix sum", 100, case.arguments, case.judge, [off_by_one])
    rows = Bench(repeats=1, seconds=0.0).measure(wrong)
    assert rows[0]["wrong"]
    assert rows[0]["error"] == 1
    assert "WRONG" in render(rows)


def test_kernels_in_use_have_rows_of_their_own(monkeypatch):
    report = {"scaled_cdf": "ffi", "sort": "xla (triton: not installed)", "gather": "xla"}
    chosen = []
    choose = lambda kind: contextlib.nullcontext(chosen.append(kind))
    monkeypatch.setattr(accel, "backend_report", lambda: report)
    monkeypatch.setattr(accel, "backend", choose)
    assert backends() == ("xla", "ffi")
    contenders = ours("systematic", lambda x: x)
    assert [c.name for c in contenders] == ["systematic", "systematic, ffi"]
    assert [c.function(3) for c in contenders] == [3, 3]
    assert chosen == ["xla", "ffi"]


def test_a_loop_leaves_nothing_out():
    # What does not depend on the turn is computed once for all: one sine in the program.
    def careless(x):
        return jax.lax.fori_loop(1, 5, lambda i, _: jnp.sin(x), jnp.sin(x))

    def sines(function):
        return build(function, np.ones(3)).call.as_text().count("sine(")

    assert sines(looped(jnp.sin, 5)) == 2
    assert sines(careless) == 1


def test_a_loop_has_keys_of_its_own_in_each_turn():
    draw = lambda key, x: jax.random.normal(key) + x
    key, x = jax.random.key(0), jnp.zeros(())
    assert looped(draw, 1)(key, x) == draw(key, x)
    assert looped(draw, 3)(key, x) == draw(jax.random.fold_in(key, 2), x)


def test_rows_of_loops_are_rows_of_their_own(no_peers):
    (case,) = cases([64], kernels=["prefix sum"], batches=())
    bench = Bench(repeats=1, seconds=0.0, in_loop=True)
    row = bench.measure(case)[0]
    assert row["mode"] == "loop"
    assert row["ns_per_particle"] != row["ns_single_call"]


def test_each_call_takes_its_turn():
    made = []
    calls = {name: lambda name=name: made.append(name) for name in "ab"}
    seconds = iter(np.arange(0.0, 10_000.0))
    times = time_in_turns(calls, repeats=4, seconds=1e9, now=lambda: next(seconds))
    assert "".join(made[-8:]) == "abababab"
    assert times["a"] == (1.0, 1.0, 4)
    seconds = iter(np.arange(0.0, 10_000.0))
    assert time_in_turns(calls, repeats=9, seconds=2.5, now=lambda: next(seconds))["a"][2] == 3


def test_programs_to_build_have_budgets_and_ratios():
    double = lambda: (lambda x: 2 * x, (np.ones(3),))
    programs = [
        Program("double", "bayeskit", "ours", 1, double, budget_s=0.5),
        Program("double", "peer", "theirs", 1, double),
        Program("double", "peer", "in parts", 1, double, in_parts=True),
    ]
    ours, theirs, in_parts = measure_programs(programs, {"platform": "cpu"}, repeats=1)
    # A parameter, the constant, its broadcast, the product and the return, or a few more.
    assert 2 <= ours["num_instructions"] <= 8
    parts = ours["trace_s"] + ours["lower_s"] + ours["compile_s"]
    assert ours["first_call_s"] == pytest.approx(parts, abs=1e-3)
    assert "ratio_to_best_peer" in ours and "ratio_to_best_peer" not in theirs
    assert "compile_s" not in in_parts
    assert "budget" in render([ours, theirs, in_parts])


def test_affine_maps_compose():
    matrices, vectors = affine_maps(2, np.float64)
    x = np.arange(4.0)
    matrix, vector = compose(*zip(matrices, vectors, strict=True))
    once = matrices[0] @ x + vectors[0]
    np.testing.assert_allclose(matrix @ x + vector, matrices[1] @ once + vectors[1], rtol=1e-5)


# ---------------------------------------------------------------- stored rows


def row(package="bayeskit", name="systematic", **more):
    ours = {"ratio_to_copy": 10.0, "best_peer": "peer sort", "ratio_to_best_peer": 0.5}
    return {
        "kernel": "systematic",
        "package": package,
        "name": name,
        "num_particles": 1000,
        "batch": 1,
        "dim": 1,
        "regime": "sd 1",
        "platform": "cpu",
        "dtype": "float32",
        "ns_per_particle": 5.0 if package == "bayeskit" else 10.0,
        **(ours if package == "bayeskit" else {}),
        **more,
    }


NOW = [row(), row("peer", "sort")]


def test_equal_ratios_pass():
    found = stored.compare(NOW, NOW)
    assert (found.num_compared, found.slower, found.notes) == (2, [], [])


@pytest.mark.parametrize(("factor", "fails"), [(1.2, False), (1.3, True)])
def test_a_grown_ratio_is_found(factor, fails):
    was = [row(ratio_to_copy=10.0 / factor), NOW[1]]
    slower = stored.compare(NOW, was).slower
    assert [s.ratio for s in slower] == (["ratio_to_copy"] if fails else [])
    was = [row(ratio_to_best_peer=0.5 / factor), NOW[1]]
    slower = stored.compare(NOW, was).slower
    assert [s.ratio for s in slower] == (["ratio_to_best_peer"] if fails else [])
    if fails:
        assert str(slower[0]) == (
            "bayeskit systematic, systematic, 1000 particles, sd 1: ratio_to_best_peer is 0.5, "
            "stored 0.3846 (+30 %)"
        )


def test_the_peer_is_the_one_that_was_stored():
    """A new and quicker peer makes no failure, a missing one is told."""
    quicker = [*NOW, row("peer", "radix", ns_per_particle=1.0)]
    assert stored.compare(quicker, NOW).slower == []
    found = stored.compare([row()], NOW)
    assert found.num_compared == 1
    assert found.notes == [
        "bayeskit systematic, systematic, 1000 particles, sd 1: peer sort was not measured"
    ]


def test_other_machines_are_told():
    here = row(device="A", versions={"jax": "1", "torch": "2"})
    there = row(device="B", versions={"jax": "0"})
    assert stored.compare([here], [there]).notes[-3:] == [
        "stored on B, here is A",
        "stored with jax 0, here is 1",
        "stored with torch missing, here is 2",
    ]


def test_other_cases_are_not_compared():
    assert stored.compare(NOW, [row(num_particles=2000)]).num_compared == 0
    assert stored.compare(NOW, [row(dtype="float64")]).num_compared == 0


@pytest.mark.parametrize("line", ["{", "[1]", '{"kernel": "a"}'])
def test_bad_lines_are_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match="line 2 is"):
        stored.read(path)


# ---------------------------------------------------------------- the command


def test_check_finds_a_planted_slow_down(no_peers, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    assert command.main([*SMALL, "--out", str(path)]) == 0
    assert "prefix sum, 64" in capsys.readouterr().out
    rows = stored.read(path)
    rows[0]["ratio_to_copy"] *= 10
    rows[0]["ratio_to_best_peer"] *= 10
    stored.write(rows, path)
    assert command.main([*SMALL, "--check", str(path)]) == 0
    rows[0]["ratio_to_copy"] /= 1000
    stored.write(rows, path)
    assert command.main([*SMALL, "--check", str(path)]) == 1
    printed = capsys.readouterr()
    for said in printed:  # on stdout below the table
        assert "slower: bayeskit prefix_sum, prefix sum, 64 particles: ratio_to_copy is" in said
    assert "1 worse by more than 25 %" in printed.err
    rows[0]["num_particles"] = 65
    stored.write(rows[:1], path)
    assert command.main([*SMALL, "--check", str(path)]) == 2
    printed = capsys.readouterr()
    assert "has no row of what was measured" in printed.err
    assert "has no row of what was measured" in printed.out


def test_a_wrong_answer_of_ours_fails(no_peers, monkeypatch, capsys):
    monkeypatch.setattr(accel, "prefix_sum", jnp.cumprod)
    assert command.main([*SMALL, "--json"]) == 1
    printed = capsys.readouterr()
    assert "wrong: bayeskit prefix_sum, prefix sum, 64 particles" in printed.err
    assert [json.loads(line)["wrong"] for line in printed.out.splitlines()].count(True) == 1


def test_missing_packages_are_named(monkeypatch, capsys):
    find = importlib.util.find_spec
    hidden = lambda name: None if name in peers.PACKAGES else find(name)
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert command.main(SMALL) == 0
    assert "left out, not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "many"], "'many' is no number"),
        (["--sizes", "1e9"], "whole numbers from 1 to 1e+08, got 1e9"),
        (["--sizes", "1.5"], "whole numbers"),
        (["--kernels", "sorting"], "'sorting' is none of normalize, systematic"),
        (["--repeats", "0"], "at least 1"),
        (["--repeats", "x"], "no whole number"),
        (["--quick", "--full"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_files_are_looked_at_first(tmp_path, capsys):
    assert command.main(["--check", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl does not exist: name a file that --out" in capsys.readouterr().err
    assert command.main(["--out", str(tmp_path)]) == 2
    assert "name a file in a folder" in capsys.readouterr().err


def test_an_interrupt_keeps_what_there_is_and_what_was_stored(
    no_peers, monkeypatch, tmp_path, capsys
):
    path = tmp_path / "rows.jsonl"
    path.write_text("what was stored")
    measured = Bench.measure

    def interrupted(self, case):
        if case.num_particles == 65:
            raise KeyboardInterrupt
        return measured(self, case)

    monkeypatch.setattr(Bench, "measure", interrupted)
    sizes = ["--sizes", "64,65", *SMALL[2:], "--out", str(path)]
    assert command.main(sizes) == 130
    assert path.read_text() == "what was stored"
    assert len(stored.read(tmp_path / "rows.jsonl.interrupted")) == 3
    printed = capsys.readouterr()
    assert "interrupted after 3 rows" in printed.err
    assert "prefix sum, 64" in printed.out


def test_it_is_a_command_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        bayeskit_main(["bench", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: bayeskit bench")
    with pytest.raises(SystemExit):
        bayeskit_main(["--help"])
    assert "bench" in capsys.readouterr().out


def test_it_runs_as_a_module_on_one_thread():
    command_line = [sys.executable, "-m", "bayeskit.accel.bench", *SMALL, "--json"]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0]["package"] == "bayeskit"
    assert rows[0]["clock"] in ("processor, one thread", "wall")
    assert rows[0]["compile_s"] > 0
