"""The table of forecasts: the queries, as they were, and what is said of each."""

import numpy as np
import pandas as pd
import pytest

import bayeskit as bk

COLUMNS = ["probability", "mean", "sd", "lower", "upper"]
TABLE = {"learner": ["ann"] * 3, "kc": ["a", "b", "a"], "correct": [1, 0, 1]}
DAYS = [0.0, 1.0, 2.0]


def tracer():
    return bk.KnowledgeTracer(num_steps=0, random_state=0)


def test_index_and_columns_are_kept():
    found = tracer().fit(TABLE | {"time": DAYS})
    queries = pd.DataFrame(
        {
            "note": ["x", "y", "z"],
            "kc": pd.Categorical(["b", "a", "b"]),
            "time": [5, 4, 3],
            "learner": ["ann", "bob", "ann"],
            "mean": 7.0,
        },
        index=pd.Index([30, 10, 20], name="row"),
    )
    before = queries.copy()
    table = found.forecast(queries)
    pd.testing.assert_frame_equal(queries, before)
    asked = ["note", "kc", "time", "learner"]
    pd.testing.assert_frame_equal(table[asked], queries[asked])
    assert list(table.columns) == [
        "note",
        "kc",
        "time",
        "learner",
        "mean",
        *COLUMNS[:1],
        *COLUMNS[2:],
    ]
    np.testing.assert_allclose(table["probability"], found.predict_proba(queries))
    assert (table["mean"] != 7.0).all()
    # The order of rows is the table's own.
    again = found.forecast(queries.loc[[10, 20, 30]])
    pd.testing.assert_frame_equal(again, table.loc[[10, 20, 30]])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dict_with_dates_and_single_values(zone):
    dates = pd.date_range("2026-03-01", periods=3, tz=zone)
    found = tracer().fit(TABLE | {"time": dates})
    later = pd.Timestamp("2026-03-09", tz=zone)
    table = found.forecast({"learner": "ann", "kc": ["a", ["a", "b"]], "time": later, "x": [1]})
    assert list(table.columns) == ["learner", "kc", "time", *COLUMNS]
    assert table["time"].tolist() == [later] * 2 and table["kc"].tolist() == ["a", ["a", "b"]]
    plain = tracer().fit(TABLE | {"time": DAYS})
    expected = plain.forecast({"learner": ["ann"] * 2, "kc": ["a", ["a", "b"]], "time": 8.0})
    np.testing.assert_allclose(table[COLUMNS], expected[COLUMNS], atol=1e-8)
