"""The command line as a person uses it."""

import html.parser
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit.accel import backend_report, dispatch
from bayeskit.cli import main
from bayeskit.errors import StalledError

FILES = ["forest.png", "posterior.bkit", "posterior.nc", "report.html", "smc_history.png"]


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(50, 10, 40), "dose": rng.uniform(0, 3, 40)})
    frame["sick"] = (0.1 * (frame.age - 50) + rng.normal(size=40) > 0).astype(int)
    frame["visits"] = rng.poisson(np.exp(0.3 * frame.dose))
    frame["pressure"] = 100 + 0.5 * frame.age + rng.normal(size=40)
    path = tmp_path / "data.csv"
    frame.to_csv(path, index=False)
    return path


def run(table, tmp_path, target, family, *more):
    out = tmp_path / "out"
    columns = ["--columns", "age,dose", "--num-particles", "1000"]
    arguments = ["fit", str(table), "--target", target, "--family", family, "--out", str(out)]
    return main([*arguments, *columns, *more]), out


class Checker(html.parser.HTMLParser):
    """Counts tags left open and addresses that would load something."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.loads = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.loads += [
            v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("target", "family"),
    [
        ("sick", "logistic"),
        # Models have tests of their own.
        pytest.param("visits", "poisson", marks=pytest.mark.slow),
        pytest.param("pressure", "linear", marks=pytest.mark.slow),
    ],
)
def test_fit_writes_everything(table, tmp_path, capsys, target, family):
    code, out = run(table, tmp_path, target, family)
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert sorted(p.name for p in out.iterdir()) == [*FILES, "summary.csv"]
    assert "log evidence" in printed
    assert "coefficients[dose]" in printed
    loaded = bk.load(out / "posterior.bkit")
    summary = pd.read_csv(out / "summary.csv", index_col="parameter")
    assert loaded.summary()["mean"].iloc[0] == pytest.approx(summary["mean"].iloc[0], abs=1e-9)
    checker = Checker()
    checker.feed((out / "report.html").read_text(encoding="utf-8"))
    assert checker.open == []
    assert checker.loads == []


def test_netcdf_opens_in_arviz(table, tmp_path):
    import arviz as az

    _, out = run(table, tmp_path, "sick", "logistic")
    opened = az.from_netcdf(str(out / "posterior.nc"))
    assert opened["posterior"]["coefficients"].shape[-1] == 2
    groups = opened.children if hasattr(opened, "children") else opened.groups()
    assert "log_likelihood" in groups


def test_json_is_one_object(table, tmp_path, capsys):
    code, _ = run(table, tmp_path, "sick", "logistic", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    assert printed["trusted"] is True
    assert printed["log_evidence_se"] > 0


def test_same_seed_same_files(table, tmp_path):
    first = run(table, tmp_path, "sick", "logistic")[1].joinpath("summary.csv").read_text()
    second = run(table, tmp_path, "sick", "logistic")[1].joinpath("summary.csv").read_text()
    assert first == second


@pytest.mark.parametrize("command", [["info"], ["bench", "--quick"]])
def test_an_unknown_backend_is_wrong_usage(command, monkeypatch, capsys):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "cublas")
    dispatch._of_environment.cache_clear()
    try:
        assert main(command) == 2
    finally:
        dispatch._of_environment.cache_clear()
    printed = capsys.readouterr()
    assert "BAYESKIT_ACCEL must be one of auto, xla, triton, ffi, got 'cublas'" in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out


def test_info(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["jax"]
    assert facts["float64_by_default_in_jax"] is False
    assert facts["array_kernels"] == backend_report()


class TestWhatComesOut:
    def test_sampler_that_fails_is_no_bad_input(self, table, tmp_path, capsys, monkeypatch):
        from bayeskit.cli import workflow

        def stall(*given):
            raise StalledError("the schedule stopped")

        monkeypatch.setattr(workflow, "_fitted", stall)
        code, out = run(table, tmp_path, "sick", "logistic")
        assert code == 1
        assert "stopped" in capsys.readouterr().err
        assert not out.exists()

    def test_faults_of_the_program_show_where(self, table, tmp_path, monkeypatch):
        from bayeskit.cli import workflow

        def fault(*given):
            raise ValueError("a fault")

        monkeypatch.setattr(workflow, "_fitted", fault)
        with pytest.raises(ValueError, match="a fault"):
            run(table, tmp_path, "sick", "logistic")

    @pytest.mark.parametrize(("second", "agree"), [(1.1, True), (np.nan, False), (9.0, False)])
    def test_agreement(self, second, agree):
        """NaN is no agreement."""
        from bayeskit.cli.workflow import _agreement, _largest

        def estimator(mean):
            frame = pd.DataFrame({"mean": [0.0, mean], "mcse_mean": [0.1, 0.1]})
            return SimpleNamespace(summary=lambda: frame)

        table = _agreement({"SMC": estimator(1.0), "NUTS": estimator(second)})
        assert (_largest(table) < 4.5) is agree

    def test_unnamed_index_is_left_out_and_said(self, table, tmp_path, capsys):
        frame = pd.read_csv(table)[["age", "dose", "sick"]]
        frame.to_csv(table)  # with the row number, under no name
        code, out = run_all(table, tmp_path, "sick", "logistic")
        assert code == 0
        assert "column 0 has no name" in capsys.readouterr().err
        text = (out / "report.html").read_text(encoding="utf-8")
        assert "2 predictors" in text
        assert "column 0 has no name" in text
        assert "Unnamed: 0" not in pd.read_csv(out / "summary.csv").to_string()

    def test_picture_of_an_earlier_fit_goes(self, table, tmp_path):
        code, out = run(table, tmp_path, "sick", "logistic")
        assert code == 0
        (out / "mine.txt").write_text("mine")
        assert (out / "smc_history.png").exists()
        run(table, tmp_path, "sick", "logistic", "--engine", "nuts")
        assert not (out / "smc_history.png").exists()
        assert (out / "forest.png").exists()
        assert (out / "mine.txt").read_text() == "mine"

    def test_page_fits_a_phone(self, table, tmp_path):
        _, out = run(table, tmp_path, "sick", "logistic")
        page = (out / "report.html").read_text(encoding="utf-8")
        assert "@media (max-width: 40rem) { th:first-child { position: static; } }" in page


def run_all(table, tmp_path, target, family):
    """Fit with all the other columns."""
    out = tmp_path / "out"
    arguments = ["fit", str(table), "--target", target, "--family", family, "--out", str(out)]
    return main([*arguments, "--num-particles", "1000"]), out


class TestBadInput:
    """Exit code 2, the reason on stderr, and nothing written."""

    @pytest.fixture
    def refused(self, tmp_path, capsys):
        def check(frame, target, family, *more):
            path, out = tmp_path / "bad.csv", tmp_path / "out"
            frame.to_csv(path, index=False)
            arguments = ["fit", str(path), "--target", target, "--family", family]
            assert main([*arguments, "--out", str(out), *more]) == 2
            assert not out.exists()
            return capsys.readouterr().err

        return check

    def frame(self, **columns):
        return pd.DataFrame({"x": [1.0, 2.0, 3.0, 5.0], "y": [0, 1, 0, 1], **columns})

    def test_unknown_column(self, refused):
        assert "no column 'z'" in refused(self.frame(), "z", "logistic")
        assert "no column 'w'" in refused(self.frame(), "y", "logistic", "--columns", "w")

    def test_nan_names_row_and_column(self, refused):
        message = refused(self.frame(x=[1.0, np.nan, 3.0, 4.0]), "y", "logistic")
        assert "row 1" in message
        assert "x" in message

    def test_constant_column(self, refused):
        assert "constant" in refused(self.frame(x=[2.0] * 4), "y", "logistic")

    def test_one_class(self, refused):
        assert "one class" in refused(self.frame(y=[1] * 4), "y", "logistic").lower()

    def test_text_column(self, refused):
        assert "x" in refused(self.frame(x=list("abcd")), "y", "linear")

    def test_text_cell_is_named_where_it_is(self, refused):
        message = refused(self.frame(x=["1.0", "2.5", "many", "3"]), "y", "linear")
        assert "row 2" in message
        assert "'many'" in message

    def test_empty_file_is_named(self, tmp_path, capsys):
        (tmp_path / "empty.csv").write_text("")
        arguments = ["fit", str(tmp_path / "empty.csv"), "--target", "y", "--family", "linear"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert "empty.csv is empty" in capsys.readouterr().err

    def test_file_that_is_no_text_is_named(self, tmp_path, capsys):
        (tmp_path / "odd.csv").write_bytes("x,y\n1,\u00e4\n".encode("latin-1"))
        arguments = ["fit", str(tmp_path / "odd.csv"), "--target", "y", "--family", "linear"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert "odd.csv" in message
        assert "UTF-8" in message

    def test_folder_below_a_file(self, table, tmp_path, capsys):
        (tmp_path / "file").write_text("mine")
        arguments = ["fit", str(table), "--target", "sick", "--family", "logistic"]
        assert main([*arguments, "--out", str(tmp_path / "file" / "x" / "y")]) == 2
        assert "is a file" in capsys.readouterr().err

    def test_negative_counts(self, refused):
        assert "-3" in refused(self.frame(y=[1, -3, 2, 4]), "y", "poisson")

    def test_nothing_to_explain_with(self, refused):
        assert "no column but" in refused(pd.DataFrame({"y": [0, 1]}), "y", "logistic")

    def test_missing_file(self, tmp_path, capsys):
        arguments = ["fit", str(tmp_path / "none.csv"), "--target", "y", "--family", "linear"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert "none.csv" in capsys.readouterr().err

    def test_folder_that_is_a_file(self, refused, table, tmp_path, capsys):
        (tmp_path / "out").write_text("mine")
        assert run(table, tmp_path, "sick", "logistic")[0] == 2
        assert "is a file" in capsys.readouterr().err
        assert (tmp_path / "out").read_text() == "mine"

    def test_usage(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["fit"])
        assert stopped.value.code == 2


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    """Evidence within five standard errors, and two engines that agree on 31 means."""
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["trusted"] is True
    error = abs(summary["log_evidence"] - summary["evidence_reference"])
    assert error < 5 * summary["log_evidence_se"]
    assert summary["engines_agree"] is True
    assert summary["validation"] == "pass"
    assert summary["cpu_seconds"] < 90
    assert summary["compile_seconds"] < summary["cpu_seconds"] / 2
