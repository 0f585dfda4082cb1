"""The joint Gaussian block against dense algebra."""

import functools
from dataclasses import replace

import jax
import jax.flatten_util
import numpy as np
import pytest

from bayeskit.accel import as_key
from bayeskit.accel.time import associative
from bayeskit.inference.gp_kernels import Matern12, Matern32, Periodic, White
from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.additive import evidence as additive_evidence
from bayeskit.models.functional_tucker.additive.block import normal_shapes
from bayeskit.models.functional_tucker.additive.design import new_design
from bayeskit.models.functional_tucker.terms import (
    GroupMeanEffect,
    MainEffect,
    WithinGroup,
    on,
)
from tests.models.functional_tucker import dense

TEMP, PRES, DAY = 0, 1, 2


def _table(rng, days):
    return np.c_[np.round(rng.normal(10, 5, len(days)), 1), rng.normal(0, 3, len(days)), days]


def make_data():
    rng = np.random.default_rng(3)
    # Groups of 5, 1, 3 and 2 rows with gaps between; rows 0 and 1 are equal.
    days = np.array([4, 4, 4, 4, 4, 5, 7.5, 7.5, 7.5, 12, 12, 20.0])
    table = _table(rng, days)
    table[1] = table[0]
    y = rng.normal(size=len(days))
    precision = rng.uniform(1, 60, len(days))
    # A row, and the whole group of day 20, without data.
    precision[[2, 11]] = 0.0
    # Rows of seen groups (one of them given twice), of unseen ones before, between and after.
    new = _table(rng, np.array([4, 4, 5, 20, 6, 6, 6, 1.5, 30, 7.5]))
    new[1] = table[0]
    new[5] = new[4]
    new[0, TEMP] = table[5, TEMP]
    return table, y, precision, new


def group_mean(table, training, context):
    """Return the mean of TEMP over the training rows of each day, else over the rows given."""
    means = []
    for row in table:
        known = training[training[:, DAY] == row[DAY], TEMP]
        given = table[table[:, DAY] == row[DAY], TEMP] if context == "given" else row[TEMP]
        means.append(known.mean() if len(known) else np.mean(given))
    return np.array(means)


def make_case(training, with_within=True, num_knots=None, context="given"):
    """Return terms, and the covariance of two tables of rows."""
    terms = [
        MainEffect(TEMP, Matern32(0.7, 6.0), num_knots=num_knots),
        MainEffect(PRES, Matern12(0.4, 2.0)),
        GroupMeanEffect(TEMP, DAY, Matern32(0.5, 4.0)),
        MainEffect(DAY, Matern32(0.9, 3.0) + Periodic(0.5, 7.0, 1.1) + White(0.3)),
    ]
    f_t = dense.matern32(0.7, 6.0)
    if num_knots:
        low, high = training[:, TEMP].min(), training[:, TEMP].max()
        f_t = dense.on_grid(f_t, np.linspace(low, high, num_knots))
    f_p, h_t = dense.matern12(0.4, 2.0), dense.matern32(0.5, 4.0)
    s, a, e = dense.matern32(0.9, 3.0), dense.periodic(0.5, 7.0, 1.1, 6), dense.white(0.3)
    if with_within:
        terms.append(
            WithinGroup(
                DAY,
                on(TEMP, Matern12(0.6, 5.0))
                + on(TEMP, Matern12(0.5, 1.0)) * on(PRES, Matern32(1.0, 2.0)),
            )
        )
    w1, w2, w3 = dense.matern12(0.6, 5.0), dense.matern12(0.5, 1.0), dense.matern32(1.0, 2.0)

    def kernel(x, z):
        mx, mz = group_mean(x, training, context), group_mean(z, training, context)
        K = 9.0 + f_t(x[:, TEMP], z[:, TEMP]) + f_p(x[:, PRES], z[:, PRES]) + h_t(mx, mz)
        K = K + sum(k(x[:, DAY], z[:, DAY]) for k in (s, a, e))
        if with_within:
            same = np.equal.outer(x[:, DAY], z[:, DAY])
            within = w1(x[:, TEMP], z[:, TEMP])
            within = within + w2(x[:, TEMP], z[:, TEMP]) * w3(x[:, PRES], z[:, PRES])
            K = K + same * within
        return K

    return tuple(terms), kernel


