"""The Triton kernels in Triton's interpreter, on a CPU, against the XLA programs.

That they also compile to machine code is tested without a GPU. Nothing here runs on one.
"""

import importlib.util
import inspect
import os
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel import dispatch
from bayeskit.accel.offspring import _fractional_bits
from tests.accel.weight_regimes import log_weights_of_all_regimes, uniforms

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off: TRITON_INTERPRET is not 1", allow_module_level=True)
torch = pytest.importorskip("torch", reason="the interpreter of Triton works on torch tensors")
triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = triton.language

from bayeskit.accel.kernels.triton import cdf, exponential, gather, search, summary  # noqa: E402
from bayeskit.accel.kernels.triton.launching import with_jax, with_torch  # noqa: E402

# Below, at and beyond one tile of 64, and several tiles with and without a rest.
TILE = 64
SIZES = [(1, 1), (5, 13), (64, 64), (65, 31), (320, 320), (517, 700)]


@pytest.fixture(scope="module", params=SIZES, ids=str)
def example(request):
    """Log-weights, number of offspring, and what XLA makes of them."""
    num_particles, num = request.param
    log_weights = log_weights_of_all_regimes(num_particles)
    u = uniforms(len(log_weights))
    with accel.backend("xla"):
        scaled = accel.scaled_cdf(log_weights, num)
        cumulative = accel.cumulative_offspring(log_weights, u, num)
        ancestors = accel.offspring_to_ancestors(cumulative, num)
    return types.SimpleNamespace(
        log_weights=log_weights,
        num=num,
        scaled=np.asarray(scaled),
        cumulative=np.array(cumulative),
        ancestors=np.asarray(ancestors),
    )


def assert_same_cdf(example, tile=TILE, launch=with_torch):
    bits = _fractional_bits(example.log_weights.shape[1], example.num)
    scaled, maximum = cdf.scaled_cdf(
        launch, torch.from_numpy(example.log_weights), example.num, bits, tile
    )
    assert np.array_equal(scaled.numpy(), example.scaled)
    assert np.array_equal(maximum.numpy(), example.log_weights.max(axis=1))


def assert_same_ancestors(example, tile=TILE):
    found = search.offspring_to_ancestors(
        with_torch, torch.from_numpy(example.cumulative), example.num, tile
    )
    assert found.dtype == torch.int32
    assert np.array_equal(found.numpy(), example.ancestors)


def test_scaled_cdf_has_the_same_bits(example):
    assert_same_cdf(example)


def test_ancestors_are_the_same(example):
    assert_same_ancestors(example)


def test_sums_of_weights(example):
    """Within a few units in the last place: these are sums of floats."""
    for dtype in (np.float32, np.float64):
        log_weights = example.log_weights.astype(dtype)
        maximum, total, squares = summary.weight_sums(
            with_torch, torch.from_numpy(log_weights), np.dtype(dtype).name, TILE
        )
        weights = np.exp(log_weights.astype(float) - log_weights.max(axis=1, keepdims=True))
        assert np.array_equal(maximum.numpy(), log_weights.max(axis=1))
        tolerance = 8 * np.finfo(dtype).eps
        np.testing.assert_allclose(total, weights.sum(axis=1), rtol=tolerance)
        np.testing.assert_allclose(squares, (weights**2).sum(axis=1), rtol=2 * tolerance)


@pytest.fixture(scope="module")
def large():
    """More than one tile of the size that is used, so that the choice of it is tested."""
    log_weights = log_weights_of_all_regimes(5000)[2:]
    with accel.backend("xla"):
        cumulative = accel.cumulative_offspring(log_weights, uniforms(4), 6001)
        return types.SimpleNamespace(
            log_weights=log_weights,
            num=6001,
            scaled=np.asarray(accel.scaled_cdf(log_weights, 6001)),
            cumulative=np.array(cumulative),
            ancestors=np.asarray(accel.offspring_to_ancestors(cumulative, 6001)),
        )


def test_default_tiles(large):
    assert_same_cdf(large, None)
    assert_same_ancestors(large, None)


