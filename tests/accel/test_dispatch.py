"""Which implementation runs, with kernels of these tests in place of fast ones."""

import contextlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

from bayeskit.accel import backend, backend_report, dispatch
from bayeskit.accel.dispatch import FastKernel
from bayeskit.errors import BayeskitWarning, MissingDependencyError


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """An empty registry, kept from the one of the package."""
    kernels: list[FastKernel] = []
    monkeypatch.setattr(dispatch, "_kernels", kernels)
    monkeypatch.setattr(dispatch, "_compiles", {})
    monkeypatch.setattr(dispatch, "_of_environment", lambda: "auto")
    return kernels


def add(amount, *, backend="ffi", platforms=("cpu",), supports=None, missing=None, body=None):
    """Register an implementation that shows, by what it adds, that it ran."""
    kernel = FastKernel(
        function="increase",
        backend=backend,
        platforms=platforms,
        supports=supports or (lambda x, scale: True),
        load=lambda: body or (lambda x, scale: scale * (x + amount)),
        missing=lambda: missing,
    )
    dispatch.register(kernel)
    return kernel


def by_xla(x, scale):
    return scale * (x + 1)


def increase():
    """A fresh program of the dispatched function."""
    return jax.jit(lambda x: dispatch.dispatch("increase", by_xla, x, scale=10.0))


X = jnp.zeros(3)


def test_without_kernels_xla_runs():
    assert increase()(X).tolist() == [10.0] * 3


def test_first_kernel_that_fits_runs_under_auto():
    add(2, supports=lambda x, scale: x.shape[0] > 3)
    add(3, platforms=("cuda",))
    add(4, missing="pip install something")
    add(5)
    add(6)
    program = increase()
    assert program(X).tolist() == [50.0] * 3
    assert program(jnp.zeros(4)).tolist() == [20.0] * 4


def test_supports_is_told_shape_dtype_and_statics():
    seen = []

    def supports(x, scale):
        seen.append((x.shape, x.dtype, scale))
        return False

    add(2, supports=supports)
    assert increase()(X).tolist() == [10.0] * 3
    assert seen == [((3,), jnp.float32, 10.0)]


def test_option_chooses_the_kind():
    add(2, backend="ffi")
    add(3, backend="triton")
    results = {}
    for name in ("auto", "xla", "triton", "ffi"):
        with backend(name):
            results[name] = float(increase()(X)[0])
    assert results == {"auto": 20.0, "xla": 10.0, "triton": 30.0, "ffi": 20.0}


def assert_option_reaches(program):
    nested = jax.jit(lambda x: program(x) + 0)
    for _ in range(2):
        assert float(nested(X)[0]) == 20.0
        with backend("xla"):
            assert float(nested(X)[0]) == 10.0
            with backend("ffi"):
                assert float(nested(X)[0]) == 20.0
            assert float(nested(X)[0]) == 10.0


def test_option_is_not_hidden_by_compiled_programs():
    add(2)
    program = increase()
    assert_option_reaches(program)
    num_programs = program._cache_size()
    assert_option_reaches(program)
    assert program._cache_size() == num_programs  # nothing was compiled again


def test_option_beats_the_environment(monkeypatch):
    add(2)
    monkeypatch.setattr(dispatch, "_of_environment", lambda: "xla")
    assert float(increase()(X)[0]) == 10.0
    with backend("auto"):
        assert float(increase()(X)[0]) == 20.0


def test_environment_is_read_and_checked():
    code = (
        "from bayeskit.accel import dispatch\n"
        "try: print(dispatch.wanted_backend())\n"
        "except ValueError as error: print(error)\n"
    )
    said = {}
    for value in ("", "XLA", "cublas"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "BAYESKIT_ACCEL": value},
            check=True,
            capture_output=True,
            text=True,
        )
        said[value] = done.stdout.strip()
    assert said[""] == "auto"
    assert said["XLA"] == "xla"
    assert said["cublas"] == (
        "BAYESKIT_ACCEL must be one of auto, xla, triton, ffi, got 'cublas'"
    )


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="must be one of auto, xla, triton, ffi, got 'tpu'"):
        backend("tpu")
    with pytest.raises(ValueError, match="backend must be one of"):
        add(2, backend="xla")


