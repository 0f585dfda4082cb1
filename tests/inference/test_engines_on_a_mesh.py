"""Engines on several devices and in two processes: the draws and the evidence of one device."""

import pathlib

import numpy as np
import pytest

from bayeskit.inference import LongRun, LongRunSettings
from tests.processes import outcome, outcomes_of_two, start

pytestmark = pytest.mark.slow
PROGRAM = pathlib.Path(__file__).parent / "programs" / "engines_on_a_mesh.py"


@pytest.fixture(scope="module")
def in_one_process():
    return outcome(start(PROGRAM))


@pytest.fixture(scope="module")
def in_two_processes():
    return outcomes_of_two(PROGRAM)


def without_means(found):
    return {name: value for name, value in found.items() if name != "filter mean"}


def test_devices_change_no_draw_and_no_evidence(in_one_process):
    spread = without_means(in_one_process["4"])
    spread.pop("two numbers")
    assert {"paths", "one number"} == set(spread)
    assert without_means(in_one_process["1"]) == spread
    assert without_means(in_one_process["none"]) == spread


def test_processes_change_no_draw_and_no_evidence(in_one_process, in_two_processes):
    expected = without_means(in_one_process["4"])
    assert {"paths", "one number", "two numbers"} == set(expected)
    for found in in_two_processes:
        assert without_means(found["4"]) == expected


def test_means_differ_by_rounding(in_one_process, in_two_processes):
    expected = np.array(in_one_process["1"]["filter mean"])
    for found in (in_one_process, *in_two_processes):
        assert np.allclose(found["4"]["filter mean"], expected, rtol=0, atol=1e-13)


def test_a_clock_of_one_process_stops_all(in_two_processes):
    for found in in_two_processes:
        assert "SMC was stopped by the time limit after stage 1" in found["stopped"]
        assert "checkpoint is for runs of one process, and 2 share" in found["refused"]


def test_one_process_asks_nobody():
    with LongRun(LongRunSettings(max_seconds=1e-9), dict) as run:
        assert run.reached("part", dict)
    assert run.stopped == "the time limit"
