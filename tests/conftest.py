"""What all tests share: pinned threads, reference data, double precision on request."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Before JAX is imported. `make test` sets the same; this is for a bare `pytest`.
for name, value in {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402
import pytest  # noqa: E402


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