def test_scan_over_more_tiles_than_one_block(large):
    values = torch.arange(1, 101, dtype=torch.int64).reshape(2, 50)
    results = [((2, 50), "int64"), ((2,), "int64")]
    before, total = with_torch(cdf.row_scan, 2, values, 50, results=results, BLOCK=16)
    assert torch.equal(before, values.cumsum(1) - values)
    assert torch.equal(total, values.sum(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_without_a_usable_weight_count_as_equal(bad):
    log_weights = log_weights_of_all_regimes(200)[:2]
    log_weights[0, slice(None) if bad == -np.inf else 3] = bad
    rows = torch.from_numpy(log_weights)
    with np.errstate(invalid="ignore"):  # the interpreter computes with NumPy
        scaled, maximum = cdf.scaled_cdf(with_torch, rows, 50, _fractional_bits(200, 50), TILE)
        other_maximum, *_ = summary.weight_sums(with_torch, rows, "float32", TILE)
    expected = np.array([bad, log_weights[1].max()], np.float32)
    assert np.array_equal(maximum.numpy(), expected, equal_nan=True)
    assert np.array_equal(other_maximum.numpy(), expected, equal_nan=True)
    equal = np.zeros(200, np.float32)
    assert np.array_equal(scaled[0].numpy(), accel.scaled_cdf(equal, 50))
    assert np.array_equal(scaled[1].numpy(), accel.scaled_cdf(log_weights[1], 50))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
@pytest.mark.parametrize(("width", "num"), [(1, 7), (3, 100), (70, 5)])
def test_gather(dtype, width, num):
    rows = torch.arange(40 * width).reshape(40, width).to(getattr(torch, dtype))
    ancestors = torch.randint(40, (num,), dtype=torch.int32)
    taken = gather.gather_rows(with_torch, rows, ancestors, dtype, TILE)
    assert torch.equal(taken, rows[ancestors.long()])


# ------------------------------------------------------------ planted bugs


def _particles_before_one_too_late(cumulative, position, size, num, ALL_STEPS):
    low = tl.maximum(position - num, 0)
    high = tl.minimum(position, size)
    for _ in range(ALL_STEPS):
        middle = (low + high) >> 1
        is_open = low < high
        level = tl.load(cumulative + middle, mask=is_open, other=0)
        low = tl.where(is_open & (level + middle <= position), middle + 1, low)
        high = tl.where(is_open & (level + middle > position), middle, high)
    return low


def test_planted_bug_in_the_order_of_the_merged_list(monkeypatch, large):
    wrong = triton.jit(_particles_before_one_too_late)
    monkeypatch.setattr(search, "particles_before", wrong)
    with pytest.raises(AssertionError):
        assert_same_ancestors(large, None)


def test_planted_bug_constant_in_single_precision(monkeypatch, large):
    rounded = tl.constexpr(float(np.float32(exponential._SCALE.value)))
    monkeypatch.setattr(exponential, "_SCALE", rounded)
    with pytest.raises(AssertionError):
        assert_same_cdf(large, None)


def test_planted_bug_tiles_that_forget_those_before(large):
    def forgetful(kernel, *arguments, results, **constants):
        made = with_torch(kernel, *arguments, results=results, **constants)
        return (torch.zeros_like(made[0]), made[1]) if kernel is cdf.row_scan else made

    with pytest.raises(AssertionError):
        assert_same_cdf(large, None, forgetful)


def test_planted_bug_weights_by_the_exponential_function_of_the_platform(monkeypatch, large):
    def by_platform(log_weights, maximum):
        return tl.exp(log_weights - maximum).to(tl.float64)

    monkeypatch.setattr(cdf, "relative_weights", triton.jit(by_platform))
    with pytest.raises(AssertionError):
        assert_same_cdf(large, None)


# ------------------------------------------------------------ called by JAX


def _interpreted_call(*arguments, kernel, grid, out_type, **options):
    """What jax_triton.triton_call documents, by the interpreter on the host."""
    constants = {k: v for k, v in options.items() if k in kernel.arg_names}
    assert set(options) - set(constants) == {"backend_options"}
    arrays = [a for a in arguments if isinstance(a, jax.Array)]
    num_missing = len(kernel.arg_names) - len(arguments) - len(constants)
    assert num_missing == len(out_type)

    def run(*values):
        given = iter(values)
        made = [torch.empty(s.shape, dtype=getattr(torch, s.dtype.name)) for s in out_type]
        inputs = [
            torch.from_numpy(np.array(next(given)).view(a.dtype).reshape(a.shape))
            if isinstance(a, jax.Array)
            else a
            for a in arguments
        ]
        kernel[grid](*inputs, *made, **constants)
        return [m.numpy().reshape(-1).view(np.uint32) for m in made]

    # Callbacks of a 32-bit program hand over no 64-bit numbers, so all go as 32-bit words.
    words = [
        jax.ShapeDtypeStruct((s.size * s.dtype.itemsize // 4,), jnp.uint32) for s in out_type
    ]
    made = jax.pure_callback(run, words, *(as_words(a) for a in arrays))
    return [from_words(m, s) for m, s in zip(made, out_type, strict=True)]


def as_words(array):
    return jax.lax.bitcast_convert_type(array, jnp.uint32).reshape(-1)


def from_words(words, like):
    if like.dtype.itemsize == 8:
        words = words.reshape(-1, 2)
    return jax.lax.bitcast_convert_type(words, like.dtype).reshape(like.shape)


@pytest.fixture
def by_jax(monkeypatch):
    """A fake jax_triton, and the kernels registered for the CPU in place of a GPU."""
    fake = types.ModuleType("jax_triton")
    fake.triton_call = _interpreted_call
    fake.__spec__ = importlib.util.spec_from_loader("jax_triton", None)
    monkeypatch.setitem(sys.modules, "jax_triton", fake)
    real = [kernel for kernel in dispatch._kernels if kernel.backend == "triton"]
    moved = [dispatch.FastKernel(**{**vars(k), "platforms": ("cpu",)}) for k in real]
    assert [k.function for k in moved] == ["scaled_cdf", "offspring_to_ancestors"]
    monkeypatch.setattr(dispatch, "_kernels", moved)
    monkeypatch.setattr(dispatch, "_compiles", {})


def test_both_spellings_of_jax_triton(monkeypatch):
    """Of 0.3 and of 0.4; neither fuses a product with a sum."""
    seen = {}

    def old(*arguments, kernel, out_shape, grid, enable_fp_fusion, **constants):
        seen["old"] = arguments, out_shape, grid, enable_fp_fusion, constants
        return out_shape

    def new(*arguments, kernel, out_type, grid, backend_options, **constants):
        seen["new"] = arguments, out_type, grid, backend_options["enable_fp_fusion"], constants
        return out_type

    fake = types.ModuleType("jax_triton")
    monkeypatch.setitem(sys.modules, "jax_triton", fake)
    for call in (old, new):
        fake.triton_call = call
        results = [((2, 3), "float32")]
        (made,) = with_jax(None, 7, "array", 3, results=results, TILE=64)
        assert (made.shape, made.dtype) == ((2, 3), np.float32)
    assert seen["old"] == seen["new"]
    assert seen["new"][0] == ("array", 3)
    assert seen["new"][2:] == ((7,), False, {"TILE": 64})


@pytest.mark.usefixtures("by_jax")
@pytest.mark.parametrize("scheme", [accel.systematic, accel.stratified, accel.multinomial])
def test_schemes_through_the_registry(scheme):
    log_weights = log_weights_of_all_regimes(150)
    key = jax.random.key(3)
    run = jax.jit(lambda w: scheme(key, w, 170))
    with accel.backend("xla"):
        expected = run(log_weights)
    with accel.backend("triton"):
        assert "callback" in str(jax.make_jaxpr(run)(log_weights))  # the fake one
        found = run(log_weights)
        over_rows = jax.vmap(lambda w: accel.cumulative_offspring(w, 0.3, 170))
        mapped = jax.jit(over_rows)(log_weights)
    assert np.array_equal(found.index, expected.index)
    with accel.backend("xla"):
        assert np.array_equal(
            mapped, accel.cumulative_offspring(log_weights, np.full(6, 0.3), 170)
        )


@pytest.mark.usefixtures("by_jax")
def test_number_of_traces_and_shapes_under_vmap_of_batches():
    log_weights = log_weights_of_all_regimes(20).reshape(2, 3, 20)
    with accel.backend("triton"):
        found = jax.jit(jax.vmap(lambda w: accel.scaled_cdf(w, 7)))(log_weights)
    with accel.backend("xla"):
        assert np.array_equal(found, accel.scaled_cdf(log_weights, 7))


@pytest.mark.usefixtures("by_jax")
def test_gradients_and_loops_pass_by():
    def last_log_mean(log_weights):
        def step(carried, key):
            ancestors = accel.systematic(key, carried, 9)
            return carried[ancestors.index] * 0.5, ancestors.log_mean

        keys = jax.random.split(jax.random.key(1), 2)
        return jax.lax.scan(step, log_weights, keys)[1][-1]

    log_weights = jnp.linspace(-1.0, 1.0, 9)
    gradient = jax.jit(jax.grad(last_log_mean))
    with accel.backend("triton"):
        found = gradient(log_weights)
    with accel.backend("xla"):
        np.testing.assert_allclose(found, gradient(log_weights), rtol=1e-6)


@pytest.mark.usefixtures("by_jax")
def test_doubles_and_empty_results_are_left_to_xla():
    with accel.backend("triton"), jax.enable_x64(True):
        program = jax.make_jaxpr(lambda w: accel.scaled_cdf(w, 5))(jnp.zeros(4, jnp.float64))
        assert "callback" not in str(program)
    with accel.backend("triton"):
        assert accel.systematic(jax.random.key(0), jnp.zeros(4), 0).index.shape == (0,)


def test_kernels_are_for_nvidia_only():
    report = accel.backend_report("cpu")
    assert "triton" not in report["scaled_cdf"]
    if importlib.util.find_spec("jax_triton") is None:
        report = accel.backend_report("cuda")
        assert "jax-triton not installed, pip install 'bayeskit[gpu]'" in report["scaled_cdf"]


# ------------------------------------------------------------ machine code


COMPILE = """
    import re
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from bayeskit.accel.kernels.triton import cdf, gather, search, summary

    DTYPES = {"log_weights": "fp32", "maxima": "fp32", "maximum": "fp32", "cdf": "fp64",
              "sums": "fp64", "squares": "fp64", "total_squares": "fp64",
              "cumulative": "i32", "ancestors": "i32", "rows": "fp32", "taken": "fp32"}
    NUMBERS = ("size", "tiles", "num", "parts", "width")
    CONSTANTS = {"TILE": 2048, "BLOCK": 2048, "TOTAL_UNIT": 2.0**40, "UNIT": 2.0**40,
                 "TOTAL_STEP": 2.0**-40, "GRID": 2.0**30, "STEPS": 13, "ALL_STEPS": 25}

    def compiled(kernel, ones, **dtypes):
        constants = {n: CONSTANTS[n] for n in kernel.arg_names if n in CONSTANTS}
        # Numbers that are 1 are constants of the program.
        constants |= {n: 1 for n in kernel.arg_names if ones and n in NUMBERS}
        signature = {
            n: "constexpr" if n in constants else "i32" if n in NUMBERS
            else "*" + {**DTYPES, **dtypes}.get(n, "i64")
            for n in kernel.arg_names
        }
        places = {(kernel.arg_names.index(n),): v for n, v in constants.items()}
        source = ASTSource(kernel, signature, places)
        target = GPUTarget("cuda", CAPABILITY, 32)
        return triton.compile(source, target=target, options={"enable_fp_fusion": False})

    exact = [cdf.tile_maxima, cdf.row_maxima, cdf.tile_totals, cdf.row_scan, cdf.tile_units,
             cdf.tile_cdf, search.merge_search, gather.copy_rows]
    for ones in (False, True):
        for kernel in exact:
            made = compiled(kernel, ones)
            code = made.asm["ptx"]
            assert made.asm["cubin"]
            assert not re.search(r"fma|approx|atom|div\\.full", code), kernel
        for kernel in (summary.tile_sums, summary.row_sums):
            for dtype in ("fp32", "fp64"):
                made = compiled(kernel, ones, log_weights=dtype, maxima=dtype, maximum=dtype,
                                total="fp64")
                assert "atom" not in made.asm["ptx"]
    print("compiled")
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_without_a_gpu(capability, tmp_path):
    """No sum is contracted with a product, no division rounded twice, nothing is atomic."""
    script = tmp_path / "compile_kernels.py"
    script.write_text(textwrap.dedent(COMPILE).replace("CAPABILITY", str(capability)))
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "compiled\n", done.stderr


def test_arguments_of_kernels_come_in_the_order_of_launchers():
    """Arrays, numbers, results, constants: what a launcher and jax-triton both rely on."""
    kernels = [
        value
        for module in (cdf, gather, search, summary)
        for value in vars(module).values()
        if hasattr(value, "arg_names") and value.fn.__module__ == module.__name__
    ]
    assert len(kernels) >= 10
    for kernel in kernels:
        names = list(inspect.signature(kernel.fn).parameters)
        constants = [n for n in names if n.isupper()]
        assert names[len(names) - len(constants) :] == constants
