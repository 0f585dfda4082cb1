"""Answers of learners from the files of others: columns learner, kc, item, time, correct."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError

__all__ = [
    "presentation_pauses",
    "presentation_times",
    "read_assistments",
    "read_datashop",
    "read_interactions",
    "read_junyi",
    "read_junyi_graph",
    "read_pykt",
]

_SECONDS = 86_400.0
# Names by which columns go elsewhere, the first that a file has counts.
_NAMES = {
    "learner": ("learner", "user_id", "student", "uid"),
    "kc": ("kc", "skill_id", "skill", "concept"),
    "time": ("time", "timestamp", "time_s"),
    "correct": ("correct", "outcome", "response"),
}
_OPTIONAL = {
    "item": ("item", "problem_id", "question"),
    "version": ("version",),
    "time_end": ("time_end",),
}


def _read(path: Any, **options: Any) -> Any:
    import pandas as pd

    file = Path(path)
    separator = "\t" if file.suffix in (".tsv", ".txt") else None
    if separator is None:
        with file.open(encoding=options.get("encoding", "utf-8")) as lines:
            separator = "\t" if "\t" in lines.readline() else ","
    return pd.read_csv(file, sep=separator, low_memory=False, **options)


def _named(table: Any, name: str, candidates: tuple[str, ...], path: Any) -> str:
    for candidate in candidates:
        if candidate in table.columns:
            return candidate
    raise InvalidDataError(
        f"{path} has no column for {name!r}: expected one of {list(candidates)}, found "
        f"{sorted(map(str, table.columns))[:20]}"
    )


def _days(stamps: Any) -> Any:
    """Return days since 1970 of calendar times, UTC unless they say; NaN where missing."""
    import pandas as pd

    since = pd.to_datetime(stamps, utc=True) - pd.Timestamp(0, tz="UTC")
    return since / pd.Timedelta(days=1)


def _finished(table: Any) -> Any:
    """Drop rows without component, sort each learner by time, and number rows anew."""
    table = table[table["kc"].notna() & table["time"].notna()]
    return table.sort_values(["learner", "time"], kind="stable", ignore_index=True)


def read_interactions(path: Any, *, max_rows: int | None = None) -> Any:
    r"""Read a table with a row for each answer, separated by commas or tabs.

    Columns are found by their usual names, such as ``user_id``, ``skill_id``, ``problem_id``,
    ``correct`` and ``timestamp`` of published preprocessed files.

    Parameters
    ----------
    path : str or Path
    max_rows : int, optional
        Only the first so many rows of each learner.

    Returns
    -------
    DataFrame
        Times in the unit of the file. Answers that are no numbers, such as ``S`` for a trial
        that was studied, are missing.

    Raises
    ------
    InvalidDataError
        If a column is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from bayeskit import datasets
    >>> path = pathlib.Path(tempfile.mkdtemp(), "answers.csv")
    >>> _ = path.write_text("user_id,skill_id,timestamp,correct\n7,2,60,1\n7,3,20,S\n")
    >>> datasets.read_interactions(path)
       learner  kc  time  correct
    0        7   3    20      NaN
    1        7   2    60      1.0
    """
    import pandas as pd

    raw = _read(path)
    found = {name: raw[_named(raw, name, names, path)] for name, names in _NAMES.items()}
    for name, names in _OPTIONAL.items():
        own = [candidate for candidate in names if candidate in raw.columns]
        if own:
            found[name] = raw[own[0]]
    table = pd.DataFrame(found)
    table["correct"] = pd.to_numeric(table["correct"], errors="coerce")
    table = _finished(table)
    return table if max_rows is None else table.groupby("learner").head(max_rows)


def read_assistments(path: Any, *, year: int) -> Any:
    r"""Read the data of ASSISTments of 2012 or 2017.

    Parameters
    ----------
    path : str or Path
    year : {2012, 2017}

    Returns
    -------
    DataFrame
        Times in days since 1970. Partial credit of 2012 counts as wrong. Rows without skill or
        time are left out.

    Raises
    ------
    ValueError
        For another year.
    InvalidDataError
        If a column is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from bayeskit import datasets
    >>> path = pathlib.Path(tempfile.mkdtemp(), "2017.csv")
    >>> header = "studentId,skill,problemId,startTime,correct\n"
    >>> _ = path.write_text(header + "8,ratio,1118,172800,1\n8,area,1201,129600,0\n")
    >>> datasets.read_assistments(path, year=2017)
       learner     kc  item  time  correct
    0        8   area  1201   1.5        0
    1        8  ratio  1118   2.0        1
    """
    import pandas as pd

    if year not in (2012, 2017):
        raise ValueError(f"year must be 2012 or 2017, got {year!r}")
    raw = _read(path, encoding="latin-1")
    if year == 2012:
        names = {"learner": "user_id", "kc": "skill_id", "item": "problem_id"}
        time = _days(raw[_named(raw, "time", ("start_time",), path)])
    else:
        names = {"learner": "studentId", "kc": "skill", "item": "problemId"}
        time = raw[_named(raw, "time", ("startTime",), path)] / _SECONDS
    answer = raw[_named(raw, "correct", ("correct",), path)]
    found = {name: raw[_named(raw, name, (column,), path)] for name, column in names.items()}
    correct = (answer.astype(float) == 1.0).astype(int)
    return _finished(pd.DataFrame({**found, "time": time, "correct": correct}))


def read_junyi(path: Any) -> Any:
    r"""Read the problem log of Junyi Academy: exercises are the components.

    Parameters
    ----------
    path : str or Path
        Of 2015 (``user_id``, ``exercise``, ``time_done``) or of 2019 (``uuid``, ``ucid``,
        ``timestamp_TW``).

    Returns
    -------
    DataFrame
        Times in days since 1970; ``item`` is the type of problem of an exercise.

    Raises
    ------
    InvalidDataError
        If a column is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from bayeskit import datasets
    >>> path = pathlib.Path(tempfile.mkdtemp(), "log.csv")
    >>> header = "user_id,exercise,problem_type,time_done,correct\n"
    >>> _ = path.write_text(header + "3,sums,7,172800000000,true\n")
    >>> datasets.read_junyi(path)
       learner    kc  time  correct    item
    0        3  sums   2.0        1  sums:7
    """
    import pandas as pd

    raw = _read(path)
    stamp = raw[_named(raw, "time", ("time_done", "timestamp_TW"), path)]
    if stamp.dtype.kind in "iuf":
        # Microseconds.
        time = stamp / 1e6 / _SECONDS
    else:
        time = _days(stamp)
    answer = raw[_named(raw, "correct", ("correct", "is_correct"), path)]
    right = answer.astype(str).str.lower().isin(["true", "1", "1.0"])
    table = pd.DataFrame(
        {
            "learner": raw[_named(raw, "learner", ("user_id", "uuid"), path)],
            "kc": raw[_named(raw, "kc", ("exercise", "ucid"), path)],
            "time": time,
            "correct": right.astype(int),
        }
    )
    if "problem_type" in raw.columns:
        table["item"] = table["kc"].astype(str) + ":" + raw["problem_type"].astype(str)
    return _finished(table)


def read_junyi_graph(path: Any) -> Any:
    r"""Read the map of exercises of Junyi Academy with their prerequisites.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    networkx.DiGraph
        Edges from prerequisites. The published map is not acyclic, and nothing is repaired:
        ``KnowledgeTracer`` lists its cycles.

    Raises
    ------
    InvalidDataError
        If a column is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from bayeskit import datasets
    >>> path = pathlib.Path(tempfile.mkdtemp(), "map.csv")
    >>> _ = path.write_text('name,prerequisites\nsums,\nproducts,sums\nareas,"sums,products"\n')
    >>> sorted(datasets.read_junyi_graph(path).edges)
    [('products', 'areas'), ('sums', 'areas'), ('sums', 'products')]
    """
    import networkx as nx

    raw = _read(path)
    name = _named(raw, "exercise", ("name",), path)
    before = _named(raw, "prerequisites", ("prerequisites",), path)
    graph = nx.DiGraph()
    graph.add_nodes_from(raw[name].tolist())
    for exercise, several in zip(raw[name], raw[before], strict=True):
        if isinstance(several, str):
            parts = [part.strip() for part in several.split(",") if part.strip()]
            graph.add_edges_from((part, exercise) for part in parts)
    return graph


def read_pykt(path: Any) -> Any:
    r"""Read sequence files of pyKT: a row a learner, lists joined by commas, -1 for padding.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    DataFrame
        Times in days, from milliseconds; counted where a file has none. Components joined by
        underscores become lists.

    Raises
    ------
    InvalidDataError
        If a column is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from bayeskit import datasets
    >>> path = pathlib.Path(tempfile.mkdtemp(), "train.csv")
    >>> header = "uid,concepts,responses,timestamps\n"
    >>> _ = path.write_text(header + '5,"3,4_6,-1","1,0,-1","0,43200000,-1"\n')
    >>> datasets.read_pykt(path)
       learner      kc  time  correct
    0        5       3   0.0        1
    1        5  [4, 6]   0.5        0
    """
    import pandas as pd

    raw = _read(path)
    columns = {
        name: _named(raw, name, (column,), path)
        for name, column in (("learner", "uid"), ("kc", "concepts"), ("correct", "responses"))
    }
    rows: list[tuple] = []
    # A learner's sequence may go on in the next row.
    counts: dict[Any, int] = {}
    for _, line in raw.iterrows():
        learner = line[columns["learner"]]
        kcs = str(line[columns["kc"]]).split(",")
        answers = str(line[columns["correct"]]).split(",")
        stamps = str(line["timestamps"]).split(",") if "timestamps" in raw else None
        items = str(line["questions"]).split(",") if "questions" in raw else None
        for step, (kc, answer) in enumerate(zip(kcs, answers, strict=True)):
            if kc == "-1" or answer == "-1":
                continue
            counts[learner] = counts.get(learner, 0) + 1
            time = float(stamps[step]) / 86_400_000 if stamps else float(counts[learner])
            several = [int(part) for part in kc.split("_")]
            own = several[0] if len(several) == 1 else several
            item = int(items[step]) if items else None
            rows.append((learner, own, time, int(answer), item))
    table = pd.DataFrame(rows, columns=["learner", "kc", "time", "correct", "item"])
    table = table if "questions" in raw else table.drop(columns="item")
    return _finished(table)


def read_datashop(path: Any, *, kc_model: str | None = None) -> Any:
    r"""Read a transaction export of DataShop: first attempts, hints counting as wrong.

    Parameters
    ----------
    path : str or Path
    kc_model : str, optional
        Which column ``KC (...)`` to take. Default: the first.

    Returns
    -------
    DataFrame
        Times in days since 1970. Several components, joined by ``~~``, become lists. Rows
        whose outcome is neither correct, incorrect nor a hint are exposures without answer.

    Raises
    ------
    InvalidDataError
        If a column is missing.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from bayeskit import datasets
    >>> path = pathlib.Path(tempfile.mkdtemp(), "export.txt")
    >>> header = "Anon Student Id\tTime\tOutcome\tKC (Default)\n"
    >>> rows = "s\t1970-01-03 12:00\tCORRECT\tadd~~carry\ns\t1970-01-04 00:00\tHINT\tadd\n"
    >>> _ = path.write_text(header + rows)
    >>> datasets.read_datashop(path)
      learner            kc  time  correct
    0       s  [add, carry]   2.5      1.0
    1       s           add   3.0      0.0
    """
    import pandas as pd

    raw = _read(path)
    models = [c for c in raw.columns if c == "KC" or c.startswith("KC (")]
    wanted = models if kc_model is None else [f"KC ({kc_model})", kc_model]
    kc_column = _named(raw, "kc", tuple(wanted) or ("KC (Default)",), path)
    learner = _named(raw, "learner", ("Anon Student Id",), path)
    stamp = raw[_named(raw, "time", ("Time",), path)]
    outcome = raw[_named(raw, "correct", ("Outcome",), path)].astype(str).str.upper()
    known = {"CORRECT": 1.0, "INCORRECT": 0.0, "HINT": 0.0, "1": 1.0, "0": 0.0}
    table = pd.DataFrame(
        {
            "learner": raw[learner],
            "kc": raw[kc_column],
            "time": _days(stamp),
            "correct": outcome.map(known),
        }
    )
    if "Attempt At Step" in raw.columns:
        table = table[raw["Attempt At Step"].astype(float).fillna(1.0) == 1.0]
    several = table["kc"].astype(str).str.contains("~~", regex=False)
    table["kc"] = table["kc"].astype(object)
    table.loc[several, "kc"] = table.loc[several, "kc"].str.split("~~")
    return _finished(table)


def presentation_pauses(table: Any, *, longest: float) -> dict[str, float]:
    """Return the median pause until the next answer ends, by the outcome of the row before.

    Parameters
    ----------
    table : DataFrame
        Columns learner, time and correct, sorted by learner and time.
    longest : float
        Gaps above it are left out.

    Returns
    -------
    dict
        Of ``"wrong"``, ``"correct"`` and ``"study"``, those that the table has.

    Notes
    -----
    To score forecasts of other learners take those of the learners that were fitted.

    Examples
    --------
    >>> import pandas as pd
    >>> from bayeskit import datasets
    >>> rows = pd.DataFrame({"learner": [0] * 4, "time": [0.0, 5.0, 12.0, 900.0]})
    >>> rows["correct"] = [1, 0, 1, 1]
    >>> datasets.presentation_pauses(rows, longest=120.0)
    {'wrong': 7.0, 'correct': 5.0}
    """
    gap, kind, short = _gaps(table, longest)
    after = {name: gap[short & (kind == name)] for name in ("wrong", "correct", "study")}
    return {name: float(np.median(gaps)) for name, gaps in after.items() if len(gaps)}


def _gaps(table: Any, longest: float) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the gap before each row, what was before it, and whether the gap is short."""
    by_learner = table.groupby("learner", sort=False)
    before, outcome = by_learner["time"].shift(), by_learner["correct"].shift()
    gap = table["time"] - before
    kind = np.where(outcome.isna(), "study", np.where(outcome == 1, "correct", "wrong"))
    return gap, kind, (gap < longest).to_numpy()


