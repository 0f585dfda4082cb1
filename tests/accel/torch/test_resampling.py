"""Resampling of torch tensors: the indices of JAX, the laws, and planted bugs."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError
from tests.accel.scheme_checks import ALMOST_ONE, SMALL_CASES, VARIANCES
from tests.accel.weight_regimes import log_weights_of_all_regimes, uniforms

torch = pytest.importorskip("torch", reason="torch is not installed")

from bayeskit.accel import torch as accel_torch  # noqa: E402
from bayeskit.accel.torch import offspring, resampling  # noqa: E402

SCHEMES = ("systematic", "stratified", "multinomial", "residual", "residual_multinomial")
WITH_ONE_UNIFORM = ("systematic", "residual")


@pytest.fixture(scope="module")
def cases(reference_data):
    file = reference_data / "accel" / "offspring_cases.json"
    if not file.is_file():
        pytest.skip(f"no reference cases in {file}")
    return json.loads(file.read_text())


@pytest.mark.reference
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sixty_exact_cases(cases, dtype):
    assert len(cases) == 60
    for case in cases:
        values = [-np.inf if x is None else x for x in case["logw"]]
        log_weights = torch.tensor(values, dtype=dtype)
        result = accel_torch.cumulative_offspring(log_weights, case["u"], case["n"])
        assert result.dtype == torch.int32
        assert result.tolist() == case["O"], (case["kind"], case["N"])
        found = accel_torch.systematic(log_weights, case["n"], u=case["u"]).index
        assert np.array_equal(
            np.bincount(found, minlength=case["N"]), np.diff(case["O"], prepend=0)
        )


@pytest.mark.parametrize(
    ("num_particles", "num"), [(1, 1), (3, 8), (1000, 1000), (20_001, 7000)]
)
def test_scaled_cdf_has_the_bits_of_jax(num_particles, num):
    log_weights = log_weights_of_all_regimes(num_particles)
    found = accel_torch.scaled_cdf(torch.from_numpy(log_weights), num)
    assert found.dtype == torch.float64
    assert np.array_equal(found.numpy(), accel.scaled_cdf(log_weights, num))


@pytest.mark.parametrize("name", SCHEMES)
def test_indices_are_those_of_jax(name):
    """For the same float32 log-weights and uniforms, in all regimes at once."""
    num_particles, num = 1001, 1500
    log_weights = log_weights_of_all_regimes(num_particles)
    scheme = accel.SCHEMES[name]
    shape = (6, *scheme.uniform_shape(num_particles, num))
    u = np.random.default_rng(1).uniform(size=shape)
    u.ravel()[0], u.ravel()[-1] = 0.0, ALMOST_ONE
    cdf = accel.scaled_cdf(log_weights, num)
    with jax.enable_x64(True):
        expected = jax.jit(jax.vmap(lambda c, v: scheme.ancestors(c, v, num)))(cdf, u)
    found = getattr(accel_torch, name)(torch.from_numpy(log_weights), num, u=u).index
    assert found.dtype == torch.int32
    assert np.array_equal(found.numpy(), expected)


def law_of(name, weights, num):
    """Return masses (paths,) and offspring (paths, N) over all cells of all uniforms."""
    scheme = accel.SCHEMES[name]
    with jax.enable_x64(True):
        cdf = accel.scaled_cdf(np.log(weights), num)
        breaks = np.asarray(scheme.breaks(cdf, num))
    cells = []
    for row in breaks.reshape(math.prod(breaks.shape[:-1]), -1):
        edges = np.unique([0.0, *row, 1.0])
        cells.append([(a, b) for a, b in itertools.pairwise(edges) if b - a > 1e-12])
    paths = np.array(list(itertools.product(*cells)))
    masses = np.prod(paths[..., 1] - paths[..., 0], axis=1)
    log_weights = torch.from_numpy(np.log(weights)).expand(len(paths), -1)
    draw = getattr(accel_torch, name)
    # The lower ends of cells belong to them, zero among them.
    for u in (paths.mean(axis=-1), np.where(paths[..., 0] == 0, 0, paths.mean(axis=-1))):
        u = u.reshape(len(paths), *scheme.uniform_shape(len(weights), num))
        ancestors = draw(log_weights, num, u=u).index.numpy()
        offspring = np.array([np.bincount(a, minlength=len(weights)) for a in ancestors])
        yield masses, offspring


def check_law(name):
    """Mean and variance of all numbers of offspring are right; the dead have none. Exact."""
    for weights, num in SMALL_CASES:
        weights = np.asarray(weights)
        with np.errstate(divide="ignore"):
            for masses, offspring in law_of(name, weights, num):
                mean = masses @ offspring
                variance = masses @ (offspring - mean) ** 2
                assert np.max(np.abs(mean - num * weights)) < 1e-12
                assert np.max(np.abs(variance - VARIANCES[name](weights, num))) < 1e-12
                assert not offspring[:, weights == 0].any()


@pytest.mark.parametrize("name", SCHEMES)
def test_exact_law(name):
    check_law(name)


@pytest.mark.parametrize("name", SCHEMES)
def test_law_of_drawn_uniforms(name):
    """Mean offspring of 20 000 rows, by Bernstein's inequality: false alarms below 1e-7."""
    weights, num = SMALL_CASES[3]
    num_rows = 20_000
    log_weights = torch.tensor(weights).log().expand(num_rows, -1)
    generator = torch.Generator().manual_seed(7)
    index = getattr(accel_torch, name)(log_weights, num, generator=generator).index
    offspring = torch.nn.functional.one_hot(index.long(), len(weights)).sum(1).double()
    variance = VARIANCES[name](np.asarray(weights), num)
    level = math.log(2 * len(weights) / 1e-7)
    bound = np.sqrt(2 * variance * level / num_rows) + 2 * num * level / (3 * num_rows)
    distance = np.abs(offspring.mean(0).numpy() - num * np.asarray(weights))
    assert np.all(distance <= bound + 1e-6)


