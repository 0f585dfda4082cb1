"""The command line as a person uses it."""

import html.parser
import json

import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit.cli import main

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
    ("target", "family"), [("sick", "logistic"), ("visits", "poisson"), ("pressure", "linear")]
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
    assert "log_likelihood" in getattr(opened, "children", opened.groups())


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


def test_info(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["jax"]
    assert facts["float64_by_default_in_jax"] is False


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
    """Evidence within 0.1 of the reference, and two engines that agree on 31 means."""
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert abs(summary["log_evidence"] - summary["evidence_reference"]) < 0.12
    assert summary["engines_agree"] is True
    assert summary["validation"] == "pass"
    assert summary["cpu_seconds"] < 90
    assert summary["compile_seconds"] < summary["cpu_seconds"] / 2
