"""Leave modules that need a missing guest out of the doctests of the package."""

import importlib.util

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
