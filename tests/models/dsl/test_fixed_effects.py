"""Fixed effects against the regression with all dummies."""

import numpy as np
import pytest

import bayeskit as bk
from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.dsl import dsl_fit
from tests.models.dsl.panels import unbalanced_panel

PANEL = unbalanced_panel()


def dummies(*names):
    """Indicators of all groups, of the second way without the first."""
    columns = []
    for i, name in enumerate(names):
        values = PANEL[name].to_numpy()
        columns.append((values[:, None] == np.unique(values)[i > 0 :]).astype(float))
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("power", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("names", [("state",), ("state", "year")])
@pytest.mark.parametrize("clustered", [False, True])
def test_effects_are_dummies(names, power, clustered):
    labeled = PANEL.x.notna().to_numpy()
    X = PANEL[["x_true", "z"]].to_numpy()
    X_hat = PANEL[["x_model", "z"]].to_numpy()
    pi = np.random.default_rng(0).uniform(0.3, 0.8, len(PANEL))
    options = {"power_tuning": power, "cluster": PANEL.state if clustered else None}
    y, y_hat = PANEL.y_true, PANEL.y_model
    groups = PANEL[list(names)].to_numpy()
    found = dsl_fit(y, X, y_hat, X_hat, labeled, pi, fixed_effects=groups, **options)
    D = dummies(*names)
    full = dsl_fit(
        y, np.column_stack([X, D]), y_hat, np.column_stack([X_hat, D]), labeled, pi, **options
    )
    np.testing.assert_allclose(found.coef, full.coef[:2], atol=1e-10)
    np.testing.assert_allclose(found.vcov, full.vcov[:2, :2], atol=1e-12)
    if power == 1.0 and len(names) == 2:
        # The shortcut of balanced panels: row mean plus column mean minus grand mean.
        def doubly_demeaned(v):
            by = [PANEL.assign(v=v).groupby(name).v.transform("mean") for name in names]
            return v - by[0] - by[1] + v.mean()

        pseudo = y_hat + np.where(labeled, (y - y_hat) / pi, 0.0)
        shortcut = np.linalg.lstsq(
            np.column_stack([doubly_demeaned(c) for c in X_hat.T]), doubly_demeaned(pseudo)
        )[0]
        assert np.abs(shortcut - found.coef).max() > 0.02


def test_instruments_with_effects():
    X, Z = PANEL[["x_true", "z"]].to_numpy(), PANEL[["x_model", "z"]].to_numpy()
    y, D = PANEL.y_true, dummies("state", "year")
    groups = PANEL[["state", "year"]].to_numpy()
    found = dsl_fit(y, X, model="iv", Z=Z, fixed_effects=groups)
    full = dsl_fit(y, np.column_stack([X, D]), model="iv", Z=np.column_stack([Z, D]))
    np.testing.assert_allclose(found.coef, full.coef[:2], atol=1e-10)
    np.testing.assert_allclose(found.se, full.se[:2], atol=1e-10)


def test_estimator_reports_no_intercept_and_drops_singletons():
    alone = PANEL.iloc[[0]].assign(state=99)
    model = bk.DSLRegressor(
        formula="y ~ x + z",
        predicted={"y": "y_model", "x": "x_model"},
        fixed_effects=["state", "year"],
        learner="linear",
        n_repeats=2,
    )
    plain = model.fit(PANEL).coef_
    assert model.terms_ == ["x", "z"]
    import pandas as pd

    with pytest.warns(BayeskitWarning, match="1 rows are the only one of a fixed effect"):
        model.fit(pd.concat([PANEL, alone], ignore_index=True))
    np.testing.assert_allclose(model.coef_, plain, atol=0.1)
    assert model.n_dropped_ == 1


def test_constant_within_groups_is_refused():
    frame = PANEL.assign(size=PANEL.state * 2.0)
    model = bk.DSLRegressor(
        formula="y ~ size + z", predicted={"y": "y_model"}, fixed_effects="state", n_repeats=1
    )
    with pytest.raises(InvalidDataError, match="'size' is determined by"):
        model.set_params(learner="linear").fit(frame)