def check_million(log_weights):
    """|o - n w| < 1 and no child of weight zero, for a million float32 weights.

    Up to N 2**-42 + num 2**-31 + num 2**-51 offspring: truncation of the units (42 fractional
    bits at a million), the error of the weights, and the grid.
    """
    num = len(log_weights)
    weights = np.exp(log_weights.astype(float) - log_weights.max())
    for u in (0.0, 0.31, ALMOST_ONE):
        tensor = torch.from_numpy(log_weights)
        index = accel_torch.systematic(tensor, u=u).index.numpy()
        counts = np.bincount(index, minlength=num)
        assert counts.sum() == num
        assert not counts[weights == 0].any()
        assert np.max(np.abs(counts - num * weights / weights.sum())) < 1 + 1e-3


@pytest.fixture(scope="module")
def million():
    log_weights = -2 * np.random.default_rng(0).normal(size=10**6) ** 2
    log_weights[::7] = log_weights[-20_000:] = log_weights[:5] = -np.inf
    return log_weights.astype(np.float32)


def test_a_million_particles(million):
    check_million(million)


def test_generator_and_global_seed_repeat():
    log_weights = torch.randn(100)
    draws = [
        accel_torch.stratified(log_weights, generator=torch.Generator().manual_seed(s)).index
        for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# ------------------------------------------------------------ planted bugs


def test_planted_bug_sums_in_single_precision(monkeypatch, million):
    def wrong(weights, num, bits):
        cumulative = torch.cumsum(weights.float(), -1)
        return (num * (cumulative / cumulative[..., -1:])).double()

    monkeypatch.setattr(offspring, "_cdf_of_weights", wrong)
    with pytest.raises(AssertionError):
        check_million(million)


def test_planted_bug_search_from_the_left(monkeypatch):
    def wrong(values, u):
        whole = values.to(torch.int32)
        return whole + (u <= values - whole).to(torch.int32)

    monkeypatch.setattr(resampling, "round_up_where_above", wrong)
    for name in ("systematic", "stratified", "residual"):
        with pytest.raises((AssertionError, RuntimeError)):
            check_law(name)


def test_planted_bug_levels_from_the_left(monkeypatch):
    def wrong(values, u, total):
        return torch.searchsorted(values, u * total, right=False, out_int32=True)

    monkeypatch.setattr(resampling, "_count_at_most", wrong)
    for name in ("multinomial", "residual_multinomial"):
        with pytest.raises((AssertionError, RuntimeError)):
            check_law(name)


def test_planted_bug_one_uniform_for_all_strata(monkeypatch):
    right = resampling._stratified
    wrong = lambda cdf, u, num: right(cdf, u[..., :1].expand_as(u).contiguous(), num)
    monkeypatch.setattr(resampling, "_stratified", wrong)
    with pytest.raises(AssertionError):
        check_law("stratified")


def test_planted_bug_exponential_function_of_the_platform(monkeypatch):
    wrong = lambda log_weights, maximum: torch.exp((log_weights - maximum).double())
    monkeypatch.setattr(offspring, "_relative_weights", wrong)
    with pytest.raises(AssertionError):
        test_scaled_cdf_has_the_bits_of_jax(1000, 1000)


# ------------------------------------------------------------ input


BAD_WEIGHTS = [
    (np.array([0.0, np.nan, 1.0, np.nan]), InvalidWeightsError),
    (np.array([[0.0, 1.0], [np.inf, 0.0]]), InvalidWeightsError),
    (np.full(3, -np.inf), DegenerateWeightsError),
    (np.array([[0.0, 1.0], [-np.inf, -np.inf]]), DegenerateWeightsError),
    (np.zeros((2, 0)), ValueError),
    (np.float64(1.0), ValueError),
]


@pytest.mark.parametrize("function", ["scaled_cdf", "cumulative_offspring", *SCHEMES])
@pytest.mark.parametrize(("bad", "error"), BAD_WEIGHTS)
def test_bad_weights_raise_the_errors_of_jax(function, bad, error):
    arguments = {"scaled_cdf": (3,), "cumulative_offspring": (0.5, 3)}.get(function, ())
    with pytest.raises(error) as found:
        getattr(accel_torch, function)(torch.as_tensor(bad), *arguments)
    with pytest.raises(error) as expected:
        accel.scaled_cdf(bad, 3)
    assert str(found.value) == str(expected.value)


def test_other_bad_input():
    with pytest.raises(TypeError, match="must be real floating-point numbers, got dtype torch"):
        accel_torch.systematic(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"num must be in \[0, 2\*\*31\), got -1"):
        accel_torch.systematic(torch.zeros(3), -1)
    with pytest.raises(TypeError, match="num must be an integer, got float"):
        accel_torch.systematic(torch.zeros(3), 2.0)
    for u in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match=r"u must be in \[0, 1\)"):
            accel_torch.systematic(torch.zeros(3), u=u)
    with pytest.raises(ValueError, match=r"u must have shape \(4,\), got \(3,\)"):
        accel_torch.stratified(torch.zeros(3), 4, u=np.zeros(3))
    with pytest.raises(ValueError, match=r"u must have shape \(2,\), got \(\)"):
        accel_torch.systematic(torch.zeros(2, 3), u=0.5)
    with pytest.raises(ValueError, match="either u or generator"):
        accel_torch.systematic(torch.zeros(3), u=0.5, generator=torch.Generator())
    with pytest.raises(TypeError, match="cumulative must be integers"):
        accel_torch.offspring_to_ancestors(torch.zeros(3), 3)
    with pytest.raises(ValueError, match="at least 1 particle"):
        accel_torch.offspring_to_ancestors(torch.zeros(0, dtype=torch.int32), 3)


@pytest.mark.parametrize("name", SCHEMES)
def test_edges_of_sizes_and_half_precision(name):
    draw = getattr(accel_torch, name)
    assert draw(torch.zeros(2, 3), 0).index.shape == (2, 0)
    assert draw(torch.zeros(1), 4).index.tolist() == [0] * 4
    assert draw(torch.zeros(2, 3, 5), 4).index.shape == (2, 3, 4)
    assert draw(torch.zeros(4, dtype=torch.float16)).log_mean.dtype == torch.float32
    only = torch.tensor([-torch.inf, -1e4, -torch.inf])
    assert draw(only).index.tolist() == [1, 1, 1]
    assert not draw(torch.zeros(3, requires_grad=True)).index.requires_grad


def test_uniforms_of_rows():
    log_weights = torch.from_numpy(log_weights_of_all_regimes(50))
    u = uniforms(6)
    together = accel_torch.systematic(log_weights, 40, u=u).index
    for row in range(6):
        assert torch.equal(
            together[row], accel_torch.systematic(log_weights[row], 40, u=u[row]).index
        )
