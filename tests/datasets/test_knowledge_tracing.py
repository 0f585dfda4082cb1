"""Loaders on small files in the formats of others."""

import numpy as np
import pandas as pd
import pytest

from bayeskit import datasets
from bayeskit.errors import InvalidDataError


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_tables(tmp_path):
    text = "user_id\tskill_id\tproblem_id\tcorrect\ttimestamp\n1\t2\t7\t1\t5\n1\t3\t8\t0\t2\n"
    table = datasets.read_interactions(write(tmp_path, "rows.csv", text))
    assert list(table.columns) == ["learner", "kc", "time", "correct", "item"]
    assert table["time"].tolist() == [2, 5] and table["correct"].tolist() == [0, 1]
    first = datasets.read_interactions(tmp_path / "rows.csv", max_rows=1)
    assert first["kc"].tolist() == [3]
    with pytest.raises(InvalidDataError, match="no column for 'kc'"):
        datasets.read_interactions(write(tmp_path, "bad.csv", "user_id,correct\n1,0\n"))


def test_answers_stay_with_their_components(tmp_path):
    """The official loader takes labels from the frame before it is sorted."""
    rng = np.random.default_rng(0)
    raw = pd.DataFrame(
        {"user_id": rng.integers(5, size=60), "skill_id": rng.integers(9, size=60)}
    )
    raw["timestamp"] = rng.permutation(60)
    raw["correct"] = (raw["timestamp"] * 7 + raw["skill_id"]) % 2
    raw.to_csv(tmp_path / "mixed.csv", index=False)
    table = datasets.read_interactions(tmp_path / "mixed.csv")
    assert (table["correct"] == (table["time"] * 7 + table["kc"]) % 2).all()


def test_assistments(tmp_path):
    text = (
        "user_id,skill_id,problem_id,correct,start_time\n"
        "1,4,7,0.25,2012-09-01 10:00:00\n1,4,8,1,2012-09-01 22:00:00\n1,,9,1,2012-09-02 0:0:0\n"
    )
    table = datasets.read_assistments(write(tmp_path, "a.csv", text), year=2012)
    assert table["correct"].tolist() == [0, 1]
    assert np.diff(table["time"])[0] == pytest.approx(0.5)
    text = "studentId,skill,problemId,correct,startTime\n8,ratio,3,1,86400\n8,ratio,4,0,0\n"
    table = datasets.read_assistments(write(tmp_path, "b.csv", text), year=2017)
    assert table["time"].tolist() == [0.0, 1.0] and table["correct"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="year must be"):
        datasets.read_assistments(tmp_path / "b.csv", year=2009)


def test_rows_without_time_are_left_out(tmp_path):
    """A missing time is no time in the year 1677."""
    text = (
        "user_id,skill_id,problem_id,correct,start_time\n"
        "1,4,7,0,2012-09-01 10:00:00\n1,4,8,1,\n"
    )
    table = datasets.read_assistments(write(tmp_path, "a.csv", text), year=2012)
    assert table["item"].tolist() == [7]
    text = "uuid,ucid,timestamp_TW,is_correct\n1,4,1970-01-03 12:00:00 UTC,True\n1,5,,True\n"
    table = datasets.read_junyi(write(tmp_path, "j.csv", text))
    assert table["kc"].tolist() == [4] and table["time"].tolist() == [2.5]
    text = (
        "Anon Student Id\tTime\tOutcome\tKC (Default)\n"
        "s\t1970-01-02\tCORRECT\tx\ns\t\tHINT\ty\n"
    )
    table = datasets.read_datashop(write(tmp_path, "d.txt", text))
    assert table["kc"].tolist() == ["x"] and table["time"].tolist() == [1.0]


@pytest.mark.parametrize("year", [2012, 2017])
def test_a_missing_answer_column_is_named(tmp_path, year):
    path = write(tmp_path, "a.csv", "user_id,skill_id,start_time,startTime\n1,4,1970-01-02,5\n")
    with pytest.raises(InvalidDataError, match="no column for 'correct'"):
        datasets.read_assistments(path, year=year)


