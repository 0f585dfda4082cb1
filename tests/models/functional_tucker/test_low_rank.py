"""Multilinear components: contractions, conditionals and coordinate ascent, exactly."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.inference.gp_kernels import FreeParameters, Matern12, Matern32, White
from bayeskit.models.functional_tucker.low_rank import cavi, contractions
from bayeskit.models.functional_tucker.low_rank.balancing import balanced
from bayeskit.models.functional_tucker.low_rank.beliefs import Beliefs, Model
from bayeskit.models.functional_tucker.low_rank.chains import (
    ModePosterior,
    ModeSites,
    mode_posterior,
)
from bayeskit.models.functional_tucker.low_rank.conditionals import (
    CorePosterior,
    core_posterior,
    mode_sites,
    row_moments,
)
from bayeskit.models.functional_tucker.low_rank.contractions import (
    core_moments,
    core_sums,
    expected_square,
    expected_value,
    mode_design,
    moments_of,
    pack,
    unpack,
    unpacked_core,
)
from bayeskit.models.functional_tucker.low_rank.data import tensor_data
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.mean_field import (
    factor_moments,
    product_moments,
)
from bayeskit.models.functional_tucker.low_rank.noise import (
    Gamma,
    NoisePrior,
    noise_posterior,
    weight_posterior,
)
from bayeskit.models.functional_tucker.low_rank.search import Problem

RANKS = (2, 3, 4)
# One program for each form of model.
elbo = jax.jit(cavi.elbo, static_argnames="layout")
epochs = jax.jit(cavi.epochs, static_argnames=("layout", "num", "method"))
update_mode = jax.jit(cavi.update_mode, static_argnames=("layout", "mode", "method"))
update_core = jax.jit(cavi.update_core, static_argnames="layout")
update_noise = jax.jit(cavi.update_noise)
moments = jax.jit(row_moments, static_argnames="layout")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def stored(reference_data):
    return json.loads((reference_data / "funbat" / "exact_cases.json").read_text())


def covariances(rng, *shape):
    root = rng.normal(size=(*shape, shape[-1]))
    return root @ np.swapaxes(root, -1, -2) / shape[-1]


def random_factors(rng, ranks, num=7):
    """Means (num, R) and covariances (num, R, R) of each mode."""
    return [(rng.normal(size=(num, r)), covariances(rng, num, r)) for r in ranks]


# ---------------------------------------------------------------- contractions


def test_packing_is_undone():
    matrix = covariances(np.random.default_rng(0), 5, 4)
    assert (unpack(pack(jnp.asarray(matrix)), 4) == matrix).all()


@pytest.mark.parametrize("core", ["full", "diagonal"])
def test_design_of_each_mode_gives_the_product(core):
    """sum_r a_n[r] u^k_r(x_nk) is the model's value, for every mode, with unequal ranks."""
    rng = np.random.default_rng(1)
    ranks = RANKS if core == "full" else (3, 3, 3)
    factors = [rng.normal(size=(7, r)) for r in ranks]
    G = rng.normal(size=ranks) if core == "full" else np.eye(3)[:, :, None] * np.eye(3)[:, None]
    value = np.einsum("abc,na,nb,nc->n", G, *factors)
    known = [moments_of(jnp.asarray(f)) for f in factors]
    layout = Layout(ranks, core)
    given = core_moments(jnp.asarray(G)) if core == "full" else None
    for mode, factor in enumerate(factors):
        design = mode_design(layout, given, known, mode)
        np.testing.assert_allclose((design.mean * factor).sum(axis=1), value, rtol=1e-12)
        square = np.einsum("nr,nrs,ns->n", factor, unpack(design.second, ranks[mode]), factor)
        np.testing.assert_allclose(square, value**2, rtol=1e-12)
    np.testing.assert_allclose(expected_value(layout, given, known), value, rtol=1e-12)
    np.testing.assert_allclose(expected_square(layout, given, known), value**2, rtol=1e-12)
    if core == "full":
        # The mistake of the code published with the paper: other axes of the core. The axis in
        # the middle would not show it, so every mode has to be looked at.
        permuted = core_moments(jnp.asarray(np.transpose(G, (2, 1, 0)).reshape(ranks)))
        wrong = mode_design(layout, permuted, known, 0)
        assert np.abs((wrong.mean * factors[0]).sum(axis=1) - value).max() > 0.1


