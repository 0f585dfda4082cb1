"""Tables as people have them: dates of all kinds, labelled graphs, lists that became text."""

import datetime as dt
import warnings

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.knowledge_tracing.baselines import MeanTracer

DAYS = [0.0, 0.5, 2.0, 0.0]
STAMPS = pd.Timestamp("2024-01-01") + pd.to_timedelta(DAYS, unit="D")
TABLE = pd.DataFrame(
    {
        "learner": ["ann", "ann", "ann", "bob"],
        "kc": ["sum", "product", "sum", "sum"],
        "time": STAMPS,
        "correct": [0, 1, None, 1],
    }
)


def tracer(**settings):
    return bk.KnowledgeTracer(**{"num_steps": 0, "random_state": 0, **settings})


@pytest.fixture(scope="module")
def dated():
    return tracer().fit(TABLE)


@pytest.mark.parametrize(
    "times",
    [
        list(STAMPS),
        [stamp.to_pydatetime() for stamp in STAMPS],
        STAMPS.tz_localize("Europe/Berlin"),
        pd.Series(list(STAMPS), dtype=object),
        STAMPS.to_numpy().astype("datetime64[us]"),
    ],
    ids=["list", "datetime", "zone", "object", "us"],
)
def test_kinds_of_dates(times, dated):
    columns = {name: TABLE[name].tolist() for name in ("learner", "kc", "correct")}
    found = tracer().fit({**columns, "time": times})
    assert found.log_evidence_ == pytest.approx(dated.log_evidence_, abs=1e-9)
    one = times[0] if isinstance(times, list) else pd.Index(times)[0]
    last = one + dt.timedelta(days=9) if not isinstance(one, np.datetime64) else one + 9
    p = found.predict_proba({"learner": "ann", "kc": "sum", "time": [last]})
    query = {"learner": ["ann"], "kc": ["sum"], "time": [STAMPS[0] + pd.Timedelta(days=9)]}
    np.testing.assert_allclose(p, dated.predict_proba(query), rtol=1e-9)


def test_dates_come_back(dated):
    looks = pd.date_range("2024-01-02", periods=3)
    found = dated.smooth("ann", looks)
    times = found.index.get_level_values("time")
    assert set(times) == {*STAMPS[:3], *looks}
    # Planted bug: dates taken as numbers lie far ahead, where all is forgotten.
    numbers = tracer().fit(TABLE.assign(time=DAYS)).smooth("ann", [1.0, 2.0, 3.0])
    np.testing.assert_allclose(found["mean"].to_numpy(), numbers["mean"].to_numpy(), atol=1e-8)
    one = dated.filter("ann", [pd.Timestamp("2024-01-05")])
    assert one.index.get_level_values("time")[-1] == pd.Timestamp("2024-01-05")
    aware = tracer().fit(TABLE.assign(time=STAMPS.tz_localize("Europe/Berlin")))
    assert str(aware.filter("bob").index.get_level_values("time")[0].tz) == "UTC"


def test_dates_and_numbers_are_not_mixed(dated):
    query = {"learner": ["ann"], "kc": ["sum"], "correct": [1]}
    with pytest.raises(InvalidDataError, match="numbers, but those of fit were dates"):
        dated.partial_fit({**query, "time": [20_000.0]})
    plain = tracer().fit(TABLE.assign(time=DAYS))
    with pytest.raises(InvalidDataError, match="dates, but those of fit were numbers"):
        plain.forecast({**query, "time": [pd.Timestamp("2024-02-01")]})
    with pytest.raises(InvalidDataError, match="dates, but those of fit were numbers"):
        plain.filter("ann", STAMPS)
    with pytest.raises(InvalidDataError, match="must both be dates"):
        tracer().fit(TABLE.assign(time_end=5.0))
    with pytest.raises(InvalidDataError, match=r"2023-12-31.*ended at 2024-01-03"):
        dated.predict_next({**query, "time": [pd.Timestamp("2023-12-31")]})
    with pytest.raises(InvalidDataError, match="dates and other things"):
        tracer().fit(TABLE.assign(time=[STAMPS[0], STAMPS[1], "soon", STAMPS[0]]))


