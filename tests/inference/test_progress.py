"""The progress line says what matters, stays silent where nobody looks, and never fails."""

import io
import sys

import pytest

from bayeskit.inference.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_shown_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    line = ProgressLine("SMC")
    line.show("stage 1, ESS 500", force=True)
    line.close("done")
    text = terminal.getvalue()
    assert text.startswith("\rSMC: compiling")
    assert "\rSMC: stage 1, ESS 500 [" in text
    assert text.endswith("\n")


def test_silent_in_a_file(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    line = ProgressLine("SMC")
    line.show("stage 1", force=True)
    line.close("done")
    assert log.getvalue() == ""


def test_a_broken_terminal_never_stops_a_fit(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    line = ProgressLine("SMC", True)
    terminal.close()
    line.show("stage 1", force=True)
    line.close("done")


def test_not_more_than_ten_times_a_second(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    line = ProgressLine("SMC", True)
    for i in range(1000):
        line.show(f"stage {i}")
    assert terminal.getvalue().count("\r") < 100


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match="progress must be 'auto', True or False, got 'on'"):
        ProgressLine("SMC", "on")