def test_junyi(tmp_path):
    text = (
        "user_id,exercise,problem_type,time_done,correct\n"
        "3,sums,0,172800000000,true\n3,sums,1,86400000000,false\n"
    )
    table = datasets.read_junyi(write(tmp_path, "log.csv", text))
    assert table["time"].tolist() == [1.0, 2.0] and table["correct"].tolist() == [0, 1]
    assert table["item"].tolist() == ["sums:1", "sums:0"]
    text = 'name,prerequisites\na,\nb,a\nc,"a,b"\nd,d\n'
    graph = datasets.read_junyi_graph(write(tmp_path, "map.csv", text))
    assert set(graph.edges) == {("a", "b"), ("a", "c"), ("b", "c"), ("d", "d")}


def test_pykt(tmp_path):
    text = (
        "uid,questions,concepts,responses,timestamps\n"
        '5,"1,2,-1","3,4_6,-1","1,0,-1","0,86400000,-1"\n'
    )
    table = datasets.read_pykt(write(tmp_path, "train.csv", text))
    assert table["kc"].tolist() == [3, [4, 6]] and table["time"].tolist() == [0.0, 1.0]
    text = 'uid,concepts,responses\n5,"3,4","1,0"\n5,"7","1"\n'
    table = datasets.read_pykt(write(tmp_path, "untimed.csv", text))
    assert table["time"].tolist() == [1.0, 2.0, 3.0] and "item" not in table


def test_datashop(tmp_path):
    text = (
        "Anon Student Id\tTime\tOutcome\tAttempt At Step\tKC (Default)\tKC (Fine)\n"
        "s\t2015-10-01 10:00:00\tCORRECT\t1\tx~~y\tz\n"
        "s\t2015-10-01 10:01:00\tHINT\t1\tx\tz\n"
        "s\t2015-10-01 10:02:00\tINCORRECT\t2\tx\tz\n"
        "s\t2015-10-01 10:03:00\tSTUDY\t1\tx\tz\n"
    )
    path = write(tmp_path, "export.txt", text)
    table = datasets.read_datashop(path)
    assert table["kc"].tolist() == [["x", "y"], "x", "x"]
    np.testing.assert_array_equal(table["correct"], [1.0, 0.0, np.nan])
    assert datasets.read_datashop(path, kc_model="Fine")["kc"].tolist() == ["z"] * 3
    with pytest.raises(InvalidDataError, match="no column for 'kc'"):
        datasets.read_datashop(path, kc_model="Coarse")


def test_presentation_times():
    table = pd.DataFrame({"learner": [0, 0, 0, 0, 1], "time": [0.0, 10.0, 16.0, 500.0, 3.0]})
    table["correct"] = [0, 1, np.nan, 1, 1]
    found = datasets.presentation_times(table, longest=120.0)
    np.testing.assert_allclose(found["time"], [0.0, 10.0, 16.0, 500.0, 3.0])
    pauses = {"wrong": 4.0, "correct": 99.0}
    found = datasets.presentation_times(table, longest=120.0, pauses=pauses)
    np.testing.assert_allclose(found["time"], [0.0, 4.0, 109.0, 500.0, 3.0])
    np.testing.assert_allclose(found["time_end"], [0.0, 10.0, 109.0, 500.0, 3.0])
    fitted = datasets.presentation_pauses(table, longest=120.0)
    assert fitted == {"wrong": 10.0, "correct": 6.0}


def test_when_an_item_was_shown_tells_nothing_of_its_answer():
    """The time of an answer changes when later items are shown, and never its own."""
    rng = np.random.default_rng(0)
    gaps = rng.exponential(10.0, 40)
    table = pd.DataFrame({"learner": 0, "time": np.cumsum(gaps), "correct": 1.0})
    pauses = {"correct": 8.0}
    found = datasets.presentation_times(table, longest=120.0, pauses=pauses)
    assert (found["time"].diff()[1:] >= 0).all() and (found["time"] <= found["time_end"]).all()
    for row in (5, 17, 39):
        later = table.copy()
        later.loc[row:, "time"] += 60.0
        again = datasets.presentation_times(later, longest=120.0, pauses=pauses)
        np.testing.assert_array_equal(again["time"][: row + 1], found["time"][: row + 1])
