"""``bayeskit validate`` as a person uses it, on a module in the current folder."""

import json
import textwrap

import pytest

from bayeskit.cli import main

MODULE = """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import bayeskit as bk
    from bayeskit.inference import random
    from bayeskit.validation import Atoms

    STATES = Atoms(np.arange(3), np.array([2.0, 1.0, 1.0]))
    UNIFORM = Atoms(np.arange(3), np.ones(3))


    def rotate(key, x):
        return (x + random.categorical(key, jnp.zeros(2))) % 3


    def right():
        return bk.validate(rotate, start=UNIFORM)


    def wrong():
        return bk.validate(rotate, start=STATES)


    def undecided():
        # Nothing is ever accepted, so nothing can be said.
        tuning = bk.inference.RandomWalk().default_tuning(2)
        tuning = tuning._replace(step_size=jnp.asarray(1e9))
        level = bk.validation.Level(num_stages=2, growth=2, first=20_000, num_frequencies=2)
        return bk.validate(
            bk.inference.RandomWalk(), models=["skewed"], tuning=tuning, level=level
        )


    def second_of_two(key, log_weights, num):
        return jnp.ones(num, jnp.int32)


    def make_target():
        return bk.Target(
            log_density=lambda x: -0.5 * jnp.sum(x**2),
            sample_exact=lambda key: random.normal(key, (1,)),
        )


    def breaks(key, x):
        return np.linalg.inv(np.zeros((2, 2)))


    def broken():
        return breaks(None, None)


    walk = bk.inference.RandomWalk()
    schemes = type("", (), {"first": staticmethod(second_of_two)})
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_to_check.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "mine_to_check", raising=False)

    def call(name, *more):
        code = main(["validate", f"mine_to_check:{name}", *more])
        return code, capsys.readouterr()

    return call


def test_report_that_passes(run):
    code, printed = run("right")
    assert code == 0
    assert printed.out.startswith("PASS")


def test_report_that_fails(run):
    code, printed = run("wrong")
    assert code == 1
    assert "state 0" in printed.out


def test_report_that_is_inconclusive(run):
    assert run("undecided")[0] == 3


def test_function_with_a_law(run):
    code, printed = run("second_of_two", "--law", "resampling")
    assert code == 1
    assert "offspring" in printed.out
    assert run("schemes.first", "--law", "resampling")[0] == 1


def test_kernel_and_target(run):
    code, printed = run("walk", "--target", "mine_to_check:make_target", "--seed", "7")
    assert code == 0
    assert "key=7" in printed.out


def test_json_is_one_object(run):
    code, printed = run("wrong", "--json")
    facts = json.loads(printed.out)
    assert code == 1
    assert facts["verdict"] == "fail"


def test_json_has_no_nan(run):
    """The acceptance of a foreign kernel may be NaN, which JSON does not know."""
    from bayeskit.cli import _plain

    plain = _plain({"a": float("nan"), "b": [float("inf"), 1.0], "c": "x"})
    assert plain == {"a": None, "b": [None, 1.0], "c": "x"}


def test_plot(run, tmp_path):
    code, _ = run("right", "--plot", "picture.png")
    assert code == 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


class TestBadInput:
    def test_no_such_name(self, run):
        code, printed = run("nothing")
        assert code == 2
        assert "no 'nothing'" in printed.err

    def test_no_such_module(self, capsys):
        assert main(["validate", "no_such_module:thing"]) == 2
        assert "no module 'no_such_module'" in capsys.readouterr().err

    def test_no_colon(self, capsys):
        assert main(["validate", "kernel"]) == 2
        assert "MODULE:NAME" in capsys.readouterr().err

    def test_what_is_missing(self, run):
        code, printed = run("rotate")
        assert code == 2
        assert "start=" in printed.err

    def test_options_for_a_finished_report(self, run):
        code, printed = run("right", "--seed", "1")
        assert code == 2
        assert "finished report" in printed.err

    def test_unknown_law(self, run):
        code, printed = run("walk", "--law", "gravity")
        assert code == 2
        assert "gravity" in printed.err

    def test_faults_of_the_module_show_where(self, run):
        code, printed = run("broken")
        assert code == 2
        assert "Traceback" in printed.err
        assert "mine_to_check.py" in printed.err

    @pytest.mark.parametrize("given", [("--alpha", "2"), ("--seed", "-1"), ("--level", "x")])
    def test_usage(self, given):
        with pytest.raises(SystemExit) as stopped:
            main(["validate", "a:b", *given])
        assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("file", "words"),
    [("x.xyz", "must end in one of"), ("nowhere/x.png", "there is no folder")],
)
def test_a_picture_that_cannot_be_written_is_refused_first(file, words, capsys):
    assert main(["validate", "no_such_module:kernel", "--plot", file]) == 2
    assert words in capsys.readouterr().err