def dense_answer(kernel, table, y, precision, new):
    return dense.posterior(
        kernel(table, table), y, precision, kernel(new, new), kernel(new, table)
    )


CASES = {
    "within": {},
    "no within": {"with_within": False},
    "training context": {"context": "training"},
    "knots on a grid": {"num_knots": 5},
}


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def fitted():
    """The posterior of the first case, and what dense algebra says of it."""
    table, y, precision, new = make_data()
    terms, kernel = make_case(table)
    posterior = additive.additive_posterior(
        additive.additive_design(terms, table), y, precision
    )
    return posterior, dense_answer(kernel, table, y, precision, new), new


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_posterior_and_evidence_are_those_of_dense_algebra(options):
    table, y, precision, new = make_data()
    if "num_knots" in options:
        # Beyond a grid the function is a Gaussian process again, which has its own test.
        new[:, TEMP] = np.clip(new[:, TEMP], table[:, TEMP].min(), table[:, TEMP].max())
    terms, kernel = make_case(table, **options)
    mean, covariance, evidence = dense_answer(kernel, table, y, precision, new)
    posterior = additive.additive_posterior(
        additive.additive_design(terms, table), y, precision
    )
    found = additive.predict_rows(posterior, new, options.get("context", "given"))
    assert posterior.log_evidence == pytest.approx(evidence, rel=1e-8)
    np.testing.assert_allclose(found[0], mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found[1], np.diag(covariance), rtol=1e-8)


def test_what_accelerators_compute_is_the_same(monkeypatch):
    """The branch of other platforms, in parallel over time and groups, taken on this one."""
    monkeypatch.setattr(
        associative.lax, "platform_dependent", lambda *args, default, **_: default(*args)
    )
    jax.clear_caches()
    table, y, precision, new = make_data()
    terms, kernel = make_case(table)
    design = additive.additive_design(terms, table)
    data = (tuple(term.kernel for term in terms), design.arrays, design.pad(y))
    evidence = jax.jit(functools.partial(additive.log_evidence, design.plan))(
        *data, design.pad(precision)
    )
    monkeypatch.undo()
    jax.clear_caches()
    assert evidence == pytest.approx(
        dense_answer(kernel, table, y, precision, new)[2], rel=1e-8
    )


def test_moments_at_training_rows(fitted):
    posterior, _, _ = fitted
    table, y, precision, _ = make_data()
    kernel = make_case(table)[1]
    mean, covariance, _ = dense_answer(kernel, table, y, precision, table)
    found = additive.row_moments(posterior)
    np.testing.assert_allclose(found[0], mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found[1], np.diag(covariance), rtol=1e-8)


def test_draws_have_the_joint_posterior_covariance(fitted):
    """Draws are linear in normals: one unit vector after the other gives the covariance."""
    posterior, (mean, covariance, _), new = fitted
    shapes = normal_shapes(posterior, new_design(posterior.design, new, joint=True))
    flat, unravel = jax.flatten_util.ravel_pytree(
        jax.tree.map(np.zeros, shapes, is_leaf=_is_shape)
    )
    normals = jax.vmap(unravel)(np.vstack([np.zeros_like(flat), np.eye(len(flat))]))
    draws = additive.sample_rows(posterior, new, len(flat) + 1, normals=normals)
    np.testing.assert_allclose(draws[0], mean, rtol=1e-8, atol=1e-9)
    by_key = [
        additive.sample_rows(posterior, new, len(draws), as_key(seed)) for seed in (1, 1, 2)
    ]
    assert (by_key[0] == by_key[1]).all()
    assert (by_key[0] != by_key[2]).all()
    assert len(np.unique(by_key[0][:, 0])) == len(draws)
    root = draws[1:] - draws[0]
    np.testing.assert_allclose(root.T @ root, covariance, rtol=1e-8, atol=1e-9)


