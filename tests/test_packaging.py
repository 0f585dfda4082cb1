"""What users download: one version, typed, small, without tests or data."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import bayeskit

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The folder with the built wheel and source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions):
    (path,) = distributions.glob("*.whl")
    return path


def test_version_stands_in_one_place():
    package = ROOT / "bayeskit"
    files = [ROOT / "pyproject.toml", ROOT / "docs" / "conf.py", *package.rglob("*.py")]
    version = f'"{bayeskit.__version__}"'
    stated = [file for file in files if version in file.read_text("utf-8")]
    assert stated == [package / "__init__.py"]


def test_wheel_has_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "bayeskit/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "bayeskit",
        f"bayeskit-{bayeskit.__version__}.dist-info",
    }
    assert {Path(n).suffix for n in names if n.startswith("bayeskit/")} == {
        ".py",
        ".cc",
        ".typed",
        # Networks, and what is known about them.
        ".bkit",
        ".json",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_distributions_are_small(distributions):
    sizes = {p.suffix: p.stat().st_size for p in distributions.iterdir()}
    assert set(sizes) == {".whl", ".gz"}
    # 0.1 of it are trained networks, which do not compress.
    assert sizes[".gz"] < 1.25 * MEGABYTE
    # A wheel packs each of many files by itself, and seven models are in it.
    assert sizes[".whl"] < 1.5 * MEGABYTE


def test_core_needs_neither_torch_nor_pyro():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    assert "jax" in names
    assert not names & {"torch", "pyro-ppl"}


@pytest.mark.slow
def test_installed_wheel_imports_and_starts(wheel, tmp_path):
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    code = "import bayeskit; print(bayeskit.__version__, bayeskit.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        check=True,
        capture_output=True,
        text=True,
    )
    version, file = done.stdout.split()
    assert version == bayeskit.__version__
    assert Path(file).is_relative_to(target)