def test_second_moments_are_those_of_dense_algebra():
    rng = np.random.default_rng(2)
    factors = random_factors(rng, RANKS)
    second = [v + m[:, :, None] * m[:, None, :] for m, v in factors]
    G, cov = rng.normal(size=RANKS), covariances(rng, 24)
    M = np.outer(G, G) + cov
    zz = np.einsum("nab,ncd,nef->nacebdf", *second).reshape(7, 24, 24)
    layout = Layout(RANKS)
    spread = [moments_of(*map(jnp.asarray, part)) for part in factors]
    core = core_moments(jnp.asarray(G), jnp.asarray(cov))
    square = expected_square(layout, core, spread)
    np.testing.assert_allclose(square, np.einsum("ij,nij->n", M, zz), rtol=1e-12)
    paired = M.reshape(RANKS + RANKS)
    for mode, spec in enumerate(
        ["abcdef,nbe,ncf->nad", "abcdef,nad,ncf->nbe", "abcdef,nad,nbe->ncf"]
    ):
        others = [part for k, part in enumerate(second) if k != mode]
        design = mode_design(layout, core, spread, mode)
        expected = np.einsum(spec, paired, *others)
        np.testing.assert_allclose(unpack(design.second, RANKS[mode]), expected, rtol=1e-11)
    w, t = rng.uniform(size=7), rng.normal(size=7)
    packed, shift = core_sums(layout, spread, jnp.asarray(w), jnp.asarray(t))
    np.testing.assert_allclose(
        unpacked_core(packed, RANKS), np.einsum("n,nij->ij", w, zz), rtol=1e-12
    )
    z = np.einsum("na,nb,nc->nabc", *(m for m, _ in factors)).reshape(7, 24)
    np.testing.assert_allclose(shift, (w * t) @ z, rtol=1e-12)


def test_chunks_of_rows_add_up(monkeypatch):
    rng = np.random.default_rng(3)
    table = rng.integers(0, 5, (60, 3)).astype(float)
    data = tensor_data(table, rng.normal(size=60))
    factors = [
        moments_of(*map(jnp.asarray, part))
        for part in random_factors(rng, (2, 2, 2), len(data.grids[0].x))
    ]
    core = core_moments(jnp.asarray(rng.normal(size=(2, 2, 2))))
    layout = Layout((2, 2, 2))

    def everything():
        sites = mode_sites(layout, core, factors, data, data.y, data.weight, 1)
        law = core_posterior(layout, factors, data, data.y, data.weight, 1.0)
        return sites, law, row_moments(layout, core, factors, data.places)

    whole = everything()
    monkeypatch.setattr(contractions, "_CHUNK", layout.widest * 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), whole, everything())


# ---------------------------------------------------------------- exact conditionals


def test_stored_conditional_of_a_mode(stored):
    case = stored["tucker_conditional_mode1"]
    y, x = np.array(case["y"]), np.array(case["x1"])
    # The last coordinate has no data: a row without observation brings it.
    table = np.column_stack([np.r_[x[case["i1"]], x[-1]], np.r_[case["i2"], 0]])
    data = tensor_data(table, np.r_[y, np.nan])
    other = np.zeros((len(data.grids[1].x), 2))
    other[:5] = case["U2"]
    factors = [moments_of(jnp.zeros((len(data.grids[0].x), 2))), moments_of(jnp.asarray(other))]
    layout, core = Layout((2, 2)), core_moments(jnp.asarray(case["core"]))
    kernel = Matern32(std=np.sqrt(case["variance"]), lengthscale=case["lengthscale"])
    precision = case["tau"] * data.weight
    sites = mode_sites(layout, core, factors, data, data.y, precision, 0)
    for method in ("sequential", "parallel"):
        law = mode_posterior((kernel, kernel), data.grids[0], sites, method)
        np.testing.assert_allclose(law.mean[:7], case["mean"], atol=1e-12)
        np.testing.assert_allclose(law.covariance[:7], case["cov_blocks"], atol=1e-12)
        constant = 0.5 * 20 * np.log(case["tau"] / (2 * np.pi)) - 0.5 * case["tau"] * y @ y
        assert law.log_evidence + constant == pytest.approx(case["log_evidence"], abs=1e-10)