def test_gradient_of_the_evidence(fitted):
    """Reverse mode against central differences: hyper-parameters, and some precisions."""
    design = fitted[0].design
    _, y, precision, _ = make_data()
    y, precision = design.pad(y), design.pad(precision)
    leaves, structure = jax.tree.flatten(tuple(term.kernel for term in design.terms))
    leaves = np.array(leaves, float)

    def evidence(leaves, precision):
        kernels = jax.tree.unflatten(structure, list(leaves))
        return additive.log_evidence(design.plan, kernels, design.arrays, y, precision)

    program = jax.jit(jax.value_and_grad(evidence, argnums=(0, 1)))
    value = lambda leaves, precision: program(leaves, precision)[0]
    by_leaf, by_row = program(leaves, precision)[1]
    for i, leaf in enumerate(leaves):
        step = 1e-4 * leaf * np.eye(len(leaves))[i]
        difference = value(leaves + step, precision) - value(leaves - step, precision)
        assert by_leaf[i] == pytest.approx(
            float(difference) / (2e-4 * leaf), rel=1e-6, abs=1e-6
        )
    for i in (0, 5, 7):
        step = 1e-4 * np.eye(len(precision))[i]
        difference = value(leaves, precision + step) - value(leaves, precision - step)
        assert by_row[i] == pytest.approx(float(difference) / 2e-4, rel=1e-6, abs=1e-8)
    # Rows without data, and those that pad, move nothing.
    assert np.isfinite(by_row).all()


