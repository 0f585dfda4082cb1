"""What is installed, and what it runs on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

from bayeskit import __version__

__all__ = ["run_info", "versions"]

_PACKAGES = (
    "arviz",
    "h5netcdf",
    "jax",
    "jaxlib",
    "matplotlib",
    "numpy",
    "numpyro",
    "pandas",
    "scikit-learn",
    "scipy",
    "xarray",
)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those it computes with."""
    found = {"python": platform.python_version(), "bayeskit": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def run_info(say: Callable) -> tuple[dict[str, Any], int]:
    """Print versions, devices and precision."""
    import jax

    from bayeskit.accel import as_key

    devices = [
        f"{device.platform}:{device.id} ({device.device_kind})" for device in jax.devices()
    ]
    info: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": devices,
        "precision": {
            "estimators": "float64",
            "jax_enable_x64": bool(jax.config.jax_enable_x64),
        },
        "key_generator": str(jax.random.key_impl(as_key(0))),
    }
    width = max(map(len, info["versions"]))
    for name, version in info["versions"].items():
        say(f"{name:<{width}}  {version}")
    say(f"{'platform':<{width}}  {info['platform']}, {info['cpu_count']} CPU cores")
    say(f"{'devices':<{width}}  {', '.join(devices)}")
    say(f"{'precision':<{width}}  float64 in estimators, whatever the settings of JAX")
    say(f"{'random keys':<{width}}  {info['key_generator']}")
    return info, 0
