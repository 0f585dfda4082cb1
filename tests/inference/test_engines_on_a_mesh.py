"""Engines on several devices and in two processes: the draws and the evidence of one device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from bayeskit.inference import LongRun, LongRunSettings

pytestmark = pytest.mark.slow
PROGRAM = pathlib.Path(__file__).parent / "programs" / "engines_on_a_mesh.py"


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, PROGRAM, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def in_one_process():
    return outcome(start())


@pytest.fixture(scope="module")
def in_two_processes():
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
    except OSError as error:
        pytest.skip(f"no sockets here: {error}")
    processes = [start(address, str(i)) for i in (0, 1)]
    try:
        return [outcome(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


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
