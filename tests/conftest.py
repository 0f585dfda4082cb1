"""What all tests share: pinned threads, reference data, double precision on request."""

import gc
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Before JAX is imported. `make test` sets the same; this is for a bare `pytest`.
for name, value in {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "MPLBACKEND": "Agg",
    "TRITON_INTERPRET": "1",  # on a GPU: 0
}.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402
import pytest  # noqa: E402

# Linux allows a process 65 530 memory maps, and each compiled program takes several.
MAX_MAPS = 40_000


def num_maps() -> int:
    """Return how many memory maps this process has; 0 where the system does not tell."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


class FreesPrograms:
    """Drops compiled programs between files before there are too many for one process.

    Within a file tests may share them, and some hold that nothing is compiled again.
    """

    def pytest_runtest_teardown(self, item, nextitem):
        is_last = nextitem is None or nextitem.path != item.path
        if is_last and num_maps() > MAX_MAPS:
            jax.clear_caches()
            gc.collect()


def pytest_configure(config):
    # A plugin, and not hooks of this file, so that doctests outside this folder count too.
    config.pluginmanager.register(FreesPrograms())


def pytest_collection_modifyitems(items):
    gpu_tests = [item for item in items if "gpu" in item.keywords]
    if gpu_tests and jax.default_backend() != "gpu":
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of stored reference data; the test is skipped where there is none."""
    default = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("BAYESKIT_REFERENCE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}: set BAYESKIT_REFERENCE_DATA")
    return folder


@pytest.fixture
def x64():
    """Run the test in double precision; JAX's global setting stays as it is."""
    with jax.enable_x64(True):
        yield