def test_function_of_one_term(fitted):
    """Main effects of knots and of the level, at seen and unseen coordinates."""
    posterior, _, _ = fitted
    table, y, precision, _ = make_data()
    kernel = make_case(table)[1]
    s, a, e = dense.matern32(0.9, 3.0), dense.periodic(0.5, 7.0, 1.1, 6), dense.white(0.3)
    parts = {
        0: (TEMP, dense.matern32(0.7, 6.0), np.array([table[3, TEMP], 1.23, 40.0])),
        3: (DAY, lambda x, z: s(x, z) + a(x, z) + e(x, z), np.array([4.0, 6.5, 40.0])),
    }
    for place, (mode, part, grid) in parts.items():
        mean, covariance, _ = dense.posterior(
            kernel(table, table), y, precision, part(grid, grid), part(grid, table[:, mode])
        )
        found = additive.function_moments(posterior, place, grid)
        np.testing.assert_allclose(found[0], mean, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(found[1], np.diag(covariance), rtol=1e-8)


def test_centred_function_has_the_joint_law(fitted):
    """Against A K A' with the dense joint covariance of the grid and of the observed rows."""
    posterior, _, _ = fitted
    table, y, precision, _ = make_data()
    kernel = make_case(table)[1]
    s, a, e = dense.matern32(0.9, 3.0), dense.periodic(0.5, 7.0, 1.1, 6), dense.white(0.3)
    parts = {
        0: (TEMP, dense.matern32(0.7, 6.0), np.array([table[3, TEMP], 1.23, 40.0])),
        3: (DAY, lambda x, z: s(x, z) + a(x, z) + e(x, z), np.array([4.0, 6.5, 40.0])),
    }
    for place, (mode, part, grid) in parts.items():
        both = np.concatenate([grid, table[precision > 0, mode]])
        mean, covariance, _ = dense.posterior(
            kernel(table, table), y, precision, part(both, both), part(both, table[:, mode])
        )
        num = len(both) - len(grid)
        A = np.eye(len(grid), len(both)) - np.r_[np.zeros(len(grid)), np.full(num, 1 / num)]
        found = additive.centred_function_moments(posterior, place, grid)
        expected = np.diag(A @ covariance @ A.T)
        np.testing.assert_allclose(found[0], A @ mean, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(found[1], expected, rtol=1e-8)
        # Planted: the mean taken as known, or as independent of the function.
        own = np.diag(covariance)[: len(grid)]
        share = A[0, len(grid) :]
        of_mean = share @ covariance[len(grid) :, len(grid) :] @ share
        for wrong in (own, own + of_mean):
            assert np.abs(wrong / expected - 1.0).max() > 0.01


def test_no_terms_and_no_groups():
    """A constant; and main effects alone, of which one is the level."""
    table, y, precision, new = make_data()
    precision = np.where(precision > 0, precision, 1.0)
    for terms, kernel in (
        ((), lambda x, z: np.full((len(x), len(z)), 9.0)),
        (
            (MainEffect(PRES, Matern12(0.4, 2.0)),),
            lambda x, z: 9.0 + dense.matern12(0.4, 2.0)(x[:, PRES], z[:, PRES]),
        ),
    ):
        mean, covariance, evidence = dense_answer(kernel, table, y, precision, new)
        posterior = additive.additive_posterior(
            additive.additive_design(terms, table), y, precision
        )
        found = additive.predict_rows(posterior, new)
        assert posterior.log_evidence == pytest.approx(evidence, rel=1e-8)
        np.testing.assert_allclose(found[0], mean, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(found[1], np.diag(covariance), rtol=1e-8)


def test_equal_rows_are_one_row_of_the_sum_of_precisions():
    table, y, precision, new = make_data()
    terms, _ = make_case(table)
    merged = precision.copy()
    merged[0], merged[1] = precision[0] + precision[1], 0.0
    y_merged = y.copy()
    y_merged[0] = (precision[:2] @ y[:2]) / merged[0]
    design = additive.additive_design(terms, table)
    one = additive.predict_rows(additive.additive_posterior(design, y, precision), new)
    two = additive.predict_rows(additive.additive_posterior(design, y_merged, merged), new)
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-10)


def test_in_training_context_rows_know_nothing_of_one_another(fitted):
    posterior, _, new = fitted
    together = additive.predict_rows(posterior, new, "training")[0]
    # Rows 4, 5 and 6 form an unseen group.
    moved = new.copy()
    moved[[5, 6], TEMP] += 3.0
    alone = additive.predict_rows(posterior, moved, "training")[0]
    np.testing.assert_allclose(alone[4], together[4], rtol=1e-10, atol=1e-12)
    given = additive.predict_rows(posterior, new, "given")[0]
    assert np.abs(given[[4, 6]] - together[[4, 6]]).min() > 1e-4


# ---------------------------------------------------------------- planted bugs


def test_level_integrated_out_with_the_wrong_sign_is_caught(fitted, monkeypatch):
    posterior, (_, _, evidence), _ = fitted
    right = additive_evidence._integrate_level

    def wrong(*arguments):
        form, log_det = right(*arguments)
        return -form, log_det

    monkeypatch.setattr(additive_evidence, "_integrate_level", wrong)
    assert abs(_fresh_evidence(posterior) - evidence) > 1e-3


def test_determinant_of_groups_left_out_is_caught(fitted, monkeypatch):
    posterior, (_, _, evidence), _ = fitted
    right = additive_evidence.collapse
    monkeypatch.setattr(
        additive_evidence, "collapse", lambda *a: right(*a)._replace(log_det=0.0)
    )
    assert abs(_fresh_evidence(posterior) - evidence) > 1e-3


def test_cross_covariance_of_level_and_weights_left_out_is_caught(fitted):
    posterior, (mean, covariance, _), new = fitted
    columns = np.array(posterior.reduced.level_columns)
    columns[:, :-1] = 0.0
    wrong = replace(posterior, reduced=posterior.reduced._replace(level_columns=columns))
    found = additive.predict_rows(wrong, new)
    assert np.abs(found[0] - mean).max() > 1e-3
    assert np.abs(found[1] / np.diag(covariance) - 1).max() > 1e-3


def test_means_of_groups_that_look_at_other_rows_are_caught():
    table, y, precision, new = make_data()
    terms, kernel = make_case(table, context="training")
    mean, _, _ = dense_answer(kernel, table, y, precision, new)
    posterior = additive.additive_posterior(
        additive.additive_design(terms, table), y, precision
    )
    leaking = additive.predict_rows(posterior, new, "given")[0]
    assert np.abs(leaking - mean).max() > 1e-3


def _fresh_evidence(posterior):
    design = posterior.design
    return jax.jit(
        lambda y, precision: additive.log_evidence(
            design.plan, posterior.kernels, design.arrays, y, precision
        )
    )(posterior.y, posterior.precision)


def _is_shape(value):
    return isinstance(value, tuple) and value != () and all(isinstance(n, int) for n in value)
