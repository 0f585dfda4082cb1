"""Real practice of statistics: the scores of one fold over learners."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

import bayeskit as bk

benchmark = pytest.importorskip("benchmarks.statpractice")


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize(
    ("versions", "auc", "loss"), [(False, 0.805, 0.5325), (True, 0.869, 0.449)]
)
def test_first_fold(reference_data, monkeypatch, versions, auc, loss):
    """The fit of 256 learners scored on 64 others; the rest is in the benchmark."""
    monkeypatch.setenv("BAYESKIT_REFERENCE_DATA", str(reference_data))
    table = benchmark.load()
    table = table if versions else table.drop(columns=["item", "version"])
    test = (np.random.default_rng(0).permutation(320) % 5 == 0)[table["learner"]]
    table = benchmark.shown(table, ~test)
    tracer = bk.KnowledgeTracer(time_unit="minute", random_state=0).fit(table[~test])
    scored = table[test & table["correct"].notna()]
    p = tracer.predict_next(table[test])[table[test]["correct"].notna()]
    assert roc_auc_score(scored["correct"], p) > auc
    assert log_loss(scored["correct"], p) < loss
