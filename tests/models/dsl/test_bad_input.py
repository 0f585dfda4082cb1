"""What is refused or warned of, and in which words."""

import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.dsl import dsl_fit
from tests.models.dsl.panels import documents

FRAME = documents(200)


def model(**settings):
    given = {
        "model": "logit",
        "formula": "y ~ z",
        "predicted": {"y": "y_model"},
        "learner": "linear",
        "n_repeats": 1,
    }
    return bk.DSLRegressor(**{**given, **settings})


def some_labels(rows):
    """The table with labels in the first rows that have one."""
    frame = FRAME.copy()
    places = np.flatnonzero(frame.y.notna())[rows:]
    frame.loc[frame.index[places], "y"] = np.nan
    return frame


REFUSED = {
    "absent surrogate": ({"predicted": {"y": "guess"}}, FRAME, "'guess', which predicts 'y'"),
    "absent variable": ({"predicted": {"q": "y_model"}}, FRAME, "predicted variable 'q' is no"),
    "absent covariate": ({"formula": "y ~ w"}, FRAME, "column 'w' is not in the data"),
    "absent feature": ({"features": ["w"]}, FRAME, "column 'w' is not in the data"),
    "absent cluster": ({"cluster": "w"}, FRAME, "cluster='w' is no column"),
    "not in the formula": (
        {"predicted": {"y": "y_model", "x": "x_model"}},
        FRAME,
        "predicted variable 'x' is not in the formula",
    ),
    "nothing to predict from": ({"predicted": ["y"]}, FRAME, "nothing to predict 'y' from"),
    "leaking feature": ({"features": ["y"]}, FRAME, "but 'y' is a predicted variable"),
    "no label where said": (
        {"labeled": np.ones(200, bool)},
        FRAME,
        "is said to be labelled, but 'y' is missing",
    ),
    "no labels": ({}, FRAME.assign(y=np.nan), "no row is labelled"),
    "too few labels": ({"cv": 2}, some_labels(2), "2 labelled rows are too few for 2 coef"),
    "fold without labels": ({}, some_labels(3), "of repeat 0 has no labelled rows"),
    "negative probability": (
        {"sample_prob": np.r_[-0.1, np.full(199, 0.3)]},
        FRAME,
        "above 0 and at most 1, but row 0 has -0.1",
    ),
    "probability above 1": (
        {"sample_prob": np.r_[np.full(199, 0.3), 1.5]},
        FRAME,
        "above 0 and at most 1, but row 199 has 1.5",
    ),
    "probability missing": (
        {"sample_prob": np.r_[np.nan, np.full(199, 0.3)]},
        FRAME,
        "sample_prob is missing in 1 rows, the first is row 0",
    ),
    "labels of a logit": (
        {},
        FRAME.assign(y=FRAME.y + 1),
        "needs labels 0 and 1 of 'y', found 2",
    ),
    "labels of a poisson": (
        {"model": "poisson"},
        FRAME.assign(y=FRAME.y - 1),
        "needs labels >= 0 of 'y'",
    ),
    "missing covariate": (
        {"missing": "raise"},
        FRAME.assign(z=np.where(np.arange(200) == 7, np.nan, FRAME.z)),
        "'z' is missing in 1 rows, the first is row 7",
    ),
    "infinite covariate": (
        {},
        FRAME.assign(z=np.where(np.arange(200) == 7, np.inf, FRAME.z)),
        "'z' is infinite in row 7",
    ),
    "missing cluster": (
        {"cluster": np.r_[np.nan, np.arange(199.0)]},
        FRAME,
        "cluster is missing in 1 rows, the first is row 0",
    ),
    "collinear": (
        {"formula": "y ~ z + I(2 * z)"},
        FRAME,
        "is determined by the columns before",
    ),
    "undefined transformation": (
        {"formula": "y ~ log(z)"},
        FRAME,
        r"'log\(z\)' in 'y ~ log\(z\)' is not finite",
    ),
    "columns of several rows": (
        {"formula": "y ~ I(z - z.mean())"},
        FRAME,
        r"'I\(z - z.mean\(\)\)' is computed from several rows",
    ),
    "probabilities of other rows": (
        {"sample_prob": pd.Series(0.3, index=range(1, 201))},
        FRAME,
        "sample_prob has another index than the data",
    ),
    "clusters of two kinds": (
        {"cluster": np.array(["a", 1] * 100, dtype=object)},
        FRAME,
        "labels of groups must be all text or all numbers, found int and str",
    ),
    "flags missing": (
        {"labeled": pd.array([True, None] * 100, dtype="boolean")},
        FRAME,
        "labeled must hold True and False",
    ),
    "no formula": ({"formula": "y"}, FRAME, "formula must be text such as"),
    "unreadable formula": ({"formula": "y ~ z +* x"}, FRAME, "cannot be read"),
    "no frame": ({}, FRAME.to_numpy(), "fit takes a DataFrame, got ndarray"),
    "empty": ({}, FRAME.iloc[:0], "the data have no rows"),
    "one class": (
        {"model": "multinomial"},
        FRAME.assign(y=np.where(FRAME.y.notna(), "a", None)),
        "all labels of 'y' are 'a'",
    ),
    "effects of a logit": ({"fixed_effects": "cluster"}, FRAME, "fixed_effects are for linear"),
    "instruments of a logit": ({"instruments": "x_model"}, FRAME, "instruments are for model="),
    "no instruments": ({"model": "iv"}, FRAME, "model='iv' needs them"),
    "few instruments": (
        {"model": "iv", "formula": "y ~ z | 1"},
        FRAME,
        "1 instruments are too few for 2 columns",
    ),
    "covariates of a mean": ({"model": "mean"}, FRAME, "model='mean' has no covariates"),
    "torn clusters": (
        {"cluster": "cluster", "cv": np.arange(200) % 3},
        FRAME,
        "tear cluster",
    ),
    "folds of other rows": ({"cv": np.arange(50) % 5}, FRAME, "got shape \\(1, 50\\)"),
    "no strata": ({"normalize": "strata"}, FRAME, "needs strata="),
    "classes of a logit": (
        {},
        FRAME.assign(y=np.where(FRAME.y.notna(), FRAME.group, None)),
        "the labels of 'y' are classes such as 'a'",
    ),
    "text as a surrogate": (
        {"learner": "identity"},
        FRAME.assign(y_model="yes"),
        "the surrogate 'y_model' of 'y' must hold numbers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::bayeskit.errors.BayeskitWarning")
def test_refused(case):
    settings, frame, message = REFUSED[case]
    before = frame.copy() if hasattr(frame, "copy") else None
    with pytest.raises(InvalidDataError, match=message):
        model(**settings).fit(frame)
    if isinstance(before, pd.DataFrame):
        pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "probit"}, "model must be one of"),
        ({"method": "best"}, "method must be one of"),
        ({"missing": "ignore"}, "missing must be"),
        ({"normalize": "sum"}, "normalize must be one of"),
        ({"power_tuning": "all"}, "power_tuning must be"),
        ({"power_tuning": 1.5}, "power_tuning must be"),
        ({"learner": "bert"}, "learner must be one of"),
        ({"n_repeats": 0}, "n_repeats must be a whole number"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        model(**settings).fit(FRAME)


def test_labels_that_are_not_used():
    labeled = FRAME.y.notna().to_numpy(copy=True)
    first = np.flatnonzero(labeled)[0]
    labeled[first] = False
    with pytest.warns(
        BayeskitWarning, match="1 rows have labels but are said to be unlabelled"
    ):
        found = model(labeled=labeled).fit(FRAME)
    frame = FRAME.copy()
    frame.loc[first, "y"] = np.nan
    np.testing.assert_array_equal(model().fit(frame).coef_, found.coef_)


def test_rows_that_are_dropped():
    frame = FRAME.assign(z=np.where(np.arange(200) < 3, np.nan, FRAME.z))
    with pytest.warns(BayeskitWarning, match="3 of 200 rows were dropped"):
        found = model().fit(frame)
    assert (found.n_dropped_, found.n_units_) == (3, 197)
    np.testing.assert_array_equal(found.coef_, model().fit(FRAME.iloc[3:]).coef_)


def test_probabilities_that_scaling_lifts_above_one():
    # Half of the rows are labelled, though a tenth were expected to be.
    prob = np.where(np.arange(200) < 100, 0.02, 0.18)
    frame = FRAME.assign(y=np.where(np.arange(200) % 5 > 0, FRAME.y_true, np.nan))
    with pytest.warns(BayeskitWarning, match="100 probabilities exceed 1, the largest is 1.44"):
        model(sample_prob=prob).fit(frame)


def test_constant_labels_in_training_are_predicted():
    frame = FRAME.assign(y=np.where(FRAME.y.notna(), 0.0, np.nan))
    frame.loc[frame.index[frame.y.notna()][:2], "y"] = 1.0
    known = np.flatnonzero(frame.y.notna())
    folds = np.arange(200) % 2
    folds[known[:2]] = 0
    with pytest.warns(BayeskitWarning, match="were the same in 1 of 2 fits"):
        found = model(cv=folds, model="linear").fit(frame)
    assert (found.predictions_["y"][0, folds == 0] == 0.0).all()


def test_separated_classes():
    x = np.linspace(-1, 1, 60)
    y = (x > 0).astype(float)
    with pytest.raises(InvalidDataError, match="grow without bound"):
        dsl_fit(y, np.column_stack([np.ones(60), x]), model="logit")


def test_all_labeled_is_said():
    found = model(predicted=["y"]).fit(FRAME.assign(y=FRAME.y_true))
    assert "all rows are labelled: this is the plain regression" in str(found.summary())


def test_categories_that_the_fit_has_not_seen():
    found = model(formula="y ~ group", model="linear").fit(FRAME)
    with pytest.raises(InvalidDataError, match="categories that the fit has not seen"):
        found.predict(pd.DataFrame({"group": ["a", "q"]}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": FRAME.y_model.iloc[::-1]}, r"predictions\['y'\] has another index"),
        ({"y": FRAME.y_model, "w": FRAME.y_model}, "'w', which is no predicted variable"),
    ],
)
def test_predictions_of_other_rows(given, message):
    with pytest.raises(InvalidDataError, match=message):
        model().fit(FRAME, predictions=given)


@pytest.mark.filterwarnings("ignore::bayeskit.errors.BayeskitWarning")
def test_comparisons_that_cannot_be_made_are_left_out():
    # Two columns that differ in rows without labels alone.
    first = np.arange(200) % 20 == 0
    second = first | (FRAME.y.isna() & (np.arange(200) % 20 == 1)).to_numpy()
    frame = FRAME.assign(first=first * 1.0, second=second * 1.0)
    found = model(formula="y ~ first + second", model="linear").fit(frame)
    with pytest.warns(BayeskitWarning, match="'gold' is left out"):
        table = found.compare()
    assert set(table.index.get_level_values("method")) == {
        "dsl",
        "semi_supervised",
        "surrogate",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), np.ones((4, 1))), "y n rows"),
        ((np.zeros(4), np.ones((4, 1)), np.zeros(3)), "must have 4 rows"),
        ((np.full(4, np.nan), np.ones((4, 1)), np.zeros(4)), "no row is labelled"),
        (
            (np.r_[np.nan, 0, 1, 2], np.ones((4, 1))),
            "y_hat, by default y, is not finite in row 0",
        ),
        ((np.zeros(4), np.ones((4, 1)), np.zeros(4), np.ones((4, 2))), "X_hat must have shape"),
        ((np.zeros(4), np.ones((4, 4))), "4 labelled rows are too few"),
    ],
)
def test_arrays_that_do_not_fit(arguments, message):
    with pytest.raises(InvalidDataError, match=message):
        dsl_fit(*arguments)
