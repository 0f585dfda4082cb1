"""Tracers in files: what is loaded says the same, and goes on where it stood."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit.models.knowledge_tracing import LearnerGibbs, LearnerSMC2
from tests.models.knowledge_tracing.learners import PARAMETERS, SETTINGS

LABELLED = nx.DiGraph()
LABELLED.add_nodes_from([0, 1, 2])
LABELLED.add_edge(2, 0, weight=0.5)
KINDS = {
    "adf": {"parameters": PARAMETERS},
    "digraph": {"graph": LABELLED, "n_kc": None, "kc_scales": 1, "traits": "static"},
    "gibbs": {"parameters": PARAMETERS, "inference": LearnerGibbs(50, 20, drift_sd=0.1)},
    "smc2": {"parameters": PARAMETERS, "inference": LearnerSMC2(12, 3)},
}


# Beliefs of Gibbs draws are kept as those of SMC² are, and take as long to compile.
@pytest.mark.parametrize(
    "kind", ["adf", "digraph", "smc2", pytest.param("gibbs", marks=pytest.mark.slow)]
)
def test_what_is_loaded_is_the_same(kind, simulated, tmp_path):
    few = simulated[simulated["learner"] < 3].groupby("learner").head(7)
    settings = {"n_kc": 3, **SETTINGS, **KINDS[kind]}
    tracer = bk.KnowledgeTracer(**settings).fit(few)
    tracer.save(tmp_path / "tracer.bkit")
    loaded = bk.load(tmp_path / "tracer.bkit")
    query = pd.DataFrame({"learner": [0, 1, 9], "kc": [0, 1, 2], "time": 1e5})
    more = {"learner": [1, 8], "kc": [2, 0], "time": [1e5] * 2, "correct": [1, 0]}
    for step in range(2):
        pd.testing.assert_frame_equal(loaded.forecast(query), tracer.forecast(query))
        pd.testing.assert_frame_equal(loaded.traits_, tracer.traits_)
        assert loaded.log_evidence_ == tracer.log_evidence_
        if kind == "adf":
            pd.testing.assert_frame_equal(loaded.smooth(1), tracer.smooth(1))
        if step == 0:
            tracer.partial_fit(more)
            loaded.partial_fit(more)
    for name, value in tracer.parameters_.items():
        np.testing.assert_array_equal(loaded.parameters_[name], value)
    assert loaded.kcs_ == tracer.kcs_ and loaded.learners_ == tracer.learners_
    if "graph" in settings:
        pd.testing.assert_frame_equal(loaded.graph_, tracer.graph_)
    plain = {"num_steps", "time_unit", "kc_scales", "inference", "n_kc"}
    assert all(getattr(loaded, n) == getattr(tracer, n) for n in plain)


def test_labels_and_dates_come_back(tmp_path):
    table = pd.DataFrame({"learner": ["ann", "7", "7"], "kc": ["sum", "", "sum"]})
    table["time"] = pd.to_datetime(["2024-01-01", "2024-01-01", "2024-01-03"])
    table["correct"] = [1, 0, 1]
    tracer = bk.KnowledgeTracer(num_steps=0, random_state=0).fit(table)
    tracer.save(tmp_path / "tracer.bkit")
    loaded = bk.load(tmp_path / "tracer.bkit")
    assert loaded.learners_ == tracer.learners_ and loaded.kcs_ == tracer.kcs_
    pd.testing.assert_frame_equal(loaded.filter("7"), tracer.filter("7"))


def test_what_cannot_be_saved(tmp_path):
    table = {"learner": [(1, 2)], "kc": ["a"], "time": [0.0], "correct": [1]}
    learner = np.empty(1, object)
    learner[0] = (1, 2)
    tracer = bk.KnowledgeTracer(num_steps=0).fit({**table, "learner": learner})
    with pytest.raises(TypeError, match=r"the learner \(1, 2\) is a tuple"):
        tracer.save(tmp_path / "tracer.bkit")