def test_stored_conditional_of_the_core(stored):
    case = stored["core_conditional"]
    table = np.column_stack([case["i1"], case["i2"]]).astype(float)
    data = tensor_data(table, np.array(case["y"]))
    factors = []
    for name, grid in zip(("U1", "U2"), data.grids, strict=True):
        values = np.zeros((len(grid.x), 2))
        # A coordinate that no row has is not on the grid.
        values[: len(np.unique(grid.x))] = np.array(case[name])[np.unique(grid.x).astype(int)]
        factors.append(moments_of(jnp.asarray(values)))
    precision = case["tau"] * data.weight
    prior = 1.0 / case["prior_variance"]
    law = core_posterior(Layout((2, 2)), factors, data, data.y, precision, prior)
    np.testing.assert_allclose(law.mean.reshape(-1), case["mean"], atol=1e-12)
    np.testing.assert_allclose(law.covariance, case["cov"], atol=1e-12)
    z = np.random.default_rng(0).normal(size=(100_000, 4))
    drawn = np.asarray(law.draws(jnp.asarray(z))).reshape(-1, 4)
    # Linear in the normals, so that their own covariance is accounted for exactly.
    root = np.linalg.lstsq(z, drawn - np.asarray(law.mean).reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(root.T @ root, case["cov"], atol=1e-10)


def test_stored_conditional_of_the_noise(stored):
    case = stored["noise_conditional"]
    squares = np.array(case["residuals"]) ** 2
    prior = NoisePrior(Gamma(case["a0"], case["b0"]))
    law = noise_posterior(prior, len(squares), squares.sum())
    assert law.shape == pytest.approx(case["shape"], abs=1e-10)
    assert law.rate == pytest.approx(case["rate"], abs=1e-10)


def test_weights_of_student_noise_by_quadrature():
    degrees, precision, square = 3.0, 2.0, 1.7
    w = np.linspace(1e-6, 60, 400_001)
    density = w ** (degrees / 2 - 1) * np.exp(-degrees * w / 2)
    density *= np.sqrt(w) * np.exp(-0.5 * precision * w * square)
    law = weight_posterior(degrees, precision, jnp.asarray([square]))
    assert law.mean[0] == pytest.approx((w * density).sum() / density.sum(), rel=1e-6)


# ---------------------------------------------------------------- coordinate ascent


def problem(core="full", ranks=(2, 3), noise=None, num=40, seed=4):
    """A small model, its data, and beliefs to start from."""
    rng = np.random.default_rng(seed)
    num_modes = len(ranks)
    table = rng.integers(0, 6, (num, num_modes)) * np.array([1.0, 0.3, 2.0])[:num_modes]
    y = np.prod(np.sin(table + 0.3), axis=1) + 0.2 * rng.normal(size=num)
    data = tensor_data(table, y)
    kernels = (Matern32(1.1, 1.5), Matern12(0.9, 0.7), White(1.0))
    noise = NoisePrior(Gamma(1.0, 0.5)) if noise is None else noise
    model = Model(
        tuple((kernel,) * r for kernel, r in zip(kernels, ranks, strict=False)), 0.8, noise
    )
    modes = tuple(
        ModePosterior(
            jnp.asarray(rng.normal(size=(len(g.x), r))), jnp.zeros((len(g.x), r, r)), 0.0
        )
        for g, r in zip(data.grids, ranks, strict=True)
    )
    sites = tuple(
        ModeSites(jnp.zeros(m.mean.shape), jnp.zeros((len(m.mean), r * (r + 1) // 2)))
        for m, r in zip(modes, ranks, strict=True)
    )
    layout = Layout(ranks, core)
    start = CorePosterior(
        jnp.asarray(rng.normal(size=ranks)), 1e3 * jnp.eye(int(np.prod(ranks)))
    )
    size = len(data.y)
    weights = None if noise.degrees is None else Gamma(jnp.full(size, 2.0), jnp.full(size, 2.0))
    precision = noise.precision if noise.is_known else Gamma(jnp.ones(()), jnp.ones(()))
    return (
        layout,
        model,
        data,
        Beliefs(modes, sites, start if core == "full" else None, precision, weights),
    )


def squares_of(layout, data, beliefs):
    mean, variance = moments(layout, beliefs.core_moments, beliefs.factors, data.places)
    return (data.y - mean) ** 2 + variance


def single_updates(layout, model, data, beliefs, num_epochs, balancing=False):
    """Iterate over the beliefs after every single update."""
    for _ in range(num_epochs):
        if balancing:
            beliefs = balanced(layout, model.core_precision, data, beliefs)
        for mode in range(layout.num_modes):
            beliefs = update_mode(layout, model, data, beliefs, mode, "sequential")
            yield beliefs
        if layout.has_core:
            beliefs = update_core(layout, model, data, beliefs)
            yield beliefs
        beliefs = update_noise(model, data, beliefs, squares_of(layout, data, beliefs))
        yield beliefs


CASES = {
    "tucker": ("full", (2, 3), None),
    "three modes": ("full", (2, 1, 2), None),
    "cp": ("diagonal", (2, 2), None),
    "known noise": ("full", (1, 2), NoisePrior(4.0)),
    "student": ("diagonal", (2, 2), NoisePrior(Gamma(1.0, 0.5), 4.0)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_single_update_lowers_the_bound(case):
    layout, model, data, beliefs = problem(*case)
    bounds = [
        float(elbo(layout, model, data, now))
        for now in single_updates(layout, model, data, beliefs, 4)
    ]
    # Before every part was updated once, parts stand for what no prior and data make.
    rises = np.diff(bounds[layout.num_modes + layout.has_core :])
    assert (rises > -1e-9 * np.abs(bounds[-1])).all()
    assert bounds[-1] > bounds[layout.num_modes + layout.has_core] + 1.0


def test_a_core_without_its_covariance_lowers_the_bound():
    """The defect of the published code: only the mean of the core is used."""
    layout, model, data, beliefs = problem()
    *_, good = single_updates(layout, model, data, beliefs, 10)
    best = float(elbo(layout, model, data, good))
    forgetful = good._replace(
        core=CorePosterior(good.core.mean, 1e8 * jnp.eye(layout.core_size))
    )
    wrong = update_mode(layout, model, data, forgetful, 0, "sequential")
    wrong = wrong._replace(core=good.core)
    assert float(elbo(layout, model, data, wrong)) < best - 1e-3
    right = update_mode(layout, model, data, good, 0, "sequential")
    assert float(elbo(layout, model, data, right)) >= best - 1e-9


def test_epochs_are_the_single_updates():
    layout, model, data, beliefs = problem()
    *_, last = single_updates(layout, model, data, beliefs, 3, balancing=True)
    found, bounds = epochs(layout, model, data, beliefs, 3, "sequential")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), found, last)
    assert bounds[-1] == pytest.approx(float(elbo(layout, model, data, last)), abs=1e-9)
    parallel, _ = epochs(layout, model, data, beliefs, 3, "parallel")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), parallel, found)


def test_noise_can_be_held():
    layout, model, data, beliefs = problem()
    held, _ = epochs(layout, model, data, beliefs, 3, "sequential", 3)
    assert held.precision == beliefs.precision


def test_cp_is_tucker_with_a_known_diagonal_core():
    layout, model, data, cp = problem("diagonal", (2, 2))
    diagonal = CorePosterior(jnp.eye(2), 1e30 * jnp.eye(4))
    tucker = cp._replace(core=diagonal)
    for _ in range(3):
        for mode in range(2):
            cp = update_mode(layout, model, data, cp, mode, "sequential")
            tucker = update_mode(Layout((2, 2)), model, data, tucker, mode, "sequential")
        np.testing.assert_allclose(
            cp.modes[1].covariance, tucker.modes[1].covariance, atol=1e-12
        )
        np.testing.assert_allclose(cp.modes[1].mean, tucker.modes[1].mean, atol=1e-12)


def test_permuting_modes_permutes_the_laws():
    layout, model, data, beliefs = problem("full", (2, 3))
    order = (1, 0)
    swap = lambda parts: tuple(parts[k] for k in order)
    turned = Beliefs(
        swap(beliefs.modes),
        swap(beliefs.sites),
        beliefs.core._replace(mean=beliefs.core.mean.T),
        beliefs.precision,
        None,
    )
    data_turned = data._replace(places=swap(data.places), grids=swap(data.grids))
    model_turned = model._replace(kernels=swap(model.kernels))
    layout_turned = Layout((3, 2))
    # One sweep in the same order of modes.
    for mode in (0, 1):
        beliefs = update_mode(layout, model, data, beliefs, mode, "sequential")
        turned = update_mode(
            layout_turned, model_turned, data_turned, turned, order[mode], "sequential"
        )
    beliefs = update_core(layout, model, data, beliefs)
    turned = update_core(layout_turned, model_turned, data_turned, turned)
    np.testing.assert_allclose(turned.core.mean, beliefs.core.mean.T, atol=1e-8)
    one = row_moments(layout, beliefs.core_moments, beliefs.factors, data.places)
    other = row_moments(layout_turned, turned.core_moments, turned.factors, data_turned.places)
    np.testing.assert_allclose(one, other, atol=1e-8)


# ---------------------------------------------------------------- the bound and the evidence


def test_one_function_of_one_mode_is_gaussian_process_regression(stored):
    case = stored["gp_regression"]
    data = tensor_data(np.array(case["x"])[:, None], np.array(case["y"]))
    kernel = Matern32(np.sqrt(case["variance"]), case["lengthscale"])
    noise = NoisePrior(1.0 / case["noise_variance"])
    model, layout = Model(((kernel,),), 1.0, noise), Layout((1,), "diagonal")
    size = len(data.grids[0].x)
    beliefs = Beliefs(
        (ModePosterior(jnp.ones((size, 1)), jnp.zeros((size, 1, 1)), 0.0),),
        (ModeSites(jnp.zeros((size, 1)), jnp.zeros((size, 1))),),
        None,
        noise.precision,
        None,
    )
    beliefs = update_mode(layout, model, data, beliefs, 0, "sequential")
    expected = case["matern32"]["log_marginal_likelihood"]
    assert float(elbo(layout, model, data, beliefs)) == pytest.approx(expected, abs=1e-10)
    # The same with a second mode that is constant and known to be 1.
    table = np.column_stack([case["x"], np.zeros(len(case["x"]))])
    data = tensor_data(table, np.array(case["y"]))
    ones = jnp.ones((len(data.grids[1].x), 1))
    second = ModePosterior(ones, jnp.zeros((*ones.shape, 1)), 0.0)
    both = beliefs._replace(
        modes=(*beliefs.modes, second),
        sites=(*beliefs.sites, ModeSites(jnp.zeros_like(ones), jnp.zeros_like(ones))),
    )
    model = model._replace(kernels=((kernel,), (kernel,)))
    both = update_mode(Layout((1, 1), "diagonal"), model, data, both, 0, "sequential")
    np.testing.assert_allclose(both.modes[0].mean, beliefs.modes[0].mean, atol=1e-12)


def test_functions_at_new_coordinates_are_those_of_dense_regression(stored):
    """Left of the data, seen, between, and beyond: mean and variance, never multiplied."""
    case = stored["gp_regression"]
    data = tensor_data(np.array(case["x"])[:, None], np.array(case["y"]))
    kernel = Matern32(np.sqrt(case["variance"]), case["lengthscale"])
    noise, layout = NoisePrior(1.0 / case["noise_variance"]), Layout((1,), "diagonal")
    problem = Problem(layout, (FreeParameters.of((kernel,)),), 1.0, noise, "sequential")
    size = len(data.grids[0].x)
    nothing = ModeSites(jnp.zeros((size, 1)), jnp.zeros((size, 1)))
    start = ModePosterior(jnp.ones((size, 1)), jnp.zeros((size, 1, 1)), 0.0)
    beliefs = Beliefs((start,), (nothing,), None, noise.precision, None)
    u = (np.zeros(0),)
    beliefs = update_mode(layout, problem.model(u), data, beliefs, 0, "sequential")
    new = np.array(case["x_star"])
    mean, covariance = factor_moments(problem, data, beliefs, u, 0, new)
    np.testing.assert_allclose(mean[:, 0], case["matern32"]["mean"], atol=1e-10)
    np.testing.assert_allclose(covariance[:, 0, 0], case["matern32"]["var"], atol=1e-10)
    found = product_moments(problem, data, beliefs, u, new[:, None])
    np.testing.assert_allclose(found[0], case["matern32"]["mean"], atol=1e-10)
    np.testing.assert_allclose(found[1], case["matern32"]["var"], atol=1e-10)


def exact_log_evidence(table, y, tau, std):
    """CP of rank 1 with two modes: the first integrated out, the second on a grid.

    Both values of the second mode are independent normals; given them y is normal.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    x, place = table[:, 0], table[:, 1].astype(int)
    K = std**2 * np.exp(-np.abs(np.subtract.outer(x, x)) / 1.5)
    total = []
    for (a, wa), (b, wb) in itertools.product(zip(nodes, weights, strict=True), repeat=2):
        v = np.array([a, b])[place]
        S = K * np.outer(v, v) + np.eye(len(y)) / tau
        log = -0.5 * (y @ np.linalg.solve(S, y) + np.linalg.slogdet(2 * np.pi * S)[1])
        total.append(np.log(wa * wb) + log)
    return np.logaddexp.reduce(total)


def test_the_bound_is_below_the_evidence():
    rng = np.random.default_rng(5)
    table = np.column_stack([rng.integers(0, 4, 12), np.arange(12) % 2]).astype(float)
    y = np.array([1.0, -0.4])[table[:, 1].astype(int)] * np.sin(table[:, 0])
    y = y + 0.3 * rng.normal(size=12)
    tau, std = 8.0, 1.2
    exact = exact_log_evidence(table, y, tau, std)
    data = tensor_data(table, y)
    model = Model(((Matern12(std, 1.5),), (White(1.0),)), 1.0, NoisePrior(tau))
    size = len(data.grids[0].x)
    modes = tuple(
        ModePosterior(jnp.ones((size, 1)), jnp.zeros((size, 1, 1)), 0.0) for _ in range(2)
    )
    nothing = ModeSites(jnp.zeros((size, 1)), jnp.zeros((size, 1)))
    beliefs = Beliefs(modes, (nothing, nothing), None, tau, None)
    _, bounds = epochs(Layout((1, 1), "diagonal"), model, data, beliefs, 100, "sequential")
    assert bounds[-1] < exact
    # Of two sign-flipped modes the bound sees one, and it loses little beside that.
    assert bounds[-1] > exact - np.log(2) - 1.0


# ---------------------------------------------------------------- balancing


@pytest.mark.parametrize("core", ["full", "diagonal"])
def test_balancing_keeps_the_product_and_finds_the_best_scale(core):
    ranks = (2, 3) if core == "full" else (2, 2)
    layout, model, data, beliefs = problem(core, ranks)
    *_, beliefs = single_updates(layout, model, data, beliefs, 2)
    found = balanced(layout, model.core_precision, data, beliefs)
    before = moments(layout, beliefs.core_moments, beliefs.factors, data.places)
    after = moments(layout, found.core_moments, found.factors, data.places)
    np.testing.assert_allclose(after, before, atol=1e-10)
    assert abs(np.log(found.modes[0].mean / beliefs.modes[0].mean)).max() > 0.01

    def divergence(law):
        """Of a scaled law from its prior, by dense algebra, up to entropy at scale one."""
        total = 0.0
        for k, (scaled, old) in enumerate(zip(law.modes, beliefs.modes, strict=True)):
            distinct = len(np.unique(data.grids[k].x))
            c = np.asarray(scaled.mean / old.mean)[0]
            K = covariance_of(k, data.grids[k].x[:distinct])
            inverse = np.linalg.inv(K)
            precision = np.asarray(unpack(beliefs.sites[k].precision, layout.ranks[k]))
            size = distinct * layout.ranks[k]
            full = np.kron(inverse, np.eye(layout.ranks[k]))
            for i in range(distinct):
                place = slice(i * layout.ranks[k], (i + 1) * layout.ranks[k])
                full[place, place] += precision[i]
            S = np.linalg.inv(full)
            scale = np.tile(c, distinct)
            m = np.asarray(old.mean)[:distinct].reshape(-1)
            second = (S + np.outer(m, m)) * np.outer(scale, scale)
            prior = np.kron(inverse, np.eye(layout.ranks[k]))
            total += 0.5 * np.trace(prior @ second) - np.log(scale).sum()
            assert size == len(scale)
        if law.core is not None:
            d = np.asarray(law.core.mean / beliefs.core.mean).reshape(-1)
            square = np.diag(law.core.covariance) + np.asarray(law.core.mean).reshape(-1) ** 2
            total += 0.5 * model.core_precision * square.sum() - np.log(d).sum()
        return total

    def covariance_of(mode, x):
        gap = np.abs(np.subtract.outer(x, x))
        if mode == 0:
            t = np.sqrt(3) * gap / 1.5
            return 1.1**2 * (1 + t) * np.exp(-t)
        return 0.9**2 * np.exp(-gap / 0.7)

    best = divergence(found)
    assert best < divergence(beliefs)
    for factor in (0.97, 1.03):
        # The last mode was balanced last: against the core, or the first mode.
        scaled = found.modes[-1]
        moved = scaled._replace(
            mean=scaled.mean * factor, covariance=scaled.covariance * factor**2
        )
        modes = (*found.modes[:-1], moved)
        if core == "full":
            turned = found.core._replace(
                mean=found.core.mean / factor,
                precision_factor=found.core.precision_factor * factor,
            )
            other = found._replace(modes=modes, core=turned)
        else:
            first = found.modes[0]
            turned = first._replace(
                mean=first.mean / factor, covariance=first.covariance / factor**2
            )
            other = found._replace(modes=(turned, moved))
        assert divergence(other) > best