def presentation_times(
    table: Any, *, longest: float, pauses: dict[str, float] | None = None
) -> Any:
    """Return a table whose times are those at which answers ended, with times of their items.

    Where a file stamps answers when they end, the gap before an answer contains how long it
    took, which tells something of it. An item is then taken to have been shown a typical pause
    after the row before, by the outcome of that row, even where its own answer came sooner:
    that it did is not known when it is shown.

    Parameters
    ----------
    table : DataFrame
        Columns learner, time and correct, sorted by learner and time.
    longest : float
        Gaps above it say nothing of the pause: the item was shown at the time of the file.
    pauses : dict, optional
        Pause after ``"wrong"``, ``"correct"`` and ``"study"``, in the unit of times. Default:
        the median gap after each, of gaps below ``longest``.

    Returns
    -------
    DataFrame
        With ``time`` at which items were shown, which never decreases within a learner, and
        ``time_end``, the time of the file, or ``time`` where that is later.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"learner": [0] * 3, "time": [0.0, 5.0, 900.0]})
    >>> rows["correct"] = [1, 0, 1]
    >>> presentation_times(rows, longest=120.0, pauses={"correct": 3.0})["time"].tolist()
    [0.0, 3.0, 900.0]
    """
    gap, kind, short = _gaps(table, longest)
    given = {**presentation_pauses(table, longest=longest), **(pauses or {})}
    pause = np.array([given.get(name, 0.0) for name in kind])
    shown = np.where(short, table["time"] - gap + pause, table["time"])
    # Rows stay in order, by what was known before each.
    shown = table.assign(time=shown).groupby("learner", sort=False)["time"].cummax()
    return table.assign(time=shown, time_end=np.maximum(table["time"], shown))