def test_missing_dependency_says_what_to_install():
    add(2, backend="triton", missing="pip install 'bayeskit[gpu]'")
    with pytest.raises(MissingDependencyError, match=r"pip install 'bayeskit\[gpu\]'"):
        backend("triton")
    with pytest.raises(ImportError, match="there are none"):
        backend("ffi")
    assert float(increase()(X)[0]) == 10.0  # silently under auto


def test_backend_without_a_kernel_here_takes_xla():
    add(2, backend="triton", platforms=("cuda",))
    with backend("triton"):
        assert float(increase()(X)[0]) == 10.0


def _fails_when_traced(x, scale):
    raise RuntimeError("no such instruction")


_unknown = Primitive("unknown_to_every_platform")
_unknown.def_abstract_eval(lambda x: x)


def _fails_when_lowered(x, scale):
    return _unknown.bind(x)


@pytest.mark.parametrize("body", [_fails_when_traced, _fails_when_lowered])
def test_failure_falls_back_with_one_warning(body):
    add(2, body=body)
    with pytest.warns(BayeskitWarning, match="does not compile for cpu") as caught:
        assert float(increase()(X)[0]) == 10.0
    assert len(caught) == 1
    assert increase()(jnp.zeros(5)).tolist() == [10.0] * 5  # a warning would be an error
    assert backend_report("cpu") == {"increase": "xla (ffi: it does not compile)"}
    # Asked for by name, it tells what is wrong, at every attempt.
    for _ in range(2):
        with backend("ffi"), pytest.raises(Exception, match=r"no such instruction|unknown_to"):
            increase()(X)


def test_failure_leaves_the_next_kernel():
    add(2, body=_fails_when_lowered)
    add(3)
    with pytest.warns(BayeskitWarning):
        assert float(increase()(X)[0]) == 30.0


def test_one_program_for_several_platforms():
    add(2, platforms=("cuda",))
    program = jax.jit(lambda x: dispatch.dispatch("increase", by_xla, x, scale=10.0))
    exported = jax.export.export(program, platforms=("cpu", "cuda"))(X)
    assert exported.platforms == ("cpu", "cuda")
    assert exported.call(X).tolist() == [10.0] * 3


def test_compiled_program_has_neither_callbacks_nor_branches():
    add(2)
    text = increase().lower(X).compile().as_text()
    # The instructions alone: a table at the top names all functions on the stack.
    instructions = [line.split("metadata=")[0] for line in text.splitlines() if " = " in line]
    assert len(instructions) >= 2
    assert not any("callback" in line or "conditional" in line for line in instructions)


def test_under_vmap_and_scan():
    add(2)
    program = increase()
    assert jax.vmap(program)(jnp.zeros((2, 3))).tolist() == [[20.0] * 3] * 2
    assert (
        lax.scan(lambda c, _: (program(c), None), X, None, length=2)[0].tolist() == [220.0] * 3
    )


def test_inside_a_64_bit_scope():
    add(2)
    with jax.enable_x64(True):
        assert increase()(jnp.zeros(2, jnp.float64)).tolist() == [20.0] * 2


def test_report():
    add(2, backend="triton", platforms=("cuda",), missing="install triton")
    add(2)
    assert backend_report("cpu") == {"increase": "ffi"}
    assert backend_report() == {"increase": "ffi"}
    assert backend_report("cuda") == {"increase": "xla (triton: install triton)"}
    with backend("xla"):
        assert backend_report("cpu") == {"increase": "xla"}
    assert backend_report("tpu") == {"increase": "xla"}
    with pytest.raises(ValueError, match=r"platform must be one of cpu, cuda, .* got 'gpus'"):
        backend_report("gpus")


def test_planted_bug_option_outside_the_key_of_jit(monkeypatch):
    class Hidden:
        value = None

        @contextlib.contextmanager
        def __call__(self, name):
            before, self.value = self.value, name
            yield
            self.value = before

    add(2)
    monkeypatch.setattr(dispatch, "_chosen", Hidden())
    with pytest.raises(AssertionError):
        assert_option_reaches(increase())
