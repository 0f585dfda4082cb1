"""Which tensors go to the Triton kernels; these run in the interpreter, as if on a GPU."""

import importlib.util
import os

import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import BayeskitWarning, MissingDependencyError
from tests.accel.weight_regimes import log_weights_of_all_regimes

torch = pytest.importorskip("torch", reason="torch is not installed")

from bayeskit.accel import torch as accel_torch  # noqa: E402
from bayeskit.accel.torch import _kernels  # noqa: E402


@pytest.fixture
def as_if_on_gpu(monkeypatch):
    monkeypatch.setattr(_kernels, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(_kernels, "_broken", set())


def add_two(tensor):
    return tensor + 2


def add_one(tensor):
    return tensor + 1


def fail(tensor):
    raise RuntimeError("no such instruction")


ZERO = torch.zeros(())


def test_cpu_tensors_never_meet_a_kernel():
    for name in ("auto", "xla"):
        with accel.backend(name):
            assert _kernels.by_kernel_or_plain("f", fail, add_one, ZERO) == 1


@pytest.mark.usefixtures("as_if_on_gpu")
def test_choice(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert _kernels.by_kernel_or_plain("f", add_two, add_one, ZERO) == 2
    with accel.backend("xla"):
        assert _kernels.by_kernel_or_plain("f", add_two, add_one, ZERO) == 1
    with pytest.warns(BayeskitWarning, match="kernel of g does not run on cpu.*no such"):
        assert _kernels.by_kernel_or_plain("g", fail, add_one, ZERO) == 1
    assert _kernels.by_kernel_or_plain("g", fail, add_one, ZERO) == 1  # no second warning
    monkeypatch.setattr(_kernels, "wanted_backend", lambda: "triton")
    with pytest.raises(RuntimeError, match="no such instruction"):
        _kernels.by_kernel_or_plain("g", fail, add_one, ZERO)


@pytest.mark.usefixtures("as_if_on_gpu")
def test_without_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _kernels.by_kernel_or_plain("f", fail, add_one, ZERO) == 1
    monkeypatch.setattr(_kernels, "wanted_backend", lambda: "triton")
    with pytest.raises(MissingDependencyError, match="pip install triton"):
        _kernels.by_kernel_or_plain("f", fail, add_one, ZERO)


@pytest.mark.usefixtures("as_if_on_gpu")
def test_kernels_give_the_same_results(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("the interpreter is off: TRITON_INTERPRET is not 1")
    called = []
    monkeypatch.setattr(_kernels, "_broken", _Empty(called))
    log_weights = torch.from_numpy(log_weights_of_all_regimes(130)).reshape(2, 3, 130)
    particles = {"x": torch.randn(130, 2), "flag": torch.arange(130) > 3}

    def results():
        found = [
            *accel_torch.stratified(log_weights, 140, u=np.full((2, 3, 140), 0.4)),
            *accel_torch.normalize(log_weights.double()),
            accel_torch.effective_sample_size(log_weights),
        ]
        tree, _ = accel_torch.resample_and_gather(log_weights[1, 0], particles, num=99, u=0.1)
        return [*found, tree["x"], tree["flag"]]

    with accel.backend("xla"):
        expected = results()
    assert not called
    for found, wanted in zip(results(), expected, strict=True):
        assert found.dtype == wanted.dtype
        if found.is_floating_point():
            torch.testing.assert_close(found, wanted)
        else:
            assert torch.equal(found, wanted)
    assert set(called) == {
        "scaled_cdf",
        "offspring_to_ancestors",
        "normalize",
        "take_particles",
    }


class _Empty(set):
    """The set of broken kernels, which notes what was looked up, and may not grow."""

    def __init__(self, asked):
        self.asked = asked

    def __contains__(self, name):
        self.asked.append(name)
        return False

    def add(self, name):
        raise AssertionError(f"{name} does not run")
