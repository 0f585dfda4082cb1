"""Leave modules that need a missing guest out of the doctests of the package."""

import importlib.util

GUESTS = {
    "torch": ["bayeskit/accel/torch/*"],
    "triton": ["bayeskit/accel/kernels/triton/[!_]*"],
}
collect_ignore_glob = [
    pattern
    for guest, patterns in GUESTS.items()
    if importlib.util.find_spec(guest) is None
    for pattern in patterns
]
