"""Leave modules that need a missing guest out of the doctests, and close what these draw."""

import importlib.util
import sys

import pytest

GUESTS = {
    "pyro": ["bayeskit/interop/pyro*.py", "tests/interop/torch/twins.py"],
    "torch": ["bayeskit/accel/torch/*", "bayeskit/interop/torch*.py"],
    "triton": ["bayeskit/accel/kernels/triton/[!_]*"],
}
collect_ignore_glob = [
    pattern
    for guest, patterns in GUESTS.items()
    if importlib.util.find_spec(guest) is None
    for pattern in patterns
]


@pytest.fixture(autouse=True)
def _close_figures():
    """Close all figures after each test: Matplotlib warns of more than twenty."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
