"""The kernels in C++: the bits of the XLA programs, and a machine that cannot compile them."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel.kernels.cpu import calls, library
from bayeskit.accel.offspring import scaled_cdf_and_verdict
from bayeskit.errors import KernelBuildError, MissingDependencyError

KERNELS = {
    "scaled_cdf",
    "cdf_of_weights",
    "ancestors_at_levels",
    "offspring_to_ancestors",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of this module's in place of the user's."""
    path = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "user_folder", lambda kind: path / kind)
        yield path


@pytest.fixture(scope="module")
def built(folder):
    """Compiled kernels, which programs under ``backend("ffi")`` then call."""
    # Importing the package compiled nothing.
    assert library.missing() or library._version() in library._registered
    assert not list(folder.iterdir())
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    return accel.build_cpu_kernels()


def regimes(num, dtype=np.float32):
    """Rows of log-weights (12, num) of all kinds, the last three without a usable weight."""
    rng = np.random.default_rng(num)
    normal = rng.normal(size=(5, num))
    one, dead, ends = np.full(num, -1e30), 3 * normal[3], -2 * normal[4] ** 2
    one[num // 2] = 5.0
    dead[rng.random(num) < 0.5] = -np.inf
    ends[: num // 3], ends[num - num // 3 :] = -np.inf, -np.inf
    tiny = np.where(rng.random(num) < 0.5, -100.0, -620.0 - rng.random(num))
    rows = [np.zeros(num), normal[0], 4 * normal[1], 1e4 + normal[2], one, dead, ends, tiny]
    rows += [np.linspace(-50.0, 0.0, num), np.full(num, -np.inf), rows[1] + 0, rows[2] + 0]
    rows[-2][num // 2], rows[-1][0] = np.nan, np.inf
    return np.array(rows, dtype)


def results(log_weights, num, seed=0):
    """Return all that the kernels compute, (12, ...) each, for uniforms with 0 among them."""
    uniforms = np.random.default_rng(seed).random((len(log_weights), num))
    uniforms[::2] = 0.0

    @jax.jit
    def run(log_weights, uniforms):
        with jax.enable_x64(True):
            cdf, ok = scaled_cdf_and_verdict(log_weights, num)
            cumulative = jnp.ceil(cdf).astype(jnp.int32)
            first = uniforms[:, 0] if num else jnp.zeros(len(log_weights))
            ancestors = {
                name: jax.vmap(lambda c, u: accel.SCHEMES[name].ancestors(c, u, num))(cdf, u)  # noqa: B023
                for name, u in (("systematic", first), ("stratified", uniforms))
            }
            return cdf, ok, ancestors, accel.offspring_to_ancestors(cumulative, num)

    with jax.enable_x64(True):
        uniforms = jnp.asarray(uniforms, jnp.float64)
    return jax.tree.map(np.asarray, run(jnp.asarray(log_weights), uniforms))


def assert_same_bits(log_weights, num):
    with accel.backend("xla"):
        expected = results(log_weights, num)
    with accel.backend("ffi"):
        found = results(log_weights, num)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    largest = log_weights.max(axis=1)  # NaN where one is
    assert expected[1].tolist() == np.isfinite(largest).tolist()


def test_all_kernels_are_in_use(built):
    with accel.backend("ffi"):
        report = accel.backend_report("cpu")
        text = jax.jit(accel.systematic).lower(jax.random.key(0), jnp.zeros(9)).as_text()
    assert {name for name, kernel in report.items() if kernel == "ffi"} >= KERNELS
    assert library.target("scaled_cdf") in text
    assert library.target("ancestors_at_levels") in text


# Around the number of copies stored at once, of lanes, and of a block.
@pytest.mark.parametrize(
    ("num_particles", "num"),
    [(1, 1), (1, 40), (3, 3), (9, 0), (40, 17), (1000, 1000), (1024, 9), (2500, 5001)],
)
def test_bits_of_xla(built, num_particles, num):
    assert_same_bits(regimes(num_particles), num)


def test_bits_of_xla_for_double_log_weights(built):
    with jax.enable_x64(True):
        assert_same_bits(regimes(1500, np.float64), 1500)


@pytest.mark.parametrize(
    "num", [100_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (10**6, 10**7))]
)
def test_bits_of_xla_for_many_particles(built, num):
    rng = np.random.default_rng(0)
    log_weights = (-2 * rng.standard_normal(num) ** 2).astype(np.float32)
    log_weights[::7] = -np.inf
    log_weights[-num // 50 :] = -np.inf
    indices = []
    for backend in ("xla", "ffi"):
        with accel.backend(backend):
            indices.append(np.asarray(accel.systematic(jax.random.key(1), log_weights).index))
    assert np.array_equal(*indices)


def test_numbers_that_no_caller_should_give_stay_inside(built):
    call = jax.jit(calls.offspring_to_ancestors, static_argnums=1)
    for cumulative in ([5, -3, 7, 2], [2**31 - 1] * 4, [-(2**31)] * 4, [1, 2, 3, 3]):
        index = np.asarray(call(jnp.array(cumulative, jnp.int32), 10))
        assert index.shape == (10,)
        assert np.all((index >= 0) & (index <= 4))
        assert np.all(np.diff(index) >= 0)
    with jax.enable_x64(True):
        cdf = jnp.array([np.nan, -1.0, 1e300, -np.inf, np.inf])
        index = np.asarray(
            jax.jit(calls.ancestors_at_levels, static_argnums=2)(cdf, cdf[:1], 9)
        )
    assert np.all((index >= 0) & (index <= 5))


def test_memory_for_a_million_particles(built):
    with accel.backend("ffi"):
        program = jax.jit(lambda x: accel.systematic(accel.as_key(0), x))
        shape = jax.ShapeDtypeStruct((10**6,), jnp.float32)
        found = program.lower(shape).compile().memory_analysis()
    used = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    # Log-weights, their exponentials, R in double precision, and ancestors: 20 bytes each.
    assert used / 10**6 < 20.1


def test_gradients_pass_by(built):
    with accel.backend("ffi"):
        log_mean = lambda x: accel.systematic(jax.random.key(0), x).log_mean
        assert np.allclose(jax.jit(jax.grad(log_mean))(jnp.zeros(4)), 0.25)


def test_export_needs_the_xla_programs(built):
    program = jax.jit(lambda x: accel.scaled_cdf(x, 11))
    shape = jax.ShapeDtypeStruct((11,), jnp.float32)
    with accel.backend("ffi"), pytest.raises(ValueError, match="custom call"):
        jax.export.export(program)(shape)
    with accel.backend("xla"):
        assert jax.export.export(program, platforms=["cpu", "cuda"])(shape).platforms


# ------------------------------------------------------------ planted bugs

MISTAKES = {
    "rounding to the grid forgotten": (
        "value = ((value * grid + rounder) - rounder) * grid_step;",
        "",
    ),
    "a level on the boundary belongs to the particle before": (
        "uniform_of(whole) < value",
        "uniform_of(whole) <= value",
    ),
    "only the last of many copies": ("start < end; start += kCopies", "start < 0;"),
    "one bit of the exponential": ("(fraction << 2) +", "(fraction << 2) + 1 +"),
    "the total rounded down": ("std::ceil(weights[i + j]", "std::floor(weights[i + j]"),
    "NaN overlooked": ("!(value < kInfinity)", "value >= kInfinity"),
}


@pytest.mark.parametrize(
    "mistake",
    [m if i < 1 else pytest.param(m, marks=pytest.mark.slow) for i, m in enumerate(MISTAKES)],
)
def test_planted_bugs(built, monkeypatch, tmp_path, mistake):
    source = library._SOURCE.read_text()
    right, wrong = MISTAKES[mistake]
    assert source.count(right) == 1
    wrong_source = tmp_path / "particles.cc"
    wrong_source.write_text(source.replace(right, wrong))
    monkeypatch.setattr(library, "_SOURCE", wrong_source)
    monkeypatch.setattr(library, "_FLAGS", (*library._FLAGS, "-O1"))
    library._version.cache_clear()
    jax.clear_caches()
    try:
        accel.build_cpu_kernels()
        with pytest.raises(AssertionError):
            assert_same_bits(regimes(1000), 1000)
    finally:
        library._version.cache_clear()
        jax.clear_caches()


# ------------------------------------------------------------ machines without


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A machine on which nothing was compiled."""
    monkeypatch.setattr(library, "_registered", set())
    monkeypatch.setattr(library, "user_folder", lambda kind: tmp_path / kind)
    return tmp_path


def test_folders_that_cannot_be_used(elsewhere, monkeypatch):
    monkeypatch.setenv("CXX", shutil.which("true"))
    (elsewhere / "kernels").write_text("a file where the folder should be")
    with pytest.raises(KernelBuildError, match=r"cannot be made: .* XDG_CACHE_HOME names"):
        accel.build_cpu_kernels()
    (elsewhere / "kernels").unlink()
    path = library._library_path()
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o777)
    monkeypatch.setattr(library, "_compile", lambda path: path.write_bytes(b""))
    with pytest.raises(KernelBuildError, match=r"others may write to .* \(chmod go-w\)"):
        accel.build_cpu_kernels()


def test_without_a_compiler(elsewhere, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(elsewhere))
    with pytest.raises(KernelBuildError, match=r"no C\+\+ compiler found: CXX is not set"):
        accel.build_cpu_kernels()
    with pytest.raises(MissingDependencyError, match=r"accel.build_cpu_kernels\(\) compiles"):
        accel.backend("ffi")
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(KernelBuildError, match="there is no program 'no-such-compiler'"):
        accel.build_cpu_kernels()
    monkeypatch.setenv("CXX", "g++ 'half")
    with pytest.raises(KernelBuildError, match=r"CXX is .* no command: No closing quotation"):
        accel.build_cpu_kernels()
    # Under "auto" nobody hears of it.
    assert np.asarray(accel.scaled_cdf(jnp.zeros(13), 13)).tolist() == list(range(1, 14))


def test_with_a_compiler_that_fails(elsewhere, monkeypatch):
    compiler = elsewhere / "broken"
    compiler.write_text("#!/bin/sh\necho 'no such standard' >&2\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", f"{compiler} --option")
    with pytest.raises(KernelBuildError, match=r"(?s)broken --option.*no such standard"):
        accel.build_cpu_kernels()
    monkeypatch.setenv("CXX", str(elsewhere / "absent"))
    with pytest.raises(KernelBuildError, match=r"there is no program .*absent"):
        accel.build_cpu_kernels()
    assert not list((elsewhere / "kernels").rglob("*.so"))


def test_a_library_that_is_none_or_anybodys_is_not_used(elsewhere):
    path = library._library_path()
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_bytes(b"half a file")
    path.chmod(0o500)
    assert library._is_trusted(path)
    assert library.missing()
    path.chmod(0o522)
    assert not library._is_trusted(path)
    path.chmod(0o500)
    path.parent.chmod(0o770)
    assert not library._is_trusted(path)