def test_answers_do_not_overlap(dated):
    """What fit refuses, partial_fit refuses as well."""
    table = TABLE.assign(time=DAYS, time_end=[0.7, 0.5, 2.0, 0.0])
    with pytest.raises(InvalidDataError, match=r"time_end is 0\.7 at row 0, after"):
        tracer().fit(table)
    parts = tracer().fit(table.assign(kc="sum")[:1])
    with pytest.raises(InvalidDataError, match="before the last row"):
        parts.partial_fit(table.assign(kc="sum")[1:2])


def test_single_values_stand_for_all_rows(dated):
    new = {"learner": "eve", "kc": ["sum", "product"], "time": list(STAMPS[:2])}
    both = {**new, "learner": ["eve", "eve"], "correct": [1, 0]}
    p = dated.predict_next({**new, "correct": [1, 0]})
    np.testing.assert_array_equal(p, dated.predict_next(both))
    fresh = tracer().fit(TABLE).partial_fit({**new, "correct": [1, 0]})
    assert fresh.learners_ == ["ann", "bob", "eve"]
    assert p.shape == MeanTracer().fit(TABLE).predict_next({**new, "correct": 1}).shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learner": ["ann", None, "ann", "bob"]}, "learner is missing, first at row 1"),
        ({"kc": ["sum", None, "sum", "sum"]}, "kc is missing, first at row 1"),
        ({"version": ["a"] * 4}, "version must hold whole numbers"),
    ],
)
def test_missing_labels(change, words):
    with pytest.raises(InvalidDataError, match=words):
        tracer().fit(TABLE.assign(**change))


@pytest.mark.parametrize("kind", ["boolean", "Int64", "Float64"])
def test_columns_with_missing_values(kind, dated):
    nullable = TABLE["correct"].astype("Float64").astype(kind)
    found = tracer().fit(TABLE.assign(correct=nullable))
    assert found.log_evidence_ == dated.log_evidence_


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE.assign(kc=["['sum', 'product']"] * 4), "looks like a list"),
        (TABLE.assign(correct=np.nan), "missing in all rows"),
        (pd.concat([TABLE] * 10, ignore_index=True), "more than once"),
        (TABLE.assign(time=[1.7e9 + 60 * t for t in DAYS]), "times reach .* years from zero"),
    ],
)
def test_what_is_warned_of(table, words):
    with pytest.warns(BayeskitWarning, match=words):
        tracer().fit(table.sort_values(["learner", "time"]))


# ---------------------------------------------------------------- graphs with labels


def test_labelled_graphs_are_aligned():
    names = ["sum", "product", "power"]
    weights = pd.DataFrame(0.0, names, names)
    weights.loc["sum", "product"] = weights.loc["product", "power"] = 1.0
    table = TABLE.assign(kc=["sum", "product", "power", "sum"])
    found = tracer(graph=weights).fit(table)
    assert found.graph_.loc["sum", "product"] == 1.0
    assert found.graph_.loc["product", "power"] == 1.0 and found.graph_.to_numpy().sum() == 2.0
    shuffled = weights.loc[names[::-1], ["product", "sum", "power"]]
    again = tracer(graph=shuffled).fit(table).graph_.loc[names, names]
    pd.testing.assert_frame_equal(again, found.graph_.loc[names, names])
    with pytest.raises(InvalidDataError, match="both must be the labels"):
        tracer(graph=weights.rename(columns={"sum": "sums"})).fit(table)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ([("sum", "product")], "make a networkx.DiGraph"),
        ({"sum": ["product"]}, "make a networkx.DiGraph"),
        (nx.DiGraph([("a", "b"), ("b", "a")]), "not acyclic: (a -> b|b -> a)"),
        (nx.DiGraph([("sum", "power")]), "'product'.*nodes of graph.*add_node"),
    ],
)
def test_graphs_as_people_give_them(graph, words):
    with pytest.raises(InvalidDataError, match=words):
        tracer(graph=graph).fit(TABLE)


def test_a_node_without_rows_is_told_of():
    graph = nx.DiGraph([("sum", "product"), ("Sum", "product")])
    with pytest.warns(BayeskitWarning, match="'Sum' of graph .1 in all. has no rows"):
        tracer(graph=graph).fit(TABLE)


def test_attributes_explain_themselves(dated):
    with pytest.raises(AttributeError, match="edges_ exists after fit with graph='learn'"):
        dated.edges_  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dated.forecast({"learner": "ann", "kc": "sum", "time": [STAMPS[2]]})
    assert list(found.columns[:3]) == ["learner", "kc", "time"]
