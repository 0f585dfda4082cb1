"""The solver and the combination of repeats, apart from any data."""

import numpy as np
import pytest

from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.models.dsl import dsl_fit
from bayeskit.models.dsl.links import LINKS
from bayeskit.models.dsl.newton import find_roots
from bayeskit.models.dsl.repeats import combine_repeats, nearest_covariance
from tests.models.dsl.panels import documents

FRAME = documents(500, seed=2)
X = np.column_stack([np.ones(500), FRAME.x_true, FRAME.z])
LABELED = FRAME.y.notna().to_numpy()


def test_roots_of_several_equations_at_once():
    """Each by itself: a cubic, from starts on both sides, one of them where steps overshoot."""
    targets = np.array([[-8.0], [1.0], [1000.0]])
    found = find_roots(
        lambda t: targets - t**3 - t, lambda t: (3 * t**2 + 1)[..., None], np.full((3, 1), 1e-3)
    )
    assert found.converged.all()
    np.testing.assert_allclose(found.theta**3 + found.theta, targets, rtol=1e-12)


def test_damping_is_needed_and_there():
    """Full Newton steps of arctan run away from 3; halved ones do not."""
    found = find_roots(lambda t: -np.arctan(t), lambda t: (1 / (1 + t**2))[..., None], [[3.0]])
    assert found.converged.all()
    assert abs(found.theta[0, 0]) < 1e-12
    full = 3.0
    for _ in range(4):
        full -= np.arctan(full) * (1 + full**2)
    assert abs(full) > 3.0


def test_equations_without_roots_are_said():
    found = find_roots(lambda t: 1 + t**2, lambda t: (-2 * t)[..., None], [[0.5], [2.0]])
    assert not found.converged.any()
    singular = find_roots(lambda t: t - t, lambda t: np.zeros((1, 1, 1)), [[1.0]])
    assert singular.theta[0, 0] == 1.0


def test_repeats_without_a_root_are_left_out():
    good = 0.7 * FRAME.y_model.to_numpy() + 0.1
    # Labels cannot correct what only the other rows have.
    bad = np.where(LABELED, good, 50.0)
    with pytest.warns(ConvergenceWarning, match="1 of 2 repeats were left out"):
        found = dsl_fit(FRAME.y, X, np.stack([bad, good]), labeled=LABELED, model="logit")
    alone = dsl_fit(FRAME.y, X, good, labeled=LABELED, model="logit")
    np.testing.assert_allclose(found.coef, alone.coef, atol=1e-12)
    assert found.splits.numbers.tolist() == [1]
    with pytest.raises(InvalidDataError, match="were not solved"):
        dsl_fit(FRAME.y, X, bad, labeled=LABELED, model="logit")


def test_combination_by_hand():
    theta = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]])
    vcov = np.stack([np.eye(2), 2 * np.eye(2), 3 * np.eye(2)])
    centre, covariance = combine_repeats(theta, vcov)
    np.testing.assert_array_equal(centre, [1.0, 1.0])
    # Medians of 1 + 1, 2 + 1, 3 + 0 and of 1, 2, 3 + 9; products are 0 everywhere.
    np.testing.assert_array_equal(covariance, [[3.0, 0.0], [0.0, 2.0]])


def test_covariances_are_made_positive_and_keep_their_diagonal():
    indefinite = np.array([[4.0, -3.8, 1.9], [-3.8, 4.0, 1.9], [1.9, 1.9, 1.0]])
    assert np.linalg.eigvalsh(indefinite)[0] < -0.1
    found = nearest_covariance(indefinite)
    np.testing.assert_allclose(np.diag(found), np.diag(indefinite), rtol=1e-12)
    assert np.linalg.eigvalsh(found)[0] > -1e-10
    units = np.diag([1.0, 100.0, 0.01])
    np.testing.assert_allclose(
        nearest_covariance(units @ indefinite @ units), units @ found @ units, rtol=1e-6
    )
    positive = np.array([[2.0, 0.3], [0.3, 1.0]])
    assert nearest_covariance(positive) is positive


@pytest.mark.parametrize("name", LINKS)
def test_slopes_are_derivatives_of_means(name):
    link, step = LINKS[name], 1e-6
    eta = np.array([[-2.0, 0.3], [0.5, 1.5]]) if name == "multinomial" else np.array([[0.7]])
    slope = link.slope(eta)
    for k in range(eta.shape[1]):
        away = step * np.eye(eta.shape[1])[k]
        numeric = (link.mean(eta + away) - link.mean(eta - away)) / (2 * step)
        np.testing.assert_allclose(slope[..., k], numeric, atol=1e-8)
    far = np.full_like(eta, 800.0)
    assert np.isfinite(link.mean(far)).all()
    assert np.isfinite(link.mean(-far)).all()
