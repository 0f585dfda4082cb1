"""Programs of tests that run in processes of their own, and print JSON."""

import json
import os
import socket
import subprocess
import sys

import pytest


def start(program, *arguments):
    """Start a Python program on the CPU."""
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process, timeout=500):
    """Return the object in the last line that a program printed."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


def outcomes_of_two(program, *arguments):
    """Return what two processes print that find each other on the loopback address."""
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
    except OSError as error:
        pytest.skip(f"no sockets here: {error}")
    processes = [start(program, *arguments, address, str(i)) for i in (0, 1)]
    try:
        return [outcome(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
