"""Tables of other packages give the numbers of pandas, at the door of every estimator."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeskit as bk
from bayeskit.errors import InvalidDataError
from bayeskit.models.base import checked_array
from bayeskit.models.functional_tucker.rows import date_columns, table_of
from bayeskit.models.knowledge_tracing.rows import interactions_of
from bayeskit.models.markov_gp.rows import are_dates, coordinates
from bayeskit.models.tables import as_frame

TIMES = pd.date_range("2024-01-01", periods=6)
FRAME = pd.DataFrame(
    {
        "learner": ["b", "a", "a", "b", "a", "b"],
        "kc": [0, 0, 1, 1, 0, 0],
        "time": np.arange(6.0),
        "correct": [1, 0, 1, 1, 1, 0],
    }
)


def structured(frame):
    return frame.assign(learner=frame["learner"].astype(object)).to_records(index=False)


def polars_of(frame):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.DataFrame({name: frame[name].tolist() for name in frame.columns})


def xarray_of(frame):
    return xr.Dataset.from_dataframe(frame.rename_axis("row"))


FORMS = {
    "polars": polars_of,
    "structured": structured,
    "xarray": xarray_of,
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_those_of_pandas(form):
    found = as_frame(FORMS[form](FRAME))[list(FRAME.columns)]
    for name in FRAME.columns:
        assert found[name].tolist() == FRAME[name].tolist()


def test_what_is_no_table_is_left_alone():
    series = pd.Series([1.0])
    for value in (FRAME, series, np.ones(3), {"x": [1]}, [1, 2], None, "text", 3.0):
        assert as_frame(value) is value


@pytest.mark.parametrize("form", FORMS)
def test_knowledge_tracing_rows(form):
    found, labels = interactions_of(FORMS[form](FRAME), time_unit="day")
    expected, known = interactions_of(FRAME, time_unit="day")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [str(v) for v in labels.learner] == [str(v) for v in known.learner]


@pytest.mark.parametrize("form", FORMS)
def test_modes_of_tensors(form):
    modes = ["learner", "time"]
    found = table_of(as_frame(FORMS[form](FRAME))[modes])
    expected = table_of(FRAME[modes])
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    assert list(found[2]["learner"]) == list(expected[2]["learner"])


def test_a_dataset_is_a_long_table():
    cells = xr.Dataset(
        {"y": (("site", "time"), np.arange(6.0).reshape(2, 3))},
        coords={"site": ["north", "south"], "time": TIMES[:3]},
    )
    frame = as_frame(cells)
    assert frame.shape == (6, 3)
    assert date_columns(frame[["site", "time"]]) == {"time": False}
    row = frame[(frame["site"] == "south") & (frame["time"] == TIMES[1])]
    assert row["y"].item() == 4.0


def test_dates_of_a_series():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    table = polars.DataFrame({"t": TIMES.to_numpy()})
    for given in (table, table["t"]):
        assert are_dates(given)
        np.testing.assert_array_equal(coordinates(given), coordinates(TIMES.to_frame()))


@pytest.mark.parametrize("form", ["polars", "structured"])
def test_matrices(form):
    numbers = FRAME[["time", "correct"]]
    make = polars_of if form == "polars" else lambda frame: frame.to_records(index=False)
    expected = numbers.to_numpy(float)
    np.testing.assert_array_equal(checked_array(make(numbers), "X"), expected)


@pytest.mark.parametrize("form", ["polars", "structured", "dict"])
def test_design_based_regression(form):
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400)
    table = pd.DataFrame({"x": x, "y": np.where(rng.uniform(size=400) < 0.5, y, np.nan)})
    table["guess"] = 0.5 * y + rng.normal(size=400)
    makers = {
        "polars": polars_of,
        "structured": lambda frame: frame.to_records(index=False),
        "dict": lambda frame: {name: frame[name].to_numpy() for name in frame.columns},
    }
    settings = {
        "formula": "y ~ x",
        "predicted": {"y": "guess"},
        "features": ["x"],
        "learner": "linear",
        "random_state": 0,
    }
    found = bk.DSLRegressor(**settings).fit(makers[form](table))
    expected = bk.DSLRegressor(**settings).fit(table)
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    np.testing.assert_array_equal(found.predict(makers[form](table)), expected.predict(table))


def test_lazy_tables_are_refused():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    with pytest.raises(InvalidDataError, match="LazyFrame, not in memory yet: call collect"):
        as_frame(polars.DataFrame({"x": [1.0]}).lazy())
